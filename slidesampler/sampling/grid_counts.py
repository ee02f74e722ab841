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
        if len(batch) == 1 and _holds_all(batch[0].tolist(), ys, xs):
            # Rectangles are disjoint, so there are no others that matter.
            return np.diff(rows) * np.diff(columns)[:, 0]
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
    # All four corners of the others in one go, each with its sign along y and x.
    cut = np.flatnonzero(~uncut)
    ones = np.ones(len(cut), np.int64)
    at = np.concatenate([(rows + columns)[cut] for rows in (top, bottom) for columns in (left, right)])
    y, x = (
        np.concatenate(corners) for corners in ((y0[cut], y0[cut], -y1[cut], -y1[cut]), (x0[cut], -x1[cut]) * 2)
    )
    sign_y, sign_x = np.concatenate((ones, ones, -ones, -ones)), np.concatenate((ones, -ones, ones, -ones))
    for table, values in zip(tables, (sign_y * sign_x, sign_y * x, sign_x * y, x * y), strict=True):
        np.add.at(table, at, values)


def _holds_all(rectangle: list[int], ys: NDArray[np.int64], xs: NDArray[np.int64]) -> bool:
    """Say whether every window lies in a rectangle."""
    y, x, height, width = rectangle
    return bool(y <= ys[0] and x <= xs[0] and y + height >= ys[-1] and x + width >= xs[-1])
