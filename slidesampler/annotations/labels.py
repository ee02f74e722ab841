"""Annotations to class and instance masks; the one code path for the label layer and for masks on the fly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.index import AnnotIndex
from slidesampler.annotations.rasterize import paint
from slidesampler.errors import ManifestError
from slidesampler.geometry import Window
from slidesampler.models import NO_CATEGORY, ClassMap, LabelSpec, Overlap
from slidesampler.shapes import Shapes

__all__ = ["class_indices", "instance_block", "label_block", "map_category_raster", "paint_order"]

#: No class index is negative, so this marks raster values that no category has.
UNKNOWN = -1


def class_indices(shapes: Shapes, rows: NDArray[np.int64], class_map: ClassMap) -> NDArray[np.int64]:
    """Return the class index of some annotations, int64 ``(len(rows),)``; *ignore* for those without category.

    Raises
    ------
    ManifestError
        If an annotation's category is not in the class map; names the annotation.
    """
    category_ids = shapes.category_ids[rows].tolist()
    try:
        return np.array([class_map.index_of(category_id) for category_id in category_ids], dtype=np.int64)
    except KeyError as error:
        category_id = error.args[0]
        annot_id = int(shapes.annot_ids[rows[category_ids.index(category_id)]])
        raise ManifestError(
            f"annotation {annot_id} has category_id {category_id}, which the class map does not have "
            f"(it has {sorted(class_map.category_to_index)}); add the category to the manifest",
            annot_id=annot_id,
            field="category_id",
        ) from None


def paint_order(
    shapes: Shapes, class_index: NDArray[np.int64], rows: NDArray[np.int64], overlap: Overlap
) -> NDArray[np.int64]:
    """Return the rows in the order in which they are painted: later ones win.

    Parameters
    ----------
    shapes : Shapes
    class_index : int64 (len(rows),)
        Class index of each of ``rows``; only ``"class"`` looks at it.
    rows : int64 (k,)
        Annotations, ascending.
    overlap : {"last", "first", "smallest", "largest", "class"}
        Who wins; see :class:`slidesampler.models.LabelSpec`. Ties are won by the later row, and an annotation
        without category gives way to every one that has a category.

    Returns
    -------
    ndarray of int64, shape (k,)
        A permutation of ``rows``. The order of two annotations does not depend on the others, so blocks that
        see different annotations agree on every pixel.
    """
    if overlap == "first":
        strength: NDArray[Any] = -rows
    elif overlap == "smallest":
        strength = -shapes.areas[rows]
    elif overlap == "largest":
        strength = shapes.areas[rows]
    elif overlap == "class":
        strength = class_index
    else:
        strength = rows
    # The last key of lexsort is the strongest.
    order: NDArray[np.int64] = rows[np.lexsort((rows, strength, shapes.category_ids[rows] != NO_CATEGORY))]
    return order


def label_block(
    shapes: Shapes,
    index: AnnotIndex,
    class_map: ClassMap,
    spec: LabelSpec,
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    base: NDArray[Any] | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Return the class index of some pixels of an image.

    The base raster, then the annotations in paint order over it, then *ignore* where ``valid`` is False. A
    pixel's value depends on the pixel alone, not on the block it is asked in or on the spacing.

    Parameters
    ----------
    shapes, index
        Annotations of the image, and their index.
    class_map : ClassMap
    spec : LabelSpec
        Overlap order and keypoint radius.
    ys, xs : int64 (h,), (w,)
        Level-0 pixels, ascending, inside the image, of any spacing.
    base : ndarray, shape (h, w), optional
        Class index per pixel under the annotations (see :func:`map_category_raster`); 0 where None.
    valid : bool (h, w), optional
        All True where None.

    Returns
    -------
    ndarray, shape (h, w)
        Of ``class_map.dtype``; a new array.

    Raises
    ------
    ManifestError
        If an annotation's category is not in the class map.
    """
    if base is None:
        out = np.zeros((len(ys), len(xs)), dtype=class_map.dtype)
    else:
        out = np.array(base, dtype=class_map.dtype, order="C")
    rows, class_index = _rows_in_order(shapes, index, class_map, spec, ys, xs)
    paint(out, shapes, rows, class_index, ys, xs, spec.keypoint_radius_px, index.outlines)
    if valid is not None:
        out[~valid] = class_map.ignore
    return out


