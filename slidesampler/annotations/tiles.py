"""Annotations as rectangles that must be held: cut into tiles, or trimmed by what may be left out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from slidesampler.annotations.polyclip import even_odd_in_box
from slidesampler.annotations.rle import rle_count
from slidesampler.annotations.spans import ragged_arange
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["tile_shape", "trimmed_boxes"]

#: A part of the area that is rounding, not shape.
AREA_NOISE = 1e-9
#: A coordinate to the right of and below everything.
BEYOND = 1e18

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


def tile_shape(shapes: Shapes, row: int, ys: _Ints, xs: _Ints) -> tuple[_Ints, _Floats]:
    """Return what an annotation has in each cell of a lattice where it has anything.

    Parameters
    ----------
    shapes : Shapes
    row : int
    ys, xs : int64 (h + 1,), (w + 1,)
        Edges of the cells, level-0 pixels, ascending: cell ``(i, j)`` has the rows ``[ys[i], ys[i + 1])`` and
        the columns ``[xs[j], xs[j + 1])``.

    Returns
    -------
    boxes : int64 (k, 4)
        ``(y0, x0, y1, x1)``, half-open: bounds, in whole pixels, of what lies in a cell. Row by row.
    areas : float64 (k,)
        Square pixels in that cell, above 0; of keypoints alone, the number of labelled points.
    """
    kind = int(shapes.kinds[row])
    if kind == ShapeKind.POLYGON:
        boxes, areas = _tile_polygon(_polygon_of(shapes, row), ys, xs)
    elif kind == ShapeKind.KEYPOINTS:
        boxes, areas = _tile_points(shapes.points(row), ys, xs)
    else:
        boxes, areas = _tile_box(shapes.boxes_xyxy[row], ys, xs)
        if kind == ShapeKind.RLE:
            boxes = boxes[areas > 0]
            runs, height = shapes.runs(row), int(shapes.rle_heights[row])
            counts = [rle_count(runs, height, y0, y1, x0, x1) for y0, x0, y1, x1 in boxes.tolist()]
            areas = np.array(counts, np.float64)
    kept = areas > 0
    return boxes[kept], areas[kept]


def _tile_box(box: _Floats, ys: _Ints, xs: _Ints) -> tuple[_Ints, _Floats]:
    (y0, y1), (x0, x1) = _cut_interval(box[1], box[3], ys), _cut_interval(box[0], box[2], xs)
    areas = np.multiply.outer(np.maximum(y1 - y0, 0), np.maximum(x1 - x0, 0)).ravel()
    boxes = np.empty((len(y0), len(x0), 4), np.int64)
    boxes[..., 0], boxes[..., 2] = np.floor(y0)[:, None], np.ceil(y1)[:, None]
    boxes[..., 1], boxes[..., 3] = np.floor(x0), np.ceil(x1)
    return boxes.reshape(-1, 4), areas


def _cut_interval(low: float, high: float, edges: _Ints) -> tuple[_Floats, _Floats]:
    return np.maximum(edges[:-1], low), np.minimum(edges[1:], high)


def _tile_points(points: _Floats, ys: _Ints, xs: _Ints) -> tuple[_Ints, _Floats]:
    pixels = np.floor(points[points[:, 2] > 0, 1::-1]).astype(np.int64)
    cell = (
        np.stack([np.searchsorted(ys, pixels[:, 0], "right"), np.searchsorted(xs, pixels[:, 1], "right")], 1)
        - 1
    )
    inside = (cell >= 0).all(axis=1) & (cell[:, 0] < len(ys) - 1) & (cell[:, 1] < len(xs) - 1)
    pixels = pixels[inside]
    _, which = np.unique(cell[inside] @ [len(xs), 1], return_inverse=True)
    count = int(which.max()) + 1 if len(which) else 0
    boxes = np.empty((count, 4), np.int64)
    for one in range(count):
        mine = pixels[which == one]
        boxes[one] = *mine.min(axis=0), *(mine.max(axis=0) + 1)
    return boxes, np.bincount(which, minlength=count).astype(np.float64)


class _Block(NamedTuple):
    """Some cells next to each other, ``[i0, i1) x [j0, j1)``, and what lies in them."""

    shape: Any
    i0: int
    i1: int
    j0: int
    j1: int


def _polygon_of(shapes: Shapes, row: int) -> Any:
    """Return a valid geometry of what is painted: of each part the exterior less its holes, all even-odd."""
    parts = []
    for exterior, *holes in shapes.parts(row):
        if len(exterior) < 3:
            continue
        polygon = shapely.Polygon(exterior, [hole for hole in holes if len(hole) >= 3])
        if not polygon.is_valid:
            polygon = even_odd_in_box(polygon, shapely.box(*polygon.bounds))
        parts.append(polygon)
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _tile_polygon(shape: Any, ys: _Ints, xs: _Ints) -> tuple[_Ints, _Floats]:
    """Cut in half and half again, so that each piece of the outline is looked at a few times only."""
    found: list[tuple[int, int, int, int, float]] = []
    whole = shapely.box(float(xs[0]), float(ys[0]), float(xs[-1]), float(ys[-1]))
    stack = [_Block(shapely.intersection(shape, whole), 0, len(ys) - 1, 0, len(xs) - 1)]
    while stack:
        block = stack.pop()
        area = block.shape.area
        if not area > 0:
            continue
        y, x = ys[block.i0 : block.i1 + 1], xs[block.j0 : block.j1 + 1]
        if area >= (1 - AREA_NOISE) * float(y[-1] - y[0]) * float(x[-1] - x[0]):
            found += [
                (y0, x0, y1, x1, float((y1 - y0) * (x1 - x0)))
                for y0, y1 in pairwise(y.tolist())
                for x0, x1 in pairwise(x.tolist())
            ]
        elif len(y) == 2 and len(x) == 2:
            # What only touches the cell is a line or a point, and has no part in the bounds.
            pieces = shapely.get_parts(block.shape)
            x0, y0, x1, y1 = shapely.total_bounds(pieces[shapely.area(pieces) > 0]).tolist()
            found.append((int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1)), area))
        else:
            stack += _halves(block, ys, xs)
    found.sort()
    table = np.array(found, np.float64).reshape(-1, 5)
    return table[:, :4].astype(np.int64), table[:, 4]


def _halves(block: _Block, ys: _Ints, xs: _Ints) -> list[_Block]:
    shape, i0, i1, j0, j1 = block
    if i1 - i0 >= j1 - j0:
        middle = (i0 + i1) // 2
        cells = [(i0, middle, j0, j1), (middle, i1, j0, j1)]
    else:
        middle = (j0 + j1) // 2
        cells = [(i0, i1, j0, middle), (i0, i1, middle, j1)]
    boxes = [shapely.box(float(xs[c]), float(ys[a]), float(xs[d]), float(ys[b])) for a, b, c, d in cells]
    return [_Block(shapely.intersection(shape, box), *cell) for box, cell in zip(boxes, cells, strict=True)]


def trimmed_boxes(shapes: Shapes, rows: _Ints, share: float) -> _Ints:
    """Return rectangles of whole pixels that leave at most a share of each annotation outside on every side.

    A straight cut along a side of the rectangle takes at most ``share`` of the annotation's area away; so a
    window that holds the rectangle, and that is cut by the annotation's box on at most one side along y and one
    along x (as any window at least as large as that box), holds at least ``1 - 2 * share`` of the area.

    Parameters
    ----------
    shapes : Shapes
    rows : int64 (n,)
        Annotations with a finite box.
    share : float
        In ``[0, 0.5)``.

    Returns
    -------
    int64 (n, 4)
        ``(y0, x0, y1, x1)``, half-open, at least a pixel. Exact for boxes and for polygons whose rings do not
        cross; for others what the area and the box together guarantee. Keypoints alone are not trimmed.

    Notes
    -----
    *Source:* the area of a ring left of ``t`` is the integral of ``min(x, t) dy`` along it (Green's theorem).
    """
    x0, y0, x1, y1 = shapes.boxes_xyxy[rows].T
    areas, kinds = shapes.areas[rows], shapes.kinds[rows]
    points = kinds == ShapeKind.KEYPOINTS
    areas = np.where(points, 0.0, np.minimum(areas, (x1 - x0) * (y1 - y0)))
    height, width = np.where(areas > 0, y1 - y0, 1.0), np.where(areas > 0, x1 - x0, 1.0)
    # A strip along a side holds no more than its own area, and a tangle may hold less than its column says.
    tangled = np.zeros(len(rows), np.bool_)
    polygons = np.flatnonzero(kinds == ShapeKind.POLYGON)
    if len(polygons) and share > 0:
        edges = _Edges.of(shapes, rows[polygons])
        tangled[polygons] = ~edges.simple
    allowed = np.where(tangled, 0.0, share * areas)
    out = np.stack(
        [
            np.floor(y0 + allowed / width),
            np.floor(x0 + allowed / height),
            np.where(points, np.floor(y1) + 1, np.ceil(y1 - allowed / width)),
            np.where(points, np.floor(x1) + 1, np.ceil(x1 - allowed / height)),
        ],
        axis=1,
    ).astype(np.int64)
    if len(polygons) and share > 0:
        simple = np.flatnonzero(edges.simple)
        some = polygons[simple]
        for axis in (0, 1):
            out[some, axis] = edges.furthest(simple, out[some, axis], share, axis, +1)
            out[some, axis + 2] = edges.furthest(simple, out[some, axis + 2], share, axis, -1)
    return out


class _Edges(NamedTuple):
    """Edges of some polygon annotations."""

    ends: tuple[_Floats, _Floats]  # (edges, 2), order (y, x)
    sign: _Floats  # 1 or -1, so that exteriors have positive and holes negative area
    stops: _Ints  # (annotations + 1,)
    simple: NDArray[np.bool_]  # (annotations,) whether no rings of a part cross

    @classmethod
    def of(cls, shapes: Shapes, rows: _Ints) -> _Edges:
        parts = ragged_arange(shapes.annot_parts[rows], shapes.annot_parts[rows + 1])
        annot_of_part = np.repeat(np.arange(len(rows)), shapes.annot_parts[rows + 1] - shapes.annot_parts[rows])
        rings = ragged_arange(shapes.part_rings[parts], shapes.part_rings[parts + 1])
        counts = shapes.part_rings[parts + 1] - shapes.part_rings[parts]
        part_of_ring = np.repeat(np.arange(len(parts)), counts)
        hole = np.arange(len(rings)) != np.repeat(np.cumsum(counts) - counts, counts)
        sizes = shapes.ring_vertices[rings + 1] - shapes.ring_vertices[rings]
        # A ring of less than three points encloses nothing.
        rings, part_of_ring, hole, sizes = (column[sizes >= 3] for column in (rings, part_of_ring, hole, sizes))
        at = ragged_arange(shapes.ring_vertices[rings], shapes.ring_vertices[rings + 1])
        start = shapes.vertices[at][:, ::-1]
        ring = np.repeat(np.arange(len(rings)), sizes)
        following = np.arange(1, len(at) + 1)
        following[np.cumsum(sizes) - 1] = np.cumsum(sizes) - sizes
        stop = start[following]
        annot = annot_of_part[part_of_ring]
        twice = np.bincount(
            ring, _cross(start - start[(np.cumsum(sizes) - sizes)[ring]], stop - start), len(rings)
        )
        sign = np.sign(twice) * np.where(hole, -1.0, 1.0)
        stops = np.searchsorted(annot[ring], np.arange(len(rows) + 1))
        simple = _simple(start[:, ::-1], ring, part_of_ring, annot, len(rows)) & (np.diff(stops) > 0)
        return cls((start, stop), sign[ring], stops, simple)

    def furthest(self, annots: _Ints, start: _Ints, share: float, axis: int, step: int) -> _Ints:
        """Return the cut furthest along an axis, from ``start`` on, that takes away no more than the share.

        Parameters
        ----------
        annots : int64 (n,)
            Which of the annotations.
        start : int64 (n,)
            Cuts known to be fine.
        share : float
        axis : int
            0: cuts at a y, 1: at an x.
        step : int
            1: what lies before the cut is taken away, -1: what lies after it.
        """
        lines = self._lines(annots, axis)
        total = lines.before(np.full(len(annots), BEYOND))
        limit = (share - AREA_NOISE) * total
        fine, bound = start.copy(), np.full(len(annots), 1)
        growing = total > 0
        # Twice as far each time, then half as far each time.
        while growing.any():
            lost = lines.before((fine + step * bound).astype(np.float64))
            growing &= (lost if step > 0 else total - lost) <= limit
            bound = np.where(growing, 2 * bound, bound)
        while bound.max(initial=0) > 1:
            bound = np.maximum(bound // 2, 1)
            lost = lines.before((fine + step * bound).astype(np.float64))
            good = (lost if step > 0 else total - lost) <= limit
            fine = np.where(good, fine + step * bound, fine)
        return fine

    def _lines(self, annots: _Ints, axis: int) -> _Lines:
        sizes = self.stops[annots + 1] - self.stops[annots]
        edge = ragged_arange(self.stops[annots], self.stops[annots + 1])
        a, b = (ends[edge] for ends in self.ends)
        # Measured from a vertex of the same annotation: differences of large numbers would lose digits.
        origin = a[np.cumsum(sizes) - sizes, axis]
        u, v = (end[:, axis] - np.repeat(origin, sizes) for end in (a, b))
        rise = (b - a)[:, 1 - axis] * self.sign[edge] * (-1 if axis == 0 else 1)
        return _Lines(np.minimum(u, v), np.maximum(u, v), rise, origin, sizes)


class _Lines(NamedTuple):
    """Edges of some annotations along one axis, end to end."""

    low: _Floats
    high: _Floats
    rise: _Floats  # along the other axis, with the sign that makes areas positive
    origin: _Floats  # (annotations,) what is 0 in low and high
    sizes: _Ints  # (annotations,) how many edges each has

    def before(self, cut: _Floats) -> _Floats:
        """Return the area of each annotation at coordinates below its cut."""
        low, high = self.low, self.high
        t = np.repeat(cut - self.origin, self.sizes)
        # The mean over an edge of min(x, t): below t the middle of that part, beyond it t.
        mean = np.minimum(high, t)
        mean += np.minimum(low, t)
        mean /= 2
        crossed = np.flatnonzero((low < t) & (t < high))
        part = (t[crossed] - low[crossed]) / (high[crossed] - low[crossed])
        mean[crossed] = part * mean[crossed] + (1 - part) * t[crossed]
        owner = np.repeat(np.arange(len(cut)), self.sizes)
        areas: _Floats = np.bincount(owner, mean * self.rise, len(cut)).astype(np.float64)
        return areas


def _cross(a: _Floats, b: _Floats) -> _Floats:
    """Return ``x * dy - y * dx`` of vectors in order ``(y, x)``."""
    product: _Floats = a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1]
    return product


def _simple(xy: _Floats, ring: _Ints, part_of_ring: _Ints, annot_of_ring: _Ints, n: int) -> NDArray[np.bool_]:
    """Return which annotations have no rings that cross themselves or others of the same part."""
    simple = np.ones(n, np.bool_)
    if not len(ring):
        return simple
    parts, first = np.unique(part_of_ring, return_inverse=True)
    polygons = shapely.polygons(shapely.linearrings(xy, indices=ring), indices=first)
    broken = ~shapely.is_valid(polygons)
    simple[annot_of_ring[np.searchsorted(part_of_ring, parts[broken])]] = False
    return simple
