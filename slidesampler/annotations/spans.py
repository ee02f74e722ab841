"""Spans: horizontal runs of pixels, the common tongue of everything that is painted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spans", "fill_spans", "ragged_arange"]

#: From this mean length on, a Python loop of slices beats one scattered assignment of all pixels (a slice
#: costs about 200 ns, a scattered pixel about 6 ns). It also bounds the memory of the scatter.
LOOP_LENGTH_PX = 32


class Spans(NamedTuple):
    """Runs of pixels of a block, in the order in which they are painted.

    Parameters
    ----------
    rank : int64 (k,)
        Position of the annotation in the paint order; ascending.
    row : int64 (k,)
        Row of the block.
    start, stop : int64 (k,)
        Columns of the block, half-open, ``start < stop``.
    """

    rank: NDArray[np.int64]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]


def ragged_arange(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``concatenate([arange(a, b) for a, b in zip(starts, stops)])`` without the loop.

    Examples
    --------
    >>> ragged_arange(np.array([5, 0, 7]), np.array([7, 0, 10])).tolist()
    [5, 6, 7, 8, 9]
    """
    counts = stops - starts
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    # By how much each element exceeds its place in the result.
    offset: NDArray[np.int64] = np.repeat(starts - (ends - counts), counts)
    return np.arange(total, dtype=np.int64) + offset


def fill_spans(out: NDArray[Any], spans: Spans, values: NDArray[Any]) -> None:
    """Write ``values[rank]`` into the spans of ``out``, later spans over earlier ones.

    Parameters
    ----------
    out : ndarray, shape (h, w)
        Filled in place; must be C-contiguous.
    spans : Spans
    values : ndarray, shape (n,)
        One value per rank, of the dtype of ``out``.
    """
    if not len(spans.row):
        return
    width = out.shape[1]
    # reshape of a contiguous array is a view: writing to it writes to out.
    flat = out.reshape(-1)
    start, stop = spans.row * width + spans.start, spans.row * width + spans.stop
    value = values[spans.rank]
    # A shape that spans whole rows is one run of memory: inside a huge annotation a block is one slice.
    apart = (start[1:] != stop[:-1]) | (value[1:] != value[:-1])
    first = np.concatenate(([True], apart))
    start, stop, value = start[first], stop[np.concatenate((apart, [True]))], value[first]
    lengths = stop - start
    if int(lengths.sum()) >= LOOP_LENGTH_PX * len(lengths):
        for a, b, v in zip(start.tolist(), stop.tolist(), value.tolist(), strict=True):
            flat[a:b] = v
        return
    # numpy assigns in order, so of several values for one pixel the last one stays.
    flat[ragged_arange(start, stop)] = np.repeat(value, lengths)
