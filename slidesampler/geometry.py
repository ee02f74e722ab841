"""Window arithmetic: pure functions of integers and floats, no pixels.

Coordinates are level-0 pixels, origin at the top-left corner of the top-left pixel, order ``(y, x)`` and
``(height, width)``. Intervals are half-open: ``[start, stop)``. Pixel ``i`` covers ``[i, i + 1)`` and its
centre is ``i + 0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PadMode",
    "Window",
    "area_bounds",
    "axis_positions",
    "ceil_size",
    "choose_level",
    "label_level_downsamples",
    "lattice_indices",
    "normalize_pad",
    "pad_indices",
    "start_from_center",
    "window_from_center",
]

PadMode = Literal["constant", "reflect", "edge", "symmetric"]

#: A size within this many pixels of an integer is that integer: 64.000003 asks for 64 pixels, not 65.
SIZE_NOISE_PX = 1e-4
#: A start within this many pixels of an integer is that integer: 0.1 * 3 - 0.3 is 0, not -1.
START_NOISE_PX = 1e-6
#: A label pyramid is halved until its longer side is at most this many pixels: the largest tile a cache may
#: have, so that every label level has an image level of the same downsample, whatever the tile.
LABEL_TOP_PX = 512


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of level-0 pixels, half-open, which may overhang the image or lie wholly outside.

    Parameters
    ----------
    y, x : int
        Top-left pixel; may be negative.
    height, width : int
        Size in pixels, at least 1.

    Examples
    --------
    >>> Window(-2, 3, 4, 5).intersect(Window(0, 0, 10, 6))
    Window(y=0, x=3, height=2, width=3)
    """

    y: int
    x: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if not type(self.y) is type(self.x) is type(self.height) is type(self.width) is int:
            for name in ("y", "x", "height", "width"):
                value = getattr(self, name)
                # numpy integers and integral floats are welcome, 1.5 is not: nothing is rounded silently.
                as_int = int(value)
                if as_int != value:
                    raise ValueError(f"Window.{name} must be a whole number of pixels, got {value!r}")
                object.__setattr__(self, name, as_int)
        if self.height < 1 or self.width < 1:
            raise ValueError(f"Window must be at least 1 x 1 pixel, got {self.height} x {self.width}")

    @property
    def y1(self) -> int:
        """First row below the window."""
        return self.y + self.height

    @property
    def x1(self) -> int:
        """First column right of the window."""
        return self.x + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width

    @property
    def center(self) -> tuple[float, float]:
        """``(cy, cx)``: the middle of the rectangle, in the corner-origin coordinates of the module."""
        return self.y + self.height / 2, self.x + self.width / 2

    def as_slices(self) -> tuple[slice, slice]:
        """``(rows, columns)`` for indexing an array; only meaningful for a window inside the array."""
        return slice(self.y, self.y1), slice(self.x, self.x1)

    def as_xyxy(self) -> tuple[int, int, int, int]:
        """``(x0, y0, x1, y1)``, half-open."""
        return self.x, self.y, self.x1, self.y1

    def intersect(self, other: Window) -> Window | None:
        """Return the common part, or None where the two do not share a pixel."""
        y0, x0 = max(self.y, other.y), max(self.x, other.x)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        if y1 <= y0 or x1 <= x0:
            return None
        return Window(y0, x0, y1 - y0, x1 - x0)

    def contains(self, other: Window) -> bool:
        """Whether every pixel of ``other`` is in this window."""
        return self.y <= other.y and self.x <= other.x and other.y1 <= self.y1 and other.x1 <= self.x1

    def shift(self, dy: int, dx: int) -> Window:
        """Return the window moved by whole pixels."""
        return Window(self.y + dy, self.x + dx, self.height, self.width)

    def grow(self, top: int, bottom: int, left: int, right: int) -> Window:
        """Return the window with pixels added on each side (negative numbers shrink it)."""
        return Window(self.y - top, self.x - left, self.height + top + bottom, self.width + left + right)

    def blocks(self, size: int) -> Iterator[Window]:
        """Yield the window cut into blocks of ``size``, row by row; the last of a row or column is smaller."""
        for y in range(self.y, self.y1, size):
            for x in range(self.x, self.x1, size):
                yield Window(y, x, min(size, self.y1 - y), min(size, self.x1 - x))


