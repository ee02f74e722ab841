"""``Nested``: polygons of several annotations end to end, and as the tuples that a sample carries."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.spans import ragged_arange
from slidesampler.models import Part
from slidesampler.shapes import Shapes

__all__ = ["Nested", "whole_polygons"]


class Nested(NamedTuple):
    """Rings of the parts of some annotations, end to end.

    Parameters
    ----------
    xy : float64 (vertices, 2)
    lengths : int64 (rings,)
        Vertices of each ring; not closed.
    part : int64 (rings,)
        Part of each ring, counted from 0; ascending. The first ring of a part is its exterior.
    owner : int64 (parts,)
        Which annotation each part is of.
    """

    xy: NDArray[np.float64]
    lengths: NDArray[np.int64]
    part: NDArray[np.int64]
    owner: NDArray[np.int64]

    def put_into(self, annots: list[list[Part]]) -> None:
        """Append every part to the list of its annotation."""
        ends = np.cumsum(self.lengths).tolist()
        rings = [self.xy[a:b] for a, b in pairwise([0, *ends])]
        if len(rings) == len(self.owner):
            for ring, owner in zip(rings, self.owner.tolist(), strict=True):
                annots[owner].append((ring,))
            return
        first = np.searchsorted(self.part, np.arange(len(self.owner) + 1)).tolist()
        for (a, b), owner in zip(pairwise(first), self.owner.tolist(), strict=True):
            annots[owner].append(tuple(rings[a:b]))


def whole_polygons(shapes: Shapes, rows: NDArray[np.int64], owner: NDArray[np.int64]) -> Nested:
    """Return the polygons of some annotations as they are; ``owner`` says which annotation each row is."""
    part0, part1 = shapes.annot_parts[rows], shapes.annot_parts[rows + 1]
    ring0, ring1 = shapes.part_rings[part0], shapes.part_rings[part1]
    first, last = shapes.ring_vertices[ring0], shapes.ring_vertices[ring1]
    xy = shapes.vertices[ragged_arange(first, last)]
    if len(rows) == int((ring1 - ring0).sum()):
        return Nested(xy, last - first, np.arange(len(rows)), owner)
    parts, rings = ragged_arange(part0, part1), ragged_arange(ring0, ring1)
    return Nested(
        xy,
        shapes.ring_vertices[rings + 1] - shapes.ring_vertices[rings],
        np.repeat(np.arange(len(parts)), shapes.part_rings[parts + 1] - shapes.part_rings[parts]),
        np.repeat(owner, part1 - part0),
    )
