"""Polygons cut to a window by GEOS, robust against rings that cross themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from slidesampler.annotations.nesting import Nested, whole_polygons
from slidesampler.annotations.outlines import Outlines
from slidesampler.geometry import Window
from slidesampler.models import Ring
from slidesampler.shapes import Shapes

__all__ = ["clip_polygons", "even_odd_in_box"]

#: Pairs of a point and an edge compared at once.
MAX_PAIRS = 1 << 18
#: By which share of the window's area a clipped area may differ from the one that was integrated.
AREA_NOISE = 1e-9

_Geometries = NDArray[Any]  # of shapely geometries
_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


def clip_polygons(shapes: Shapes, outlines: Outlines, rows: _Ints, window: Window) -> tuple[_Floats, Nested]:
    """Return what a window shows of some polygon annotations.

    Parameters
    ----------
    shapes, outlines
        Annotations of the image, and their outlines.
    rows : int64 (n,)
        Polygon annotations.
    window : Window

    Returns
    -------
    visible : float64 (n,)
        Area inside the window as a share of the area of the shape, 0 to 1; see
        :func:`slidesampler.annotations.clip.annots_in_window`.
    pieces : Nested
        Cut to the window, level-0 pixels; the owner of a part is the position of its annotation in ``rows``.
    """
    # Of long polygons only what is near the window is looked at: checking 50,000 vertices for whether the ring
    # crosses itself takes a third of a second.
    long = outlines.include(rows)
    rings = _gather(shapes, outlines, rows, long, window)
    polygons = _polygons(rings)
    valid = shapely.is_valid(polygons)
    areas = shapely.area(polygons)
    cut = _cut_valid(polygons, valid, rings, window)
    box = shapely.box(*window.as_xyxy()) if not valid.all() else None
    for bad in np.flatnonzero(~valid).tolist():
        cut[bad] = even_odd_in_box(polygons[bad], box)
        if not long[rings.owner[bad]]:
            areas[bad] = even_odd_in_box(polygons[bad], shapely.box(*shapely.bounds(polygons[bad]))).area
    whole = np.bincount(rings.owner, areas, minlength=len(rows))
    whole[long] = shapes.areas[rows[long]]
    pieces, piece_of = shapely.get_parts(cut, return_index=True)
    # A polygon that only touches the window leaves a line or a point there.
    piece_areas = shapely.area(pieces)
    keep = piece_areas > 0
    owner = rings.owner[piece_of[keep]]
    inside = np.bincount(owner, piece_areas[keep], minlength=len(rows))
    visible = np.divide(inside, whole, out=(inside > 0).astype(float), where=whole > 0)
    return np.minimum(visible, 1.0), _nested(pieces[keep], owner)


# What there is to cut ---------------------------------------------------------------------------------------


def _gather(shapes: Shapes, outlines: Outlines, rows: _Ints, long: NDArray[np.bool_], window: Window) -> Nested:
    """Return the rings of what may reach into the window; of short polygons all of them."""
    if not long.any():
        return _enclosing(whole_polygons(shapes, rows, np.arange(len(rows))))
    short = np.flatnonzero(~long)
    found = [whole_polygons(shapes, rows[short], short)] if len(short) else []
    found += [_near(shapes, outlines, int(rows[i]), i, window) for i in np.flatnonzero(long).tolist()]
    if len(found) == 1:
        return _enclosing(found[0])
    parts_before = np.cumsum([0, *(len(some.owner) for some in found)])
    return _enclosing(
        Nested(
            np.concatenate([some.xy for some in found]),
            np.concatenate([some.lengths for some in found]),
            np.concatenate([some.part + before for some, before in zip(found, parts_before, strict=False)]),
            np.concatenate([some.owner for some in found]),
        )
    )


def _near(shapes: Shapes, outlines: Outlines, row: int, owner: int, window: Window) -> Nested:
    near = outlines.near(shapes, row, *window.as_xyxy())
    if len(near.rings) and near.rings[0] == near.rings[-1] == shapes.part_rings[shapes.annot_parts[row]]:
        # Of its first ring alone: as most outlines are.
        one = np.zeros(1, np.int64)
        return Nested(shapes.vertices[near.vertices], one + len(near.vertices), one, one + owner)
    rings, counts = np.unique(near.rings, return_counts=True)
    part = np.searchsorted(shapes.part_rings, rings, side="right") - 1
    # Where the exterior has nothing near the window, neither has the part.
    there = np.isin(shapes.part_rings[part], rings)
    xy = shapes.vertices[near.vertices[np.repeat(there, counts)]]
    numbers, part = np.unique(part[there], return_inverse=True)
    return Nested(xy, counts[there], part, np.full(len(numbers), owner))


def _enclosing(rings: Nested) -> Nested:
    """Leave out rings of less than three points: they enclose nothing, and GEOS refuses them."""
    keep = rings.lengths >= 3
    if keep.all():
        return rings
    exterior = keep[np.searchsorted(rings.part, np.arange(len(rings.owner)))]
    keep &= exterior[rings.part]
    return Nested(
        rings.xy[np.repeat(keep, rings.lengths)],
        rings.lengths[keep],
        (np.cumsum(exterior) - 1)[rings.part[keep]],
        rings.owner[exterior],
    )


def _polygons(rings: Nested) -> _Geometries:
    if not len(rings.lengths):
        return np.zeros(0, dtype=object)
    lines = shapely.linearrings(rings.xy, indices=np.repeat(np.arange(len(rings.lengths)), rings.lengths))
    polygons: _Geometries = (
        shapely.polygons(lines)
        if len(rings.lengths) == len(rings.owner)
        else shapely.polygons(lines, indices=rings.part)
    )
    return polygons


# Cutting ----------------------------------------------------------------------------------------------------


def _cut_valid(polygons: _Geometries, valid: NDArray[np.bool_], rings: Nested, window: Window) -> _Geometries:
    """Return the valid polygons cut to the window; the others are not looked at.

    Clipping by a rectangle takes GEOS a tenth of the time that an intersection takes, and goes wrong now and
    then where vertices or corners lie on lines of each other: so its areas are compared with integrals along
    the edges, and where a vertex lies on a line of the window the result is looked at, too.
    """
    cut: _Geometries = np.empty(len(polygons), dtype=object)
    x0, y0, x1, y1 = window.as_xyxy()
    if not len(cut):
        return cut
    cut[valid] = shapely.clip_by_rect(polygons[valid], x0, y0, x1, y1)
    noise = AREA_NOISE * window.width * window.height
    doubtful = ~(np.abs(shapely.area(cut) - _areas_inside(rings, window)) <= noise)
    x, y = rings.xy.T
    on_line = (x == x0) | (x == x1) | (y == y0) | (y == y1)
    if on_line.any():
        part = np.repeat(rings.part, rings.lengths)
        there = np.bincount(part[on_line], minlength=len(polygons)) > 0
        doubtful[there] |= ~shapely.is_valid(cut[there])
    doubtful &= valid
    if doubtful.any():
        cut[doubtful] = shapely.intersection(polygons[doubtful], shapely.box(x0, y0, x1, y1))
    return cut


def _areas_inside(rings: Nested, window: Window) -> _Floats:
    """Return the area in the window of each part, float64 ``(parts,)``, where no rings cross.

    Green's theorem for clamped coordinates: an edge counts the mean of its clamped x times its clamped rise.
    """
    ends = np.cumsum(rings.lengths)
    begins = ends - rings.lengths
    # Both ends of every edge, (2, edges), from the window's corner.
    x, y = np.empty((2, len(rings.xy))), np.empty((2, len(rings.xy)))
    for both, own, origin in ((x, rings.xy[:, 0], window.x), (y, rings.xy[:, 1], window.y)):
        np.subtract(own, origin, out=both[0])
        both[1, :-1] = both[0, 1:]
        both[1, ends - 1] = both[0, begins]
    rise = y[1] - y[0]
    # What is level counts nothing. Of next to nothing the slope is not known well: it is looked at twice.
    slope = np.divide(x[1] - x[0], rise, out=np.zeros_like(rise), where=np.abs(rise) > 1e-9)
    inside = np.minimum(np.maximum(y, 0), window.height)
    at = x[0] + (inside - y[0]) * slope
    clamped = np.minimum(np.maximum(at, 0), window.width)
    beyond = np.maximum(at, window.width)
    run = at[1] - at[0]
    sums = (clamped[1] - clamped[0]) * (clamped[0] + clamped[1]) / 2 + (beyond[1] - beyond[0]) * window.width
    mean = np.divide(sums, run, out=clamped[0].copy(), where=run != 0)
    areas: _Floats = np.abs(np.add.reduceat(mean * (inside[1] - inside[0]), begins))
    if len(areas) > len(rings.owner):
        areas[1:][rings.part[1:] == rings.part[:-1]] *= -1
        areas = np.add.reduceat(areas, np.searchsorted(rings.part, np.arange(len(rings.owner))))
    return areas


def even_odd_in_box(polygon: Any, box: Any) -> Any:
    """Return what a polygon whose rings cross themselves or each other encloses in a box.

    Exterior less holes, each even-odd, as they are painted. The lines inside the box cut it into faces, and one
    point of a face tells whether it belongs. GEOS's ``make_valid`` gives the same for a single ring, but takes
    0.1 s for 70 vertices that cross often, most of it for crossings outside the box.
    """
    rings = shapely.get_rings(polygon)
    lines = shapely.union_all([*shapely.intersection(rings, box), box.exterior])
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(lines)))
    points = shapely.get_coordinates(shapely.point_on_surface(faces))
    inside, *holes = (_encloses(shapely.get_coordinates(ring), points) for ring in rings)
    for hole in holes:
        inside &= ~hole
    return shapely.union_all(faces[inside])


def _encloses(ring: Ring, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which points a closed ring winds around an odd number of times."""
    (xa, ya), (xb, yb) = ring[:-1].T, ring[1:].T
    rise = np.where(ya == yb, 1.0, yb - ya)
    odd = np.zeros(len(points), dtype=bool)
    # Every point meets every edge: in slices, since a tangle has very many faces.
    step = max(1, MAX_PAIRS // len(xa))
    for start in range(0, len(points), step):
        x, y = points[start : start + step, :1], points[start : start + step, 1:]
        crossed = ((ya <= y) != (yb <= y)) & (xa + (y - ya) * (xb - xa) / rise <= x)
        odd[start : start + step] = crossed.sum(axis=1) % 2
    return odd


def _nested(pieces: _Geometries, owner: _Ints) -> Nested:
    rings, part = pieces, np.arange(len(pieces))
    if shapely.get_num_interior_rings(pieces).any():
        rings, part = shapely.get_rings(pieces, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    lengths = np.bincount(ring, minlength=len(rings))
    # The last point repeats the first.
    keep = np.ones(len(xy), dtype=bool)
    keep[np.cumsum(lengths) - 1] = False
    return Nested(xy[keep], lengths - 1, part, owner)
