"""The sections of a report: each a part of a summary, in words, a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slidesampler.errors import SlideSamplerError
from slidesampler.report.balance import MIN_EXPECTED, cell_balance
from slidesampler.report.figures import Z_LIMIT, draw_shares, draw_slide, draw_tries
from slidesampler.report.findings import beyond_chance
from slidesampler.report.page import Cell, Section, code_block, escape, figure, fold, paragraph, table
from slidesampler.report.sheets import Sheet
from slidesampler.report.thumbnails import Thumbnail, read_thumbnail
from slidesampler.report.weights import weights_program
from slidesampler.sampler import Sampler
from slidesampler.sampling.statistics import Coverage, ImageServed, SampleSummary

__all__ = [
    "ReportDraft",
    "class_section",
    "kind_section",
    "map_section",
    "sheet_section",
    "slide_section",
    "try_section",
    "weight_section",
]

#: Bars of more slides are not told apart.
MAX_BARS = 40
#: Classes that have a column of their own in the table of slides.
MAX_CLASS_COLUMNS = 8


@dataclass(slots=True)
class ReportDraft:
    """A report that is being written.

    Parameters
    ----------
    sampler : Sampler
    summary : SampleSummary
    figures : dict of str to bytes
        File name to PNG, in the order of the page.
    failed : list of str
        What could not be read, and why.
    """

    sampler: Sampler
    summary: SampleSummary
    figures: dict[str, bytes] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def figure(self, name: str, png: bytes, alt: str, caption: str) -> str:
        """Keep a picture to be written as a file, and return it as HTML."""
        self.figures[f"{name}.png"] = png
        return figure(png, alt, caption)


def kind_section(draft: ReportDraft) -> Section:
    """Return the windows of each kind, asked for and served."""
    summary = draft.summary
    if not summary.kinds:
        return Section("kinds", "Kinds of windows", [paragraph("There are no windows.")])
    names = [row.kind or "(none)" for row in summary.kinds]
    rows = [
        (name, str(row.windows), *_against(row.served, row.asked, summary.windows))
        for name, row in zip(names, summary.kinds, strict=True)
    ]
    png = draw_shares(names, [row.served for row in summary.kinds], [row.asked for row in summary.kinds])
    listed = ", ".join(f"{name} {_percent(row.served)}" for name, row in zip(names, summary.kinds, strict=True))
    body = [
        table("Windows of each kind", ("kind", "windows", "served", "asked for", "difference"), rows),
        draft.figure(
            "kinds", png, f"Bars: share of the windows of each kind. {listed}.", "Share of all windows."
        ),
    ]
    return Section("kinds", "Kinds of windows", body)


def class_section(draft: ReportDraft) -> Section:
    """Return the windows of each class, asked for and served, and the pixels they show."""
    classes = draft.summary.classes
    if not classes:
        return Section("classes", "Classes", [paragraph("The manifest has no classes.")])
    chosen = sum(row.windows for row in classes)
    rows = [
        (
            row.name,
            str(row.windows),
            *_against(row.served, row.asked, chosen),
            _count(row.windows_with),
            _percent(row.pixel_share, 3),
            _percent(row.dataset_share, 3),
        )
        for row in classes
    ]
    columns = (
        "class",
        "windows chosen for it",
        "served",
        "asked for",
        "difference",
        "windows that show it",
        "share of pixels served",
        "share of pixels there are",
    )
    names = [row.name for row in classes]
    body = [
        paragraph(
            "Served and asked for are shares of the windows that were chosen for a class; a window chosen for "
            "one may show others.",
            "note",
        ),
        table("Windows of each class", columns, rows),
    ]
    if chosen or any(row.asked is not None for row in classes):
        listed = ", ".join(f"{row.name} {_percent(row.served)}" for row in classes)
        png = draw_shares(names, [row.served for row in classes], [row.asked for row in classes])
        alt = f"Bars: share of each class among the windows that were chosen for one. {listed}."
        body.append(draft.figure("classes", png, alt, "Share of the windows that were chosen for a class."))
    return Section("classes", "Classes", body)


def slide_section(draft: ReportDraft) -> Section:
    """Return the windows of each slide, asked for and served; the table has every slide."""
    summary = draft.summary
    if not summary.images:
        return Section("slides", "Slides", [paragraph("The manifest has no images.")])
    kinds = [row.kind for row in summary.kinds]
    # Many classes would make a table that nobody reads.
    classes = [row for row in summary.classes if row.windows][:MAX_CLASS_COLUMNS]
    rows = [
        (
            row.name,
            str(row.image_id),
            str(row.windows),
            *_against(row.served, row.asked, summary.windows),
            _percent(row.tissue_share),
            _percent(row.seen_share),
            *(str(row.kinds.get(kind, 0)) for kind in kinds),
            *(str(row.classes.get(found.class_index, 0)) for found in classes),
        )
        for row in summary.images
    ]
    columns = [
        "slide",
        "image id",
        "windows",
        "served",
        "asked for",
        "difference",
        "share of tissue",
        "tissue seen",
        *(kind or "(no kind)" for kind in kinds),
        *(f"for {row.name}" for row in classes),
    ]
    shown = _most_windows(summary.images, MAX_BARS)
    png = draw_shares(
        [row.name for row in shown],
        [row.served for row in shown],
        [row.asked for row in shown],
        ("share of the tissue", [row.tissue_share for row in shown]),
    )
    caption = "Share of all windows, beside the share of all tissue."
    if len(shown) < len(summary.images):
        caption += f" The {len(shown)} slides with the most windows; the table has all {len(summary.images)}."
    body = [
        table(f"Windows of each of {len(rows)} slides", columns, rows),
        draft.figure("slides", png, f"Bars: share of the windows of {len(shown)} slides.", caption),
    ]
    return Section("slides", "Slides", body)


def try_section(draft: ReportDraft) -> Section:
    """Return the tries that windows took, and why the others were refused."""
    tries = draft.summary.tries
    if not tries:
        words = "Nothing is known of tries: none of these windows was chosen by trying, or it was not recorded."
        return Section("tries", "Tries and rejections", [paragraph(words)])
    totals: dict[str, int] = {}
    for row in tries:
        for reason, count in row.refused.items():
            totals[reason] = totals.get(reason, 0) + count
    reasons = sorted(totals, key=lambda reason: (-totals[reason], reason))
    rows: list[tuple[str | Cell, ...]] = [
        (
            row.kind or "(none)",
            str(row.windows),
            str(row.tries),
            f"{row.mean_tries:.2f}",
            *(str(row.refused.get(reason, 0)) for reason in reasons),
            Cell(str(row.exhausted), marked=row.exhausted > 0),
        )
        for row in tries
    ]
    columns = (
        "kind",
        "windows",
        "tries",
        "tries a window",
        *(f"refused: {reason}" for reason in reasons),
        "out of tries",
    )
    listed = "; ".join(f"{row.kind or '(none)'}: {row.tries} tries for {row.windows} windows" for row in tries)
    body = [
        table("Tries by kind, and refusals by reason", columns, rows),
        draft.figure(
            "tries", draw_tries(tries, reasons), f"Bars: {listed}.", "Tries, accepted and refused by reason."
        ),
    ]
    return Section("tries", "Tries and rejections", body)


def map_section(draft: ReportDraft, max_slides: int) -> Section:
    """Return the maps of the slides with the most windows, at most ``max_slides``."""
    seen = [row for row in draft.summary.images if row.coverage is not None]
    chosen = _most_windows(seen, max_slides)
    body = [
        paragraph(
            "Left: how often each part of the slide was in a window; white lines are the outlines of "
            "annotations. Right: windows got beside windows expected if all tissue of the slide were seen "
            "as often, as Poisson z = (got − expected) / √expected of each cell. By chance about one cell "
            f"in twenty is beyond 2 and hardly any beyond 4; cells that expect fewer than {MIN_EXPECTED:g} "
            f"windows are not coloured, and the colours end at {Z_LIMIT:g}. Windows that must lie inside a "
            "slide always see its edges less often, and positives stay with the annotations. Boxes: parts "
            "seen less than half (dashed) or more than twice (solid) as often as expected, the largest "
            "three of each."
        )
    ]
    if not seen:
        body = [paragraph("No slide has windows.")]
    elif len(chosen) < len(seen):
        body.append(
            paragraph(
                f"Drawn are the {len(chosen)} slides with the most windows, of {len(seen)} that have any; the "
                "table of slides has all of them.",
                "note",
            )
        )
    for row in chosen:
        body += _slide_map(draft, row)
    return Section("coverage", "Where on the slides", body)


def _slide_map(draft: ReportDraft, row: ImageServed) -> list[str]:
    assert row.coverage is not None
    thumbnail = _thumbnail(draft, row.image_id)
    balance = cell_balance(row.coverage, (row.height, row.width), row.windows)
    png = draw_slide(row, thumbnail, balance, draft.sampler.class_map)
    alt = (
        f"Maps of slide {row.name}: {row.windows} windows saw {_percent(row.seen_share)} of its tissue; "
        f"{len(row.coverage.under)} parts under-sampled, {len(row.coverage.over)} over-sampled."
    )
    caption = f"{row.windows} windows; {_percent(row.seen_share)} of the tissue was in at least one."
    if balance is not None:
        caption += f" Cells of {balance.cell_px} pixels on the right."
    body = [f"<h3>{escape(row.name)}</h3>", draft.figure(f"coverage-{row.image_id}", png, alt, caption)]
    regions = _regions(row.coverage)
    if regions:
        columns = ("where", "y", "x", "height", "width", "times seen", "expected")
        listed = table("Under- and over-sampled regions, level-0 pixels", columns, regions)
        body.append(fold(f"{len(regions)} under- and over-sampled regions", listed))
    return body


def _regions(coverage: Coverage) -> list[tuple[str, ...]]:
    return [
        (
            word,
            *map(str, (region.window.y, region.window.x, region.window.height, region.window.width)),
            f"{region.seen:.3g}",
            f"{region.expected:.3g}",
        )
        for word, regions in (("under-sampled", coverage.under), ("over-sampled", coverage.over))
        for region in regions
    ]


def _thumbnail(draft: ReportDraft, image_id: int) -> Thumbnail | None:
    try:
        return read_thumbnail(draft.sampler, image_id)
    except (SlideSamplerError, OSError) as error:
        draft.failed.append(f"The thumbnail of image {image_id} could not be read: {error}")
        return None


def sheet_section(draft: ReportDraft, sheets: Sequence[Sheet]) -> Section:
    """Return the contact sheets."""
    if not sheets:
        return Section("windows", "Windows", [paragraph("There is no window to show.")])
    body = []
    for sheet in sheets:
        body.append(f"<h3>{escape(sheet.heading)}</h3>")
        body.append(draft.figure(sheet.name, sheet.png, f"{sheet.heading}: {sheet.caption}", sheet.caption))
    return Section("windows", "Windows", body)


def weight_section(summary: SampleSummary) -> Section:
    """Return the suggested weights as a program."""
    body = [
        paragraph(
            "What to ask for so that the next run comes closer: what was asked for (equal shares of the "
            "classes, shares of the tissue for slides, where nobody asked) over what was served."
        ),
        code_block(weights_program(summary)),
    ]
    return Section("weights", "Suggested weights", body)


# Words ----------------------------------------------------------------------------------------------------


def _most_windows(rows: Sequence[ImageServed], count: int) -> list[ImageServed]:
    """Return the rows with the most windows, at most ``count``, in their own order."""
    best = sorted(range(len(rows)), key=lambda at: (-rows[at].windows, at))[:count]
    return [rows[at] for at in sorted(best)]


def _against(served: float, asked: float | None, n: int) -> tuple[str | Cell, str | Cell, str | Cell]:
    """Return the cells of what was served, what was asked for, and how far apart they are."""
    if asked is None:
        return _percent(served), "–", "–"
    points = f"{100 * (served - asked):+.1f} points".replace("-", "−")
    far = beyond_chance(served, asked, n)
    return _percent(served), _percent(asked), Cell(f"{points}, beyond chance" if far else points, marked=far)


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _count(number: int | None) -> str:
    return "–" if number is None else str(number)
