"""What a window costs does not depend on what it does not show: more pixels, other slides, other annotations.

Nothing is timed. The work is counted: tiles decoded and bytes read by the compiled reader, files opened, and
every call of a function that Python makes on the way. The memory of a small window is looked at as well: a
numpy function that looks at all annotations is a single call, and leaves an array as long as they are many.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import sys
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from osgeo import gdal, gdal_array

from slidesampler import Sampler, Window, _native
from slidesampler.cache import fingerprint, store
from slidesampler.testing import make_array

pytestmark = pytest.mark.skipif(_native.tiles is None, reason="counts what the compiled reader does")

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "_repeating_cog.py"
TILE = 256
#: What all slides have in common: annotations ``(y, x)`` within the first pixels, windows that show them.
COMMON = 1024
SEEN = [(120, 230), (300, 550), (400, 600), (700, 700)]
BOX = 40
#: A whole tile, parts of four, the same four again, and two thirds of the common part on half of its size.
TARGETS = [
    {"window": Window(256, 512, 256, 256)},
    {"window": Window(100, 200, 256, 256)},
    {"window": Window(90, 210, 256, 256)},
    {"window": Window(128, 128, 512, 512), "size": (256, 256)},
]


class Cost(NamedTuple):
    tiles: int
    bytes: int
    opened: int
    calls: int


class Counter:
    """Counts what is done, through files that are opened from now on."""

    def __init__(self, monkeypatch):
        self.files = []
        real = _native.tiles.File

        def open_file(*arguments):
            self.files.append(real(*arguments))
            return self.files[-1]

        monkeypatch.setattr(_native.tiles, "File", open_file)

    def cost(self, work) -> Cost:
        """Return the cost of the second time: tables are loaded once a slide, not once a window."""
        work()
        before = self._read()
        calls = 0

        def count(_frame, event, _argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        gc.disable()
        sys.setprofile(count)
        try:
            work()
        finally:
            sys.setprofile(None)
            gc.enable()
        tiles, read, opened = np.subtract(self._read(), before).tolist()
        return Cost(tiles, read, opened, calls)

    def _read(self):
        return [
            sum(file.tiles_read for file in self.files),
            sum(file.bytes_read for file in self.files),
            len(self.files),
        ]


@pytest.fixture
def counter(monkeypatch):
    return Counter(monkeypatch)


@pytest.fixture(scope="module")
def write_slide(tmp_path_factory):
    """Writes JPEG COGs all of whose tiles are the same one."""
    spec = importlib.util.spec_from_file_location("repeating_cog", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("tile") / "tile.tif"
    options = ["TILED=YES", "COMPRESS=JPEG", "PHOTOMETRIC=YCBCR", f"BLOCKXSIZE={TILE}", f"BLOCKYSIZE={TILE}"]
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), TILE, TILE, 3, gdal.GDT_Byte, options=options)
    gdal_array.DatasetWriteArray(dataset, make_array(TILE, TILE), interleave="pixel")
    dataset = None
    tiles = module.read_tile_set(path)
    return lambda path, side: module.write_repeating_cog(path, tiles, side)


def open_sampler(folder, slides, unseen=(), built=(1,)):
    """A sampler over slides (file, side); the first one has annotations besides those that are seen."""
    images, annotations = [], []
    for number, (path, side) in enumerate(slides, start=1):
        images.append({"id": number, "file_name": str(path), "width": side, "height": side})
        for y, x in [*SEEN, *(unseen if number == 1 else ())]:
            box = {"bbox": [x, y, BOX, BOX], "category_id": 1 + len(annotations) % 2}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **box})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    manifest = {"categories": categories, "images": images, "annotations": annotations}
    sampler = Sampler(manifest, workdir=folder, backend="cog")
    report = sampler.build(codec="jpeg", only_images=built)
    assert not report.failed
    return sampler


def peak_bytes(work) -> int:
    """Return the most memory that Python and numpy held at a time for doing something a second time."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def costs(counter, sampler, image_ids=(1,)):
    """Return what samples and batches of some slides cost, with masks and annotations; and their masks."""
    targets = [{"image_id": number, **target} for number in image_ids for target in TARGETS]
    masks = sampler.load_batch(targets).mask
    return [
        counter.cost(lambda: [sampler.load_sample(target) for target in targets]),
        counter.cost(lambda: sampler.load_batch(targets, threads=1, with_annots=True)),
    ], masks


