"""``AnnotIndex``: which annotations of an image touch a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.outlines import Outlines
from slidesampler.geometry import Window
from slidesampler.shape_index import TOP_ANNOTS, BoxTree, ShapeIndex, encode_window, index_shapes
from slidesampler.shapes import Shapes

__all__ = ["AnnotIndex"]


class AnnotIndex:
    """Spatial index over the annotations of one image: a view of the columns of a :class:`ShapeIndex`.

    Made in microseconds where a manifest has the columns. Without them they are made for this image, which
    takes a second for a million annotations.

    Parameters
    ----------
    shapes : Shapes
        Annotations of one image. Boxes that are not finite are never found.
    packed : ShapeIndex, optional
        Of all images, as a manifest has it.
    image : int
        Row of the image in ``packed``.
    first : int
        Row of the image's first annotation among those of all images.

    Notes
    -----
    Up to 512 annotations are compared one and all; more lie in a packed tree, 36 bytes an annotation, where a
    window compares 64 boxes for each node it touches. Immutable, so threads may share it.
    """

    def __init__(
        self, shapes: Shapes, packed: ShapeIndex | None = None, image: int = 0, first: int = 0
    ) -> None:
        if packed is None:
            packed = index_shapes(shapes, np.array([0, len(shapes)]))
            image = first = 0
        self._count = len(shapes)
        begin, end = packed.image_trees[image], packed.image_trees[image + 1]
        self._tree = BoxTree(packed.trees[begin:end], self._count, TOP_ANNOTS)
        self._rows = packed.tree_rows[first : first + self._count]
        #: Whether any annotation is keypoints alone.
        self.has_keypoints = bool(packed.has_keypoints[image])
        #: Where the edges of long polygons lie.
        self.outlines = Outlines(packed, image)

    def __len__(self) -> int:
        return self._count

    def query(self, window: Window) -> NDArray[np.int64]:
        """Return the annotations whose half-open box shares area with the window.

        A box without area (a single keypoint) is found where its top-left corner lies in the window; the points
        on the right and bottom border of the box of keypoints count as inside that box.

        Parameters
        ----------
        window : Window
            Level-0 pixels; may overhang the image.

        Returns
        -------
        ndarray of int64, shape (k,)
            Rows of the shapes, ascending.
        """
        found = self._tree.find(encode_window(*window.as_xyxy()))
        if not self._tree.levels:
            # These are in the order of their rows.
            return found
        rows = self._rows[found].astype(np.int64)
        rows.sort()
        return rows

    def candidates(self, window: Window) -> NDArray[np.int64]:
        """Return the annotations that :meth:`query` compares with the window, in no particular order.

        Their number is what a query costs, besides at most 512 boxes at the top of the tree and 64 for each
        node on the way down.
        """
        if not self._tree.levels:
            return np.arange(self._count, dtype=np.int64)
        nodes = self._tree.nodes(encode_window(*window.as_xyxy()))
        lanes = self._tree.levels[-1].shape[2]
        places = (nodes[:, None] * lanes + np.arange(lanes)).ravel()
        rows: NDArray[np.int64] = self._rows[places[places < self._count]].astype(np.int64)
        return rows
