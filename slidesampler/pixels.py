"""Windows of pixels, padded and resampled, from any reader. The one place where level 0 becomes output."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import (
    Window,
    area_bounds,
    choose_level,
    pad_indices,
)
from slidesampler.models import Level
from slidesampler.readers.base import Reader
from slidesampler.resample import area_mean, cast_pixels
from slidesampler.target import Padding
from slidesampler.viewport import View

__all__ = [
    "exact_labels",
    "exact_level",
    "fitting_value",
    "pad_outside",
    "read_labels",
    "read_pixels",
    "read_valid",
]

#: A window that touches more than this is read in bands: memory is bounded by the output (and one row of the
#: input), not by the input.
BLOCK_BYTES = 64 * 2**20


def read_pixels(
    reader: Reader,
    view: View,
    padding: Padding,
    channels: tuple[int, ...] | None = None,
    out: NDArray[Any] | None = None,
    dtype: np.dtype[Any] | None = None,
) -> NDArray[Any]:
    """Return the pixels of a view, ``(H, W, C)``.

    The coarsest level that is not coarser than the output is read, and averaged over the ground of each output
    pixel where the two do not coincide. Padding never mixes into real pixels when it is constant: the mean is
    then over the part of an output pixel that is inside the image.

    Parameters
    ----------
    reader : Reader
    view : View
    padding : Padding
        For output pixels that are not inside.
    channels : tuple of int, optional
    out : ndarray, optional
        Filled and returned where ``dtype`` is the reader's.
    dtype : numpy.dtype, optional
        The reader's where None. Constant padding need only fit this one: -1 around uint8 pixels as float32.

    Raises
    ------
    TargetError
        If the constant does not fit the dtype, or its values the channels.
    """
    if dtype is not None and dtype != reader.dtype:
        if padding.mode != "constant":
            return cast_pixels(read_pixels(reader, view, padding, channels), dtype)
        image = cast_pixels(read_pixels(reader, view, Padding(), channels), dtype)
        if not view.full:
            outside = np.ones(view.size, np.bool_)
            outside[view.rows, view.cols] = False
            image[outside] = _constant(padding, image.shape[2], dtype)
        return image
    found = exact_level(reader, view) if view.full else None
    if found is not None:
        level, window = found
        return reader.read(window, level, channels=channels, out=out)
    count = reader.shape[2] if channels is None else len(channels)
    shape = (*view.size, count)
    image = np.empty(shape, reader.dtype) if out is None else out
    level = choose_level([max(item.downsample) for item in reader.levels], min(view.scale))
    exact = _level_window(view, reader.levels[level])
    if padding.mode == "constant":
        if not view.full:
            pad_outside(image, padding)
        if not view.empty:
            part = image[view.rows, view.cols]
            if exact is not None:
                window = exact.shift(view.rows.start, view.cols.start)
                inside = Window(window.y, window.x, *part.shape[:2])
                if _contains(reader.levels[level], inside):
                    reader.read(inside, level, channels=channels, out=part)
                    return image
            part[...] = _read_area(reader, view, level, channels, None)
        return image
    if exact is not None:
        height, width = _inside_extent(reader, level)
        rows = pad_indices(exact.y, exact.y1, height, padding.mode)
        cols = pad_indices(exact.x, exact.x1, width, padding.mode)
        pixel_bytes = _pixel_bytes(reader, channels)
        image[...] = _gather(lambda w: reader.read(w, level, channels=channels), rows, cols, pixel_bytes)
    else:
        image[...] = _read_area(reader, view, level, channels, padding)
    return image


def _level_window(view: View, level: Level) -> Window | None:
    """Return the view as a window of the level where pixel and output grid coincide, else None."""
    if view.scale != level.downsample:
        return None
    dy, dx = level.downsample
    y, x = view.window.y / dy, view.window.x / dx
    if not (y.is_integer() and x.is_integer()):
        return None
    return Window(int(y), int(x), *view.size)


def exact_level(reader: Reader, view: View) -> tuple[int, Window] | None:
    """Return the level and the window of it whose pixels are the output's, one for one; None where none is.

    At full resolution the window may overhang the level; elsewhere only windows that lie inside are found.
    """
    if view.at_full_resolution:
        return 0, view.window
    level = choose_level([max(item.downsample) for item in reader.levels], min(view.scale))
    window = _level_window(view, reader.levels[level])
    if window is None or not view.full or not _contains(reader.levels[level], window):
        return None
    return level, window


def exact_labels(reader: Reader, view: View) -> tuple[int, Window] | None:
    """Return what :func:`exact_level` does, for a label layer of the cache."""
    found = exact_level(reader, view)
    if found is None or max(reader.levels[found[0]].downsample) != view.label_downsample:
        return None
    return found


def pad_outside(image: NDArray[Any], padding: Padding) -> None:
    """Fill the output ``(H, W, C)`` with the constant of a padding; what is inside is to be read over it.

    Raises
    ------
    TargetError
        If the constant does not fit the dtype, or its values the channels.
    """
    image[...] = _constant(padding, image.shape[2], image.dtype)


def _contains(level: Level, window: Window) -> bool:
    return Window(0, 0, level.height, level.width).contains(window)


def _inside_extent(reader: Reader, level: int) -> tuple[int, int]:
    """Return the level's size without a last row or column whose centre is outside the image."""

    def centred(length: int, downsample: float, size: int) -> int:
        return min(size, max(1, int(np.ceil(length / downsample - 0.5))))

    here = reader.levels[level]
    return (
        centred(reader.shape[0], here.downsample[0], here.height),
        centred(reader.shape[1], here.downsample[1], here.width),
    )


