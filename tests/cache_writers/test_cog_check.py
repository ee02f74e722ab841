"""Which files can be used in place; made by GDAL and tifffile, not by the package."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from osgeo import gdal

from slidesampler.cache.codecs import cog_codecs
from slidesampler.cache.cog_check import valid_cog
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader


def memory_image(shape=(900, 800, 3), dtype=np.uint8):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, shape).astype(dtype)
    kind = {"uint8": 1, "uint16": 2, "int16": 3, "float32": 6, "float64": 7, "int32": 5}[np.dtype(dtype).name]
    dataset = gdal.GetDriverByName("MEM").Create("", shape[1], shape[0], shape[2], kind)
    for number in range(shape[2]):
        dataset.GetRasterBand(number + 1).WriteArray(pixels[:, :, number])
    return dataset


def write(path, source, driver="COG", options=()):
    copy = gdal.GetDriverByName(driver).CreateCopy(str(path), source, options=list(options))
    assert copy is not None
    copy = None
    return path


@pytest.mark.parametrize(
    "codec", [name for name in ("deflate", "zstd", "jpeg", "webp", "none") if name in cog_codecs()]
)
def test_cogs_of_any_codec(tmp_path, codec):
    assert valid_cog(write(tmp_path / "a.tif", memory_image(), options=[f"COMPRESS={codec}", "BLOCKSIZE=256"]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_cogs_of_any_kind_of_pixels(tmp_path, dtype, channels):
    path = write(tmp_path / "a.tif", memory_image((600, 700, channels), dtype))
    assert valid_cog(path)
    # Whoever reads it in place sees what the presenting reader shows.
    stored, shown = CogReader(str(path)), GdalReader(str(path))
    window = stored.levels[0]
    assert (stored.shape, stored.dtype, window) == (shown.shape, shown.dtype, shown.levels[0])
    stored.close()
    shown.close()


def test_alpha_and_masks_are_read_where_they_are(tmp_path):
    image = memory_image((600, 700, 4))
    image.GetRasterBand(4).SetColorInterpretation(gdal.GCI_AlphaBand)
    path = write(tmp_path / "a.tif", image)
    assert valid_cog(path)
    reader = CogReader(str(path))
    assert reader.shape == (600, 700, 3)
    assert reader.has_valid
    reader.close()


def test_a_small_one_needs_no_overviews(tmp_path):
    assert valid_cog(write(tmp_path / "a.tif", memory_image((100, 90, 3))))


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_other_dtypes_are_copied(tmp_path, dtype):
    assert not valid_cog(write(tmp_path / "a.tif", memory_image((600, 700, 1), dtype)))


def test_tiffs_that_are_no_cogs(tmp_path):
    image = memory_image()
    tiled = ["TILED=YES", "COMPRESS=DEFLATE"]
    assert not valid_cog(write(tmp_path / "strips.tif", image, "GTiff"))
    assert not valid_cog(write(tmp_path / "no_overviews.tif", image, "GTiff", tiled))
    # Overviews after the pixels, and in a file of their own.
    late = write(tmp_path / "late.tif", image, "GTiff", tiled)
    dataset = gdal.Open(str(late), gdal.GA_Update)
    dataset.BuildOverviews("AVERAGE", [2, 4])
    dataset = None
    assert not valid_cog(late)
    outside = write(tmp_path / "outside.tif", image, "GTiff", tiled)
    dataset = gdal.Open(str(outside))
    dataset.BuildOverviews("AVERAGE", [2, 4])
    dataset = None
    assert (tmp_path / "outside.tif.ovr").is_file()
    assert not valid_cog(outside)


def test_a_pyramid_that_stops_short_is_copied(tmp_path):
    image = memory_image((3000, 2000, 1))
    path = write(tmp_path / "a.tif", image, options=["OVERVIEW_COUNT=1", "BLOCKSIZE=256"])
    assert not valid_cog(path)


def test_pixels_that_need_presentation_are_copied(tmp_path):
    palette = memory_image((600, 700, 1))
    table = gdal.ColorTable()
    table.SetColorEntry(3, (255, 0, 0, 255))
    palette.GetRasterBand(1).SetColorTable(table)
    assert not valid_cog(write(tmp_path / "palette.tif", palette))

    bits = memory_image((200, 300, 1))
    path = write(
        tmp_path / "bits.tif", bits, "GTiff", ["NBITS=4", "TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256"]
    )
    assert gdal.Open(str(path)).GetRasterBand(1).GetMetadataItem("NBITS", "IMAGE_STRUCTURE") == "4"
    assert not valid_cog(path)

    # A tile's worth of pixels, so that plain TIFFs are valid COGs but for the tag.
    grey = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    options = {"tile": (256, 256), "metadata": None}
    tifffile.imwrite(tmp_path / "black.tif", grey, photometric="minisblack", **options)
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite", **options)
    tifffile.imwrite(
        tmp_path / "turned.tif", grey, photometric="minisblack", extratags=[(274, 3, 1, 6, True)], **options
    )
    tifffile.imwrite(
        tmp_path / "upright.tif", grey, photometric="minisblack", extratags=[(274, 3, 1, 1, True)], **options
    )
    found = {name: valid_cog(tmp_path / f"{name}.tif") for name in ("black", "white", "turned", "upright")}
    assert found == {"black": True, "white": False, "turned": False, "upright": True}


def test_odd_things_are_no_cogs_and_no_errors(tmp_path, capfd):
    good = write(tmp_path / "good.tif", memory_image())
    assert not valid_cog(tmp_path / "missing.tif")
    assert not valid_cog(tmp_path)
    assert not valid_cog("")
    (tmp_path / "empty.tif").touch()
    assert not valid_cog(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("not a TIFF")
    assert not valid_cog(tmp_path / "text.tif")
    data = good.read_bytes()
    for share in (0.0001, 0.001, 0.01):
        (tmp_path / "cut.tif").write_bytes(data[: int(len(data) * share)])
        assert not valid_cog(tmp_path / "cut.tif")
    renamed = tmp_path / "picture.png"
    write(renamed, memory_image(), "PNG")
    assert not valid_cog(renamed)
    # It is a question, not a complaint.
    assert capfd.readouterr() == ("", "")
    assert valid_cog(good)
    assert valid_cog(os.fspath(good))


def test_a_codec_that_gdal_cannot_decode(tmp_path):
    path = write(tmp_path / "a.tif", memory_image((200, 200, 1)), options=["COMPRESS=DEFLATE"])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].tags["Compression"].valueoffset
    # 34887 is LERC, without the parameters that it needs.
    data[offset : offset + 2] = (34887).to_bytes(2, "little")
    path.write_bytes(data)
    assert not valid_cog(path)


def test_the_cost_does_not_grow_with_the_file(tmp_path):
    # 40,000 x 40,000 pixels, nearly all of them holes: reading it would take minutes.
    path = tmp_path / "sparse.tif"
    dataset = gdal.GetDriverByName("GTiff").Create(
        str(tmp_path / "base.tif"),
        40_000,
        40_000,
        1,
        options=["TILED=YES", "SPARSE_OK=TRUE", "COMPRESS=DEFLATE"],
    )
    dataset.GetRasterBand(1).WriteArray(np.ones((100, 100), np.uint8))
    dataset.BuildOverviews("NONE", [2**k for k in range(1, 8)])
    write(path, dataset, options=["SPARSE_OK=YES", "OVERVIEWS=FORCE_USE_EXISTING"])
    dataset = None
    before = _io()
    assert valid_cog(path)
    after = _io()
    assert after["rchar"] - before["rchar"] < 2_000_000


def _io():
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("the system does not count what a process reads")
    with counters.open() as file:
        return {name: int(value) for name, value in (line.split(": ") for line in file)}


def test_the_package_s_own_cogs_are_valid(tools, tmp_path):
    from slidesampler.cache.spec import BuildSpec
    from slidesampler.cache.write import write_image

    valid = np.ones((700, 600), bool)
    valid[:9] = False
    write_image(tools.reader(np.zeros((700, 600, 4), np.uint8), valid), tmp_path, BuildSpec(tile=128))
    shutil.move(tmp_path / "image.tif", tmp_path / "moved.tif")
    assert valid_cog(tmp_path / "moved.tif")
