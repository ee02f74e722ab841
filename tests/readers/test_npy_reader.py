"""The npy reader: formats, levels, damage, and memory that does not grow with what was read."""

from __future__ import annotations

import mmap
import os
import pickle
import subprocess
import sys

import numpy as np
import psutil
import pytest
from raster_files import noise

from slidesampler.errors import ReadError, SourceMissingError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers import npy
from slidesampler.readers.npy import MappedPages, NpyReader


def save(folder, **arrays):
    """Save arrays under their roles (level1, valid_level1 ...) and return the files."""
    files = {}
    for key, array in arrays.items():
        role = key.replace("_", ".")
        path = folder / f"{role}.npy"
        np.save(path, array)
        files[role] = str(path)
    return files


def read_all(files, level=0, **kwargs):
    reader = NpyReader(files, **kwargs)
    here = reader.levels[level]
    whole = Window(0, 0, here.height, here.width)
    result = reader.read(whole, level), reader.read_valid(whole, level), reader
    reader.close()
    return result


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_and_orders(tmp_path, dtype, order):
    image = noise(37, 41, 3, dtype)
    pixels, valid, reader = read_all(save(tmp_path, image=np.asarray(image, order=order)))
    assert reader.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(pixels, image)
    assert valid.all()


def test_foreign_byte_order_comes_out_native(tmp_path):
    image = noise(20, 30, 2, "uint16")
    pixels, _, reader = read_all(save(tmp_path, image=image.astype(">u2")))
    assert reader.dtype.isnative
    np.testing.assert_array_equal(pixels, image)


def test_bool_is_black_and_white_unless_raw(tmp_path):
    image = noise(20, 30, 1)[..., 0] > 100
    files = save(tmp_path, image=image)
    np.testing.assert_array_equal(read_all(files)[0][..., 0], image * 255)
    np.testing.assert_array_equal(read_all(files, raw=True)[0][..., 0], image)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5),
        np.zeros((2, 3, 4, 5)),
        np.zeros((0, 5, 3)),
        np.zeros((4, 4), complex),
        np.zeros((4, 4), "S3"),
        np.zeros((4, 4), "datetime64[s]"),
        np.zeros((4, 4), [("a", "u1"), ("b", "u1")]),
        np.empty((4, 4), object),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_what_is_no_image_is_refused(tmp_path, array):
    with pytest.raises(UnsupportedSourceError, match=r"image\.npy"):
        NpyReader(save(tmp_path, image=array))


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.abort, ()

    (tmp_path / "image.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ReadError, match=r"image\.npy"):
        NpyReader({"image": str(tmp_path / "image.npy")})


@pytest.mark.parametrize("keep", [0, 5, 60, 127, 128, 1000, -1])
def test_a_truncated_file_is_an_error_at_open(tmp_path, keep):
    files = save(tmp_path, image=noise(30, 30))
    data = (tmp_path / "image.npy").read_bytes()
    (tmp_path / "image.npy").write_bytes(data[:keep])
    with pytest.raises(ReadError, match=r"image\.npy"):
        NpyReader(files)


@pytest.mark.parametrize("after_first_read", [False, True])
def test_a_file_cut_short_while_open_does_not_kill_the_process(tmp_path, after_first_read):
    """Touching a page behind the end of a file is SIGBUS, so this happens in a process of its own."""
    files = save(tmp_path, image=noise(600, 600))
    script = f"""
import os
from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers.npy import NpyReader
reader = NpyReader({files!r})
if {after_first_read}:
    reader.read(Window(0, 0, 10, 10))
os.truncate({files["image"]!r}, 5000)
try:
    reader.read(Window(500, 500, 90, 90))
except ReadError as error:
    print("told:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cut short" in done.stdout


def test_missing_files_are_named(tmp_path):
    files = save(tmp_path, image=noise(8, 8))
    with pytest.raises(SourceMissingError, match=r"gone\.npy"):
        NpyReader({"image": str(tmp_path / "gone.npy")})
    with pytest.raises(SourceMissingError, match=r"gone1\.npy"):
        NpyReader({**files, "level1": str(tmp_path / "gone1.npy")})


def test_levels_and_their_masks(tmp_path):
    image, valid = noise(101, 67), noise(101, 67, 1, seed=2)[..., 0] > 99
    levels = {"level1": image[::2, ::2], "level2": image[::4, ::4]}
    files = save(tmp_path, image=image, **levels, valid=valid, valid_level1=valid[::2, ::2])
    reader = NpyReader(files)
    assert [level.downsample for level in reader.levels] == [(1, 1), (2, 2), (4, 4)]
    assert reader.has_valid
    np.testing.assert_array_equal(reader.read(Window(3, 4, 5, 6), 2), image[::4, ::4][3:8, 4:10])
    np.testing.assert_array_equal(reader.read_valid(Window(3, 4, 5, 6)), valid[3:8, 4:10])
    np.testing.assert_array_equal(reader.read_valid(Window(3, 4, 5, 6), 1), valid[::2, ::2][3:8, 4:10])
    # No mask of level 2: the pixel in the middle of each 4 x 4 stands for it, the last one at the border.
    rows, cols = np.minimum(np.arange(26) * 4 + 2, 100), np.minimum(np.arange(17) * 4 + 2, 66)
    np.testing.assert_array_equal(reader.read_valid(Window(0, 0, 26, 17), 2), valid[np.ix_(rows, cols)])
    np.testing.assert_array_equal(
        reader.read_valid(Window(20, 3, 6, 14), 2), valid[np.ix_(rows, cols)][20:26, 3:17]
    )
    reader.close()


def test_levels_and_masks_that_do_not_belong_are_refused(tmp_path):
    image = noise(40, 40)
    for key, other in (
        ("level1", noise(20, 20, 2)),
        ("level1", noise(20, 20, 3, "uint16")),
        ("valid", np.ones((40, 41), bool)),
    ):
        with pytest.raises(ReadError, match=f"{key}.npy"):
            NpyReader(save(tmp_path, image=image, **{key: other}))


def test_files_are_mapped_at_the_first_read(tmp_path):
    files = save(tmp_path, image=noise(40, 40), level1=noise(20, 20))
    process = psutil.Process()
    before = process.num_fds()
    reader = NpyReader(files)
    assert process.num_fds() == before
    reader.read(Window(0, 0, 2, 2), 1)
    assert process.num_fds() == before + 1
    reader.close()
    assert process.num_fds() == before


def resident(path):
    """Bytes of this process's maps of a file that are resident, as the kernel counts them."""
    return sum(m.rss for m in psutil.Process().memory_maps(grouped=False) if m.path == str(path))


def test_mapped_memory_stays_below_its_limit(tmp_path, monkeypatch):
    """Random windows over a file of 48 MB, 16 MB of which may stay mapped in."""
    limit = 16 * 2**20
    shape = (2000, 8192, 3)
    image = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", np.uint8, shape)
    for y in range(0, shape[0], 500):
        image[y : y + 500] = np.arange(y, y + 500, dtype=np.uint16)[:, None, None] % 251
    del image
    monkeypatch.setattr(npy, "_PAGES", MappedPages(limit))
    reader = NpyReader({"image": str(tmp_path / "image.npy")})
    rng = np.random.default_rng(0)
    peak = 0
    for k in range(120):
        window = Window(int(rng.integers(0, 1900)), int(rng.integers(0, 8000)), 100, 190)
        pixels = reader.read(window)
        assert (pixels == (np.arange(window.y, window.y1) % 251)[:, None, None]).all()
        if k % 5 == 0:
            peak = max(peak, resident(tmp_path / "image.npy"))
    reader.close()
    # A window of 100 rows maps in at most so much before the rest is given back.
    assert 0 < peak <= limit + 100 * (190 * 3 + npy.FAULT_AROUND_BYTES)
    assert npy._PAGES.booked_bytes == 0


def test_what_fits_below_the_limit_stays_mapped_in(tmp_path, monkeypatch):
    given_back = []
    pages = MappedPages(16 * 2**20)
    monkeypatch.setattr(npy, "_PAGES", pages)
    monkeypatch.setattr(MappedPages, "_give_back", lambda self: given_back.append(self.booked_bytes))
    np.save(tmp_path / "image.npy", np.zeros((2000, 2000, 3), np.uint8))
    reader = NpyReader({"image": str(tmp_path / "image.npy")})
    for k in range(100):
        reader.read(Window(k, 3 * k, 256, 256))
    # Each window was booked, but no byte twice too often: the file has 12 MB.
    assert pages.booked_bytes == (tmp_path / "image.npy").stat().st_size
    assert given_back == []
    reader.close()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("height", "width"), [(50, 70), (1, 4000), (4000, 1), (200, 3000)])