def _constant(padding: Padding, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    value = np.asarray(padding.value)
    if value.size not in (1, count):
        raise TargetError(f"padding has {value.size} values, but the image read has {count} channels")
    return fitting_value("padding", value, dtype)


def fitting_value(name: str, value: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a value of a target in a dtype; TargetError, naming it, where the dtype cannot hold it."""
    cast = cast_pixels(value, dtype)
    held = np.isfinite(cast) | ~np.isfinite(value) if dtype.kind == "f" else cast == value
    if not held.all():
        said = ", ".join(f"{v:g}" for v in np.ravel(value))
        raise TargetError(f"{name}={said} does not fit {dtype} pixels; ask for dtype='float32' too")
    return cast


def _gather(
    read: Callable[[Window], NDArray[Any]],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    pixel_bytes: int,
) -> NDArray[Any]:
    """Return the pixels at ``rows`` x ``cols``, read as rectangles of bounded size that hold them all."""
    x, x1 = int(cols.min()), int(cols.max()) + 1
    reach = int(rows.max()) - int(rows.min()) + 1
    if bool((np.diff(rows) == 1).all()) and bool((np.diff(cols) == 1).all()):
        # Every pixel of a rectangle in its order, which is the rule at full resolution.
        return read(Window(int(rows[0]), x, reach, x1 - x))
    step = max(1, BLOCK_BYTES * len(rows) // (reach * (x1 - x) * pixel_bytes))
    parts = []
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        y = int(some.min())
        block = read(Window(y, x, int(some.max()) - y + 1, x1 - x))
        parts.append(block[(some - y)[:, None], (cols - x)[None, :]])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _pixel_bytes(reader: Reader, channels: tuple[int, ...] | None) -> int:
    return reader.dtype.itemsize * (reader.shape[2] if channels is None else len(channels))


def _read_area(
    reader: Reader, view: View, level: int, channels: tuple[int, ...] | None, padding: Padding | None
) -> NDArray[Any]:
    """Area-average the inside of a view, or where a padding is given all of it, padded that way first."""
    here = reader.levels[level]
    edges_y = area_bounds(view.window.y, view.window.height, view.size[0], here.downsample[0])
    edges_x = area_bounds(view.window.x, view.window.width, view.size[1], here.downsample[1])
    if padding is None:
        edges_y = np.clip(edges_y[view.rows.start : view.rows.stop + 1], 0, here.height)
        edges_x = np.clip(edges_x[view.cols.start : view.cols.stop + 1], 0, here.width)
    x0, x1 = int(np.floor(edges_x[0])), int(np.ceil(edges_x[-1]))
    pixel_bytes = _pixel_bytes(reader, channels)
    # An image without overviews is read in bands: its thumbnail must not need all of it in memory.
    band_bytes = (edges_y[-1] - edges_y[0]) / (len(edges_y) - 1) * (x1 - x0) * pixel_bytes
    step = max(1, int(BLOCK_BYTES / band_bytes))

    def band_mean(edges: NDArray[np.float64]) -> NDArray[Any]:
        y0, y1 = int(np.floor(edges[0])), int(np.ceil(edges[-1]))
        if padding is None:
            block = reader.read(Window(y0, x0, y1 - y0, x1 - x0), level, channels=channels)
        else:
            rows = pad_indices(y0, y1, here.height, padding.mode)
            cols = pad_indices(x0, x1, here.width, padding.mode)
            block = _gather(lambda w: reader.read(w, level, channels=channels), rows, cols, pixel_bytes)
        return area_mean(block, edges - y0, edges_x - x0)

    parts = []
    for start in range(0, len(edges_y) - 1, step):
        edges = edges_y[start : start + step + 1]
        # Where one row of the output covers too much, it is the mean of the means of equal strips of it.
        strips = max(1, math.ceil(band_bytes / BLOCK_BYTES)) if step == 1 else 1
        cuts = (
            [edges]
            if strips == 1
            else np.lib.stride_tricks.sliding_window_view(np.linspace(edges[0], edges[-1], strips + 1), 2)
        )
        total = band_mean(cuts[0])
        for cut in cuts[1:]:
            total += band_mean(cut)
        parts.append(cast_pixels(total / strips if strips > 1 else total, reader.dtype))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_valid(reader: Reader, view: View) -> NDArray[np.bool_]:
    """Return which output pixels are real: inside the image and valid where the reader has a valid mask.

    Exact (the level-0 pixel ``ys[i], xs[j]``) for cache entries, whose valid mask is reduced by picking these
    very pixels, and for any source at full resolution; for a source whose own overviews are read in place it is
    the nearest pixel of that overview.
    """
    if view.empty or not reader.has_valid:
        return view.inside()
    if view.at_full_resolution and view.full:
        return reader.read_valid(view.window)
    valid = view.inside()
    level = choose_level([max(item.downsample) for item in reader.levels], view.label_downsample)
    here = reader.levels[level]
    rows = np.minimum((view.ys / here.downsample[0]).astype(np.int64), here.height - 1)
    cols = np.minimum((view.xs / here.downsample[1]).astype(np.int64), here.width - 1)
    valid[view.rows, view.cols] = _gather(lambda w: reader.read_valid(w, level), rows, cols, 1)
    return valid


def read_labels(reader: Reader, view: View, *, full: bool = False) -> NDArray[Any]:
    """Return the label pixels of the part of a view that is inside, ``(len(ys), len(xs))``.

    Parameters
    ----------
    reader : Reader
        One channel. Where it has no level of the view's label downsample, level 0 is read.
    view : View
        Not empty.
    full : bool
        Read level 0 whatever the scale: the overviews of a raster that we did not write may hold anything.
    """
    if view.at_full_resolution:
        return reader.read(view.window_inside)[..., 0]
    wanted = 1.0 if full else float(view.label_downsample)
    exact = [i for i, item in enumerate(reader.levels) if item.downsample == (wanted, wanted)]
    level = exact[0] if exact else 0
    rows, cols = (view.label_rows, view.label_cols) if level else (view.ys, view.xs)
    return _gather(lambda w: reader.read(w, level), rows, cols, _pixel_bytes(reader, None))[..., 0]
