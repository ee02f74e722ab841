"""Who reads what of a TIFF without a table: tiles natively, the rest GDAL, and all of it as GDAL has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from raster_files import noise, write_tiff

from slidesampler import _native
from slidesampler.geometry import Window
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader

pytestmark = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")

SIZE = (200, 170)
TILED = ("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64", "COMPRESS=DEFLATE")


def flags(seed: int = 1):
    return (noise(*SIZE, 1, seed=seed)[..., 0] > 99).astype(np.uint8) * 255


def with_nodata(path: Path, *values: float) -> Path:
    dataset = gdal.Open(str(path), gdal.GA_Update)
    for number, value in enumerate(values, 1):
        dataset.GetRasterBand(number).SetNoDataValue(value)
    dataset.BuildOverviews("NEAREST", [2])
    del dataset
    return path


def make(kind: str, path: Path) -> Path:
    if kind == "all valid":
        return write_tiff(path, noise(*SIZE), options=TILED, factors=(2,))
    if kind == "alpha":
        return write_tiff(path, noise(*SIZE), alpha=flags(), options=TILED, factors=(2,))
    if kind == "mask":
        return write_tiff(path, noise(*SIZE), mask=flags(), options=TILED, factors=(2,))
    if kind == "nodata":
        image = noise(*SIZE)
        image[40:90, 30:80] = 7
        return with_nodata(write_tiff(path, image, options=TILED), 7, 7, 7)
    if kind == "nodata of floats":
        image = noise(*SIZE, 1, "float32")
        image[40:90, 30:80] = -9999
        return with_nodata(write_tiff(path, image, options=TILED), -9999)
    if kind == "alpha and mask":
        return write_tiff(path, noise(*SIZE), alpha=flags(), mask=flags(2), options=TILED)
    if kind == "alpha of signed numbers":
        alpha = flags().astype(np.int16) - 100
        return write_tiff(path, noise(*SIZE, 3, "int16"), alpha=alpha, options=TILED)
    assert kind == "strips"
    return write_tiff(path, noise(*SIZE), alpha=flags(), options=("TILED=NO",))


@pytest.mark.parametrize(
    ("kind", "pixels", "valid"),
    [
        ("all valid", True, None),
        ("alpha", True, True),
        ("mask", True, True),
        # By the tiles, though not by a layer of their own.
        ("nodata", True, None),
        ("nodata of floats", True, False),
        ("alpha and mask", True, False),
        ("alpha of signed numbers", True, False),
        ("strips", False, False),
    ],
)
def test_what_the_compiled_reader_knows_is_read_by_it_and_the_rest_by_gdal(tmp_path, kind, pixels, valid):
    path = make(kind, tmp_path / "a.tif")
    reader = CogReader(str(path))
    # GDAL has the file open only where it has something to read.
    opened = sum(str(link.resolve()) == str(path) for link in Path("/proc/self/fd").iterdir())
    assert opened == 1 + (pixels and valid is False)
    other = GdalReader(str(path))
    assert (reader.shape, reader.dtype, reader.levels) == (other.shape, other.dtype, other.levels)
    assert (reader.mpp, reader.channels, reader.has_valid) == (other.mpp, other.channels, other.has_valid)
    assert (reader.native(0) is not None) == pixels
    assert (reader.native_valid(0) is not None) == bool(valid)
    for number, level in enumerate(reader.levels):
        window = Window(3, 5, level.height - 8, level.width - 9)
        np.testing.assert_array_equal(reader.read(window, number), other.read(window, number))
        found = reader.read_valid(window, number)
        np.testing.assert_array_equal(found, other.read_valid(window, number))
        assert found.all() == (kind == "all valid")
        np.testing.assert_array_equal(
            reader.read(window, number, channels=(0,)), other.read(window, number, channels=(0,))
        )
    reader.close()
    other.close()
    with pytest.raises(OSError, match="closed"):
        reader.read(Window(0, 0, 1, 1))
    with pytest.raises(OSError, match="closed"):
        reader.read_valid(Window(0, 0, 1, 1))
