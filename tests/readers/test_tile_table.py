"""Tables of tiles: what is written is loaded, what is damaged is an error, and opening touches nothing else."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from raster_files import halve, noise, spec_by_table, write_cog, write_tiff

from slidesampler import _native
from slidesampler.errors import CorruptEntryError, ReadError, SourceMissingError, StaleEntryError
from slidesampler.geometry import Window
from slidesampler.readers import ReaderPool, ReaderSpec, open_reader
from slidesampler.readers import tile_table as module
from slidesampler.readers.cog import CogReader
from slidesampler.readers.tile_survey import survey_tiles
from slidesampler.readers.tile_table import load_table
from slidesampler.readers.tiled import TiledReader

pytestmark = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")

SIZE = (300, 420)


def survey(path, *, owned=True):
    with closing(open_reader(ReaderSpec("gdal", str(path), raw=True))) as reader:
        return survey_tiles(reader, str(path), "cog", owned=owned)


@pytest.fixture
def cog(tmp_path):
    """A COG with a mask and three levels, its pixels, and the spec that opens it by its table."""
    image, valid = noise(*SIZE), noise(*SIZE, 1, seed=1)[..., 0] > 50
    path = write_cog(tmp_path / "a.tif", image, mask=valid, factors=(2, 4))
    return path, image, spec_by_table(path)


def same_layouts(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(np.frombuffer(one.offsets, np.uint64), one.offsets)
        for name in ("offsets", "counts"):
            found = np.frombuffer(getattr(other, name), np.uint64)
            np.testing.assert_array_equal(found, np.frombuffer(getattr(one, name), np.uint64))
        assert one[2:] == other[2:]


def test_what_is_written_is_loaded(cog):
    path, _, spec = cog
    table = survey(path)
    found = load_table(dict(spec.files)["tiles"])
    same_layouts(table.image, found.image)
    same_layouts(table.masks, found.masks)
    assert len(found.masks) == len(found.image) == 3
    assert replace(table, image=(), masks=()).__repr__() == replace(found, image=(), masks=()).__repr__()


def test_offsets_are_those_of_the_directories(cog):
    path, _, spec = cog
    table = load_table(dict(spec.files)["tiles"])
    with tifffile.TiffFile(path) as tiff:
        pages = {(page.shape[:2], int(page.subfiletype) & 4): page for page in tiff.pages}
    for layouts, mask in ((table.image, 0), (table.masks, 4)):
        for item in layouts:
            page = pages[(item.height, item.width), mask]
            assert np.frombuffer(item.offsets, np.uint64).tolist() == list(page.dataoffsets)
            assert np.frombuffer(item.counts, np.uint64).tolist() == list(page.databytecounts)


@pytest.mark.parametrize("mapped", [False, True])
def test_large_tables_are_mapped_and_small_ones_read(cog, monkeypatch, mapped):
    _, image, spec = cog
    monkeypatch.setattr(module, "_MAP_FROM_BYTES", 1 if mapped else 1 << 30)
    reader = open_reader(spec)
    part = reader.native(0)
    reader.close()
    # What was taken of a reader stays good after it.
    again = np.zeros((1, 50, 60, 3), np.uint8)
    from slidesampler.readers.tile_read import read_tiles

    assert read_tiles([part.tiled], np.zeros(1, np.int64), [Window(9, 8, 50, 60)], part.samples, again) is None
    np.testing.assert_array_equal(again[0], image[9:59, 8:68])


def test_opening_by_a_table_imports_neither_gdal_nor_tifffile(cog):
    """In a process of its own, where nobody else has imported them."""
    path, image, spec = cog
    code = """
