"""What GDAL says of a TIFF that its directories do not: how its pixels are to be read tile by tile."""

from __future__ import annotations

from slidesampler.errors import UnsupportedSourceError
from slidesampler.readers._gdal_levels import LevelDatasets
from slidesampler.readers._gdal_valid import ValidMask, split_alpha
from slidesampler.readers.tile_survey import TileFacts

__all__ = ["tile_facts"]


def tile_facts(source: LevelDatasets, name: str, *, valid: bool = True) -> TileFacts:
    """Return which samples of a TIFF are its channels and, if ``valid``, what says which pixels are valid.

    Raises
    ------
    UnsupportedSourceError
        If GDAL makes something else of what is stored, or validity is no matter of one sample, mask or number.
    """
    if source.driver != "GTiff":
        raise UnsupportedSourceError(f"{name}: it is no TIFF but {source.driver}")
    space = source.base.GetMetadataItem("SOURCE_COLOR_SPACE", "IMAGE_STRUCTURE")
    if space not in (None, "YCbCr"):
        raise UnsupportedSourceError(f"{name}: its colours are {space}, which are converted when they are read")
    bands, _ = split_alpha(source.base)
    first = source.base.GetRasterBand(bands[0])
    if first.GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") is not None:
        raise UnsupportedSourceError(f"{name}: it holds signed bytes")
    nodata = first.GetNoDataValue()
    facts = TileFacts(
        tuple(band - 1 for band in bands),
        source.base.RasterCount,
        empty=0.0 if nodata is None else float(nodata),
    )
    mask = ValidMask(source, name)
    if not (valid and mask.present):
        return facts
    if mask.only_nodata is not None:
        return facts._replace(valid="nodata", valid_value=mask.only_nodata)
    if mask.only_band is None:
        raise UnsupportedSourceError(
            f"{name}: what is valid follows from floats, or from several things at once"
        )
    if mask.only_band == 0:
        return facts._replace(valid="masks")
    return facts._replace(valid="sample", valid_value=mask.only_band - 1)
