"""How many pixels of a region each window of a grid holds, for all windows at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["window_counts"]


def window_counts(
    rows: NDArray[np.int64], columns: NDArray[np.int64], rectangles: Iterable[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the pixels that every window of a grid shares with a region; exact.

    Costs the rectangles plus the windows, not their product, whatever the overlap of the windows.

    Parameters
    ----------
    rows, columns : int64 (n, 2), (m, 2)
        ``(first, stop)`` of the windows along y and x; window ``(i, j)`` is ``rows[i]`` by ``columns[j]``.
    rectangles : iterable of int64 (k, 4)
        ``y, x, height, width`` of disjoint rectangles that make up the region, in batches.

    Returns
    -------
    ndarray of int64, shape (n, m)

    Notes
    -----
    The number of pixels of a rectangle ``[y0, y1) x [x0, x1)`` above and left of a point ``(Y, X)`` is the sum
    over its corners of ``sign * max(Y - y, 0) * max(X - x, 0)``. On the lattice of the windows' edges that
    product is, from the corner on, ``Y X - Y x - X y + x y``: four sums over corners, added at the first
    lattice point behind each corner and summed up once along both axes, give the number for every lattice
    point. A window's count is the difference of four of those.

    *Source:* summed-area tables, F. Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984; here over
    rectangles and a lattice instead of pixels.

    Examples
    --------
    >>> windows = np.array([[0, 4], [2, 6]])
    >>> window_counts(windows, windows, [np.array([[1, 1, 2, 3]])]).tolist()
    [[6, 4], [3, 2]]
    """
    ys, xs = np.unique(rows), np.unique(columns)
    # A last row and column for corners behind every window.
    sums = np.zeros((4, len(ys) + 1, len(xs) + 1), np.int64)
    found = False
    for batch in rectangles:
        if len(batch):
            _add_corners(sums, ys, xs, batch)
            found = True
    if not found:
        return np.zeros((len(rows), len(columns)), np.int64)
    for axis in (1, 2):
        np.cumsum(sums, axis=axis, out=sums)
    one, by_x, by_y, by_xy = sums[:, :-1, :-1]
    above = (ys[:, None] * xs) * one - ys[:, None] * by_x - xs * by_y + by_xy
    bands = above[ys.searchsorted(rows[:, 1])] - above[ys.searchsorted(rows[:, 0])]
    counts: NDArray[np.int64] = (
        bands[:, xs.searchsorted(columns[:, 1])] - bands[:, xs.searchsorted(columns[:, 0])]
    )
    return counts


def _add_corners(
    sums: NDArray[np.int64], ys: NDArray[np.int64], xs: NDArray[np.int64], rectangles: NDArray[np.int64]
) -> None:
    y0, x0, heights, widths = rectangles.T
    y1, x1 = y0 + heights, x0 + widths
    width = sums.shape[2]
    tables = sums.reshape(4, -1)
    top, bottom = ys.searchsorted(y0) * width, ys.searchsorted(y1) * width
    left, right = xs.searchsorted(x0), xs.searchsorted(x1)
    # No edge of a window runs through it: the corners fall together, and what is left of the sums is its area.
    uncut = (top == bottom) & (left == right)
    np.add.at(tables[3], (top + left)[uncut], (heights * widths)[uncut])
    if uncut.all():
        return
    cut = np.flatnonzero(~uncut)
    for rows, y in ((top, y0), (bottom, -y1)):
        for columns, x in ((left, x0), (right, -x1)):
            at = (rows + columns)[cut]
            y_cut, x_cut = y[cut], x[cut]
            # The far corners are given as negative numbers, which carry the sign of the corner.
            sign_y, sign_x = (1 if rows is top else -1), (1 if columns is left else -1)
            np.add.at(tables[0], at, sign_y * sign_x)
            np.add.at(tables[1], at, sign_y * x_cut)
            np.add.at(tables[2], at, sign_x * y_cut)
            np.add.at(tables[3], at, x_cut * y_cut)
