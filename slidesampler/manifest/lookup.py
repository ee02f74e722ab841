"""Finding rows by id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.manifest.fields import FieldFault, int64

__all__ = ["find_id", "unknown_id"]


def find_id(sorted_ids: NDArray[np.int64], wanted: object) -> int | None:
    """Return the position of an id among ascending ones; None where it is not there or no 64-bit integer."""
    try:
        number = int64(wanted, "id")
    except FieldFault:
        return None
    at = int(np.searchsorted(sorted_ids, number))
    return at if at < len(sorted_ids) and int(sorted_ids[at]) == number else None


def unknown_id(noun: str, wanted: object, sorted_ids: NDArray[np.int64]) -> TargetError:
    """Return the error for an id that ``find_id`` did not find: says which are closest."""
    try:
        number = int64(wanted, f"{noun} id")
    except FieldFault as fault:
        return TargetError(f"{fault.field} {fault.problem}")
    if not len(sorted_ids):
        return TargetError(f"the manifest has no {noun} {number}; it has no {noun} at all")
    at = int(np.searchsorted(sorted_ids, number))
    near = sorted_ids[max(0, at - 3) : at + 3].tolist()
    closest = sorted(sorted(near, key=lambda one: abs(one - number))[:3])
    return TargetError(
        f"the manifest has no {noun} {number}; of its {len(sorted_ids)} the closest "
        f"{'is' if len(closest) == 1 else 'are'} {', '.join(map(str, closest))}"
    )
