"""Damaged directories: errors of the package that name the file, or what GDAL makes of it; never a hang."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_tiffs import SIDE, Tiff, write_bases

from slidesampler import _native
from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader
from slidesampler.readers.tile_index import TileIndex

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")


def test_hundreds_of_damaged_files(tmp_path):
    """In a process of its own, which a crash would end; the same files each time."""
    done = subprocess.run(
        [sys.executable, HERE / "hostile_tiffs.py", "--count", "300", "--work", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "300 files, 0 with findings" in done.stdout


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def tiff(bases):
    return Tiff(bases["deflate"])


def entry(tiff, code, directory=0):
    return next(found for found in tiff.directories[directory].entries if found.code == code)


def write(tmp_path, tiff) -> str:
    (tmp_path / "a.tif").write_bytes(tiff.data)
    return str(tmp_path / "a.tif")


@pytest.mark.parametrize("target", [0, 1, 3])
def test_directories_that_go_in_circles_end_where_they_meet(tmp_path, tiff, target):
    """tifffile follows them for hours."""
    tiff.put(tiff.directories[-1].next_at, tiff.width, tiff.directories[target].at)
    path = write(tmp_path, tiff)
    found = TileIndex(path)
    assert found.has(SIDE, SIDE)
    assert found.has(SIDE // 2, SIDE // 2, mask=True)
    window = Window(5, 6, 60, 70)
    cog, gdal_ = CogReader(path), GdalReader(path)
    np.testing.assert_array_equal(cog.read(window), gdal_.read(window))
    cog.close()
    gdal_.close()


def test_tags_of_another_kind_are_left_to_gdal(tmp_path, tiff):
    # The photometric interpretation as three numbers that lie elsewhere.
    tiff.put(entry(tiff, 262).at + 4, tiff.width, 3)
    tiff.put(entry(tiff, 262).value_at, tiff.width, 8)
    assert not TileIndex(write(tmp_path, tiff)).has(SIDE, SIDE)


def test_tiles_of_no_size_are_no_tiles(tmp_path, tiff):
    tiff.put(entry(tiff, 322).value_at, entry(tiff, 322).size, 0)
    assert not TileIndex(write(tmp_path, tiff)).has(SIDE, SIDE)


@pytest.mark.parametrize("code", [324, 325])
def test_a_table_that_reaches_past_the_end(tmp_path, tiff, code):
    found = entry(tiff, code)
    tiff.put(found.at + 4 + tiff.width, tiff.width, len(tiff.data) - 4)
    with pytest.raises(ReadError, match="there are 4 x 4 tiles") as caught:
        TileIndex(write(tmp_path, tiff)).level(SIDE, SIDE)
    assert str(tmp_path / "a.tif") in str(caught.value)


def test_no_memory_is_taken_for_tables_that_cannot_be(tmp_path, bases):
    """A BigTIFF that says it has 2**60 tiles, and sides that agree."""
    tiff = Tiff(bases["zstd"])
    for code in (256, 257):
        at = entry(tiff, code).at
        struct.pack_into("<HQQ", tiff.data, at + 2, 4, 1, 2**31 - 32)
    for code in (324, 325):
        tiff.put(entry(tiff, code).at + 4, tiff.width, (2**26 - 1) ** 2)
    with pytest.raises(ReadError, match=r"a\.tif"):
        TileIndex(write(tmp_path, tiff)).level(2**31 - 32, 2**31 - 32)


def test_overviews_that_gdal_cannot_read_are_an_error_of_ours(tmp_path, tiff):
    # A directory of no tiles behind the first.
    for code in (256, 257):
        tiff.put(entry(tiff, code, 1).value_at, entry(tiff, code, 1).size, 0)
    path = write(tmp_path, tiff)
    for kind in (CogReader, GdalReader):
        with pytest.raises(ReadError, match=r"overviews.*zero") as caught:
            kind(path)
        assert path in str(caught.value)


def test_what_tifffile_cannot_parse_is_read_by_gdal(tmp_path, tiff, monkeypatch):
    import tifffile

    path = write(tmp_path, tiff)
    expected = CogReader(path)

    def parse(*args: object, **kwargs: object) -> None:
        raise IndexError("anything")

    monkeypatch.setattr(tifffile, "TiffFile", parse)
    with pytest.raises(ReadError, match="anything") as caught:
        TileIndex(path)
    assert path in str(caught.value)
    reader = CogReader(path)
    window = Window(3, 4, 50, 60)
    np.testing.assert_array_equal(reader.read(window), expected.read(window))
    reader.close()
    expected.close()
