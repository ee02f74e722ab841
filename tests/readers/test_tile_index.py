"""Tiles read without GDAL are, byte for byte, what GDAL reads; damaged ones are errors."""

from __future__ import annotations

import os
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from osgeo import gdal
from raster_files import noise, write_tiff

from slidesampler import _native
from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader
from slidesampler.readers.tile_index import TileIndex
from slidesampler.readers.tile_read import read_tiles

pytestmark = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")

HEIGHT, WIDTH = 300, 430


def smooth(height, width, channels=3):
    """What JPEG is made for; noise in it would hide errors of a row or a column."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / (7 + c)) * np.cos(x / (5 + 2 * c)) * 110 + 128 for c in range(channels)]
    image = np.stack(waves, -1) + noise(height, width, channels, seed=3) / 12.0
    return np.clip(image, 0, 255).astype(np.uint8)


def by_gdal(path):
    """Return the whole file as GDAL decodes it, ``(H, W, C)``."""
    pixels = gdal.OpenEx(str(path)).ReadAsArray()
    return np.atleast_3d(pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1))


def read(index, size, windows, channels=(0,), threads=1, mask=False):
    level = index.level(*size, mask=mask)
    out = np.full((len(windows), *windows[0].shape, len(channels)), 77, level.dtype)
    which = np.zeros(len(windows), np.int64)
    assert read_tiles([level], which, windows, tuple(channels), out, threads) is None
    return out


def padded(image, window, fill=77):
    """Return a window cut from a numpy array, with ``fill`` outside."""
    out = np.full((*window.shape, image.shape[2]), fill, image.dtype)
    inside = window.intersect(Window(0, 0, *image.shape[:2]))
    if inside is not None:
        out[inside.shift(-window.y, -window.x).as_slices()] = image[inside.as_slices()]
    return out


KINDS = {
    "none": (("COMPRESS=NONE",), "uint8"),
    "deflate": (("COMPRESS=DEFLATE",), "uint8"),
    "deflate predictor 16": (("COMPRESS=DEFLATE", "PREDICTOR=2"), "uint16"),
    "deflate predictor 32": (("COMPRESS=DEFLATE", "PREDICTOR=2"), "int32"),
    "deflate float predictor": (("COMPRESS=DEFLATE", "PREDICTOR=3"), "float32"),
    "zstd float predictor 64": (("COMPRESS=ZSTD", "PREDICTOR=3"), "float64"),
    "zstd": (("COMPRESS=ZSTD",), "uint8"),
    "zstd predictor": (("COMPRESS=ZSTD", "PREDICTOR=2"), "uint8"),
    "lzw": (("COMPRESS=LZW",), "uint8"),
    "lzw predictor 16": (("COMPRESS=LZW", "PREDICTOR=2"), "int16"),
    "big-endian 16": (("COMPRESS=DEFLATE", "PREDICTOR=2", "ENDIANNESS=BIG"), "uint16"),
    "big-endian none 32": (("COMPRESS=NONE", "ENDIANNESS=BIG"), "float32"),
    "bigtiff": (("COMPRESS=ZSTD", "BIGTIFF=YES"), "uint8"),
}


@pytest.fixture(scope="module", params=KINDS)
def lossless(request, tmp_path_factory):
    options, dtype = KINDS[request.param]
    path = tmp_path_factory.mktemp("tiles") / "a.tif"
    image = noise(HEIGHT, WIDTH, 3, dtype)
    # Long runs and repeated rows, which is where LZW and predictors have their corners.
    image[40:90] = image[40]
    image[100:180, 20:300] = 0
    write_tiff(path, image, options=("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=48", *options))
    return path, image


@settings(max_examples=25)
@given(data=st.data())
def test_any_batch_of_windows_is_what_numpy_cuts(lossless, data):
    path, image = lossless
    index = TileIndex(str(path))
    height, width = data.draw(st.tuples(st.integers(1, 200), st.integers(1, 200)))
    places = st.tuples(st.integers(-220, HEIGHT + 20), st.integers(-220, WIDTH + 20))
    windows = [Window(y, x, height, width) for y, x in data.draw(st.lists(places, min_size=1, max_size=6))]
    channels = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    found = read(index, image.shape[:2], windows, channels, threads=data.draw(st.integers(1, 3)))
    for got, window in zip(found, windows, strict=True):
        np.testing.assert_array_equal(got, padded(image[..., channels], window))


JPEGS = {
    "420": ("COMPRESS=JPEG", "PHOTOMETRIC=YCBCR", "JPEG_QUALITY=90"),
    "rgb": ("COMPRESS=JPEG", "PHOTOMETRIC=RGB", "JPEG_QUALITY=60"),
    "own tables": ("COMPRESS=JPEG", "PHOTOMETRIC=YCBCR", "JPEGTABLESMODE=0"),
}


def jpeg_by_tifffile(path, image, subsampling):
    tifffile.imwrite(
        path, image, tile=(64, 64), compression="jpeg", photometric="ycbcr", subsampling=subsampling
    )


@pytest.fixture(scope="module", params=JPEGS)
def jpeg(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiles") / "a.tif"
    options = ("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64", "INTERLEAVE=PIXEL", *JPEGS[request.param])
    write_tiff(path, smooth(HEIGHT, WIDTH), options=options)
    return path


@settings(max_examples=60)
@given(data=st.data())
def test_any_part_of_a_jpeg_is_what_gdal_decodes(jpeg, data):
    expected = by_gdal(jpeg)
    y, x = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
    window = Window(
        y, x, data.draw(st.integers(1, min(90, HEIGHT - y))), data.draw(st.integers(1, min(90, WIDTH - x)))
    )
    found = read(TileIndex(str(jpeg)), (HEIGHT, WIDTH), [window], (0, 1, 2))[0]
    np.testing.assert_array_equal(found, expected[window.as_slices()])


def test_every_column_and_row_of_a_jpeg_tile_as_an_edge(jpeg):
    """Chroma is smoothed over the edges of blocks: a cut anywhere must not show."""
    expected = by_gdal(jpeg)
    index = TileIndex(str(jpeg))
    for at in range(1, 64):
        for window in (
            Window(64, 64 + at, 64, 64 - at),
            Window(64 + at, 64, 64 - at, 64),
            Window(70, 64, 9, at),
        ):
            found = read(index, (HEIGHT, WIDTH), [window], (0, 1, 2))[0]
            np.testing.assert_array_equal(found, expected[window.as_slices()])


def test_grey_jpeg(tmp_path):
    path = write_tiff(
        tmp_path / "a.tif",
        smooth(HEIGHT, WIDTH, 1),
        options=("TILED=YES", "COMPRESS=JPEG", "BLOCKXSIZE=64", "BLOCKYSIZE=64"),
    )
    window = Window(50, 60, 100, 100)
    found = read(TileIndex(str(path)), (HEIGHT, WIDTH), [window])[0]
    np.testing.assert_array_equal(found, by_gdal(path)[window.as_slices()])


def test_output_of_any_strides(lossless):
    path, image = lossless
    level = TileIndex(str(path)).level(HEIGHT, WIDTH)
    window = Window(30, 50, 100, 120)
    planes = np.zeros((1, 3, 100, 120), image.dtype)
    rows = np.zeros((1, 100, 120, 3), image.dtype)[:, ::-1]
    for out in (np.moveaxis(planes, 1, -1), rows):
        assert read_tiles([level], np.zeros(1, np.int64), [window], (0, 1, 2), out) is None
        np.testing.assert_array_equal(out[0], image[window.as_slices()])


def test_a_tile_of_several_windows_is_decoded_once(tmp_path, monkeypatch):
    """Counted by the bytes that are read from the file."""
    image = noise(256, 256)
    path = write_tiff(tmp_path / "a.tif", image, options=("TILED=YES", "COMPRESS=NONE"))
    level = TileIndex(str(path)).level(256, 256)
    windows = [Window(y, x, 64, 64) for y in (0, 100, 192) for x in (0, 90, 192)] * 8
    out = np.zeros((len(windows), 64, 64, 3), np.uint8)

    def bytes_read():
        return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])

    before = bytes_read()
    assert read_tiles([level], np.zeros(len(windows), np.int64), windows, (0, 1, 2), out) is None
    assert bytes_read() - before < 2 * image.nbytes
    for got, window in zip(out, windows, strict=True):
        np.testing.assert_array_equal(got, image[window.as_slices()])


def test_several_files_in_one_batch(tmp_path):
    images = [noise(100, 100, seed=k) for k in range(3)]
    levels = [
        TileIndex(str(write_tiff(tmp_path / f"{k}.tif", image))).level(100, 100)
        for k, image in enumerate(images)
    ]
    which = np.array([2, 0, 1, 2, 0])
    windows = [Window(3 * k, 5 * k, 60, 60) for k in range(5)]
    out = np.zeros((5, 60, 60, 3), np.uint8)
    assert read_tiles(levels, which, windows, (0, 1, 2), out, threads=4) is None
    for k in range(5):
        np.testing.assert_array_equal(out[k], images[which[k]][windows[k].as_slices()])


@pytest.mark.parametrize("nodata", [None, 9])
def test_tiles_that_were_never_written(tmp_path, nodata):
    path = tmp_path / "a.tif"
    options = ("TILED=YES", "SPARSE_OK=TRUE", "BLOCKXSIZE=64", "BLOCKYSIZE=64", "COMPRESS=ZSTD")
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), 200, 200, 1, gdal.GDT_Byte, list(options))
    if nodata is not None:
        dataset.GetRasterBand(1).SetNoDataValue(nodata)
    dataset.GetRasterBand(1).WriteArray(np.full((10, 10), 200, np.uint8), 70, 70)
    del dataset
    found = read(TileIndex(str(path), float(nodata or 0)), (200, 200), [Window(0, 0, 200, 200)])[0]
    np.testing.assert_array_equal(found, by_gdal(path))
    assert set(np.unique(found)) == {nodata or 0, 200}


@pytest.mark.parametrize("codec", ["DEFLATE", "JPEG"])
def test_masks_of_one_bit(tmp_path, codec):
    mask = noise(HEIGHT, WIDTH, 1)[..., 0] > 100
    path = write_tiff(
        tmp_path / "a.tif",
        smooth(HEIGHT, WIDTH),
        mask=mask,
        factors=(2,),
        options=("TILED=YES", f"COMPRESS={codec}", "BLOCKXSIZE=64", "BLOCKYSIZE=64"),
    )
    index = TileIndex(str(path))
    window = Window(33, 41, 150, 201)
    np.testing.assert_array_equal(
        read(index, (HEIGHT, WIDTH), [window], mask=True)[0, ..., 0], mask[window.as_slices()]
    )
    assert index.has(HEIGHT // 2, WIDTH // 2)
    assert not index.has(HEIGHT // 4, WIDTH // 4)


@pytest.mark.parametrize(
    "options",
    [
        ("TILED=NO",),
        ("TILED=YES", "INTERLEAVE=BAND"),
        ("TILED=YES", "COMPRESS=PACKBITS"),
        ("TILED=YES", "COMPRESS=WEBP", "WEBP_LOSSLESS=YES"),
        ("TILED=YES", "NBITS=4"),
    ],
)
def test_what_only_gdal_reads_is_left_to_it(tmp_path, options):
    image = noise(100, 100) % 16
    path = write_tiff(tmp_path / "a.tif", image, options=options)
    assert not TileIndex(str(path)).has(100, 100)
    reader = CogReader(str(path))
    np.testing.assert_array_equal(reader.read(Window(10, 20, 50, 60)), image[10:60, 20:80])
    reader.close()


def test_floats_that_gdal_itself_reads_wrong_are_left_to_it(tmp_path):
    """Programs disagree on the byte order under the floating-point predictor in files of the other order."""
    options = ("TILED=YES", "COMPRESS=ZSTD", "PREDICTOR=3", "ENDIANNESS=BIG")
    path = write_tiff(tmp_path / "a.tif", noise(100, 100, 1, "float32"), options=options)
    assert not TileIndex(str(path)).has(100, 100)


def table_at(path, code):
    """Return the place and the format of a tag's values."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[code]
        return tag.valueoffset, tiff.byteorder + {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]


