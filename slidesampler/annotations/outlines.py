"""``Outlines``: where the edges of long polygons lie, so that a window looks at those near it only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.shape_index import FAN_OUT, STRETCH, TOP_STRETCHES, BoxTree, ShapeIndex, encode_window
from slidesampler.shapes import Shapes

__all__ = ["NearRings", "Outlines"]


class NearRings(NamedTuple):
    """Rings of one annotation, shortened to what matters in a window; end to end.

    Parameters
    ----------
    vertices : int64 (k,)
        Rows of the shapes' ``vertices``; ascending.
    rings : int64 (k,)
        Ring of each, a row of the shapes' ``ring_vertices``; ascending, with gaps where nothing is left.
    """

    vertices: NDArray[np.int64]
    rings: NDArray[np.int64]


class Outlines:
    """Trees over the stretches of the polygons that have more than 256 vertices.

    The outline of a region traced at full resolution can have 100,000 vertices, of which a window meets a few
    dozen. A stretch is 64 edges.

    Parameters
    ----------
    packed : ShapeIndex
    image : int
        Row of the image in it.
    """

    def __init__(self, packed: ShapeIndex, image: int) -> None:
        # Slices of this image alone: they are all that a pickle takes along.
        first, last = packed.image_longs[image], packed.image_longs[image + 1]
        self._rows = packed.long_rows[first:last]
        self._starts = packed.long_outlines[first : last + 1]
        self._trees = packed.outlines[self._starts[0] : self._starts[-1]]

    def __contains__(self, row: int) -> bool:
        return bool(self.include(np.array([row]))[0])

    def include(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say of which annotations there is an outline here, bool ``(len(rows),)``."""
        if not len(self._rows):
            return np.zeros(len(rows), dtype=bool)
        place = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        found: NDArray[np.bool_] = self._rows[place] == rows
        return found

    def near(self, shapes: Shapes, row: int, x0: float, y0: float, x1: float, y1: float) -> NearRings:
        """Return shorter rings that wind around every point of a window as those of a long polygon do.

        Where consecutive vertices all lie to the left of the window (or right, above, below), the path between
        the first and the last of them may be any path on that side without changing what the ring winds around
        in the window: the straight one is taken. Of what lies wholly on one side, be it a stretch or thousands
        of them, one vertex is looked at.

        Parameters
        ----------
        shapes : Shapes
        row : int
            Annotation; must be in the outlines.
        x0, y0, x1, y1 : float
            The window, level-0 coordinates.
        """
        first_ring = int(shapes.part_rings[shapes.annot_parts[row]])
        last_ring = int(shapes.part_rings[shapes.annot_parts[row + 1]])
        bounds = shapes.ring_vertices[first_ring : last_ring + 1]
        vertices = bounds[0] + self._vertices_near(row, bounds, encode_window(x0, y0, x1, y1))
        ring = np.searchsorted(bounds[1:], vertices, side="right")
        side = _sides(shapes.vertices[vertices], x0, y0, x1, y1)
        # Neighbours within the ring, which is closed.
        before, after = np.concatenate((side[-1:], side[:-1])), np.concatenate((side[1:], side[:1]))
        if len(bounds) > 2:
            changes = np.flatnonzero(ring[1:] != ring[:-1])
            begins, ends = np.append(0, changes + 1), np.append(changes, len(ring) - 1)
            before[begins], after[ends] = side[ends], side[begins]
        keep = (side == 0) | (side != before) | (side != after)
        return NearRings(vertices[keep], first_ring + ring[keep])

    def _vertices_near(
        self, row: int, bounds: NDArray[np.int64], window: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the vertices of stretches near a window and one of each far piece, counted from 0."""
        starts, place = self._starts, int(np.searchsorted(self._rows, row))
        count = int(bounds[-1] - bounds[0])
        flat = self._trees[starts[place] - starts[0] : starts[place + 1] - starts[0]]
        tree = BoxTree(flat, -(-count // STRETCH), TOP_STRETCHES)
        edges = STRETCH * FAN_OUT ** len(tree.levels)
        hit = np.logical_and.reduce(tree.top < window, axis=0)
        numbers = np.arange(len(hit))
        found = []
        for level in tree.levels:
            found.append(_starts(numbers[~hit] * edges, edges, bounds, count))
            edges //= FAN_OUT
            near = numbers[hit]
            hit = np.logical_and.reduce(level[near] < window, axis=1).ravel()
            numbers = (near[:, None] * FAN_OUT + np.arange(FAN_OUT)).ravel()
            # The last node of a level has fewer children.
            inside = numbers * edges < count
            hit, numbers = hit[inside], numbers[inside]
        found.append(_starts(numbers[~hit] * edges, edges, bounds, count))
        near = (numbers[hit, None] * edges + np.arange(edges)).ravel()
        found.append(near[near < count])
        vertices = np.concatenate(found)
        vertices.sort()
        return vertices


def _starts(starts: NDArray[np.int64], edges: int, bounds: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the vertices that stand for pieces of so many edges: where a piece starts, and its last ring.

    The rings between lie wholly in it, and wind around nothing.
    """
    if len(bounds) == 2:
        return starts
    last = np.minimum(starts + edges, count) - 1 + bounds[0]
    ring_start = bounds[np.searchsorted(bounds, last, side="right") - 1] - bounds[0]
    return np.concatenate([starts, ring_start[ring_start > starts]])


def _sides(xy: NDArray[np.float64], x0: float, y0: float, x1: float, y1: float) -> NDArray[np.int8]:
    """Say where points lie from a window: 1 left, 2 right, 3 above, 4 below, the first that holds; else 0."""
    x, y = xy.T
    side = np.zeros(len(xy), dtype=np.int8)
    side[y >= y1] = 4
    side[y <= y0] = 3
    side[x >= x1] = 2
    side[x <= x0] = 1
    return side
