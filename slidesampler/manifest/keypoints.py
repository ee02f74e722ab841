"""Keypoints in COCO's and kwcoco's form -> flat ``x, y, visibility``."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from slidesampler.manifest.fields import FieldFault, plain, short

__all__ = ["flat_keypoints"]

#: kwcoco leaves it out for points that can be seen.
_VISIBLE = 2


def flat_keypoints(value: Any) -> array[float]:
    """Return ``x, y, visibility`` of every point, one after the other.

    Parameters
    ----------
    value : list
        COCO's ``[x, y, v, x, y, v, ...]`` or kwcoco's ``[{"xy": [x, y], "visible": v}, ...]``.

    Raises
    ------
    FieldFault
        If it has neither form.
    """
    value = plain(value)
    if not isinstance(value, (list, tuple)):
        raise FieldFault("keypoints", f"must be a list, found {short(value)}")
    flat: list[Any] = []
    if any(isinstance(item, Mapping) for item in value):
        for position, point in enumerate(value):
            xy = plain(point.get("xy")) if isinstance(point, Mapping) else None
            if not isinstance(xy, (list, tuple)) or len(xy) != 2:
                raise FieldFault(f"keypoints[{position}]", f"must be an object with 'xy', found {short(point)}")
            visible = point.get("visible")
            flat += [*xy, _VISIBLE if visible is None else visible]
    else:
        flat = list(value)
    if len(flat) % 3:
        raise FieldFault("keypoints", f"must be x, y, visibility of every point, found {len(flat)} numbers")
    try:
        return array("d", flat)
    except (TypeError, OverflowError):
        raise FieldFault("keypoints", f"must be numbers, found {short(value)}") from None
