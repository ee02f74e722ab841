"""``ShapeIndex``: where the annotations of every image lie, as flat columns that are mapped and never rebuilt.

Two kinds of packed trees over boxes, one of the annotations of each image and one of the stretches of each long
outline, in one layout (:class:`BoxTree`). What is done at the opening of a manifest does not depend on how many
annotations there are, and processes that map the same file share the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["BoxTree", "ShapeIndex", "encode_window", "index_shapes"]

#: Boxes under one node. A comparison of so many takes numpy no longer than one of few.
FAN_OUT = 64
#: So many boxes are compared one and all, without a tree over them.
TOP_ANNOTS = 512
TOP_STRETCHES = 64
#: Polygons of more vertices than this have a tree over their outline; others are faster gone through whole.
LONG_POLYGON = 256
#: Consecutive edges of an outline that are one box of its tree.
STRETCH = 64
#: Sizes in pixels that part the annotations of an image: a node holds annotations of similar size, or else a
#: few large ones would stretch every node over most of the image.
SIZE_CLASSES = 16.0 * 4.0 ** np.arange(14)

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ShapeIndex:
    """Columns of ``n`` images with ``a`` annotations, ``l`` of them long polygons.

    Parameters
    ----------
    image_trees : int64 (n + 1,)
        Into ``trees``.
    trees : float64
        A :class:`BoxTree` over the annotations of each image.
    tree_rows : int32 (a,)
        Of each box of a tree the annotation, counted from the image's first. Ascending where an image has at
        most ``TOP_ANNOTS`` annotations.
    has_keypoints : uint8 (n,)
        Whether any annotation is keypoints alone.
    image_longs : int64 (n + 1,)
        Into ``long_rows``.
    long_rows : int64 (l,)
        Annotations of more than ``LONG_POLYGON`` vertices, counted from the image's first; ascending.
    long_outlines : int64 (l + 1,)
        Into ``outlines``.
    outlines : float64
        A :class:`BoxTree` over the stretches of each of them: ``STRETCH`` edges, an edge having the number of
        its first vertex, whatever ring it is of.
    """

    image_trees: _Ints
    trees: _Floats
    tree_rows: NDArray[np.int32]
    has_keypoints: NDArray[np.uint8]
    image_longs: _Ints
    long_rows: _Ints
    long_outlines: _Ints
    outlines: _Floats


class BoxTree:
    """A packed tree over boxes, level by level in one array.

    A box is stored as ``(x0, y0, -x1, -y1)``, so that touching a window is four comparisons of one direction
    and the bounds of many boxes are four minima. Every node has ``FAN_OUT`` children, the last of a level
    fewer: where a child lies follows from its number, and a level is compared in one sweep of numpy over the
    nodes that were hit above. Source: S. T. Leutenegger et al., "STR: a simple and efficient algorithm for
    R-tree packing", ICDE 1997.

    Parameters
    ----------
    flat : float64 (t,)
        As :func:`pack_boxes` made it.
    count : int
        How many boxes.
    top : int
        Up to so many are compared one and all.

    Attributes
    ----------
    top : float64 (4, k)
        The highest level.
    levels : list of float64 (nodes, 4, FAN_OUT)
        The levels below it, the boxes themselves last; infinite where a node has no such child.
    """

    __slots__ = ("levels", "top")

    def __init__(self, flat: _Floats, count: int, top: int) -> None:
        sizes = _level_sizes(count, top)
        at = 4 * sizes[-1]
        self.top: _Floats = flat[:at].reshape(4, sizes[-1])
        self.levels: list[_Floats] = []
        for nodes in reversed(sizes[1:]):
            end = at + 4 * FAN_OUT * nodes
            self.levels.append(flat[at:end].reshape(nodes, 4, FAN_OUT))
            at = end

    def nodes(self, window: _Floats) -> _Ints:
        """Return the nodes of the lowest level that share area with a window (see ``encode_window``)."""
        hit: _Ints = np.logical_and.reduce(self.top < window, axis=0).nonzero()[0]
        for level in self.levels[:-1]:
            hit = _children(level, hit, window)
        return hit

    def find(self, window: _Floats) -> _Ints:
        """Return the numbers of the boxes that share area with a window, ascending."""
        hit = self.nodes(window)
        return _children(self.levels[-1], hit, window) if self.levels else hit


def _children(level: _Floats, hit: _Ints, window: _Floats) -> _Ints:
    node, lane = np.logical_and.reduce(level[hit] < window, axis=1).nonzero()
    found: _Ints = hit[node] * level.shape[2] + lane
    return found


def encode_window(x0: float, y0: float, x1: float, y1: float) -> _Floats:
    """Return a window as trees compare it, float64 ``(4, 1)``."""
    return np.array(((x1,), (y1,), (-x0,), (-y0,)), np.float64)


def pack_boxes(boxes: _Floats, top: int) -> _Floats:
    """Return the tree over boxes ``(4, n)``, stored as they are in it, in this order."""
    blocks = []
    level = boxes
    while level.shape[1] > top:
        nodes = -(-level.shape[1] // FAN_OUT)
        padded = np.full((4, nodes * FAN_OUT), np.inf)
        padded[:, : level.shape[1]] = level
        padded = padded.reshape(4, nodes, FAN_OUT)
        blocks.append(padded.transpose(1, 0, 2))
        level = padded.min(axis=2)
    blocks.append(level)
    return np.concatenate([block.ravel() for block in reversed(blocks)])


def _level_sizes(count: int, top: int) -> list[int]:
    """Return how many boxes or nodes each level has, the boxes first."""
    sizes = [count]
    while sizes[-1] > top:
        sizes.append(-(-sizes[-1] // FAN_OUT))
    return sizes


def index_shapes(shapes: Shapes, image_annots: _Ints) -> ShapeIndex:
    """Return the index of some images.

    Parameters
    ----------
    shapes : Shapes
        Annotations sorted by image.
    image_annots : int64 (images + 1,)
        Rows of ``shapes`` that belong to each image.
    """
    trees, image_trees, tree_rows = _annotation_trees(shapes, image_annots)
    keypoints = np.concatenate(([0], np.cumsum(shapes.kinds == int(ShapeKind.KEYPOINTS))))
    first = shapes.ring_vertices[shapes.part_rings[shapes.annot_parts]]
    longs = np.flatnonzero(np.diff(first) > LONG_POLYGON)
    outlines = [_outline(shapes, row) for row in longs.tolist()]
    image_longs = np.searchsorted(longs, image_annots).astype(np.int64)
    return ShapeIndex(
        image_trees=image_trees,
        trees=trees,
        tree_rows=tree_rows,
        has_keypoints=(np.diff(keypoints[image_annots]) > 0).astype(np.uint8),
        image_longs=image_longs,
        long_rows=longs - np.repeat(image_annots[:-1], np.diff(image_longs)),
        long_outlines=np.cumsum([0, *(len(one) for one in outlines)], dtype=np.int64),
        outlines=np.concatenate([np.zeros(0), *outlines]),
    )


# Trees over the annotations of an image ---------------------------------------------------------------------


def _annotation_trees(shapes: Shapes, image_annots: _Ints) -> tuple[_Floats, _Ints, NDArray[np.int32]]:
    """Return the trees of all images end to end, where each begins, and the annotations in their order."""
    boxes = _touching_boxes(shapes)
    counts = np.diff(image_annots)
    large = np.flatnonzero(counts > TOP_ANNOTS)
    rows = np.arange(len(shapes), dtype=np.int64) - np.repeat(image_annots[:-1], counts)
    packed: dict[int, _Floats] = {}
    for image in large.tolist():
        own = slice(int(image_annots[image]), int(image_annots[image + 1]))
        order = _packing_order(boxes[:, own])
        rows[own] = order
        packed[image] = pack_boxes(boxes[:, own][:, order], TOP_ANNOTS)
    sizes = 4 * counts
    sizes[large] = [len(packed[image]) for image in large.tolist()]
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    trees = np.empty(int(starts[-1]))
    # Images without a level below the top, all at once: row k of an image's top begins k * count after it.
    small = np.repeat(counts <= TOP_ANNOTS, counts)
    place = np.repeat(starts[:-1], counts) + rows
    stride = np.repeat(counts, counts)
    for side in range(4):
        trees[(place + side * stride)[small]] = boxes[side, small]
    for image, tree in packed.items():
        trees[starts[image] : starts[image + 1]] = tree
    return trees, starts, rows.astype(np.int32)


def _touching_boxes(shapes: Shapes) -> _Floats:
    """Return boxes ``(4, n)`` as trees store them, such that a strict comparison finds what touches a window.

    A box without extent is found where it lies in the window, and points on the right and bottom border of the
    box of keypoints count as inside: there ``x1 >= x`` is wanted, which is ``nextafter(x1) > x``.
    """
    x0, y0, x1, y1 = shapes.boxes_xyxy.T
    closed = shapes.kinds == int(ShapeKind.KEYPOINTS)
    boxes = np.empty((4, len(shapes)))
    boxes[0], boxes[1] = x0, y0
    boxes[2] = -np.where(closed | (x0 == x1), np.nextafter(x1, np.inf), x1)
    boxes[3] = -np.where(closed | (y0 == y1), np.nextafter(y1, np.inf), y1)
    boxes[:, ~np.isfinite(shapes.boxes_xyxy).all(axis=1)] = np.inf
    return boxes


def _packing_order(boxes: _Floats) -> _Ints:
    """Return the order of boxes in which consecutive ones lie close together and are of similar size.

    Each size class is cut into vertical slices of as many boxes as make about square nodes, and gone through up
    one slice and down the next.
    """
    x0, y0, x1, y1 = boxes[0], boxes[1], -boxes[2], -boxes[3]
    with np.errstate(invalid="ignore"):
        size = np.maximum(x1 - x0, y1 - y0)
        x, y = x0 + x1, y0 + y1
    group = np.searchsorted(SIZE_CLASSES, size)
    by_x = np.lexsort((x, group))
    numbers = np.bincount(group)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    width = FAN_OUT * np.ceil(np.sqrt(numbers / FAN_OUT)).astype(np.int64)
    piece = rank // np.repeat(np.maximum(width, 1), numbers)
    along = np.where(piece % 2 == 0, y[by_x], -y[by_x])
    order: _Ints = by_x[np.lexsort((along, piece, group[by_x]))]
    return order


# Trees over the stretches of an outline -----------------------------------------------------------------------


def _outline(shapes: Shapes, row: int) -> _Floats:
    first_ring = shapes.part_rings[shapes.annot_parts[row]]
    last_ring = shapes.part_rings[shapes.annot_parts[row + 1]]
    bounds = shapes.ring_vertices[first_ring : last_ring + 1]
    xy = shapes.vertices[bounds[0] : bounds[-1]]
    # Where each edge ends: in the next vertex, or in the first of its ring.
    ends = np.arange(1, len(xy) + 1)
    some = bounds[1:] > bounds[:-1]
    ends[bounds[1:][some] - bounds[0] - 1] = bounds[:-1][some] - bounds[0]
    begins = np.arange(0, len(xy), STRETCH)
    low = np.minimum.reduceat(np.minimum(xy, xy[ends]), begins)
    high = np.maximum.reduceat(np.maximum(xy, xy[ends]), begins)
    return pack_boxes(np.concatenate([low.T, -high.T]), TOP_STRETCHES)
