"""How a build tells what it is doing; who shows it, and how, is not known here."""

from __future__ import annotations

from typing import Protocol

from slidesampler.cache.plan import BuildPlan, PlanRow
from slidesampler.cache.report import BuildRow

__all__ = ["Progress", "SilentProgress"]


class Progress(Protocol):
    """Told of a build as it goes, always in the process and thread that called ``build``.

    Events of different rows interleave when several are built at once; those of one row come in the order
    started, advanced (any number of times, also none), finished. A row that needs no work is only finished, and
    one whose worker process died may be finished without having been told to advance to its end.
    """

    def planned(self, plan: BuildPlan) -> None:
        """Take note of everything that will be done."""
        ...

    def started(self, row: PlanRow, megapixels: float) -> None:
        """Take note that a row is being built; ``megapixels`` is all of it, in level-0 pixels / 1e6."""
        ...

    def advanced(self, row: PlanRow, megapixels: float) -> None:
        """Take note that ``megapixels`` more of a row are done."""
        ...

    def finished(self, row: BuildRow) -> None:
        """Take note of how a row ended."""
        ...


class SilentProgress:
    """Progress that nobody watches."""

    def planned(self, plan: BuildPlan) -> None:
        """Do nothing."""

    def started(self, row: PlanRow, megapixels: float) -> None:
        """Do nothing."""

    def advanced(self, row: PlanRow, megapixels: float) -> None:
        """Do nothing."""

    def finished(self, row: BuildRow) -> None:
        """Do nothing."""
