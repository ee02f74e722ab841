"""``Quota``: whole numbers in given proportions that never drift away from them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from fractions import Fraction

from slidesampler.errors import SamplingError

__all__ = ["Quota"]


class Quota:
    """How many of the first ``total`` windows of an epoch belong to each of several kinds.

    Asked for any total by itself, nothing is carried along; and yet no count ever falls as the total grows, so
    that the difference of two totals is what the windows between them hold.

    Parameters
    ----------
    weights : sequence of float or fractions.Fraction
        Not negative, finite, at least one of them above 0; any scale. A float means the decimal number that it
        is printed as: 0.1 is exactly a tenth.
    what : str
        What is weighed, for messages.

    Attributes
    ----------
    max_deviation : float
        No count is ever further than this from its exact share of the total: 0.5 for two kinds, less than 1 for
        three, and less than 1 for most proportions of more.

    Raises
    ------
    SamplingError
        If the weights are not such.

    Notes
    -----
    With two kinds the count is ``total * share``, rounded. With more, rounding each by itself would not add up
    to the total, and handing out what is left to the largest remainders can take a window away from a kind as
    the total grows. So counts are those of a divisor method, Webster's: the first ``total`` of the times
    ``(j + 1/2) / share``, over all kinds and ``j = 0, 1, ...``. Where a few kinds have most of the weight these
    are rounded before the others, largest first, if that brings the worst case down.

    *Source:* Balinski and Young, "Fair Representation" (2nd edition, 2001), appendix A: divisor methods never
    take away as the total grows. The bound: the sum of all roundings (each at most 1/2) shifts the common
    divisor, so a kind of share ``w`` among ``m`` is off by ``(1 - w)`` of its own rounding less ``w`` times the
    others', at most ``1/2 + w (m - 2) / 2``.

    Examples
    --------
    >>> quota = Quota([0.25, 0.75])
    >>> [quota.counts(total) for total in (0, 1, 2, 3, 4, 10)]
    [[0, 0], [0, 1], [1, 1], [1, 2], [1, 3], [3, 7]]
    >>> Quota([1, 1, 1]).counts(32)
    [11, 11, 10]
    """

    def __init__(self, weights: Sequence[float | Fraction], what: str = "source") -> None:
        exact = [_exact(weight, what) for weight in weights]
        if not exact or not any(exact):
            raise SamplingError(f"there is no {what} to choose: all weights are 0 ({list(weights)!r})")
        common = math.lcm(*(weight.denominator for weight in exact))
        parts = [int(weight * common) for weight in exact]
        self._parts = tuple(part // math.gcd(*parts) for part in parts)
        self._whole = sum(self._parts)
        order = sorted((k for k, part in enumerate(self._parts) if part), key=lambda k: (-self._parts[k], k))
        bounds = [_worst([self._parts[k] for k in order], first) for first in range(len(order))]
        self.max_deviation = min(bounds)
        first = bounds.index(self.max_deviation)
        self._rounded_first, self._rest = tuple(order[:first]), tuple(sorted(order[first:]))

    def __len__(self) -> int:
        return len(self._parts)

    def share(self, kind: int) -> Fraction:
        """Return the exact share of a kind, 0 to 1."""
        return Fraction(self._parts[kind], self._whole)

    def counts(self, total: int) -> list[int]:
        """Return how many of the first ``total`` belong to each kind; they sum to ``total``."""
        counts, whole = [0] * len(self._parts), self._whole
        for kind in self._rounded_first:
            counts[kind] = (2 * self._parts[kind] * total + whole) // (2 * whole)
            total -= counts[kind]
            whole -= self._parts[kind]
        for kind in self._rest:
            counts[kind] = (2 * self._parts[kind] * total + whole) // (2 * whole)
        surplus = sum(counts[kind] for kind in self._rest) - total
        # What was counted are all times up to ``total``; their number may be off by a few.
        for _ in range(surplus):
            counts[max(self._rest, key=lambda k: (Fraction(2 * counts[k] - 1, self._parts[k]), k))] -= 1
        for _ in range(-surplus):
            counts[min(self._rest, key=lambda k: (Fraction(2 * counts[k] + 1, self._parts[k]), k))] += 1
        return counts


def _exact(weight: float | Fraction, what: str) -> Fraction:
    try:
        exact = Fraction(weight) if isinstance(weight, numbers.Rational) else Fraction(repr(float(weight)))
    except (TypeError, ValueError, OverflowError):
        exact = Fraction(-1)
    if exact < 0:
        raise SamplingError(f"weights of {what}s must be finite numbers of at least 0, got {weight!r}")
    return exact


def _worst(parts: Sequence[int], first: int) -> float:
    """Return how far off a count can be where ``first`` kinds, the largest, are rounded one by one."""
    whole, off, worst = sum(parts), 0.0, 0.0
    for part in parts[:first]:
        share = part / whole
        worst = max(worst, share * off + 0.5)
        off, whole = (1 - share) * off + 0.5, whole - part
    rest = parts[first:]
    if len(rest) == 1:
        return max(worst, off)
    share = rest[0] / whole
    return max(worst, share * off + 0.5 + share * (len(rest) - 2) / 2)