import sys
from slidesampler.readers import ReaderPool, ReaderSpec, open_reader
from slidesampler.geometry import Window
reader = open_reader(ReaderSpec("tiled", sys.argv[1], (("tiles", sys.argv[2]),)))
print(int(reader.read(Window(0, 0, 40, 50)).sum()), int(reader.read_valid(Window(0, 0, 20, 20), 1).sum()))
print(*sorted({name.split(".")[0] for name in sys.modules} & {"osgeo", "tifffile", "openslide"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), dict(spec.files)["tiles"]],
        capture_output=True,
        text=True,
        check=True,
    )
    total, modules = done.stdout.splitlines()[0], done.stdout.splitlines()[1:]
    with closing(CogReader(str(path))) as reader:
        assert int(total.split()[1]) == reader.read_valid(Window(0, 0, 20, 20), 1).sum()
    assert int(total.split()[0]) == image[:40, :50].sum()
    assert modules in ([], [""])


def bytes_read():
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="this system does not count the bytes that are read"
)
def test_opening_reads_the_table_and_nothing_of_the_pixels(cog):
    path, _, spec = cog
    table = Path(dict(spec.files)["tiles"]).stat().st_size
    own = -bytes_read() + bytes_read()
    before = bytes_read()
    reader = open_reader(spec)
    count = bytes_read() - before - own
    reader.close()
    # The table, and the first bytes of the TIFF, which are in its stamp.
    assert table <= count <= table + 4096 + 100
    assert count < path.stat().st_size / 10


def test_a_table_serves_copies_of_its_file(cog, tmp_path):
    """A cache may be copied, and times with it or not."""
    path, image, _ = cog
    (tmp_path / "elsewhere").mkdir()
    copies = [
        shutil.copyfile(name, tmp_path / "elsewhere" / Path(name).name)
        for name in (path, path.with_suffix(".tiles"))
    ]
    with closing(open_reader(ReaderSpec("tiled", str(copies[0]), (("tiles", str(copies[1])),)))) as reader:
        assert isinstance(reader, TiledReader)
        np.testing.assert_array_equal(reader.read(Window(0, 0, *SIZE)), image)


@pytest.mark.parametrize("same_size", [False, True])
def test_a_cache_file_that_was_replaced_is_read_as_it_is(cog, tmp_path, same_size):
    path, _, spec = cog
    other = noise(*SIZE, seed=9)
    new = write_cog(tmp_path / "b.tif", other, factors=(2,))
    if same_size:
        missing = path.stat().st_size - new.stat().st_size
        assert missing > 0
        new.write_bytes(new.read_bytes() + bytes(missing))
    new.replace(path)
    with closing(open_reader(spec)) as reader:
        assert isinstance(reader, CogReader)
        np.testing.assert_array_equal(reader.read(Window(0, 0, *SIZE)), other)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_source_that_was_changed_is_stale(tmp_path, change):
    path = write_cog(tmp_path / "a.tif", noise(*SIZE))
    spec = spec_by_table(path, owned=False)
    open_reader(spec).close()
    if change == "size":
        stat = path.stat()
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, ns=(0, 12345))
    with pytest.raises(StaleEntryError, match="changed since") as caught:
        open_reader(spec)
    assert str(path) in str(caught.value)


def test_missing_files_are_missing_sources(cog):
    path, _, spec = cog
    table = Path(dict(spec.files)["tiles"])
    kept = table.read_bytes()
    table.unlink()
    with pytest.raises(SourceMissingError, match="not there"):
        open_reader(spec)
    table.write_bytes(kept)
    path.unlink()
    with pytest.raises(SourceMissingError, match="not there"):
        open_reader(spec)


def test_without_the_compiled_reader_the_same_pixels_come_from_another(cog, monkeypatch):
    _, image, spec = cog
    with closing(open_reader(spec)) as tiled:
        monkeypatch.setattr(_native, "tiles", None)
        with closing(open_reader(spec)) as reader:
            assert isinstance(reader, CogReader)
            assert (reader.levels, reader.mpp, reader.channels) == (tiled.levels, tiled.mpp, tiled.channels)
            np.testing.assert_array_equal(reader.read(Window(0, 0, *SIZE)), image)


# Damage -------------------------------------------------------------------------------------------------------