def instance_block(
    shapes: Shapes,
    index: AnnotIndex,
    class_map: ClassMap,
    spec: LabelSpec,
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Return which annotation owns each pixel: 1 + its row, 0 where there is none or the pixel is invalid.

    The owner of a pixel is the annotation whose class :func:`label_block` gives it, annotations without
    category and those of the background class included. Parameters as there.
    """
    out = np.zeros((len(ys), len(xs)), dtype=np.uint32)
    rows, _ = _rows_in_order(shapes, index, class_map, spec, ys, xs)
    paint(out, shapes, rows, rows + 1, ys, xs, spec.keypoint_radius_px, index.outlines)
    if valid is not None:
        out[~valid] = 0
    return out


def map_category_raster(raster: NDArray[Any], class_map: ClassMap) -> NDArray[Any]:
    """Return the class index of every pixel of a raster of category ids.

    Parameters
    ----------
    raster : ndarray of integers, shape (h, w)
        Category id per pixel, 0 = background.
    class_map : ClassMap

    Returns
    -------
    ndarray, shape (h, w)
        Of ``class_map.dtype``.

    Raises
    ------
    ManifestError
        If a value is neither 0 nor a category id of the manifest, or the raster is not of integers.

    Examples
    --------
    >>> classes = ClassMap(("background", "tumour"), {7: 1})
    >>> map_category_raster(np.array([[0, 7]], np.uint8), classes).tolist()
    [[0, 1]]
    """
    if raster.dtype.kind not in "uib":
        raise ManifestError(
            f"a label raster holds category ids, whole numbers; this one is {raster.dtype}. "
            "Save it with an integer type",
            field="labels",
        )
    known = {**class_map.category_to_index, 0: 0}
    if raster.dtype.itemsize <= 2:
        info = np.iinfo(raster.dtype) if raster.dtype.kind != "b" else np.iinfo(np.uint8)
        table = np.full(info.max - info.min + 1, UNKNOWN, dtype=np.int32)
        for category_id, class_index in known.items():
            if info.min <= category_id <= info.max:
                # A negative id counts from the end of the table, as a negative pixel does below.
                table[category_id] = class_index
        mapped = table[raster.astype(np.intp)]
    else:
        ids = np.array(sorted(known), dtype=np.int64)
        place = np.minimum(np.searchsorted(ids, raster), len(ids) - 1)
        indices = np.array([known[category_id] for category_id in ids.tolist()], dtype=np.int32)
        mapped = np.where(ids[place] == raster, indices[place], UNKNOWN)
    unknown = mapped == UNKNOWN
    if unknown.any():
        values = np.unique(raster[unknown])
        raise ManifestError(
            f"the label raster holds {', '.join(map(str, values[:8].tolist()))}"
            f"{' and others' if len(values) > 8 else ''}, but the manifest's category ids are "
            f"{sorted(class_map.category_to_index)} (and 0 is background); add the category or mend the raster",
            field="labels",
        )
    return mapped.astype(class_map.dtype)


def _rows_in_order(
    shapes: Shapes,
    index: AnnotIndex,
    class_map: ClassMap,
    spec: LabelSpec,
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the annotations that may mark a pixel of the block, in paint order, and their class indices."""
    if not len(ys) or not len(xs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    window = Window(int(ys[0]), int(xs[0]), int(ys[-1] - ys[0]) + 1, int(xs[-1] - xs[0]) + 1)
    if index.has_keypoints and spec.keypoint_radius_px:
        reach = int(np.ceil(spec.keypoint_radius_px))
        window = window.grow(reach, reach, reach, reach)
    rows = index.query(window)
    class_index = class_indices(shapes, rows, class_map)
    ordered = paint_order(shapes, class_index, rows, spec.overlap)
    return ordered, class_index[np.searchsorted(rows, ordered)]
