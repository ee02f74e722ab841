"""``advise``: what will not work on a dataset, and what to use instead."""

from __future__ import annotations

from collections.abc import Sequence

from slidesampler.sampling.survey_results import ClassStatistics, DatasetStatistics

__all__ = ["advise"]

#: A class below this share of the pixels, or in so few random windows that the trials of a rejection (51 draws)
#: would not find it on average, is too rare to be found by chance.
RARE_PIXELS, RARE_WINDOWS = 0.001, 1 / 51
#: Tries that a NegativeSource makes by default.
NEGATIVE_TRIES = 1000
#: Images that a sentence names.
NAMED = 5


def advise(found: DatasetStatistics) -> tuple[str, ...]:
    """Return what will not work, and what to use instead: a sentence or two each."""
    return (*_about_classes(found), *_about_images(found))


def _about_classes(found: DatasetStatistics) -> list[str]:
    out = []
    empty = [row.name for row in found.classes if not row.annotations and not row.pixels]
    if empty:
        out.append(
            f"{_classes(empty)} without annotations: a source that is asked for one of them refuses; leave it "
            "out of categories, or annotate it"
        )
    hidden = [row.name for row in found.classes if row.annotations and not row.pixels]
    if hidden:
        out.append(
            f"{_classes(hidden)} without a pixel, though there are annotations: others cover them, or they lie "
            "outside their images; see LabelSpec(overlap=) for which one wins"
        )
    out += [_about_rare(row) for row in found.classes if row.pixels and _is_rare(row)]
    return out


def _is_rare(row: ClassStatistics) -> bool:
    return row.pixel_share <= RARE_PIXELS or row.window_share.share < RARE_WINDOWS


def _about_rare(row: ClassStatistics) -> str:
    share = row.window_share
    if share.share:
        tries = f"finds it once in about {1 / share.share:,.0f} windows"
    else:
        tries = f"did not find it in about {1 / share.error:,.0f} windows"
    return (
        f"class {row.name!r} is {row.pixel_share:.2g} of the pixels: drawing at random and rejecting {tries}, "
        "so RejectionSource over random windows cannot work for it. Use PositiveSource with class_weights, "
        "BalancedSource, or CoverageSource to see every object once"
    )


def _about_images(found: DatasetStatistics) -> list[str]:
    out = []
    bare = [row.name for row in found.images if not row.tissue_share]
    if bare:
        out.append(
            f"{_images(bare)} without tissue: no window is drawn there; look at the tissue mask, or leave them "
            "out with image_ids"
        )
    full = [row.name for row in found.images if row.negatives == "impossible" and row.tissue_share]
    if full:
        out.append(
            f"{_images(full)} without room for a window of {_size(found)} that holds no foreground: negatives "
            "come from the other images; use smaller windows, or allow some with max_foreground"
        )
    unfound = [row.name for row in found.images if row.negatives == "none found"]
    rare = [row.name for row in found.images if row.tries and row.tries > NEGATIVE_TRIES]
    if unfound or rare:
        out.append(
            f"{_images(unfound + rare)} where hardly any window of {_size(found)} is free of foreground: "
            "NegativeSource may run out of tries; use smaller windows, or allow some with max_foreground"
        )
    small = [row.name for row in found.images if row.height < found.size[0] or row.width < found.size[1]]
    if small:
        out.append(f"{_images(small)} smaller than a window of {_size(found)}: windows there are padded")
    return out


def _size(found: DatasetStatistics) -> str:
    return f"{found.size[0]} x {found.size[1]} level-0 pixels"


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({_some(names)})"


def _images(names: Sequence[str]) -> str:
    return f"{len(names)} image{'' if len(names) == 1 else 's'} ({_some(names)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