def overwrite(path, code, value, at=1):
    """Overwrite one value of a table of tiles."""
    offset, form = table_at(path, code)
    data = bytearray(path.read_bytes())
    largest = 256 ** struct.calcsize(form) - 1
    struct.pack_into(form, data, offset + at * struct.calcsize(form), min(value, largest))
    path.write_bytes(data)


def damaged(tmp_path, options=("COMPRESS=DEFLATE",)):
    return write_tiff(
        tmp_path / "a.tif",
        smooth(128, 128),
        options=("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64", *options),
    )


@pytest.mark.parametrize("codec", ["NONE", "DEFLATE", "ZSTD", "LZW", "JPEG"])
@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        (324, 2**31, "past the end"),
        (324, 2**32 - 1, "past the end"),
        (325, 2**32 - 1, "tile"),
        (325, 5, "tile"),
    ],
)
def test_tables_that_lie(tmp_path, codec, code, value, message):
    if codec == "NONE" and code == 325:
        # More bytes than plain pixels have do no harm; far too few are tested with the others.
        value = 5
    path = damaged(tmp_path, (f"COMPRESS={codec}",))
    overwrite(path, code, value)
    reader = CogReader(str(path))
    for _ in range(2):
        with pytest.raises(ReadError, match=message) as caught:
            reader.read(Window(0, 0, 128, 128))
        assert str(path) in str(caught.value)
        assert "tile (0, 1)" in str(caught.value)
    reader.read(Window(64, 0, 64, 128))
    reader.close()


