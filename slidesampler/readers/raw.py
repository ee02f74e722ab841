"""Pixels that lie open in memory, for the compiled reader: it copies them beside the tiles that it decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.readers.base import NativePart
from slidesampler.readers.tile_index import TiledLevel

__all__ = ["raw_part"]


def raw_part(pixels: NDArray[Any], used: Callable[..., None] | None = None) -> NativePart | None:
    """Return an array as a level of the compiled reader; None where it has to be converted, or there is none.

    Parameters
    ----------
    pixels : ndarray (H, W, C)
        In memory or mapped; kept, not copied.
    used : callable, optional
        See :class:`.base.NativePart`.
    """
    if _native.tiles is None or not pixels.dtype.isnative or min(pixels.strides) < 0:
        return None
    level = TiledLevel(_native.tiles.Raw(pixels), pixels.dtype, pixels.shape[2], (1, 1))
    return NativePart(level, tuple(range(pixels.shape[2])), used)
