"""What stands out in a summary, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slidesampler.sampling.statistics import ClassServed, ImageServed, SampleSummary

__all__ = ["CHANCE_SIGMA", "beyond_chance", "findings"]

#: Standard errors that chance explains: beyond them one share in sixteen thousand lies.
CHANCE_SIGMA = 4.0
#: Names that a sentence lists.
LISTED = 5
#: Share of windows that were served before, from which on it is worth a word.
MANY_DUPLICATES = 0.05


def beyond_chance(served: float, asked: float, n: int) -> bool:
    """Return whether a share differs from what was asked for by more than independent draws explain.

    Parameters
    ----------
    served, asked : float
        Shares, 0 to 1.
    n : int
        Windows of which ``served`` is the share.

    Notes
    -----
    More than four standard errors ``sqrt(asked * (1 - asked) / n)`` of a binomial share, and more than one
    window.

    Examples
    --------
    >>> beyond_chance(0.52, 0.5, 1000), beyond_chance(0.60, 0.5, 1000)
    (False, True)
    """
    if not n:
        return False
    error = math.sqrt(max(asked * (1 - asked), 0.0) / n)
    return abs(served - asked) > max(CHANCE_SIGMA * error, 1.0 / n + 1e-9)


def findings(summary: SampleSummary) -> list[str]:
    """Return what a reader should know first, the most important first; nothing where nothing stands out."""
    if not summary.windows:
        return ["There are no windows: nothing was served, or the log is empty."]
    lines = [
        f"Windows of kind {row.kind or '(none)'}: {row.served:.1%} served, {row.asked:.1%} asked for."
        for row in summary.kinds
        if row.asked is not None and beyond_chance(row.served, row.asked, summary.windows)
    ]
    lines += _about_classes(summary.classes)
    lines += _about_slides(summary.images)
    lines += [
        f"{row.exhausted} of {row.windows} windows of kind {row.kind or '(none)'} ran out of tries."
        for row in summary.tries
        if row.exhausted
    ]
    if summary.duplicates > MANY_DUPLICATES * summary.windows:
        lines.append(
            f"{summary.duplicates} of {summary.windows} windows ({summary.duplicates / summary.windows:.0%}) "
            "are the same place as an earlier one."
        )
    return lines


def _about_classes(classes: Sequence[ClassServed]) -> list[str]:
    chosen = sum(row.windows for row in classes)
    lines = [
        f"Class {row.name}: {row.served:.1%} of the windows chosen for a class, {row.asked:.1%} asked for."
        for row in classes
        if row.asked is not None and beyond_chance(row.served, row.asked, chosen)
    ]
    never = [row.name for row in classes if row.windows_with == 0 and (row.dataset_share or 0) > 0]
    if never:
        lines.append(f"No window shows {_listed(never)}, though there are annotations of it.")
    return lines


def _about_slides(images: Sequence[ImageServed]) -> list[str]:
    lines = []
    unseen = [row.name for row in images if not row.windows and row.asked != 0 and row.tissue_share > 0]
    if unseen:
        lines.append(f"{len(unseen)} of {len(images)} slides have no window: {_listed(unseen)}.")
    windows = sum(row.windows for row in images)
    far = [
        row.name for row in images if row.asked is not None and beyond_chance(row.served, row.asked, windows)
    ]
    if far:
        lines.append(f"{len(far)} slides differ from what was asked for by more than chance: {_listed(far)}.")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
