"""``Permutation``: a random order of any number of things, one position at a time."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

from slidesampler.rng import Draws
from slidesampler.sampling.windows import checked_count

__all__ = ["Permutation"]

#: Up to so many things are shuffled as a list: the digits below are too small to give every order its chance.
SHORT = 64
#: Rounds over both digits of a position. Four half rounds make a Feistel network that cannot be told from a
#: random permutation (Luby and Rackoff 1988); these are six.
ROUNDS = 3
_WORD = 0xFFFFFFFFFFFFFFFF


class Permutation:
    """A random order of ``n`` things that belongs to ``(seed, epoch, index, stream)``.

    ``permutation(i)`` is the thing at position ``i``: each of ``0 .. n - 1`` at exactly one position. No list
    is kept of more than 64 things: 10**9 windows cost what 100 cost, a few microseconds a position and no
    memory.

    Parameters
    ----------
    n : int
        How many things, at least 1.
    seed, epoch, index : int
        Any integers.
    stream : str
        Names an independent order.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.

    Notes
    -----
    A position is written with two digits ``x < a`` and ``y < b``, where ``a * b`` is ``n`` or hardly more. Each
    half round adds to one digit, modulo its base, a hash of the other: a Feistel network, which can be undone
    whatever the hash is. Where the outcome is one of the few numbers from ``n`` on it is permuted again ("cycle
    walking"), which ends, since a permutation's cycle comes back to where it began.

    *Source:* Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002), the generalised Feistel
    cipher and the cycle-walking cipher; the hash is the finaliser of MurmurHash3.

    Examples
    --------
    >>> order = Permutation(10, seed=0, epoch=1)
    >>> sorted(order(i) for i in range(10))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> 0 <= Permutation(10**12, seed=0)(10**11) < 10**12
    True
    """

    __slots__ = ("_base_x", "_base_y", "_keys", "_short", "n")

    def __init__(self, n: int, seed: int = 0, epoch: int = 0, index: int = 0, stream: str = "") -> None:
        self.n = checked_count(n)
        self._short: tuple[int, ...] | None = None
        if self.n <= SHORT:
            self._short = _shuffled(self.n, int(seed), int(epoch), int(index), stream)
            return
        self._base_x = math.isqrt(self.n - 1) + 1
        self._base_y = -(-self.n // self._base_x)
        self._keys = _round_keys(int(seed), int(epoch), int(index), stream)

    def __len__(self) -> int:
        return self.n

    def __call__(self, position: int) -> int:
        """Return which thing stands at a position.

        Raises
        ------
        IndexError
            If the position is not in ``[0, n)``.
        """
        if not 0 <= position < self.n:
            raise IndexError(f"position {position} of a permutation of {self.n}")
        if self._short is not None:
            return self._short[position]
        base_x, base_y = self._base_x, self._base_y
        while True:
            x, y = divmod(position, base_y)
            for key_x, key_y in self._keys:
                x = (x + _mixed(y ^ key_x)) % base_x
                y = (y + _mixed(x ^ key_y)) % base_y
            position = x * base_y + y
            if position < self.n:
                return position


@lru_cache(maxsize=64)
def _shuffled(n: int, seed: int, epoch: int, index: int, stream: str) -> tuple[int, ...]:
    """Return a list in random order; every order is as likely (Fisher and Yates)."""
    draws, order = Draws(seed, epoch, index, stream), list(range(n))
    for last in range(n - 1, 0, -1):
        other = draws.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return tuple(order)


def _mixed(word: int) -> int:
    """Return 64 bits, each of which depends on each bit of ``word``."""
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _WORD
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return word ^ word >> 33


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int, index: int, stream: str) -> tuple[tuple[int, int], ...]:
    digest = hashlib.blake2b(f"{seed},{epoch},{index},{stream}".encode(), digest_size=16 * ROUNDS).digest()
    words = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 16 * ROUNDS, 8)]
    return tuple(zip(words[::2], words[1::2], strict=True))
