"""Progress of a write, told in level-0 pixels."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Halves"]


class Halves:
    """Progress of work that goes over an image twice, told as if it went once.

    Parameters
    ----------
    total : int
        Level-0 pixels of the image; what is told adds up to this, exactly.
    advance : callable
    """

    def __init__(self, total: int, advance: Callable[[int], None]) -> None:
        self._total, self._advance = total, advance
        self._seen = 0
        self._told = 0

    def first(self, pixels: int) -> None:
        """Take pixels of the first pass."""
        self._seen += pixels
        self._tell(self._seen // 2)

    def second(self, share: float) -> None:
        """Take the share of the second pass that is done, 0 to 1."""
        self._tell((self._total + int(self._total * min(max(share, 0.0), 1.0))) // 2)

    def done(self) -> None:
        """Tell what is left."""
        self._tell(self._total)

    def _tell(self, reached: int) -> None:
        if reached > self._told:
            self._advance(reached - self._told)
            self._told = reached
