"""What is said of both axes at once: one number, or one for each."""

from __future__ import annotations

import numpy as np

from slidesampler.errors import TargetError

__all__ = ["checked_pair"]


def checked_pair(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    """Return a number per axis, ``(y, x)``, for one number or a pair of them.

    Raises
    ------
    TargetError
        If they are not whole numbers of at least ``minimum``.
    """
    pair = np.asarray(value)
    if pair.dtype.kind not in "iu" or pair.shape not in ((), (2,)) or pair.min() < minimum:
        raise TargetError(
            f"{name} must be whole pixels, one number or one per axis (y, x), at least {minimum}; got {value!r}"
        )
    y, x = np.broadcast_to(pair, (2,)).tolist()
    return y, x
