"""Polygons cut to a window by GEOS, robust against rings that cross themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from slidesampler.annotations.polygons import vertex_counts
from slidesampler.geometry import Window
from slidesampler.models import Part, Ring
from slidesampler.shapes import Shapes

__all__ = ["clip_polygons"]

#: Polygons of at most this many vertices are looked at whole; of longer ones only what is near the window,
#: since checking 50,000 vertices for self-intersection takes a third of a second.
WHOLE_VERTICES = 256

_POLYGON = 3  # shapely's type id

_Geometries = NDArray[Any]  # of shapely geometries


class _Gathered(NamedTuple):
    """Polygons of some annotations, one for each part that may reach into the window."""

    polygons: _Geometries
    owner: NDArray[np.int64]  # position of the annotation of each polygon


def clip_polygons(
    shapes: Shapes, rows: NDArray[np.int64], window: Window
) -> tuple[NDArray[np.float64], list[tuple[Part, ...]]]:
    """Return what a window shows of some polygon annotations.

    Parameters
    ----------
    shapes : Shapes
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
    if not len(rows):
        return np.zeros(0), []
    long = vertex_counts(shapes, rows) > WHOLE_VERTICES
    gathered = _gather(shapes, rows, long, window)
    n = len(rows)
    area = np.bincount(gathered.owner, shapely.area(gathered.polygons), minlength=n)
    area[long] = shapes.areas[rows[long]]
    cut = shapely.intersection(gathered.polygons, shapely.box(*window.as_xyxy()))
    pieces, polygon = shapely.get_parts(cut, return_index=True)
    # A polygon that only touches the window leaves a line or a point there.
    piece_area = shapely.area(pieces)
    keep = (shapely.get_type_id(pieces) == _POLYGON) & (piece_area > 0)
    owner = gathered.owner[polygon[keep]]
    inside = np.bincount(owner, piece_area[keep], minlength=n)
    visible = np.divide(inside, area, out=(inside > 0).astype(float), where=area > 0)
    parts: list[list[Part]] = [[] for _ in range(n)]
    for i, part in zip(owner.tolist(), _to_parts(pieces[keep]), strict=True):
        parts[i].append(part)
    return np.minimum(visible, 1.0), [tuple(some) for some in parts]


def _gather(shapes: Shapes, rows: NDArray[np.int64], long: NDArray[np.bool_], window: Window) -> _Gathered:
    rings: list[Ring] = []
    ring_part: list[int] = []
    owner: list[int] = []
    for i, row in enumerate(rows.tolist()):
        for part in shapes.parts(row):
            near = [_near(ring, window) for ring in part] if long[i] else list(part)
            if len(near[0]) < 3:
                continue
            # A hole of less than three points near the window takes nothing away there.
            near = [ring for ring in near if len(ring) >= 3]
            rings += near
            ring_part += [len(owner)] * len(near)
            owner.append(i)
    if not rings:
        return _Gathered(np.zeros(0, dtype=object), np.zeros(0, np.int64))
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    lines = shapely.linearrings(np.concatenate(rings), indices=ring_of)
    polygons = shapely.polygons(lines, indices=np.array(ring_part))
    for bad in np.flatnonzero(~shapely.is_valid(polygons)).tolist():
        polygons[bad] = _even_odd(polygons[bad])
    return _Gathered(polygons, np.array(owner, dtype=np.int64))


def _near(ring: Ring, window: Window) -> Ring:
    """Return a shorter ring that is the same inside the window.

    Where consecutive vertices all lie to the left of the window (or right, above, below), the path between the
    first and the last of them may be any path on that side without changing what the ring winds around in the
    window: the straight one is taken.
    """
    x, y = ring.T
    side = np.select([x <= window.x, x >= window.x1, y <= window.y, y >= window.y1], [1, 2, 3, 4], 0)
    same = (side != 0) & (side == np.roll(side, 1)) & (side == np.roll(side, -1))
    short: Ring = ring[~same]
    return short


def _even_odd(polygon: Any) -> Any:
    """Return the valid geometry of a polygon whose rings cross themselves or each other."""
    # "linework" keeps what a ring encloses an odd number of times, which is how it is painted.
    rings = shapely.make_valid(shapely.polygons(shapely.get_rings(polygon)), method="linework")
    return shapely.difference(rings[0], shapely.union_all(rings[1:]))


def _to_parts(polygons: _Geometries) -> list[Part]:
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    parts: list[list[Ring]] = [[] for _ in range(len(polygons))]
    cuts = np.flatnonzero(np.diff(ring)) + 1
    for i, closed in zip(polygon.tolist(), np.split(xy, cuts), strict=True):
        parts[i].append(closed[:-1])
    return [tuple(some) for some in parts]
