"""How often each part of an image was in a window, on a coarse grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground import VALID, ForegroundIndex
from slidesampler.geometry import Window
from slidesampler.sampling.statistics import Coverage, Region

__all__ = ["cover_image", "seen_share", "slot_grid"]

#: Cells along the longer side of an image, at most.
MAX_CELLS = 64
#: A cell is judged where at least this share of it is tissue: windows lie inside the image and keep away from
#: its edge, so a cell that is mostly edge says little.
MIN_INTEREST = 0.5
#: Worth a remark is less than 1 / FACTOR or more than FACTOR of what is expected, and SIGMAS beyond chance.
FACTOR, SIGMAS = 2.0, 3.0
#: Regions that are kept for each of the two.
MAX_REGIONS = 10
#: Windows whose overlaps are worked out at once.
_BATCH = 1 << 15
#: Parts of a cell along an axis, for the share that was seen at all.
_FINER = 4


def cover_image(index: ForegroundIndex, row: int, windows: NDArray[np.int64]) -> Coverage:
    """Return how often each part of one image was in a window.

    Parameters
    ----------
    index : ForegroundIndex
    row : int
        The image.
    windows : int64 (n, 4)
        ``y, x, height, width``, level-0 pixels, at least one. What overhangs the image is left out.

    Notes
    -----
    *Source:* windows of ``h x w`` pixels at random places, ``r`` of them a pixel, make the mean of a cell of
    side ``c`` vary by ``r f(h) f(w) / c**4``, where ``f(a) = m**2 (M - m / 3)`` with ``m = min(a, c)`` and
    ``M = max(a, c)`` is the integral of the squared overlap of two intervals over all places (Campbell's
    theorem).
    """
    height, width = index.sizes[row].tolist()
    cell = _cell_px(index, row)
    rows, columns = -(-height // cell), -(-width // cell)
    seen = np.zeros((rows, columns))
    for at in range(0, len(windows), _BATCH):
        y, x, h, w = windows[at : at + _BATCH].T
        seen += _overlaps(y, h, height, cell).T @ _overlaps(x, w, width, cell)
    areas = np.outer(_lengths(height, cell), _lengths(width, cell))
    seen /= areas
    tissue = slot_grid(index, row, index.tissue_slot, cell)
    total = tissue.sum()
    rate = float((seen * tissue).sum() / total) if total else 0.0
    interest = tissue / areas
    h, w = windows[:, 2:].mean(axis=0).tolist()
    deviation = math.sqrt(rate / (h * w) * _squared(h, cell) * _squared(w, cell)) / cell**2
    judged = interest >= MIN_INTEREST
    under = judged & (seen < rate / FACTOR) & (rate - seen > SIGMAS * deviation)
    over = judged & (seen > rate * FACTOR) & (seen - rate > SIGMAS * deviation)
    image = Window(0, 0, height, width)
    return Coverage(
        cell_px=cell,
        seen=seen.astype(np.float32),
        interest=interest.astype(np.float32),
        expected=np.where(tissue > 0, rate, 0.0).astype(np.float32),
        under=_regions(under, seen, rate, cell, image),
        over=_regions(over, seen, rate, cell, image),
    )


def seen_share(index: ForegroundIndex, row: int, windows: NDArray[np.int64]) -> float:
    """Return which share of an image's tissue was in at least one window, 0 to 1.

    To a quarter of a cell of the coverage grid: the corners of windows are rounded to that.
    """
    height, width = index.sizes[row].tolist()
    cell = _cell_px(index, row)
    step = max(cell // _FINER, 1)
    rows, columns = -(-height // step), -(-width // step)
    y, x, h, w = windows.T
    y0, y1 = (np.clip((edge + step // 2) // step, 0, rows) for edge in (y, y + h))
    x0, x1 = (np.clip((edge + step // 2) // step, 0, columns) for edge in (x, x + w))
    # Corners of each window, summed up along both axes, are how many windows lie over a part.
    corners = np.zeros((rows + 1, columns + 1), np.int64)
    for ys, xs, sign in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
        np.add.at(corners, (ys, xs), sign)
    hit = (corners.cumsum(0).cumsum(1)[:-1, :-1] > 0).astype(np.float64)
    parts = np.outer(_lengths(height, step), _lengths(width, step))
    per = cell // step
    starts = np.arange(0, rows, per), np.arange(0, columns, per)
    share = _blocks(hit * parts, *starts) / _blocks(parts, *starts)
    tissue = slot_grid(index, row, index.tissue_slot, cell)
    total = tissue.sum()
    return float((share * tissue).sum() / total) if total else 0.0


def slot_grid(index: ForegroundIndex, row: int, slot: int, cell: int) -> NDArray[np.float64]:
    """Return how many pixels of a slot each cell of a coarser grid holds, ``(rows, columns)``.

    Parameters
    ----------
    index : ForegroundIndex
    row, slot : int
    cell : int
        Side of a cell: a power of two, at least that of the index.
    """
    height, width = index.sizes[row].tolist()
    columns = index.columns
    all_valid, has_tissue = columns.flags[row].tolist()
    if slot == index.tissue_slot and not has_tissue:
        slot = VALID
    if slot == VALID and all_valid:
        return np.outer(_lengths(height, cell), _lengths(width, cell)).astype(np.float64)
    own = int(columns.cells[row])
    grid_width = -(-width // own)
    cells = -(-height // own) * grid_width
    start, stop = columns.slot_starts[row, slot : slot + 2].tolist()
    ys, xs = np.divmod(columns.keys[start:stop] % cells, grid_width)
    out = np.zeros((-(-height // cell), -(-width // cell)))
    np.add.at(out, (ys * own // cell, xs * own // cell), columns.counts[start:stop].astype(np.float64))
    return out


def _cell_px(index: ForegroundIndex, row: int) -> int:
    cell, longer = int(index.columns.cells[row]), int(index.sizes[row].max())
    while cell * MAX_CELLS < longer:
        cell *= 2
    return cell


def _lengths(length: int, cell: int) -> NDArray[np.int64]:
    """Return how long the cells of an axis are: the last one may be cut off."""
    edges = np.minimum(np.arange(-(-length // cell) + 1) * cell, length)
    return np.diff(edges)


def _overlaps(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], length: int, cell: int
) -> NDArray[np.float64]:
    """Return how many pixels of each cell of an axis each window covers, ``(n, cells)``."""
    edges = np.minimum(np.arange(-(-length // cell) + 1) * cell, length)
    first = np.maximum(starts[:, None], edges[:-1])
    last = np.minimum((starts + lengths)[:, None], edges[1:])
    shared: NDArray[np.int64] = np.maximum(last - first, 0)
    return shared.astype(np.float64)


def _squared(window: float, cell: int) -> float:
    small, large = min(window, cell), max(window, cell)
    return small**2 * (large - small / 3)


def _blocks(values: NDArray[Any], ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(values, ys, axis=0), xs, axis=1)
    return out


def _regions(
    marked: NDArray[np.bool_], seen: NDArray[np.float64], expected: float, cell: int, image: Window
) -> tuple[Region, ...]:
    """Return the connected groups of marked cells, the largest first."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(marked), strict=True)}
    groups = []
    while left:
        # Row by row, so that the order is the same in every process.
        group = [min(left)]
        left.remove(group[0])
        for y, x in group:
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if near in left:
                    left.remove(near)
                    group.append(near)
        groups.append(group)
    groups.sort(key=len, reverse=True)
    return tuple(_region(np.array(group), seen, expected, cell, image) for group in groups[:MAX_REGIONS])


def _region(
    cells: NDArray[np.int64], seen: NDArray[np.float64], expected: float, cell: int, image: Window
) -> Region:
    y0, x0 = (cells.min(axis=0) * cell).tolist()
    y1, x1 = ((cells.max(axis=0) + 1) * cell).tolist()
    box = Window(y0, x0, y1 - y0, x1 - x0).intersect(image)
    assert box is not None
    return Region(box, len(cells), float(seen[cells[:, 0], cells[:, 1]].mean()), expected)
