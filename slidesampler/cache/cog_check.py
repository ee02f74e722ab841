"""Whether a file that is there already can be used as a cache entry where it lies."""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from osgeo_utils.samples.validate_cloud_optimized_geotiff import validate

from slidesampler.cache.gdal_write import gdal, gdal_array
from slidesampler.readers.forking import FORK_GATE
from slidesampler.readers.headers import read_header
from slidesampler.readers.orientation import UPRIGHT

__all__ = ["valid_cog"]

_DTYPES = tuple(map(np.dtype, (np.uint8, np.uint16, np.int16, np.float32)))
#: A level of a COG that is used in place is at most this much coarser than the one before.
_MAX_STEP = 4.5


def valid_cog(path: str | os.PathLike[str]) -> bool:
    """Say whether a file can be used in place: a valid COG whose pixels need no presentation.

    A COG here is what GDAL's validator finds no error and no warning in, with square tiles of 64 to 1024
    pixels and overviews, internal ones, down to one tile or 512 pixels. "No presentation" means that
    :mod:`slidesampler.readers.gdal` would change nothing: no palette, no values of a few bits, no inverted
    grey, no rotation by a tag; and a dtype of the cache. Alpha, masks and nodata are read from where they
    are. How it is compressed, with or without loss, does not matter as long as this GDAL can read it.

    Parameters
    ----------
    path : str or path
        A local file.

    Returns
    -------
    bool
        False for whatever is odd, missing or broken; never raises. The cost is a few reads, whatever the file's
        size: headers, and one tile of the smallest level.
    """
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        with FORK_GATE:
            return _usable(os.fspath(path))
    except Exception:  # an odd file is not an error here, it is built like any other
        return False
    finally:
        gdal.PopErrorHandler()


def _usable(path: str) -> bool:
    if not os.path.isfile(path):  # noqa: PTH113 -- GDAL's names are no paths
        return False
    dataset = gdal.OpenEx(path, gdal.OF_RASTER, allowed_drivers=["GTiff"])
    if dataset is None or dataset.RasterCount == 0:
        return False
    bands = [dataset.GetRasterBand(number + 1) for number in range(dataset.RasterCount)]
    if not (_is_plain(path, dataset, bands) and _is_tiled_pyramid(bands)):
        return False
    warnings, errors, _ = validate(dataset, full_check=False)
    return not warnings and not errors and _can_decode(bands)


def _is_plain(path: str, dataset: Any, bands: list[Any]) -> bool:
    kinds = {band.DataType for band in bands}
    if len(kinds) > 1 or gdal_array.GDALTypeCodeToNumericTypeCode(kinds.pop()) not in _DTYPES:
        return False
    structure = dataset.GetMetadata("IMAGE_STRUCTURE") or {}
    # JPEG's YCbCr comes out as RGB everywhere; CMYK and CIELAB take more than that.
    if structure.get("MINISWHITE") == "YES" or structure.get("SOURCE_COLOR_SPACE", "YCbCr") != "YCbCr":
        return False
    with open(path, "rb") as file:
        upright = read_header(partial(_read_at, file)).orientation == UPRIGHT
    return upright and all(
        band.GetColorTable() is None
        and int(band.GetMetadataItem("NBITS", "IMAGE_STRUCTURE") or 8) >= 8
        and band.GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") is None
        for band in bands
    )


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _is_tiled_pyramid(bands: list[Any]) -> bool:
    band = bands[0]
    levels = [band, *(band.GetOverview(number) for number in range(band.GetOverviewCount()))]
    for level in levels:
        columns, rows = level.GetBlockSize()
        if columns != rows or not 64 <= columns <= 1024:
            return False
    for finer, coarser in pairwise(levels):
        if max(finer.XSize / coarser.XSize, finer.YSize / coarser.YSize) > _MAX_STEP:
            return False
    top = max(levels[-1].XSize, levels[-1].YSize)
    return bool(top <= max(512, levels[-1].GetBlockSize()[0]))


def _can_decode(bands: list[Any]) -> bool:
    """Whether this GDAL has the codec: it opens files that it cannot decode."""
    band = bands[0]
    if band.GetOverviewCount():
        band = band.GetOverview(band.GetOverviewCount() - 1)
    columns, rows = band.GetBlockSize()
    return band.ReadRaster(0, 0, min(columns, band.XSize), min(rows, band.YSize)) is not None
