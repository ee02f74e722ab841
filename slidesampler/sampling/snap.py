"""Windows that start where tiles do: the lattice of the ``snap`` option, along one axis of an image.

The lattice is the multiples of a step of level-0 pixels, counted from the corner of the image. Where windows
may not overhang the image, the place flush with its far edge belongs to it too: else what lies beyond the last
multiple could never be shown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import SIZE_NOISE_PX
from slidesampler.sampling.pairs import checked_pair

__all__ = [
    "InPlaces",
    "aligned_starts",
    "can_be_held",
    "checked_snap",
    "cut_lines",
    "held_start",
    "in_places",
    "snapped",
    "step_of",
]

#: A scale nearer to a whole number than this share of it is that number: vendors round resolutions, and the
#: level that is read is chosen with the same tolerance (:func:`slidesampler.geometry.choose_level`).
SAME_SCALE = 1e-3

_Ints = NDArray[np.int64]


def checked_snap(snap: int | tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the snap along y and x, output pixels.

    Parameters
    ----------
    snap : int or (int, int)
    size : (int, int)
        Of a window, output pixels.

    Raises
    ------
    TargetError
        If it is not whole, less than 1, or more than the size.

    Examples
    --------
    >>> checked_snap(64, (128, 256))
    (64, 64)
    """
    y, x = checked_pair("snap", snap, 1)
    if y > size[0] or x > size[1]:
        # Of ``extent`` pixels that follow each other one is a multiple of the step, whichever they are, if and
        # only if step <= extent. So up to here every pixel of an image lies in a window that starts on the
        # lattice, and beyond it some lie in none.
        raise TargetError(
            f"snap={snap!r} is more than the size of a window, {size[0]} x {size[1]} output pixels: what lies "
            "between two windows could never be shown; use a snap of at most the size, such as half of it"
        )
    return y, x


def step_of(snap: int, scale: float, where: str = "") -> int:
    """Return the distance between neighbours of the lattice, level-0 pixels.

    Parameters
    ----------
    snap : int
        Output pixels.
    scale : float
        Level-0 pixels per output pixel; within 0.1 % of a whole number it is that number.
    where : str
        For the message, such as ``" of image 3"``.

    Raises
    ------
    TargetError
        If it is no whole number of level-0 pixels.

    Examples
    --------
    >>> step_of(64, 2.0008), step_of(64, 1.5)
    (128, 96)
    """
    if abs(scale - round(scale)) <= SAME_SCALE * scale:
        scale = round(scale)
    step = round(snap * scale)
    if step < 1 or abs(step - snap * scale) > SIZE_NOISE_PX:
        raise TargetError(
            f"snap={snap} at {scale:g} level-0 pixels{where} per output pixel is a step of {snap * scale:g} "
            "level-0 pixels, and no window starts between two of them; use a snap and a scale whose product is "
            "a whole number"
        )
    return step