@pytest.mark.parametrize("codec", ["NONE", "DEFLATE", "ZSTD", "LZW", "JPEG"])
def test_garbage_is_an_error_or_pixels_and_never_the_end(tmp_path, codec):
    """Random bytes in the middle of tiles, hundreds of times; memory does not grow."""
    path = damaged(tmp_path, (f"COMPRESS={codec}",))
    intact = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        starts, lengths = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    rng = np.random.default_rng(5)
    errors = 0
    tracemalloc.start()
    for _ in range(300):
        data = bytearray(intact)
        tile = int(rng.integers(4))
        for _ in range(int(rng.integers(1, 6))):
            spot = starts[tile] + int(rng.integers(lengths[tile]))
            data[spot] = int(rng.integers(256))
        path.write_bytes(data)
        index = TileIndex(str(path))
        out = np.zeros((1, 128, 128, 3), np.uint8)
        failed = read_tiles(
            [index.level(128, 128)], np.zeros(1, np.int64), [Window(0, 0, 128, 128)], (0, 1, 2), out
        )
        errors += failed is not None
    assert tracemalloc.get_traced_memory()[0] < 2**22
    tracemalloc.stop()
    # What carries no checksum may decode to something; plain pixels always do.
    assert errors >= {"NONE": 0, "ZSTD": 5}.get(codec, 20)
    assert errors == 0 or codec != "NONE"


