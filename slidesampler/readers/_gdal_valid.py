"""Which pixels of a GDAL raster are valid: alpha band, mask band, nodata."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers._gdal_io import GDAL_CODES, gdal, read_band
from slidesampler.readers._gdal_levels import LevelDatasets
from slidesampler.readers.base import decimate

__all__ = ["ValidMask", "split_alpha"]

_UINT8 = GDAL_CODES[np.dtype(np.uint8)]


def split_alpha(dataset: Any) -> tuple[list[int], int | None]:
    """Return ``(bands of colour, alpha band or None)``, numbers from 1.

    An image that is nothing but an alpha band is taken for grey.
    """
    bands = list(range(1, dataset.RasterCount + 1))
    alpha = [i for i in bands if dataset.GetRasterBand(i).GetColorInterpretation() == gdal.GCI_AlphaBand]
    colour = [i for i in bands if i not in alpha[:1]]
    return (colour, alpha[0]) if alpha and colour else (bands, None)


class ValidMask:
    """The valid mask of a raster, in the orientation in which it is stored.

    A pixel is valid where all of these that the file has agree:

    * the alpha band is above 0 (a pixel that shows a little is a real pixel);
    * the mask band of the dataset is not 0;
    * at least one band of colour is not its *nodata* value.

    Parameters
    ----------
    source : LevelDatasets
    name : str
        For error messages.
    """

    def __init__(self, source: LevelDatasets, name: str) -> None:
        self._source = source
        self._name = name
        colour, self._alpha = split_alpha(source.base)
        flags = {i: source.base.GetRasterBand(i).GetMaskFlags() for i in colour}
        first = flags[colour[0]]
        self._nodata: list[int] = []
        self._mask = False
        if all(value & gdal.GMF_NODATA for value in flags.values()):
            # With NODATA_VALUES (a colour, not a number a band) the masks of all bands are one and the same.
            self._nodata = colour[:1] if first & gdal.GMF_PER_DATASET else colour
        elif first & gdal.GMF_PER_DATASET and not first & gdal.GMF_ALPHA:
            self._mask = True
        self.present = bool(self._alpha or self._nodata or self._mask)
        #: The band that alone says what is valid: 0 for the mask band, None where more than one has a say.
        self.only_band: int | None = None
        if self.present and not self._nodata and not (self._alpha and self._mask):
            self.only_band = self._alpha or 0
        #: The one number that alone says what is not valid; None where something else has a say.
        self.only_nodata: int | None = None
        if self._nodata and not self._alpha and not first & gdal.GMF_PER_DATASET:
            self.only_nodata = _one_nodata(source.base, colour)
        self._reduced: dict[int, bool] = {}

    def read(self, window: Window, level: int) -> NDArray[np.bool_]:
        """Return the mask of a window in stored pixels of a level, bool ``(h, w)``."""
        dataset = self._source.dataset(level)
        valid = np.ones(window.shape, dtype=bool)
        if self._alpha is not None:
            valid &= self._read_alpha(dataset, window, level)
        if self._nodata:
            any_real = np.zeros(window.shape, dtype=bool)
            for index in self._nodata:
                any_real |= self._read_nodata(dataset, window, index)
            valid &= any_real
        if self._mask:
            valid &= self._read_dataset_mask(dataset, window, level)
        return valid

    def _read_alpha(self, dataset: Any, window: Window, level: int) -> NDArray[np.bool_]:
        assert self._alpha is not None
        # As float64, so that neither 0.25 nor 256 becomes 0.
        integer = dataset.GetRasterBand(self._alpha).DataType == gdal.GDT_Byte
        dtype = np.dtype(np.uint8 if integer else np.float64)
        alpha = np.empty((*window.shape, 1), dtype)
        self._source.read(level, self._name, window, alpha, [self._alpha], GDAL_CODES[dtype])
        visible: NDArray[np.bool_] = alpha[..., 0] > 0
        return visible

    def _read_mask(self, dataset: Any, window: Window, index: int) -> NDArray[np.bool_]:
        mask = np.empty(window.shape, np.uint8)
        read_band(dataset.GetRasterBand(index).GetMaskBand(), self._name, window, mask, _UINT8)
        found: NDArray[np.bool_] = mask != 0
        return found

    def _read_nodata(self, dataset: Any, window: Window, index: int) -> NDArray[np.bool_]:
        values = [of.GetRasterBand(index).GetNoDataValue() for of in (self._source.base, dataset)]
        if values[0] is not None and values[1] is None:
            # Overviews that are older than the nodata value do not know of it: all their pixels would be valid.
            return self._decimate_mask(dataset, window, index)
        return self._read_mask(dataset, window, index)

    def _read_dataset_mask(self, dataset: Any, window: Window, level: int) -> NDArray[np.bool_]:
        reduced = self._reduced.get(level)
        if reduced is None:
            reduced = self._reduced[level] = self._source.mask_is_reduced(level)
        if reduced:
            return self._read_mask(dataset, window, 1)
        # A mask added after the overviews has none of its own, and GDAL then calls every pixel of theirs valid.
        return self._decimate_mask(dataset, window, 1)

    def _decimate_mask(self, dataset: Any, window: Window, index: int) -> NDArray[np.bool_]:
        """Return a window of an overview's mask by that of the full image."""
        base = self._source.base
        size = (base.RasterYSize, base.RasterXSize)
        here = Level.of(size, (dataset.RasterYSize, dataset.RasterXSize))
        return decimate(lambda part: self._read_mask(base, part, index), window, here, size)


def _one_nodata(dataset: Any, bands: list[int]) -> int | None:
    """Return the nodata value that all bands have; None where they differ, or do not hold just that number.

    GDAL compares floats with a tolerance, which is its own.
    """
    codes = {dataset.GetRasterBand(i).DataType for i in bands}
    values = {dataset.GetRasterBand(i).GetNoDataValue() for i in bands}
    dtypes = [dtype for dtype, code in GDAL_CODES.items() if code in codes]
    if len(dtypes) != 1 or len(values) != 1 or dtypes[0].kind not in "ui" or dtypes[0].itemsize > 4:
        return None
    value, limits = values.pop(), np.iinfo(dtypes[0])
    return int(value) if limits.min <= value <= limits.max and value == int(value) else None
