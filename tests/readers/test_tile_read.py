"""Batches of several arrays, pixels in memory, tiles that are decoded only as far as they are needed."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_files import noise, write_tiff

from slidesampler import _native
from slidesampler.geometry import Window
from slidesampler.readers.tile_index import TiledLevel, TileIndex
from slidesampler.readers.tile_read import TileJob, read_jobs

pytestmark = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")

NONE, DEFLATE, ZSTD, LZW, JPEG = range(5)


def raw(array):
    return TiledLevel(_native.tiles.Raw(array), array.dtype, array.shape[2], (1, 1))


def one_tile(path, data, height, width, samples, codec, *, itemsize=1, ycbcr=False, tiles=None):
    """Return a file whose tiles, in a column, are the given bytes, and its level."""
    tiles = [data] if tiles is None else tiles
    path.write_bytes(b"".join(tiles))
    lengths = np.array([len(tile) for tile in tiles], np.uint64)
    file = _native.tiles.File(str(path))
    offsets = (np.cumsum(lengths) - lengths).astype(np.uint64)
    shape = (height * len(tiles), width, height, width, samples, itemsize)
    level = _native.tiles.Level(
        file, offsets, lengths, b"", *shape, codec, 1, ycbcr, False, False, bytes(itemsize)
    )
    return file, TiledLevel(level, np.dtype(f"u{itemsize}"), samples, (len(tiles), 1))


def read(level, window, channels=None, fill=0):
    """Return a window, or the words of the error."""
    channels = tuple(range(level.samples)) if channels is None else channels
    out = np.full((1, *window.shape, len(channels)), fill, level.dtype)
    boxes = np.array([[0, 0, window.y, window.x, *window.shape]])
    failed = read_jobs([TileJob([level], boxes, channels, out)])
    return out[0] if failed is None else failed[2]


def paste(out, image, box, channels):
    """What a box does, in numpy."""
    _, slot, y, x, height, width = box
    inside = Window(y, x, height, width).intersect(Window(0, 0, *image.shape[:2]))
    if inside is not None:
        out[slot][inside.shift(-y, -x).as_slices()] = image[inside.as_slices()][..., list(channels)]


def laid_out(draw, shape, dtype):
    """An array whose axes lie in memory in any order, with gaps, forwards or backwards."""
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, -1, -2]), min_size=len(shape), max_size=len(shape)))
    memory = np.full([shape[axis] * abs(steps[axis]) for axis in order], 88, dtype)
    view = np.transpose(memory, np.argsort(order))
    return view[tuple(slice(None, None, step) for step in steps)]


# --- jobs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    options = ("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=48")
    found = []
    for k, (codec, shape, dtype) in enumerate(
        [
            ("ZSTD", (150, 200, 3), "uint8"),
            ("NONE", (90, 100, 3), "uint8"),
            ("DEFLATE", (150, 200, 1), "uint16"),
            ("LZW", (75, 100, 1), "uint16"),
        ]
    ):
        image = noise(*shape, dtype, seed=k)
        path = write_tiff(folder / f"{k}.tif", image, options=(*options, f"COMPRESS={codec}"))
        found.append((TileIndex(str(path)).level(*shape[:2]), image))
    return found


def draw_job(draw, sources):
    """A job and what it has to give."""
    size = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    slots = draw(st.integers(1, 5))
    order = draw(st.permutations(range(slots)))[: draw(st.integers(0, slots))]
    boxes = [
        (
            draw(st.integers(0, len(sources) - 1)),
            slot,
            draw(st.integers(-95, 155)),
            draw(st.integers(-95, 205)),
            *size,
        )
        for slot in order
    ]
    image = sources[0][1]
    channels = tuple(draw(st.lists(st.integers(0, image.shape[2] - 1), min_size=1, max_size=4)))
    out = laid_out(draw, (slots, *size, len(channels)), image.dtype)
    expected = out.copy()
    for box in boxes:
        paste(expected, sources[box[0]][1], box, channels)
    levels = [level for level, _ in sources]
    return TileJob(levels, np.array(boxes, np.int64).reshape(-1, 6), channels, out), expected


@settings(max_examples=120)
@given(data=st.data())
def test_any_jobs_are_what_numpy_cuts(files, data):
    memory = noise(110, 130, 3, seed=9)
    kinds = [[files[0], files[1], (raw(memory), memory)], files[2:], [files[0]]]
    found = [
        draw_job(data.draw, kinds[data.draw(st.integers(0, 2))]) for _ in range(data.draw(st.integers(0, 4)))
    ]
    assert read_jobs([job for job, _ in found], data.draw(st.integers(1, 4))) is None
    for job, expected in found:
        np.testing.assert_array_equal(job.out, expected)


@settings(max_examples=120)
@given(data=st.data())
def test_pixels_in_memory_of_any_strides(data):
    dtype = data.draw(st.sampled_from(["uint8", "int16", "float32", "float64", "bool", "float16"]))
    source = laid_out(data.draw, (40, 50, data.draw(st.integers(1, 5))), dtype)
    source[...] = noise(*source.shape).astype(dtype)
    job, expected = draw_job(data.draw, [(raw(source), source)])
    assert read_jobs([job], 2) is None
    np.testing.assert_array_equal(job.out, expected)


@pytest.mark.parametrize(
    ("samples", "channels"),
    [
        (3, (0, 1, 2)),
        (3, (2, 1, 0)),
        (3, (1,)),
        (4, (0, 1, 2)),
        (4, (1, 2, 3)),
        (4, (0, 3)),
        (4, (0, 1, 2, 3)),
    ],
)
def test_planes_of_every_width(samples, channels):
    """Sixteen pixels are split at a time; what is left over comes one by one."""
    image = noise(3, 70, samples)
    for width in range(1, 70):
        planes = np.full((1, len(channels), 3, width + 2), 5, np.uint8)
        out = np.moveaxis(planes, 1, -1)[:, :, 1:-1]
        assert read_jobs([TileJob([raw(image)], np.array([[0, 0, 0, 1, 3, width]]), channels, out)]) is None
        np.testing.assert_array_equal(out[0], image[:, 1 : width + 1][..., list(channels)])
        assert (planes[..., 0] == 5).all()
        assert (planes[..., -1] == 5).all()


def test_planes_of_pixels_that_overlap():
    """Three bytes from pixel to pixel, and yet four samples: the first to be copied need not be the first."""
    image = np.lib.stride_tricks.as_strided(noise(2, 130, 1), (2, 40, 4), (130, 3, 1))
    planes = np.zeros((1, 3, 2, 40), np.uint8)
    job = TileJob([raw(image)], np.array([[0, 0, 0, 0, 2, 40]]), (1, 2, 3), np.moveaxis(planes, 1, -1))
    assert read_jobs([job]) is None
    np.testing.assert_array_equal(job.out[0], image[..., 1:])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 1), np.uint8),
        np.zeros((4, 4, 1), ">u2"),
        np.zeros((4, 4, 1), np.complex128),
        np.zeros((1, 1, 70000), np.uint8),
    ],
)
def test_pixels_that_cannot_be_read_are_refused(array):
    with pytest.raises(ValueError, match="array must be"):
        _native.tiles.Raw(array)


def test_an_array_lives_as_long_as_its_pixels_are_read():
    image = noise(20, 20)
    level = raw(image.copy())
    np.testing.assert_array_equal(read(level, Window(0, 0, 20, 20)), image)


def test_levels_of_several_kinds_in_one_job_are_refused():
    out = np.zeros((1, 2, 2, 1), np.uint8)
    boxes = np.array([[0, 0, 0, 0, 2, 2]])
    for other in (noise(5, 5, 2), noise(5, 5, 1, "uint16")):
        with pytest.raises(ValueError, match="one dtype and number of samples"):
            read_jobs([TileJob([raw(noise(5, 5, 1)), raw(other)], boxes, (0,), out)])
    with pytest.raises(ValueError, match="must be a level"):
        read_jobs([TileJob([], boxes[:0], (0,), out)])


def test_tables_that_lie_askew_in_memory_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"0")
    askew = np.frombuffer(bytes(9), np.uint8)[1:]
    if askew.ctypes.data % 8 == 0:
        askew = np.frombuffer(bytes(10), np.uint8)[2:]
    with pytest.raises(ValueError, match="place in memory"):
        _native.tiles.Level(
            _native.tiles.File(str(tmp_path / "a")),
            askew,
            bytes(8),
            b"",
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            1,
            False,
            False,
            False,
            b"0",
        )


def test_the_job_and_the_level_that_fail_are_named(files, tmp_path):
    _, bad = one_tile(tmp_path / "a", b"", 16, 16, 3, ZSTD, tiles=[b"no frame"] * 3)
    good = np.zeros((1, 16, 16, 3), np.uint8)
    boxes = np.array([[0, 0, 0, 0, 16, 16]])
    jobs = [
        TileJob([files[0][0]], boxes, (0, 1, 2), good),
        TileJob(
            [files[0][0], bad], np.array([[0, 0, 0, 0, 16, 16], [1, 0, 33, 0, 16, 16]]), (0, 1, 2), good.copy()
        ),
    ]
    for threads in (1, 3):
        failed = read_jobs(jobs, threads)
        assert failed is not None
        assert failed[:2] == (1, 1)
        assert failed[2].startswith("tile (2, 0): ")


# --- counters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_tile_is_decoded_once_whatever_wants_of_it(tmp_path, threads):
    image = noise(128, 128)
    tiles = [image[y : y + 64].tobytes() for y in (0, 64)]
    file, level = one_tile(tmp_path / "a", b"", 64, 128, 3, NONE, tiles=tiles)
    assert (file.tiles_read, file.bytes_read) == (0, 0)
    boxes = np.array([[0, slot, y, 8 * slot, 10, 12] for slot, y in enumerate((4, 20, 58, 70, 58))])
    wide, narrow = np.zeros((5, 10, 12, 3), np.uint8), np.zeros((5, 10, 12, 1), np.uint8)
    jobs = [TileJob([level], boxes, (0, 1, 2), wide), TileJob([level], boxes[::-1].copy(), (1,), narrow)]
    assert read_jobs(jobs, threads) is None
    assert file.tiles_read == 2
    # Of plain pixels only the rows that are needed: 4 to 64 and 64 to 80.
    assert file.bytes_read == 76 * 128 * 3
    for slot, (_, _, y, x, _, _) in enumerate(boxes.tolist()):
        np.testing.assert_array_equal(wide[slot], image[y : y + 10, x : x + 12])
        np.testing.assert_array_equal(narrow[slot], image[y : y + 10, x : x + 12, 1:2])


def test_what_is_not_there_is_not_read(tmp_path):
    file, level = one_tile(tmp_path / "a", b"", 16, 16, 1, DEFLATE, tiles=[b"", b"", b"x"])
    assert (read(level, Window(0, 0, 32, 16)) == 0).all()
    assert (read(level, Window(100, 0, 8, 8), fill=7) == 7).all()
    assert (file.tiles_read, file.bytes_read) == (0, 0)
    assert "DEFLATE" in read(level, Window(30, 0, 8, 8))
    assert (file.tiles_read, file.bytes_read) == (1, 1)


# --- predictors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float64"])
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
def test_differences_add_up_to_every_column(tmp_path, dtype, samples):
    """GDAL writes them; sums are made sixteen bytes at a time, as far as the last column that is needed."""
    image = noise(32, 80, samples, dtype, seed=samples)
    predictor = 3 if dtype == "float64" else 2
    options = ("TILED=YES", "COMPRESS=DEFLATE", f"PREDICTOR={predictor}", "BLOCKXSIZE=80", "BLOCKYSIZE=16")
    level = TileIndex(str(write_tiff(tmp_path / "a.tif", image, options=options))).level(32, 80)
    for edge in range(1, 80):
        for window in (Window(3, 0, 20, edge), Window(5, edge, 2, 80 - edge)):
            np.testing.assert_array_equal(read(level, window), image[window.as_slices()])


# --- ZSTD ---------------------------------------------------------------------------------------------------

MAGIC = bytes([0x28, 0xB5, 0x2F, 0xFD])
SKIPPABLE = struct.pack("<II", 0x184D2A50, 5) + b"hello"
BLOCK = 700  # not a whole number of rows


def zstd_frame(pixels, header, block=BLOCK):
    """Return a frame of blocks that are stored as they are or, where they are of one value, as a run.

    Source: RFC 8878.
    """
    data, blocks = pixels.tobytes(), []
    for at in range(0, len(data), block):
        part = data[at : at + block]
        run = part == part[:1] * len(part)
        last = at + block >= len(data)
        blocks.append((len(part) << 3 | run << 1 | last).to_bytes(3, "little") + (part[:1] if run else part))
    return MAGIC + header + b"".join(blocks)


def zstd_headers(size):
    window = bytes([10 << 3])
    return {
        "streamed": b"\x00" + window,
        # More than ZSTD's streams take.
        "a window of 512 MiB": b"\x00" + bytes([19 << 3]),
        "one segment, 2 bytes": b"\x60" + struct.pack("<H", size - 256),
        "one segment, 4 bytes": b"\xa0" + struct.pack("<I", size),
        "window and 2 bytes": b"\x40" + window + struct.pack("<H", size - 256),
        "window and 8 bytes": b"\xc0" + window + struct.pack("<Q", size),
        "dictionary 0": b"\x02" + window + bytes(2),
    }


def half_flat(height=40, width=50, seed=0):
    image = noise(height, width, 1, seed=seed)
    image[10:30] = 7
    return image


@pytest.mark.parametrize("kind", zstd_headers(999))
def test_zstd_as_far_as_every_row(tmp_path, kind):
    image = half_flat()
    frame = zstd_frame(image, zstd_headers(image.size)[kind])
    _, level = one_tile(tmp_path / "a", frame, 40, 50, 1, ZSTD)
    for edge in range(1, 41):
        np.testing.assert_array_equal(read(level, Window(0, 0, edge, 50)), image[:edge])
        np.testing.assert_array_equal(read(level, Window(edge - 1, 20, 1, 5)), image[edge - 1 : edge, 20:25])


def test_zstd_of_a_few_bytes(tmp_path):
    image = noise(10, 20, 1)
    frame = zstd_frame(image, b"\x20" + bytes([image.size]), 50)
    _, level = one_tile(tmp_path / "a", frame, 10, 20, 1, ZSTD)
    for edge in range(1, 11):
        np.testing.assert_array_equal(read(level, Window(0, 0, edge, 20)), image[:edge])


def test_zstd_of_several_frames(tmp_path):
    image = half_flat()
    header = zstd_headers(image.size)["streamed"]
    two = zstd_frame(image[:22], header) + SKIPPABLE + zstd_frame(image[22:], header)
    for number, data in enumerate((SKIPPABLE + zstd_frame(image, header), two)):
        _, level = one_tile(tmp_path / str(number), data, 40, 50, 1, ZSTD)
        for edge in range(1, 41):
            np.testing.assert_array_equal(read(level, Window(0, 0, edge, 50)), image[:edge])


def test_zstd_cut_short_is_an_error_where_it_is_needed_and_there_alone(tmp_path):
    image = half_flat()
    frame = zstd_frame(image, zstd_headers(image.size)["streamed"])
    for cut in [*range(40), *range(40, len(frame), 17), len(frame) - 1]:
        _, level = one_tile(tmp_path / "a", frame[:cut] or b"\0", 40, 50, 1, ZSTD)
        for edge in (1, 9, 14, 28, 39, 40):
            found = read(level, Window(0, 0, edge, 50))
            # Where each block that is needed ends: by hand, from the sizes of blocks.
            needed, at = 6, 0
            while at < edge * 50:
                part = image.tobytes()[at : at + BLOCK]
                needed += 3 + (1 if part == part[:1] * len(part) else len(part))
                at += BLOCK
            if cut >= needed and (edge < 40 or cut == len(frame)):
                np.testing.assert_array_equal(found, image[:edge])
            else:
                assert isinstance(found, str)
                assert found.startswith("tile (0, 0): ")


def test_zstd_that_holds_less_than_a_tile_is_an_error(tmp_path):
    image = half_flat()
    frame = zstd_frame(image[:30], zstd_headers(image.size)["streamed"])
    _, level = one_tile(tmp_path / "a", frame, 40, 50, 1, ZSTD)
    np.testing.assert_array_equal(read(level, Window(0, 0, 30, 50)), image[:30])
    for edge in (31, 39, 40):
        assert isinstance(read(level, Window(0, 0, edge, 50)), str)


def test_zstd_of_blocks_as_gdal_writes_them(tmp_path):
    """Two blocks of 128 KiB at most: a cut in either, and behind a damaged second one the first is whole."""
    image = np.cumsum(noise(256, 256) % 7, axis=1, dtype=np.uint8)
    path = write_tiff(
        tmp_path / "a.tif",
        image,
        options=("TILED=YES", "COMPRESS=ZSTD", "PREDICTOR=2", "BLOCKXSIZE=256", "BLOCKYSIZE=256"),
    )
    level = TileIndex(str(path)).level(256, 256)
    for edge in range(1, 257, 5):
        np.testing.assert_array_equal(read(level, Window(0, 0, edge, 256)), image[:edge])
    data = bytearray(path.read_bytes())
    frame = data.index(MAGIC)
    first = int.from_bytes(data[frame + 6 : frame + 9], "little") >> 3
    # The second block is now of a type that does not exist.
    data[frame + 9 + first] |= 6
    path.write_bytes(data)
    level = TileIndex(str(path)).level(256, 256)
    np.testing.assert_array_equal(read(level, Window(0, 0, 170, 256)), image[:170])
    assert isinstance(read(level, Window(0, 0, 171, 256)), str)


# --- damage -------------------------------------------------------------------------------------------------


def compressed(codec, tmp_path, image):
    """Return a tile's bytes as GDAL or OpenCV writes them."""
    if codec == JPEG:
        return cv2.imencode(".jpg", image)[1].tobytes()
    name = {DEFLATE: "DEFLATE", ZSTD: "ZSTD", LZW: "LZW"}[codec]
    path = write_tiff(
        tmp_path / f"{name}.tif",
        image,
        options=("TILED=YES", f"COMPRESS={name}", "BLOCKXSIZE=64", "BLOCKYSIZE=64"),
    )
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    return path.read_bytes()[offset : offset + count]


