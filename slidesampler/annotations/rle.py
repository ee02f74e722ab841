"""Windows of run-length encoded masks, straight from the run ends: the image is never decoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["rle_block", "rle_count"]


def rle_block(
    run_ends: NDArray[np.int64], height: int, ys: NDArray[np.int64], xs: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which of some pixels are foreground.

    Parameters
    ----------
    run_ends : int64 (runs,)
        Cumulative ends of column-major runs, background first; see :class:`slidesampler.shapes.Shapes`.
    height : int
        Height of the mask.
    ys, xs : int64 (h,), (w,)
        Pixels, ascending; inside the mask.

    Returns
    -------
    ndarray of bool, shape (h, w)
    """
    if not len(ys) or not len(xs):
        return np.zeros((len(ys), len(xs)), dtype=bool)
    column = xs * height
    # Run in which each column's first pixel lies, and the run of its last: the ends between them are toggles.
    run0 = np.searchsorted(run_ends, column + ys[0], side="right")
    run1 = np.searchsorted(run_ends, column + ys[-1], side="right")
    toggles = np.zeros((len(xs), len(ys)), dtype=np.uint8)
    toggles[:, 0] = run0 & 1
    col = np.repeat(np.arange(len(xs)), run1 - run0)
    if len(col):
        first = np.cumsum(run1 - run0) - (run1 - run0)
        run = np.arange(len(col)) + (run0 - first)[col]
        row = np.searchsorted(ys, run_ends[run] - column[col])
        np.bitwise_xor.at(toggles, (col, row), 1)
    return np.bitwise_xor.accumulate(toggles, axis=1).T.astype(bool)


def rle_count(run_ends: NDArray[np.int64], height: int, y0: int, y1: int, x0: int, x1: int) -> int:
    """Return how many pixels of rows ``[y0, y1)`` and columns ``[x0, x1)`` are foreground.

    The rectangle must lie inside the mask. Costs the columns and the runs between the first and the last of
    them, whatever the area.
    """
    if y1 <= y0 or x1 <= x0:
        return 0
    column = np.arange(x0, x1, dtype=np.int64) * height
    low, high = column + y0, column + y1
    run_low = np.searchsorted(run_ends, low, side="right")
    run_high = np.searchsorted(run_ends, high, side="right")
    base, top = int(run_low[0]), int(run_high[-1])
    # done[k]: foreground pixels in runs base .. base + k - 1, the first counted from the start of the mask's
    # run, which cancels in the difference below.
    ends = run_ends[base:top]
    starts = np.concatenate(([run_ends[base - 1] if base else 0], ends))
    foreground = (np.arange(base, top + 1) & 1).astype(np.int64)
    done = np.concatenate(([0], np.cumsum((ends - starts[:-1]) * foreground[:-1])))

    def before(position: NDArray[np.int64], run: NDArray[np.int64]) -> NDArray[np.int64]:
        local = run - base
        count: NDArray[np.int64] = done[local] + (position - starts[local]) * foreground[local]
        return count

    return int((before(high, run_high) - before(low, run_low)).sum())
