"""Which images are for training and which for testing: pure functions, the same on every machine.

A split is a mapping of names to lists of image ids, in the manifest's order. It depends on the seed, the
fractions and the images, not on the order in which they are given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.models import ImageRecord
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.windows import ImageChoice

__all__ = [
    "Groups",
    "Split",
    "checked_fractions",
    "group_keys",
    "k_folds",
    "split_as_given",
    "split_by_class",
    "split_by_group",
]

#: Image ids of each part.
Split: TypeAlias = dict[str, list[int]]
#: The group of an image: by image id, or computed from its record. None: a group of its own.
Groups: TypeAlias = Mapping[int, Hashable] | Callable[[ImageRecord], Hashable]
#: What is balanced over the parts; see :func:`split_by_class`.
CountBy = Literal["annotations", "pixels"]

#: How often every group may move to another part where that improves the balance.
MAX_ROUNDS = 10

_Floats = NDArray[np.float64]


def split_by_group(
    sampler: SourceSampler,
    fractions: Mapping[str, float],
    seed: int = 0,
    *,
    groups: Groups | None = None,
    image_ids: Iterable[int] | None = None,
    stable: bool = False,
) -> Split:
    """Return a split in which no group, such as a patient, is in two parts.

    Parameters
    ----------
    sampler : Sampler
    fractions : mapping of str to float
        How much of the images each part is to have, in any unit: ``{"train": 8, "test": 2}``.
    seed : int
    groups : mapping of int to key, or callable, optional
        The group of each image id, or of each :class:`~slidesampler.models.ImageRecord`; what the manifest says
        (``group`` or ``patient``) where None. An image whose group is None is a group of its own.
    image_ids : iterable of int, optional
        All images where None.
    stable : bool
        Where False, the largest groups are dealt out first, each to the part that lacks most (equal groups in
        an order that the seed shuffles): a part has less than one group more than its fraction. Where True, a
        group's part follows from the seed and the group's name alone: images that are added to the manifest
        later move none of the others, but the fractions are met in the mean only; use it with many groups.

    Raises
    ------
    TargetError
        For fractions that are none, or an unknown image.
    SamplingError
        If a part would have no image.
    """
    names, shares = checked_fractions(fractions)
    ids = _ordered_ids(sampler, image_ids)
    keys, members = _members(group_keys(sampler, ids, groups))
    draws = [Draws(seed, stream=f"split {key}").uniform() for key in keys]
    if stable:
        stops = np.cumsum(shares)
        parts = np.minimum(np.searchsorted(stops, draws, side="right"), len(names) - 1).tolist()
    else:
        parts = _deal_out([len(rows) for rows in members], draws, shares)
    return _as_split(names, ids, members, parts)


def split_by_class(
    sampler: SourceSampler,
    fractions: Mapping[str, float],
    seed: int = 0,
    *,
    by: CountBy = "annotations",
    groups: Groups | None = None,
    image_ids: Iterable[int] | None = None,
) -> Split:
    """Return a split whose parts have the same shares of every class, as far as groups allow.

    The groups that hold most of some class are dealt out first, each to the part where it does least harm: what
    is kept small is the sum, over classes and parts, of the squares of how far a part is from its share of the
    class, relative to that share. Then groups move to other parts as long as that helps. The number of images
    counts like a class.

    Parameters
    ----------
    sampler : Sampler
    fractions, seed, groups, image_ids
        As :func:`split_by_group` takes them.
    by : {"annotations", "pixels"}
        What is counted: annotations of each class, or its pixels in the masks (from the foreground index).

    Raises
    ------
    TargetError
        For fractions that are none, an unknown image, or another word for ``by``.
    SamplingError
        If a part would have no image.

    Notes
    -----
    Deterministic, but images that are added may move others. *Source:* the greedy choice is that of
    scikit-learn's ``StratifiedGroupKFold``, for parts of any sizes.
    """
    names, shares = checked_fractions(fractions)
    ids = _ordered_ids(sampler, image_ids)
    keys, members = _members(group_keys(sampler, ids, groups))
    counts = np.column_stack([_class_counts(sampler, ids, by), np.ones(len(ids))])
    counts = counts[:, counts.sum(axis=0) > 0]
    weights = np.array([counts[rows].sum(axis=0) for rows in members]) / counts.sum(axis=0)
    draws = np.array([Draws(seed, stream=f"split {key}").uniform() for key in keys])
    parts = _balance(weights, shares, np.lexsort((draws, -weights.max(axis=1))))
    return _as_split(names, ids, members, parts)


def k_folds(
    sampler: SourceSampler,
    k: int,
    seed: int = 0,
    *,
    by: CountBy | None = "annotations",
    groups: Groups | None = None,
    image_ids: Iterable[int] | None = None,
) -> list[Split]:
    """Return ``k`` splits into ``"train"`` and ``"val"``, with every image in ``"val"`` once.

    Parameters
    ----------
    sampler : Sampler
    k : int
        At least 2, at most as many as there are groups.
    seed, groups, image_ids
        As :func:`split_by_group` takes them: no group is in both parts.
    by : {"annotations", "pixels"}, optional
        Balance classes over the folds, as :func:`split_by_class`; only the number of images where None.

    Raises
    ------
    TargetError
        If ``k`` is not such a number; otherwise as :func:`split_by_class`.
    """
    width = len(str(k))
    ids = _ordered_ids(sampler, image_ids)
    n_groups = len(set(group_keys(sampler, ids, groups)))
    if not 2 <= operator.index(k) <= n_groups:
        raise TargetError(f"k must be at least 2 and at most the number of groups, {n_groups}; got {k}")
    fractions = {f"{fold:0{width}d}": 1.0 for fold in range(k)}
    if by is None:
        folds = split_by_group(sampler, fractions, seed, groups=groups, image_ids=ids)
    else:
        folds = split_by_class(sampler, fractions, seed, by=by, groups=groups, image_ids=ids)
    return [
        {"train": [one for one in ids if one not in held], "val": list(fold)}
        for fold in folds.values()
        for held in [set(fold)]
    ]


def split_as_given(
    sampler: SourceSampler, lists: Mapping[str, Iterable[int]], *, complete: bool = False
) -> Split:
    """Return lists of image ids as they were given, after checking that they are a split.

    Parameters
    ----------
    sampler : Sampler
    lists : mapping of str to iterable of int
    complete : bool
        Whether every image of the manifest must be in one of them.

    Raises
    ------
    TargetError
        For an image that the manifest has not, one that is named twice, in one list or in two, and with
        ``complete`` for one that is left out.
    """
    split = {str(name): [operator.index(one) for one in ids] for name, ids in lists.items()}
    if not split:
        raise TargetError("no list was given: a split has at least one part")
    known = set(sampler.image_ids)
    where: dict[int, str] = {}
    for name, ids in split.items():
        for one in ids:
            if one not in known:
                raise TargetError(f"{name!r} names image {one}, which the manifest has not")
            if one in where:
                twice = "twice" if where[one] == name else f"as {where[one]!r} does"
                raise TargetError(f"{name!r} names image {one} {twice}; an image belongs to one part")
            where[one] = name
    missing = known - set(where)
    if complete and missing:
        shown = ", ".join(map(str, sorted(missing)[:5])) + (" ..." if len(missing) > 5 else "")
        raise TargetError(f"{len(missing)} images of the manifest are in no part: {shown}")
    return split


def checked_fractions(fractions: Mapping[str, float]) -> tuple[list[str], _Floats]:
    """Return the names of the parts, sorted, and the share of each; they add up to 1.

    Raises
    ------
    TargetError
        If there is no part, or a number that is not finite and above 0.
    """
    if not isinstance(fractions, Mapping) or not fractions:
        raise TargetError(
            f"fractions must name the parts, such as {{'train': 0.8, 'val': 0.2}}; got {fractions!r}"
        )
    for name, value in fractions.items():
        if isinstance(value, str | bool) or not math.isfinite(value) or not value > 0:
            raise TargetError(f"fractions[{name!r}] must be a finite number above 0, got {value!r}")
    names = sorted(map(str, fractions))
    shares = np.array([float(fractions[name]) for name in names])
    return names, shares / shares.sum()


def group_keys(sampler: SourceSampler, image_ids: Sequence[int], groups: Groups | None) -> list[str]:
    """Return the group of each image as text; an image without group is a group of its own.

    Parameters
    ----------
    sampler : SourceSampler
    image_ids : sequence of int
    groups : mapping or callable, optional
        See :func:`split_by_group`.
    """
    keys = []
    for image_id in image_ids:
        if groups is None:
            key: Any = sampler.image_record(image_id).group
        elif isinstance(groups, Mapping):
            key = groups.get(image_id)
        else:
            key = groups(sampler.image_record(image_id))
        keys.append(f"image {image_id}" if key is None else f"group {key}")
    return keys


def _ordered_ids(sampler: SourceSampler, image_ids: Iterable[int] | None) -> list[int]:
    """Return image ids in the manifest's order."""
    chosen = set(ImageChoice(sampler, image_ids).ids(sampler))
    return [one for one in sampler.image_ids if one in chosen]