def waves(height=64, width=64):
    y, x = np.mgrid[:height, :width]
    image = np.stack([np.sin(y / (5 + c)) * np.cos(x / (4 + 2 * c)) * 100 + 128 for c in range(3)], -1)
    return (image + noise(height, width) % 9).astype(np.uint8)


@pytest.mark.parametrize("codec", [DEFLATE, ZSTD, LZW, JPEG])
def test_damaged_data_gives_nothing_of_what_was_decoded_before_it(tmp_path, codec):
    """Two files differ in a first tile, which fills the buffers; the second, damaged, must not tell them."""
    image = waves()
    intact = compressed(codec, tmp_path, image)
    before = [compressed(codec, tmp_path, np.full_like(image, value)) for value in (0, 255)]
    rng = np.random.default_rng(codec)
    errors = 0
    for _ in range(150):
        data = bytearray(intact)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        if rng.integers(3) == 0:
            del data[int(rng.integers(1, len(data))) :]
        y = int(rng.integers(64, 128))
        edge = int(rng.integers(y, 128)) + 1
        found = []
        for number, first in enumerate(before):
            path = tmp_path / f"{number}.bin"
            _, level = one_tile(path, b"", 64, 64, 3, codec, ycbcr=codec == JPEG, tiles=[first, bytes(data)])
            whole = np.zeros((1, 64, 64, 3), np.uint8)
            part = np.zeros((1, edge - y, 64, 3), np.uint8)
            jobs = [
                TileJob([level], np.array([[0, 0, 0, 0, 64, 64]]), (0, 1, 2), whole),
                TileJob([level], np.array([[0, 0, y, 0, edge - y, 64]]), (0, 1, 2), part),
            ]
            failed = read_jobs(jobs)
            found.append(part if failed is None else failed)
        errors += isinstance(found[0], tuple)
        if isinstance(found[0], tuple):
            assert found[0] == found[1]
            assert found[0][:2] == (1, 0)
        else:
            np.testing.assert_array_equal(found[0], found[1])
    assert errors > 20


