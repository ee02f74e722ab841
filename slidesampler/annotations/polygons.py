"""Scanline spans of polygons: even-odd, exact under the pixel-centre rule.

A ring crosses the line of pixel centres ``yc`` once for each of its edges with ``ymin <= yc < ymax``, at an
``x`` computed from the edge and ``yc`` alone. A crossing toggles every pixel of the row whose centre is at
least ``x``. Nothing in this depends on the block that is being painted, so any way to cut a region into blocks
gives the same pixels; and an edge that two rings share is computed the same way for both, so they neither
overlap nor leave a gap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.outlines import Outlines
from slidesampler.annotations.spans import Spans, ragged_arange
from slidesampler.shapes import Shapes

__all__ = ["polygon_spans", "vertex_counts"]

#: Crossings held in memory at once (a few arrays of 8 bytes each); more are painted strip by strip.
MAX_CROSSINGS = 1 << 20


class _Rings(NamedTuple):
    """Rings of some annotations, end to end."""

    xy: NDArray[np.float64]  # (vertices, 2)
    lengths: NDArray[np.int64]  # vertices of each ring
    part: NDArray[np.int64]  # part of each ring, counted from 0
    hole: NDArray[np.bool_]  # whether the ring is a hole
    rank: NDArray[np.int64]  # rank of the annotation of each part


class _Edges(NamedTuple):
    """Edges that cross rows of the block, pointing down (y grows from a to b)."""

    ring: NDArray[np.int64]
    ya: NDArray[np.float64]
    xa: NDArray[np.float64]
    yb: NDArray[np.float64]
    xb: NDArray[np.float64]
    row0: NDArray[np.int64]  # first row of the block that is crossed
    row1: NDArray[np.int64]  # one past the last


def vertex_counts(shapes: Shapes, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many vertices each of the annotations has, all parts and rings together."""
    first, last = _vertex_ranges(shapes, rows)
    return last - first


def polygon_spans(
    shapes: Shapes,
    rows: NDArray[np.int64],
    yc: NDArray[np.float64],
    xc: NDArray[np.float64],
    outlines: Outlines | None = None,
) -> Spans | None:
    """Return the spans of some polygon annotations over a block.

    Parameters
    ----------
    shapes : Shapes
    rows : int64 (n,)
        Annotations in paint order; ``rank`` in the result is the position here.
    yc, xc : float64 (h,), (w,)
        Centres of the block's pixels, level-0 coordinates, ascending.
    outlines : Outlines, optional
        Spares looking at every edge of a long polygon.

    Returns
    -------
    Spans or None
        None where there would be more crossings than are held in memory at once and the block has more than
        one row: the caller cuts the block.
    """
    rings = _gather_rings(shapes, rows, yc, xc, outlines)
    edges = _edges_across(rings, yc)
    counts = edges.row1 - edges.row0
    if int(counts.sum()) > MAX_CROSSINGS and len(yc) > 1:
        return None
    row = ragged_arange(edges.row0, edges.row1)
    edge = np.repeat(np.arange(len(counts)), counts)
    col = np.searchsorted(xc, _crossing_x(edges, edge, yc[row]))
    # One sort of one integer per crossing: ring, then row, then column.
    height, stride = len(yc), len(xc) + 1
    key = np.sort((edges.ring[edge] * height + row) * stride + col)
    # A closed ring crosses each row an even number of times, so within a ring and row crossings pair up.
    part = rings.part
    start, stop = key[0::2], key[1::2]
    if rings.hole.any():
        start, stop = _subtract_holes(key, rings, height * stride)
        part = np.arange(len(rings.rank))
    keep = stop > start
    start, length = start[keep], (stop - start)[keep]
    line, first = np.divmod(start, stride)
    owner, line = np.divmod(line, height)
    return Spans(rings.rank[part[owner]], line, first, first + length)


