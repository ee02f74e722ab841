"""Shapes of annotations, poured into flat arrays one by one and checked all at once."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.manifest.fields import COORDINATE_LIMIT, FieldFault, RowFault, plain, short
from slidesampler.manifest.keypoints import flat_keypoints
from slidesampler.manifest.rings import check_coordinates, open_rings, ring_areas, ring_bounds
from slidesampler.manifest.rle import Rle, parse_rle, run_table
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["Collector"]

_PAIRS = {2}
_FORMS = (
    "must be a polygon ({'exterior': [[x, y], ...], 'interiors': [...]}, a list of such, [x, y, x, y, ...], "
    "a list of such, or [[x, y], ...]) or an RLE ({'counts': ..., 'size': [height, width]})"
)


class Collector:
    """Takes annotations one at a time, then gives their columns.

    What the offsets mean is said in :class:`~slidesampler.shapes.Shapes`.
    """

    def __init__(self) -> None:
        self._kinds = bytearray()
        self._coordinates = array("d")
        self._ring_ends = array("q", [0])
        self._part_rings = array("q", [0])
        self._annot_parts = array("q", [0])
        self._masks: list[Rle] = []
        self._mask_rows = array("q")
        self._boxes = array("d")
        self._box_rows = array("q")
        self._keypoints = array("d")
        self._annot_keypoints = array("q", [0])

    def add(self, annot: Mapping[str, Any], image_size: tuple[int | None, int | None]) -> None:
        """Take one annotation.

        Parameters
        ----------
        annot : mapping
            Of its ``segmentation``, ``bbox`` and ``keypoints`` the first one is its shape.
        image_size : (int or None, int or None)
            ``(height, width)`` as far as known.

        Raises
        ------
        FieldFault
            If there is none of the three, or one has a form that is not understood.
        """
        kind = None
        segmentation = annot.get("segmentation")
        if segmentation is not None:
            kind = self._add_segmentation(segmentation, image_size)
        box = plain(annot.get("bbox"))
        if box is not None and box != []:
            self._add_box(box)
            kind = ShapeKind.BOX if kind is None else kind
        keypoints = annot.get("keypoints")
        if keypoints is not None:
            flat = flat_keypoints(keypoints)
            self._keypoints.extend(flat)
            if kind is None and len(flat):
                kind = ShapeKind.KEYPOINTS
        if kind is None:
            raise FieldFault(
                "segmentation", "is missing or empty, and so are bbox and keypoints; give it a shape"
            )
        self._kinds.append(kind)
        self._annot_parts.append(len(self._part_rings) - 1)
        self._annot_keypoints.append(len(self._keypoints) // 3)

    def _add_segmentation(
        self, segmentation: Any, image_size: tuple[int | None, int | None]
    ) -> ShapeKind | None:
        is_object = isinstance(segmentation, (dict, Mapping))
        if isinstance(segmentation, (str, bytes)) or (is_object and "counts" in segmentation):
            self._masks.append(parse_rle(segmentation, image_size))
            self._mask_rows.append(len(self._kinds))
            return ShapeKind.RLE
        if is_object:
            self._add_part(segmentation)
            return ShapeKind.POLYGON
        segmentation = plain(segmentation)
        if not isinstance(segmentation, (list, tuple)):
            raise FieldFault("segmentation", f"{_FORMS}, found {short(segmentation)}")
        if not segmentation:
            return None
        if _is_ring(segmentation):
            self._add_part({"exterior": segmentation})
            return ShapeKind.POLYGON
        for part in segmentation:
            self._add_part(part if isinstance(part, (dict, Mapping)) else {"exterior": part})
        return ShapeKind.POLYGON

    def _add_part(self, part: Mapping[str, Any]) -> None:
        if "exterior" not in part:
            raise FieldFault("segmentation", f"{_FORMS}, found {short(part)}")
        self._add_ring(part["exterior"])
        holes = plain(part.get("interiors"))
        if holes is not None and holes != []:
            if not isinstance(holes, (list, tuple)):
                raise FieldFault("segmentation.interiors", f"must be a list of rings, found {short(holes)}")
            for hole in holes:
                self._add_ring(hole)
        self._part_rings.append(len(self._ring_ends) - 1)

    def _add_ring(self, ring: Any) -> None:
        ring = plain(ring)
        if not isinstance(ring, (list, tuple)):
            raise FieldFault("segmentation", f"{_FORMS}, found {short(ring)} for a ring")
        try:
            if ring and hasattr(ring[0], "__len__"):
                if set(map(len, ring)) != _PAIRS:
                    raise FieldFault("segmentation", f"must have rings of [x, y] pairs, found {short(ring)}")
                self._coordinates.extend(chain.from_iterable(ring))
            else:
                if len(ring) % 2:
                    raise FieldFault("segmentation", f"has a ring x, y, x, y, ... of {len(ring)} numbers")
                self._coordinates.extend(ring)
        except (TypeError, OverflowError):
            raise FieldFault(
                "segmentation", f"must have numbers for coordinates, found {short(ring)}"
            ) from None
        if len(self._coordinates) % 2:
            # Something of length 2 that does not give 2 numbers: no JSON, but an object of the caller's.
            raise FieldFault("segmentation", f"must have rings of [x, y] pairs, found {short(ring)}")
        self._ring_ends.append(len(self._coordinates) // 2)

    def _add_box(self, box: Any) -> None:
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise FieldFault("bbox", f"must be [x, y, width, height], found {short(box)}")
        try:
            self._boxes.extend(box)
        except (TypeError, OverflowError):
            raise FieldFault("bbox", f"must be four numbers, found {short(box)}") from None
        self._box_rows.append(len(self._kinds))

    def shapes(self, annot_ids: NDArray[np.int64], category_ids: NDArray[np.int64]) -> Shapes:
        """Return the columns of everything taken.

        Parameters
        ----------
        annot_ids, category_ids : int64 (n,)
            Of the annotations, in the order they were taken.

        Raises
        ------
        RowFault
            For the first annotation found with coordinates that are not finite, a ring or box without area,
            or runs that do not add up.
        """
        count = len(self._kinds)
        boxes, areas = np.zeros((count, 4)), np.zeros(count)
        kinds = np.array(self._kinds, np.uint8)
        self._fill_boxes(kinds, boxes, areas)
        keypoints = np.array(self._keypoints, np.float64).reshape(-1, 3)
        annot_keypoints = np.array(self._annot_keypoints, np.int64)
        check_coordinates(keypoints, annot_keypoints, "keypoints")
        _fill_keypoints(kinds, boxes, keypoints, annot_keypoints)
        vertices, rings = self._fill_polygons(boxes, areas)
        mask_rows = np.array(self._mask_rows, np.int64)
        try:
            runs = run_table(self._masks)
        except RowFault as fault:
            raise RowFault(int(mask_rows[fault.row]), fault.field, fault.problem) from None
        boxes[mask_rows], areas[mask_rows] = runs.boxes_xyxy, runs.areas
        run_counts, heights = np.zeros(count, np.int64), np.zeros(count, np.int64)
        run_counts[mask_rows] = np.diff(runs.offsets)
        heights[mask_rows] = [mask.height for mask in self._masks]
        return Shapes(
            annot_ids=annot_ids,
            category_ids=category_ids,
            kinds=kinds,
            boxes_xyxy=boxes,
            areas=areas,
            annot_parts=np.array(self._annot_parts, np.int64),
            part_rings=np.array(self._part_rings, np.int64),
            ring_vertices=rings,
            vertices=vertices,
            annot_runs=np.concatenate([[0], np.cumsum(run_counts)]).astype(np.int64),
            run_ends=runs.ends,
            rle_heights=heights,
            annot_keypoints=annot_keypoints,
            keypoints=keypoints,
        )

    def _fill_boxes(
        self, kinds: NDArray[np.uint8], boxes: NDArray[np.float64], areas: NDArray[np.float64]
    ) -> None:
        """Check every bbox, and fill in those that are an annotation's shape."""
        given = np.array(self._boxes, np.float64).reshape(-1, 4)
        rows = np.array(self._box_rows, np.int64)
        with np.errstate(invalid="ignore", over="ignore"):
            xyxy = np.hstack([given[:, :2], given[:, :2] + given[:, 2:]])
            good = (np.abs(given) <= COORDINATE_LIMIT).all(axis=1) & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        if not good.all():
            worst = int(np.argmin(good))
            found = ", ".join(f"{value:g}" for value in given[worst])
            raise RowFault(
                int(rows[worst]),
                "bbox",
                f"must be finite [x, y, width, height] with width and height above 0, found [{found}]",
            )
        is_shape = kinds[rows] == ShapeKind.BOX
        boxes[rows[is_shape]] = xyxy[is_shape]
        areas[rows[is_shape]] = given[is_shape, 2] * given[is_shape, 3]

    def _fill_polygons(
        self, boxes: NDArray[np.float64], areas: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Check every ring, fill in bounds and areas, and return the vertices and the offsets of the rings."""
        part_rings = np.array(self._part_rings, np.int64)
        annot_parts = np.array(self._annot_parts, np.int64)
        vertices = np.array(self._coordinates, np.float64).reshape(-1, 2)
        rings = np.array(self._ring_ends, np.int64)
        try:
            check_coordinates(vertices, rings, "")
            vertices, rings = open_rings(vertices, rings)
            ring_area = ring_areas(vertices, rings)
        except RowFault as fault:
            part = int(np.searchsorted(part_rings, fault.row, "right")) - 1
            row = int(np.searchsorted(annot_parts, part, "right")) - 1
            hole = fault.row - int(part_rings[part])
            name = f"hole {hole}" if hole else "the exterior"
            problem = f"(part {part - int(annot_parts[row]) + 1}): {name} {fault.problem}"
            raise RowFault(row, "segmentation", problem) from None
        if not len(ring_area):
            return vertices, rings
        exteriors = part_rings[:-1]
        signed = -ring_area
        signed[exteriors] = ring_area[exteriors]
        part_area = np.maximum(np.add.reduceat(signed, exteriors), 0)
        parts_each = np.diff(annot_parts)
        some = np.flatnonzero(parts_each)
        starts = annot_parts[some]
        areas[some] = np.add.reduceat(part_area, starts)
        # Holes cannot reach beyond their exterior's bounds, or mark nothing there.
        bounds = ring_bounds(vertices, rings)[exteriors]
        boxes[some, :2] = np.minimum.reduceat(bounds[:, :2], starts, axis=0)
        boxes[some, 2:] = np.maximum.reduceat(bounds[:, 2:], starts, axis=0)
        return vertices, rings


def _is_ring(segmentation: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether a list is one ring, ``x, y, x, y, ...`` or ``[x, y]`` pairs, and not several."""
    first = plain(segmentation[0])
    if isinstance(first, (list, tuple)):
        # A ring of two numbers would be a point, so lists of two numbers are the points of one ring.
        return len(first) == 2 and not any(isinstance(value, (list, tuple, Mapping)) for value in first)
    return not isinstance(first, Mapping)


def _fill_keypoints(
    kinds: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    keypoints: NDArray[np.float64],
    offsets: NDArray[np.int64],
) -> None:
    """Fill in the bounds of annotations that are keypoints alone: of those points that are labelled."""
    for row in np.flatnonzero(kinds == ShapeKind.KEYPOINTS).tolist():
        points = keypoints[offsets[row] : offsets[row + 1]]
        labelled = points[points[:, 2] > 0, :2]
        if not len(labelled):
            raise RowFault(
                row, "keypoints", "has no labelled point (visibility above 0), and there is no other shape"
            )
        boxes[row] = [*labelled.min(axis=0), *labelled.max(axis=0)]
