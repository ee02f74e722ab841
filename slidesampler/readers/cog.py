"""Reads COGs, of the cache or used where they lie, pixels as stored, without a table of their tiles.

What the compiled reader knows is read by :mod:`slidesampler.readers.tiled`, the rest through GDAL. Label layers
are read as the numbers they hold.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers.base import NativePart
from slidesampler.readers.gdal import GdalReader
from slidesampler.readers.paths import require_file
from slidesampler.readers.tile_survey import open_tiled
from slidesampler.readers.tiled import TiledReader

__all__ = ["CogReader"]


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
        require_file(path)
        self.name = path
        self._pid = os.getpid()
        source = GdalReader(path, raw=True, drivers=("GTiff",), channels=channels, mpp=mpp)
        self.shape = source.shape
        self.dtype = source.dtype
        self.levels = source.levels
        self.mpp = source.mpp
        self.channels = source.channels
        self.has_valid = source.has_valid
        tiled = _open_tiled(source)
        self._pixels: TiledReader | GdalReader = tiled or source
        #: Who says what is valid. GDAL may have to where it need not read pixels.
        self._valid: TiledReader | GdalReader = source
        if tiled is not None and tiled.has_valid == source.has_valid:
            # The tiles are all there is to read: one open file a reader is enough.
            self._valid = tiled
            source.close()

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
        return self._pixels.read(window, level, channels=channels, out=out)

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of a window are valid, bool ``(h, w)``: alpha band, mask band or nodata."""
        return self._valid.read_valid(window, level)

    def native(self, level: int) -> NativePart | None:
        """Return the tiles of a level, as :class:`.base.NativeReader` has it."""
        return self._pixels.native(level) if isinstance(self._pixels, TiledReader) else None

    def native_valid(self, level: int) -> NativePart | None:
        """Return the tiles of a level's alpha channel or mask, as :class:`.base.NativeReader` has it."""
        return self._valid.native_valid(level) if isinstance(self._valid, TiledReader) else None

    def close(self) -> None:
        """Release the file. Closing twice does nothing."""
        # In a forked child the handles are the parent's: they are left alone.
        if self._pid == os.getpid():
            self._pixels.close()
            self._valid.close()


def _open_tiled(source: GdalReader) -> TiledReader | None:
    """Open the file by its tiles, where GDAL has to say what is valid without that; None if it cannot be."""
    for valid in (True, False) if source.has_valid else (True,):
        with suppress(UnsupportedSourceError):
            return open_tiled(source, source.tile_facts(valid=valid))
    return None
