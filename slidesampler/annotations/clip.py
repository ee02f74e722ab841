"""Annotations of a window as a sample carries them: relative, clipped, with their visible share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.index import AnnotIndex
from slidesampler.annotations.labels import class_indices
from slidesampler.annotations.nesting import Nested, whole_polygons
from slidesampler.annotations.polyclip import clip_polygons
from slidesampler.annotations.rle import rle_count
from slidesampler.annotations.spans import ragged_arange
from slidesampler.geometry import Window
from slidesampler.models import Annots, ClassMap, Part
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["annots_in_window"]

#: numpy compares with a plain int several times faster than with an enum member.
POLYGON, RLE, BOX, KEYPOINTS = map(int, ShapeKind)


def annots_in_window(
    shapes: Shapes,
    index: AnnotIndex,
    class_map: ClassMap,
    window: Window,
    size: tuple[int, int],
    visible_threshold: float = 0.0,
) -> Annots:
    """Return the annotations that are visible in a window, in pixels of the sample.

    An annotation is kept if its visible share is above 0 and at least ``visible_threshold``. The share is the
    part of its area that lies in the window: exact for boxes (a product of lengths), RLE (foreground pixels)
    and polygons (exterior less holes, summed over the parts; where parts overlap the area counts twice, in the
    whole as in the window). So an annotation whose box reaches into the window while its shape does not is
    dropped, and one without area is never visible. Keypoints alone have no area: their share is that of the
    labelled points that lie in the window.

    Parameters
    ----------
    shapes, index
        Annotations of the image, and their index.
    class_map : ClassMap
    window : Window
        Level-0 pixels; may overhang the image.
    size : (int, int)
        ``(height, width)`` of the sample, which the window is scaled to.
    visible_threshold : float
        Share, 0 to 1.

    Returns
    -------
    Annots
        In the manifest's order. Boxes and keypoints are not clipped; polygons are.

    Raises
    ------
    ManifestError
        If an annotation's category is not in the class map.

    Notes
    -----
    Rings that cross themselves are read even-odd, as they are painted. For polygons of more than 256 vertices
    the whole area is the column ``areas``, so that a huge outline is not gone through for every window; where
    such an outline crosses itself the share is as good as that column.
    """
    rows = index.query(window)
    if not len(rows):
        return Annots.empty()
    boxes, kinds = shapes.boxes_xyxy[rows], shapes.kinds[rows]
    x0, y0, x1, y1 = boxes.T
    whole = (x0 >= window.x) & (y0 >= window.y) & (x1 <= window.x1) & (y1 <= window.y1)
    # Areas of 0 are looked at again below: a ring that crosses itself may have lobes that cancel out.
    whole &= shapes.areas[rows] > 0
    visible = whole.astype(np.float64)
    clipped = None
    if not whole.all():
        clipped = _measure_cut(shapes, index, rows, boxes, window, np.flatnonzero(~whole), visible)
    kept = (visible > 0) & (visible >= visible_threshold)
    scale = np.array([size[1] / window.width, size[0] / window.height])
    polygons: list[list[Part]] = [[] for _ in range(len(rows))]
    inside = np.flatnonzero(whole & kept & (kinds == POLYGON))
    for nested in (clipped, whole_polygons(shapes, rows[inside], inside) if len(inside) else None):
        if nested is not None:
            nested._replace(xy=_relative(nested.xy, window, scale)).put_into(polygons)
    rows = rows[kept]
    return Annots(
        annot_ids=shapes.annot_ids[rows],
        category_ids=shapes.category_ids[rows],
        class_index=class_indices(shapes, rows, class_map),
        boxes_xyxy=_relative(boxes[kept].reshape(-1, 2), window, scale).reshape(-1, 4),
        polygons=tuple(tuple(parts) for parts, keep in zip(polygons, kept.tolist(), strict=True) if keep),
        keypoints=_relative_keypoints(shapes, rows, window, scale),
        visible=visible[kept],
    )


def _relative(xy: NDArray[np.float64], window: Window, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    moved: NDArray[np.float64] = (xy - (window.x, window.y)) * scale
    return moved


def _relative_keypoints(
    shapes: Shapes, rows: NDArray[np.int64], window: Window, scale: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    first, last = shapes.annot_keypoints[rows], shapes.annot_keypoints[rows + 1]
    if not (last > first).any():
        return (np.zeros((0, 3)),) * len(rows)
    moved = shapes.keypoints[ragged_arange(first, last)]
    moved[:, :2] = _relative(moved[:, :2], window, scale)
    ends = np.cumsum(last - first).tolist()
    return tuple(moved[a:b] for a, b in pairwise([0, *ends]))


def _measure_cut(
    shapes: Shapes,
    index: AnnotIndex,
    rows: NDArray[np.int64],
    boxes: NDArray[np.float64],
    window: Window,
    cut: NDArray[np.int64],
    visible: NDArray[np.float64],
) -> Nested | None:
    """Fill in the visible share of what is not wholly inside, and return what is seen of polygons."""
    kinds = shapes.kinds[rows[cut]]
    polygons = cut[kinds == POLYGON]
    if len(polygons) < len(cut):
        some = cut[kinds == BOX]
        visible[some] = _visible_boxes(boxes[some], window)
        for i in cut[kinds == RLE].tolist():
            visible[i] = _visible_runs(shapes, int(rows[i]), window)
        for i in cut[kinds == KEYPOINTS].tolist():
            visible[i] = _visible_points(shapes.points(int(rows[i])), window)
    if not len(polygons):
        return None
    visible[polygons], clipped = clip_polygons(shapes, index.outlines, rows[polygons], window)
    return clipped._replace(owner=polygons[clipped.owner])


def _visible_boxes(boxes: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    low = np.maximum(boxes[:, :2], (window.x, window.y))
    high = np.minimum(boxes[:, 2:], (window.x1, window.y1))
    inside = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    shares: NDArray[np.float64] = np.divide(inside, area, out=np.zeros(len(boxes)), where=area > 0)
    return shares


def _visible_runs(shapes: Shapes, row: int, window: Window) -> float:
    height = int(shapes.rle_heights[row])
    # The box of a mask is the bounds of its pixels: whole numbers, inside the mask.
    x0, y0, x1, y1 = shapes.boxes_xyxy[row].astype(int).tolist()
    y0, y1 = max(y0, window.y), min(y1, window.y1)
    x0, x1 = max(x0, window.x), min(x1, window.x1)
    area = float(shapes.areas[row])
    return rle_count(shapes.runs(row), height, y0, y1, x0, x1) / area if area > 0 else 0.0


def _visible_points(points: NDArray[np.float64], window: Window) -> float:
    x, y = points[points[:, 2] > 0, :2].T
    if not len(x):
        return 0.0
    return float(((x >= window.x) & (x < window.x1) & (y >= window.y) & (y < window.y1)).mean())
