"""Annotations to pixels, under one rule for every block, spacing and kind of shape.

*Pixel-centre rule.* Pixel ``(y, x)`` belongs to a shape if the point ``(x + 0.5, y + 0.5)`` is inside: even-odd
within a ring, exterior less its holes for a part, the union of its parts for an annotation. Points on an
outline belong to one side only (see :mod:`slidesampler.annotations.polygons`), so a box
``[x0, x1) x [y0, y1)`` marks the centres ``x0 <= xc < x1, y0 <= yc < y1``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.outlines import Outlines
from slidesampler.annotations.polygons import polygon_spans, vertex_counts
from slidesampler.annotations.rle import rle_block
from slidesampler.annotations.spans import Spans, fill_spans, ragged_arange
from slidesampler.shape_index import LONG_POLYGON
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["paint"]

#: Vertices gathered at once: enough to make numpy worth its while, few enough to bound memory.
MAX_VERTICES = 1 << 17
#: Annotations gathered at once.
MAX_ANNOTS = 1 << 14


def paint(
    out: NDArray[Any],
    shapes: Shapes,
    rows: NDArray[np.int64],
    values: NDArray[Any],
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    keypoint_radius_px: float = 0.0,
    outlines: Outlines | None = None,
) -> None:
    """Paint annotations over a block of pixels, later ones over earlier ones.

    What a pixel gets depends on the pixel alone: the result is the same however a region is cut into blocks,
    and sampling every d-th pixel gives every d-th pixel of the full raster.

    Parameters
    ----------
    out : ndarray, shape (h, w)
        Painted in place; pixels under no annotation keep their value.
    shapes : Shapes
    rows : int64 (n,)
        Annotations, in the order in which they are painted.
    values : ndarray, shape (n,)
        ``values[i]`` is painted for ``rows[i]``.
    ys, xs : int64 (h,), (w,)
        Level-0 pixels that the rows and columns of ``out`` stand for, ascending (repeats allowed), of any
        spacing.
    keypoint_radius_px : float
        Annotations that are keypoints alone mark the pixels whose centre is at most this far from a labelled
        point, and always the pixel that holds the point.
    outlines : Outlines, optional
        Of the shapes (:attr:`AnnotIndex.outlines`): makes long polygons cheap, changes no pixel.

    Examples
    --------
    >>> import dataclasses
    >>> box = dataclasses.replace(
    ...     Shapes.empty(), annot_ids=np.array([1]), category_ids=np.array([1]), areas=np.array([4.0]),
    ...     kinds=np.array([ShapeKind.BOX], np.uint8), boxes_xyxy=np.array([[1.0, 0.0, 3.0, 2.0]]),
    ...     annot_parts=np.zeros(2, int), annot_runs=np.zeros(2, int), annot_keypoints=np.zeros(2, int),
    ...     rle_heights=np.zeros(1, int))
    >>> out = np.zeros((2, 4), np.uint8)
    >>> paint(out, box, np.array([0]), np.array([7]), np.arange(2), np.arange(4))
    >>> out.tolist()
    [[0, 7, 7, 0], [0, 7, 7, 0]]
    """
    if not out.size or not len(rows):
        return
    target = np.ascontiguousarray(out)
    yc, xc = _centers(ys), _centers(xs)
    values = np.asarray(values).astype(out.dtype)
    kinds = shapes.kinds[rows]
    keep = np.flatnonzero((kinds == ShapeKind.KEYPOINTS) | _holds_center(shapes.boxes_xyxy[rows], yc, xc))
    rows, values, kinds = rows[keep], values[keep], kinds[keep]
    # Runs of one kind are painted together; the order of the annotations is kept.
    cuts = np.flatnonzero(np.diff(kinds)) + 1
    for some in np.split(np.arange(len(rows)), cuts):
        if not len(some):
            continue
        kind, some_rows, some_values = kinds[some[0]], rows[some], values[some]
        if kind == ShapeKind.POLYGON:
            for batch in _batches(_expected_vertices(shapes, some_rows, yc, xc, outlines)):
                _paint_polygons(target, shapes, some_rows[batch], some_values[batch], yc, xc, outlines)
        elif kind == ShapeKind.RLE:
            _paint_rle(target, shapes, some_rows, some_values, ys, xs)
        elif kind == ShapeKind.BOX:
            _paint_boxes(target, shapes, some_rows, some_values, yc, xc)
        else:
            spans = _keypoint_spans(shapes, some_rows, ys, xs, keypoint_radius_px)
            fill_spans(target, spans, some_values)
    if target is not out:
        out[...] = target


def _centers(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    centers: NDArray[np.float64] = pixels.astype(np.float64) + 0.5
    return centers


def _holds_center(
    boxes: NDArray[np.float64], yc: NDArray[np.float64], xc: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Say which half-open boxes hold the centre of a sampled pixel."""
    x0, y0, x1, y1 = boxes.T
    across = np.searchsorted(xc, x0) < np.searchsorted(xc, x1)
    held: NDArray[np.bool_] = across & (np.searchsorted(yc, y0) < np.searchsorted(yc, y1))
    return held


