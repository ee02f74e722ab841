"""What a grid can be restricted to, as disjoint rectangles of level-0 pixels: masks, annotations, the index.

All regions go by the rule of the pixel's centre, as masks do: a pixel is in a polygon if its centre is, and has
the value of the mask's pixel that its centre lies in. So what a window shares with a region is a whole number
of pixels, counted exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.polygons import polygon_spans
from slidesampler.annotations.rle import rle_block
from slidesampler.errors import SamplingError, TargetError
from slidesampler.foreground import VALID
from slidesampler.foreground.cells import strip_rectangles
from slidesampler.geometry import Window
from slidesampler.sampling.base import SourceSampler
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["IndexRegion", "MaskRegion", "Region", "ShapeRegion"]

#: Rectangles, or pixels of a mask, that are looked at together: bounds memory.
BATCH_RECTANGLES = 1 << 18
BATCH_PIXELS = 1 << 22
#: Rows of an image whose polygons are looked at together.
STRIP_ROWS = 4096


class Region(Protocol):
    """A part of every image."""

    @property
    def in_memory(self) -> bool:
        """Whether it is made of what the user gave, so that no other process can make it again."""
        ...

    def rectangles(
        self, sampler: SourceSampler, image_id: int, shape: tuple[int, int], rows: tuple[int, int]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield disjoint rectangles that make up the region in rows ``[first, stop)`` of an image.

        Parameters
        ----------
        sampler : SourceSampler
        image_id : int
        shape : (int, int)
            ``(H, W)``, level-0 pixels.
        rows : (int, int)
            Within the image; rectangles may reach beyond them where the region does.

        Yields
        ------
        int64 (k, 4)
            ``y, x, height, width``.
        """
        ...