# --- JPEG ---------------------------------------------------------------------------------------------------

SAMPLINGS = {
    name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("411", "420", "422", "440", "444")
}


@pytest.mark.parametrize("more", [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 3), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_jpegs_of_every_sampling_cut_anywhere(tmp_path, sampling, more):
    """OpenCV encodes and decodes the whole; chroma that is smoothed over the edge of a cut would show."""
    image = cv2.cvtColor(waves(48, 96), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], *more])[1]
    expected = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    _, level = one_tile(tmp_path / "a", data.tobytes(), 48, 96, 3, JPEG, ycbcr=True)
    for at in range(96):
        for window in (
            Window(at % 48, at, 48 - at % 48, 96 - at),
            Window(0, 0, at % 48 + 1, at + 1),
            Window(at % 41, at - at % 7, 7, 1 + at % 7),
        ):
            np.testing.assert_array_equal(read(level, window), expected[window.as_slices()])


def test_jpeg_cut_short_is_an_error_or_not_needed(tmp_path):
    """What follows the data is made up of ends of images: no pixel may come of it."""
    data = cv2.imencode(".jpg", waves())[1].tobytes()
    _, level = one_tile(tmp_path / "whole", data, 64, 64, 3, JPEG, ycbcr=True)
    windows = [Window(0, 0, edge, 64) for edge in (5, 30, 64)]
    expected = [read(level, window) for window in windows]
    errors = np.zeros(3, int)
    cuts = [*range(2, len(data) - 2, 11), *range(len(data) - 12, len(data) - 2)]
    for cut in cuts:
        _, level = one_tile(tmp_path / "cut", data[:cut], 64, 64, 3, JPEG, ycbcr=True)
        for k, window in enumerate(windows):
            found = read(level, window)
            errors[k] += isinstance(found, str)
            if not isinstance(found, str):
                np.testing.assert_array_equal(found, expected[k])
    assert errors[2] >= len(cuts) - 1
    assert errors[0] < errors[1] < errors[2]