def snapped(start: int, lowest: int, highest: int, step: int) -> int:
    """Return the multiple of ``step`` in ``[lowest, highest]`` that is nearest to a start.

    Halfway between two it is the higher one. Where there is none, ``highest``.

    Examples
    --------
    >>> [snapped(start, -100, 100, 32) for start in (-50, -16, 15, 16, 99)]
    [-64, 0, 0, 32, 96]
    >>> snapped(50, 48, 63, 32), snapped(50, 33, 63, 32)
    (63, 63)
    """
    first, last = -(-lowest // step), highest // step
    if first > last:
        return highest
    return min(max((2 * start + step) // (2 * step), first), last) * step


def held_start(start: int, held: int, length: int, extent: int, step: int, *, allow_border: bool) -> int:
    """Return a start moved onto the lattice by as little as possible, so that a pixel stays in the window.

    Parameters
    ----------
    start : int
        First pixel of the window.
    held : int
        The pixel that it is to hold, of the image.
    length, extent, step : int
        Of the image, of a window, of the lattice; ``1 <= step <= extent``.
    allow_border : bool
        Whether the window may overhang the image. Where not, and no window that starts at a multiple lies
        inside and holds the pixel, it is the one that ends where the image ends. An image shorter than the
        window comes to lie wholly inside it.

    Examples
    --------
    >>> [held_start(70, 75, 100, 32, 16, allow_border=border) for border in (True, False)]
    [64, 64]
    >>> [held_start(80, 97, 100, 32, 16, allow_border=border) for border in (True, False)]
    [80, 68]
    """
    if step == 1:
        return start
    lowest, highest = held - extent + 1, held
    if not allow_border:
        # 0 is both a multiple and a place inside, so that only the far edge may cut off the last multiple.
        slack = length - extent
        lowest, highest = max(lowest, min(slack, 0)), min(highest, max(slack, 0))
    return snapped(start, lowest, highest, step)


def aligned_starts(length: int, extent: int, step: int) -> _Ints:
    """Return where windows may start that lie inside the image, int64 ``(n,)``, ascending.

    ``[0]`` where the image is shorter than a window.

    Examples
    --------
    >>> aligned_starts(100, 32, 16).tolist(), aligned_starts(20, 32, 16).tolist()
    ([0, 16, 32, 48, 64, 68], [0])
    """
    slack = max(length - extent, 0)
    starts = np.arange(0, slack + 1, step, dtype=np.int64)
    return starts if starts[-1] == slack else np.append(starts, slack)


def can_be_held(low: _Ints, high: _Ints, length: _Ints, extent: _Ints, step: _Ints) -> NDArray[np.bool_]:
    """Return which intervals ``[low, high)`` lie wholly in a window of :func:`aligned_starts`.

    All arguments have one shape; the intervals lie inside the image.
    """
    slack = length - extent
    lowest, highest = np.maximum(high - extent, 0), np.minimum(low, np.maximum(slack, 0))
    # A multiple from lowest to highest; or the place at the far edge, which then is not above highest.
    held: NDArray[np.bool_] = (-(-lowest // step) * step <= highest) | ((low >= slack) & (high - low <= extent))
    return held


def cut_lines(low: int, high: int, length: int, extent: int, step: int) -> _Ints:
    """Return lines that cut ``[low, high)`` into as few intervals as windows are needed to hold them.

    Where windows start anywhere the intervals are equally long.

    Examples
    --------
    >>> cut_lines(10, 100, 100, 32, 32).tolist(), cut_lines(10, 100, 100, 32, 1).tolist()
    ([10, 32, 64, 96, 100], [10, 40, 70, 100])
    """
    if step == 1:
        count = -(-(high - low) // extent)
        return low + (high - low) * np.arange(count + 1) // count
    slack = max(length - extent, 0)
    lines = [low]
    while lines[-1] < high:
        # To the end of the last window that still holds the line before.
        start = slack if lines[-1] >= slack else lines[-1] // step * step
        lines.append(min(start + extent, high))
    return np.array(lines, np.int64)


class InPlaces(NamedTuple):
    """Intervals and windows along an axis, in units of places where windows may start."""

    low: _Ints
    high: _Ints
    extent: int
    length: int


def in_places(low: _Ints, high: _Ints, length: int, extent: int, step: int) -> InPlaces:
    """Return the same question of which window holds what, with places counted instead of pixels.

    A window at place ``k`` holds exactly those intervals that the ``k``-th of :func:`aligned_starts` holds, so
    that what solves the one (where windows start at every number) solves the other.

    Parameters
    ----------
    low, high : int64 (n,)
        Intervals of which each is held by one window at least.
    length, extent, step : int

    Examples
    --------
    >>> in_places(np.array([20, 40]), np.array([30, 50]), 100, 32, 16)
    InPlaces(low=array([1, 2]), high=array([2, 4]), extent=2, length=7)
    """
    if step == 1:
        return InPlaces(low, high, extent, length)
    starts = aligned_starts(length, extent, step)
    # Held from the first to the last of these places; of as many pixels as there may be between them, and one.
    first, last = starts.searchsorted(high - extent, "left"), starts.searchsorted(low, "right") - 1
    side = int((last - first).max()) + 1
    return InPlaces(last, first + side, side, len(starts) - 1 + side)