def try_to_read(spec):
    """Open and read everything: pixels or an error of ours, never anything else."""
    try:
        with closing(open_reader(spec)) as reader:
            for number, level in enumerate(reader.levels):
                window = Window(0, 0, min(level.height, 40), min(level.width, 40))
                reader.read(window, number)
                reader.read_valid(window, number)
    except (ReadError, CorruptEntryError, StaleEntryError):
        return False
    return True


def test_a_table_that_was_cut_off_is_an_error(cog):
    _, _, spec = cog
    table = Path(dict(spec.files)["tiles"])
    data = table.read_bytes()
    for length in [*range(120), *range(120, len(data), 53), len(data) - 1]:
        table.write_bytes(data[:length])
        with pytest.raises(CorruptEntryError, match="no table of tiles") as caught:
            load_table(table)
        assert str(table) in str(caught.value)
    table.write_bytes(data + b"\0")
    with pytest.raises(CorruptEntryError):
        load_table(table)


def test_damage_of_the_header_is_found_by_its_sum(cog):
    _, _, spec = cog
    table = Path(dict(spec.files)["tiles"])
    data = table.read_bytes()
    head = module._HEAD
    _, length, _, images, masks, _ = head.unpack_from(data)
    stop = head.size + length + (images + masks) * module._LEVEL.size
    for at in range(0, stop, 3):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        table.write_bytes(damaged)
        with pytest.raises(CorruptEntryError):
            load_table(table)


def forge(table, change):
    """Change header and levels of a table, and make the sums right again."""
    data = table.read_bytes()
    magic, length, _, images, masks, _ = module._HEAD.unpack_from(data)
    start = module._HEAD.size + length
    stop = start + (images + masks) * module._LEVEL.size
    header = json.loads(data[module._HEAD.size : start])
    levels = [list(record) for record in module._LEVEL.iter_unpack(data[start:stop])]
    counts = change(header, levels) or (images, masks)
    text = json.dumps(header).encode()
    text += b" " * (-(module._HEAD.size + len(text)) % 8)
    records = b"".join(module._LEVEL.pack(*record) for record in levels)
    total = module._HEAD.size + len(text) + len(records) + len(data) - stop
    crc = zlib.crc32(records, zlib.crc32(text))
    table.write_bytes(module._HEAD.pack(magic, len(text), crc, *counts, total) + text + records + data[stop:])


