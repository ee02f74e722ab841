"""Few windows of one size that hold every one of many rectangles: greedy set cover in the plane.

The window that holds most of the rectangles that are not yet held is chosen again and again. Where a window is
worth looking at is decided by the rectangles: it can always be moved until its upper and left edges meet those
of rectangles that it holds.

*Source:* D. S. Johnson, "Approximation algorithms for combinatorial problems", Journal of Computer and System
Sciences 9 (1974); V. Chvatal, "A greedy heuristic for the set-covering problem", Mathematics of Operations
Research 4 (1979): the greedy choice takes at most ``H(d) = 1 + 1/2 + ... + 1/d`` times as many sets as the
fewest that do, where ``d`` is the most that a set holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cover", "cover_rectangles", "harmonic_number", "independent_rectangles"]

#: Up to so many rectangles of an image every window worth looking at is looked at, if there are not more than
FEW_RECTANGLES = 256
#: so many.
FEW_WINDOWS = 4096
#: Above that, rectangles whose corners lie in the same part of a window, this many along each axis, propose
#: windows together.
PARTS = 8
#: Pairs of a window and a rectangle compared at once.
MAX_PAIRS = 1 << 22

_Ints = NDArray[np.int64]


class Cover(NamedTuple):
    """Windows in the order in which they were chosen.

    Parameters
    ----------
    starts : int64 (m, 2)
        First pixel ``(y, x)`` of each window.
    gains : int64 (m,)
        Rectangles that each is the first to hold; never more than that of the window before.
    held_by : int64 (n,)
        The window that is the first to hold each rectangle.
    largest : int
        The most rectangles that one of the windows looked at holds.
    complete : bool
        Whether every window worth looking at was: then the bound is one against every choice of windows, else
        against every choice of those that were looked at.
    """

    starts: _Ints
    gains: _Ints
    held_by: _Ints
    largest: int
    complete: bool


def harmonic_number(n: int) -> float:
    """Return ``1 + 1/2 + ... + 1/n``."""
    return float((1.0 / np.arange(1, n + 1)).sum())


def cover_rectangles(boxes: _Ints, extent: tuple[int, int], length: tuple[int, int]) -> Cover:
    """Return windows that hold every rectangle, each wholly in one window at least.

    Parameters
    ----------
    boxes : int64 (n, 4)
        ``(y0, x0, y1, x1)``, half-open, inside the image, none larger than a window. At least one.
    extent : (int, int)
        Height and width of a window.
    length : (int, int)
        Height and width of the image; windows lie inside it along each axis that is as long as a window, and
        begin at 0 along the others.

    Notes
    -----
    Ties are won by the window that lies further up, then further left (among rows of windows of the size of a
    window, where there are many rectangles). Nothing is random.
    """
    limit = max(length[0] - extent[0], 0), max(length[1] - extent[1], 0)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    if (high - low <= extent).all():
        held_by = np.zeros(len(boxes), np.int64)
        return Cover(np.clip(low, 0, limit)[None], np.array([len(boxes)]), held_by, len(boxes), True)
    if len(boxes) <= FEW_RECTANGLES:
        starts = _all_starts(boxes, extent)
        if starts is not None:
            return _cover_few(boxes, extent, _tidy(starts, limit))
    return _ManyCover(boxes, extent, _tidy(_anchors(boxes, extent), limit)).solve()


def _tidy(starts: _Ints, limit: tuple[int, int]) -> _Ints:
    """Return windows pushed into the image, each once, from top to bottom and from left to right."""
    starts = np.clip(starts, 0, limit)
    keys = np.unique(starts[:, 0] * (limit[1] + 1) + starts[:, 1])
    return np.stack(np.divmod(keys, limit[1] + 1), axis=1)


def _all_starts(boxes: _Ints, extent: tuple[int, int]) -> _Ints | None:
    """Return the upper edge of one rectangle with the left edge of another, wherever a window holds both."""
    y0, x0, y1, x1 = boxes.T
    # The window reaches from the upper edge of i and the left edge of j.
    pairs = (y0[:, None] <= y0) & (x0 <= x0[:, None])
    pairs &= y1 - y0[:, None] <= extent[0]
    pairs &= x1[:, None] - x0 <= extent[1]
    top, left = np.nonzero(pairs)
    if len(top) > FEW_WINDOWS:
        return None
    return np.stack([y0[top], x0[left]], axis=1)


def _anchors(boxes: _Ints, extent: tuple[int, int]) -> _Ints:
    """Return windows in whose corners rectangles lie: each rectangle lies in at least one of them."""
    part = max(extent[0] // PARTS, 1), max(extent[1] // PARTS, 1)
    row, col = boxes[:, 0] // part[0], boxes[:, 1] // part[1]
    _, group = np.unique(row * (int(col.max()) + 1) + col, return_inverse=True)
    order = np.argsort(group, kind="stable")
    firsts = np.flatnonzero(np.diff(group[order], prepend=-1))
    low = np.minimum.reduceat(boxes[order, :2], firsts)
    high = np.maximum.reduceat(boxes[order, 2:], firsts) - extent
    corners = [low, high, np.stack([low[:, 0], high[:, 1]], 1), np.stack([high[:, 0], low[:, 1]], 1)]
    # A window in the upper left corner of a group holds those of its rectangles that do not reach too far.
    alone = ((boxes[:, 2:] - low[group]) > extent).any(axis=1)
    return np.concatenate([*corners, boxes[alone, :2]])


def _held(boxes: _Ints, starts: _Ints, extent: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which windows hold which rectangles, ``(windows, rectangles)``."""
    y, x = starts[:, :1], starts[:, 1:]
    inside = boxes[:, 0] >= y
    inside &= boxes[:, 2] <= y + extent[0]
    inside &= boxes[:, 1] >= x
    inside &= boxes[:, 3] <= x + extent[1]
    return inside