def _vertex_ranges(shapes: Shapes, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first = shapes.ring_vertices[shapes.part_rings[shapes.annot_parts[rows]]]
    last = shapes.ring_vertices[shapes.part_rings[shapes.annot_parts[rows + 1]]]
    return first, last


def _gather_rings(
    shapes: Shapes,
    rows: NDArray[np.int64],
    yc: NDArray[np.float64],
    xc: NDArray[np.float64],
    outlines: Outlines | None,
) -> _Rings:
    part0, part1 = shapes.annot_parts[rows], shapes.annot_parts[rows + 1]
    parts = ragged_arange(part0, part1)
    ring0, ring1 = shapes.part_rings[parts], shapes.part_rings[parts + 1]
    rings = ragged_arange(ring0, ring1)
    part = np.repeat(np.arange(len(parts)), ring1 - ring0)
    lengths = shapes.ring_vertices[rings + 1] - shapes.ring_vertices[rings]
    first, last = _vertex_ranges(shapes, rows)
    long = np.zeros(0, np.int64) if outlines is None else np.flatnonzero(outlines.include(rows))
    if outlines is not None and len(long):
        # A path left of all centres toggles what it toggles at their first column, whichever way it goes; one
        # to the right, above or below toggles nothing.
        box = float(xc[0]), float(yc[0]), float(xc[-1]) + 0.5, float(yc[-1]) + 0.5
        near = [outlines.near(shapes, row, *box) for row in rows[long].tolist()]
        rings_done = np.cumsum(shapes.part_rings[part1] - shapes.part_rings[part0])
        for at, some in zip(long.tolist(), near, strict=True):
            own = slice(rings_done[at - 1] if at else 0, rings_done[at])
            lengths[own] = np.bincount(some.rings - rings[own.start], minlength=own.stop - own.start)
        xy = shapes.vertices[_spliced(first, last, long, [some.vertices for some in near])]
    elif len(rows) == 1:
        # A slice: nothing is copied.
        xy = shapes.vertices[first[0] : last[0]]
    else:
        xy = shapes.vertices[ragged_arange(first, last)]
    return _Rings(
        xy=xy,
        lengths=lengths,
        part=part,
        hole=rings != ring0[part],
        rank=np.repeat(np.arange(len(rows)), part1 - part0),
    )


def _spliced(
    first: NDArray[np.int64], last: NDArray[np.int64], at: NDArray[np.int64], instead: list[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the ranges from ``first`` to ``last`` end to end, with others instead of those at some places."""
    pieces, done = [], 0
    for place, some in zip(at.tolist(), instead, strict=True):
        pieces += [ragged_arange(first[done:place], last[done:place]), some]
        done = place + 1
    return np.concatenate([*pieces, ragged_arange(first[done:], last[done:])])


def _edges_across(rings: _Rings, yc: NDArray[np.float64]) -> _Edges:
    """Return the edges that cross rows of the block."""
    lengths = rings.lengths
    last = np.cumsum(lengths) - 1
    # An empty ring has no last vertex to be joined to its first.
    closed = lengths > 0
    last, first = last[closed], (last - lengths + 1)[closed]
    y = rings.xy[:, 1]
    y_next = np.empty_like(y)
    y_next[:-1] = y[1:]
    y_next[last] = y[first]
    # Cheap look first: most edges of annotations that a block cuts are elsewhere.
    near = np.flatnonzero((np.maximum(y, y_next) > yc[0]) & (np.minimum(y, y_next) <= yc[-1]))
    ring = np.searchsorted(last, near)
    following = near + 1
    at_end = near == last[ring]
    following[at_end] = first[ring[at_end]]
    # Every edge is taken from its upper end to its lower one: two rings that share an edge run along it in
    # opposite directions, and must get the same x to the last bit.
    upward = y[following] < y[near]
    a, b = np.where(upward, following, near), np.where(upward, near, following)
    (xa, ya), (xb, yb) = rings.xy[a].T, rings.xy[b].T
    row0, row1 = np.searchsorted(yc, ya), np.searchsorted(yc, yb)
    hit = row1 > row0
    ring = np.flatnonzero(closed)[ring[hit]]
    return _Edges(ring, ya[hit], xa[hit], yb[hit], xb[hit], row0[hit], row1[hit])


def _crossing_x(edges: _Edges, edge: NDArray[np.int64], yc: NDArray[np.float64]) -> NDArray[np.float64]:
    xa, xb, ya = edges.xa[edge], edges.xb[edge], edges.ya[edge]
    # Product before quotient: with vertices on a lattice both the product and the sum are exact, so a crossing
    # that falls on a pixel centre is found to.
    x = xa + (yc - ya) * (xb - xa) / (edges.yb[edge] - ya)
    # Rounding must not carry a crossing out of its edge: boxes decide which annotations a block looks at.
    return np.clip(x, np.minimum(xa, xb), np.maximum(xa, xb))


def _subtract_holes(
    key: NDArray[np.int64], rings: _Rings, plane: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and stops of ``exterior and not any hole``, keyed by part instead of ring."""
    ring, place = np.divmod(key, plane)
    # Entering the exterior counts 1, entering a hole 2: a pixel is in the part where the sum is exactly 1.
    step = np.where(rings.hole[ring], 2, 1)
    step[1::2] *= -1
    key = rings.part[ring] * plane + place
    order = np.argsort(key, kind="stable")
    key = key[order]
    inside = np.flatnonzero(np.cumsum(step[order]) == 1)
    # The sum is 0 again at the end of every row of every part, so the next crossing is one of the same row.
    return key[inside], key[inside + 1]
