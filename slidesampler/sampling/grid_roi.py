"""Regions of interest as a user gives them: words for annotations, polygons, or both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidesampler.errors import TargetError
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import Word, categories_of
from slidesampler.sampling.grid_regions import ShapeRegion
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["Polygons", "Roi", "parse_roi", "shapes_of_polygons"]

#: Polygons by image id. A polygon is ``(n, 2)`` of ``(x, y)``, or a sequence of such: the exterior, then holes.
Polygons: TypeAlias = Mapping[int, Sequence[ArrayLike | Sequence[ArrayLike]]]
#: Words for the categories whose annotations are the regions, polygons, or an iterable of both.
Roi: TypeAlias = Word | Polygons | Iterable[Word | Polygons]


def parse_roi(sampler: SourceSampler, roi: Roi) -> ShapeRegion:
    """Return the region that a user's words and polygons mean: the union of them all.

    Raises
    ------
    TargetError
        For a word or an image that the manifest has not, a polygon that is none, or nothing at all.
    """
    given = [roi] if isinstance(roi, str | SupportsIndex | Mapping) else list(roi)
    if not given:
        raise TargetError("roi is empty: name a category, give polygons, or leave it out")
    categories: set[int] = set()
    polygons: dict[int, list[Any]] = {}
    for one in given:
        if isinstance(one, Mapping):
            for image_id, some in one.items():
                polygons.setdefault(int(image_id), []).extend(some)
            continue
        found = categories_of(sampler, one)
        if not found:
            raise TargetError(f"roi {one!r} is a class that no annotation has; regions are annotations")
        categories.update(found)
    unknown = polygons.keys() - set(sampler.image_ids)
    if unknown:
        raise TargetError(f"roi has polygons of images that are not in the manifest: {sorted(unknown)[:5]}")
    return ShapeRegion(
        tuple(sorted(categories)),
        {image_id: shapes_of_polygons(some, image_id) for image_id, some in polygons.items() if some},
    )


def shapes_of_polygons(
    polygons: Sequence[ArrayLike | Sequence[ArrayLike]], image_id: int | None = None
) -> Shapes:
    """Return polygons as columns.

    Parameters
    ----------
    polygons : sequence
        Each is a ring, ``(n, 2)`` of ``(x, y)`` in level-0 pixels, or a sequence of rings: the exterior, then
        its holes.
    image_id : int, optional
        For messages.

    Raises
    ------
    TargetError
        If a ring has not at least three finite points.

    Examples
    --------
    >>> square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    >>> hole = [(1, 1), (2, 1), (2, 2), (1, 2)]
    >>> shapes_of_polygons([square, [square, hole]]).boxes_xyxy.tolist()
    [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]]
    """
    parts = [_rings(polygon, image_id) for polygon in polygons]
    n = len(parts)
    exteriors = [part[0] for part in parts]
    rings = [ring for part in parts for ring in part]
    nothing = np.zeros(n + 1, np.int64)
    return replace(
        Shapes.empty(),
        annot_ids=np.arange(n),
        category_ids=np.zeros(n, np.int64),
        kinds=np.full(n, ShapeKind.POLYGON, np.uint8),
        boxes_xyxy=np.array([(*ring.min(axis=0), *ring.max(axis=0)) for ring in exteriors]).reshape(-1, 4),
        areas=np.zeros(n),
        rle_heights=np.zeros(n, np.int64),
        annot_parts=np.arange(n + 1),
        part_rings=np.cumsum([0] + [len(part) for part in parts]),
        ring_vertices=np.cumsum([0] + [len(ring) for ring in rings]),
        vertices=np.concatenate(rings) if rings else np.zeros((0, 2)),
        annot_runs=nothing,
        annot_keypoints=nothing,
    )


def _rings(polygon: Any, image_id: int | None) -> list[NDArray[np.float64]]:
    """Return the exterior and the holes of a polygon."""
    try:
        # A ring is a sequence of pairs, a polygon with holes a sequence of those.
        flat = np.ndim(polygon[0]) == 1
        rings = [np.asarray(ring, np.float64) for ring in ([polygon] if flat else polygon)]
    except (TypeError, ValueError, IndexError, KeyError):
        rings = []
    if not rings or any(
        ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not np.isfinite(ring).all() for ring in rings
    ):
        raise TargetError(
            f"a polygon of image {image_id} is not at least three finite points (x, y), nor a sequence of such "
            "rings, exterior first"
        )
    return rings
