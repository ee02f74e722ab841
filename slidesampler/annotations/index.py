"""``AnnotIndex``: which annotations of an image touch a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations.outlines import Outlines
from slidesampler.annotations.spans import ragged_arange
from slidesampler.geometry import Window
from slidesampler.shapes import ShapeKind, Shapes

__all__ = ["AnnotIndex"]

#: Up to this many annotations are compared one and all: that takes a few microseconds, a look-up takes thirty.
BRUTE_FORCE_MAX = 256
#: Cell sizes in pixels. An annotation lies in the level whose cells are just large enough for its box.
CELL_SIZES = 16 * 4 ** np.arange(14, dtype=np.int64)
#: Coordinates are clamped to plus or minus this, which keeps their order and fits the keys in 63 bits.
LIMIT = 1 << 28
ROW_SHIFT = 30
LEVEL_SHIFT = 56
#: Makes rows of cells positive.
ROW_BIAS = LIMIT // 16
#: numpy compares with a plain int several times faster than with an enum member.
KEYPOINTS = int(ShapeKind.KEYPOINTS)
#: The clamped coordinate of an annotation too large for the top level's cells.
UNBOUNDED = 1 << 40


class AnnotIndex:
    """Spatial index over the annotations of one image.

    Every annotation is entered once, under ``(level, row of cells, x)`` of its box's top-left corner; the level
    follows from the size of the box, so one huge annotation does not fill thousands of cells and makes no
    query slower. A window is one range of sorted keys per level and row of cells.

    Parameters
    ----------
    shapes : Shapes
        Annotations of one image. Boxes that are not finite are never found.

    Notes
    -----
    Memory is 16 bytes an annotation, none up to 256 annotations, and one byte a vertex of polygons that have
    more than 256 (see :class:`slidesampler.annotations.outlines.Outlines`). Immutable after construction, so
    threads may share it. The keys are a loose grid with one level per factor of four in size. Source:
    T. Ulrich, "Loose Octrees", Game Programming Gems 1, 2000.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._boxes = shapes.boxes_xyxy
        self._kinds = shapes.kinds
        #: Whether any annotation is keypoints alone.
        self.has_keypoints = bool((shapes.kinds == KEYPOINTS).any())
        #: Where the edges of long polygons lie.
        self.outlines = Outlines(shapes)
        self._order = np.zeros(0, np.int64)
        self._keys = np.zeros(0, np.int64)
        # (level, first and last row of cells in use, number of annotations)
        self._levels: list[tuple[int, int, int, int]] = []
        if len(shapes) > BRUTE_FORCE_MAX:
            self._build()

    def __len__(self) -> int:
        return len(self._boxes)

    def _build(self) -> None:
        finite = np.flatnonzero(np.isfinite(self._boxes).all(axis=1))
        x0, y0, x1, y1 = self._boxes[finite].T
        level = np.searchsorted(CELL_SIZES[:-1], np.maximum(x1 - x0, y1 - y0))
        row = _clamp_floor(y0) // CELL_SIZES[level]
        key = (level << LEVEL_SHIFT) + ((row + ROW_BIAS) << ROW_SHIFT) + (_clamp_floor(x0) + LIMIT)
        order = np.argsort(key, kind="stable")
        self._order, self._keys = finite[order], key[order]
        for used in np.unique(level).tolist():
            rows = row[level == used]
            self._levels.append((used, int(rows.min()), int(rows.max()), len(rows)))

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
        rows = self.candidates(window)
        boxes = self._boxes[rows] if self._keys.size else self._boxes
        x0, y0, x1, y1 = boxes.T
        closed = self._kinds[rows] == KEYPOINTS
        hit = (
            (x0 < window.x1)
            & (y0 < window.y1)
            & ((x1 > window.x) | ((x1 == window.x) & (closed | (x0 == x1))))
            & ((y1 > window.y) | ((y1 == window.y) & (closed | (y0 == y1))))
        )
        return np.sort(rows[hit])

    def candidates(self, window: Window) -> NDArray[np.int64]:
        """Return the annotations that :meth:`query` compares with the window, in no particular order.

        Their number is what a query costs: besides those that it returns, only annotations of similar size or
        larger that begin less than four box sizes away from the window.
        """
        if not self._keys.size:
            return np.arange(len(self._boxes), dtype=np.int64)
        low: list[NDArray[np.int64]] = []
        reach: list[NDArray[np.int64]] = []
        for level, row_min, row_max, count in self._levels:
            cell = int(CELL_SIZES[level])
            # A box begins at most its own size before the window.
            size = cell if level < len(CELL_SIZES) - 1 else UNBOUNDED
            row0 = max(_clamp(window.y - size) // cell, row_min)
            row1 = min(_clamp(window.y1 - 1) // cell, row_max)
            if row1 < row0:
                continue
            if row1 - row0 >= count:
                # A window with more rows of cells than the level has annotations: compare them all.
                low.append(np.array([level << LEVEL_SHIFT]))
                reach.append(np.array([(1 << LEVEL_SHIFT) - 1]))
                continue
            x0, x1 = _clamp(window.x - size), _clamp(window.x1 - 1)
            row = np.arange(row0 + ROW_BIAS, row1 + ROW_BIAS + 1)
            low.append((level << LEVEL_SHIFT) + (row << ROW_SHIFT) + (x0 + LIMIT))
            reach.append(np.full(len(row), x1 - x0))
        if not low:
            return np.zeros(0, np.int64)
        start = np.concatenate(low)
        first = np.searchsorted(self._keys, start)
        last = np.searchsorted(self._keys, start + np.concatenate(reach), side="right")
        return self._order[ragged_arange(first, last)]


def _clamp(value: int) -> int:
    return min(max(value, -LIMIT), LIMIT - 1)


def _clamp_floor(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.floor(values), -LIMIT, LIMIT - 1).astype(np.int64)
