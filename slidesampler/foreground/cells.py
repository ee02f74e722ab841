"""Rectangles that a strip of labels is made of, cut at the cells of a grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CellRectangles", "cell_size", "strip_rectangles"]

#: Cells along the longer side of an image, at most. It bounds what a window of any size costs.
MAX_CELLS = 256
#: The smallest cell, pixels: below it the counts would outgrow the labels.
MIN_CELL_PX = 64


class CellRectangles(NamedTuple):
    """Disjoint rectangles of pixels of one value, sorted by value, then by cell.

    All arrays have one element a rectangle. Places are pixels of the strip.
    """

    values: NDArray[np.int64]
    #: Column of the cell that holds it.
    cells: NDArray[np.int64]
    ys: NDArray[np.int64]
    xs: NDArray[np.int64]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]


def cell_size(height: int, width: int) -> int:
    """Return the side of an image's cells in pixels: a power of two, at least 64, at most 256 cells a side.

    Examples
    --------
    >>> cell_size(1000, 2000), cell_size(30_000, 20_000), cell_size(100_000, 100_000)
    (64, 128, 512)
    """
    size = MIN_CELL_PX
    while size * MAX_CELLS < max(height, width):
        size *= 2
    return size


def strip_rectangles(strip: NDArray[Any], cell: int, skip: tuple[int, ...]) -> CellRectangles:
    """Return the rectangles of equal values that a strip of cells is made of.

    Runs of a row that lie exactly below one another are one rectangle.

    Parameters
    ----------
    strip : ndarray of integers or bool, shape (h, w)
        One row of cells, ``h`` at most ``cell``.
    cell : int
        Side of a cell; no rectangle reaches over the edge of one.
    skip : tuple of int
        Values that are left out.
    """
    change = np.empty(strip.shape, np.bool_)
    np.not_equal(strip[:, 1:], strip[:, :-1], out=change[:, 1:])
    change[:, ::cell] = True
    starts = np.flatnonzero(change)
    lengths = np.diff(starts, append=strip.size)
    values = strip.reshape(-1)[starts].astype(np.int64)
    kept = np.ones(len(values), np.bool_)
    for value in skip:
        kept &= values != value
    ys, xs = np.divmod(starts[kept], strip.shape[1])
    widths, values = lengths[kept], values[kept]
    order = np.lexsort((ys, widths, xs, values))
    ys, xs, widths, values = ys[order], xs[order], widths[order], values[order]
    first = np.ones(len(ys), np.bool_)
    first[1:] = (np.diff(values) != 0) | (np.diff(xs) != 0) | (np.diff(widths) != 0) | (np.diff(ys) != 1)
    at = np.flatnonzero(first)
    heights = np.diff(at, append=len(ys))
    return CellRectangles(values[at], xs[at] // cell, ys[at], xs[at], heights, widths[at])