def ceil_size(value: float) -> int:
    """Return the number of whole pixels that a requested size asks for.

    The next integer up, after removing float noise: a value within 1e-4 px of an integer is that integer.

    Raises
    ------
    ValueError
        If the value is not finite or not positive.

    Examples
    --------
    >>> ceil_size(64.000003), ceil_size(64.01), ceil_size(63.99999)
    (64, 65, 64)
    """
    value = _denoise(value, SIZE_NOISE_PX)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"a size must be positive and finite, got {value!r}")
    return math.ceil(value)


def start_from_center(center: float, size: float) -> int:
    """Return ``floor(center - size / 2)``, the first pixel of an interval given by its centre.

    Float noise is removed from the size first (see :func:`ceil_size`), and a result within 1e-6 px of an
    integer is that integer.
    """
    if not math.isfinite(center):
        raise ValueError(f"a centre must be finite, got {center!r}")
    return math.floor(_denoise(center - _denoise(size, SIZE_NOISE_PX) / 2, START_NOISE_PX))


def window_from_center(cy: float, cx: float, height: float, width: float) -> Window:
    """Return the window of ``ceil(height) x ceil(width)`` pixels around a centre.

    Parameters
    ----------
    cy, cx : float
        Centre, level-0 pixels.
    height, width : float
        Requested size, level-0 pixels; the window has the next whole size up, always.

    Examples
    --------
    >>> window_from_center(900, 2000, 256, 64.000003)
    Window(y=772, x=1968, height=256, width=64)
    """
    h, w = ceil_size(height), ceil_size(width)
    return Window(start_from_center(cy, height), start_from_center(cx, width), h, w)


def _denoise(value: float, tolerance: float) -> float:
    if not math.isfinite(value):
        return value
    nearest = float(round(value))
    return nearest if abs(value - nearest) <= tolerance else float(value)


def normalize_pad(pad: int | Sequence[int] | Sequence[Sequence[int]]) -> tuple[int, int, int, int]:
    """Return ``(top, bottom, left, right)`` for one number, a pair per axis, or a pair per side.

    Parameters
    ----------
    pad : int or (pad_y, pad_x) or ((top, bottom), (left, right))
        Level-0 pixels added around a window.

    Examples
    --------
    >>> normalize_pad(3), normalize_pad((1, 2)), normalize_pad(((1, 2), (3, 4)))
    ((3, 3, 3, 3), (1, 1, 2, 2), (1, 2, 3, 4))
    """
    try:
        array = np.asarray(pad)
        if array.size == 0 or array.dtype.kind not in "iu":
            raise ValueError
        if array.shape == ():
            array = np.full((2, 2), array)
        elif array.shape == (2,):
            array = np.repeat(array, 2).reshape(2, 2)
        if array.shape != (2, 2):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"pad must be a whole number, (pad_y, pad_x) or ((top, bottom), (left, right)), got {pad!r}"
        ) from None
    top, bottom, left, right = (int(v) for v in array.ravel())
    return top, bottom, left, right


def choose_level(downsamples: Sequence[float], wanted: float) -> int:
    """Return the coarsest level that is not coarser than asked.

    Parameters
    ----------
    downsamples : sequence of float
        Downsample of each level relative to level 0, ascending, the first being 1.
    wanted : float
        Output pixel size in level-0 pixels. A level coarser by less than 0.1 % still counts as not coarser,
        because vendors round their level sizes.

    Examples
    --------
    >>> [choose_level([1, 2, 4], d) for d in (1, 1.9, 2, 3.999, 100)]
    [0, 0, 1, 2, 2]
    """
    best = 0
    for level, downsample in enumerate(downsamples):
        if downsample <= wanted * 1.001 and downsample >= downsamples[best]:
            best = level
    return best


