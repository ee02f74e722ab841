"""Suggested weights, as Python to be copied."""

from __future__ import annotations

from slidesampler.sampling.statistics import SampleSummary

__all__ = ["weights_program"]


def weights_program(summary: SampleSummary) -> str:
    """Return ``class_weights`` and ``slide_weights`` of a summary as a program.

    Examples
    --------
    >>> print(weights_program(SampleSummary(0, (), (), (), (), 0)))
    class_weights = {}
    slide_weights = {}  # by image id
    """
    classes = {row.name: row.suggested_weight for row in summary.classes if row.suggested_weight > 0}
    slides = {row.image_id: row.suggested_weight for row in summary.images}
    return "\n".join(
        (_assigned("class_weights", classes, ""), _assigned("slide_weights", slides, "  # by image id"))
    )


def _assigned(name: str, weights: dict[str, float] | dict[int, float], comment: str) -> str:
    if not weights:
        return f"{name} = {{}}{comment}"
    lines = [f"    {key!r}: {float(f'{weight:.4g}')!r}," for key, weight in weights.items()]
    return "\n".join((f"{name} = {{{comment}", *lines, "}"))
