"""Which overviews are levels, and what GDAL rasters say of names and pixel sizes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from osgeo import gdal, osr
from PIL import Image
from raster_files import halve, noise, write_tiff

from slidesampler.geometry import Window
from slidesampler.readers._gdal_levels import is_reduction
from slidesampler.readers.gdal import GdalReader


@given(
    st.tuples(st.integers(2, 10_000), st.integers(2, 10_000)),
    st.floats(1.01, 300),
    st.tuples(st.booleans(), st.booleans()),
)
def test_what_a_ratio_gives_is_a_reduction(full, ratio, up):
    reduced = tuple(-int(-n // ratio) if ceil else int(n // ratio) for n, ceil in zip(full, up, strict=True))
    if min(reduced) >= 1 and reduced != full:
        assert is_reduction(full, reduced)


@pytest.mark.parametrize("reduced", [(463, 387), (431, 1280), (2967, 2220), (2967, 1110), (3000, 2300), (0, 5)])
def test_other_pictures_are_no_reductions(reduced):
    assert not is_reduction((2967, 2220), reduced)


def levels_of(path):
    reader = GdalReader(str(path))
    levels = [(level.height, level.width) for level in reader.levels]
    reader.close()
    return levels


def test_label_and_macro_of_a_slide_are_no_levels(real_slide):
    dataset = gdal.OpenEx(str(real_slide))
    assert dataset.GetRasterBand(1).GetOverviewCount() > 0
    assert levels_of(real_slide) == [(2967, 2220)]


def test_external_overviews_are_levels(tmp_path):
    image = noise(64, 128)
    path = write_tiff(tmp_path / "a.tif", image)
    dataset = gdal.OpenEx(str(path))
    dataset.BuildOverviews("NEAREST", [2])
    del dataset
    assert (tmp_path / "a.tif.ovr").exists()
    reader = GdalReader(str(path))
    np.testing.assert_array_equal(reader.read(Window(3, 4, 20, 30), 1), halve(image)[3:23, 4:34])
    reader.close()


def test_grey_overviews_of_one_bit_are_no_levels(tmp_path):
    write_tiff(tmp_path / "a.tif", noise(128, 128, 1) % 2, options=("NBITS=1",))
    dataset = gdal.OpenEx(str(tmp_path / "a.tif"), gdal.OF_UPDATE)
    dataset.BuildOverviews("AVERAGE_BIT2GRAYSCALE", [2])
    del dataset
    assert levels_of(tmp_path / "a.tif") == [(128, 128)]


def test_reductions_of_a_jpeg_are_levels_and_its_thumbnail_is_not(tmp_path):
    picture = Image.fromarray(noise(600, 800))
    picture.save(tmp_path / "a.jpg")
    assert levels_of(tmp_path / "a.jpg") == [(600, 800), (300, 400), (150, 200)]
    # A thumbnail of 1/5, in the EXIF block, by hand: IFD0 without tags, then IFD1 with the place of the JPEG.
    thumbnail = io.BytesIO()
    picture.resize((160, 120)).save(thumbnail, "jpeg")
    jpeg = thumbnail.getvalue()
    entries = ((0x103, 3, 6), (0x201, 4, 8 + 6 + 2 + 36 + 4), (0x202, 4, len(jpeg)))
    ifd1 = struct.pack("<H", 3) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 14) + ifd1 + bytes(4) + jpeg
    picture.save(tmp_path / "b.jpg", exif=exif)
    dataset = gdal.OpenEx(str(tmp_path / "b.jpg"))
    band = dataset.GetRasterBand(1)
    assert 160 in [band.GetOverview(i).XSize for i in range(band.GetOverviewCount())]
    assert (120, 160) not in levels_of(tmp_path / "b.jpg")


def test_overviews_of_a_vrt_are_those_of_its_bands(tmp_path):
    """The dataset behind an overview of this VRT has its bands in another order."""
    image = noise(64, 64)
    path, small = write_tiff(tmp_path / "a.tif", image), write_tiff(tmp_path / "b.tif", halve(image))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{i}"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        f"<SourceBand>{source}</SourceBand></SimpleSource><Overview><SourceFilename>{small}</SourceFilename>"
        f"<SourceBand>{source}</SourceBand></Overview></VRTRasterBand>"
        for i, source in ((1, 3), (2, 1), (3, 2))
    )
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{bands}</VRTDataset>')
    reader = GdalReader(str(tmp_path / "a.vrt"))
    for level, expected in enumerate((image, halve(image))[: len(reader.levels)]):
        whole = Window(0, 0, *expected.shape[:2])
        np.testing.assert_array_equal(reader.read(whole, level), expected[..., [2, 0, 1]])
    assert len(reader.levels) == 2
    reader.close()


def facts(path):
    reader = GdalReader(str(path))
    reader.close()
    return reader


def test_channel_names(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise(16, 16, 2))
    assert facts(path).channels == ()
    dataset = gdal.OpenEx(str(path), gdal.OF_UPDATE)
    dataset.GetRasterBand(1).SetDescription("DAPI")
    del dataset
    # One name of two says less than none.
    assert facts(path).channels == ()
    dataset = gdal.OpenEx(str(path), gdal.OF_UPDATE)
    dataset.GetRasterBand(2).SetDescription("CD3")
    del dataset
    assert facts(path).channels == ("DAPI", "CD3")


@pytest.mark.parametrize(
    ("unit", "resolution", "mpp"),
    [
        ("CENTIMETER", (20000, 40000), (0.25, 0.5)),
        ("INCH", (50800, 50800), (0.5, 0.5)),
        ("INCH", (72, 72), None),
        ("INCH", (300, 300), None),
        ("NONE", (20000, 20000), None),
        ("CENTIMETER", (0, 20000), None),
    ],
)
def test_mpp_of_resolution_tags(tmp_path, unit, resolution, mpp):
    tifffile.imwrite(
        tmp_path / "a.tif", noise(16, 16), photometric="rgb", resolution=resolution, resolutionunit=unit
    )
    assert facts(tmp_path / "a.tif").mpp == (mpp and pytest.approx(mpp))


def test_mpp_of_descriptions(tmp_path, real_slide):
    assert facts(real_slide).mpp == (0.499, 0.499)
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        noise(16, 16),
        photometric="rgb",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"},
    )
    assert facts(tmp_path / "a.ome.tif").mpp == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(("epsg", "mpp"), [(32633, (2e6, 0.5e6)), (2263, (609601.2, 152400.3)), (4326, None)])
def test_mpp_of_a_geotransform(tmp_path, epsg, mpp):
    """Metres, US survey feet, and degrees, which are no length."""
    path = write_tiff(tmp_path / "a.tif", noise(16, 16))
    dataset = gdal.OpenEx(str(path), gdal.OF_UPDATE)
    system = osr.SpatialReference()
    system.ImportFromEPSG(epsg)
    dataset.SetSpatialRef(system)
    dataset.SetGeoTransform((100.0, 0.5, 0.0, 50.0, 0.0, -2.0))
    del dataset
    assert facts(path).mpp == (mpp and pytest.approx(mpp, rel=1e-5))