HOSTILE = {
    "shape": lambda header, levels: header.update(shape=[1, 2, 3]),
    "shape of words": lambda header, levels: header.update(shape=["a", 2, 3]),
    "too many channels": lambda header, levels: header.update(shape=[*SIZE, 4], samples=[0, 1, 2, 0]),
    "samples": lambda header, levels: header.update(samples=[0, 1, 7]),
    "negative sample": lambda header, levels: header.update(samples=[0, 1, -1]),
    "true sample": lambda header, levels: header.update(samples=[0, 1, True]),
    "valid": lambda header, levels: header.update(valid=["other", 0]),
    "valid sample": lambda header, levels: header.update(valid=["sample", 3]),
    "valid list": lambda header, levels: header.update(valid=[["all"], 0]),
    "no valid": lambda header, levels: header.pop("valid") and None,
    "masks without": lambda header, levels: header.update(valid=["all", 0]),
    "mpp": lambda header, levels: header.update(mpp=[0, 1]),
    "mpp word": lambda header, levels: header.update(mpp="ab"),
    "channels": lambda header, levels: header.update(channels=["r"]),
    "channels of numbers": lambda header, levels: header.update(channels=[1, 2, 3]),
    "stamp": lambda header, levels: header.update(stamp=[]),
    "byte order": lambda header, levels: header.update(byteorder="middle"),
    "no levels": lambda header, levels: (0, 0),
    "more levels": lambda header, levels: (40, 3),
    "very many levels": lambda header, levels: (2**32 - 1, 2**32 - 1),
    "offsets outside": lambda header, levels: levels[0].__setitem__(0, 2**63),
    "offsets uneven": lambda header, levels: levels[0].__setitem__(0, 4),
    "counts outside": lambda header, levels: levels[1].__setitem__(1, 10**6),
    "JPEG tables outside": lambda header, levels: levels[0].__setitem__(3, 2**64 - 1),
    "height": lambda header, levels: levels[0].__setitem__(4, 2**64 - 1),
    "no width": lambda header, levels: levels[2].__setitem__(5, 0),
    "no tile": lambda header, levels: levels[1].__setitem__(6, 0),
    "tall tiles": lambda header, levels: levels[0].__setitem__(6, 2**32 - 1),
    "samples of a level": lambda header, levels: levels[0].__setitem__(8, 65535),
    "item size": lambda header, levels: levels[0].__setitem__(9, 3),
    "codec": lambda header, levels: [level.__setitem__(10, 77) for level in levels] and None,
    "predictor": lambda header, levels: [level.__setitem__(11, 3) for level in levels] and None,
    "dtype": lambda header, levels: levels[0].__setitem__(16, b"object"),
    "wide dtype": lambda header, levels: levels[0].__setitem__(16, b"float64"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_table_is_an_error_and_never_the_end(cog, name):
    _, _, spec = cog
    table = Path(dict(spec.files)["tiles"])
    forge(table, lambda header, levels: None)
    assert try_to_read(spec)
    forge(table, HOSTILE[name])
    assert not try_to_read(spec)


@given(data=st.data())
def test_any_level_that_is_forged_is_pixels_or_an_error(forgeable, data):
    spec, intact = forgeable
    table = Path(dict(spec.files)["tiles"])
    table.write_bytes(intact)
    number, field = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 15))
    if field < 6:
        value = data.draw(
            st.sampled_from([0, 1, 8, 64, 300, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
        )
    elif field < 12:
        value = data.draw(st.integers(0, 9) | st.integers(0, 2**32 - 1))
    else:
        value = data.draw(st.booleans()) if field < 15 else data.draw(st.binary(min_size=8, max_size=8))
    forge(table, lambda header, levels: levels[number].__setitem__(field, value))
    try_to_read(spec)


@pytest.fixture(scope="module")
def forgeable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged")
    path = write_cog(folder / "a.tif", noise(*SIZE), mask=noise(*SIZE, 1)[..., 0] > 9, factors=(2, 4))
    spec = spec_by_table(path)
    return spec, path.with_suffix(".tiles").read_bytes()


def test_wild_offsets_are_errors_that_name_the_tile(cog):
    path, _, spec = cog
    table = Path(dict(spec.files)["tiles"])
    data = bytearray(table.read_bytes())
    first = path.read_bytes()[:0]
    with tifffile.TiffFile(path) as tiff:
        first = struct.pack("<Q", tiff.pages[0].dataoffsets[0])
    at = data.index(first, module._HEAD.size)
    data[at : at + 8] = struct.pack("<Q", 2**63 + 5)
    table.write_bytes(data)
    with closing(open_reader(spec)) as reader, pytest.raises(ReadError, match=r"tile \(0, 0\)"):
        reader.read(Window(0, 0, 10, 10))


# What cannot have a table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "dtype", "nodata"),
    [
        (("TILED=NO",), "uint8", ()),
        (("TILED=YES", "COMPRESS=WEBP", "WEBP_LOSSLESS=YES"), "uint8", ()),
        (("TILED=YES", "INTERLEAVE=BAND"), "uint8", ()),
        (("TILED=YES", "NBITS=4"), "uint8", ()),
        (("TILED=YES", "PIXELTYPE=SIGNEDBYTE"), "uint8", ()),
        (("TILED=YES",), "float32", (0.5, 0.5, 0.5)),
        (("TILED=YES", "PHOTOMETRIC=CIELAB"), "uint8", ()),
    ],
)
def test_files_that_are_not_read_whole_have_no_table(tmp_path, options, dtype, nodata):
    image = noise(100, 100, 3, dtype)
    path = write_tiff(
        tmp_path / "a.tif", image % 16 if dtype == "uint8" else image, options=options, nodata=nodata
    )
    with pytest.raises(ReadError) as caught:
        survey(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_nodata_of_whole_numbers(tmp_path, dtype):
    """A pixel is valid where any of its channels is not the nodata value, as GDAL has it."""
    image = (noise(150, 130, 3, dtype) % 3).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", image, nodata=(1, 1, 1), factors=(2,))
    with closing(open_reader(spec_by_table(path))) as reader:
        assert isinstance(reader, TiledReader)
        for number, expected in enumerate((image, halve(image))):
            whole = Window(0, 0, *expected.shape[:2])
            np.testing.assert_array_equal(reader.read_valid(whole, number), (expected != 1).any(-1))
        assert reader.native_valid(0) is None


# Opened again -------------------------------------------------------------------------------------------------


def rewrite(path, image):
    """Write other pixels into the same file, and set its times to what they were."""
    before = path.stat()
    other = write_cog(path.with_name("other.tif"), image)
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(other.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_file(path, image):
    write_cog(path.with_name("other.tif"), image).replace(path)


def test_opened_again_it_reads_the_same_and_loads_nothing(cog, monkeypatch):
    _, _, spec = cog
    reader = open_reader(spec)
    first = reader.read(Window(5, 6, 70, 80)), reader.read_valid(Window(5, 6, 70, 80))
    reader.close()
    with pytest.raises(ReadError, match="closed"):
        reader.read(Window(5, 6, 70, 80))
    monkeypatch.setattr(module, "load_table", None)
    assert reader.reopen()
    for before, after in zip(first, (reader.read, reader.read_valid), strict=True):
        np.testing.assert_array_equal(after(Window(5, 6, 70, 80)), before)
    reader.close()


@pytest.mark.parametrize("change", [rewrite, replace_file, lambda path, _: path.unlink()])
def test_another_file_is_not_opened_again(cog, change):
    path, image, spec = cog
    reader = open_reader(spec)
    reader.close()
    change(path, image[::-1].copy())
    assert not reader.reopen()
    with pytest.raises(ReadError, match="closed"):
        reader.read(Window(0, 0, 5, 5))


@pytest.mark.parametrize("change", [rewrite, replace_file])
@pytest.mark.parametrize("owned", [True, False])
def test_a_pool_that_had_closed_it_reads_what_the_file_is_now(tmp_path, change, owned):
    """As if it had never been open: a file of the cache is read as it is, a slide that was changed is not."""
    image = noise(*SIZE)
    specs = [
        spec_by_table(write_cog(tmp_path / name, image), owned=of_cache)
        for name, of_cache in (("a.tif", owned), ("b.tif", True))
    ]
    pool = ReaderPool(open_reader, max_open=1)
    for spec in specs:
        with pool.lease(spec) as reader:
            np.testing.assert_array_equal(reader.read(Window(0, 0, *SIZE)), image)
    assert list(pool._closed) == specs[:1]
    if not owned:
        # Else it is one of the same size.
        image = noise(*SIZE, seed=1)[: SIZE[0] - 1]
    change(Path(specs[0].path), image[::-1].copy())
    if owned:
        with pool.lease(specs[0]) as reader:
            np.testing.assert_array_equal(reader.read(Window(0, 0, *SIZE)), image[::-1])
    else:
        with pytest.raises(StaleEntryError), pool.lease(specs[0]):
            pass
    pool.close()


def test_thousands_of_mapped_tables_hold_no_descriptors(cog, monkeypatch):
    _, _, spec = cog
    monkeypatch.setattr(module, "_MAP_FROM_BYTES", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    tables = [load_table(dict(spec.files)["tiles"]) for _ in range(10)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len({id(table) for table in tables}) == 10
