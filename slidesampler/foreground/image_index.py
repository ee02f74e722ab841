"""Where the classes of one image are: counts a cell, and the rectangles that the pixels of a cell make up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.spans import ragged_arange
from slidesampler.foreground.cells import CellRectangles, cell_size, strip_rectangles
from slidesampler.geometry import Window

__all__ = ["VALID", "ImageIndex", "TissueMask", "index_image"]

#: Slot of the valid pixels. The background class has no slot of its own: it is what is valid and has no class.
VALID = 0
#: Labels are looked at in blocks of about this many pixels.
_BLOCK_PIXELS = 1 << 22
#: A cell keeps one rectangle for this many pixels, at most: labels like noise would outgrow themselves.
_PIXELS_A_RECTANGLE = 16


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Which parts of an image are tissue, at a low resolution.

    Parameters
    ----------
    mask : bool (ceil(H / downsample), ceil(W / downsample))
    downsample : int
        Level-0 pixels per mask pixel along each axis: a power of two, at most the side of a cell.
    """

    mask: NDArray[np.bool_]
    downsample: int

    def pixels(self, window: Window) -> NDArray[np.bool_]:
        """Return the mask of a window inside the image at full resolution, ``(h, w)``."""
        rows = np.arange(window.y, window.y1) // self.downsample
        columns = np.arange(window.x, window.x1) // self.downsample
        pixels: NDArray[np.bool_] = self.mask[np.ix_(rows, columns)]
        return pixels


