"""Files that are cut short or scribbled over: an error that names file and region, never made-up pixels."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from osgeo import gdal
from PIL import Image
from raster_files import noise, write_cog, write_pyramid, write_tiff

from slidesampler.errors import ReadError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers import ReaderPool, ReaderSpec, open_reader
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader
from slidesampler.readers.openslide import OpenSlideReader


def scribble(path, index, *, at=0.5, size=200):
    """Overwrite a part of one compressed tile, and return where that tile is in the image."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[index], page.databytecounts[index]
        across = -(-page.imagewidth // page.tilewidth)
        window = Window(
            index // across * page.tilelength, index % across * page.tilewidth, page.tilelength, page.tilewidth
        )
    data = bytearray(path.read_bytes())
    spot = start + int(length * at)
    data[spot : spot + size] = np.random.default_rng(1).bytes(min(size, start + length - spot))
    path.write_bytes(data)
    return window


@pytest.mark.parametrize("codec", ["DEFLATE", "LZW", "JPEG", "WEBP", "ZSTD"])
@pytest.mark.parametrize("kind", [GdalReader, CogReader])
def test_garbage_in_a_tile_is_an_error_each_time(tmp_path, capfd, codec, kind):
    image = noise(128, 128)
    options = ("TILED=YES", f"COMPRESS={codec}", "BLOCKXSIZE=64", "BLOCKYSIZE=64", "PHOTOMETRIC=RGB")
    path = write_tiff(tmp_path / "a.tif", image, options=options)
    whole = kind(str(path))
    intact = whole.read(Window(0, 0, 128, 128))
    whole.close()
    # ZSTD (as TIFF has it) and WebP carry no checksum: what is wrong in the middle may still decode.
    bad = scribble(path, 2, at=0 if codec in ("ZSTD", "WEBP") else 0.5)
    reader = kind(str(path))
    # Again and again: GDAL keeps what it could not decode in its cache, and would hand it out.
    for _ in range(3):
        with pytest.raises(ReadError) as caught:
            reader.read(bad)
        assert str(path) in str(caught.value)
        assert repr(bad) in str(caught.value)
        with pytest.raises(ReadError):
            reader.read(Window(0, 0, 128, 128), channels=(1,))
    good = Window(0, 0, 64, 128)
    np.testing.assert_array_equal(reader.read(good), intact[good.as_slices()])
    reader.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", ["NONE", "DEFLATE", "JPEG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_tiff(tmp_path, capfd, codec, share):
    """The directory comes first in these files, so they open; what is missing must not be zeros."""
    image = noise(256, 256)
    options = ("TILED=YES", f"COMPRESS={codec}", "BLOCKXSIZE=64", "BLOCKYSIZE=64")
    path = write_tiff(tmp_path / "a.tif", image, options=options)
    intact = GdalReader(str(path))
    expected = intact.read(Window(0, 0, 256, 256))
    intact.close()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    reader = GdalReader(str(path))
    wrong = errors = 0
    for window in Window(0, 0, 256, 256).blocks(64):
        try:
            wrong += not np.array_equal(reader.read(window), expected[window.as_slices()])
        except ReadError:
            errors += 1
    reader.close()
    assert wrong == 0
    assert 0 < errors < 16
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "progressive.jpg"])
def test_truncated_pictures(tmp_path, capfd, name):
    path = tmp_path / name
    Image.fromarray(noise(300, 300)).save(path, **({"progressive": True} if "prog" in name else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        reader = GdalReader(str(path))
    except UnsupportedSourceError:
        return
    for _ in range(2):
        with pytest.raises(ReadError, match=name):
            reader.read(Window(0, 0, 300, 300))
    reader.close()
    assert capfd.readouterr() == ("", "")


def test_a_damaged_overview_and_a_damaged_mask(tmp_path):
    mask = noise(256, 256, 1)[..., 0] > 9
    path = write_cog(tmp_path / "a.tif", noise(256, 256), mask=mask, factors=(2,))
    with tifffile.TiffFile(path) as tiff:
        pages = {(page.imagelength, page.subfiletype): page for page in tiff.pages}
        spots = [pages[128, 1].dataoffsets[0], pages[256, 4].dataoffsets[0]]
    data = bytearray(path.read_bytes())
    for spot in spots:
        data[spot : spot + 40] = b"\xaa" * 40
    path.write_bytes(data)
    for kind in (CogReader, GdalReader):
        reader = kind(str(path))
        for _ in range(2):
            with pytest.raises(ReadError):
                reader.read(Window(0, 0, 9, 9), 1)
            with pytest.raises(ReadError):
                reader.read_valid(Window(0, 0, 9, 9))
        assert reader.read(Window(0, 0, 9, 9)).shape == (9, 9, 3)
        assert reader.read_valid(Window(200, 200, 9, 9)).shape == (9, 9)
        reader.close()


@pytest.mark.parametrize("content", [b"I am not an image at all.\n" * 50, b"II*\0", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png"])
def test_files_that_are_no_images(tmp_path, capfd, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnsupportedSourceError) as caught:
        open_reader(ReaderSpec("auto", str(path)))
    message = str(caught.value)
    assert str(path) in message
    assert "GDAL cannot open it" in message
    assert "OpenSlide" in message
    assert "install" in message
    assert capfd.readouterr() == ("", "")


def test_a_harmless_warning_is_no_error(tmp_path):
    """Bytes between two scans of a JPEG are skipped by every decoder; nothing is missing."""
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(64, 64)).save(path, progressive=True)
    reader = GdalReader(str(path))
    expected = reader.read(Window(0, 0, 64, 64))
    reader.close()
    data = path.read_bytes()
    second_scan = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    path.write_bytes(data[:second_scan] + bytes(7) + data[second_scan:])
    dataset = gdal.OpenEx(str(path))
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    dataset.ReadAsArray()
    warned = gdal.GetLastErrorMsg()
    gdal.PopErrorHandler()
    assert "extraneous bytes" in warned
    reader = GdalReader(str(path))
    np.testing.assert_array_equal(reader.read(Window(0, 0, 64, 64)), expected)
    reader.close()


def test_openslide_names_file_and_region(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", noise(256, 256))
    bad = scribble(path, 5)
    reader = OpenSlideReader(str(path))
    reader.read(Window(0, 0, 64, 64))
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            reader.read(bad)
        assert str(path) in str(caught.value)
        assert repr(bad) in str(caught.value)
    reader.close()


def test_openslide_of_a_text_file(tmp_path):
    (tmp_path / "a.svs").write_text("nothing")
    with pytest.raises(UnsupportedSourceError, match="OpenSlide cannot open"):
        OpenSlideReader(str(tmp_path / "a.svs"))


def test_a_failed_read_leaves_no_open_handle_in_the_pool(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise(128, 128))
    bad = scribble(path, 0)
    pool = ReaderPool(open_reader)
    spec = ReaderSpec("gdal", str(path))
    with pytest.raises(ReadError), pool.lease(spec) as reader:
        reader.read(bad)
    assert (pool.idle, pool.on_loan) == (0, 0)
