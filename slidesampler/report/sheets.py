"""Contact sheets of a few windows with foreground, and of a few without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slidesampler.errors import SlideSamplerError
from slidesampler.models import Sample
from slidesampler.report.contact_sheet import class_colors, draw_sheet
from slidesampler.report.png import to_small_png
from slidesampler.sampler import Sampler
from slidesampler.sampling.statistics import SampleSummary
from slidesampler.target import Target

__all__ = ["SHEET_NAMES", "Sheet", "draw_sheets"]

#: Panels of a sheet, and of a row of it.
SHOWN, COLUMNS = 12, 6
#: Windows that are larger, output pixels, are read smaller: a panel has no more.
MAX_PANEL_PX = 512
SHEET_NAMES = ("positives", "negatives")


class Sheet(NamedTuple):
    """A contact sheet of a report.

    Parameters
    ----------
    name : str
        Of its file, without ending.
    heading, caption : str
    png : bytes
    """

    name: str
    heading: str
    caption: str
    png: bytes


def draw_sheets(
    sampler: Sampler, summary: SampleSummary, targets: Sequence[Target], failed: list[str]
) -> list[Sheet]:
    """Return the sheets of positives and of negatives, those that have a window.

    Windows of the kinds ``"positive"`` and ``"negative"`` go where their kind says; the others go by whether
    their mask has foreground.

    Parameters
    ----------
    sampler : Sampler
    summary : SampleSummary
        How many windows of each kind there are.
    targets : sequence of Target
        All of them, or some of each kind. A few are taken, evenly spread.
    failed : list of str
        What could not be read is added here, in words.
    """
    by_kind: dict[str, list[int]] = {"positive": [], "negative": [], "": []}
    for at, target in enumerate(targets):
        by_kind.get(target.kind or "", by_kind[""]).append(at)
    chosen = {kind: _spread(rows, SHOWN if kind else 2 * SHOWN) for kind, rows in by_kind.items()}
    samples: dict[str, list[Sample]] = {"positive": [], "negative": []}
    for kind, rows in chosen.items():
        for at in rows:
            sample = _load(sampler, targets[at], failed)
            if sample is not None:
                samples[kind or _kind_of(sampler, sample)].append(sample)
    totals = {row.kind: row.windows for row in summary.kinds}
    sheets = []
    for name, kind in zip(SHEET_NAMES, samples, strict=True):
        shown = samples[kind][:SHOWN]
        if not shown:
            continue
        words = f"{len(shown)} windows, evenly spread over "
        words += f"{totals[kind]} of kind {kind}" if by_kind[kind] else f"all {summary.windows}"
        words += ", with the outlines of the classes" if kind == "positive" else ""
        sheets.append(Sheet(name, f"{kind.capitalize()}s", f"{words}.", _draw(shown, sampler)))
    return sheets


def _spread(rows: list[int], count: int) -> list[int]:
    if not rows:
        return []
    where = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[at] for at in where.tolist()]


def _load(sampler: Sampler, target: Target, failed: list[str]) -> Sample | None:
    try:
        return sampler.load_sample(_bounded(sampler, target), with_annots=False)
    except (SlideSamplerError, OSError) as error:
        failed.append(f"A window of image {target.image_id} could not be read: {error}")
        return None


def _bounded(sampler: Sampler, target: Target) -> Target:
    """Return the target, read at a size that a panel can show."""
    if target.image_ids is not None or target.video_id is not None:
        return target
    resolved = sampler.resolve(target)
    assert resolved.size is not None
    scale = max(resolved.size) / MAX_PANEL_PX
    if scale <= 1:
        return target
    height, width = (max(1, round(length / scale)) for length in resolved.size)
    return resolved.with_fields(size=(height, width), downsample=None, mpp=None)


def _kind_of(sampler: Sampler, sample: Sample) -> str:
    assert sample.mask is not None
    has_class = (sample.mask != 0) & (sample.mask != sampler.class_map.ignore)
    return "positive" if has_class.any() else "negative"


def _draw(samples: list[Sample], sampler: Sampler) -> bytes:
    present = {int(value) for sample in samples if sample.mask is not None for value in np.unique(sample.mask)}
    colors = {color for index, color in class_colors(sampler.class_map).items() if index in present}
    # Of hundreds of classes those of the legend's first lines.
    exact = ["#000000", "#ffffff", *sorted(colors)[:32]]
    return to_small_png(draw_sheet(samples, sampler.class_map, columns=COLUMNS), exact)
