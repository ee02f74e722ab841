"""``Outlines``: where the edges of long polygons lie, so that a window looks at those near it only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.spans import ragged_arange
from slidesampler.geometry import Window
from slidesampler.models import Ring
from slidesampler.shapes import Shapes

__all__ = ["NearRings", "Outlines"]

#: Polygons of more vertices than this are cut into stretches; others are faster gone through whole.
LONG_POLYGON = 256
#: Edges of a stretch.
STRETCH = 64


class NearRings(NamedTuple):
    """Rings of one annotation, shortened to what matters in a window; end to end.

    Parameters
    ----------
    xy : float64 (k, 2)
    ring : int64 (k,)
        Ring of each vertex, counted from the annotation's first; ascending, with gaps where nothing is left.
    """

    xy: Ring
    ring: NDArray[np.int64]


class _Stretches(NamedTuple):
    """Stretches of the edges of one annotation; an edge has the number of its first vertex."""

    start: NDArray[np.int64]  # first edge, counted from the annotation's first vertex
    stop: NDArray[np.int64]
    ring: NDArray[np.int64]  # counted from the annotation's first
    low: NDArray[np.float64]  # (stretches, 2), x and y
    high: NDArray[np.float64]


class Outlines:
    """Bounds of stretches of 64 consecutive edges of the polygons that have more than 256 vertices.

    The outline of a region traced at full resolution can have 100,000 vertices, of which a window meets a few
    dozen. Memory is one byte a vertex; building reads the vertices of long polygons once.

    Parameters
    ----------
    shapes : Shapes
        Annotations of one image.
    """

    def __init__(self, shapes: Shapes) -> None:
        first = shapes.ring_vertices[shapes.part_rings[shapes.annot_parts[:-1]]]
        last = shapes.ring_vertices[shapes.part_rings[shapes.annot_parts[1:]]]
        rows = np.flatnonzero(last - first > LONG_POLYGON)
        self._stretches = {row: _cut(shapes, row) for row in rows.tolist()}

    def __contains__(self, row: int) -> bool:
        return row in self._stretches

    def edges_across(self, row: int, y0: float, y1: float) -> NDArray[np.int64]:
        """Return the edges of a long polygon that may reach into the rows from ``y0`` to ``y1``.

        Parameters
        ----------
        row : int
            Annotation; must be in the outlines.
        y0, y1 : float
            Level-0 coordinates, both ends included.

        Returns
        -------
        ndarray of int64
            Numbers of their first vertices, counted from the annotation's first; ascending, whole stretches.
        """
        stretches = self._stretches[row]
        hit = (stretches.low[:, 1] <= y1) & (stretches.high[:, 1] >= y0)
        return ragged_arange(stretches.start[hit], stretches.stop[hit])

    def near(self, shapes: Shapes, row: int, window: Window) -> NearRings:
        """Return shorter rings that wind around every point of a window as those of a long polygon do.

        Where consecutive vertices all lie to the left of the window (or right, above, below), the path between
        the first and the last of them may be any path on that side without changing what the ring winds around
        in the window: the straight one is taken.

        Parameters
        ----------
        shapes : Shapes
        row : int
            Annotation; must be in the outlines.
        window : Window
        """
        stretches = self._stretches[row]
        # Of a stretch that lies wholly on one side its first vertex is enough: the next begins where it ends.
        far = _sides(stretches.low, stretches.high, window) > 0
        stop = np.where(far, stretches.start + 1, stretches.stop)
        vertices = ragged_arange(stretches.start, stop)
        ring = np.repeat(stretches.ring, stop - stretches.start)
        xy = shapes.vertices[_first_vertex(shapes, row) + vertices]
        side = _sides(xy, xy, window)
        # Neighbours within the ring, which is closed.
        first = np.flatnonzero(np.diff(ring, prepend=-1))
        last = np.append(first[1:], len(ring)) - 1
        before, after = np.arange(-1, len(ring) - 1), np.arange(1, len(ring) + 1)
        before[first], after[last] = last, first
        keep = (side == 0) | (side != side[before]) | (side != side[after])
        return NearRings(xy[keep], ring[keep])


def _first_vertex(shapes: Shapes, row: int) -> int:
    return int(shapes.ring_vertices[shapes.part_rings[shapes.annot_parts[row]]])


def _cut(shapes: Shapes, row: int) -> _Stretches:
    first_ring = shapes.part_rings[shapes.annot_parts[row]]
    last_ring = shapes.part_rings[shapes.annot_parts[row + 1]]
    bounds = shapes.ring_vertices[first_ring : last_ring + 1]
    xy = shapes.vertices[bounds[0] : bounds[-1]]
    ring_start, ring_stop = bounds[:-1] - bounds[0], bounds[1:] - bounds[0]
    count = -(-(ring_stop - ring_start) // STRETCH)
    ring = np.repeat(np.arange(len(count)), count)
    start = ring_start[ring] + STRETCH * ragged_arange(np.zeros_like(count), count)
    stop = np.minimum(start + STRETCH, ring_stop[ring])
    # The last edge of a stretch ends in the first vertex of the next one, or closes the ring.
    end = xy[np.where(stop < ring_stop[ring], stop, ring_start[ring])]
    low = np.minimum(np.minimum.reduceat(xy, start), end)
    high = np.maximum(np.maximum.reduceat(xy, start), end)
    return _Stretches(start, stop, ring, low, high)


def _sides(low: NDArray[np.float64], high: NDArray[np.float64], window: Window) -> NDArray[np.int8]:
    """Say where boxes lie from a window: 1 left, 2 right, 3 above, 4 below, the first that holds; else 0."""
    side = np.zeros(len(low), dtype=np.int8)
    side[low[:, 1] >= window.y1] = 4
    side[high[:, 1] <= window.y] = 3
    side[low[:, 0] >= window.x1] = 2
    side[high[:, 0] <= window.x] = 1
    return side
