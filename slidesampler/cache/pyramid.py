"""Reduced levels of images and masks: which sizes, and which pixels stand for which.

Pure functions of arrays. Images are averaged, masks are decimated: an average of class numbers means nothing.
Every level is made from the one before, and pixel ``j`` of level ``k`` stands for level-0 pixels
``[j * 2**k, (j + 1) * 2**k)`` along each axis, the last one for what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.models import Level

__all__ = ["decimation", "decimation_part", "halve", "halve_valid", "image_levels", "levels_of", "thin"]

#: What sums of four are made in: exact for integers, and for floats rounded only once.
_SUM_DTYPES = {"uint8": np.uint16, "uint16": np.int32, "int16": np.int32, "float32": np.float64}
#: Rows of a level made at once: few enough for the processor's cache.
_BAND = 16
#: Level pixels whose weighted mean is computed at once: bounds the memory of a mask of noise.
_MIXED_AT_ONCE = 1 << 18


def image_levels(height: int, width: int, top_px: int) -> tuple[Level, ...]:
    """Return the levels of an image: halved until the longer side is at most ``top_px``, finest first.

    Examples
    --------
    >>> [(level.height, level.width) for level in image_levels(1000, 301, 256)]
    [(1000, 301), (500, 151), (250, 76)]
    """
    downsamples = [1]
    while max(-(-height // downsamples[-1]), -(-width // downsamples[-1])) > top_px:
        downsamples.append(downsamples[-1] * 2)
    return levels_of(height, width, downsamples)


def levels_of(height: int, width: int, downsamples: Sequence[int]) -> tuple[Level, ...]:
    """Return the levels of an image with these downsamples; sizes are rounded up."""
    return tuple(Level(-(-height // d), -(-width // d), (float(d), float(d))) for d in downsamples)


def halve(pixels: NDArray[Any], threads: int = 1) -> NDArray[Any]:
    """Return the exact means of 2 x 2 pixels; a last odd row or column is averaged over what exists.

    Integers are rounded to the nearest, halves up (``floor(sum / 4 + 1 / 2)``), as GDAL and OpenCV do. Floats
    are summed in float64 and rounded once; a NaN reaches only the pixel that covers it.

    Parameters
    ----------
    pixels : ndarray of uint8, uint16, int16 or float32, shape (h, w, C)
    threads : int
        Where the compiled encoder is there; the result is the same without it.

    Returns
    -------
    ndarray, shape (ceil(h / 2), ceil(w / 2), C), dtype of ``pixels``

    Examples
    --------
    >>> halve(np.array([[0, 1, 7], [1, 0, 8]], np.uint8)[..., None])[..., 0]
    array([[1, 8]], dtype=uint8)
    """
    if not _compiled(pixels):
        return _halve(pixels)
    out = np.empty(_half_shape(pixels), pixels.dtype)
    _native.encode.halve(np.ascontiguousarray(pixels), None, out, None, threads)  # type: ignore[union-attr]
    return out


def halve_valid(
    pixels: NDArray[Any], valid: NDArray[np.bool_], threads: int = 1
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the means of the valid ones of 2 x 2 pixels, and where there was any.

    Parameters
    ----------
    pixels : ndarray, shape (h, w, C)
    valid : ndarray of bool, shape (h, w)
    threads : int
        As of :func:`halve`.

    Returns
    -------
    means : ndarray, shape (ceil(h / 2), ceil(w / 2), C)
        Rounded as by :func:`halve`; where none of the pixels is valid, the plain mean of them all.
    any_valid : ndarray of bool, shape (ceil(h / 2), ceil(w / 2))
        The ``valid`` of the next halving, so that no invalid pixel enters a mean that has a valid one.
    """
    if not _compiled(pixels):
        return _halve_valid(pixels, valid)
    out = np.empty(_half_shape(pixels), pixels.dtype)
    any_valid = np.empty(out.shape[:2], np.bool_)
    _native.encode.halve(  # type: ignore[union-attr]
        np.ascontiguousarray(pixels), np.ascontiguousarray(valid), out, any_valid, threads
    )
    return out, any_valid


def _compiled(pixels: NDArray[Any]) -> bool:
    return _native.encode is not None and pixels.dtype.isnative and pixels.dtype.name in _SUM_DTYPES


