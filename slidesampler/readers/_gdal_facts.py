"""Names and pixel sizes that a GDAL raster states."""

from __future__ import annotations

import re
from typing import Any

from slidesampler.readers._gdal_io import gdal

__all__ = ["CREDIBLE_MPP", "channel_names", "pixel_size_um"]

#: Resolution tags that give a pixel size in this range, micrometres, are believed: from the finest microscope
#: to a 1200 dpi flatbed scanner. 72, 96, 300 or 600 dpi is what image editors write when they know nothing.
CREDIBLE_MPP = (0.01, 25.0)

_COLOUR_NAMES = {
    "GCI_RedBand": "r",
    "GCI_GreenBand": "g",
    "GCI_BlueBand": "b",
    "GCI_GrayIndex": "gray",
    "GCI_CyanBand": "c",
    "GCI_MagentaBand": "m",
    "GCI_YellowBand": "y",
    "GCI_BlackBand": "k",
}
_COLOURS = {getattr(gdal, key): name for key, name in _COLOUR_NAMES.items()}

_APERIO = re.compile(r"^Aperio.*?\|\s*MPP\s*=\s*([0-9.]+)", re.DOTALL)
_OME_SIZE = re.compile(r'PhysicalSize([XY])="([0-9.eE+-]+)"')
_OME_UNIT = re.compile(r'PhysicalSize([XY])Unit="([^"]*)"')
#: Micrometres in units that OME files use; both code points of the micro sign.
_UNITS_UM = {"µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


def channel_names(dataset: Any, bands: list[int]) -> tuple[str, ...]:
    """Return the bands' descriptions, else the names of their colours (``r g b``, ``gray``); empty if unknown.

    All bands or none: half a list of names would only mislead.
    """
    items = [dataset.GetRasterBand(i) for i in bands]
    for names in (
        [band.GetDescription() for band in items],
        [_COLOURS.get(band.GetColorInterpretation(), "") for band in items],
    ):
        if all(names) and len(set(names)) == len(names):
            return tuple(names)
    return ()


def pixel_size_um(dataset: Any) -> tuple[float, float] | None:
    """Return micrometres per pixel, ``(y, x)``, or None where the file does not credibly say.

    In this order:

    1. the geotransform, where the coordinate system is projected: its units are lengths (a half-metre satellite
       image has 500,000 micrometres a pixel). Degrees are not;
    2. ``MPP`` in the description of an Aperio TIFF, ``PhysicalSizeX/Y`` in that of an OME-TIFF;
    3. the TIFF resolution tags, where they have a unit and give a size within :data:`CREDIBLE_MPP`.
    """
    return _from_geotransform(dataset) or _from_description(dataset) or _from_resolution(dataset)


def _from_geotransform(dataset: Any) -> tuple[float, float] | None:
    system = dataset.GetSpatialRef()
    transform = dataset.GetGeoTransform(can_return_null=True)
    if system is None or transform is None or not system.IsProjected():
        return None
    unit_um = system.GetLinearUnits() * 1e6
    _, xx, xy, _, yx, yy = transform
    size = (xy**2 + yy**2) ** 0.5 * unit_um, (xx**2 + yx**2) ** 0.5 * unit_um
    return size if min(size) > 0 else None


def _from_description(dataset: Any) -> tuple[float, float] | None:
    text = dataset.GetMetadataItem("TIFFTAG_IMAGEDESCRIPTION") or ""
    aperio = _APERIO.match(text)
    if aperio:
        return _pair(aperio[1], aperio[1])
    if "<OME" not in text[:2000]:
        return None
    units = dict(_OME_UNIT.findall(text))
    # The first of each: those of the first image of the file.
    sizes: dict[str, str] = {}
    for axis, size in _OME_SIZE.findall(text):
        sizes.setdefault(axis, size)
    scale = {axis: _UNITS_UM.get(units.get(axis, "µm")) for axis in "XY"}
    if not {"X", "Y"} <= sizes.keys() or None in scale.values():
        return None
    pair = _pair(sizes["Y"], sizes["X"])
    return pair and (pair[0] * float(scale["Y"] or 1), pair[1] * float(scale["X"] or 1))


def _from_resolution(dataset: Any) -> tuple[float, float] | None:
    get = dataset.GetMetadataItem
    # GDAL writes "2 (pixels/inch)", "3 (pixels/cm)", "1 (unitless)".
    unit_um = {"2": 25400.0, "3": 10000.0}.get((get("TIFFTAG_RESOLUTIONUNIT") or "")[:1])
    pair = _pair(get("TIFFTAG_YRESOLUTION") or "", get("TIFFTAG_XRESOLUTION") or "")
    if unit_um is None or pair is None:
        return None
    size = unit_um / pair[0], unit_um / pair[1]
    low, high = CREDIBLE_MPP
    return size if low <= min(size) and max(size) <= high else None


def _pair(y: str, x: str) -> tuple[float, float] | None:
    try:
        pair = float(y), float(x)
    except ValueError:
        return None
    return pair if min(pair) > 0 and max(pair) < float("inf") else None
