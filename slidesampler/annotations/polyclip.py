"""Polygons cut to a window by GEOS, robust against rings that cross themselves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from slidesampler.annotations.outlines import Outlines
from slidesampler.geometry import Window
from slidesampler.models import Part, Ring
from slidesampler.shapes import Shapes

__all__ = ["clip_polygons", "even_odd_in_box"]

#: Pairs of a point and an edge compared at once.
MAX_PAIRS = 1 << 18

_Geometries = NDArray[Any]  # of shapely geometries


class _Gathered(NamedTuple):
    """Polygons of some annotations, one for each part that may reach into the window."""

    polygons: _Geometries  # may be invalid
    owner: NDArray[np.int64]  # position of the annotation of each polygon


def clip_polygons(
    shapes: Shapes, outlines: Outlines, rows: NDArray[np.int64], window: Window
) -> tuple[NDArray[np.float64], list[tuple[Part, ...]]]:
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
    parts : list of tuple of parts
        Cut to the window, level-0 pixels; rings are not closed. Empty where no area is inside.
    """
    n = len(rows)
    if not n:
        return np.zeros(0), []
    # Of long polygons only what is near the window is looked at: checking 50,000 vertices for whether the ring
    # crosses itself takes a third of a second.
    long = np.array([row in outlines for row in rows.tolist()])
    polygons, owner = _gather(shapes, outlines, rows, window)
    box = shapely.box(*window.as_xyxy())
    valid = shapely.is_valid(polygons)
    areas = shapely.area(polygons)
    cut = np.empty_like(polygons)
    cut[valid] = shapely.intersection(polygons[valid], box)
    for bad in np.flatnonzero(~valid).tolist():
        cut[bad] = even_odd_in_box(polygons[bad], box)
        if not long[owner[bad]]:
            areas[bad] = even_odd_in_box(polygons[bad], shapely.box(*shapely.bounds(polygons[bad]))).area
    whole = np.bincount(owner, areas, minlength=n)
    whole[long] = shapes.areas[rows[long]]
    pieces, piece_of = shapely.get_parts(cut, return_index=True)
    # A polygon that only touches the window leaves a line or a point there.
    piece_areas = shapely.area(pieces)
    keep = piece_areas > 0
    owner = owner[piece_of[keep]]
    inside = np.bincount(owner, piece_areas[keep], minlength=n)
    visible = np.divide(inside, whole, out=(inside > 0).astype(float), where=whole > 0)
    parts: list[list[Part]] = [[] for _ in range(n)]
    for i, part in zip(owner.tolist(), _to_parts(pieces[keep]), strict=True):
        parts[i].append(part)
    return np.minimum(visible, 1.0), [tuple(some) for some in parts]


def _gather(shapes: Shapes, outlines: Outlines, rows: NDArray[np.int64], window: Window) -> _Gathered:
    rings: list[Ring] = []
    ring_part: list[int] = []
    owner: list[int] = []
    for i, row in enumerate(rows.tolist()):
        parts = _near_parts(shapes, outlines, row, window) if row in outlines else shapes.parts(row)
        for part in parts:
            if len(part[0]) < 3:
                continue
            # A ring of less than three points encloses nothing, and GEOS refuses it.
            closed = [ring for ring in part if len(ring) >= 3]
            rings += closed
            ring_part += [len(owner)] * len(closed)
            owner.append(i)
    if not rings:
        return _Gathered(np.zeros(0, dtype=object), np.zeros(0, np.int64))
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    lines = shapely.linearrings(np.concatenate(rings), indices=ring_of)
    polygons = shapely.polygons(lines, indices=np.array(ring_part))
    return _Gathered(polygons, np.array(owner, dtype=np.int64))


def _near_parts(shapes: Shapes, outlines: Outlines, row: int, window: Window) -> list[Part]:
    near = outlines.near(shapes, row, window)
    if not len(near.ring):
        return []
    numbers, first = np.unique(near.ring, return_index=True)
    rings = dict(zip(numbers.tolist(), np.split(near.xy, first[1:]), strict=True))
    # Rings are counted from the annotation's first.
    bounds = shapes.part_rings[shapes.annot_parts[row] : shapes.annot_parts[row + 1] + 1]
    part = np.searchsorted(bounds - bounds[0], list(rings), side="right") - 1
    exterior = (bounds - bounds[0]).tolist()
    parts: dict[int, list[Ring]] = {}
    for (number, ring), p in zip(rings.items(), part.tolist(), strict=True):
        # A hole comes after its exterior; where that has nothing near the window, neither has the part.
        if number == exterior[p]:
            parts[p] = [ring]
        elif p in parts:
            parts[p].append(ring)
    return [tuple(some) for some in parts.values()]


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


def _to_parts(polygons: _Geometries) -> list[Part]:
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    parts: list[list[Ring]] = [[] for _ in range(len(polygons))]
    ends = np.cumsum(np.bincount(ring, minlength=len(rings))).tolist()
    for i, (start, end) in zip(polygon.tolist(), pairwise([0, *ends]), strict=True):
        # The last point repeats the first.
        parts[i].append(xy[start : end - 1])
    return [tuple(some) for some in parts]
