"""Rasters for the tests of the readers, written by GDAL and tifffile, with what must be read from them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from osgeo import gdal

from slidesampler import _native
from slidesampler.readers import ReaderSpec, open_reader
from slidesampler.readers.tile_survey import survey_tiles
from slidesampler.readers.tile_table import write_table

gdal.UseExceptions()

CODES = {
    "uint8": gdal.GDT_Byte,
    "uint16": gdal.GDT_UInt16,
    "int16": gdal.GDT_Int16,
    "uint32": gdal.GDT_UInt32,
    "int32": gdal.GDT_Int32,
    "float32": gdal.GDT_Float32,
    "float64": gdal.GDT_Float64,
    "complex64": gdal.GDT_CFloat32,
}


def noise(height: int, width: int, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Random pixels (H, W, C) over the range of the dtype."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(size=(height, width, channels)).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(info.min, int(info.max) + 1, (height, width, channels)).astype(kind)


def halve(image: NDArray[Any]) -> NDArray[Any]:
    """Every other pixel: what GDAL's nearest overviews of an even-sized image hold."""
    return image[::2, ::2]


def write_tiff(
    path: Path,
    image: NDArray[Any],
    *,
    alpha: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
    nodata: tuple[float | None, ...] = (),
    options: tuple[str, ...] = ("TILED=YES", "COMPRESS=DEFLATE", "BLOCKXSIZE=64", "BLOCKYSIZE=64"),
    factors: tuple[int, ...] = (),
    mask_first: bool = True,
) -> Path:
    """Write (H, W, C) by GDAL's GTiff driver, with nearest overviews of the given factors."""
    height, width, count = image.shape
    # Without the photometric GDAL takes the second band of 16-bit images for the alpha.
    extra = (
        () if alpha is None else ("ALPHA=YES", "PHOTOMETRIC=RGB" if count == 3 else "PHOTOMETRIC=MINISBLACK")
    )
    dataset = gdal.GetDriverByName("GTiff").Create(
        str(path), width, height, count + bool(extra), CODES[image.dtype.name], [*options, *extra]
    )
    for i in range(count):
        dataset.GetRasterBand(i + 1).WriteArray(image[..., i])
    if alpha is not None:
        dataset.GetRasterBand(count + 1).WriteArray(alpha)
    for i, value in enumerate(nodata):
        if value is not None:
            dataset.GetRasterBand(i + 1).SetNoDataValue(value)
    if not mask_first:
        dataset.BuildOverviews("NEAREST", list(factors))
    if mask is not None:
        gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", "YES")
        dataset.CreateMaskBand(gdal.GMF_PER_DATASET)
        gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", None)
        dataset.GetRasterBand(1).GetMaskBand().WriteArray(mask.astype(np.uint8) * 255)
    del dataset
    if factors and mask_first:
        dataset = gdal.OpenEx(str(path), gdal.OF_UPDATE)
        dataset.BuildOverviews("NEAREST", list(factors))
        del dataset
    return path


def write_cog(path: Path, image: NDArray[Any], *, codec: str = "DEFLATE", **kwargs: Any) -> Path:
    """Write a COG by GDAL's COG driver, from a TIFF with nearest overviews."""
    plain = write_tiff(path.with_suffix(".plain.tif"), image, **kwargs)
    source = gdal.OpenEx(str(plain))
    options = [f"COMPRESS={codec}", "BLOCKSIZE=128", "OVERVIEWS=FORCE_USE_EXISTING"]
    gdal.GetDriverByName("COG").CreateCopy(str(path), source, options=options)
    del source
    plain.unlink()
    return path


def write_pyramid(path: Path, image: NDArray[Any], levels: tuple[NDArray[Any], ...] = ()) -> Path:
    """Write a tiled TIFF that OpenSlide opens as generic-tiff, one level a page, by tifffile."""
    with tifffile.TiffWriter(path) as tiff:
        for k, level in enumerate((image, *levels)):
            tiff.write(level, tile=(64, 64), photometric="rgb", compression="zlib", subfiletype=int(k > 0))
    return path


def spec_by_table(path: Path, *, owned: bool = True) -> ReaderSpec:
    """Write the table of a TIFF's tiles beside it; without the compiled reader the spec of the same pixels."""
    if _native.tiles is None:
        return ReaderSpec("cog", str(path))
    with closing(open_reader(ReaderSpec("gdal", str(path), raw=True))) as reader:
        write_table(path.with_suffix(".tiles"), survey_tiles(reader, str(path), "cog", owned=owned))
    return ReaderSpec("tiled", str(path), (("tiles", str(path.with_suffix(".tiles"))),))
