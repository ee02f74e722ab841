"""The compressed tiles of one level, waiting in a file of their own until all levels are there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.cache.write_failure import write_failure

__all__ = ["Compression", "LevelSpool"]

#: Bytes copied at once, so that progress is told.
_COPY_BYTES = 32 * 2**20


class Compression(NamedTuple):
    """How the compiled encoder makes the bytes of a tile."""

    #: 0 none, 1 DEFLATE, 2 ZSTD, 3 JPEG.
    codec: int
    #: Of JPEG its quality.
    level: int
    #: Whether neighbours are subtracted first.
    predict: bool


class LevelSpool:
    """Takes the rows of a level downwards and keeps its tiles, compressed.

    Parameters
    ----------
    path : Path
        Of the file, which is made here.
    size : (int, int)
        Rows and columns of the level.
    tile : (int, int)
        Rows and columns of a tile.
    compression : Compression
    sparse : bool
        Leave out tiles that are all 0; rows that are not written count as such.
    threads : int

    Attributes
    ----------
    sizes : uint64 (n,)
        Bytes of each tile, by rows; 0 for one that was left out.

    Raises
    ------
    BuildError
        From every method, if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        tile: tuple[int, int],
        compression: Compression,
        *,
        sparse: bool = False,
        threads: int = 1,
    ) -> None:
        self._path, self._tile, self._compression = path, tile, compression
        self._height, self._width = size
        self._sparse, self._threads = sparse, threads
        self._columns = -(-size[1] // tile[1])
        self.sizes = np.zeros(-(-size[0] // tile[0]) * self._columns, np.uint64)
        #: Rows up to here were taken.
        self._taken = 0
        #: Rows of tiles that are not complete yet.
        self._part: NDArray[Any] | None = None
        self.stored_bytes = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise write_failure(path, error) from error

    def write(self, y: int, rows: NDArray[Any]) -> None:
        """Take ``(h, W, C)`` rows from row ``y`` on; rows come downwards."""
        assert self._taken <= y
        assert y + len(rows) <= self._height
        assert rows.shape[1] == self._width
        if y > self._taken:
            self._skip_to(y)
        while len(rows):
            within = self._taken % self._tile[0]
            whole = (
                len(rows) if self._taken + len(rows) == self._height else len(rows) - len(rows) % self._tile[0]
            )
            if within == 0 and whole:
                # Whole tiles are compressed from where they lie.
                self._encode(self._taken, np.ascontiguousarray(rows[:whole]))
                count = whole
            else:
                count = min(self._tile[0] - within, len(rows))
                self._keep(within, rows[:count])
            self._taken += count
            rows = rows[count:]
            self._flush_complete()

    def _keep(self, within: int, rows: NDArray[Any]) -> None:
        if self._part is None:
            height = min(self._tile[0], self._height - (self._taken - within))
            self._part = np.zeros((height, *rows.shape[1:]), rows.dtype)
        self._part[within : within + len(rows)] = rows

    def _skip_to(self, y: int) -> None:
        """Leave out rows: what is kept of a row of tiles is completed by 0."""
        assert self._sparse
        tile = self._tile[0]
        if self._part is not None and y // tile > (self._taken - 1) // tile:
            self._taken = min(-(-self._taken // tile) * tile, self._height)
            self._flush_complete()
        self._taken = y

    def _flush_complete(self) -> None:
        if self._part is not None and (self._taken % self._tile[0] == 0 or self._taken == self._height):
            part, self._part = self._part, None
            self._encode((self._taken - 1) // self._tile[0] * self._tile[0], part)

    def _encode(self, y: int, rows: NDArray[Any]) -> None:
        assert _native.encode is not None
        first = y // self._tile[0] * self._columns
        count = -(-len(rows) // self._tile[0]) * self._columns
        codec, level, predict = self._compression
        try:
            self.stored_bytes = _native.encode.write_tiles(
                rows,
                *self._tile,
                codec,
                level,
                predict,
                self._sparse,
                self._file,
                self.stored_bytes,
                self.sizes[first : first + count],
                self._threads,
            )
        except OSError as error:
            raise write_failure(self._path, error) from error

    def complete(self) -> None:
        """Compress what is left."""
        if self._taken < self._height:
            self._skip_to(self._height)
            self._flush_complete()

    def append_to(self, file: int, offset: int, advance: Callable[[int], None]) -> None:
        """Copy all tiles into another file, from ``offset`` on.

        Parameters
        ----------
        file : int
            Descriptor.
        offset : int
        advance : callable
            Told the bytes of each piece.

        Raises
        ------
        OSError
            If the other file cannot be written.
        """
        done = 0
        while done < self.stored_bytes:
            count = _copy(self._file, done, file, offset + done, min(_COPY_BYTES, self.stored_bytes - done))
            done += count
            advance(count)

    def discard(self) -> None:
        """Remove the file. Discarding twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            with suppress(FileNotFoundError):
                self._path.unlink()


def _copy(source: int, source_offset: int, target: int, target_offset: int, count: int) -> int:
    """Copy at most so many bytes and return how many: within the system where it can."""
    if hasattr(os, "copy_file_range"):
        # Not every file system has it; what is wrong with the disk the plain way will find as well.
        with suppress(OSError):
            if done := os.copy_file_range(source, target, count, source_offset, target_offset):
                return done
    data = memoryview(os.pread(source, min(count, 2**20), source_offset))
    if not data:
        raise OSError(5, "a scratch file is shorter than what was written to it")
    return os.pwrite(target, data, target_offset)
