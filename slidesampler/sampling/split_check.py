"""Whether a split is one: nothing that belongs to one part can be seen in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError
from slidesampler.geometry import Window
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.regions import Regions
from slidesampler.sampling.shape import image_sizes
from slidesampler.sampling.splits import Groups, group_keys, split_as_given

__all__ = ["SplitCheck", "check_split"]

#: Leaks that a message names; it says how many there are.
SHOWN = 5
#: Pairs of rectangles compared at once.
MAX_PAIRS = 1 << 22


class SplitCheck(NamedTuple):
    """What was checked and found in order.

    Parameters
    ----------
    images, groups : mapping of str to int
        How many each part has.
    regions : mapping of str to int
        Rectangles of each part; empty for a split by image.
    """

    images: dict[str, int]
    groups: dict[str, int]
    regions: dict[str, int]


def check_split(
    sampler: SourceSampler,
    split: Mapping[str, Iterable[int]] | Mapping[str, Regions],
    *,
    groups: Groups | None = None,
    guard_px: int = 0,
    complete: bool = False,
) -> SplitCheck:
    """Return what a split has, after proving that nothing leaks from one part to another.

    Parameters
    ----------
    sampler : Sampler
    split : mapping of str to image ids, or of str to regions
        By image: no image, and no group, is in two parts. By region: rectangles lie inside their image, and
        rectangles of different parts are at least ``guard_px`` apart, along y or along x. Groups are not looked
        at then: parts of one slide are of one patient.
    groups : mapping of int to key, or callable, optional
        See :func:`~slidesampler.sampling.split_by_group`.
    guard_px : int
        Level-0 pixels.
    complete : bool
        Whether every image of the manifest must be in a part.

    Raises
    ------
    TargetError
        For an image that the manifest has not, one that is in two parts, or one that is left out though the
        split should be complete.
    SamplingError
        If a group is in two parts, or rectangles of two parts are too near; names the first of them.
    """
    if split and all(isinstance(part, Mapping) for part in split.values()):
        return _check_regions(sampler, split, guard_px, complete)  # type: ignore[arg-type]
    return _check_images(sampler, split, groups, complete)


def _check_images(
    sampler: SourceSampler, split: Mapping[str, Iterable[int]], groups: Groups | None, complete: bool
) -> SplitCheck:
    given = split_as_given(sampler, split, complete=complete)
    keys = {name: group_keys(sampler, ids, groups) for name, ids in given.items()}
    where: dict[str, dict[str, int]] = {}
    for name, ids in given.items():
        for image_id, key in zip(ids, keys[name], strict=True):
            where.setdefault(key, {}).setdefault(name, image_id)
    leaks = [
        f"{key} (" + ", ".join(f"image {image} in {name!r}" for name, image in parts.items()) + ")"
        for key, parts in where.items()
        if len(parts) > 1
    ]
    _raise_for(leaks, "groups are in more than one part")
    return SplitCheck(
        {name: len(ids) for name, ids in given.items()},
        {name: len(set(some)) for name, some in keys.items()},
        {},
    )


def _check_regions(
    sampler: SourceSampler, split: Mapping[str, Regions], guard_px: int, complete: bool
) -> SplitCheck:
    ids = list(dict.fromkeys(image_id for regions in split.values() for image_id in regions))
    split_as_given(sampler, {"regions": ids}, complete=complete)
    names = list(split)
    leaks: list[str] = []
    for image_id, size in zip(ids, image_sizes(sampler, ids).tolist(), strict=True):
        found = [(part, area) for part, name in enumerate(names) for area in split[name].get(image_id, ())]
        image = Window(0, 0, *size)
        leaks += [
            f"image {image_id}: {area} overhangs the image" for _, area in found if not image.contains(area)
        ]
        boxes = np.array([(part, *area.as_xyxy()) for part, area in found], np.int64).reshape(-1, 5)
        for one, other in _too_near(boxes, guard_px):
            (a, first), (b, second) = found[one], found[other]
            leaks.append(f"image {image_id}: {first} of {names[a]!r} and {second} of {names[b]!r}")
    _raise_for(
        leaks, f"rectangles overhang their image, or are less than {guard_px} pixels from another part's"
    )
    keys = {name: group_keys(sampler, list(regions), None) for name, regions in split.items()}
    return SplitCheck(
        {name: sum(bool(areas) for areas in regions.values()) for name, regions in split.items()},
        {name: len(set(some)) for name, some in keys.items()},
        {name: sum(len(areas) for areas in regions.values()) for name, regions in split.items()},
    )


def _too_near(boxes: NDArray[np.int64], guard_px: int) -> list[tuple[int, int]]:
    """Return pairs of rectangles of different parts with less than a distance between them, on both axes."""
    found: list[tuple[int, int]] = []
    part, x0, y0, x1, y1 = boxes.T
    step = max(1, MAX_PAIRS // max(len(boxes), 1))
    for start in range(0, len(boxes), step):
        rows = slice(start, start + step)
        near = part[rows, None] < part
        near &= (x0[rows, None] < x1 + guard_px) & (x0 < x1[rows, None] + guard_px)
        near &= (y0[rows, None] < y1 + guard_px) & (y0 < y1[rows, None] + guard_px)
        ones, others = np.nonzero(near)
        found += list(zip((ones + start).tolist(), others.tolist(), strict=True))
    return found


def _raise_for(leaks: list[str], what: str) -> None:
    if leaks:
        shown = "; ".join(leaks[:SHOWN]) + (" ..." if len(leaks) > SHOWN else "")
        raise SamplingError(f"the split leaks: {len(leaks)} {what}: {shown}")
