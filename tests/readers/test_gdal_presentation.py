"""What a person sees: palettes, few bits, white that is zero, orientation; expected by PIL or by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from osgeo import gdal
from PIL import Image, ImageOps
from raster_files import noise, write_tiff

from slidesampler.errors import UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers import ReaderSpec, open_reader
from slidesampler.readers.gdal import GdalReader


def read_all(path: Path, **kwargs):
    reader = GdalReader(str(path), **kwargs)
    whole = Window(0, 0, *reader.shape[:2])
    pixels, valid = reader.read(whole), reader.read_valid(whole)
    # A window must be a slice of the whole, whatever is done to the pixels.
    part = Window(1, 2, 4, 3)
    np.testing.assert_array_equal(reader.read(part), pixels[part.as_slices()])
    np.testing.assert_array_equal(reader.read_valid(part), valid[part.as_slices()])
    reader.close()
    return pixels, valid, reader


def indexed(colours: int = 5):
    index = noise(12, 20, 1)[..., 0] % colours
    table = noise(1, colours, 3, seed=7)[0]
    picture = Image.fromarray(index).convert("P")
    picture.putpalette(table.ravel().tolist())
    return index, table, picture


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp", "a.tif"])
def test_a_palette_is_expanded(tmp_path, name):
    _, _, picture = indexed()
    picture.save(tmp_path / name)
    pixels, valid, reader = read_all(tmp_path / name)
    with Image.open(tmp_path / name) as again:
        np.testing.assert_array_equal(pixels, np.asarray(again.convert("RGB")))
    assert valid.all()
    assert reader.channels == ("r", "g", "b")
    assert reader.dtype == np.uint8


def test_channels_of_a_palette_are_selected(tmp_path):
    index, table, picture = indexed()
    picture.save(tmp_path / "a.png")
    reader = GdalReader(str(tmp_path / "a.png"))
    pixels = reader.read(Window(2, 3, 5, 6), channels=(2, 0))
    np.testing.assert_array_equal(pixels, table[index[2:7, 3:9]][..., [2, 0]])
    reader.close()


def test_raw_keeps_the_indices(tmp_path):
    index, _, picture = indexed()
    picture.save(tmp_path / "a.png", transparency=2)
    pixels, _, reader = read_all(tmp_path / "a.png", raw=True)
    np.testing.assert_array_equal(pixels[..., 0], index)
    assert reader.shape == (12, 20, 1)


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_transparent_colour_is_not_valid(tmp_path, name):
    index, _, picture = indexed()
    picture.save(tmp_path / name, transparency=2)
    _, valid, reader = read_all(tmp_path / name)
    assert reader.has_valid
    np.testing.assert_array_equal(valid, index != 2)


def test_a_half_transparent_colour_is_valid(tmp_path):
    index, _, picture = indexed()
    picture.save(tmp_path / "a.png", transparency=bytes([255, 0, 1, 128, 255]))
    _, valid, _ = read_all(tmp_path / "a.png")
    np.testing.assert_array_equal(valid, index != 1)


def test_a_palette_of_greys_is_one_channel(tmp_path):
    index = noise(12, 20, 1)[..., 0] % 3
    picture = Image.fromarray(index).convert("P")
    picture.putpalette(np.repeat([200, 10, 90], 3).tolist())
    picture.save(tmp_path / "a.tif")
    # Pillow fills the palette of a TIFF up to 256 colours, with greys.
    pixels, _, reader = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels[..., 0], np.array([200, 10, 90])[index])
    assert reader.channels == ("gray",)


def test_a_palette_of_16_bits(tmp_path):
    index = noise(12, 20, 1, "uint16")[..., 0] % 300
    driver = gdal.GetDriverByName("GTiff")
    dataset = driver.Create(str(tmp_path / "a.tif"), 20, 12, 1, gdal.GDT_UInt16)
    table = gdal.ColorTable()
    colours = noise(1, 300, 3, seed=3)[0]
    for i, colour in enumerate(colours):
        table.SetColorEntry(i, (*map(int, colour), 255))
    dataset.GetRasterBand(1).SetColorTable(table)
    dataset.GetRasterBand(1).WriteArray(index)
    del dataset
    pixels, _, _ = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, colours[index])


@pytest.mark.parametrize("options", [{}, {"compression": "group4"}, {"compression": "packbits"}])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.bmp"])
def test_one_bit_is_black_and_white(tmp_path, name, options):
    if options and name != "a.tif":
        options = {}
    bits = noise(12, 20, 1)[..., 0] > 120
    Image.fromarray(bits).save(tmp_path / name, **options)
    pixels, _, reader = read_all(tmp_path / name)
    np.testing.assert_array_equal(pixels[..., 0], bits * 255)
    assert (reader.shape, reader.dtype) == ((12, 20, 1), np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7])
def test_few_bits_are_stretched(tmp_path, bits):
    top = 2**bits - 1
    image = noise(40, 30, 1) % (top + 1)
    path = write_tiff(tmp_path / "a.tif", image, options=(f"NBITS={bits}",))
    pixels, _, _ = read_all(path)
    np.testing.assert_array_equal(pixels, np.rint(image * (255 / top)))
    stored, _, _ = read_all(path, raw=True)
    np.testing.assert_array_equal(stored, image)


def test_few_bits_of_three_bands(tmp_path):
    image = noise(40, 30, 3) % 16
    path = write_tiff(tmp_path / "a.tif", image, options=("NBITS=4",))
    pixels, _, _ = read_all(path)
    np.testing.assert_array_equal(pixels, image * 17)
    reader = GdalReader(str(path))
    np.testing.assert_array_equal(reader.read(Window(0, 0, 9, 9), channels=(2, 1)), image[:9, :9, [2, 1]] * 17)
    reader.close()


def test_twelve_bits_are_left_alone(tmp_path):
    image = noise(40, 30, 1, "uint16") % 4096
    pixels, _, _ = read_all(write_tiff(tmp_path / "a.tif", image, options=("NBITS=12",)))
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_min_is_white_is_inverted(tmp_path, dtype):
    if dtype == "bool":
        image = noise(12, 20, 1)[..., 0] > 99
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite", bitspersample=1)
        expected = np.where(image, 0, 255)
    else:
        image = noise(12, 20, 1, dtype)[..., 0]
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
        expected = np.iinfo(dtype).max - image
    pixels, _, _ = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels[..., 0], expected)
    stored, _, _ = read_all(tmp_path / "a.tif", raw=True)
    np.testing.assert_array_equal(stored[..., 0], image)


@pytest.mark.parametrize("code", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "big.tif"])
def test_orientation_is_applied(tmp_path, name, code):
    image, path = noise(48, 80), tmp_path / name
    if name.endswith(".tif"):
        tags = [(274, "H", 1, code, True)]
        tifffile.imwrite(
            path, image, tile=(16, 16), photometric="rgb", extratags=tags, bigtiff=name == "big.tif"
        )
        # By numpy alone, from the table of TIFF 6.0: tifffile and GDAL leave the turning to the reader.
        turned = {
            1: image,
            2: image[:, ::-1],
            3: image[::-1, ::-1],
            4: image[::-1],
            5: image.swapaxes(0, 1),
            6: np.rot90(image, -1),
            7: image[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(image),
        }[code]
    else:
        exif = Image.Exif()
        exif[274] = code
        options = {"lossless": True} if "webp" in name else {}
        Image.fromarray(image).save(path, exif=exif.tobytes(), **options)
        with Image.open(path) as again:
            turned = np.asarray(ImageOps.exif_transpose(again).convert("RGB"))
    pixels, _, reader = read_all(path)
    assert reader.shape == turned.shape
    # Two JPEG decoders may differ by rounding.
    assert np.abs(pixels.astype(int) - turned).max() <= (2 if name == "a.jpg" else 0)


def test_orientation_of_a_big_endian_file_and_a_second_page(tmp_path):
    image = noise(24, 40, 1)[..., 0]
    with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=">") as tiff:
        tiff.write(image, photometric="minisblack", extratags=[(274, "H", 1, 8, True)])
        tiff.write(image, photometric="minisblack", extratags=[(274, "H", 1, 3, True)])
    first, _, _ = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(first[..., 0], np.rot90(image))
    second, _, _ = read_all(f"GTIFF_DIR:2:{tmp_path / 'a.tif'}")
    np.testing.assert_array_equal(second[..., 0], image[::-1, ::-1])


def test_orientation_turns_alpha_and_mask(tmp_path):
    image, alpha = noise(24, 40, 4), noise(24, 40, 1, seed=1)[..., 0] // 200
    image[..., 3] = alpha
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unassalpha"], extratags=tags)
    pixels, valid, _ = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, np.rot90(image[..., :3], -1))
    np.testing.assert_array_equal(valid, np.rot90(alpha > 0, -1))


def test_orientation_in_a_zip(tmp_path):
    import zipfile

    image = noise(24, 40, 1)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", extratags=[(274, "H", 1, 3, True)])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "a.tif")
    reader = open_reader(ReaderSpec("auto", f"/vsizip/{tmp_path}/a.zip/a.tif"))
    np.testing.assert_array_equal(reader.read(Window(0, 0, 24, 40))[..., 0], image[::-1, ::-1])
    reader.close()


def test_orientation_turns_mpp_and_levels(tmp_path):
    image = noise(64, 128)
    options = {"tile": (16, 16), "photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        # 20,000 pixels a centimetre across, 40,000 down, as stored.
        tiff.write(image, resolution=(20000, 40000), resolutionunit="CENTIMETER", **options)
        tiff.write(image[::2, ::2], subfiletype=1, **options)
    _, _, reader = read_all(tmp_path / "a.tif")
    assert reader.mpp == pytest.approx((0.5, 0.25))
    assert [(level.height, level.width) for level in reader.levels] == [(128, 64), (64, 32)]


def test_a_cmyk_tiff_with_orientation_is_refused(tmp_path):
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 8, 4), photometric="separated", extratags=tags)
    with pytest.raises(UnsupportedSourceError, match="CMYK"):
        GdalReader(str(tmp_path / "a.tif"))


def test_signed_bytes(tmp_path):
    image = noise(40, 30, 2, "int8")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", planarconfig="contig")
    pixels, _, reader = read_all(tmp_path / "a.tif")
    assert reader.dtype == np.int8
    np.testing.assert_array_equal(pixels, image)


def test_bands_of_several_dtypes_are_promoted(tmp_path):
    low, high = noise(20, 30, 1), noise(20, 30, 1, "int16")
    a, b = write_tiff(tmp_path / "a.tif", low), write_tiff(tmp_path / "b.tif", high)
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (kind, path) in enumerate((("Byte", a), ("Int16", b)), 1)
    )
    (tmp_path / "c.vrt").write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{bands}</VRTDataset>')
    pixels, _, reader = read_all(tmp_path / "c.vrt")
    assert reader.dtype == np.int16
    np.testing.assert_array_equal(pixels, np.concatenate([low, high], axis=2))


def test_complex_numbers_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.ones((8, 8, 1), "complex64"))
    with pytest.raises(UnsupportedSourceError, match="CFloat32"):
        GdalReader(str(path))


def test_a_container_names_its_members(tmp_path):
    driver = gdal.GetDriverByName("netCDF")
    if driver is None:
        pytest.skip("this GDAL has no netCDF driver to write a container with")
    # Two variables: a netCDF with one opens as a raster by itself.
    image = noise(8, 9, 1)
    dataset = gdal.GetDriverByName("MEM").Create("", 9, 8, 2)
    for i in (1, 2):
        dataset.GetRasterBand(i).WriteArray(image[..., 0])
    driver.CreateCopy(str(tmp_path / "a.nc"), dataset)
    with pytest.raises(UnsupportedSourceError) as caught:
        GdalReader(str(tmp_path / "a.nc"))
    for name in ("Band1", "Band2"):
        assert f'NETCDF:"{tmp_path}/a.nc":{name}' in str(caught.value)
    reader = open_reader(ReaderSpec("auto", f'NETCDF:"{tmp_path}/a.nc":Band1'))
    assert reader.shape == (8, 9, 1)
    reader.close()


def test_only_the_bands_asked_for_are_read(tmp_path):
    image = noise(64, 64, 5)
    path = write_tiff(tmp_path / "a.tif", image, options=("INTERLEAVE=BAND", "COMPRESS=DEFLATE"))
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        strips = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    # Every strip of the third band is destroyed: reads that leave it out do not notice.
    per_band = len(strips) // 5
    for start, size in strips[2 * per_band : 3 * per_band]:
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    reader = GdalReader(str(path))
    for channels in itertools.permutations((0, 1, 3, 4), 2):
        pixels = reader.read(Window(0, 0, 64, 64), channels=channels)
        np.testing.assert_array_equal(pixels, image[..., list(channels)])
    with pytest.raises(OSError, match=r"a\.tif"):
        reader.read(Window(0, 0, 64, 64), channels=(2,))
    reader.close()
