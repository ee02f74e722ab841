"""``ForegroundIndex``: where the classes of all images are, in columns that processes share."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.foreground.columns import IndexColumns
from slidesampler.foreground.image_index import VALID
from slidesampler.geometry import Window

__all__ = ["ForegroundIndex"]

#: Up to so many entries or rectangles are gone through one by one; more of them are worth calls into numpy.
_FEW = 16
#: A window over so many rows of cells is worth calls into numpy, too.
_MANY_ROWS = 24


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
    missing : mapping of int to Exception, optional
        Images that could not be looked at, and why: their rows hold no pixel, and asking for one of them by its
        id raises the error.

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

    def __init__(self, columns: IndexColumns, missing: Mapping[int, Exception] | None = None) -> None:
        self.missing = dict(missing or {})
        # Plain arrays: slicing a numpy.memmap costs ten times as much.
        self.columns = IndexColumns(*(np.ascontiguousarray(column) for column in columns.to_arrays().values()))
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
        self._slot_starts: list[list[int]] = self.columns.slot_starts.tolist()
        # Elements of a memoryview are Python's own numbers, and half as costly to come by as numpy's.
        self._keys, self._counts = self.columns.keys.data, self.columns.counts.data
        self._ends, self._rect_ends = self.columns.ends.data, self.columns.rect_ends.data
        self._rect_areas = self.columns.rect_areas.data
        self._rects = self.columns.rects.reshape(-1).data

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[ForegroundIndex], tuple[IndexColumns, dict[int, Exception]]]:
        return ForegroundIndex, (self.columns, self.missing)

    def row(self, image_id: int) -> int:
        """Return the row of an image.

        Raises
        ------
        TargetError
            If the index does not have it.
        SlideSamplerError
            Why the image could not be looked at, if it could not: see ``missing``.
        """
        if image_id in self.missing:
            error = self.missing[image_id]
            # Anew: the same object, raised again and again, would gather tracebacks.
            raise type(error)(str(error)) from error
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
        rank, slot = int(rank), self._stored(row, slot)
        if slot == VALID and self._all_valid[row]:
            return divmod(rank, self._sizes[row][1])
        start, stop = self._slot_starts[row][slot : slot + 2]
        entry = bisect_right(self._ends, rank, start, stop)
        if entry > start:
            rank -= self._ends[entry - 1]
        first, last = self._rect_ends[entry - 1] if entry else 0, self._rect_ends[entry]
        # Fewer where a part of them is kept.
        rank %= self._rect_areas[last - 1]
        at = bisect_right(self._rect_areas, rank, first, last)
        if at > first:
            rank -= self._rect_areas[at - 1]
        y, x, _, width = self._rects[4 * at : 4 * at + 4]
        cell, (height, image_width) = self._cells[row], self._sizes[row]
        columns = -(-image_width // cell)
        key = self._keys[entry] - slot * columns * -(-height // cell)
        return key // columns * cell + y + rank // width, key % columns * cell + x + rank % width

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
        box = self._box(row, window)
        if box is None:
            return [0] * len(slots)
        rects = _Rectangles(self.columns.rects)
        counts = []
        for at, slot in enumerate(slots):
            total, cut = self._walk(row, slot, box)
            for entry, y, x, count in cut:
                top, left = max(box.y - y, 0), max(box.x - x, 0)
                bottom, right = min(box.y1 - y, box.cell), min(box.x1 - x, box.cell)
                if count == min(box.cell, box.height - y) * min(box.cell, box.width - x):
                    total += (bottom - top) * (right - left)
                else:
                    first, stop = self._rect_ends[entry - 1] if entry else 0, self._rect_ends[entry]
                    if self._rect_areas[stop - 1] != count:
                        return None
                    rects.add(at, first, stop, (top, left, bottom, right))
            counts.append(total)
        rects.sum_into(counts)
        return counts

    def bounds(self, row: int, slots: Sequence[int], window: Window) -> tuple[list[int], list[int]]:
        """Return how many pixels of each slot a window holds, at least and at most, from the counts alone.

        Cheaper than :meth:`count`: no rectangle is looked at.
        """
        box = self._box(row, window)
        if box is None:
            return [0] * len(slots), [0] * len(slots)
        y0, x0, y1, x1, cell, height, width, _ = box
        lows, highs = [], []
        for slot in slots:
            low, cut = self._walk(row, slot, box)
            high = low
            for _, y, x, count in cut:
                bottom, right = y + cell, x + cell
                inside = min(y1, bottom) - (y if y > y0 else y0)
                inside *= min(x1, right) - (x if x > x0 else x0)
                outside = (min(bottom, height) - y) * (min(right, width) - x) - inside
                high += count if count < inside else inside
                if count > outside:
                    low += count - outside
            lows.append(low)
            highs.append(high)
        return lows, highs

    def holds(self, row: int, slots: Sequence[int], window: Window) -> bool | None:
        """Return whether a window holds a pixel of any of the slots; None where the counts do not tell.

        What :meth:`bounds` tells, sooner: the first slot that is certainly there ends the search.
        """
        box = self._box(row, window)
        if box is None:
            return False
        maybe = False
        for slot in slots:
            inside, cut = self._walk(row, slot, box)
            if inside:
                return True
            for _, y, x, count in cut:
                bottom, right = min(y + box.cell, box.height), min(x + box.cell, box.width)
                shared = (min(box.y1, bottom) - max(box.y, y)) * (min(box.x1, right) - max(box.x, x))
                if count > (bottom - y) * (right - x) - shared:
                    return True
                maybe = True
        return None if maybe else False

    def _stored(self, row: int, slot: int) -> int:
        """Return the slot whose entries are looked at: without a tissue mask tissue is what is valid."""
        return VALID if slot == self.tissue_slot and not self._has_tissue[row] else slot

    def _box(self, row: int, window: Window) -> _Box | None:
        """Return what of an image a window covers; None where it lies outside."""
        cell, (height, width) = self._cells[row], self._sizes[row]
        y, x = max(window.y, 0), max(window.x, 0)
        y1, x1 = min(window.y + window.height, height), min(window.x + window.width, width)
        if y >= y1 or x >= x1:
            return None
        return _Box(y, x, y1, x1, cell, height, width, -(-width // cell))

    def _walk(self, row: int, slot: int, box: _Box) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Return the pixels of a slot in the cells inside a box, and the entries of those that its edge cuts.

        An entry is given as its number, the corner of its cell ``(y, x)``, and its pixels.
        """
        slot = self._stored(row, slot)
        if slot == VALID and self._all_valid[row]:
            return (box.y1 - box.y) * (box.x1 - box.x), []
        begin, end = self._slot_starts[row][slot : slot + 2]
        if begin == end:
            return 0, []
        cell, columns = box.cell, box.columns
        base = slot * columns * -(-box.height // cell)
        left, right = box.x // cell, (box.x1 - 1) // cell
        keys = self._keys
        # Plain bisection: a call into numpy costs more than its steps.
        begin = bisect_left(keys, base + box.y // cell * columns + left, begin, end)
        end = bisect_right(keys, base + (box.y1 - 1) // cell * columns + right, begin, end)
        if begin == end:
            return 0, []
        if end - begin > _FEW:
            walk = self._walk_rows if box.y1 - box.y < _MANY_ROWS * cell else self._walk_many
            return walk(base, begin, end, box)
        total, cut = 0, []
        found = zip(range(begin, end), keys[begin:end].tolist(), self._counts[begin:end].tolist(), strict=True)
        for entry, key, count in found:
            y, x = divmod(key - base, columns)
            if left <= x <= right:
                y, x = y * cell, x * cell
                if box.holds(y, x):
                    total += count
                else:
                    cut.append((entry, y, x, count))
        return total, cut

    def _walk_rows(
        self, base: int, begin: int, end: int, box: _Box
    ) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Do what :meth:`_walk` does row of cells by row, whose inner cells are summed by their ends."""
        cell, keys, counts = box.cell, self._keys, self._counts
        left, right = box.x // cell, (box.x1 - 1) // cell
        inner_left = left + (left * cell < box.x)
        inner_right = right - (right * cell + cell > box.x1 and box.x1 < box.width)
        total, cut = 0, []
        for row in range(box.y // cell, (box.y1 - 1) // cell + 1):
            first = base + row * box.columns
            begin = bisect_left(keys, first + left, begin, end)
            stop = bisect_right(keys, first + right, begin, end)
            y = row * cell
            if begin < stop and box.holds(y, inner_left * cell):
                # A cell that the left or the right edge cuts, if it has an entry.
                if inner_left > left and keys[begin] == first + left:
                    cut.append((begin, y, left * cell, counts[begin]))
                    begin += 1
                last = stop
                if inner_right < right and begin < stop and keys[stop - 1] == first + right:
                    last = stop - 1
                    cut.append((last, y, right * cell, counts[last]))
                if begin < last:
                    # Running sums begin anew with each slot: the first entry may have none before it.
                    total += self._ends[last - 1] - self._ends[begin] + counts[begin]
            else:
                cut += [(entry, y, (keys[entry] - first) * cell, counts[entry]) for entry in range(begin, stop)]
            begin = stop
        return total, cut

    def _walk_many(
        self, base: int, begin: int, end: int, box: _Box
    ) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Do what :meth:`_walk` does for entries ``[begin, end)`` of one slot, many at once."""
        cell = box.cell
        rows, columns = np.divmod(self.columns.keys[begin:end] - base, box.columns)
        within = np.flatnonzero((columns >= box.x // cell) & (columns <= (box.x1 - 1) // cell))
        ys, xs, counts = rows[within] * cell, columns[within] * cell, self.columns.counts[begin:end][within]
        held = (ys >= box.y) & (xs >= box.x)
        held &= np.minimum(ys + cell, box.height) <= box.y1
        held &= np.minimum(xs + cell, box.width) <= box.x1
        cut = np.flatnonzero(~held)
        entries = within[cut] + begin
        listed = zip(entries.tolist(), ys[cut].tolist(), xs[cut].tolist(), counts[cut].tolist(), strict=True)
        return int(counts.sum(dtype=np.int64, where=held)), list(listed)


class _Box(NamedTuple):
    """The part of a window that is inside an image, half-open, and the image's size and cells."""

    y: int
    x: int
    y1: int
    x1: int
    cell: int
    height: int
    width: int
    #: Of cells.
    columns: int

    def holds(self, y: int, x: int) -> bool:
        """Return whether the cell with this corner lies wholly inside."""
        cell = self.cell
        return (
            y >= self.y
            and x >= self.x
            and (y + cell <= self.y1 or self.y1 == self.height)
            and (x + cell <= self.x1 or self.x1 == self.width)
        )


class _Rectangles:
    """Collects entries whose rectangles are to be cut with a window, and does it in one go."""

    def __init__(self, rects: NDArray[np.uint16]) -> None:
        self._rects = rects
        self._slots: list[int] = []
        self._parts: list[NDArray[np.uint16]] = []
        self._windows: list[tuple[int, int, int, int]] = []

    def add(self, slot: int, first: int, stop: int, window: tuple[int, int, int, int]) -> None:
        """Take the rectangles ``[first, stop)`` of a cell, and a window ``(y, x, y1, x1)`` within that cell."""
        self._slots.append(slot)
        self._parts.append(self._rects[first:stop])
        self._windows.append(window)

    def sum_into(self, counts: list[int]) -> None:
        """Add the pixels that the windows cut out to the counts of their slots."""
        lengths = [len(part) for part in self._parts]
        if sum(lengths) <= _FEW:
            for slot, part, (top, left, bottom, right) in zip(
                self._slots, self._parts, self._windows, strict=True
            ):
                for y, x, height, width in part.tolist():
                    rows = min(y + height, bottom) - max(y, top)
                    across = min(x + width, right) - max(x, left)
                    if rows > 0 and across > 0:
                        counts[slot] += rows * across
            return
        rects = np.concatenate(self._parts).astype(np.int32)
        windows = np.array(self._windows, np.int32).repeat(lengths, axis=0)
        firsts = np.maximum(rects[:, :2], windows[:, :2])
        lasts = np.minimum(rects[:, :2] + rects[:, 2:], windows[:, 2:])
        sides = np.maximum(lasts - firsts, 0)
        areas = sides[:, 0] * sides[:, 1]
        starts = np.cumsum([0, *lengths[:-1]])
        for slot, area in zip(self._slots, np.add.reduceat(areas, starts).tolist(), strict=True):
            counts[slot] += area
