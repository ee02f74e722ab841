"""Finished files against what they were made from: what differs is never published."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.pyramid import decimation, halve, halve_valid
from slidesampler.cache.write_labels import LabelSource
from slidesampler.errors import BuildError
from slidesampler.geometry import Window, label_level_downsamples
from slidesampler.models import Level
from slidesampler.readers.base import Reader
from slidesampler.rng import rng_for

__all__ = ["verify_image", "verify_labels"]

#: Side of a window that is compared, pixels of its level.
_SIDE = 128
#: Windows at random places, besides the corners.
_RANDOM_WINDOWS = 8
#: The source of a window is at most this wide, level-0 pixels: windows of coarse levels are smaller.
_SOURCE_SIDE = 2048
#: Lossy codecs are compared by the means of cells of this side ...
_CELL = 16
#: ... whose differences, averaged over a window, are at most this many of 255 grey levels. Found: JPEG of
#: quality 10 gives 4 on noise and 2 on tissue; a channel swapped or a window misplaced on tissue gives 20 and
#: more.
LOSSY_TOLERANCE = 12.0


def verify_image(
    reader: Reader,
    built: Reader,
    *,
    lossless: bool,
    seed: int,
    levels: tuple[Level, ...] | None = None,
) -> None:
    """Compare a finished image with its source: shape, dtype, levels, and windows at corners and random places.

    Level 0 must equal the source, reduced levels the means that the writer's arithmetic gives for the source's
    pixels, and the valid mask the source's; exactly, unless the codec is lossy.

    Parameters
    ----------
    reader : Reader
        The source.
    built : Reader
        The finished files, opened anew.
    lossless : bool
        False compares the means of 16 x 16 pixels, which may differ by 12 of 255 grey levels on average over a
        window. Masks are exact in any case.
    seed : int
        Chooses the windows.
    levels : tuple of Level, optional
        The levels that the writer says it wrote; sizes must agree. Where None they must be halvings.

    Raises
    ------
    BuildError
        Names what differs, the window, and the largest difference.
    """
    _check_shape(reader, built)
    _check_levels(built, levels)
    if built.has_valid and not reader.has_valid:
        raise BuildError(f"{built.name}: has a valid mask, its source {reader.name} has none")
    rng = rng_for(seed, stream="verify")
    for number, level in enumerate(built.levels):
        side = min(_SIDE, _SOURCE_SIDE >> number)
        if side:
            for window in _windows(level, rng, 4 + _RANDOM_WINDOWS if number == 0 else 2, side):
                _compare(reader, built, number, window, lossless=lossless)


def verify_labels(
    source: LabelSource,
    built: Reader,
    *,
    seed: int,
    instances: bool = False,
) -> None:
    """Compare a finished label layer with labels painted afresh, at corners and random places of every level.

    Parameters
    ----------
    source : LabelSource
        What the layer was written from.
    built : Reader
        ``labels.tif`` (or ``instances.tif``), opened anew.
    seed : int
        Chooses the windows.
    instances : bool
        Whether ``built`` holds instance numbers.

    Raises
    ------
    BuildError
        Names what differs, the window, and where.
    """
    height, width = source.shape
    dtype = np.dtype(np.uint32) if instances else source.class_map.dtype
    if built.shape != (height, width, 1) or built.dtype != dtype:
        raise BuildError(
            f"{built.name}: is {built.shape} {built.dtype}, the label layer to write was "
            f"{(height, width, 1)} {dtype}"
        )
    downsamples = label_level_downsamples(height, width)
    wanted = [(-(-height // d), -(-width // d)) for d in downsamples]
    found = [(level.height, level.width) for level in built.levels]
    if found != wanted:
        raise BuildError(f"{built.name}: levels are {found}, {wanted} were to be written")
    paint = source.instances if instances else source.labels
    rng = rng_for(seed, stream="verify")
    for number, (level, downsample) in enumerate(zip(built.levels, downsamples, strict=True)):
        rows, columns = decimation(height, downsample), decimation(width, downsample)
        # A level's window is painted whole at level 0, so it is small where the level is coarse.
        side = max(1, min(_SIDE, _SOURCE_SIDE // downsample))
        for window in _windows(level, rng, 4 + _RANDOM_WINDOWS if number == 0 else 2, side):
            ys, xs = rows[window.y : window.y1], columns[window.x : window.x1]
            area = Window(int(ys[0]), int(xs[0]), int(ys[-1] - ys[0]) + 1, int(xs[-1] - xs[0]) + 1)
            expected = paint(area)[np.ix_(ys - ys[0], xs - xs[0])]
            _check_equal(built, number, window, built.read(window, number)[:, :, 0], expected, "labels")


def _check_shape(reader: Reader, built: Reader) -> None:
    if built.shape != reader.shape or built.dtype != reader.dtype.newbyteorder("="):
        raise BuildError(
            f"{built.name}: is {built.shape} {built.dtype}, its source {reader.name} is "
            f"{reader.shape} {reader.dtype}"
        )


def _check_levels(built: Reader, levels: tuple[Level, ...] | None) -> None:
    found = [(level.height, level.width) for level in built.levels]
    if levels is not None:
        wanted = [(level.height, level.width) for level in levels]
    else:
        height, width, _ = built.shape
        wanted = [(-(-height >> number), -(-width >> number)) for number in range(len(found))]
    if found != wanted:
        raise BuildError(f"{built.name}: levels are {found}, {wanted} were to be written")


def _windows(level: Level, rng: np.random.Generator, count: int, side: int) -> list[Window]:
    """Return windows of a level: its four corners first, then random places; two of them for a coarse level."""
    height, width = min(side, level.height), min(side, level.width)
    last_y, last_x = level.height - height, level.width - width
    corners = [(last_y, last_x), (0, 0), (0, last_x), (last_y, 0)]
    places = corners if count > len(corners) else corners[:1]
    random = [
        (int(rng.integers(last_y + 1)), int(rng.integers(last_x + 1))) for _ in range(count - len(places))
    ]
    return [Window(y, x, height, width) for y, x in dict.fromkeys([*places, *random])]


def _compare(reader: Reader, built: Reader, number: int, window: Window, *, lossless: bool) -> None:
    """Compare one window of one level with the source's pixels under it."""
    height, width, _ = reader.shape
    y, x = window.y << number, window.x << number
    area = Window(y, x, min(window.y1 << number, height) - y, min(window.x1 << number, width) - x)
    pixels = reader.read(area)
    valid = reader.read_valid(area) if reader.has_valid else np.ones(area.shape, np.bool_)
    _check_valid(built, number, window, valid, area, (height, width))
    for _ in range(number):
        if valid.all():
            pixels, valid = halve(pixels), np.ones([-(-s // 2) for s in valid.shape], np.bool_)
        else:
            pixels, valid = halve_valid(pixels, valid)
    found = built.read(window, number)
    if lossless:
        _check_equal(built, number, window, found, pixels, "pixels")
    else:
        _check_close(built, number, window, found, pixels)


def _check_valid(
    built: Reader,
    number: int,
    window: Window,
    valid: NDArray[np.bool_],
    area: Window,
    size: tuple[int, int],
) -> None:
    rows = decimation(size[0], 1 << number)[window.y : window.y1] - area.y
    columns = decimation(size[1], 1 << number)[window.x : window.x1] - area.x
    expected = valid[np.ix_(rows, columns)]
    if built.has_valid:
        _check_equal(built, number, window, built.read_valid(window, number), expected, "valid mask")
    elif not expected.all():
        raise BuildError(
            f"{built.name}: has no valid mask, its source has invalid pixels in {window} of level {number}"
        )


def _check_equal(
    built: Reader, number: int, window: Window, found: NDArray[Any], expected: NDArray[Any], what: str
) -> None:
    if np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"):
        return
    wrong = found != expected
    if found.dtype.kind == "f":
        wrong &= ~(np.isnan(found) & np.isnan(expected))
    place = tuple(int(v) for v in np.argwhere(wrong)[0])
    raise BuildError(
        f"{built.name}: {what} of {window} of level {number} differ from the source in {int(wrong.sum())} of "
        f"{wrong.size} values; the first is at {place}: {found[place]} instead of {expected[place]}; "
        "build it again, and check the disk if that fails too"
    )


def _check_close(
    built: Reader, number: int, window: Window, found: NDArray[Any], expected: NDArray[Any]
) -> None:
    difference = float(np.abs(_cell_means(found) - _cell_means(expected)).mean())
    if difference > LOSSY_TOLERANCE:
        raise BuildError(
            f"{built.name}: pixels of {window} of level {number} differ from the source by {difference:.1f} "
            f"grey levels (means of {_CELL} x {_CELL} pixels), more than the {LOSSY_TOLERANCE:g} that loss may "
            "explain; "
            "use a higher quality or a lossless codec"
        )


def _cell_means(pixels: NDArray[Any]) -> NDArray[np.float64]:
    starts = [np.arange(0, size, _CELL) for size in pixels.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float64), starts[0], 0), starts[1], 1)
    counts = [np.diff(np.append(start, size)) for start, size in zip(starts, pixels.shape, strict=False)]
    means: NDArray[np.float64] = sums / (counts[0][:, None] * counts[1][None, :])[:, :, None]
    return means
