"""Shapes made by hand, and slow, obvious ways to say which pixels they mark."""

from __future__ import annotations

from fractions import Fraction

import kwimage
import numpy as np
import shapely

from slidesampler import shape_index
from slidesampler.annotations import outlines
from slidesampler.models import NO_CATEGORY
from slidesampler.shapes import ShapeKind, Shapes


def polygon(*parts, category=1):
    """An annotation of parts; each part is a list of rings, the first its exterior."""
    parts = [[np.asarray(ring, dtype=float) for ring in part] for part in parts]
    everything = np.concatenate([ring for part in parts for ring in part])
    area = sum(even_odd_area(part) for part in parts)
    return {
        "kind": ShapeKind.POLYGON,
        "category": category,
        "parts": parts,
        "box": [*everything.min(0), *everything.max(0)],
        "area": area,
    }


def box(x0, y0, x1, y1, category=1):
    area = (x1 - x0) * (y1 - y0)
    return {"kind": ShapeKind.BOX, "category": category, "box": [x0, y0, x1, y1], "area": area}


def rle(mask, category=1):
    """A run-length encoded mask, encoded by kwimage."""
    mask = np.asarray(mask, dtype=np.uint8)
    counts = kwimage.Mask(mask, "c_mask").to_array_rle().data["counts"]
    ys, xs = np.nonzero(mask)
    bounds = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
    return {
        "kind": ShapeKind.RLE,
        "category": category,
        "runs": np.cumsum(counts),
        "height": mask.shape[0],
        "box": bounds,
        "area": float(mask.sum()),
        "mask": mask.astype(bool),
    }


def keypoints(*points, category=1):
    """``(x, y, visibility)`` each."""
    points = np.asarray(points, dtype=float).reshape(-1, 3)
    xy = points[points[:, 2] > 0, :2]
    return {
        "kind": ShapeKind.KEYPOINTS,
        "category": category,
        "points": points,
        "box": [*xy.min(0), *xy.max(0)],
        "area": 0.0,
    }


def make_shapes(annots):
    """Columns of annotations; annotation ids are 100, 101, ..."""
    offsets = {name: [0] for name in ("parts", "rings", "vertices", "runs", "points")}
    vertices, runs, points = [np.zeros((0, 2))], [np.zeros(0, np.int64)], [np.zeros((0, 3))]
    for annot in annots:
        for part in annot.get("parts", []):
            for ring in part:
                vertices.append(np.asarray(ring, dtype=float))
                offsets["vertices"].append(offsets["vertices"][-1] + len(ring))
            offsets["rings"].append(offsets["rings"][-1] + len(part))
        offsets["parts"].append(offsets["parts"][-1] + len(annot.get("parts", [])))
        runs.append(np.asarray(annot.get("runs", []), dtype=np.int64))
        offsets["runs"].append(offsets["runs"][-1] + len(runs[-1]))
        points.append(np.asarray(annot.get("points", np.zeros((0, 3))), dtype=float))
        offsets["points"].append(offsets["points"][-1] + len(points[-1]))
    category_ids = [NO_CATEGORY if a["category"] is None else a["category"] for a in annots]
    return Shapes(
        annot_ids=np.arange(100, 100 + len(annots)),
        category_ids=np.array(category_ids, dtype=np.int64),
        kinds=np.array([a["kind"] for a in annots], dtype=np.uint8),
        boxes_xyxy=np.array([a["box"] for a in annots], dtype=float).reshape(-1, 4),
        areas=np.array([a["area"] for a in annots], dtype=float),
        annot_parts=np.array(offsets["parts"]),
        part_rings=np.array(offsets["rings"]),
        ring_vertices=np.array(offsets["vertices"]),
        vertices=np.concatenate(vertices),
        annot_runs=np.array(offsets["runs"]),
        run_ends=np.concatenate(runs),
        rle_heights=np.array([a.get("height", 0) for a in annots], dtype=np.int64),
        annot_keypoints=np.array(offsets["points"]),
        keypoints=np.concatenate(points),
    )


def even_odd_area(part):
    """Area of exterior less holes, each even-odd, by GEOS."""
    rings = [shapely.make_valid(shapely.Polygon(ring), method="linework") for ring in part]
    return shapely.difference(rings[0], shapely.union_all(rings[1:])).area


def ring_holds(ring, x, y):
    """Whether a ring winds around a point an odd number of times, in exact arithmetic, half-open on ties."""
    odd = False
    for (xa, ya), (xb, yb) in zip(ring, [*ring[1:], ring[0]], strict=True):
        xa, ya, xb, yb = (Fraction(float(v)) for v in (xa, ya, xb, yb))
        if min(ya, yb) <= y < max(ya, yb) and xa + (y - ya) * (xb - xa) / (yb - ya) <= x:
            odd = not odd
    return odd


def marks(annot, y, x, radius=0.0):
    """Whether an annotation marks pixel (y, x)."""
    yc, xc = Fraction(2 * int(y) + 1, 2), Fraction(2 * int(x) + 1, 2)
    if annot["kind"] == ShapeKind.POLYGON:
        return any(
            ring_holds(list(part[0]), xc, yc) and not any(ring_holds(list(hole), xc, yc) for hole in part[1:])
            for part in annot["parts"]
        )
    if annot["kind"] == ShapeKind.RLE:
        return bool(annot["mask"][y, x])
    if annot["kind"] == ShapeKind.BOX:
        x0, y0, x1, y1 = annot["box"]
        return x0 <= xc < x1 and y0 <= yc < y1
    return any(
        (np.hypot(float(xc) - px, float(yc) - py) <= radius) or (np.floor(px) == x and np.floor(py) == y)
        for px, py, visibility in annot["points"]
        if visibility > 0
    )


def raster(annot, ys, xs, radius=0.0):
    """Which pixels an annotation marks, bool ``(len(ys), len(xs))``."""
    return np.array([[marks(annot, y, x, radius) for x in xs] for y in ys], dtype=bool).reshape(
        len(ys), len(xs)
    )


def small_trees(patch):
    """Every polygon gets an outline, and trees have several levels."""
    patch.setattr(shape_index, "LONG_POLYGON", 0)
    for module in (shape_index, outlines):
        patch.setattr(module, "STRETCH", 2)
        patch.setattr(module, "FAN_OUT", 2)
        patch.setattr(module, "TOP_STRETCHES", 3)
