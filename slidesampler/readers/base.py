"""The reader protocol: the one way pixels come in."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.models import Level

__all__ = ["Reader", "check_window", "output_array"]


@runtime_checkable
class Reader(Protocol):
    """An open image that answers windows of any of its levels.

    A reader is used by one thread of one process at a time (the pool sees to that) and is never pickled.

    Attributes
    ----------
    name : str
        What is read, for error messages: a path.
    shape : (int, int, int)
        ``(H, W, C)`` of level 0; an alpha channel is not counted, it is the valid mask.
    dtype : numpy.dtype
    levels : tuple of Level
        Finest first; ``levels[0]`` is the full image.
    mpp : (float, float) or None
        Micrometres per level-0 pixel, ``(y, x)``, as the file says.
    channels : tuple of str
        Channel names where the file has them, else empty.
    has_valid : bool
        Whether some pixels may be invalid (an alpha channel, a mask band).
    """

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    channels: tuple[str, ...]
    has_valid: bool

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window that lies inside the level.

        Parameters
        ----------
        window : Window
            In pixels *of the level*; must lie wholly inside it.
        level : int
            Index into ``levels``.
        channels : tuple of int, optional
            Which channels, in this order; all where None.
        out : ndarray, shape (h, w, C), optional
            Filled and returned; any strides.

        Raises
        ------
        ReadError
            If the window is not inside the level, or the file cannot be read there.
        """
        ...

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of the window are valid, bool ``(h, w)``; the window lies inside the level."""
        ...

    def close(self) -> None:
        """Release the file. Closing twice does nothing; reading after it raises ReadError."""
        ...


def check_window(name: str, levels: tuple[Level, ...], window: Window, level: int) -> None:
    """Raise ReadError unless ``window`` lies inside ``levels[level]``."""
    if not 0 <= level < len(levels):
        raise ReadError(f"{name}: level {level} was asked for; there are levels 0 to {len(levels) - 1}")
    extent = Window(0, 0, levels[level].height, levels[level].width)
    if not extent.contains(window):
        raise ReadError(
            f"{name}: {window} is not inside level {level} ({extent.height} x {extent.width} pixels); "
            "readers do not pad, Sampler.load_sample does"
        )


def output_array(
    out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any], name: str
) -> NDArray[Any]:
    """Return ``out`` after checking its shape and dtype, or a new array.

    Raises
    ------
    ReadError
        If ``out`` is not of that shape and dtype.
    """
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ReadError(f"{name}: out is {out.shape} {out.dtype}, but this read gives {shape} {dtype}")
    return out