def test_a_jpeg_without_its_tables_is_an_error(tmp_path):
    path = damaged(tmp_path, JPEGS["420"])
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[347]
        entry = tag.offset
    data = bytearray(path.read_bytes())
    # A private tag of the same type: nobody knows it.
    struct.pack_into("<H", data, entry, 65000)
    path.write_bytes(data)
    level = TileIndex(str(path)).level(128, 128)
    out = np.zeros((1, 64, 64, 3), np.uint8)
    failed = read_tiles([level], np.zeros(1, np.int64), [Window(0, 0, 64, 64)], (0, 1, 2), out)
    assert failed is not None
    assert "tile (0, 0)" in failed[1]


def test_a_jpeg_of_another_size_than_its_tile_is_an_error(tmp_path):
    path = damaged(tmp_path, JPEGS["own tables"])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[0]
    # SOF0: marker, length, precision, height, width.
    frame = data.index(b"\xff\xc0", start)
    struct.pack_into(">H", data, frame + 5, 4000)
    path.write_bytes(data)
    level = TileIndex(str(path)).level(128, 128)
    out = np.zeros((1, 64, 64, 3), np.uint8)
    failed = read_tiles([level], np.zeros(1, np.int64), [Window(0, 0, 64, 64)], (0, 1, 2), out)
    assert failed is not None
    assert "4000" in failed[1]


def test_tables_of_the_wrong_length_are_an_error(tmp_path):
    path = damaged(tmp_path)
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[0].tags[324].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, entry + 4, 3)
    path.write_bytes(data)
    with pytest.raises(ReadError, match=r"3 offsets"):
        TileIndex(str(path)).level(128, 128)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"tile_width": 1 << 30},
        {"samples": 70000},
        {"itemsize": 3},
        {"codec": 9},
        {"predictor": 4},
        {"empty": b"12"},
        {"offsets": np.zeros(3, np.uint64)},
    ],
)
def test_a_level_that_cannot_be_is_refused(tmp_path, change):
    path = damaged(tmp_path)
    arguments = {
        "file": _native.tiles.File(str(path)),
        "offsets": np.zeros(4, np.uint64),
        "counts": np.zeros(4, np.uint64),
        "tables": b"",
        "height": 128,
        "width": 128,
        "tile_height": 64,
        "tile_width": 64,
        "samples": 3,
        "itemsize": 1,
        "codec": 1,
        "predictor": 1,
        "ycbcr": False,
        "swap": False,
        "packed": False,
        "empty": b"0",
    }
    _native.tiles.Level(**arguments)
    with pytest.raises(ValueError, match="not what a tiled image can have"):
        _native.tiles.Level(**{**arguments, **change})


