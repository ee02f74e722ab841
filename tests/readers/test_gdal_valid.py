"""Which pixels of a GDAL raster are valid."""

from __future__ import annotations

import numpy as np
import pytest
from osgeo import gdal
from PIL import Image
from raster_files import noise, write_cog, write_tiff

from slidesampler.geometry import Window
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader


def read_valid(path, level=0, kind=GdalReader):
    reader = kind(str(path))
    here = reader.levels[level]
    valid = reader.read_valid(Window(0, 0, here.height, here.width), level)
    part = Window(1, 2, here.height - 3, here.width - 5)
    np.testing.assert_array_equal(reader.read_valid(part, level), valid[part.as_slices()])
    reader.close()
    return reader, valid


@pytest.mark.parametrize("kind", [GdalReader, CogReader])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_alpha_above_zero_is_valid(tmp_path, dtype, kind):
    alpha = np.zeros((40, 30), dtype)
    alpha[:10] = 1
    alpha[10:20] = 0.25 if dtype == "float32" else np.iinfo(dtype).max
    if dtype == "uint16":
        alpha[20:30] = 256
    path = write_tiff(tmp_path / "a.tif", noise(40, 30, 3, dtype), alpha=alpha)
    reader, valid = read_valid(path, kind=kind)
    assert reader.shape == (40, 30, 3)
    assert reader.has_valid
    np.testing.assert_array_equal(valid, alpha > 0)


def test_alpha_of_a_grey_png(tmp_path):
    image = noise(20, 30, 2)
    image[..., 1] //= 128
    Image.fromarray(image, "LA").save(tmp_path / "a.png")
    reader, valid = read_valid(tmp_path / "a.png")
    assert reader.channels == ("gray",)
    np.testing.assert_array_equal(valid, image[..., 1] > 0)


@pytest.mark.parametrize("kind", [GdalReader, CogReader])
def test_mask_band_and_its_overviews(tmp_path, kind):
    mask = noise(128, 192, 1)[..., 0] > 70
    path = write_tiff(tmp_path / "a.tif", noise(128, 192), mask=mask, factors=(2, 4))
    for level in range(3):
        reader, valid = read_valid(path, level, kind)
        # GDAL decimates its masks with the pixels: every 2nd, every 4th.
        np.testing.assert_array_equal(valid, mask[:: 2**level, :: 2**level])
    assert reader.has_valid


@pytest.mark.parametrize("kind", [GdalReader, CogReader])
def test_mask_band_without_overviews_is_decimated(tmp_path, kind):
    """GDAL alone says that every pixel of these overviews is valid."""
    mask = noise(129, 190, 1)[..., 0] > 70
    path = write_tiff(tmp_path / "a.tif", noise(129, 190), mask=mask, factors=(2, 4), mask_first=False)
    for level, step in ((1, 2), (2, 4)):
        reader, valid = read_valid(path, level, kind)
        assert len(reader.levels) == 3
        rows = np.minimum(np.arange(valid.shape[0]) * step + step // 2, 128)
        cols = np.minimum(np.arange(valid.shape[1]) * step + step // 2, 189)
        np.testing.assert_array_equal(valid, mask[np.ix_(rows, cols)])


def test_external_mask(tmp_path):
    mask = noise(64, 64, 1)[..., 0] > 70
    path = write_tiff(tmp_path / "a.tif", noise(64, 64))
    dataset = gdal.OpenEx(str(path))
    dataset.CreateMaskBand(gdal.GMF_PER_DATASET)
    dataset.GetRasterBand(1).GetMaskBand().WriteArray(mask * np.uint8(255))
    del dataset
    assert (tmp_path / "a.tif.msk").exists()
    np.testing.assert_array_equal(read_valid(path)[1], mask)


@pytest.mark.parametrize("kind", [GdalReader, CogReader])
def test_nodata_where_every_band_is_nodata(tmp_path, kind):
    image = noise(60, 60, 3, "int16") % 4
    path = write_tiff(tmp_path / "a.tif", image, nodata=(0, 0, 0), factors=(2,))
    for level in (0, 1):
        reader, valid = read_valid(path, level, kind)
        expected = (image[:: level + 1, :: level + 1] != 0).any(axis=2)
        assert reader.has_valid
        assert not expected.all()
        np.testing.assert_array_equal(valid, expected)


@pytest.mark.parametrize("older", [False, True])
def test_nodata_of_overviews_that_are_older_than_it(tmp_path, older):
    """GDAL alone says that every pixel of these overviews is valid."""
    image = noise(128, 192) // 2 + 1
    hole = np.zeros((128, 192), bool)
    hole[32:64, 48:96] = True
    image[hole] = 0
    path = write_tiff(tmp_path / "a.tif", image, nodata=() if older else (0, 0, 0))
    dataset = gdal.Open(str(path), gdal.GA_Update)
    dataset.BuildOverviews("NEAREST", [2, 4])
    for band in range(1, 4):
        dataset.GetRasterBand(band).SetNoDataValue(0)
    del dataset
    for level in range(3):
        reader, valid = read_valid(path, level)
        np.testing.assert_array_equal(valid, ~hole[:: 2**level, :: 2**level])
    assert len(reader.levels) == 3


def test_nodata_that_is_not_a_number(tmp_path):
    image = noise(40, 50, 1, "float32")
    image[noise(40, 50, 1) > 128] = np.nan
    _, valid = read_valid(write_tiff(tmp_path / "a.tif", image, nodata=(float("nan"),)))
    np.testing.assert_array_equal(valid, ~np.isnan(image[..., 0]))


def test_nodata_of_a_colour(tmp_path):
    """A PNG may declare one RGB colour transparent: the whole colour, not each of its bands."""
    image = noise(30, 30) % 2 * 255
    Image.fromarray(image).save(tmp_path / "a.png", transparency=(255, 0, 255))
    reader, valid = read_valid(tmp_path / "a.png")
    assert reader.has_valid
    np.testing.assert_array_equal(valid, (image != [255, 0, 255]).any(axis=2))


def test_nodata_before_inversion_and_stretching(tmp_path):
    image = noise(40, 30, 1) % 16
    path = write_tiff(tmp_path / "a.tif", image, options=("NBITS=4", "PHOTOMETRIC=MINISWHITE"), nodata=(15,))
    np.testing.assert_array_equal(read_valid(path)[1], image[..., 0] != 15)


def test_a_plain_image_has_no_mask(tmp_path):
    reader, valid = read_valid(write_tiff(tmp_path / "a.tif", noise(40, 30)))
    assert not reader.has_valid
    assert valid.all()


def test_mask_of_a_cog(tmp_path):
    mask = noise(256, 256, 1)[..., 0] > 70
    path = write_cog(tmp_path / "a.tif", noise(256, 256), mask=mask, factors=(2, 4))
    for level in range(3):
        _, valid = read_valid(path, level, CogReader)
        np.testing.assert_array_equal(valid, mask[:: 2**level, :: 2**level])