def _expected_vertices(
    shapes: Shapes,
    rows: NDArray[np.int64],
    yc: NDArray[np.float64],
    xc: NDArray[np.float64],
    outlines: Outlines | None,
) -> NDArray[np.int64]:
    """Return about how many vertices of each polygon are gathered: of long ones those near the block."""
    counts = vertex_counts(shapes, rows)
    if outlines is not None:
        long = np.flatnonzero(outlines.include(rows))
        x0, y0, x1, y1 = shapes.boxes_xyxy[rows[long]].T
        inside = np.maximum(np.minimum(x1, xc[-1]) - np.maximum(x0, xc[0]), 0)
        inside *= np.maximum(np.minimum(y1, yc[-1]) - np.maximum(y0, yc[0]), 0)
        share = inside / np.maximum((x1 - x0) * (y1 - y0), 1e-9)
        counts[long] = np.minimum(counts[long], counts[long] * share + LONG_POLYGON)
    return counts


def _batches(counts: NDArray[np.int64]) -> list[slice]:
    """Cut consecutive annotations where their vertices would exceed what is gathered at once."""
    total = np.cumsum(counts)
    cuts = [0]
    while cuts[-1] < len(counts):
        done = int(total[cuts[-1] - 1]) if cuts[-1] else 0
        fits = int(np.searchsorted(total, done + MAX_VERTICES, side="right"))
        # An annotation larger than a batch is a batch of its own.
        cuts.append(min(max(fits, cuts[-1] + 1), cuts[-1] + MAX_ANNOTS))
    return [slice(a, b) for a, b in pairwise(cuts)]


def _paint_polygons(
    out: NDArray[Any],
    shapes: Shapes,
    rows: NDArray[np.int64],
    values: NDArray[Any],
    yc: NDArray[np.float64],
    xc: NDArray[np.float64],
    outlines: Outlines | None,
) -> None:
    spans = polygon_spans(shapes, rows, yc, xc, outlines)
    if spans is not None:
        fill_spans(out, spans, values)
        return
    half = len(yc) // 2
    _paint_polygons(out[:half], shapes, rows, values, yc[:half], xc, outlines)
    _paint_polygons(out[half:], shapes, rows, values, yc[half:], xc, outlines)


def _paint_boxes(
    out: NDArray[Any],
    shapes: Shapes,
    rows: NDArray[np.int64],
    values: NDArray[Any],
    yc: NDArray[np.float64],
    xc: NDArray[np.float64],
) -> None:
    x0, y0, x1, y1 = shapes.boxes_xyxy[rows].T
    columns = np.searchsorted(xc, x0).tolist(), np.searchsorted(xc, x1).tolist()
    lines = np.searchsorted(yc, y0).tolist(), np.searchsorted(yc, y1).tolist()
    for r0, r1, c0, c1, value in zip(*lines, *columns, values.tolist(), strict=True):
        out[r0:r1, c0:c1] = value


def _paint_rle(
    out: NDArray[Any],
    shapes: Shapes,
    rows: NDArray[np.int64],
    values: NDArray[Any],
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
) -> None:
    boxes = shapes.boxes_xyxy[rows]
    for row, value, (x0, y0, x1, y1) in zip(rows.tolist(), values.tolist(), boxes, strict=True):
        # The box is the bounds of the marked pixels, so what is looked up lies inside the mask: below its last
        # row would be the next column.
        r0, r1 = np.searchsorted(ys, (y0, y1))
        c0, c1 = np.searchsorted(xs, (x0, x1))
        inside = rle_block(shapes.runs(row), int(shapes.rle_heights[row]), ys[r0:r1], xs[c0:c1])
        out[r0:r1, c0:c1][inside] = value


def _keypoint_spans(
    shapes: Shapes, rows: NDArray[np.int64], ys: NDArray[np.int64], xs: NDArray[np.int64], radius: float
) -> Spans:
    first, last = shapes.annot_keypoints[rows], shapes.annot_keypoints[rows + 1]
    rank = np.repeat(np.arange(len(rows)), last - first)
    x, y, visibility = shapes.keypoints[ragged_arange(first, last)].T
    labelled = visibility > 0
    rank, x, y = rank[labelled], x[labelled], y[labelled]
    disc = _disc_spans(rank, y, x, _centers(ys), _centers(xs), radius)
    # The pixel that holds the point: a disc smaller than a pixel may miss every centre.
    r0, r1 = (np.searchsorted(ys, np.floor(y), side=side) for side in ("left", "right"))
    c0, c1 = (np.searchsorted(xs, np.floor(x), side=side) for side in ("left", "right"))
    rank, c0, c1 = (np.repeat(column, r1 - r0) for column in (rank, c0, c1))
    home = Spans(rank, ragged_arange(r0, r1), c0, c1)
    both = [np.concatenate(columns) for columns in zip(disc, home, strict=True)]
    order = np.argsort(both[0], kind="stable")
    return _nonempty(*(column[order] for column in both))


def _disc_spans(
    rank: NDArray[np.int64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    yc: NDArray[np.float64],
    xc: NDArray[np.float64],
    radius: float,
) -> Spans:
    r0 = np.searchsorted(yc, y - radius)
    r1 = np.searchsorted(yc, y + radius, side="right")
    row, point = ragged_arange(r0, r1), np.repeat(np.arange(len(rank)), r1 - r0)
    rank, y, x = rank[point], y[point], x[point]
    reach = np.sqrt(np.maximum(radius**2 - (yc[row] - y) ** 2, 0))
    return Spans(rank, row, np.searchsorted(xc, x - reach), np.searchsorted(xc, x + reach, side="right"))


def _nonempty(
    rank: NDArray[np.int64], row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> Spans:
    keep = stop > start
    return Spans(rank[keep], row[keep], start[keep], stop[keep])
