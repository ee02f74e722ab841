"""Annotations -> :class:`~slidesampler.shapes.Shapes`.

A hundred thousand polygons are two million pairs of Python floats. They are poured into flat arrays as they are
met, one call a ring (:mod:`~slidesampler.manifest.collector`), and checked afterwards all at once; only an
offender is looked up again, to be named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ManifestError
from slidesampler.manifest.collector import Collector
from slidesampler.manifest.columns import ImageTable
from slidesampler.manifest.fields import FieldFault, RowFault, int64, rows_of
from slidesampler.models import NO_CATEGORY
from slidesampler.shapes import Shapes

__all__ = ["read_annotations"]


class _Header(NamedTuple):
    """Ids of the annotations in the order of their images, and where each stands in the manifest.

    ``order`` are positions in ``rows``; the columns go by that order.
    """

    rows: Sequence[Mapping[str, Any]]
    order: NDArray[np.int64]
    annot_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    image_rows: NDArray[np.int64]


def read_annotations(
    data: Mapping[str, Any], images: ImageTable, category_ids: Sequence[int]
) -> tuple[Shapes, NDArray[np.int64]]:
    """Return the annotations of a manifest, sorted by image, and the rows of each image.

    Parameters
    ----------
    data : mapping
        The manifest.
    images : ImageTable
    category_ids : sequence of int
        The categories there are.

    Returns
    -------
    Shapes
        Annotations by the row of their image, then as the manifest has them.
    int64 (images + 1,)
        Offsets of each image's annotations.

    Raises
    ------
    ManifestError
        Names the annotation and the field: an id that is there twice or no integer, an unknown image or
        category, a shape that cannot be read, encloses nothing, or does not fit the image.
    """
    header = _read_header(rows_of(data, "annotations"), images, category_ids)
    collector = Collector()
    sizes = [(h if h > 0 else None, w if w > 0 else None) for h, w in images.sizes.tolist()]
    image_rows = header.image_rows.tolist()
    row = -1
    try:
        for row, position in enumerate(header.order.tolist()):
            collector.add(header.rows[position], sizes[image_rows[row]])
        shapes = collector.shapes(header.annot_ids, header.category_ids)
    except FieldFault as fault:
        at = fault.row if isinstance(fault, RowFault) else row
        raise _error(header, images, at, fault) from None
    offsets = np.zeros(len(images.image_ids) + 1, np.int64)
    np.cumsum(np.bincount(header.image_rows, minlength=len(images.image_ids)), out=offsets[1:])
    return shapes, offsets


def _error(header: _Header, images: ImageTable, row: int, fault: FieldFault) -> ManifestError:
    annot_id = int(header.annot_ids[row])
    image_id = int(images.image_ids[header.image_rows[row]])
    return ManifestError(
        f"annotation {annot_id} (image {image_id}): {fault.field} {fault.problem}",
        image_id=image_id,
        annot_id=annot_id,
        field=fault.field,
    )


def _read_header(rows: Sequence[Mapping[str, Any]], images: ImageTable, category_ids: Sequence[int]) -> _Header:
    row_of_image = {image_id: row for row, image_id in enumerate(images.image_ids.tolist())}
    categories = set(category_ids)
    seen: dict[int, int] = {}
    image_rows: list[int] = []
    own_categories: list[int] = []
    for position, row in enumerate(rows):
        where, annot_id, image_id = f"annotations[{position}]", None, None
        try:
            annot_id = int64(row.get("id"), "id")
            where = f"annotation {annot_id}"
            if annot_id in seen:
                problem = f"is that of annotations[{seen[annot_id]}] and of annotations[{position}]"
                raise FieldFault("id", f"{problem}; give each its own")
            seen[annot_id] = position
            image_id = int64(row.get("image_id"), "image_id")
            if image_id not in row_of_image:
                raise FieldFault(
                    "image_id", f"{image_id} is that of no image; add the image or drop the annotation"
                )
            category = row.get("category_id")
            category_id = NO_CATEGORY if category is None else int64(category, "category_id")
            if category is not None and category_id not in categories:
                raise FieldFault(
                    "category_id",
                    f"{category_id} is that of no category; add the category, or say null for none",
                )
        except FieldFault as fault:
            raise ManifestError(
                f"{where}: {fault.field} {fault.problem}",
                image_id=image_id,
                annot_id=annot_id,
                field=fault.field,
            ) from None
        image_rows.append(row_of_image[image_id])
        own_categories.append(category_id)
    by_row = np.array(image_rows, np.int64)
    order = np.argsort(by_row, kind="stable").astype(np.int64)
    return _Header(
        rows,
        order,
        np.array(list(seen), np.int64)[order],
        np.array(own_categories, np.int64)[order],
        by_row[order],
    )
