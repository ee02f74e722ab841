"""``dry_run``: an epoch of a source, drawn without reading a pixel."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from slidesampler.sampling.base import TargetSource
from slidesampler.sampling.draw_record import DrawRecord, ExplainedSource
from slidesampler.sampling.windows import checked_count
from slidesampler.target import Target

__all__ = ["DryRun", "dry_run"]


@dataclass(frozen=True, slots=True, eq=False)
class DryRun:
    """What a source gave.

    Parameters
    ----------
    epoch : int
    targets : tuple of Target
        Indices 0 and on.
    records : tuple of DrawRecord or None
        What it took to choose each; None for sources that do not choose by trying.
    seconds : float
        How long drawing took.
    """

    epoch: int
    targets: tuple[Target, ...]
    records: tuple[DrawRecord, ...] | None
    seconds: float

    @property
    def windows_per_second(self) -> float:
        """Windows drawn a second."""
        return len(self.targets) / max(self.seconds, 1e-9)


def dry_run(
    source: TargetSource,
    epoch: int = 0,
    n: int | None = None,
    *,
    advance: Callable[[int], None] | None = None,
) -> DryRun:
    """Draw the first windows of an epoch of a source.

    Parameters
    ----------
    source : TargetSource
    epoch : int
    n : int, optional
        At most so many; all where None.
    advance : callable, optional
        Called with the number of windows just drawn.

    Raises
    ------
    SamplingError
        If the source cannot give one of them, for example ``NegativesExhaustedError``.
    ValueError
        For ``n`` below 1.

    Examples
    --------
    >>> from slidesampler.sampling.fixed import FixedSource
    >>> run = dry_run(FixedSource([{"image_id": 1}, {"image_id": 2}]), n=1)
    >>> [target.image_id for target in run.targets], run.records
    ([1], None)
    """
    count = len(source) if n is None else min(checked_count(n), len(source))
    targets: list[Target] = []
    records: list[DrawRecord] | None = [] if isinstance(source, ExplainedSource) else None
    begin = time.perf_counter()
    for index in range(count):
        if records is not None and isinstance(source, ExplainedSource):
            target, record = source.explain(epoch, index)
            records.append(record)
        else:
            target = source.target(epoch, index)
        targets.append(target)
        if advance is not None:
            advance(1)
    seconds = time.perf_counter() - begin
    return DryRun(epoch, tuple(targets), None if records is None else tuple(records), seconds)
