"""Blocks of tiled files against what their own readers read."""

import numpy as np
import pytest
import tifffile
from osgeo import gdal

from slidesampler import _native
from slidesampler.cache.block_source import BlockSource
from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers.gdal import GdalReader

compiled = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")
SIZE = (300, 417)


class Counting:
    """A reader that says how often it was asked."""

    def __init__(self, inner):
        self._inner, self.asked = inner, []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def tile_facts(self):
        return self._inner.tile_facts()

    def read(self, window, level=0, *, channels=None, out=None):
        self.asked.append(window)
        return self._inner.read(window, level, channels=channels, out=out)


def tiff(path, pixels, tile=(64, 48), **options):
    tifffile.imwrite(path, pixels, tile=tile, **options)
    return str(path)


def expected(path, window):
    reader = GdalReader(path)
    valid = reader.read_valid(window) if reader.has_valid else None
    return reader.read(window), None if valid is None or valid.all() else valid


def make(kind, folder):
    rng = np.random.default_rng(3)
    path = folder / "a.tif"
    colours = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    if kind == "colours":
        return tiff(path, colours, photometric="rgb", compression="deflate", predictor=True)
    if kind == "big-endian floats":
        return tiff(path, rng.normal(size=SIZE).astype("f4"), byteorder=">")
    if kind == "alpha":
        alpha = (rng.random((*SIZE, 1)) < 0.5) * np.uint8(255)
        return tiff(path, np.dstack([colours, alpha]), photometric="rgb", extrasamples=["unassalpha"])
    if kind == "mask":
        with tifffile.TiffWriter(path) as file:
            file.write(colours, tile=(64, 48), photometric="rgb")
            mask = np.packbits(rng.random(SIZE) < 0.5, axis=1)
            file.write(
                np.unpackbits(mask, axis=1)[:, : SIZE[1]].astype(bool),
                tile=(64, 48),
                photometric="mask",
                subfiletype=4,
            )
        return str(path)
    assert kind == "nodata"
    return tiff(path, rng.integers(0, 3, SIZE, np.uint16), extratags=[(42113, 2, 0, "1", False)])


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["colours", "big-endian floats", "alpha", "mask"])
def test_tiles_are_read_without_the_reader(tmp_path, kind, threads):
    path = make(kind, tmp_path)
    reader = Counting(GdalReader(path))
    with BlockSource(reader, threads) as source:
        assert source.block_shape == (64, 48)
        for window in (Window(0, 0, *SIZE), Window(64, 0, 128, SIZE[1]), Window(299, 400, 1, 17)):
            pixels, valid = source.read(window, 100)
            want, want_valid = expected(path, window)
            np.testing.assert_array_equal(pixels, want)
            assert pixels.dtype.isnative
            assert (valid is None) == (want_valid is None)
            if valid is not None:
                np.testing.assert_array_equal(valid, want_valid)
    assert reader.asked == []
    # It is still the caller's.
    assert reader.read(Window(0, 0, 1, 1)).shape[:2] == (1, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_follows_from_the_values_is_asked_of_the_reader(tmp_path, threads):
    path = make("nodata", tmp_path)
    reader = Counting(GdalReader(path))
    windows = [Window(y, 0, min(64, 300 - y), 417) for y in range(0, 300, 64)]
    with BlockSource(reader, threads) as source:
        found = list(source.blocks(windows, 100))
    assert [window for window, _, _ in found] == windows
    for window, pixels, valid in found:
        want = expected(path, window)
        np.testing.assert_array_equal(pixels, want[0])
        np.testing.assert_array_equal(valid, want[1])
    assert [window.x for window in reader.asked[:5]] == [0, 100, 200, 300, 400]


def test_a_file_in_strips_is_read_by_its_reader_downwards(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, rowsperstrip=16, photometric="rgb")
    reader = Counting(GdalReader(str(tmp_path / "a.tif")))
    with BlockSource(reader, 2) as source:
        assert source.block_shape is None
        found = [block for _, block, _ in source.blocks([Window(y, 0, 100, 417) for y in (0, 100, 200)], 500)]
    np.testing.assert_array_equal(np.concatenate(found), pixels)
    assert [window.y for window in reader.asked] == [0, 100, 200]


def test_one_block_is_read_ahead_and_no_more(tools):
    reader = tools.reader(np.zeros((40, 10, 1), np.uint8))
    windows = [Window(y, 0, 10, 10) for y in range(0, 40, 10)]
    with BlockSource(reader, 2) as source:
        for number, _ in enumerate(source.blocks(windows, 10)):
            assert len(reader.windows) <= number + 2
    assert reader.windows == windows
    reader.windows.clear()
    with BlockSource(reader, 1) as source:
        for number, _ in enumerate(source.blocks(windows, 10)):
            assert len(reader.windows) == number + 1


@compiled
def test_a_tile_that_cannot_be_read_is_the_reader_s_to_judge(tmp_path):
    path = make("colours", tmp_path)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[7]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 40)
    reader = Counting(GdalReader(path))
    with BlockSource(reader) as source:
        np.testing.assert_array_equal(
            source.read(Window(128, 0, 100, 417), 417)[0], expected(path, Window(128, 0, 100, 417))[0]
        )
        assert reader.asked == []
        with pytest.raises(ReadError, match=r"a\.tif.*damaged or incomplete"):
            source.read(Window(0, 0, 64, 417), 417)
    assert len(reader.asked) == 1


def test_a_raster_that_is_no_file_is_read_all_the_same(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", [pixels, 255 - pixels], tile=(16, 16), photometric="minisblack")
    reader = GdalReader(f"GTIFF_DIR:2:{tmp_path}/a.tif")
    with BlockSource(reader, 2) as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 50, 60), 60)[0][:, :, 0], 255 - pixels)


def test_a_palette_is_not_read_as_it_is_stored(tmp_path):
    index = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    table = np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)
    path = tiff(tmp_path / "a.tif", index, photometric="palette", colormap=table)
    with BlockSource(GdalReader(path), 1) as source:
        found, _ = source.read(Window(0, 0, *SIZE), 500)
    assert found.shape == (*SIZE, 3)
    np.testing.assert_array_equal(found, expected(path, Window(0, 0, *SIZE))[0])
    assert gdal.Open(path).GetRasterBand(1).GetColorTable() is not None
