"""``Shapes``: the geometry of many annotations as flat numpy columns.

Python objects for a million polygons cost gigabytes and minutes; these columns are loaded at once, sliced in
O(1), memory-mapped by workers, and hold what every other room needs of an annotation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from slidesampler.models import Part

__all__ = ["ShapeKind", "Shapes"]


class ShapeKind(IntEnum):
    """What an annotation's pixels are made from; the first of these that it has."""

    POLYGON = 0
    RLE = 1
    BOX = 2
    KEYPOINTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Columns of ``n`` annotations, in the manifest's order within an image.

    Ragged columns are offsets into the next array: row ``i`` of ``annots -> parts`` is
    ``annot_parts[i]:annot_parts[i + 1]``. Offsets need not begin at 0 and the arrays they point into may be
    longer than the rows need, so a slice of annotations shares them all.

    Parameters
    ----------
    annot_ids, category_ids : int64 (n,)
        ``models.NO_CATEGORY`` where ``category_id`` is null.
    kinds : uint8 (n,)
        A :class:`ShapeKind`.
    boxes_xyxy : float64 (n, 4)
        Half-open; bounds of the shape, level-0 pixels.
    areas : float64 (n,)
        Square pixels: of the parts less their holes, of the RLE's runs, of the box; 0 for keypoints.
    annot_parts : int64 (n + 1,)
    part_rings : int64 (parts + 1,)
    ring_vertices : int64 (rings + 1,)
    vertices : float64 (vertices, 2)
        ``(x, y)``, level-0 pixels, rings not closed. The first ring of a part is its exterior, the others are
        holes.
    annot_runs : int64 (n + 1,)
        Into ``run_ends``.
    run_ends : int64 (runs,)
        Cumulative ends of an RLE's runs in *column-major* order, the first run being background: pixel
        ``(y, x)`` is at position ``x * rle_heights[i] + y``.
    rle_heights : int64 (n,)
        Height of the image that the RLE was made for; 0 for the others.
    annot_keypoints : int64 (n + 1,)
    keypoints : float64 (keypoints, 3)
        ``(x, y, visibility)``; visibility as in COCO: 0 not labelled, 1 hidden, 2 visible.
    """

    annot_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float64]
    areas: NDArray[np.float64]
    annot_parts: NDArray[np.int64]
    part_rings: NDArray[np.int64]
    ring_vertices: NDArray[np.int64]
    vertices: NDArray[np.float64]
    annot_runs: NDArray[np.int64]
    run_ends: NDArray[np.int64]
    rle_heights: NDArray[np.int64]
    annot_keypoints: NDArray[np.int64]
    keypoints: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.annot_ids)

    def rows(self, start: int, stop: int) -> Shapes:
        """Return annotations ``[start, stop)``; shares memory, costs the same however many there are."""
        changes: dict[str, NDArray[np.generic]] = {name: getattr(self, name)[start:stop] for name in _PER_ANNOT}
        changes.update({name: getattr(self, name)[start : stop + 1] for name in _PER_ANNOT_OFFSETS})
        return replace(self, **changes)  # type: ignore[arg-type]

    def parts(self, row: int) -> tuple[Part, ...]:
        """Return the polygon parts of one annotation, level-0 pixels; empty where it is no polygon."""
        return tuple(
            tuple(
                self.vertices[self.ring_vertices[ring] : self.ring_vertices[ring + 1]]
                for ring in range(self.part_rings[part], self.part_rings[part + 1])
            )
            for part in range(self.annot_parts[row], self.annot_parts[row + 1])
        )

    def runs(self, row: int) -> NDArray[np.int64]:
        """Return the run ends of one annotation's RLE; empty where it has none."""
        return self.run_ends[self.annot_runs[row] : self.annot_runs[row + 1]]

    def points(self, row: int) -> NDArray[np.float64]:
        """Return the keypoints of one annotation, ``(k, 3)``."""
        return self.keypoints[self.annot_keypoints[row] : self.annot_keypoints[row + 1]]

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return every column by name, for saving; ``Shapes(**columns)`` is the inverse."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def empty(cls) -> Shapes:
        """Return columns of no annotation."""

        def ints(n: int) -> NDArray[np.int64]:
            return np.zeros(n, np.int64)

        return cls(
            annot_ids=ints(0),
            category_ids=ints(0),
            kinds=np.zeros(0, np.uint8),
            boxes_xyxy=np.zeros((0, 4)),
            areas=np.zeros(0),
            annot_parts=ints(1),
            part_rings=ints(1),
            ring_vertices=ints(1),
            vertices=np.zeros((0, 2)),
            annot_runs=ints(1),
            run_ends=ints(0),
            rle_heights=ints(0),
            annot_keypoints=ints(1),
            keypoints=np.zeros((0, 3)),
        )


_PER_ANNOT = ("annot_ids", "category_ids", "kinds", "boxes_xyxy", "areas", "rle_heights")
_PER_ANNOT_OFFSETS = ("annot_parts", "annot_runs", "annot_keypoints")
