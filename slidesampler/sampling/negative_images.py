"""Which images can have no negative at all: proven from the counts of the foreground index."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground import VALID, ForegroundIndex
from slidesampler.sampling.negative_rule import NegativeLimits

__all__ = ["prove_impossible"]

#: Quotients and products of the user's shares may be off by this part of them; what is that close is possible.
_ROUNDING = 1e-9
#: The cells of an image are looked at where its foreground is more than this share of what windows are
#: centred on, or where fewer blocks of cells than this are expected to be free of it.
_SUSPICIOUS_SHARE = 0.3
_SUSPICIOUS_BLOCKS = 20.0
#: Cells that are looked at, of all images together, and how many cells looking at any image is as dear as.
_CELLS = 4_000_000
_CELLS_FOR_AN_IMAGE = 4000


def prove_impossible(
    index: ForegroundIndex,
    rows: NDArray[np.int64],
    extents: NDArray[np.int64],
    limits: NegativeLimits,
    *,
    allow_border: bool,
    around_tissue: bool = True,
    centred: bool = True,
) -> dict[int, str]:
    """Return why images cannot have a negative window, by their position in ``rows``.

    An image that is named has none, wherever the window. One that is not named may still have none: totals and
    counts a cell say much, not everything; and cells are only looked at where foreground is so frequent that
    there may be a proof, in the images with the most of it first, up to a number of cells that takes seconds.

    Parameters
    ----------
    index : ForegroundIndex
    rows : int64 (n,)
        The images, by row of the index.
    extents : int64 (n, 2)
        ``(height, width)`` of a window of each, level-0 pixels.
    limits : NegativeLimits
    allow_border : bool
        Whether windows may overhang the image.
    around_tissue : bool
        Whether a pixel of every window is tissue, and so valid.
    centred : bool
        Whether the pixel in the middle of every window is of the image; else any one is.
    """
    sizes, pixels = index.sizes[rows], index.pixels[rows]
    areas = extents.prod(axis=1)
    valid, tissue = pixels[:, VALID], pixels[:, index.tissue_slot]
    foreground = pixels[:, list(limits.classes)].sum(axis=1)
    filled = np.minimum(sizes, extents).prod(axis=1)
    needed = _Needed.of(areas, limits, around_tissue=around_tissue)
    reasons: dict[int, str] = {}

    def found(where: NDArray[np.bool_], text: str, *columns: NDArray[np.int64]) -> None:
        for at in np.flatnonzero(where).tolist():
            reasons.setdefault(at, text.format(*(column[at] for column in columns)))

    height, width = sizes.T
    least = max(limits.min_valid, limits.min_tissue)
    text = (
        f"it is too small: {{0}} x {{1}} level-0 pixels fill less than {least:.0%} of a window of {{2}} x {{3}}"
    )
    found(filled < least * areas * (1 - _ROUNDING), text, height, width, *extents.T)
    found((tissue == 0) & around_tissue, "it has no tissue (no valid pixel, where there is no tissue mask)")
    text = f"it has {{0}} valid pixels, fewer than {limits.min_valid:.0%} of a window"
    found(valid < needed.valid * (1 - _ROUNDING), text, valid)
    text = f"it has {{0}} pixels of tissue, fewer than {limits.min_tissue:.0%} of a window"
    found(tissue < needed.tissue * (1 - _ROUNDING), text, tissue)
    text = "{0} of its {1} valid pixels are foreground, which leaves less than a window needs"
    found(valid - foreground < needed.free * (1 - _ROUNDING), text, foreground, valid)
    share = foreground / np.maximum(np.minimum(valid, tissue), 1)
    for at in _worth_a_look(index, rows, extents, limits, share, reasons):
        edges = _Edges(allow_border, centred)
        if not _has_room(index, int(rows[at]), extents[at].tolist(), limits, edges, around_tissue):
            reasons[at] = "wherever a window lies, it holds too much foreground, or too little that is valid"
    return reasons


class _Edges(NamedTuple):
    """How far windows may overhang the image."""

    allow_border: bool
    #: Whether the pixel in the middle of a window is of the image; else any one is.
    centred: bool


class _Needed(NamedTuple):
    """Pixels that a negative window holds at least."""

    valid: NDArray[np.float64]
    tissue: NDArray[np.float64]
    #: Valid and not foreground.
    free: NDArray[np.float64]

    @classmethod
    def of(cls, areas: NDArray[np.int64], limits: NegativeLimits, *, around_tissue: bool) -> _Needed:
        least = 1.0 if around_tissue else 0.0
        valid: NDArray[np.float64] = np.maximum(areas * limits.min_valid, least)
        tissue: NDArray[np.float64] = np.maximum(areas * limits.min_tissue, least)
        return cls(valid, tissue, valid * (1 - limits.max_foreground))


def _worth_a_look(
    index: ForegroundIndex,
    rows: NDArray[np.int64],
    extents: NDArray[np.int64],
    limits: NegativeLimits,
    share: NDArray[np.float64],
    known: Container[int],
) -> list[int]:
    """Return the positions of the images whose cells are looked at; ``known`` ones are not among them."""
    sides = index.columns.cells[rows]
    cells = (-(-index.sizes[rows] // sides[:, None])).prod(axis=1)
    suspicious = share > max(limits.max_foreground, _SUSPICIOUS_SHARE)
    if not limits.max_foreground:
        # Cells with foreground, were they anywhere: how many blocks of the size that a window surely holds
        # would be free of them?
        starts = index.columns.slot_starts[rows]
        occupied = np.zeros(len(rows))
        for slot in limits.classes:
            occupied += starts[:, slot + 1] - starts[:, slot]
        held = np.maximum((extents + 1) // sides[:, None] - 1, 0).prod(axis=1)
        suspicious |= cells * (1 - np.minimum(occupied / cells, 1)) ** held < _SUSPICIOUS_BLOCKS
    order = np.argsort(-share, kind="stable")
    chosen = [at for at in order[suspicious[order]].tolist() if at not in known]
    work = np.cumsum(cells[chosen] + _CELLS_FOR_AN_IMAGE)
    return chosen[: int(work.searchsorted(_CELLS, "right"))]


def _has_room(
    index: ForegroundIndex,
    row: int,
    extent: Sequence[int],
    limits: NegativeLimits,
    edges: _Edges,
    around_tissue: bool,
) -> bool:
    """Return False where the counts a cell leave no place for a negative window."""
    height, width = index.sizes[row].tolist()
    cell = int(index.columns.cells[row])
    counts = _cell_counts(index, row, (*limits.classes, VALID, index.tissue_slot))
    foreground, valid, tissue = counts[:-2].sum(axis=0), counts[-2], counts[-1]
    inside_y = np.minimum(cell, height - np.arange(0, height, cell))
    inside_x = np.minimum(cell, width - np.arange(0, width, cell))
    full = (foreground == inside_y[:, None] * inside_x).astype(np.int64)
    ys = _axis_places(height, extent[0], cell, edges)
    xs = _axis_places(width, extent[1], cell, edges)
    # At most: what the cells hold that a window touches. At least: what those hold that lie in it.
    area = extent[0] * extent[1]
    planes = np.stack((valid, tissue, valid - foreground, full))
    most_valid, most_tissue, most_free, some_full = _block_sums(planes, ys.touched, xs.touched)
    most_valid = np.minimum(most_valid, area)
    least = _block_sums(foreground[None], ys.held, xs.held)[0]
    needed = _Needed.of(np.array(area), limits, around_tissue=around_tissue)
    slack = 1 - _ROUNDING
    room = (most_valid >= needed.valid * slack) & (most_tissue >= needed.tissue * slack)
    room &= most_free >= needed.free * slack
    room &= least * slack <= limits.max_foreground * most_valid
    if not limits.max_foreground:
        # A pixel of a cell that is nothing but foreground is foreground.
        room &= some_full == 0
    return bool(room.any())


def _cell_counts(index: ForegroundIndex, row: int, slots: Sequence[int]) -> NDArray[np.int64]:
    """Return how many pixels of each slot every cell holds, int64 ``(slots, rows, columns)``."""
    cell = int(index.columns.cells[row])
    height, width = index.sizes[row].tolist()
    all_valid, has_tissue = index.columns.flags[row].tolist()
    shape = -(-height // cell), -(-width // cell)
    counts = np.zeros((len(slots), shape[0] * shape[1]), np.int64)
    for at, slot in enumerate(slots):
        stored = VALID if slot == index.tissue_slot and not has_tissue else slot
        if stored == VALID and all_valid:
            heights = np.minimum(cell, height - np.arange(0, height, cell))
            widths = np.minimum(cell, width - np.arange(0, width, cell))
            counts[at] = (heights[:, None] * widths).reshape(-1)
            continue
        start, stop = index.columns.slot_starts[row, stored : stored + 2].tolist()
        counts[at, index.columns.keys[start:stop] - stored * counts.shape[1]] = index.columns.counts[start:stop]
    return counts.reshape(len(slots), *shape)


class _Places(NamedTuple):
    """Where windows may lie along one axis, by the cells they touch; ``(first, stop)`` cells, ``(n, 2)``."""

    touched: NDArray[np.int64]
    #: Cells that lie wholly inside every window of that kind, maybe none.
    held: NDArray[np.int64]


def _axis_places(length: int, extent: int, cell: int, edges: _Edges) -> _Places:
    """Return the kinds of windows along an axis: those of one kind touch the same cells."""
    slack = length - extent
    lowest, highest = min(slack, 0), max(slack, 0)
    if edges.allow_border:
        # The pixel in the middle, or any pixel of the window, is anywhere in the image.
        first_of, last_of = (extent // 2, extent // 2) if edges.centred else (0, extent - 1)
        lowest, highest = min(lowest, -last_of), max(highest, length - 1 - first_of)
    first = np.arange(lowest // cell, highest // cell + 1)
    begins, ends = np.maximum(first * cell, lowest), np.minimum(first * cell + cell - 1, highest)
    # Within a cell the last touched one changes once: where the window's last pixel enters the next one.
    turns = -(-(begins + extent) // cell) * cell - extent + 1
    begins, ends = np.concatenate((begins, turns)), np.concatenate((np.minimum(ends, turns - 1), ends))
    begins, ends = begins[begins <= ends], ends[begins <= ends]
    cells = -(-length // cell)
    touched = np.stack((begins // cell, (begins + extent - 1) // cell + 1), axis=1)
    last = np.where(begins + extent >= length, cells, (begins + extent) // cell)
    held = np.stack((-(-ends // cell), last), axis=1)
    return _Places(np.clip(touched, 0, cells), np.clip(held, 0, cells))


def _block_sums(
    planes: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the sum of every block of cells, rows by columns, in each plane; 0 for an empty one."""
    sums = np.zeros((len(planes), planes.shape[1] + 1, planes.shape[2] + 1), np.int64)
    np.cumsum(planes.cumsum(axis=1), axis=2, out=sums[:, 1:, 1:])
    bands = sums[:, np.maximum(rows[:, 1], rows[:, 0])] - sums[:, rows[:, 0]]
    blocks: NDArray[np.int64] = (
        bands[:, :, np.maximum(columns[:, 1], columns[:, 0])] - bands[:, :, columns[:, 0]]
    )
    return blocks
