"""The ground truth's own rasteriser: numpy only, nothing shared with the one it is there to check."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.models import Part

__all__ = ["inside_part", "inside_rings"]


def inside_rings(rings: Iterable[NDArray[np.float64]], window: Window) -> NDArray[np.bool_]:
    """Return which pixel centres of a window lie inside a set of rings by the even-odd rule.

    An edge counts for the rows ``ymin <= y + 0.5 < ymax`` and toggles the pixels with ``x + 0.5 >= crossing``,
    so a box ``[x0, x1)`` holds exactly the centres ``x0 <= x + 0.5 < x1``.

    Parameters
    ----------
    rings : iterable of ndarray, shape (n, 2)
        ``(x, y)`` in level-0 pixels, not closed.
    window : Window

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    # Columns first: accumulating along the first axis runs over whole rows of memory at a time.
    toggles = np.zeros((window.width + 1, window.height), np.bool_)
    for ring in rings:
        x0, y0 = ring[:, 0], ring[:, 1]
        x1, y1 = np.concatenate([ring[1:], ring[:1]]).T
        top, bottom = np.minimum(y0, y1), np.maximum(y0, y1)
        # Rows whose centre y + 0.5 is in [top, bottom), relative to the window.
        first = np.clip(np.ceil(top - 0.5) - window.y, 0, window.height).astype(np.int64)
        last = np.clip(np.ceil(bottom - 0.5) - window.y, 0, window.height).astype(np.int64)
        counts = last - first
        edge = np.repeat(np.arange(len(ring)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        along = (row + window.y + 0.5 - y0[edge]) / (y1[edge] - y0[edge])
        crossing = x0[edge] + along * (x1[edge] - x0[edge])
        column = np.clip(np.ceil(crossing - 0.5) - window.x, 0, window.width).astype(np.int64)
        np.logical_xor.at(toggles, (column, row), True)
    return np.asarray(np.logical_xor.accumulate(toggles, axis=0)[:-1].T)


def inside_part(part: Part, window: Window) -> NDArray[np.bool_] | None:
    """Return which pixel centres of a window lie in an exterior less its holes; None where surely none does."""
    low, high = part[0].min(axis=0), part[0].max(axis=0)
    if high[0] <= window.x or high[1] <= window.y or low[0] >= window.x1 or low[1] >= window.y1:
        return None
    inside = inside_rings(part[:1], window)
    for hole in part[1:]:
        inside &= ~inside_rings([hole], window)
    return inside
