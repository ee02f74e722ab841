"""Small arrays whose every pixel is different, so that a read from the wrong place never looks right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from slidesampler.rng import rng_for

__all__ = ["make_array"]


def make_array(
    height: int, width: int, channels: int = 3, dtype: DTypeLike = np.uint8, seed: int = 0
) -> NDArray[Any]:
    """Return an array ``(height, width, channels)`` whose pixels all differ from each other.

    Each pixel's values together are a number of its own where the dtype has that many, and no row, column or
    channel is a shifted copy of another one; otherwise (a uint8 array of one channel with more than 256 pixels)
    the values are spread evenly.

    Parameters
    ----------
    height, width, channels : int
        At least 1 each.
    dtype : dtype
        Integers over their whole range; floats with whole numbers from 0 on divided by 16, which are exact.
    seed : int

    Examples
    --------
    >>> array = make_array(20, 30)
    >>> array.shape, array.dtype.name, len(np.unique(array.reshape(-1, 3), axis=0))
    ((20, 30, 3), 'uint8', 600)
    """
    dtype = np.dtype(dtype)
    if min(height, width, channels) < 1:
        raise ValueError(f"sizes must be at least 1, got {height} x {width} x {channels}")
    if dtype.kind not in "uif":
        raise ValueError(f"dtype must be an integer or floating-point dtype, got {dtype}")
    rng = rng_for(seed, stream=f"array {height} {width} {channels} {dtype}")
    count = height * width
    levels = min(2 ** (8 * dtype.itemsize), 1 << 32) if dtype.kind in "ui" else 1 << 16
    # Numbers of their own written in base `levels`, one digit a channel; the digits beyond are random.
    number = rng.permutation(count)
    digits = np.empty((count, channels), np.int64)
    for channel in range(channels):
        digits[:, channel] = (
            number % levels if number.any() or channel == 0 else rng.integers(levels, size=count)
        )
        number = number // levels
    # A shift of each channel, so that small arrays use the whole range too.
    values = (digits * _ODD + rng.integers(levels, size=channels)) % levels
    out = values.reshape(height, width, channels)
    if dtype.kind == "f":
        return (out / 16).astype(dtype)
    return (out + np.iinfo(dtype).min).astype(dtype)


#: Odd, hence invertible modulo any power of two: multiplying by it spreads numbers without merging two.
_ODD = 40_503