@dataclass(frozen=True, slots=True, eq=False)
class ImageIndex:
    """Counts and rectangles of the pixels of one image, by slot and cell.

    A *slot* is something pixels are counted for: slot 0 the valid pixels (those whose label is not *ignore*),
    slot ``c`` the class of index ``c >= 1``, slot ``n_classes`` the valid tissue. An *entry* is a slot in a
    cell where it has pixels. Its rectangles are disjoint and make up exactly its pixels; only a cell of more
    than one rectangle per 16 pixels, which is noise, keeps a part of them.

    Parameters
    ----------
    height, width : int
        Level-0 pixels.
    cell_px : int
        Side of a cell.
    n_classes : int
        With the background.
    all_valid : bool
        Then slot 0 has no entries: every pixel is valid.
    has_tissue : bool
        Whether there is a tissue mask; else tissue is what is valid, and its slot has no entries.
    pixels : int64 (n_classes + 1,)
        Pixels of each slot.
    keys : int64 (E,)
        ``slot * cells + cell`` of each entry, ascending; cells are numbered row by row.
    counts : uint32 (E,)
        Pixels of the entry.
    ends : int64 (E,)
        Pixels of the slot up to and with this entry.
    rect_ends : int64 (E,)
        Position in ``rects`` after the entry's last.
    rects : uint16 (R, 4)
        ``y, x, height, width`` within the cell.
    rect_areas : uint32 (R,)
        Pixels of the entry up to and with this rectangle.
    """

    height: int
    width: int
    cell_px: int
    n_classes: int
    all_valid: bool
    has_tissue: bool
    pixels: NDArray[np.int64]
    keys: NDArray[np.int64]
    counts: NDArray[np.uint32]
    ends: NDArray[np.int64]
    rect_ends: NDArray[np.int64]
    rects: NDArray[np.uint16]
    rect_areas: NDArray[np.uint32]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.cell_px), -(-self.width // self.cell_px)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the index as arrays; :meth:`from_arrays` takes them back."""
        return {item.name: np.asarray(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ImageIndex:
        """Return the index that :meth:`to_arrays` gave.

        Raises
        ------
        ValueError, KeyError
            If it cannot be one.
        """
        values: dict[str, Any] = {
            item.name: arrays[item.name].item() if arrays[item.name].ndim == 0 else arrays[item.name]
            for item in fields(cls)
        }
        index = cls(**values)
        index._check()
        return index

    def _check(self) -> None:
        """Raise ValueError unless the columns fit together, so that no look-up can leave them."""
        rows, columns = self.grid
        wanted = {
            "pixels": (np.int64, (self.n_classes + 1,)),
            "keys": (np.int64, (len(self.keys),)),
            "counts": (np.uint32, (len(self.keys),)),
            "ends": (np.int64, (len(self.keys),)),
            "rect_ends": (np.int64, (len(self.keys),)),
            "rects": (np.uint16, (len(self.rects), 4)),
            "rect_areas": (np.uint32, (len(self.rects),)),
        }
        for name, (dtype, shape) in wanted.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(f"{name} is {column.dtype} {column.shape}, not {np.dtype(dtype)} {shape}")
        if not len(self.keys):
            sound = not len(self.rects)
        else:
            sound = (
                bool((np.diff(self.keys) > 0).all())
                and self.keys[0] >= 0
                and self.keys[-1] < (self.n_classes + 1) * rows * columns
                and bool((np.diff(self.rect_ends, prepend=0) > 0).all())
                and self.rect_ends[-1] == len(self.rects)
            )
        if not sound:
            raise ValueError("the entries are not in order, or name rectangles that are not there")


def index_image(
    read: Callable[[Window], NDArray[Any]],
    shape: tuple[int, int],
    n_classes: int,
    ignore: int,
    tissue: TissueMask | None = None,
) -> ImageIndex:
    """Return the index of an image's labels.

    Parameters
    ----------
    read : callable
        Gives the class index of every pixel of a window inside the image, ``(h, w)``.
    shape : (int, int)
        ``(H, W)``, level-0 pixels.
    n_classes : int
        With the background.
    ignore : int
        Class index of pixels that are not valid.
    tissue : TissueMask, optional
        Tissue is what of it is valid; all that is valid where None.

    Notes
    -----
    Depends on the labels alone, not on where they come from: an index made from annotations is the index made
    from the stored layer.
    """
    height, width = shape
    cell = cell_size(height, width)
    if tissue is not None:
        _check_tissue(tissue, shape, cell)
    builder = _Builder(height, width, cell)
    ignored = 0
    columns = max(1, _BLOCK_PIXELS // cell**2) * cell
    for y in range(0, height, cell):
        for x in range(0, width, columns):
            window = Window(y, x, min(cell, height - y), min(columns, width - x))
            labels = read(window)
            if labels.any():
                ignored += _add_block(builder, labels, window, ignore, tissue, n_classes)
    if ignored:
        builder.add_whole_valid_cells()
    if tissue is not None:
        _add_tissue(builder, tissue, n_classes)
    return builder.finish(n_classes, all_valid=not ignored, has_tissue=tissue is not None)


def _add_block(
    builder: _Builder,
    labels: NDArray[Any],
    window: Window,
    ignore: int,
    tissue: TissueMask | None,
    tissue_slot: int,
) -> int:
    """Add the classes of a block, and of its cells that are valid in part what is; return what is not."""
    builder.add(strip_rectangles(labels, builder.cell, (0, ignore)), window)
    invalid = labels == ignore
    if not invalid.any():
        return 0
    starts = np.arange(0, window.width, builder.cell)
    counts = np.add.reduceat(invalid.sum(axis=0), starts)
    builder.note_invalid(window, counts)
    # Valid in part: the others are whole, or nothing.
    sizes = np.minimum(builder.cell, window.width - starts) * window.height
    partial = (counts > 0) & (counts < sizes)
    if partial.any():
        valid = ~invalid
        _add_partial(builder, valid, window, partial, VALID)
        if tissue is not None:
            _add_partial(builder, valid & tissue.pixels(window), window, partial, tissue_slot)
    return int(counts.sum())


def _add_partial(
    builder: _Builder, mask: NDArray[np.bool_], window: Window, partial: NDArray[np.bool_], slot: int
) -> None:
    """Add the part of a block that a mask marks, in some of its columns of cells."""
    found = strip_rectangles(mask.astype(np.uint8), builder.cell, (0,))
    kept = CellRectangles(*(column[partial[found.cells]] for column in found))
    builder.add(kept._replace(values=np.full_like(kept.values, slot)), window)


def _check_tissue(tissue: TissueMask, shape: tuple[int, int], cell: int) -> None:
    step = tissue.downsample
    if tissue.mask.shape != (-(-shape[0] // step), -(-shape[1] // step)) or cell % step:
        raise ValueError(
            f"a tissue mask of {tissue.mask.shape} pixels of {step} does not fit an image of {shape[0]} x "
            f"{shape[1]} with cells of {cell}"
        )


def _add_tissue(builder: _Builder, tissue: TissueMask, slot: int) -> None:
    """Add the tissue of the cells that are wholly valid."""
    step = tissue.downsample
    cell = builder.cell // step
    height, width = builder.height, builder.width
    for y in range(0, tissue.mask.shape[0], cell):
        found = strip_rectangles(tissue.mask[y : y + cell].astype(np.uint8), cell, (0,))
        whole = builder.whole_valid[y // cell, found.cells]
        found = CellRectangles(*(column[whole] for column in found))
        ys, xs = found.ys * step, found.xs * step
        # The last pixels of the mask reach over the edge of the image.
        heights = np.minimum(found.heights * step, height - y * step - ys)
        widths = np.minimum(found.widths * step, width - xs)
        scaled = CellRectangles(np.full_like(ys, slot), found.cells, ys, xs, heights, widths)
        builder.add(scaled, Window(y * step, 0, min(builder.cell, height - y * step), width))


class _Builder:
    """Collects rectangles, block by block."""

    def __init__(self, height: int, width: int, cell: int) -> None:
        self.height, self.width, self.cell = height, width, cell
        self.grid = -(-height // cell), -(-width // cell)
        self._cells = self.grid[0] * self.grid[1]
        # Narrow at once: a slide of a million nuclei has tens of millions of rectangles.
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.uint16]]] = []
        self._invalid = np.zeros(self.grid, np.int64)

    def add(self, found: CellRectangles, window: Window) -> None:
        """Add rectangles of a block that begins at a cell's corner; their values are slots."""
        if not len(found.values):
            return
        row, column = window.y // self.cell, window.x // self.cell
        keys = found.values * self._cells + row * self.grid[1] + column + found.cells
        within = (found.ys, found.xs - found.cells * self.cell, found.heights, found.widths)
        self._parts.append((keys, np.stack(within, axis=1).astype(np.uint16)))

    def note_invalid(self, window: Window, counts: NDArray[np.int64]) -> None:
        row, column = window.y // self.cell, window.x // self.cell
        self._invalid[row, column : column + len(counts)] += counts

    @property
    def whole_valid(self) -> NDArray[np.bool_]:
        """Which cells have no pixel that is not valid."""
        whole: NDArray[np.bool_] = self._invalid == 0
        return whole

    def add_whole_valid_cells(self) -> None:
        rows, columns = np.nonzero(self.whole_valid)
        heights = np.minimum(self.cell, self.height - rows * self.cell)
        widths = np.minimum(self.cell, self.width - columns * self.cell)
        zeros = np.zeros_like(rows)
        whole = np.stack((zeros, zeros, heights, widths), axis=1).astype(np.uint16)
        self._parts.append((VALID * self._cells + rows * self.grid[1] + columns, whole))

    def finish(self, n_classes: int, *, all_valid: bool, has_tissue: bool) -> ImageIndex:
        if self._parts:
            keys = np.concatenate([part[0] for part in self._parts])
            rects = np.concatenate([part[1] for part in self._parts])
        else:
            keys, rects = np.zeros(0, np.int64), np.zeros((0, 4), np.uint16)
        self._parts.clear()
        # Stable: the rectangles of an entry stay in the order in which they were found.
        order = np.argsort(keys, kind="stable")
        keys, rects = keys[order], rects[order]
        areas = rects[:, 2].astype(np.int64) * rects[:, 3]
        present, first = np.unique(keys, return_index=True)
        stops = np.append(first[1:], len(keys)).astype(np.int64)
        counts = np.add.reduceat(areas, first) if len(first) else np.zeros(0, np.int64)
        chosen, kept = self._thin(first.astype(np.int64), stops)
        rects, areas = rects[chosen], areas[chosen]
        rect_ends = np.cumsum(kept)
        slots = present // self._cells
        pixels = np.bincount(slots, counts, minlength=n_classes + 1).astype(np.int64)
        if all_valid:
            pixels[VALID] = self.height * self.width
        if not has_tissue:
            pixels[n_classes] = pixels[VALID]
        return ImageIndex(
            height=self.height,
            width=self.width,
            cell_px=self.cell,
            n_classes=n_classes,
            all_valid=all_valid,
            has_tissue=has_tissue,
            pixels=pixels,
            keys=present,
            counts=counts.astype(np.uint32),
            ends=_running_sums(counts, np.flatnonzero(np.diff(slots, prepend=-1))),
            rect_ends=rect_ends,
            rects=rects,
            rect_areas=_running_sums(areas, rect_ends - kept).astype(np.uint32),
        )

    def _thin(
        self, first: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which rectangles are kept, and how many of each entry."""
        limit = self.cell**2 // _PIXELS_A_RECTANGLE
        counts = stops - first
        if (counts <= limit).all():
            return ragged_arange(first, stops), counts
        parts: Iterator[NDArray[np.int64]] = (
            np.arange(a, b) if b - a <= limit else a + np.arange(limit) * (b - a) // limit
            for a, b in zip(first.tolist(), stops.tolist(), strict=True)
        )
        return np.concatenate(list(parts)), np.minimum(counts, limit)


def _running_sums(values: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the running sums of values, begun anew at each of ``starts``."""
    sums = np.cumsum(values)
    if not len(starts):
        return sums
    before = (sums - values)[starts]
    return sums - np.repeat(before, np.diff(starts, append=len(values)))
