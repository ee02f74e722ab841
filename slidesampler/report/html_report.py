"""``write_report``: what a choice of windows shows of a dataset, as one page and its figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slidesampler.report.findings import findings
from slidesampler.report.page import escape, page, paragraph
from slidesampler.report.sections import (
    ReportDraft,
    class_section,
    kind_section,
    map_section,
    sheet_section,
    slide_section,
    try_section,
    weight_section,
)
from slidesampler.report.sheets import SHEET_NAMES, draw_sheets
from slidesampler.sampler import Sampler
from slidesampler.sampling.statistics import SampleSummary
from slidesampler.target import Target

__all__ = ["REPORT_NAME", "ReportFiles", "write_report"]

#: The page's file.
REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What :func:`write_report` wrote.

    Parameters
    ----------
    page : Path
    figures : tuple of Path
        The page's pictures as files; the page itself does not need them.
    failed : tuple of str
        What could not be read, and why; the page says it, too.
    """

    page: Path
    figures: tuple[Path, ...]
    failed: tuple[str, ...]


def write_report(
    sampler: Sampler,
    summary: SampleSummary,
    targets: Sequence[Target],
    folder: str | os.PathLike[str],
    *,
    title: str = "What was sampled",
    origin: str = "",
    max_slides: int = 12,
    notes: Sequence[str] = (),
) -> ReportFiles:
    """Write a page that shows what windows were served, beside what was asked for.

    ``report.html`` holds its pictures and needs no network, no script and no other file; the pictures lie
    beside it as PNG files, for slides of your own. Thumbnails and a few windows are read, nothing else.

    Parameters
    ----------
    sampler : Sampler
        From which the windows come.
    summary : SampleSummary
        Of all of them; see :func:`slidesampler.sampling.summary.summarize`.
    targets : sequence of Target
        The windows themselves, or some of each kind; the contact sheets show a few of them, evenly spread.
    folder : path
        Made where it does not exist; an older report in it is replaced, with its figures.
    title : str
        Heading of the page.
    origin : str
        Where the windows come from, in words, below the heading.
    max_slides : int
        Slides whose maps are drawn, those with the most windows; the table has all of them.
    notes : sequence of str
        Sentences of yours, added to what stands out.

    Returns
    -------
    ReportFiles

    Raises
    ------
    ValueError
        If ``max_slides`` is negative.
    OSError
        If the folder cannot be written.

    Notes
    -----
    A slide or window that cannot be read is left out of the pictures and named in the report.
    """
    if max_slides < 0:
        raise ValueError(f"max_slides must be at least 0, got {max_slides}")
    draft = ReportDraft(sampler, summary)
    sheets = draw_sheets(sampler, summary, targets, draft.failed)
    sections = [
        kind_section(draft),
        class_section(draft),
        slide_section(draft),
        try_section(draft),
        map_section(draft, max_slides),
        sheet_section(draft, sheets),
        weight_section(summary),
    ]
    lead = [paragraph(origin, "note")] if origin else []
    lead += _key_figures(summary)
    lead += _stand_out([*findings(summary), *notes, *draft.failed])
    return _write(Path(folder), draft, page(title, lead, sections))


def _write(folder: Path, draft: ReportDraft, document: str) -> ReportFiles:
    folder.mkdir(parents=True, exist_ok=True)
    # Pictures of slides that this report does not draw would be taken for its own.
    named = (folder / f"{name}.png" for name in ("kinds", "classes", "slides", "tries", *SHEET_NAMES))
    for old in (*folder.glob("coverage-*.png"), *named):
        old.unlink(missing_ok=True)
    paths = []
    for name, png in draft.figures.items():
        paths.append(folder / name)
        paths[-1].write_bytes(png)
    path = folder / REPORT_NAME
    partial = folder / f".{REPORT_NAME}.partial"
    try:
        partial.write_text(document, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return ReportFiles(path, tuple(paths), tuple(draft.failed))


def _key_figures(summary: SampleSummary) -> list[str]:
    seen = sum(row.windows > 0 for row in summary.images)
    words = [f"{summary.windows} windows on {seen} of {len(summary.images)} slides"]
    if summary.epochs:
        shown = ", ".join(map(str, summary.epochs[:8])) + (" ..." if len(summary.epochs) > 8 else "")
        words.append(f"epoch{'s' if len(summary.epochs) > 1 else ''} {shown}")
    if summary.seed is not None:
        words.append(f"seed {summary.seed}")
    words.append(f"{summary.duplicates} the same as an earlier one")
    return [paragraph("; ".join(words) + ".")]


def _stand_out(lines: Sequence[str]) -> list[str]:
    if not lines:
        return [paragraph("Nothing stands out.")]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<h3>What stands out</h3><ul>{items}</ul>"]