@pytest.mark.parametrize(
    ("boxes", "channels", "out"),
    [
        ([[1, 0, 0, 0, 8, 8]], [0], (1, 8, 8, 1)),
        ([[-1, 0, 0, 0, 8, 8]], [0], (1, 8, 8, 1)),
        ([[0, 1, 0, 0, 8, 8]], [0], (1, 8, 8, 1)),
        ([[0, -1, 0, 0, 8, 8]], [0], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 8, 9]], [0], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 9, 8]], [0], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 0, 8]], [0], (1, 0, 8, 1)),
        ([[0, 0, 1 << 60, 0, 8, 8]], [0], (1, 8, 8, 1)),
        ([[0, 0, 0, -(1 << 60), 8, 8]], [0], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 8]], [0], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 8, 8]], [3], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 8, 8]], [-1], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 8, 8]], [0, 1], (1, 8, 8, 1)),
        ([[0, 0, 0, 0, 8, 8]], [0], (8, 8, 1)),
    ],
)
def test_a_batch_that_cannot_be_is_refused(tmp_path, boxes, channels, out):
    level = TileIndex(str(damaged(tmp_path))).level(128, 128).level
    good = ([level], np.array([[0, 0, 0, 0, 8, 8]]), np.zeros(1, np.int32), np.zeros((1, 8, 8, 1), np.uint8))
    bad = ([level], np.array(boxes, np.int64), np.array(channels, np.int32), np.zeros(out, np.uint8))
    for jobs in ([bad], [good, bad]):
        with pytest.raises(ValueError, match=r"box|channel|out must"):
            _native.tiles.read(jobs, 1)


def test_many_threads_read_one_file(tmp_path):
    image = smooth(512, 512)
    path = write_tiff(
        tmp_path / "a.tif", image, options=("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64", *JPEGS["420"])
    )
    expected = by_gdal(path)
    level = TileIndex(str(path)).level(512, 512)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            window = Window(*map(int, rng.integers(0, 400, 2)), 100, 100)
            out = np.zeros((1, 100, 100, 3), np.uint8)
            failed = read_tiles([level], np.zeros(1, np.int64), [window], (0, 1, 2), out, threads=2)
            if failed or not np.array_equal(out[0], expected[window.as_slices()]):
                wrong.append(window)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_forked_children_read_through_the_parents_file(tmp_path):
    """Reads name their place in the file, so the position that parent and child share does not matter."""
    image = noise(256, 256)
    index = TileIndex(str(write_tiff(tmp_path / "a.tif", image)))
    level = index.level(256, 256)

    def check(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            window = Window(*map(int, rng.integers(0, 150, 2)), 100, 100)
            out = np.zeros((1, 100, 100, 3), np.uint8)
            if read_tiles([level], np.zeros(1, np.int64), [window], (0, 1, 2), out):
                return 1
            if not np.array_equal(out[0], image[window.as_slices()]):
                return 2
        return 0

    children = []
    for seed in range(4):
        child = os.fork()
        if not child:
            os._exit(check(seed))
        children.append(child)
    assert check(9) == 0
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_one_open_file_a_reader_and_none_after_close(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise(128, 128), mask=noise(128, 128, 1)[..., 0] > 9, factors=(2,))

    def opened():
        return sum(str(link.resolve()) == str(path) for link in Path("/proc/self/fd").iterdir())

    reader = CogReader(str(path))
    reader.read(Window(0, 0, 50, 50), 1)
    reader.read_valid(Window(0, 0, 50, 50), 1)
    assert opened() == 1
    reader.close()
    assert opened() == 0


def test_cog_reader_with_and_without_it(tmp_path, monkeypatch):
    image = smooth(300, 300)
    path = write_tiff(tmp_path / "a.tif", image, alpha=noise(300, 300, 1)[..., 0] % 3, factors=(2,))
    window = Window(20, 30, 100, 110)

    def everything(reader):
        found = [(reader.read(window, level), reader.read_valid(window, level)) for level in (0, 1)]
        reader.close()
        return found

    native = everything(CogReader(str(path)))
    monkeypatch.setattr(_native, "tiles", None)
    for kind in (CogReader, GdalReader):
        for (pixels, valid), (same_pixels, same_valid) in zip(native, everything(kind(str(path))), strict=True):
            np.testing.assert_array_equal(pixels, same_pixels)
            np.testing.assert_array_equal(valid, same_valid)