def _cover_few(boxes: _Ints, extent: tuple[int, int], starts: _Ints) -> Cover:
    held = _held(boxes, starts, extent)
    gains = held.sum(axis=1)
    held_by = np.full(len(boxes), -1)
    largest, left = int(gains.max()), len(boxes)
    chosen: list[int] = []
    counts: list[int] = []
    while left:
        best = int(gains.argmax())
        new = np.flatnonzero(held[best] & (held_by < 0))
        held_by[new] = len(chosen)
        gains -= held[:, new].sum(axis=1)
        chosen.append(best)
        counts.append(len(new))
        left -= len(new)
    return Cover(starts[chosen], np.array(counts), held_by, largest, True)


class _Cells:
    """Points sorted by the cell, of the size of a window, that they lie in: row by row, then left to right."""

    def __init__(self, points: _Ints, extent: tuple[int, int], columns: int) -> None:
        self.extent = extent
        self.columns = columns
        keys = points[:, 0] // extent[0] * columns + points[:, 1] // extent[1]
        #: Points in the order of cells; within a cell as they were given.
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]

    def ranges(self, y: tuple[int, int], x: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Yield where, in the order of cells, those lie that meet ``[y0, y1] x [x0, x1]``, ends included."""
        rows = range(max(y[0] // self.extent[0], 0), y[1] // self.extent[0] + 1)
        first = max(x[0] // self.extent[1], 0)
        last = min(x[1] // self.extent[1], self.columns - 1)
        bounds = [key for row in rows for key in (row * self.columns + first, row * self.columns + last + 1)]
        stops = self.keys.searchsorted(bounds).tolist()
        for start, stop in zip(stops[::2], stops[1::2], strict=True):
            if stop > start:
                yield start, stop


class _ManyCover:
    """Greedy set cover whose every step costs what lies near the window that is chosen.

    The gain of every window is kept exact: a rectangle that is held for the first time lowers that of the
    windows around it, once in all. The best of each cell of windows waits in a heap; an entry whose gain is no
    longer true was replaced by another when it changed.
    """

    def __init__(self, boxes: _Ints, extent: tuple[int, int], starts: _Ints) -> None:
        self.extent = extent
        columns = int(max(boxes[:, 1].max(), starts[:, 1].max())) // extent[1] + 1
        self.places = _Cells(boxes[:, :2], extent, columns)
        self.windows = _Cells(starts, extent, columns)
        # Both in the order of their cells, so that what is near is next to each other.
        self.boxes = boxes[self.places.order]
        self.starts = starts[self.windows.order]
        self.held_by = np.full(len(boxes), -1)
        self.gains = np.zeros(len(starts), np.int64)
        self.heap: list[tuple[int, int]] = []
        #: Where each cell of windows begins, and the end.
        self.cells = np.append(np.flatnonzero(np.diff(self.windows.keys, prepend=-1)), len(starts))
        for start, stop in zip(self.cells[:-1].tolist(), self.cells[1:].tolist(), strict=True):
            self._count(start, stop)
            self._offer(start, stop)

    def solve(self) -> Cover:
        largest = int(self.gains.max())
        chosen: list[int] = []
        counts: list[int] = []
        left = len(self.boxes)
        while left:
            gain, best = heapq.heappop(self.heap)
            if self.gains[best] != -gain:
                continue
            new = self._newly_held(best)
            self.held_by[new] = len(chosen)
            self._lower(best, self.boxes[new])
            chosen.append(best)
            counts.append(len(new))
            left -= len(new)
        held_by = np.empty_like(self.held_by)
        held_by[self.places.order] = self.held_by
        return Cover(self.starts[chosen], np.array(counts), held_by, largest, False)

    def _count(self, start: int, stop: int) -> None:
        """Set the gains of the windows of a cell."""
        height, width = self.extent
        low = self.starts[start:stop].min(axis=0).tolist()
        high = self.starts[start:stop].max(axis=0).tolist()
        for first, last in self.places.ranges((low[0], high[0] + height), (low[1], high[1] + width)):
            step = max(1, MAX_PAIRS // (last - first))
            for at in range(start, stop, step):
                end = min(at + step, stop)
                self.gains[at:end] += _held(self.boxes[first:last], self.starts[at:end], self.extent).sum(
                    axis=1
                )

    def _newly_held(self, window: int) -> _Ints:
        y, x = self.starts[window].tolist()
        found = []
        for first, last in self.places.ranges((y, y + self.extent[0] - 1), (x, x + self.extent[1] - 1)):
            held = _held(self.boxes[first:last], self.starts[window : window + 1], self.extent)[0]
            held &= self.held_by[first:last] < 0
            found.append(first + np.flatnonzero(held))
        return np.concatenate(found)

    def _lower(self, window: int, boxes: _Ints) -> None:
        """Take rectangles that are held now off the gains of the windows that also hold them."""
        y, x = self.starts[window].tolist()
        height, width = self.extent
        for first, last in self.windows.ranges(
            (y - height + 1, y + height - 1), (x - width + 1, x + width - 1)
        ):
            step = max(1, MAX_PAIRS // (last - first))
            for at in range(0, len(boxes), step):
                near = _held(boxes[at : at + step], self.starts[first:last], self.extent)
                self.gains[first:last] -= near.sum(axis=1)
            some = range(*np.searchsorted(self.cells, (first, last)).tolist())
            for cell in some:
                self._offer(int(self.cells[cell]), int(self.cells[cell + 1]))

    def _offer(self, start: int, stop: int) -> None:
        """Put the best window of a cell into the heap."""
        best = start + int(self.gains[start:stop].argmax())
        if self.gains[best]:
            heapq.heappush(self.heap, (-int(self.gains[best]), best))


def independent_rectangles(boxes: _Ints, extent: tuple[int, int]) -> int:
    """Return how many of the rectangles, chosen one after the other, need a window each.

    No window holds two of them, so no choice of windows that holds all rectangles has fewer windows.

    Parameters
    ----------
    boxes, extent
        As :func:`cover_rectangles` takes them.
    """
    height, width = extent
    cells = _Cells(boxes[:, :2], extent, int(boxes[:, 1].max()) // width + 1)
    boxes = boxes[cells.order]
    free = np.ones(len(boxes), np.bool_)
    count = 0
    # From the lowest lower edge on: what shares a window with the uppermost rectangle lies on few sides of it.
    for one in np.lexsort((boxes[:, 1], boxes[:, 2])).tolist():
        if not free[one]:
            continue
        count += 1
        y0, x0, y1, x1 = boxes[one].tolist()
        for first, last in cells.ranges((y0 - height + 1, y0 + height - 1), (x0 - width + 1, x0 + width - 1)):
            near = boxes[first:last]
            apart = np.maximum(near[:, 2], y1) - np.minimum(near[:, 0], y0) > height
            apart |= np.maximum(near[:, 3], x1) - np.minimum(near[:, 1], x0) > width
            free[first:last] &= apart
    return count