def _members(keys: list[str]) -> tuple[list[str], list[list[int]]]:
    """Return the groups, sorted by name, and the rows of each."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    names = sorted(rows)
    return names, [rows[name] for name in names]


def _deal_out(sizes: list[int], draws: list[float], shares: _Floats) -> list[int]:
    """Return a part for each group: the largest first, to the part that lacks most."""
    parts = [0] * len(sizes)
    missing = (shares * sum(sizes)).tolist()
    for group in sorted(range(len(sizes)), key=lambda one: (-sizes[one], draws[one])):
        parts[group] = missing.index(max(missing))
        missing[parts[group]] -= sizes[group]
    return parts


def _balance(weights: _Floats, shares: _Floats, order: NDArray[np.int64]) -> list[int]:
    """Return a part for each group so that every part has its share of every column.

    Parameters
    ----------
    weights : float64 (groups, columns)
        Each column adds up to 1.
    shares : float64 (parts,)
    order : int64 (groups,)
        Which group is dealt out first.
    """
    held = np.zeros((len(shares), weights.shape[1]))
    parts = np.full(len(weights), -1)

    def best_part(weight: _Floats) -> int:
        # What it adds to the sum over parts and columns of shares * (held / shares - 1) ** 2.
        return int(((2 * held + weight) @ weight / shares - 2 * weight.sum()).round(12).argmin())

    for group in order.tolist():
        parts[group] = best_part(weights[group])
        held[parts[group]] += weights[group]
    for _ in range(MAX_ROUNDS):
        moved = False
        for group in order.tolist():
            held[parts[group]] -= weights[group]
            best = best_part(weights[group])
            moved |= best != parts[group]
            parts[group] = best
            held[best] += weights[group]
        if not moved:
            break
    return list(parts.tolist())


def _class_counts(sampler: SourceSampler, image_ids: Sequence[int], by: CountBy) -> _Floats:
    """Return how much of each class an image has, ``(images, classes)``; the background is no class here."""
    if by not in get_args(CountBy):
        raise TargetError(f"by must be one of {', '.join(get_args(CountBy))}, got {by!r}")
    classes = sampler.class_map
    if by == "pixels":
        index = sampler.foreground
        rows = [index.row(image_id) for image_id in image_ids]
        return np.asarray(index.pixels, np.float64)[rows, 1 : len(classes.names)]
    counts = np.zeros((len(image_ids), len(classes.names)))
    for row, image_id in enumerate(image_ids):
        found, numbers = np.unique(sampler.manifest.shapes_of(image_id).category_ids, return_counts=True)
        for category, number in zip(found.tolist(), numbers.tolist(), strict=True):
            index_of = classes.index_of(category)
            if index_of not in (0, classes.ignore):
                counts[row, index_of] += number
    return counts[:, 1:]


def _as_split(names: list[str], ids: list[int], members: list[list[int]], parts: list[int]) -> Split:
    part_of = np.empty(len(ids), np.int64)
    for rows, part in zip(members, parts, strict=True):
        part_of[rows] = part
    split: Split = {name: [] for name in names}
    for image_id, part in zip(ids, part_of.tolist(), strict=True):
        split[names[part]].append(image_id)
    empty = [name for name in names if not split[name]]
    if empty:
        raise SamplingError(
            f"{empty[0]!r} gets none of the {len(ids)} images, which are {len(members)} groups; give it a "
            "larger fraction, or name the images of each part yourself"
        )
    return split
