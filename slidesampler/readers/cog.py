"""Reads COGs, of the cache or used where they lie: pixels as stored, at the least cost a call.

Nothing is presented here: an image that would look different through :mod:`slidesampler.readers.gdal` is not
stored as it is, and label layers are read as the numbers they hold.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers._gdal_facts import channel_names, pixel_size_um
from slidesampler.readers._gdal_io import GDAL_CODES, read_bands
from slidesampler.readers._gdal_levels import LevelDatasets
from slidesampler.readers._gdal_valid import ValidMask, split_alpha
from slidesampler.readers.base import NativePart, check_channels, check_window, output_array
from slidesampler.readers.forking import check_process
from slidesampler.readers.gdal import stored_dtype
from slidesampler.readers.paths import require_file
from slidesampler.readers.tile_index import TiledLevel, TileIndex
from slidesampler.readers.tile_read import read_tiles

__all__ = ["CogReader"]

_ONE = np.zeros(1, np.int64)


class CogReader:
    """A cloud-optimised GeoTIFF, pixels as stored.

    Parameters
    ----------
    path : str
    channels : tuple of str
        Names of the channels, where the caller knows them.
    mpp : (float, float), optional
        Micrometres per pixel, ``(y, x)``, where the caller knows it.

    Raises
    ------
    SourceMissingError
        If there is no such file.
    UnsupportedSourceError
        If it is not a TIFF that GDAL opens.
    """

    def __init__(
        self, path: str, *, channels: tuple[str, ...] = (), mpp: tuple[float, float] | None = None
    ) -> None:
        self.name = path
        self._pid = os.getpid()
        self._closed = False
        require_file(path)
        source = LevelDatasets(path, ("GTiff",))
        self._source: LevelDatasets | None = source
        self._bands, _ = split_alpha(source.base)
        self._valid = ValidMask(source, path)
        self.dtype = stored_dtype(path, source.base, self._bands)
        # int8 before GDAL 3.7: see gdal.py.
        self._transfer = self.dtype if self.dtype in GDAL_CODES else np.dtype(np.uint8)
        self._code = GDAL_CODES[self._transfer]
        self.levels = source.levels
        self.shape = (source.levels[0].height, source.levels[0].width, len(self._bands))
        self.mpp = mpp or pixel_size_um(source.base)
        self.channels = channels or channel_names(source.base, self._bands)
        if len(self.channels) not in (0, self.shape[2]):
            raise ReadError(
                f"{path}: {len(self.channels)} channel names were given, but it has {self.shape[2]} channels"
            )
        self.has_valid = self._valid.present
        self._tiles = self._find_tiles(source)
        #: Which sample of the tiles says what is valid; 0 for a mask of its own, None where GDAL has to say.
        self._valid_sample = self._find_valid_sample()
        if self._tiles is not None and (not self.has_valid or self._valid_sample is not None):
            # The tiles are all there is to read: one open file a reader is enough.
            self._drop()

    def _find_tiles(self, source: LevelDatasets) -> TileIndex | None:
        """Return where the tiles are; None where GDAL has to read some level."""
        if _native.tiles is None or self._transfer is not self.dtype:
            return None
        nodata = source.base.GetRasterBand(self._bands[0]).GetNoDataValue()
        try:
            tiles = TileIndex(self.name, 0.0 if nodata is None else float(nodata))
        except ReadError:
            # GDAL has opened it all the same.
            return None
        return tiles if all(tiles.has(level.height, level.width) for level in self.levels) else None

    def _find_valid_sample(self) -> int | None:
        band, tiles = self._valid.only_band, self._tiles
        if tiles is None or band is None:
            return None
        if band:
            return band if self.dtype.kind == "u" else None
        return 0 if all(tiles.has(level.height, level.width, mask=True) for level in self.levels) else None

    def _check_open(self) -> None:
        if self._closed:
            raise ReadError(f"{self.name}: the reader is closed")
        check_process(self.name, self._pid)

    def _open(self) -> LevelDatasets:
        if self._source is None:
            # Opened again after a failed read; see GdalReader.
            self._source = LevelDatasets(self.name, ("GTiff",))
            self._valid = ValidMask(self._source, self.name)
        return self._source

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window inside a level, as :class:`.base.Reader` has it.

        Only the bands that are asked for are read.
        """
        self._check_open()
        check_window(self.name, self.levels, window, level)
        bands = self._bands
        if channels is not None:
            check_channels(self.name, self.shape[2], channels)
            bands = [bands[i] for i in channels]
        out = output_array(out, (window.height, window.width, len(bands)), self.dtype, self.name)
        if self._tiles is not None:
            self._read_tiles(window, level, bands, out)
            return out
        source = self._open()
        target = out if self._transfer is self.dtype else out.view(self._transfer)
        try:
            read_bands(source.dataset(level), self.name, window, target, bands, self._code)
        except ReadError:
            self._drop()
            raise
        return out

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of a window are valid, bool ``(h, w)``: alpha band, mask band or nodata."""
        self._check_open()
        check_window(self.name, self.levels, window, level)
        if not self.has_valid:
            return np.ones(window.shape, np.bool_)
        if self._valid_sample is not None:
            dtype = self.dtype if self._valid_sample else np.dtype(np.uint8)
            found = np.empty((*window.shape, 1), dtype)
            self._read_tiles(window, level, [self._valid_sample], found)
            valid: NDArray[np.bool_] = found[..., 0] != 0
            return valid
        self._open()
        try:
            return self._valid.read(window, level)
        except ReadError:
            self._drop()
            raise

    def native(self, level: int) -> NativePart | None:
        """Return the tiles of a level, as :class:`.base.NativeReader` has it."""
        self._check_open()
        if self._tiles is None:
            return None
        return NativePart(self._tiled(level), tuple(band - 1 for band in self._bands))

    def native_valid(self, level: int) -> NativePart | None:
        """Return the tiles of a level's alpha channel or mask, as :class:`.base.NativeReader` has it."""
        self._check_open()
        if self._tiles is None or self._valid_sample is None:
            return None
        mask = self._valid_sample == 0
        return NativePart(self._tiled(level, mask=mask), (0 if mask else self._valid_sample - 1,))

    def _tiled(self, level: int, *, mask: bool = False) -> TiledLevel:
        assert self._tiles is not None
        return self._tiles.level(self.levels[level].height, self.levels[level].width, mask=mask)

    def _read_tiles(self, window: Window, level: int, bands: list[int], out: NDArray[Any]) -> None:
        """Fill ``out`` with bands, numbered from 1, or with the mask, number 0."""
        mask = bands == [0]
        tiled = self._tiled(level, mask=mask)
        channels = (0,) if mask else tuple(band - 1 for band in bands)
        failed = read_tiles([tiled], _ONE, [window], channels, out[None])
        if failed is not None:
            raise ReadError(f"{self.name}: {window} of level {level} cannot be read: {failed[1]}")

    def _drop(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def close(self) -> None:
        """Release the file. Closing twice does nothing."""
        self._closed = True
        # In a forked child the handles are the parent's: they are left alone.
        if self._pid == os.getpid():
            self._tiles = None
            self._drop()
