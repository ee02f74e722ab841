"""A small bundle of slides, and what may lie in a cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidesampler.cache import BuildSpec, CacheStore, build
from slidesampler.cache import store as store_module
from slidesampler.cache.catalog import CATALOG_FILE
from slidesampler.cache.entry_json import load_entry, own_files
from slidesampler.cache.store import MARKER_FILE
from slidesampler.manifest import Manifest


class Bundle:
    """A folder of slides with a manifest, and a workdir."""

    def __init__(
        self, folder: Path, workdir: Path, sizes: list[tuple[int, int]], seed: int = 0, suffix: str = ".tif"
    ) -> None:
        self.folder = folder
        self.suffix = suffix
        self.workdir = workdir
        self.manifest_path = None
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        self.pixels = {}
        self.document = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}],
        }
        for image_id, size in enumerate(sizes, 1):
            pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            self.pixels[image_id] = pixels
            self.write(image_id, pixels)
            self.document["images"].append({"id": image_id, "file_name": self.path(image_id).name})

    def path(self, image_id: int) -> Path:
        return self.folder / f"s{image_id}{self.suffix}"

    def write(self, image_id: int, pixels: np.ndarray) -> None:
        if self.suffix == ".npy":
            np.save(self.path(image_id), pixels)
        else:
            # Striped, so that it is not a COG.
            tifffile.imwrite(self.path(image_id), pixels, photometric="rgb", metadata=None)

    def annotate(self, image_id: int, box: list[float], category_id: int = 1) -> None:
        annotation_id = len(self.document["annotations"]) + 1
        self.document["annotations"].append(
            {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": box}
        )

    @property
    def has_labels(self) -> bool:
        rasters = [image for image in self.document["images"] if "assets" in image]
        return bool(self.document["annotations"] or rasters)

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(self.document, bundle_dir=self.folder)

    @property
    def store(self) -> CacheStore:
        return CacheStore(self.workdir, manifest_path=self.manifest_path)

    def build(self, backend="npy", *, jobs=1, force=False, only_images=None, progress=None, **options):
        """Build images, and labels where the bundle has some: most tests are about images alone."""
        options.setdefault("labels", self.has_labels)
        return build(
            self.manifest,
            BuildSpec(backend=backend, **options),
            self.store,
            jobs=jobs,
            force=force,
            only_images=only_images,
            progress=progress,
        )

    def find(self, image_id: int = 1, backend: str = "npy", **options):
        return self.store.find_image(self.manifest.record(image_id), backend, **options)


@pytest.fixture
def make_bundle(tmp_path):
    def make(count: int = 1, size=(60, 90), name: str = "bundle", seed: int = 0, sizes=None) -> Bundle:
        sizes = sizes or [(size[0] + number, size[1]) for number in range(count)]
        return Bundle(tmp_path / name, tmp_path / "work", sizes, seed)

    return make


@pytest.fixture
def bundle(make_bundle) -> Bundle:
    """One slide of 60 x 90 pixels."""
    return make_bundle()


@pytest.fixture
def new_process():
    """Make this process forget which sources it has compared, as another process would not know it."""
    return store_module._COMPARED.clear


def unexpected_files(workdir: Path) -> list[str]:
    """Everything under a workdir that no record names: what must not be there after a build."""
    expected = {workdir / MARKER_FILE, workdir / ".lock", workdir / "images", workdir / "labels"}
    for path in workdir.glob(f"index/*/{CATALOG_FILE}"):
        files = path.parent / json.loads(path.read_bytes())["generation"]
        expected |= {path, path.parent, path.parent.parent, path.parent / ".lock", files, *files.iterdir()}
    for path in workdir.rglob("entry.json"):
        expected |= {path, path.parent, path.parent.parent, path.parent / ".lock"}
        entry = load_entry(path.parent)
        files = {Path(name) for name in own_files(entry).values()}
        expected |= files | {file.parent for file in files}
    return sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*") if path not in expected)


@pytest.fixture
def debris():
    return unexpected_files


def rewrite_keeping_times(path: Path, change) -> None:
    """Edit a file's bytes so that its size and modification time stay what they were."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    assert len(data) == stat.st_size
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns


@pytest.fixture
def edit_in_secret():
    return rewrite_keeping_times
