#!/usr/bin/env python
"""Time until each source of windows is ready, and of one target, over a cache of many slides.

    python scripts/bench_sources.py [--images 10000] [--annotations 1000000] [--size 2048] [--real]

The manifest is real, and so is the catalog of foreground indices: written by the writer of the build, opened as
a training run opens it, one record an image looked at. What stands in for the rest, so that minutes are enough:
all images name one file of pixels, there are 50 different layouts of annotations, and the label layers are
records without rasters. With ``--real`` the label layers are built too, and nothing stands in for them but that
images share a file of pixels; that takes a while.

For each source a new sampler is made, so that *ready* holds everything: the index opened, the tables made, the
first target given. The manifest is loaded before.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slidesampler import Sampler, sampling
from slidesampler.cache import BuildSpec, CacheStore, build
from slidesampler.cache.catalog import Witnesses, publish_catalog
from slidesampler.cache.collect import workdir_catalog
from slidesampler.cache.publish import entry_lock
from slidesampler.foreground import ImageIndex, IndexColumns, TissueMask, index_image
from slidesampler.foreground.tissue import mask_downsample
from slidesampler.manifest import Manifest
from slidesampler.models import LabelSpec

LAYOUTS = 50
CLASSES = ("tumour", "stroma", "necrosis")
WINDOW = 256
TARGETS = 500


def layout_boxes(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Boxes ``x, y, width, height`` of 20 to 60 pixels on the left two thirds, which are tissue."""
    extent = rng.integers(20, 61, (count, 2))
    place = (rng.random((count, 2)) * (np.array([size * 2 // 3, size]) - extent)).astype(int)
    return np.concatenate([place, extent], axis=1)


def make_manifest(folder: Path, images: int, annotations: int, size: int) -> tuple[Manifest, list[np.ndarray]]:
    """Return the manifest, and the boxes and classes of each layout."""
    rng = np.random.default_rng(0)
    np.save(folder / "pixels.npy", np.zeros((size, size), np.uint8))
    each = max(1, annotations // images)
    layouts = [np.c_[layout_boxes(rng, size, each), rng.integers(1, 4, each)] for _ in range(LAYOUTS)]
    lists = [layout.tolist() for layout in layouts]
    document = {
        "images": [
            {"id": i + 1, "file_name": "pixels.npy", "height": size, "width": size, "patient": f"p{i // 3}"}
            for i in range(images)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
        "annotations": [
            {"id": 1 + i * each + k, "image_id": i + 1, "category_id": category, "bbox": box}
            for i in range(images)
            for k, (*box, category) in enumerate(lists[i % LAYOUTS])
        ],
    }
    return Manifest.load(document, bundle_dir=folder), layouts


def layout_index(layout: np.ndarray, size: int) -> ImageIndex:
    """Return the index of a layout, painted box by box."""
    labels = np.zeros((size, size), np.uint8)
    for x, y, width, height, category in layout.tolist():
        labels[y : y + height, x : x + width] = category
    step = mask_downsample(size, size)
    tissue = np.zeros((-(-size // step), -(-size // step)), np.bool_)
    tissue[:, : tissue.shape[1] * 2 // 3] = True
    return index_image(
        lambda window: labels[window.as_slices()], labels.shape, len(CLASSES) + 1, 255, TissueMask(tissue, step)
    )


def make_cache(manifest: Manifest, store: CacheStore, layouts: list[np.ndarray], size: int) -> None:
    """Build the one image, write a record in place of every label layer, and the catalog as a build does."""
    first = int(manifest.image_ids[0])
    report = build(manifest, BuildSpec("npy", labels=False), store, only_images=[first])
    assert report.ok, report.failed
    folders = [store.label_folder(manifest, record, LabelSpec()) for record in manifest.records()]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "entry.json").write_text(json.dumps({"stands in for": folder.name}))
    indices = [layout_index(layout, size) for layout in layouts]
    columns = IndexColumns.join(
        manifest.image_ids.tolist(), [indices[i % LAYOUTS] for i in range(len(manifest))]
    )
    folder = workdir_catalog(manifest, store, LabelSpec())
    with entry_lock(folder):
        publish_catalog(folder, columns, Witnesses.of_entries(store.workdir, folders))


def contenders(maps: dict[int, np.ndarray]) -> dict[str, Callable[[Sampler], Any]]:
    """Return how to make each source."""
    n = 100_000

    def rejection(sampler: Sampler) -> Any:
        inner = sampling.PositiveSource(sampler, WINDOW, n, jitter_px=128)
        return sampling.RejectionSource(inner, sampler, size_threshold=1000, p=0.95)

    return {
        "positive, by annotation": lambda s: sampling.PositiveSource(s, WINDOW, n),
        "positive, by pixel": lambda s: sampling.PositiveSource(s, WINDOW, n, choose="pixel"),
        "negative": lambda s: sampling.NegativeSource(s, WINDOW, n),
        "negative, half tissue": lambda s: sampling.NegativeSource(s, WINDOW, n, min_tissue=0.5),
        "balanced": lambda s: sampling.BalancedSource(s, WINDOW, n, batch_size=32),
        "rejection of positives": rejection,
        "weighted by maps": lambda s: sampling.WeightedSource(s, WINDOW, maps, n),
        "grid": lambda s: sampling.GridSource(s, WINDOW),
        "grid, half tissue": lambda s: sampling.GridSource(s, WINDOW, min_tissue=0.5),
        "coverage": lambda s: sampling.CoverageSource(s, WINDOW),
    }


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long something took, and what it gave."""
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found


def measure(
    make: Callable[[Sampler], Any], new_sampler: Callable[[], Sampler], repeats: int
) -> tuple[str, ...]:
    """Return a row of the table: ready (s), a target (us), tries a target, a try (us), pickle (kB)."""

    def ready() -> Any:
        source = make(new_sampler())
        source.target(0, 0)
        return source

    took, source = seconds(ready)
    count = min(TARGETS, len(source))
    rounds = []
    for epoch in range(1, repeats + 1):
        spent, _ = seconds(lambda epoch=epoch: [source.target(epoch, index) for index in range(count)])
        rounds.append(spent / count * 1e6)
    target_us = statistics.median(rounds)
    tries = 1.0
    if isinstance(source, sampling.ExplainedSource):
        tries = statistics.mean(source.explain(1, index)[1].tries for index in range(count))
    size = len(pickle.dumps(source)) / 1000
    return f"{took:.2f}", f"{target_us:.1f}", f"{tries:.1f}", f"{target_us / tries:.1f}", f"{size:.1f}"


def main() -> None:
    """Make the cache, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=2048, help="pixels a side of every slide")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="part of the name of the sources to measure")
    parser.add_argument("--real", action="store_true", help="build every label layer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "user")
        took, (manifest, layouts) = seconds(
            lambda: make_manifest(folder, options.images, options.annotations, options.size)
        )
        print(f"{len(manifest)} images, {len(manifest.shapes)} annotations; manifest loaded in {took:.1f} s")
        store = CacheStore(folder / "cache")
        if options.real:
            took, report = seconds(lambda: build(manifest, BuildSpec("npy"), store, jobs=os.cpu_count() or 1))
            assert report.ok, report.failed[:3]
        else:
            took, _ = seconds(lambda: make_cache(manifest, store, layouts, options.size))
        size = sum(path.stat().st_size for path in (store.workdir / "index").rglob("*.npy"))
        print(f"cache {'built' if options.real else 'written'} in {took:.1f} s; catalog {size / 1e6:.1f} MB")

        def new_sampler() -> Sampler:
            return Sampler(manifest, store.workdir, "npy")

        for what in ("cold", "again"):
            took, _ = seconds(lambda: new_sampler().foreground)
            print(f"sampler.foreground opened in {took:.3f} s ({what})")
        maps = {int(i): np.random.default_rng(int(i)).random((16, 16)) for i in manifest.image_ids}
        heads = ("ready, s", "target, us", "tries", "a try, us", "pickle, kB")
        print(f"\n{'source':26}" + "".join(f"{head:>12}" for head in heads))
        for title, make in contenders(maps).items():
            if options.only not in title:
                continue
            row = measure(make, new_sampler, options.repeats)
            print(f"{title:26}" + "".join(f"{cell:>12}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