def _half_shape(pixels: NDArray[Any]) -> tuple[int, int, int]:
    return -(-pixels.shape[0] // 2), -(-pixels.shape[1] // 2), pixels.shape[2]


def _halve(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return what :func:`halve` does, by numpy: the rule that the compiled one is held to."""
    pixels = _even(pixels)
    height, width, channels = pixels.shape[0] // 2, pixels.shape[1] // 2, pixels.shape[2]
    out = np.empty((height, width, channels), pixels.dtype)
    wide = _SUM_DTYPES[pixels.dtype.name]
    rows = np.empty((min(_BAND, height), 2 * width, channels), wide)
    # Band by band and channel by channel: ten times as fast as one expression over all of it. OpenCV would be
    # faster still, but rounds in another way for 2 and for more than 4 channels.
    with np.errstate(invalid="ignore", over="ignore"):
        for y in range(0, height, _BAND):
            band = rows[: min(_BAND, height - y)]
            stop = y + len(band)
            np.add(pixels[2 * y : 2 * stop : 2], pixels[2 * y + 1 : 2 * stop : 2], out=band, dtype=wide)
            for channel in range(channels):
                total = band[:, 0::2, channel] + band[:, 1::2, channel]
                if pixels.dtype.kind == "f":
                    total *= 0.25
                else:
                    total += 2
                    total >>= 2
                out[y:stop, :, channel] = total
    return out


def _halve_valid(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    means = _halve(pixels)
    pixels, valid = _even(pixels), _even(valid)
    corners = [(slice(dy, None, 2), slice(dx, None, 2)) for dy in (0, 1) for dx in (0, 1)]
    count = np.zeros(means.shape[:2], np.uint8)
    for corner in corners:
        count += valid[corner]
    mixed_y, mixed_x = np.nonzero((count > 0) & (count < 4))
    for first in range(0, len(mixed_y), _MIXED_AT_ONCE):
        at = mixed_y[first : first + _MIXED_AT_ONCE], mixed_x[first : first + _MIXED_AT_ONCE]
        means[at] = _valid_mean([pixels[c][at] for c in corners], [valid[c][at] for c in corners])
    return means, count > 0


def _valid_mean(values: list[NDArray[Any]], weights: list[NDArray[np.bool_]]) -> NDArray[Any]:
    """Mean of the valid values of each row; every row has one at least. Values ``(n, C)``, weights ``(n,)``."""
    dtype = values[0].dtype
    total: NDArray[Any] = np.zeros(values[0].shape, np.float64 if dtype.kind == "f" else np.int64)
    number = np.zeros((len(total), 1), np.int64)
    for value, weight in zip(values, weights, strict=True):
        # Not a product: 0 * NaN is NaN.
        total += np.where(weight[:, None], value, np.zeros((), dtype))
        number += weight[:, None]
    mean: NDArray[Any] = total / number if dtype.kind == "f" else (2 * total + number) // (2 * number)
    return mean.astype(dtype)


def _even(array: NDArray[Any]) -> NDArray[Any]:
    """Repeat a last odd row or column: the mean of a pixel and its copy is the pixel."""
    odd_y, odd_x = array.shape[0] % 2, array.shape[1] % 2
    if not (odd_y or odd_x):
        return array
    return np.pad(array, ((0, odd_y), (0, odd_x)) + ((0, 0),) * (array.ndim - 2), mode="edge")


def decimation(size: int, downsample: int) -> NDArray[np.int64]:
    """Return the level-0 pixel that each pixel of a mask level shows, along one axis.

    Pixel ``j`` shows ``min(j * d + d // 2, size - 1)``; the same for label layers, whatever their tile.

    Examples
    --------
    >>> decimation(9, 4).tolist()
    [2, 6, 8]
    """
    count = -(-size // downsample)
    return np.minimum(np.arange(count, dtype=np.int64) * downsample + downsample // 2, size - 1)


def decimation_part(size: int, downsample: int, start: int, stop: int) -> tuple[int, NDArray[np.int64]]:
    """Return which pixels of a mask level lie in level-0 pixels ``[start, stop)``, along one axis.

    Returns
    -------
    first : int
        The first of those level pixels.
    offsets : ndarray of int64
        Where each of them is taken from, relative to ``start``; empty where the interval holds none.

    Examples
    --------
    >>> first, offsets = decimation_part(9, 4, 3, 9)
    >>> first, offsets.tolist()
    (1, [3, 5])
    """
    # Only the neighbourhood is looked at: the cost does not grow with the image.
    lowest = max(0, start // downsample - 1)
    highest = min(-(-size // downsample), stop // downsample + 2)
    index = np.arange(lowest, highest, dtype=np.int64)
    shown = np.minimum(index * downsample + downsample // 2, size - 1)
    inside = np.nonzero((shown >= start) & (shown < stop))[0]
    if not len(inside):
        return 0, np.zeros(0, np.int64)
    return int(index[inside[0]]), shown[inside] - start


def thin(array: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Return ``array[np.ix_(rows, columns)]``, as a view where rows and columns are evenly spaced."""
    found = _even_steps(rows), _even_steps(columns)
    if found[0] is None or found[1] is None:
        return array[np.ix_(rows, columns)]
    return array[found]


def _even_steps(index: NDArray[np.int64]) -> slice | None:
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step < 1 or not np.array_equal(index, index[0] + step * np.arange(len(index))):
        return None
    return slice(int(index[0]), int(index[-1]) + 1, step)
