"""The COGs of the compiled encoder beside those that GDAL writes from the same pixels."""

import os
from unittest import mock

import numpy as np
import pytest
import tifffile
from osgeo import gdal

from slidesampler import _native
from slidesampler.cache import level_spool, tiff_header
from slidesampler.cache.cog_layout import CogLayout
from slidesampler.cache.cog_stream import CogStream
from slidesampler.cache.pyramid import levels_of
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.write import write_image

pytestmark = pytest.mark.skipif(_native.encode is None, reason=f"not compiled: {_native.missing_because}")

#: Where tiles lie, and how large they are; their shared JPEG tables.
PLACES = {324, 325, 347}
CASES = {
    "grey": ((400, 300, 1), np.uint8, {}),
    "named": ((40, 30, 1), np.uint16, {"channels": ("<é & 'so'>",)}),
    "two": ((300, 129, 2), np.int16, {"channels": ("a", "b")}),
    "colours": ((517, 300, 3), np.uint8, {"mpp": (0.2527, 0.5)}),
    "named colours": ((30, 301, 3), np.uint8, {"channels": ("R", "G", "B")}),
    "stains": ((30, 30, 3), np.uint8, {"channels": ("dapi", 'c<y&"3', "cy5")}),
    "infrared": ((129, 30, 4), np.uint8, {"channels": ("r", "g", "b", "nir")}),
    "four": ((30, 30, 4), np.uint8, {"channels": tuple("abcd")}),
    "floats": ((260, 260, 3), np.float32, {"mpp": (1e-3, 12345.678)}),
    "five": ((30, 30, 5), np.float32, {"channels": tuple("abcde")}),
}


def facts(path):
    """What readers can know of a file besides its pixels."""
    dataset = gdal.Open(str(path))
    bands = [dataset.GetRasterBand(number + 1) for number in range(dataset.RasterCount)]
    structure = dataset.GetMetadata("IMAGE_STRUCTURE")
    assert structure.pop("LAYOUT") == "COG"
    # GDAL guesses these from the tables.
    structure.pop("JPEG_QUALITY", None), structure.pop("JPEGTABLESMODE", None)
    return {
        "structure": structure,
        "colours": [band.GetColorInterpretation() for band in bands],
        "names": [band.GetDescription() for band in bands],
        "masks": [band.GetMaskFlags() for band in bands],
        "blocks": [band.GetBlockSize() for band in bands],
        "nodata": [band.GetNoDataValue() for band in bands],
        "projection": dataset.GetGeoTransform(can_return_null=True),
        "domains": sorted(set(dataset.GetMetadataDomainList() or ()) - {"xml:EXIF"}),
    }


def pixels_of(path):
    dataset = gdal.Open(str(path))
    found = []
    for number in range(dataset.RasterCount):
        band = dataset.GetRasterBand(number + 1)
        for k in range(band.GetOverviewCount() + 1):
            view = band.GetOverview(k - 1) if k else band
            found += [view.ReadAsArray(), view.GetMaskBand().ReadAsArray()]
    return found


def tags_of(path):
    with tifffile.TiffFile(path) as file:
        return [{tag.code: tag.value for tag in page.tags if tag.code not in PLACES} for page in file.pages]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("codec", ["none", "deflate", "zstd", "jpeg"])
@pytest.mark.parametrize("case", CASES)
def test_readers_see_what_they_see_of_gdal_s(tools, tmp_path, case, codec, masked):
    shape, dtype, options = CASES[case]
    if codec == "jpeg" and (dtype != np.uint8 or shape[2] not in (1, 3)):
        pytest.skip("no JPEG")
    rng = np.random.default_rng(0)
    pixels = tools.random_pixels(rng, shape, dtype)
    valid = rng.random(shape[:2]) < 0.7 if masked else None
    for name in ("own", "gdal"):
        (tmp_path / name).mkdir()
        with mock.patch.object(_native, "encode", _native.encode if name == "own" else None):
            write_image(
                tools.reader(pixels, valid, **options), tmp_path / name, BuildSpec(codec=codec, tile=128)
            )
    own, other = (tmp_path / name / "image.tif" for name in ("own", "gdal"))
    assert tools.complaints(own) == []
    for found, want in zip(pixels_of(own), pixels_of(other), strict=True):
        # JPEG too: the same transform of the same pixels, only packed with other Huffman tables. But where a
        # tile reaches over the edge GDAL sometimes fills it with 0 and sometimes, as here, with the last one.
        inner = [size if codec != "jpeg" or size % 128 == 0 else max(0, size - 32) for size in found.shape]
        np.testing.assert_array_equal(found[: inner[0], : inner[1]], want[: inner[0], : inner[1]])
        assert np.abs(found.astype(float) - want).mean() < 3
    mine, his = facts(own), facts(other)
    if case == "stains" and codec == "jpeg":
        # Of JPEG GDAL takes back the first colour alone.
        assert mine.pop("colours") == [gdal.GCI_GrayIndex, gdal.GCI_Undefined, gdal.GCI_Undefined]
        assert his.pop("colours")[0] == gdal.GCI_GrayIndex
    assert mine == his
    found, want = tags_of(own), tags_of(other)
    assert len(found) == len(want)
    for page, theirs in zip(found, want, strict=True):
        if case == "four" and 338 in theirs:
            # GDAL's COG driver calls the fourth alpha here, and takes it back in its metadata.
            theirs[338] = (tifffile.EXTRASAMPLE.UNSPECIFIED,)
        if case == "stains" and codec == "jpeg":
            # GDAL writes this beside the file.
            page.pop(42112, None), theirs.pop(42112, None)
        for code in (282, 283):
            if code in theirs:
                # GDAL has them in single precision.
                assert np.divide(*page.pop(code)) == pytest.approx(np.divide(*theirs.pop(code)), rel=1e-7)
        assert page == theirs


