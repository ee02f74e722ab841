"""Checks and measures of many polygon rings at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidesampler.manifest.fields import COORDINATE_LIMIT, RowFault

__all__ = ["check_coordinates", "open_rings", "ring_areas", "ring_bounds"]

#: A ring whose signed area is below this share of its bounding box is looked at more closely: it is degenerate,
#: or it crosses itself so that its lobes cancel out.
_CANCELS = 1e-9
#: Below this share of the bounding box an area is rounding error.
_NOTHING = 1e-12
#: Scanlines over which the even-odd area of such a ring is summed, and how many crossings are held at once.
_SCANLINES = 256
_CROSSINGS = 4_000_000


def check_coordinates(values: NDArray[np.float64], offsets: NDArray[np.int64], field: str) -> None:
    """Raise RowFault for the first row that holds a coordinate that is not finite or absurdly large.

    Parameters
    ----------
    values : float64 (n, k)
    offsets : int64 (rows + 1,)
        Which of ``values`` belong to which row.
    field : str
        What to name in the fault.
    """
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(values) <= COORDINATE_LIMIT).all(axis=1)
    if not bad.any():
        return
    first = int(np.argmax(bad))
    row = int(np.searchsorted(offsets, first, "right")) - 1
    found = ", ".join(f"{value:g}" for value in values[first])
    raise RowFault(row, field, f"has the point ({found}); coordinates must be finite and within 2**31 pixels")


def open_rings(
    vertices: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the rings without the closing vertex of those that repeat their first one."""
    lengths = np.diff(offsets)
    longer = np.flatnonzero(lengths > 1)
    last = offsets[1:][longer] - 1
    closing = last[(vertices[offsets[:-1][longer]] == vertices[last]).all(axis=1)]
    if not len(closing):
        return vertices, offsets
    keep = np.ones(len(vertices), bool)
    keep[closing] = False
    return vertices[keep], offsets - np.searchsorted(closing, offsets)


def ring_bounds(vertices: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``(x0, y0, x1, y1)`` of every ring; none may be empty."""
    if len(offsets) == 1:
        return np.zeros((0, 4))
    low = np.minimum.reduceat(vertices, offsets[:-1], axis=0)
    return np.hstack([low, np.maximum.reduceat(vertices, offsets[:-1], axis=0)])


def ring_areas(vertices: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the area of every open ring, square pixels.

    Parameters
    ----------
    vertices : float64 (n, 2)
        Finite.
    offsets : int64 (rings + 1,)

    Returns
    -------
    float64 (rings,)
        By the shoelace formula (the magnitude, so the direction does not matter). A ring that crosses itself so
        that its lobes cancel out gets its even-odd area instead, to some 5 digits.

    Raises
    ------
    RowFault
        For the first ring of fewer than three points or without area. Its row is that of the ring.
    """
    lengths = np.diff(offsets)
    if (lengths < 3).any():
        ring = int(np.argmax(lengths < 3))
        raise RowFault(ring, "", f"has {_points(int(lengths[ring]))}; a polygon needs at least 3 distinct ones")
    if not len(lengths):
        return np.zeros(0)
    starts = offsets[:-1]
    # Relative to the ring's first vertex: far from the origin the products would swamp a small ring's area.
    local = vertices - np.repeat(vertices[starts], lengths, axis=0)
    following = np.arange(1, len(vertices) + 1)
    following[offsets[1:] - 1] = starts
    cross = local[:, 0] * local[following, 1] - local[following, 0] * local[:, 1]
    areas: NDArray[np.float64] = np.abs(np.add.reduceat(cross, starts)) / 2
    bounds = ring_bounds(vertices, offsets)
    box = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
    for ring in np.flatnonzero(areas <= _CANCELS * box).tolist():
        points = local[offsets[ring] : offsets[ring + 1]]
        area = _even_odd_area(points) if box[ring] > 0 and not _collinear(points) else 0.0
        if not area > _NOTHING * box[ring]:
            distinct = len(np.unique(points, axis=0))
            problem = f"has {_points(distinct)}" if distinct < 3 else "has no area"
            raise RowFault(
                ring, "", f"{problem}; a polygon needs at least 3 distinct ones that enclose an area"
            )
        areas[ring] = area
    return areas


def _points(count: int) -> str:
    return f"{count} distinct point{'' if count == 1 else 's'}"


def _collinear(points: NDArray[np.float64]) -> bool:
    """Return whether all points lie on one line; the first is ``(0, 0)``."""
    far = points[np.argmax((points**2).sum(axis=1))]
    off = np.abs(points[:, 0] * far[1] - points[:, 1] * far[0])
    return bool(off.max() <= _NOTHING * (far**2).sum())


def _even_odd_area(points: NDArray[np.float64]) -> float:
    """Return the even-odd area of a ring: the lengths inside along evenly spaced scanlines, summed."""
    y, x = points[:, 1], points[:, 0]
    y_next, x_next = np.roll(y, -1), np.roll(x, -1)
    step = (y.max() - y.min()) / _SCANLINES
    scanlines = y.min() + (np.arange(_SCANLINES) + 0.5) * step
    slope = np.divide(x_next - x, y_next - y, out=np.zeros_like(x), where=y_next != y)
    total = 0.0
    for chunk in np.array_split(scanlines, max(1, _SCANLINES * len(points) // _CROSSINGS)):
        crosses = (np.minimum(y, y_next) <= chunk[:, None]) & (chunk[:, None] < np.maximum(y, y_next))
        at = np.where(crosses, x + (chunk[:, None] - y) * slope, np.inf)
        at.sort(axis=1)
        # A scanline enters a closed ring as often as it leaves it, so crossings come in pairs.
        at = at[:, : int(crosses.sum(axis=1).max(initial=0))]
        at[np.isinf(at)] = 0.0
        total += float((at[:, 1::2] - at[:, 0::2]).sum())
    return float(total * step)
