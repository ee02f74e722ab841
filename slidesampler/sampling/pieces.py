"""What a window must hold to hold an object: one rectangle, or for a large object several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.tiles import tile_shape, trimmed_boxes
from slidesampler.models import NO_CATEGORY
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.snap import can_be_held, cut_lines, in_places
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["Frames", "LeftOut", "Pieces", "cut_into_pieces"]

_Ints = NDArray[np.int64]


class LeftOut(NamedTuple):
    """An annotation that no window was made for.

    Parameters
    ----------
    annot_id, image_id : int
    reason : str
        ``"no class"``: without category, or one that stands for the background or for ignored pixels;
        ``"empty"``: no area; ``"outside the image"``: none of it inside; ``"max_windows"``: not held by as many
        windows as were asked for.
    """

    annot_id: int
    image_id: int
    reason: str


class Pieces(NamedTuple):
    """Objects of some images, as rectangles that windows must hold; those of an image next to each other.

    Parameters
    ----------
    boxes : int64 (n, 4)
        ``(y0, x0, y1, x1)``, half-open, inside the image, none larger than a window.
    image : int64 (n,)
        Position of the image of each.
    object : int64 (n,)
        Position of the object of each; ascending.
    annot_ids, object_image : int64 (objects,)
        Annotation of each object, and the position of its image.
    left_out : tuple of LeftOut
        Annotations that are no object.
    """

    boxes: _Ints
    image: _Ints
    object: _Ints
    annot_ids: _Ints
    object_image: _Ints
    left_out: tuple[LeftOut, ...]


class Frames(NamedTuple):
    """Images, and the windows that may be cut from each; all int64 ``(images, 2)``, level-0 pixels, ``(y, x)``.

    Parameters
    ----------
    sizes : of the image
    extents : of a window
    steps
        Windows start at multiples of these, see :mod:`slidesampler.sampling.snap`; 1 for anywhere.
    """

    sizes: _Ints
    extents: _Ints
    steps: _Ints

    def places(self, image: int, boxes: _Ints) -> tuple[_Ints, tuple[int, int], tuple[int, int]]:
        """Return boxes, extent and length as :func:`cover_rectangles` takes them, counted in places.

        Parameters
        ----------
        image : int
            Position of the image.
        boxes : int64 (n, 4)
            ``(y0, x0, y1, x1)``, each held by one of the image's windows at least.
        """
        y, x = (
            in_places(boxes[:, axis], boxes[:, axis + 2], *(int(column[image, axis]) for column in self))
            for axis in (0, 1)
        )
        return np.stack([y.low, x.low, y.high, x.high], 1), (y.extent, x.extent), (y.length, x.length)


class _Columns(NamedTuple):
    """Annotations that were asked for, of all images."""

    image: _Ints
    row: _Ints  # of its image
    annot_ids: _Ints
    boxes: NDArray[np.float64]  # (n, 4), xyxy
    areas: NDArray[np.float64]
    kinds: NDArray[np.uint8]


def cut_into_pieces(
    sampler: SourceSampler,
    image_ids: Sequence[int],
    frames: Frames,
    wanted: frozenset[int] | None,
    min_fraction: float,
) -> Pieces:
    """Return the objects of images as rectangles to be held.

    Parameters
    ----------
    sampler : SourceSampler
    image_ids : sequence of int
    frames : Frames
        Of these images.
    wanted : frozenset of int, or None
        Categories; all that are drawn as a class where None.
    min_fraction : float
        In ``(0, 1]``. An object whose box fits into a window, wherever windows may start, is one piece, and a
        window that holds the piece holds that fraction of the object's area. Any other is cut into tiles that
        each fit into one, equal ones where windows may start anywhere; the tiles that hold least of it are left
        away as long as the others hold that fraction.
    """
    slices = [sampler.manifest.shapes_of(image_id) for image_id in image_ids]
    columns, left_out = _objects(sampler, image_ids, slices, wanted)
    # Whole pixels, cut to the image. The box of keypoints holds its right and lower border.
    closed = (columns.kinds == ShapeKind.KEYPOINTS)[:, None]
    low = np.floor(columns.boxes[:, 1::-1]).astype(np.int64)
    high = columns.boxes[:, :1:-1]
    high = np.where(closed, np.floor(high) + 1, np.ceil(high)).astype(np.int64)
    size, extent, step = (column[columns.image] for column in frames)
    # A polygon whose lobes cancel out has an area of 0 and pixels all the same; its tiles tell.
    within = ((low >= 0) & (high <= size)).all(axis=1) & ((columns.areas > 0) | closed[:, 0])
    boxes = np.concatenate([np.maximum(low, 0), np.minimum(high, size)], axis=1)
    inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    fits = can_be_held(boxes[:, :2], boxes[:, 2:], size, extent, step).all(axis=1)
    simple = np.flatnonzero(inside & within & fits)
    if min_fraction < 1:
        boxes[simple] = _trimmed(slices, columns, simple, (1 - min_fraction) / 2)
    found = [(simple, boxes[simple])]
    for one in np.flatnonzero(inside & ~(within & fits)).tolist():
        shapes, row = slices[columns.image[one]], int(columns.row[one])
        low_y, low_x, high_y, high_x = boxes[one].tolist()
        y, x = zip(size[one].tolist(), extent[one].tolist(), step[one].tolist(), strict=True)
        lines = cut_lines(low_y, high_y, *y), cut_lines(low_x, high_x, *x)
        tiles = _tiles(shapes, row, lines, min_fraction)
        inside[one] = len(tiles) > 0
        found.append((np.full(len(tiles), one), tiles))
    left_out += [
        LeftOut(
            int(columns.annot_ids[one]),
            image_ids[columns.image[one]],
            "outside the image" if columns.areas[one] > 0 or closed[one, 0] else "empty",
        )
        for one in np.flatnonzero(~inside).tolist()
    ]
    owner = np.concatenate([which for which, _ in found])
    order = np.argsort(owner, kind="stable")
    owner, boxes = owner[order], np.concatenate([some for _, some in found])[order]
    objects = np.flatnonzero(inside)
    return Pieces(
        boxes=boxes,
        image=columns.image[owner],
        object=np.searchsorted(objects, owner),
        annot_ids=columns.annot_ids[objects],
        object_image=columns.image[objects],
        left_out=tuple(left_out),
    )


def _objects(
    sampler: SourceSampler, image_ids: Sequence[int], slices: Sequence[Shapes], wanted: frozenset[int] | None
) -> tuple[_Columns, list[LeftOut]]:
    """Return the annotations that are asked for and have an area, and those of no class or no area."""
    counts = [len(shapes) for shapes in slices]
    image = np.repeat(np.arange(len(slices)), counts)
    columns = _Columns(
        image,
        np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts),
        *(
            np.concatenate([getattr(shapes, name) for shapes in slices])
            for name in ("annot_ids", "boxes_xyxy", "areas", "kinds")
        ),
    )
    categories = np.concatenate([shapes.category_ids for shapes in slices])
    present, inverse = np.unique(categories, return_inverse=True)
    classes = sampler.class_map
    useful = np.array([classes.index_of(one) not in (0, classes.ignore) for one in present.tolist()], np.bool_)
    asked = np.array([wanted is None or one in wanted for one in present.tolist()], np.bool_)
    # With categories to choose from, those that were not named are nobody's concern.
    no_class = np.array(
        [
            not ok and (wanted is None or one == NO_CATEGORY)
            for one, ok in zip(present.tolist(), useful.tolist(), strict=True)
        ],
        np.bool_,
    )
    chosen = (useful & asked)[inverse]
    finite = np.isfinite(columns.boxes).all(axis=1)
    has_area = finite & ((columns.areas > 0) | (columns.kinds == ShapeKind.KEYPOINTS))
    has_area |= finite & (columns.kinds == ShapeKind.POLYGON)
    left_out = [
        LeftOut(int(columns.annot_ids[one]), image_ids[columns.image[one]], reason)
        for reason, rows in (("no class", no_class[inverse]), ("empty", chosen & ~has_area))
        for one in np.flatnonzero(rows).tolist()
    ]
    kept = chosen & has_area
    return _Columns(*(column[kept] for column in columns)), left_out


def _trimmed(slices: Sequence[Shapes], columns: _Columns, some: _Ints, share: float) -> _Ints:
    """Return the part of each annotation's box that a window must hold, image by image."""
    if not len(some):
        return np.zeros((0, 4), np.int64)
    firsts = np.flatnonzero(np.diff(columns.image[some], prepend=-1))
    return np.concatenate(
        [
            trimmed_boxes(slices[columns.image[rows[0]]], columns.row[rows], share)
            for rows in np.split(some, firsts[1:])
        ]
    )


def _tiles(shapes: Shapes, row: int, lines: tuple[_Ints, _Ints], min_fraction: float) -> _Ints:
    """Return the tiles of one object, between lines, that together hold a fraction of it."""
    boxes, areas = tile_shape(shapes, row, *lines)
    if min_fraction == 1 or not len(areas):
        return boxes
    order = np.argsort(-areas, kind="stable")
    # So many that their sum is enough, but for rounding.
    enough = min_fraction * areas.sum() * (1 - 1e-12)
    needed = int(np.searchsorted(np.cumsum(areas[order]), enough)) + 1
    return boxes[np.sort(order[:needed])]