@pytest.mark.parametrize("masked", [False, True])
def test_what_does_not_fit_into_4_gb_is_a_bigtiff(tools, tmp_path, monkeypatch, masked):
    rng = np.random.default_rng(1)
    pixels = tools.random_pixels(rng, (700, 400, 3), np.uint8)
    valid = rng.random((700, 400)) < 0.7 if masked else None
    found = {}
    for name, limit in (("classic", 2**32), ("big", 500_000)):
        monkeypatch.setattr(tiff_header, "CLASSIC_BYTES", limit)
        (tmp_path / name).mkdir()
        write_image(tools.reader(pixels, valid, mpp=(1, 1)), tmp_path / name, BuildSpec(codec="deflate"))
        path = tmp_path / name / "image.tif"
        assert tools.complaints(path) == []
        found[name] = path.read_bytes()[2], pixels_of(path), facts(path), tags_of(path)
    assert found["classic"][0], found["big"][0] == (42, 43)
    for one, other in zip(found["classic"][1], found["big"][1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found["classic"][2:] == found["big"][2:]


def test_threads_give_the_same_file(tools, tmp_path):
    pixels = tools.random_pixels(np.random.default_rng(1), (1500, 700, 3), np.uint8) // 8
    valid = pixels[:, :, 0] > 3
    found = []
    for threads in (1, 2, 5):
        write_image(tools.reader(pixels, valid), tmp_path, BuildSpec(codec="jpeg", tile=128), threads=threads)
        found.append((tmp_path / "image.tif").read_bytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_are_left_out_are_zero(tools, tmp_path, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(size) for size in rng.integers(1, 700, 2))
    levels = levels_of(height, width, (1, 2))
    layout = CogLayout(tmp_path / "a.tif", levels, 1, np.dtype(np.uint16), 128, "deflate", sparse=True)
    expected = [np.zeros((level.height, level.width), np.uint16) for level in levels]
    with CogStream(layout) as target:
        for number, want in enumerate(expected):
            y = 0
            while y < len(want):
                rows = int(rng.integers(1, 300))
                if rng.random() < 0.5:
                    want[y : y + rows] = rng.integers(0, 2**16, want[y : y + rows].shape)
                    target.write(number, y, 0, want[y : y + rows, :, None])
                y += rows
        target.finish(lambda _: None)
    assert tools.complaints(tmp_path / "a.tif") == []
    found = pixels_of(tmp_path / "a.tif")
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("way", ["none", "refused", "nothing"])
def test_copies_are_made_where_the_system_makes_none(tools, tmp_path, monkeypatch, way):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    if way == "none":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", refuse if way == "refused" else lambda *_: 0, raising=False)
    monkeypatch.setattr(level_spool, "_COPY_BYTES", 1000)
    pixels = tools.random_pixels(np.random.default_rng(1), (300, 200, 3), np.uint8)
    told = []
    write_image(tools.reader(pixels), tmp_path, BuildSpec(codec="none"), advance=told.append)
    np.testing.assert_array_equal(np.stack(pixels_of(tmp_path / "image.tif")[::4], -1), pixels)
    # Half of it is told while the image is read, the rest piece by piece.
    assert len(told) > 50


def test_a_scratch_file_that_was_cut_off_is_an_error(tools, tmp_path, monkeypatch):
    real = level_spool.LevelSpool.complete

    def cut_off(self):
        real(self)
        os.truncate(self._path, 10)

    monkeypatch.setattr(level_spool.LevelSpool, "complete", cut_off)
    with pytest.raises(Exception, match="scratch file is shorter"):
        write_image(tools.reader(np.zeros((30, 30, 1), np.uint8)), tmp_path, BuildSpec(codec="none"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0.0, 1.0, 39572.6157, 1e-9, 2**32 - 1.0, 1e30, 1 / 3])
def test_fractions_are_the_nearest_of_32_bits(value):
    tag = tiff_header.rationals(value)
    top, bottom = np.frombuffer(tag.data, np.uint32).astype(float)
    assert top / bottom == pytest.approx(min(value, 2**32 - 1), rel=1e-9, abs=2**-32)