@lru_cache(maxsize=4096)
def label_level_downsamples(height: int, width: int) -> tuple[int, ...]:
    """Return the downsamples of an image's label pyramid: 1, 2, 4 ... until the longer side is at most 512.

    It depends on the image alone (not on tile or codec), so a mask read from a label layer and a mask
    rasterised on the fly sample the very same level-0 pixels.
    """
    levels = [1]
    while max(-(-height // levels[-1]), -(-width // levels[-1])) > LABEL_TOP_PX:
        levels.append(levels[-1] * 2)
    return tuple(levels)


def lattice_indices(start: int, extent: int, size: int, level_downsample: int) -> NDArray[np.int64]:
    """Return which label pixel of a level each output pixel shows, along one axis (nearest sampling).

    Output pixel ``i`` of ``size`` is centred on level-0 coordinate ``start + (i + 0.5) * extent / size``;
    the label pixel is the one of the level whose area holds that point. Pixel ``j`` of a level with
    downsample ``d`` stands for level-0 pixel ``j * d + d // 2``.

    Parameters
    ----------
    start, extent : int
        First level-0 pixel and number of level-0 pixels of the window along the axis.
    size : int
        Output pixels along the axis.
    level_downsample : int
        Downsample ``d`` of the label level, a power of two.

    Returns
    -------
    ndarray of int64, shape (size,)
        Ascending; may be negative or past the end where the window overhangs.
    """
    # Whole numbers throughout: 2 * centre * size = 2 * start * size + (2 * i + 1) * extent.
    numerator = 2 * start * size + (2 * np.arange(size, dtype=np.int64) + 1) * extent
    return numerator // (2 * size * level_downsample)


def area_bounds(start: int, extent: int, size: int, level_downsample: float) -> NDArray[np.float64]:
    """Return the edges of the output pixels along one axis, in pixels of a level.

    Returns
    -------
    ndarray of float64, shape (size + 1,)
        Output pixel ``i`` covers ``[edges[i], edges[i + 1])`` of the level.
    """
    return (start + np.arange(size + 1, dtype=np.float64) * extent / size) / level_downsample


def pad_indices(start: int, stop: int, size: int, mode: PadMode) -> NDArray[np.int64]:
    """Return which pixel of an axis stands at each position of ``[start, stop)``, as ``numpy.pad`` has it.

    Parameters
    ----------
    start, stop : int
        Half-open interval, which may overhang ``[0, size)`` by any distance or lie wholly outside.
    size : int
        Length of the axis.
    mode : {"constant", "reflect", "edge", "symmetric"}
        As in :func:`numpy.pad`. For ``"constant"`` positions outside are -1.

    Returns
    -------
    ndarray of int64, shape (stop - start,)

    Examples
    --------
    >>> pad_indices(-3, 5, 3, "reflect").tolist()
    [1, 2, 1, 0, 1, 2, 1, 0]
    """
    if mode not in get_args(PadMode):
        raise ValueError(f"padding mode must be one of {', '.join(get_args(PadMode))}, got {mode!r}")
    index = np.arange(start, stop, dtype=np.int64)
    if mode == "constant":
        return np.where((index >= 0) & (index < size), index, -1)
    if mode == "edge" or size == 1:
        return np.clip(index, 0, size - 1)
    if mode == "reflect":
        period = 2 * (size - 1)
        index %= period
        return np.where(index < size, index, period - index)
    period = 2 * size
    index %= period
    return np.where(index < size, index, period - 1 - index)


def axis_positions(length: int, size: int, stride: int) -> NDArray[np.int64]:
    """Return the starts of windows that cover an axis, the last one tucked in at the end.

    Parameters
    ----------
    length, size, stride : int
        Length of the axis, of a window, and the step; pixels, at least 1.

    Returns
    -------
    ndarray of int64
        Ascending starts. One start of 0 where the axis is no longer than a window (which then overhangs).

    Examples
    --------
    >>> axis_positions(10, 4, 4).tolist()
    [0, 4, 6]
    """
    if min(length, size, stride) < 1:
        raise ValueError(f"length, size and stride must be at least 1, got {length}, {size}, {stride}")
    if length <= size:
        return np.zeros(1, dtype=np.int64)
    count = -(-(length - size) // stride) + 1
    starts = np.arange(count, dtype=np.int64) * stride
    starts[-1] = length - size
    return starts