def test_the_count_counts(tmp_path, counter, write_slide):
    """By hand: a tile for the first window and four for the second; masks are stored where something is."""
    slide = write_slide(tmp_path / "slide.tif", 1024)
    sampler = open_sampler(tmp_path / "cache", [(slide, 1024)])
    first, second = ({"image_id": 1, **target} for target in TARGETS[:2])
    one = counter.cost(lambda: sampler.load_batch([first], with_mask=False))
    four = counter.cost(lambda: sampler.load_batch([second], with_mask=False))
    assert (one.tiles, four.tiles, one.opened) == (1, 4, 0)
    assert four.bytes == 4 * one.bytes > 0
    both = counter.cost(lambda: sampler.load_batch([first, second]))
    assert both.tiles == 1 + 4 + 1 + 2
    assert both.calls > one.calls > 0


def test_size_of_the_slide(tmp_path, counter, write_slide):
    found = []
    for side in (COMMON, 4 * COMMON, 16 * COMMON):
        slide = write_slide(tmp_path / f"{side}.tif", side)
        found.append(costs(counter, open_sampler(tmp_path / f"cache-{side}", [(slide, side)])))
    _same(found)


def test_number_of_slides(tmp_path, counter, write_slide):
    """Of a slide there is no more to do where there are more of them; of several, as much as there are."""
    slides = [(write_slide(tmp_path / f"{number}.tif", COMMON), COMMON) for number in range(100)]
    few = (1, 2, 3, 4)
    found = []
    for count in (4, 100):
        sampler = open_sampler(tmp_path / f"cache-{count}", slides[:count], built=few)
        found.append(costs(counter, sampler, few))
    _same(found)
    (one, _), *_ = costs(counter, sampler, few[:1])
    assert found[0][0][0][:3] == (len(few) * one.tiles, len(few) * one.bytes, 0)


def test_number_of_annotations(tmp_path, counter, write_slide):
    slide = write_slide(tmp_path / "slide.tif", 4 * COMMON)
    places = np.random.default_rng(0).integers(0, 4 * COMMON - BOX, (110_000, 2))
    unseen = places[(places > COMMON).any(axis=1)].tolist()
    found, peaks = [], []
    small = {"image_id": 1, "window": Window(310, 560, 16, 16)}
    for count in (6, 100_000):
        sampler = open_sampler(tmp_path / f"cache-{count}", [(slide, 4 * COMMON)], unseen[:count])
        found.append(costs(counter, sampler))
        peaks.append(
            [
                peak_bytes(lambda sampler=sampler: sampler.load_sample(small)),
                peak_bytes(lambda sampler=sampler: sampler.load_batch([small], with_annots=True)),
            ]
        )
    _same(found)
    few, many = np.array(peaks)
    assert len(sampler.load_sample(small).annots) == 1
    # A bit an annotation would be 12,500 bytes.
    assert (many - few < 8000).all()


def test_first_visit_of_a_slide(tmp_path, monkeypatch, write_slide):
    """To find its entries, neither the slide, which nobody has written to, nor its annotations are read."""
    monkeypatch.setattr(fingerprint, "RECENT_NS", -(10**12))
    hashed = []

    class CountingHash:
        def __init__(self, data=b"", **options):
            self.real = blake2b(data, **options)
            hashed.append(len(data))

        def update(self, data):
            self.real.update(data)
            hashed.append(len(data))

        def hexdigest(self):
            return self.real.hexdigest()

    blake2b = hashlib.blake2b
    found = []
    for side, count in ((COMMON, 6), (16 * COMMON, 20_000)):
        slide = write_slide(tmp_path / f"{side}.tif", side)
        unseen = [(COMMON - BOX, COMMON - BOX)] * count
        sampler = open_sampler(tmp_path / f"cache-{side}", [(slide, side)], unseen)
        # As in another process.
        store._COMPARED.clear()
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "blake2b", CountingHash)
            sampler.load_sample({"image_id": 1, **TARGETS[0]})
        found.append(sum(hashed))
        hashed.clear()
    # Names of folders, and up to 4 KiB of a file of the cache.
    assert min(found) > 0
    assert max(found) < 8000


def _same(found):
    """All cost the same, and show the same: a mask without anything on it would be cheap."""
    (wanted, masks), *others = found
    assert len(np.unique(masks)) == 3
    for others_cost, others_masks in others:
        np.testing.assert_array_equal(others_masks, masks)
        for one, other in zip(wanted, others_cost, strict=True):
            assert other[:3] == one[:3]
            # Annotations are found through a tree, which has some levels more where they are many.
            assert other.calls < 1.05 * one.calls
