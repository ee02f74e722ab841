"""Which part of an image stands for it: the busiest crop of a bounded size, found without reading it all."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground.reduced import read_reduced
from slidesampler.geometry import Window, choose_level
from slidesampler.readers.base import Reader

__all__ = ["busiest_crop", "detail_map"]

#: Longer side of the thumbnail, pixels.
_THUMBNAIL = 512
#: A level of more pixels than this is not read for a thumbnail: small windows of the image are looked at.
_MAX_LEVEL_PX = 2**25
#: Such windows along each axis, and their side.
_PROBES, _PROBE_PX = 12, 64
#: Corners of crops lie on this grid, and so on that of most tiles of the source.
_GRID = 512


def busiest_crop(reader: Reader, side: int) -> Window:
    """Return the crop of a side where neighbouring pixels of a thumbnail differ most: tissue, not glass.

    Parameters
    ----------
    reader : Reader
    side : int
        Pixels; of an image that is smaller along an axis all is taken.

    Returns
    -------
    Window
        Level-0 pixels, inside the image.
    """
    height, width, _ = reader.shape
    crop = min(side, height), min(side, width)
    if crop == (height, width):
        return Window(0, 0, height, width)
    detail = detail_map(reader)
    # Sums over the cells above and left of each corner give those over any rectangle.
    sums = np.zeros((detail.shape[0] + 1, detail.shape[1] + 1))
    sums[1:, 1:] = detail.cumsum(axis=0).cumsum(axis=1)
    ys, tops, bottoms = _candidates(height, crop[0], detail.shape[0])
    xs, lefts, rights = _candidates(width, crop[1], detail.shape[1])
    inside = (
        sums[np.ix_(bottoms, rights)]
        - sums[np.ix_(tops, rights)]
        - sums[np.ix_(bottoms, lefts)]
        + sums[np.ix_(tops, lefts)]
    )
    # Of crops over the same cells the middle one.
    best = np.argwhere(inside >= inside.max() * (1 - 1e-9))
    row, column = best[np.square(best - best.mean(axis=0)).sum(axis=1).argmin()]
    return Window(int(ys[row]), int(xs[column]), *crop)


def _candidates(
    length: int, side: int, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where a crop may begin along an axis, and its first cell and the one after its last, for each.

    A cell belongs to the crop that holds its middle.
    """
    starts = np.arange(0, length - side + 1, min(_GRID, side), dtype=np.int64)
    # Twice the middle of cell i is (2 i + 1) * length / cells.
    firsts, lasts = (-((length - 2 * edges * cells) // (2 * length)) for edges in (starts, starts + side))
    return starts, np.clip(firsts, 0, cells), np.clip(lasts, 0, cells)


def detail_map(reader: Reader) -> NDArray[np.float64]:
    """Return how much neighbouring pixels differ, in cells over the whole image, ``(rows, columns)``.

    From a thumbnail where the image has a level to make one from; else from small windows on a grid, so that an
    image without a pyramid is not read as a whole.
    """
    height, width, _ = reader.shape
    step = max(1, math.ceil(max(height, width) / _THUMBNAIL))
    level = reader.levels[choose_level([max(item.downsample) for item in reader.levels], step)]
    if level.height * level.width <= _MAX_LEVEL_PX:
        means, share = read_reduced(reader, step)
        return _differences(np.where(np.isfinite(means), means, 0)) * share
    detail = np.empty((_PROBES, _PROBES))
    side = min(_PROBE_PX, height, width)
    for row in range(_PROBES):
        for column in range(_PROBES):
            y = (2 * row + 1) * (height - side) // (2 * _PROBES)
            x = (2 * column + 1) * (width - side) // (2 * _PROBES)
            pixels = reader.read(Window(y, x, side, side)).astype(np.float64)
            detail[row, column] = _differences(np.where(np.isfinite(pixels), pixels, 0)).mean()
    return detail


def _differences(pixels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the absolute differences to the neighbours below and to the right, summed over the channels."""
    detail = np.zeros(pixels.shape[:2])
    detail[:-1] += np.abs(np.diff(pixels, axis=0)).sum(axis=2)
    detail[:, :-1] += np.abs(np.diff(pixels, axis=1)).sum(axis=2)
    return detail
