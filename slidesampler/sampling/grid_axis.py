"""Where the windows of a grid begin along one axis, and which stretch of the axis each of them owns.

Whole numbers of level-0 pixels throughout, a few per axis: window ``i`` is computed from ``i``, never listed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import ceil_size

__all__ = ["Edge", "GridAxis", "checked_edge", "scaled_step"]

#: What the last window of an axis does: tucked in at the end, overhanging it, or all of them spread evenly.
Edge: TypeAlias = Literal["shift", "pad", "even"]


class GridAxis(NamedTuple):
    """The windows of a grid along one axis of an image; level-0 pixels.

    Window ``i`` covers ``[start(i), start(i) + extent)``. The rule of the edge:

    - ``"shift"``: ``i * step``, the last one tucked in so that it ends where the image ends.
    - ``"pad"``: ``i * step`` for all; the last one may overhang the image.
    - ``"even"``: as many as ``"shift"`` has, spread evenly from 0 to ``length - extent`` (to whole pixels), so
      neighbours are at most ``step`` apart.

    An axis no longer than a window has one window, at 0, in any case.

    Parameters
    ----------
    length : int
        Of the image.
    extent : int
        Of a window.
    step : int
        From one window to the next.
    windows : int
        Windows along the axis; see :meth:`of`.
    edge : {"shift", "pad", "even"}

    Examples
    --------
    >>> for edge in ("shift", "pad", "even"):
    ...     axis = GridAxis.of(10, 4, 4, edge)
    ...     [axis.start(i) for i in range(axis.windows)], [axis.owned(i) for i in range(axis.windows)]
    ([0, 4, 6], [(0, 4), (4, 7), (7, 10)])
    ([0, 4, 8], [(0, 4), (4, 8), (8, 10)])
    ([0, 3, 6], [(0, 3), (3, 6), (6, 10)])
    """

    length: int
    extent: int
    step: int
    windows: int
    edge: Edge

    @classmethod
    def of(cls, length: int, extent: int, step: int, edge: Edge) -> GridAxis:
        """Return the axis with as many windows as it takes to reach the end of the image.

        With gaps (``step > extent``) ``"pad"`` has every window that begins inside the image.
        """
        count = -(-max(length - extent, 0) // step) + 1
        if edge == "pad":
            count = min(count, -(-length // step))
        return cls(length, extent, step, count, edge)

    def start(self, i: int) -> int:
        """Return the first pixel of window ``i``, in ``[0, windows)``."""
        if self.edge == "pad":
            return i * self.step
        room = max(self.length - self.extent, 0)
        if self.edge == "shift":
            return min(i * self.step, room)
        last = max(self.windows - 1, 1)
        # The whole number next to i * room / last.
        return (2 * i * room + last) // (2 * last)

    def owned(self, i: int) -> tuple[int, int]:
        """Return the stretch ``[first, stop)`` that window ``i`` alone owns.

        Neighbours are cut in the middle of what they share; what overhangs the image is nobody's. Without gaps
        the stretches of all windows make up ``[0, length)``; with gaps a window owns itself.
        """
        start = self.start(i)
        first, stop = start, min(start + self.extent, self.length)
        if i:
            first = max(first, (self.start(i - 1) + start + self.extent) // 2)
        if i + 1 < self.windows:
            stop = min(stop, (start + self.start(i + 1) + self.extent) // 2)
        return first, stop

    def spans(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return ``(first, stop)`` of windows ``[begin, end)``, cut at the image; int64 ``(n, 2)``."""
        i = np.arange(begin, end, dtype=np.int64)
        room, last = max(self.length - self.extent, 0), max(self.windows - 1, 1)
        if self.edge == "even":
            starts = (2 * i * room + last) // (2 * last)
        else:
            starts = i * self.step if self.edge == "pad" else np.minimum(i * self.step, room)
        return np.stack((starts, np.minimum(starts + self.extent, self.length)), axis=1)


def checked_edge(edge: str) -> Edge:
    """Return the edge.

    Raises
    ------
    TargetError
        If it is none of the three.
    """
    if edge not in get_args(Edge):
        raise TargetError(f"edge must be one of {', '.join(get_args(Edge))}, got {edge!r}")
    return edge  # type: ignore[return-value]  # looked up just now


def scaled_step(extent: int, stride: int, size: int) -> int:
    """Return a stride in level-0 pixels, rounded up, though never so far that it leaves a gap not asked for.

    Parameters
    ----------
    extent : int
        Of a window, level-0 pixels.
    stride, size : int
        Of a window, output pixels.

    Examples
    --------
    >>> scaled_step(100, 32, 64), scaled_step(100, 64, 64), scaled_step(7, 3, 3)
    (50, 100, 7)
    """
    step = ceil_size(stride * (extent / size))
    return min(step, extent) if stride <= size else step
