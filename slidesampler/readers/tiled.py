"""Reads TIFFs by their tables of tiles, of the cache or where they lie, with neither GDAL nor tifffile."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.errors import CorruptEntryError, ReadError, StaleEntryError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers.base import NativePart, check_channels, check_window, output_array
from slidesampler.readers.forking import check_process
from slidesampler.readers.paths import require_file
from slidesampler.readers.tile_index import TiledLevel
from slidesampler.readers.tile_read import read_tiles
from slidesampler.readers.tile_table import TileTable

__all__ = ["TiledReader"]

_ONE = np.zeros(1, np.int64)


class TiledReader:
    """A tiled TIFF through the table of its tiles: one open file, and nothing to parse.

    Needs the compiled reader (:data:`slidesampler._native.tiles`).

    Parameters
    ----------
    path : str
        A local file.
    table : TileTable
        See :func:`.tile_table.load_table`.
    channels : tuple of str
        Names of the channels, where the caller has others.
    mpp : (float, float), optional
        Likewise for micrometres per pixel.

    Raises
    ------
    SourceMissingError
        If there is no such file.
    StaleEntryError
        If the file is not the one that the table was made of.
    """

    def __init__(
        self,
        path: str,
        table: TileTable,
        *,
        channels: tuple[str, ...] = (),
        mpp: tuple[float, float] | None = None,
    ) -> None:
        assert _native.tiles is not None
        self.name = path
        self._pid = os.getpid()
        self._closed = False
        self._table = table
        self._file = self._open_file()
        self._found = _identity(self._file)
        self.shape = table.shape
        self.dtype = np.dtype(table.dtype)
        size = table.shape[:2]
        self.levels = tuple(Level.of(size, (item.height, item.width)) for item in table.image)
        #: Rows and columns of level 0 that are decoded at once.
        self.block_shape = (table.image[0].tile_height, table.image[0].tile_width)
        self.mpp = mpp or table.mpp
        self.channels = channels or table.channels
        if len(self.channels) not in (0, self.shape[2]):
            raise ReadError(
                f"{path}: {len(self.channels)} channel names were given, but it has {self.shape[2]} channels"
            )
        self.has_valid = table.valid != "all"
        self._levels: dict[tuple[int, bool], TiledLevel] = {}

    def _open_file(self) -> Any:
        assert _native.tiles is not None
        try:
            file = _native.tiles.File(self.name)
        except OSError as error:
            require_file(self.name)
            raise ReadError(f"{self.name}: cannot be opened: {error.strerror}") from error
        if not self._table.is_of(file.fileno()):
            raise StaleEntryError(
                f"{self.name} is not the file that the table of its tiles was made of: it was changed since; "
                "build the cache again"
            )
        return file

    def _check_open(self) -> None:
        if self._closed:
            raise ReadError(f"{self.name}: the reader is closed")
        check_process(self.name, self._pid)

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window inside a level, as :class:`.base.Reader` has it."""
        self._check_open()
        check_window(self.name, self.levels, window, level)
        samples = self._table.samples
        if channels is not None:
            check_channels(self.name, self.shape[2], channels)
            samples = tuple(samples[i] for i in channels)
        out = output_array(out, (window.height, window.width, len(samples)), self.dtype, self.name)
        self._read(self._tiled(level), window, level, samples, out)
        return out

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of a window are valid, bool ``(h, w)``: alpha sample, mask page or nodata."""
        self._check_open()
        check_window(self.name, self.levels, window, level)
        if not self.has_valid:
            return np.ones(window.shape, np.bool_)
        valid: NDArray[np.bool_]
        if self._table.valid == "nodata":
            valid = (self.read(window, level) != self._table.valid_value).any(axis=-1)
            return valid
        part = self._valid_part(level)
        found = np.empty((*window.shape, 1), part.tiled.dtype)
        self._read(part.tiled, window, level, part.samples, found)
        valid = found[..., 0] != 0
        return valid

    def native(self, level: int) -> NativePart | None:
        """Return the tiles of a level, as :class:`.base.NativeReader` has it."""
        self._check_open()
        return NativePart(self._tiled(level), self._table.samples)

    def native_valid(self, level: int) -> NativePart | None:
        """Return the tiles of a level's alpha or mask, as :class:`.base.NativeReader` has it."""
        self._check_open()
        return self._valid_part(level) if self._table.valid in ("sample", "masks") else None

    def _valid_part(self, level: int) -> NativePart:
        if self._table.valid == "masks":
            return NativePart(self._tiled(level, mask=True), (0,))
        return NativePart(self._tiled(level), (self._table.valid_value,))

    def _tiled(self, level: int, *, mask: bool = False) -> TiledLevel:
        found = self._levels.get((level, mask))
        if found is None:
            layout = (self._table.masks if mask else self._table.image)[level]
            try:
                found = self._levels[level, mask] = layout.open(self._file)
            except (ValueError, OverflowError, TypeError) as error:
                raise CorruptEntryError(
                    f"{self.name}: the table of its tiles is damaged: level {level}: {error}; build the cache "
                    "again"
                ) from error
        return found

    def _read(
        self, tiled: TiledLevel, window: Window, level: int, samples: tuple[int, ...], out: NDArray[Any]
    ) -> None:
        failed = read_tiles([tiled], _ONE, [window], samples, out[None])
        if failed is not None:
            raise ReadError(f"{self.name}: {window} of level {level} cannot be read: {failed[1]}")

    def close(self) -> None:
        """Release the file. Closing twice does nothing."""
        self._closed = True
        # What others took of it keeps the file open for as long as they have it.
        self._levels = {}
        self._file = None

    def reopen(self) -> bool:
        """Open the file again after :meth:`close`; False where it is another one now, or was written to.

        The table is at hand, so this takes a tenth of what opening a reader does.
        """
        assert _native.tiles is not None
        try:
            file = _native.tiles.File(self.name)
        except OSError:
            return False
        if _identity(file) != self._found:
            return False
        self._file = file
        self._closed = False
        return True


def _identity(file: Any) -> tuple[int, ...]:
    """Return what is another as soon as a file is replaced or written to."""
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