class IndexRegion(NamedTuple):
    """The pixels of some slots of the foreground index: classes, what is valid, or tissue.

    Parameters
    ----------
    slots : tuple of int
        See :class:`slidesampler.foreground.ForegroundIndex`; -1 is the tissue.
    """

    slots: tuple[int, ...]

    @property
    def in_memory(self) -> bool:
        """The index belongs to the sampler."""
        return False

    def rectangles(
        self, sampler: SourceSampler, image_id: int, shape: tuple[int, int], rows: tuple[int, int]
    ) -> Iterator[NDArray[np.int64]]:
        """See :meth:`Region.rectangles`. Reads labels where the index holds no rectangles: in noise."""
        index = sampler.foreground
        row, columns = index.row(image_id), index.columns
        height, width = shape
        cell = int(columns.cells[row])
        across = -(-width // cell)
        cells = -(-height // cell) * across
        all_valid, has_tissue = columns.flags[row].tolist()
        for asked in self.slots:
            tissue = asked in (-1, index.tissue_slot)
            slot = (index.tissue_slot if has_tissue else VALID) if tissue else asked
            if slot == VALID and all_valid:
                yield np.array([[0, 0, height, width]])
                continue
            begin, end = columns.slot_starts[row, slot : slot + 2].tolist()
            lines = np.array([rows[0] // cell, -(-rows[1] // cell)]) * across + slot * cells
            first, stop = (begin + columns.keys[begin:end].searchsorted(lines)).tolist()
            while first < stop:
                behind = int(columns.rect_ends[first - 1]) if first else 0
                fits = int(columns.rect_ends[first:stop].searchsorted(behind + BATCH_RECTANGLES, "right"))
                entries = slice(first, first + max(fits, 1))
                first = entries.stop
                corners = np.stack(np.divmod(columns.keys[entries] % cells, across), axis=1) * cell
                ends = columns.rect_ends[entries]
                counts = np.diff(ends, prepend=behind)
                # A part of the rectangles of a cell like noise was kept; then the labels themselves are read.
                noisy = columns.rect_areas[ends - 1] != columns.counts[entries]
                found = columns.rects[behind : ends[-1]].astype(np.int64)
                found[:, :2] += np.repeat(corners, counts, axis=0)
                yield found[~np.repeat(noisy, counts)] if noisy.any() else found
                for y, x in corners[noisy].tolist():
                    block = Window(y, x, min(cell, height - y), min(cell, width - x))
                    yield _labelled(sampler, image_id, block, slot, index.tissue_slot)


class MaskRegion:
    """Where masks are not 0; one a slide, of any resolution, stretched over the image.

    Parameters
    ----------
    masks : mapping of int to (ndarray or path)
        ``(h, w)`` of bool or integers by image id, or the path of a ``.npy`` of such, which is memory-mapped.

    Raises
    ------
    TargetError
        If an array is not 2-D, not of bool or integers, or empty.
    """

    def __init__(self, masks: Mapping[int, NDArray[Any] | str | os.PathLike[str]]) -> None:
        self.masks: dict[int, NDArray[Any] | str] = {}
        for image_id, mask in masks.items():
            if isinstance(mask, str | os.PathLike):
                # Absolute: a worker may stand in another folder.
                self.masks[int(image_id)] = str(Path(mask).absolute())
            else:
                self.masks[int(image_id)] = _checked_mask(np.asarray(mask), image_id)

    @property
    def in_memory(self) -> bool:
        """Whether there is an array; paths can be read again."""
        return any(not isinstance(mask, str) for mask in self.masks.values())

    def rectangles(
        self,
        sampler: SourceSampler,  # noqa: ARG002  (a mask needs no sampler)
        image_id: int,
        shape: tuple[int, int],
        rows: tuple[int, int],
    ) -> Iterator[NDArray[np.int64]]:
        """See :meth:`Region.rectangles`."""
        mask = self.masks[image_id]
        if isinstance(mask, str):
            mask = _checked_mask(np.load(mask, mmap_mode="r"), image_id)
        ys, xs = (_borders(length, pixels) for length, pixels in zip(shape, mask.shape, strict=True))
        first = int(ys.searchsorted(rows[0], "right")) - 1
        stop = int(ys.searchsorted(rows[1]))
        lines = max(1, BATCH_PIXELS // mask.shape[1])
        for top in range(first, stop, lines):
            part = (np.asarray(mask[top : min(top + lines, stop)]) != 0).astype(np.uint8)
            found = strip_rectangles(part, mask.shape[1], (0,))
            y, x = ys[top + found.ys], xs[found.xs]
            height, width = ys[top + found.ys + found.heights] - y, xs[found.xs + found.widths] - x
            # Where the mask is finer than the image some of its pixels hold no centre.
            kept = (height > 0) & (width > 0)
            yield np.stack((y, x, height, width), axis=1)[kept]


class ShapeRegion(NamedTuple):
    """The union of polygons, and of annotations of some categories, whatever is painted over them.

    Parameters
    ----------
    category_ids : tuple of int
        Annotations of these; polygons, RLEs and boxes, while keypoints mark no region.
    polygons : mapping of int to Shapes
        Polygons by image id; see :func:`slidesampler.sampling.grid_roi.shapes_of_polygons`.
    """

    category_ids: tuple[int, ...]
    polygons: Mapping[int, Shapes]

    @property
    def in_memory(self) -> bool:
        """Whether polygons were given."""
        return bool(self.polygons)

    def rectangles(
        self, sampler: SourceSampler, image_id: int, shape: tuple[int, int], rows: tuple[int, int]
    ) -> Iterator[NDArray[np.int64]]:
        """See :meth:`Region.rectangles`; all are one pixel high."""
        parts = [self.polygons[image_id]] if image_id in self.polygons else []
        chosen = [np.arange(len(shapes)) for shapes in parts]
        if self.category_ids:
            annots = sampler.manifest.shapes_of(image_id)
            parts.append(annots)
            chosen.append(np.flatnonzero(np.isin(annots.category_ids, self.category_ids)))
        xc = np.arange(shape[1], dtype=np.float64) + 0.5
        for top in range(rows[0], rows[1], STRIP_ROWS):
            yield from _union(parts, chosen, xc, top, min(top + STRIP_ROWS, rows[1]))


def _checked_mask(mask: NDArray[Any], image_id: int) -> NDArray[Any]:
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "bui":
        raise TargetError(
            f"the mask of image {image_id} must be a 2-D array of bool or integers with at least one pixel; it "
            f"is {mask.dtype} {mask.shape}"
        )
    return mask


def _borders(length: int, pixels: int) -> NDArray[np.int64]:
    """Return the first level-0 pixel whose centre lies in each pixel of a mask, and the axis' end."""
    i = np.arange(pixels + 1, dtype=np.int64)
    # The first y with (2 y + 1) * pixels >= 2 * i * length.
    return np.maximum(-((pixels - 2 * i * length) // (2 * pixels)), 0)


def _labelled(
    sampler: SourceSampler, image_id: int, block: Window, slot: int, tissue_slot: int
) -> NDArray[np.int64]:
    """Return the rectangles of a slot in a block, from its labels."""
    if slot == tissue_slot:
        raise SamplingError(
            f"the tissue of image {image_id} looks like noise at y={block.y}, x={block.x}: the foreground "
            "index keeps no exact count of it there. Give a smoother tissue mask, or your own mask as where="
        )
    labels = sampler.load_mask(image_id, block)
    wanted = labels != sampler.class_map.ignore if slot == VALID else labels == slot
    found = strip_rectangles(wanted.astype(np.uint8), block.width, (0,))
    return np.stack((found.ys + block.y, found.xs + block.x, found.heights, found.widths), axis=1)


def _union(
    parts: Sequence[Shapes], chosen: Sequence[NDArray[np.int64]], xc: NDArray[np.float64], top: int, stop: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of the union of some shapes in rows ``[top, stop)``."""
    begins, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    # One number a place of the strip; column ``width`` is where a row ends.
    stride = len(xc) + 1
    for shapes, wanted in zip(parts, chosen, strict=True):
        boxes = shapes.boxes_xyxy[wanted]
        rows = wanted[(boxes[:, 1] < stop) & (boxes[:, 3] > top)]
        spans = _spans(shapes, rows, xc, np.arange(top, stop))
        if spans is None:
            half = (top + stop) // 2
            yield from _union(parts, chosen, xc, top, half)
            yield from _union(parts, chosen, xc, half, stop)
            return
        begins.append(spans[:, 0] * stride + spans[:, 1])
        ends.append(spans[:, 0] * stride + spans[:, 2])
    places = np.concatenate(begins + ends)
    if not len(places):
        return
    change = np.ones(len(places), np.int64)
    change[len(places) // 2 :] = -1
    # Stable: where one span ends and another begins, the one that begins comes first and the two are one.
    order = np.argsort(places, kind="stable")
    places, depth = places[order], np.cumsum(change[order])
    last = np.flatnonzero(depth == 0)
    y, x = np.divmod(places[np.append(0, last[:-1] + 1)], stride)
    width = places[last] % stride - x
    yield np.stack((y + top, x, np.ones_like(y), width), axis=1)


def _spans(
    shapes: Shapes, rows: NDArray[np.int64], xc: NDArray[np.float64], ys: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return ``row, start, stop`` of the spans of shapes, which may overlap; None where they are too many."""
    kinds = shapes.kinds[rows]
    yc = ys.astype(np.float64) + 0.5
    found = [np.zeros((0, 3), np.int64)]
    polygons = rows[kinds == ShapeKind.POLYGON]
    if len(polygons):
        spans = polygon_spans(shapes, polygons, yc, xc)
        if spans is None:
            return None
        found.append(np.stack(spans[1:], axis=1))
    for x0, y0, x1, y1 in shapes.boxes_xyxy[rows[kinds == ShapeKind.BOX]].tolist():
        lines = np.arange(*yc.searchsorted((y0, y1)).tolist())
        left, right = xc.searchsorted((x0, x1)).tolist()
        found.append(np.stack((lines, np.full_like(lines, left), np.full_like(lines, right)), axis=1))
    found += [_rle_spans(shapes, row, xc, ys) for row in rows[kinds == ShapeKind.RLE].tolist()]
    spans_found = np.concatenate(found)
    return spans_found[spans_found[:, 2] > spans_found[:, 1]]


def _rle_spans(shapes: Shapes, row: int, xc: NDArray[np.float64], ys: NDArray[np.int64]) -> NDArray[np.int64]:
    x0, y0, x1, y1 = shapes.boxes_xyxy[row].astype(np.int64).tolist()
    # The box is the bounds of the marked pixels, so what is looked up lies inside the mask.
    lines = ys[(ys >= y0) & (ys < y1)]
    columns = np.arange(max(x0, 0), min(x1, len(xc)))
    marked = rle_block(shapes.runs(row), int(shapes.rle_heights[row]), lines, columns)
    edges = np.diff(np.pad(marked.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begin, end = np.nonzero(edges == 1), np.nonzero(edges == -1)
    first = int(lines[0] - ys[0]) if len(lines) else 0
    return np.stack((begin[0] + first, begin[1] + x0, end[1] + x0), axis=1)
