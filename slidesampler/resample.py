"""Area resampling: every output pixel is the mean of exactly the ground it covers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_mean", "cast_pixels"]


def area_mean(
    block: NDArray[Any], edges_y: NDArray[np.float64], edges_x: NDArray[np.float64]
) -> NDArray[np.floating[Any]]:
    """Return the mean of ``block`` over each cell of a grid of edges.

    Parameters
    ----------
    block : ndarray, shape (h, w, C)
        Pixel ``i`` covers ``[i, i + 1)``.
    edges_y, edges_x : ndarray of float64, shape (oh + 1,) and (ow + 1,)
        Ascending, in pixels of the block, within ``[0, h]`` and ``[0, w]``; output pixel ``i`` covers
        ``[edges[i], edges[i + 1])``, which must not be empty.

    Returns
    -------
    ndarray of float32 (float64 for inputs of more than 16 bits), shape (oh, ow, C)
        A NaN reaches only the output pixels that cover it.

    Examples
    --------
    >>> row = np.arange(4.0).reshape(1, 4, 1)
    >>> area_mean(row, np.array([0.0, 1.0]), np.array([0.0, 1.5, 4.0])).ravel().tolist()
    [0.3333333333333333, 2.2]
    """
    dtype = np.result_type(block.dtype, np.float32)
    # The axis that shrinks more goes first, so that the second pass has less to do.
    first_y = block.shape[0] * (len(edges_x) - 1) >= block.shape[1] * (len(edges_y) - 1)
    if first_y:
        rows = _axis_mean(block, edges_y, dtype)
        return _axis_mean(rows.swapaxes(0, 1), edges_x, dtype).swapaxes(0, 1)
    cols = _axis_mean(block.swapaxes(0, 1), edges_x, dtype)
    return _axis_mean(cols.swapaxes(0, 1), edges_y, dtype)


def _axis_mean(array: NDArray[Any], edges: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Mean over cells of the first axis, one weighted sum per pixel that a cell can touch."""
    start, stop = edges[:-1], edges[1:]
    first = np.floor(start).astype(np.int64)
    reach = int((np.ceil(stop).astype(np.int64) - first).max())
    shape = (-1,) + (1,) * (array.ndim - 1)
    total = np.zeros((len(start), *array.shape[1:]), dtype)
    for k in range(reach):
        index = first + k
        weight = np.minimum(stop, index + 1) - np.maximum(start, index)
        weight = np.maximum(weight, 0) / (stop - start)
        # A pixel of weight 0 is replaced by one that counts anyway: 0 * NaN would be NaN.
        index = np.where(weight > 0, index, first)
        total += array[index] * weight.astype(dtype).reshape(shape)
    return total


def cast_pixels(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return pixels in another dtype: rounded half to even and clipped where it is an integer dtype.

    A NaN becomes 0 in an integer dtype; what is too large for a floating-point dtype becomes infinite. The
    array itself is returned where nothing changes.
    """
    if pixels.dtype == dtype:
        return pixels
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            floats: NDArray[Any] = pixels.astype(dtype)
        return floats
    info = np.iinfo(dtype)
    clipped: NDArray[Any]
    if pixels.dtype.kind != "f":
        clipped = np.clip(pixels, info.min, info.max)
        return clipped.astype(dtype)
    if dtype.itemsize <= 2:
        whole = np.nan_to_num(np.rint(pixels), nan=0.0, posinf=info.max, neginf=info.min)
        clipped = np.clip(whole, info.min, info.max)
        return clipped.astype(dtype)
    # The largest integer is no float here: the float nearest to it is one too many.
    whole = np.nan_to_num(np.rint(pixels.astype(np.float64)), nan=0.0)
    too_large = whole >= float(info.max) + (1.0 if dtype.itemsize == 4 else 0.0)
    cast: NDArray[Any] = np.where(too_large, 0.0, np.maximum(whole, float(info.min))).astype(dtype)
    cast[too_large] = info.max
    return cast
