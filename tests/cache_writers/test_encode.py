"""Tiles as the compiled encoder writes them, taken apart by zlib and numpy."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from slidesampler import _native

if _native.encode is None:
    pytest.skip(f"not compiled: {_native.missing_because}", allow_module_level=True)

NONE, DEFLATE, ZSTD, JPEG = range(4)


def write(path, pixels, tile, codec, level=6, predict=False, skip=False, offset=0, threads=1):
    """The bytes written, the sizes of the tiles, and the offset that is returned."""
    sizes = np.full(-(-pixels.shape[0] // tile[0]) * -(-pixels.shape[1] // tile[1]), 99, np.uint64)
    with open(path, "w+b") as file:
        end = _native.encode.write_tiles(
            pixels, *tile, codec, level, predict, skip, file.fileno(), offset, sizes, threads
        )
        file.seek(offset)
        return file.read(), sizes.tolist(), end


def cut(data, sizes):
    """The tiles without leader and trailer, which must be right."""
    tiles, at = [], 0
    for size in sizes:
        if size:
            assert int.from_bytes(data[at : at + 4], "little") == size
            tile = data[at + 4 : at + 4 + size]
            assert data[at + 4 + size : at + 8 + size] == tile[-4:]
            tiles.append(tile)
            at += size + 8
    assert at == len(data)
    return tiles


def whole_tiles(pixels, tile):
    """Tiles as arrays; the last row and column are repeated over the edge."""
    h, w, _ = pixels.shape
    th, tw = tile
    padded = np.pad(pixels, ((0, -h % th), (0, -w % tw), (0, 0)), mode="edge")
    return [
        padded[y : y + th, x : x + tw]
        for y in range(0, padded.shape[0], th)
        for x in range(0, padded.shape[1], tw)
    ]


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("codec", [NONE, DEFLATE])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32])
def test_tiles_hold_the_pixels(tools, tmp_path, dtype, channels, codec, predict):
    pixels = tools.random_pixels(np.random.default_rng(1), (50, 71, channels), dtype)
    data, sizes, end = write(tmp_path / "a", pixels, (16, 32), codec, predict=predict, offset=11, threads=2)
    assert end == 11 + len(data)
    tiles = cut(data, sizes)
    expected = whole_tiles(pixels, (16, 32))
    assert len(tiles) == len(expected) == 12
    for found, want in zip(tiles, expected, strict=True):
        plain = found if codec == NONE else zlib.decompress(found)
        bits = np.frombuffer(plain, f"u{want.dtype.itemsize}").reshape(want.shape)
        if predict:
            bits = np.cumsum(bits, axis=1, dtype=bits.dtype)
        np.testing.assert_array_equal(bits, want.view(bits.dtype))


def test_any_number_of_threads_writes_the_same_bytes(tools, tmp_path):
    pixels = tools.random_pixels(np.random.default_rng(2), (400, 300, 3), np.uint8) // 4
    for codec, level in ((NONE, 0), (DEFLATE, 6), (ZSTD, 1), (ZSTD, 9), (JPEG, 80)):
        found = [write(tmp_path / "a", pixels, (32, 32), codec, level, threads=k) for k in (1, 2, 7, 1000)]
        assert all(other == found[0] for other in found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [25, 60, 100])
def test_a_jpeg_tile_and_the_shared_tables_are_a_jpeg(tmp_path, channels, quality):
    y, x = np.mgrid[:80, :96]
    pixels = np.stack([y * 2, x * 2, y + x], -1).astype(np.uint8)[:, :, :channels].copy()
    data, sizes, _ = write(tmp_path / "a", pixels, (80, 96), JPEG, quality)
    (tile,) = cut(data, sizes)
    tables = _native.encode.jpeg_tables(channels, quality)
    # Tables, then the image without its first marker. Without a marker of a program three components are YCbCr.
    image = Image.open(io.BytesIO(tables[:-2] + tile[2:]))
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    found = np.asarray(image).reshape(80, 96, channels).astype(int)
    # What libjpeg makes of the same pixels by itself.
    own = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(own, "jpeg", quality=quality, subsampling=2)
    want = np.asarray(Image.open(own)).reshape(80, 96, channels).astype(int)
    assert np.abs(found - want).max() <= 2


@pytest.mark.parametrize(
    ("channels", "width", "pixels_apart"),
    [(3, 16, 16), (3, 48, 48), (3, 64, 64), (3, 80, 80), (3, 96, 96), (3, 112, 112), (3, 192, 64), (3, 240, 80),
     (3, 256, 64), (3, 512, 64), (1, 8, 8), (1, 72, 72), (1, 128, 64), (1, 256, 64)],
)  # fmt: skip
def test_restart_markers_cut_rows_into_equal_parts(tmp_path, channels, width, pixels_apart):
    """At least 64 pixels, where a row has as many; so many markers that each part has one but the last."""
    pixels = np.random.default_rng(3).integers(0, 256, (32, width, channels), np.uint8)
    data, sizes, _ = write(tmp_path / "a", pixels, (32, width), JPEG, 50)
    (tile,) = cut(data, sizes)
    block = 16 if channels == 3 else 8
    at = tile.index(b"\xff\xdd\x00\x04")
    assert int.from_bytes(tile[at + 4 : at + 6], "big") == pixels_apart // block
    bits = tile[tile.index(b"\xff\xda") + 2 :]
    codes = [bits[i + 1] for i in range(len(bits) - 1) if bits[i] == 0xFF and 0xD0 <= bits[i + 1] <= 0xD7]
    assert codes == [0xD0 + k % 8 for k in range(32 // block * (width // pixels_apart) - 1)]


def zstd_blocks(frame):
    """How many blocks a frame has, by its block headers (RFC 8878, 3.1.1)."""
    assert frame[:4] == b"\x28\xb5\x2f\xfd"
    flags = frame[4]
    single, length = flags >> 5 & 1, (0, 2, 4, 8)[flags >> 6]
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3] + (length or single)
    for count in range(1, 100):
        head = int.from_bytes(frame[at : at + 3], "little")
        at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
        if head & 1:
            assert at + (4 if flags >> 2 & 1 else 0) == len(frame)
            return count
    raise AssertionError("no last block")


@pytest.mark.parametrize("side", [16, 144, 160, 256, 288])
def test_zstd_tiles_are_of_blocks_of_64_kib(tmp_path, side):
    """So that a reader can leave a tile where a block ends."""
    pixels = np.random.default_rng(4).integers(0, 256, (side, side, 3), np.uint8)
    data, sizes, _ = write(tmp_path / "a", pixels, (side, side), ZSTD, 1)
    (tile,) = cut(data, sizes)
    assert zstd_blocks(tile) == -(-pixels.size // 65536)


def test_tiles_of_nothing_but_zero_are_left_out_on_request(tmp_path):
    pixels = np.zeros((64, 64, 1), np.uint16)
    pixels[63, 31] = 256
    pixels[0, 32] = 1
    data, sizes, _ = write(tmp_path / "a", pixels, (32, 32), DEFLATE, skip=True)
    assert [size > 0 for size in sizes] == [False, True, True, False]
    assert len(cut(data, sizes)) == 2
    _, sizes, _ = write(tmp_path / "a", pixels, (32, 32), DEFLATE)
    assert min(sizes) > 0


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    file = os.open(tmp_path / "a", os.O_RDONLY)
    sizes = np.zeros(4, np.uint64)
    for threads in (1, 4):
        with pytest.raises(OSError, match="Bad file descriptor"):
            _native.encode.write_tiles(
                np.zeros((64, 64, 1), np.uint8), 32, 32, NONE, 0, False, False, file, 0, sizes, threads
            )
    os.close(file)


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": np.zeros((64, 64), np.uint8)},
        {"pixels": np.zeros((64, 64, 1), np.float64)},
        {"pixels": np.zeros((0, 64, 1), np.uint8)},
        {"pixels": np.zeros((64, 64, 0), np.uint8)},
        {"tile_height": 0},
        {"tile_width": -1},
        {"codec": 4},
        {"codec": -1},
        {"codec": JPEG, "pixels": np.zeros((64, 64, 2), np.uint8)},
        {"codec": JPEG, "pixels": np.zeros((64, 64, 1), np.uint16)},
        {"sizes": np.zeros(3, np.uint64)},
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, change):
    arguments = {
        "pixels": np.zeros((64, 64, 1), np.uint8),
        "tile_height": 32,
        "tile_width": 32,
        "codec": NONE,
        "level": 0,
        "predict": False,
        "skip": False,
        "file": 0,
        "offset": 0,
        "sizes": np.zeros(4, np.uint64),
        "threads": 1,
    }
    with open(tmp_path / "a", "wb") as file, pytest.raises(ValueError, match="must"):
        _native.encode.write_tiles(*{**arguments, "file": file.fileno(), **change}.values())
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize(
    "arrays",
    [
        ((4, 4, 1), None, (2, 3, 1), None),
        ((4, 4, 1), None, (2, 2, 2), None),
        ((4, 4), None, (2, 2), None),
        ((4, 4, 1), (4, 4), (2, 2, 1), None),
        ((4, 4, 1), (4, 3), (2, 2, 1), (2, 2)),
        ((4, 4, 1), (4, 4), (2, 2, 1), (2, 1)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays):
    dtypes = (np.uint8, bool, np.uint8, bool)
    made = [
        None if shape is None else np.zeros(shape, dtype) for shape, dtype in zip(arrays, dtypes, strict=True)
    ]
    with pytest.raises(ValueError, match="fit"):
        _native.encode.halve(*made, 1)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint32, ">u2"])
def test_other_dtypes_are_not_halved(dtype):
    with pytest.raises(ValueError, match="dtype"):
        _native.encode.halve(np.zeros((4, 4, 1), dtype), None, np.zeros((2, 2, 1), dtype), None, 1)
