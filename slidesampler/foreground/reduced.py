"""An image at a low resolution, in bounded memory, and how much of each pixel of it is valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window, choose_level
from slidesampler.readers.base import Reader
from slidesampler.resample import area_mean

__all__ = ["picked_pixels", "read_reduced"]

#: Pixels that are read at once, bytes.
_BLOCK_BYTES = 48 * 2**20


class _Cut(NamedTuple):
    """Output pixels ``[first, last)`` of an axis, and their edges in pixels of the level."""

    first: int
    last: int
    edges: NDArray[np.float64]

    @property
    def start(self) -> int:
        return int(np.floor(self.edges[0]))

    @property
    def stop(self) -> int:
        return int(np.ceil(self.edges[-1]))

    @property
    def within(self) -> NDArray[np.float64]:
        return self.edges - self.start


def read_reduced(
    reader: Reader, step: int, channels: tuple[int, ...] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return an image reduced by averaging, and the share of each pixel that is valid.

    The coarsest level that is not coarser than the result is read, in pieces of bounded memory, also where
    there is no level but the full image.

    Parameters
    ----------
    reader : Reader
    step : int
        Level-0 pixels per pixel of the result, along each axis.
    channels : tuple of int, optional
        All where None.

    Returns
    -------
    means : float32 (ceil(H / step), ceil(W / step), C)
        Over the valid part of each pixel; 0 where nothing of it is. Values that are no number are not valid.
    share : float32 (ceil(H / step), ceil(W / step))
        0 to 1.
    """
    height, width, count = reader.shape
    count = count if channels is None else len(channels)
    level = choose_level([max(item.downsample) for item in reader.levels], step)
    here = reader.levels[level]
    edges_y = _edges(height, step, here.height, here.downsample[0])
    edges_x = _edges(width, step, here.width, here.downsample[1])
    means = np.empty((len(edges_y) - 1, len(edges_x) - 1, count), np.float32)
    share = np.ones(means.shape[:2], np.float32)
    pixel_bytes = count * reader.dtype.itemsize
    # As many whole rows as fit; of rows that are too long for it, pieces.
    columns = _per_block(edges_x, int(np.ceil(edges_y[1])) * pixel_bytes)
    rows = _per_block(edges_y, here.width * pixel_bytes) if columns == len(edges_x) - 1 else 1
    for band in _cuts(edges_y, rows):
        for piece in _cuts(edges_x, columns):
            at = slice(band.first, band.last), slice(piece.first, piece.last)
            window = Window(band.start, piece.start, band.stop - band.start, piece.stop - piece.start)
            block = reader.read(window, level, channels=channels)
            valid = _valid(reader, block, window, level)
            if valid is None:
                means[at] = _mean(block, band.within, piece.within)
                continue
            part = area_mean(valid[:, :, None], band.within, piece.within)
            total = area_mean(np.where(valid[:, :, None], block, 0), band.within, piece.within)
            share[at] = part[:, :, 0]
            means[at] = np.divide(total, part, out=np.zeros_like(total), where=part > 0)
    return means, share


def _edges(length: int, step: int, level_length: int, downsample: float) -> NDArray[np.float64]:
    """Return the edges of the result's pixels in pixels of a level; none is empty."""
    count = -(-length // step)
    edges = np.minimum(np.arange(count + 1, dtype=np.float64) * step / downsample, level_length)
    # A level whose size was rounded down ends before the image does.
    edges[-1] = level_length
    edges[-2] = min(edges[-2], level_length - 0.5)
    return edges


def _per_block(edges: NDArray[np.float64], bytes_each: int) -> int:
    """Return how many pixels of the result may be made at once, where one of the level costs so many bytes."""
    each = float(edges[-1]) / (len(edges) - 1) * bytes_each
    return min(max(1, int(_BLOCK_BYTES / each)), len(edges) - 1)


def _cuts(edges: NDArray[np.float64], count: int) -> Iterator[_Cut]:
    for first in range(0, len(edges) - 1, count):
        last = min(first + count, len(edges) - 1)
        yield _Cut(first, last, edges[first : last + 1])


def _mean(block: NDArray[Any], edges_y: NDArray[np.float64], edges_x: NDArray[np.float64]) -> NDArray[Any]:
    """Return the mean of a block over each cell of a grid: quickly where whole pixels make up equal cells."""
    sides = [_whole_side(edges) for edges in (edges_y, edges_x)]
    if 0 in sides or block.dtype.kind == "f":
        return area_mean(block, edges_y, edges_x)
    side_y, side_x = sides
    rows, columns, count = len(edges_y) - 1, len(edges_x) - 1, block.shape[2]
    # Rows first, whose pixels lie one after the other in memory.
    total = block.reshape(rows, side_y, -1).sum(axis=1, dtype=np.int64 if block.itemsize > 2 else np.int32)
    total = total.reshape(rows, columns, side_x, count).sum(axis=2, dtype=np.int64)
    means: NDArray[Any] = total / (side_y * side_x)
    return means


def _whole_side(edges: NDArray[np.float64]) -> int:
    """Return how many pixels each cell has, where that is a whole number and all have as many; else 0."""
    side = float(edges[1] - edges[0])
    return int(side) if side.is_integer() and bool((np.diff(edges) == side).all()) else 0


def _valid(reader: Reader, block: NDArray[Any], window: Window, level: int) -> NDArray[np.bool_] | None:
    """Return which pixels of a block are valid numbers; None where all are."""
    valid = reader.read_valid(window, level) if reader.has_valid else None
    if block.dtype.kind == "f":
        finite = np.isfinite(block).all(axis=2)
        valid = finite if valid is None else valid & finite
    return None if valid is None or valid.all() else valid


def picked_pixels(reader: Reader, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the level-0 pixels at ``rows`` x ``columns`` are valid and not 0, bool ``(h, w)``.

    Parameters
    ----------
    reader : Reader
        One channel.
    rows, columns : int64 (h,), (w,)
        Ascending.
    """
    found = np.empty((len(rows), len(columns)), np.bool_)
    x, x1 = int(columns[0]), int(columns[-1]) + 1
    reach = int(rows[-1]) - int(rows[0]) + 1
    at_once = max(1, _BLOCK_BYTES * len(rows) // (reach * (x1 - x) * reader.dtype.itemsize))
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        y = int(some[0])
        window = Window(y, x, int(some[-1]) - y + 1, x1 - x)
        places = np.ix_(some - y, columns - x)
        part = reader.read(window)[:, :, 0][places] != 0
        if reader.has_valid:
            part &= reader.read_valid(window)[places]
        found[first : first + len(some)] = part
    return found