def test_no_less_is_booked_than_is_mapped_in(tmp_path, monkeypatch, order, height, width):
    pages = MappedPages(2**40)
    monkeypatch.setattr(npy, "_PAGES", pages)
    np.save(tmp_path / "image.npy", np.zeros((5000, 4000, 2), np.uint16, order=order))
    reader = NpyReader({"image": str(tmp_path / "image.npy")})
    reader.read(Window(600, 0, height, width))
    assert 0 < resident(tmp_path / "image.npy") <= pages.booked_bytes + mmap.PAGESIZE
    reader.close()


def test_the_limit_holds_over_all_readers(tmp_path, monkeypatch):
    pages = MappedPages(16 * 2**20)
    monkeypatch.setattr(npy, "_PAGES", pages)
    readers = []
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", np.full((2000, 2500), i, np.uint8))
        readers.append(NpyReader({"image": str(tmp_path / f"{i}.npy")}))
    for _ in range(2):
        for i, reader in enumerate(readers):
            assert (reader.read(Window(0, 0, 2000, 2500)) == i).all()
            assert pages.booked_bytes <= pages.limit_bytes
    total = sum(resident(tmp_path / f"{i}.npy") for i in range(5))
    assert 0 < total <= pages.limit_bytes
    for reader in readers:
        reader.close()
    assert pages.booked_bytes == 0


def test_a_reader_that_was_closed_is_no_trouble_to_the_others(tmp_path, monkeypatch):
    pages = MappedPages(2**20)
    monkeypatch.setattr(npy, "_PAGES", pages)
    files = save(tmp_path, image=noise(64, 64))
    first, second = NpyReader(files), NpyReader(files)
    first.read(Window(0, 0, 64, 64))
    mapping = first._images[0]._mapping
    first.close()
    # Booked after it was closed, as another thread may do at the wrong moment.
    pages.touch(mapping, 4096)
    assert pages.booked_bytes == 0
    pages._booked[mapping] = pages.booked_bytes = 2**20
    second.read(Window(0, 0, 64, 64))
    assert pages.booked_bytes == 0
    second.close()
