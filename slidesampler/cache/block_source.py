"""Blocks of level 0 of any reader: by the compiled reader on several threads, else one block ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers.base import NativeReader, Reader
from slidesampler.readers.tile_read import TileJob, read_jobs
from slidesampler.readers.tile_survey import open_tiled
from slidesampler.readers.tiled import TiledReader

__all__ = ["BlockSource", "source_block"]


def source_block(reader: Reader) -> tuple[int, int] | None:
    """Return ``(rows, columns)`` of what the source decodes at once, or None where its reader does not say.

    A reader says it by an attribute ``block_shape``, which is not part of the protocol.
    """
    block = getattr(reader, "block_shape", None)
    return None if block is None else (int(block[0]), int(block[1]))


class BlockSource:
    """What blocks are read from. Use as a context manager; the reader itself is left open.

    A tiled TIFF, a slide among them, is read tile by tile whatever reader it was opened by, where that gives
    the same pixels: GDAL and OpenSlide decode on one thread and copy twice.

    Parameters
    ----------
    reader : Reader
    threads : int
        Threads that decode.

    Attributes
    ----------
    block_shape : (int, int) or None
        Rows and columns of what is decoded at once; None where the reader does not say.
    """

    def __init__(self, reader: Reader, threads: int = 1) -> None:
        self._reader, self._threads = reader, threads
        self._tiled: TiledReader | None = None
        self.block_shape = source_block(reader)
        with suppress(UnsupportedSourceError):
            self._tiled = open_tiled(reader)
            self.block_shape = self._tiled.block_shape
        by_tiles = self._tiled or reader
        self._pixels = self._valid = None
        if isinstance(by_tiles, NativeReader):
            self._pixels = by_tiles.native(0)
            self._valid = by_tiles.native_valid(0) if by_tiles.has_valid else None
        if self._valid is None and by_tiles.has_valid:
            # What is valid follows from something else than a mask.
            self._pixels = None
        self._all_valid = not by_tiles.has_valid

    def __enter__(self) -> BlockSource:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tiled is not None:
            self._tiled.close()

    def blocks(
        self, windows: Sequence[Window], chunk: int
    ) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_] | None]]:
        """Yield ``(window, pixels, valid mask)``; see :meth:`read`.

        Where only the reader itself can read, and there are threads, the next block is read while the caller is
        busy with the last one.
        """
        if self._pixels is not None or self._threads == 1:
            for window in windows:
                yield window, *self.read(window, chunk)
            return
        with ThreadPoolExecutor(1, "slidesampler-read") as thread:
            ahead = None
            for number, window in enumerate(windows):
                future = ahead or thread.submit(self.read, window, chunk)
                pixels, valid = future.result()
                ahead = None
                if number + 1 < len(windows):
                    ahead = thread.submit(self.read, windows[number + 1], chunk)
                del future
                yield window, pixels, valid

    def read(self, window: Window, chunk: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return a block's pixels, in native byte order, and its valid mask: None where all of it is valid.

        Parameters
        ----------
        window : Window
        chunk : int
            Columns that are asked of the reader at once.
        """
        pixels = np.empty((*window.shape, self._reader.shape[2]), self._reader.dtype)
        found = self._read_tiles(window, pixels) if self._pixels is not None else None
        valid = self._read_reader(window, pixels, chunk) if found is None else found[0]
        # GDAL takes numbers in the machine's byte order only, whatever the array says.
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        return pixels, None if valid is None or valid.all() else valid

    def _read_reader(self, window: Window, pixels: NDArray[Any], chunk: int) -> NDArray[np.bool_] | None:
        valid = np.ones(window.shape, np.bool_) if self._reader.has_valid and not self._all_valid else None
        for x in range(0, window.width, chunk):
            part = Window(window.y, window.x + x, window.height, min(chunk, window.width - x))
            columns = slice(x, x + part.width)
            self._reader.read(part, out=pixels[:, columns])
            if valid is not None:
                # Straight after the pixels: the tiles are still in the source's cache.
                valid[:, columns] = self._reader.read_valid(part)
        return valid

    def _read_tiles(self, window: Window, pixels: NDArray[Any]) -> tuple[NDArray[np.bool_] | None] | None:
        """Fill ``pixels`` and return the valid mask, in a tuple; None where a tile cannot be read.

        The reader then has the last word: it may find less fault with a tile, or say more about it.
        """
        boxes = np.array([[0, 0, window.y, window.x, window.height, window.width]], np.int64)
        jobs, valid = [], None
        for part, out in ((self._pixels, pixels), (self._valid, None)):
            if part is None:
                continue
            if part.used is not None:
                part.used(window)
            if out is None:
                out = valid = np.empty((*window.shape, 1), part.tiled.dtype)
            jobs.append(TileJob([part.tiled], boxes, part.samples, out[None]))
        if read_jobs(jobs, self._threads) is not None:
            return None
        return (None if valid is None else valid[..., 0] != 0,)
