"""``ForegroundIndex``: where the classes of all images are, in columns that processes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.spans import ragged_arange
from slidesampler.errors import TargetError
from slidesampler.foreground.columns import IndexColumns
from slidesampler.foreground.image_index import VALID
from slidesampler.geometry import Window

__all__ = ["ForegroundIndex"]


class ForegroundIndex:
    """Where the classes, the valid pixels and the tissue of all images are.

    Answers from counts a cell and from rectangles, never from pixels: choosing a pixel costs two binary
    searches, counting the pixels of a window what the cells under the window hold, however large the image and
    however many there are.

    Images go by *row*, their position in ``image_ids``; see :meth:`row`. A *slot* is a class index from 1 on,
    :data:`~slidesampler.foreground.VALID` (0) for the valid pixels, or ``tissue_slot``.

    Parameters
    ----------
    columns : IndexColumns

    Attributes
    ----------
    image_ids : int64 (n,)
    sizes : int64 (n, 2)
        ``(H, W)``, level-0 pixels.
    pixels : int64 (n, n_classes + 1)
        Pixels of each slot of each image. Background is ``pixels[:, 0] - pixels[:, 1:-1].sum(axis=1)``.
    n_classes : int
        With the background.
    tissue_slot : int

    Examples
    --------
    >>> from slidesampler.foreground import index_image
    >>> labels = np.zeros((100, 200), np.uint8)
    >>> labels[10:20, 150:153] = 2
    >>> image = index_image(lambda window: labels[window.as_slices()], labels.shape, n_classes=3, ignore=255)
    >>> index = ForegroundIndex(IndexColumns.join([7], [image]))
    >>> index.pixels.tolist(), index.place(index.row(7), slot=2, rank=4)
    ([[20000, 0, 30, 20000]], (11, 151))
    >>> index.count(0, [1, 2], Window(0, 0, 15, 152))
    [0, 10]
    """

    def __init__(self, columns: IndexColumns) -> None:
        # Plain arrays: slicing a numpy.memmap costs ten times as much.
        self.columns = IndexColumns(*(np.asarray(column) for column in columns.to_arrays().values()))
        self.image_ids = self.columns.image_ids
        self.sizes = self.columns.sizes
        self.pixels = self.columns.pixels
        self.n_classes = self.pixels.shape[1] - 1
        self.tissue_slot = self.n_classes
        self._rows = {image_id: row for row, image_id in enumerate(self.image_ids.tolist())}
        # What is looked up for every target, as Python's own numbers: indexing arrays is slower.
        self._all_valid: list[bool] = self.columns.flags[:, 0].tolist()
        self._has_tissue: list[bool] = self.columns.flags[:, 1].tolist()
        self._cells: list[int] = self.columns.cells.tolist()
        self._sizes: list[tuple[int, int]] = [(height, width) for height, width in self.sizes.tolist()]

    def __len__(self) -> int:
        return len(self.image_ids)

    def row(self, image_id: int) -> int:
        """Return the row of an image.

        Raises
        ------
        TargetError
            If the index does not have it.
        """
        try:
            return self._rows[image_id]
        except KeyError:
            raise TargetError(f"the foreground index has no image {image_id}") from None

    def place(self, row: int, slot: int, rank: int) -> tuple[int, int]:
        """Return the pixel ``(y, x)`` of a slot with a number, level-0 pixels.

        Parameters
        ----------
        row, slot : int
        rank : int
            In ``[0, pixels[row, slot])``. Every pixel of the slot has one number. (In a cell of labels like
            noise, of which a part is kept, the kept ones have several.)

        Raises
        ------
        IndexError
            If the rank is not in that range.
        """
        if not 0 <= rank < self.pixels[row, slot]:
            raise IndexError(f"pixel {rank} of {self.pixels[row, slot]} was asked for")
        slot = self._stored(row, slot)
        if slot == VALID and self._all_valid[row]:
            return divmod(rank, self._sizes[row][1])
        columns = self.columns
        start, stop = columns.slot_starts[row, slot : slot + 2].tolist()
        entry = start + int(columns.ends[start:stop].searchsorted(rank, "right"))
        if entry > start:
            rank -= int(columns.ends[entry - 1])
        first = int(columns.rect_ends[entry - 1]) if entry else 0
        areas = columns.rect_areas[first : columns.rect_ends[entry]]
        # Fewer where a part of them is kept.
        rank %= int(areas[-1])
        at = int(areas.searchsorted(rank, "right"))
        if at:
            rank -= int(areas[at - 1])
        y, x, _, width = columns.rects[first + at].tolist()
        cell, grid_width = self._cells[row], -(-self._sizes[row][1] // self._cells[row])
        cell_row, cell_column = divmod(int(columns.keys[entry]) % self._grid_size(row), grid_width)
        return cell_row * cell + y + rank // width, cell_column * cell + x + rank % width

    def count(self, row: int, slots: Sequence[int], window: Window) -> list[int] | None:
        """Return how many pixels of each slot a window holds; None where the rectangles do not tell.

        That is where it touches a cell of labels like noise (see :class:`ImageIndex`): then the label layer
        has to be read, and :meth:`bounds` still holds.

        Parameters
        ----------
        row : int
        slots : sequence of int
        window : Window
            Level-0 pixels; what overhangs the image counts as nothing.
        """
        found = self._touched(row, slots, window)
        counts: list[int] = found.whole.tolist()
        if not len(found.partial):
            return counts
        columns = self.columns
        entries = found.partial
        stops = columns.rect_ends[entries]
        starts = np.where(entries > 0, columns.rect_ends[entries - 1], 0)
        if (columns.rect_areas[stops - 1] != columns.counts[entries]).any():
            return None
        which = ragged_arange(starts, stops)
        owner = np.repeat(np.arange(len(entries)), stops - starts)
        y, x, height, width = columns.rects[which].T.astype(np.int64)
        y, x = y + found.ys[owner], x + found.xs[owner]
        rows = np.minimum(y + height, window.y1) - np.maximum(y, window.y)
        across = np.minimum(x + width, window.x1) - np.maximum(x, window.x)
        areas = np.maximum(rows, 0) * np.maximum(across, 0)
        for at, area in zip(found.slots[owner].tolist(), areas.tolist(), strict=True):
            counts[at] += area
        return counts

    def bounds(self, row: int, slots: Sequence[int], window: Window) -> tuple[list[int], list[int]]:
        """Return how many pixels of each slot a window holds, at least and at most, from the counts alone.

        Cheaper than :meth:`count`: no rectangle is looked at.
        """
        found = self._touched(row, slots, window)
        low, high = found.whole.tolist(), found.whole.tolist()
        if not len(found.partial):
            return low, high
        cell, (height, width) = self._cells[row], self._sizes[row]
        rows = np.minimum(found.ys + cell, min(window.y1, height)) - np.maximum(found.ys, window.y)
        across = np.minimum(found.xs + cell, min(window.x1, width)) - np.maximum(found.xs, window.x)
        sizes = np.minimum(cell, height - found.ys) * np.minimum(cell, width - found.xs)
        counts, inside = self.columns.counts[found.partial].astype(np.int64), rows * across
        most = np.minimum(counts, inside).tolist()
        least = np.maximum(counts - (sizes - inside), 0).tolist()
        for at, few, many in zip(found.slots.tolist(), least, most, strict=True):
            low[at] += few
            high[at] += many
        return low, high

    def _stored(self, row: int, slot: int) -> int:
        """Return the slot whose entries are looked at: without a tissue mask tissue is what is valid."""
        return VALID if slot == self.tissue_slot and not self._has_tissue[row] else slot

    def _grid_size(self, row: int) -> int:
        cell, (height, width) = self._cells[row], self._sizes[row]
        return -(-height // cell) * -(-width // cell)

    def _touched(self, row: int, slots: Sequence[int], window: Window) -> _Touched:
        """Return the pixels of the cells inside a window, and the entries of those that it cuts."""
        cell, (height, width) = self._cells[row], self._sizes[row]
        whole = np.zeros(len(slots), np.int64)
        inside = window.intersect(Window(0, 0, height, width))
        if inside is None:
            return _Touched(whole, *(np.zeros(0, np.int64),) * 4)
        stored = [self._stored(row, slot) for slot in slots]
        if self._all_valid[row] and VALID in stored:
            whole[[slot == VALID for slot in stored]] = inside.height * inside.width
        grid_width = -(-width // cell)
        rows = np.arange(inside.y // cell, (inside.y1 - 1) // cell + 1)
        first, last = inside.x // cell, (inside.x1 - 1) // cell
        keys = (np.array(stored)[:, None] * self._grid_size(row) + rows * grid_width).reshape(-1)
        begin, end = self.columns.slot_starts[row, [0, -1]].tolist()
        own = self.columns.keys[begin:end]
        starts = own.searchsorted(keys + first)
        stops = own.searchsorted(keys + last, "right")
        entries = ragged_arange(starts, stops) + begin
        if not len(entries):
            return _Touched(whole, *(np.zeros(0, np.int64),) * 4)
        at = np.repeat(np.arange(len(keys)) // len(rows), stops - starts)
        cells = self.columns.keys[entries] % self._grid_size(row)
        ys, xs = cells // grid_width * cell, cells % grid_width * cell
        held = (
            (ys >= inside.y)
            & (xs >= inside.x)
            & (np.minimum(ys + cell, height) <= inside.y1)
            & (np.minimum(xs + cell, width) <= inside.x1)
        )
        np.add.at(whole, at[held], self.columns.counts[entries[held]])
        cut = ~held
        return _Touched(whole, entries[cut], at[cut], ys[cut], xs[cut])


class _Touched(NamedTuple):
    """What of an image's entries a window touches."""

    #: Pixels of each slot in cells that lie wholly inside.
    whole: NDArray[np.int64]
    #: Entries of cells that are cut by the window's edge.
    partial: NDArray[np.int64]
    #: For each of them: position of its slot, and the corner of its cell.
    slots: NDArray[np.int64]
    ys: NDArray[np.int64]
    xs: NDArray[np.int64]
