"""How ``slidesampler sample`` prints what was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slidesampler.cli.output import format_seconds, print_table, stdout

if TYPE_CHECKING:
    from slidesampler.sampling.statistics import SampleSummary

__all__ = ["print_summary"]

#: Slides that are listed; --json has them all.
LISTED = 20


def print_summary(summary: SampleSummary, source: str, seconds: float) -> None:
    """Print a summary as tables: kinds and tries, classes, slides."""
    console = stdout()
    epochs = ", ".join(map(str, summary.epochs))
    speed = f"{summary.windows / max(seconds, 1e-9):,.0f} windows/s"
    console.print(
        f"source {source}, epoch {epochs}, seed {summary.seed}: {summary.windows:,} windows "
        f"in {format_seconds(seconds)} ({speed})\n"
    )
    _print_kinds(summary)
    if summary.classes:
        console.print()
        _print_classes(summary)
    console.print()
    _print_slides(summary)
    if summary.duplicates:
        console.print(f"\n{summary.duplicates:,} windows are the same as an earlier one")


def _print_kinds(summary: SampleSummary) -> None:
    tries = {row.kind: row for row in summary.tries}
    rows = []
    for row in summary.kinds:
        told = tries.get(row.kind)
        refused = sorted(told.refused.items(), key=lambda item: -item[1]) if told else []
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused)
        if told and told.exhausted:
            reasons = ", ".join(filter(None, (reasons, f"{told.exhausted:,} gave up")))
        rows.append(
            (
                row.kind or "-",
                f"{row.windows:,}",
                _share(row.served),
                _share(row.asked),
                f"{told.mean_tries:.2f}" if told else "-",
                reasons or "-",
            )
        )
    columns = ("kind", "windows", "share", "asked", "tries each", "refused")
    print_table(columns, rows, right=columns[1:5])


def _print_classes(summary: SampleSummary) -> None:
    rows = [
        (
            row.name,
            f"{row.windows:,}",
            _share(row.served),
            _share(row.asked),
            "-" if row.windows_with is None else _share(row.windows_with / max(summary.counted, 1)),
            _share(row.pixel_share),
            _share(row.dataset_share),
        )
        for row in summary.classes
    ]
    columns = ("class", "chosen for it", "share", "asked", "windows with it", "of pixels", "of all pixels")
    print_table(columns, rows, right=columns[1:])
    if 0 < summary.counted < summary.windows:
        stdout().print(f"(pixels counted in {summary.counted:,} of the windows)")


def _print_slides(summary: SampleSummary) -> None:
    order = sorted(summary.images, key=lambda row: -row.windows)
    rows = [
        (
            row.image_id,
            row.name,
            f"{row.windows:,}",
            _share(row.served),
            _share(row.tissue_share),
            _share(row.seen_share),
            ", ".join(f"{count:,} {kind or '-'}" for kind, count in sorted(row.kinds.items())) or "-",
        )
        for row in order[:LISTED]
    ]
    columns = ("image", "name", "windows", "share", "of all tissue", "tissue seen", "kinds")
    print_table(columns, rows, right=("image", *columns[2:6]))
    if len(order) > LISTED:
        rest = order[LISTED:]
        windows = sum(row.windows for row in rest)
        stdout().print(f"... and {len(rest):,} more slides with {windows:,} windows; --json has them all")
    unseen = sum(not row.windows for row in order)
    if unseen:
        stdout().print(f"{unseen:,} of {len(order):,} slides have no window")


def _share(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share:.1%}" if share >= 0.001 or not share else f"{share:.1g}"
