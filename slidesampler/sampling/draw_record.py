"""``DrawRecord``: how many tries a window took, and why the others were refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from slidesampler.target import Target

__all__ = ["DrawRecord", "ExplainedSource"]


@dataclass(frozen=True, slots=True)
class DrawRecord:
    """What it took to choose one window.

    Parameters
    ----------
    tries : int
        Windows that were looked at, the one that was taken included.
    refused : mapping of str to int
        How many of them were refused, by reason; only reasons that occurred. One try is refused for one reason,
        the first in the order in which the source tests them.
    exhausted : bool
        Whether none of the tries would do and one of them was taken nevertheless.

    Examples
    --------
    >>> record = DrawRecord(tries=4, refused={"foreground": 2, "valid": 1})
    >>> record.tries - sum(record.refused.values())
    1
    """

    tries: int
    refused: Mapping[str, int]
    exhausted: bool = False


@runtime_checkable
class ExplainedSource(Protocol):
    """A source that chooses by trying, and says how it went."""

    def __len__(self) -> int:
        """Return how many targets an epoch has."""
        ...

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index`` of an epoch; see :meth:`TargetSource.target`."""
        ...

    def explain(self, epoch: int, index: int) -> tuple[Target, DrawRecord]:
        """Return what :meth:`target` returns, and what it took to choose it.

        Raises whatever :meth:`target` raises.
        """
        ...
