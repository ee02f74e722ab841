"""Splits by group, class and region, checked by brute force."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.rng import Draws
from slidesampler.sampling import GridSource, NegativeSource, PositiveSource
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.regions import RestrictedSource, inside_regions, split_by_region
from slidesampler.sampling.split_check import check_split
from slidesampler.sampling.splits import k_folds, split_as_given, split_by_class, split_by_group
from slidesampler.testing.source_contract import RectangleSampler, SourceContract

PARTS = {"train": 0.7, "val": 0.2, "test": 0.1}


class Patients(RectangleSampler):
    """Images of patients: ``patient(position)`` says whose."""

    def __init__(self, images, patient=lambda at: None, seed=0):
        super().__init__(images, seed)
        self.patient = patient

    def image_record(self, image_id):
        return replace(super().image_record(image_id), group=self.patient((image_id - 3) // 7))


class Sizes(RectangleSampler):
    """Images of given sizes, without annotations."""

    def __init__(self, sizes):
        super().__init__(len(sizes))
        self.sizes = sizes

    def image_shape(self, image_id):
        return (*self.sizes[(image_id - 3) // 7], 3)

    def image_record(self, image_id):
        height, width = self.sizes[(image_id - 3) // 7]
        return replace(super().image_record(image_id), height=height, width=width)


# By group ------------------------------------------------------------------------------------------------

group_sizes = st.lists(st.integers(1, 12), min_size=3, max_size=25)


def patients_of(sizes):
    owners = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    return Patients(len(owners), lambda at: owners[at])


@given(
    sizes=group_sizes, seed=st.integers(0, 99), fractions=st.lists(st.floats(0.05, 5), min_size=1, max_size=4)
)
def test_no_group_is_in_two_parts_and_none_is_overfull(sizes, seed, fractions):
    sampler = patients_of(sizes)
    named = {f"part{number}": value for number, value in enumerate(fractions)}
    try:
        split = split_by_group(sampler, named, seed)
    except SamplingError:
        # A part that gets no image: others have at most a group too many each.
        assert min(fractions) / sum(fractions) * sum(sizes) < max(sizes) * (len(fractions) - 1)
        return
    assert sorted(one for ids in split.values() for one in ids) == sorted(sampler.image_ids)
    owners = [{sampler.image_record(one).group for one in ids} for ids in split.values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(owners, 2))
    for name, ids in split.items():
        assert ids == sorted(ids)
        # At most one group more than the fraction, and what is missing is what others have too much of.
        wanted = named[name] / sum(fractions) * sum(sizes)
        assert wanted - max(sizes) * len(fractions) < len(ids) < wanted + max(sizes) + 1e-9
    check = check_split(sampler, split, complete=True)
    assert check.images == {name: len(ids) for name, ids in split.items()}
    assert sum(check.groups.values()) == len(sizes)


def test_order_of_fractions_and_images_does_not_matter():
    sampler = patients_of([3, 1, 4, 1, 5, 9, 2, 6])
    expected = split_by_group(sampler, PARTS, seed=5)
    assert split_by_group(sampler, dict(reversed(PARTS.items())), seed=5) == expected
    assert split_by_group(
        sampler, {n: 30 * v for n, v in PARTS.items()}, 5, image_ids=sampler.image_ids[::-1]
    ) == (expected)
    # Groups of the same size are dealt out in another order for another seed.
    sampler = patients_of([2] * 12)
    assert split_by_group(sampler, PARTS, seed=6) != split_by_group(sampler, PARTS, seed=5)


def test_images_without_group_are_each_their_own():
    sampler = Patients(10)
    split = split_by_group(sampler, {"a": 1, "b": 1})
    assert [len(ids) for ids in split.values()] == [5, 5]
    assert check_split(sampler, split).groups == {"a": 5, "b": 5}


@pytest.mark.parametrize(
    "groups",
    [
        lambda record: record.image_id % 3,
        {one: one % 3 for one in range(1000)},
    ],
)
def test_groups_given(groups):
    split = split_by_group(Patients(60), {"a": 2, "b": 1}, groups=groups)
    remainders = [{one % 3 for one in ids} for ids in split.values()]
    assert remainders[0].isdisjoint(remainders[1])
    assert [len(ids) for ids in split.values()] == [40, 20]


def test_stable_parts_do_not_depend_on_other_images():
    owner = lambda at: f"p{at // 4}"  # noqa: E731
    few, many = Patients(400, owner), Patients(1000, owner)
    before = split_by_group(few, PARTS, seed=1, stable=True)
    after = split_by_group(many, PARTS, seed=1, stable=True)
    assert all(set(before[name]) == set(after[name]) & set(few.image_ids) for name in PARTS)
    # 250 groups: within 4.5 standard deviations of what was asked.
    for name, share in PARTS.items():
        groups = len(after[name]) / 4
        assert abs(groups - 250 * share) < 4.5 * np.sqrt(250 * share * (1 - share))
    check_split(many, after, complete=True)


def test_a_part_without_images_is_an_error():
    with pytest.raises(SamplingError, match=r"'test' gets none of the 8 images, which are 2 groups"):
        split_by_group(patients_of([4, 4]), PARTS)


@pytest.mark.parametrize(
    "bad",
    [{}, {"a": 0}, {"a": -1}, {"a": float("nan")}, {"a": float("inf")}, {"a": "x"}, {"a": True}, [0.5, 0.5]],
)
def test_bad_fractions(bad):
    with pytest.raises(TargetError, match="fractions"):
        split_by_group(Patients(5), bad)


def test_unknown_images():
    with pytest.raises(TargetError, match="not in the manifest"):
        split_by_group(Patients(5), PARTS, image_ids=[3, 4])


# By class ------------------------------------------------------------------------------------------------


def shares_of_classes(sampler, split):
    """Return, per part and class, the share of all annotations of that class."""
    names = sampler.class_map.names
    counts = np.zeros((len(split), len(names)))
    for row, ids in enumerate(split.values()):
        for image_id in ids:
            for category in sampler.shapes_of(image_id).category_ids.tolist():
                index = sampler.class_map.index_of(category)
                if index not in (0, sampler.class_map.ignore):
                    counts[row, index] += 1
    counts = counts[:, counts.sum(axis=0) > 0]
    return counts / counts.sum(axis=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_have_their_share_of_every_class(seed):
    sampler = Patients(900, lambda at: f"p{at // 3}", seed=seed)
    split = split_by_class(sampler, PARTS, seed)
    check_split(sampler, split, complete=True)
    wanted = np.array([[PARTS[name]] for name in split])
    assert np.abs(shares_of_classes(sampler, split) - wanted).max() < 0.01
    assert [len(ids) / 900 for ids in split.values()] == pytest.approx(
        [PARTS[name] for name in split], abs=0.01
    )


def test_pixels_are_balanced():
    sampler = RectangleSampler(400)
    split = split_by_class(sampler, {"a": 1, "b": 3}, by="pixels")
    index = sampler.foreground
    pixels = [index.pixels[[index.row(one) for one in ids], 1:3].sum(axis=0) for ids in split.values()]
    assert pixels[0] / (pixels[0] + pixels[1]) == pytest.approx(0.25, abs=0.01)


def harm(sampler, split, fractions):
    """Return the sum that split_by_class keeps small, from its definition."""
    shares = shares_of_classes(sampler, split)
    images = np.array([[len(ids)] for ids in split.values()]) / len(sampler.image_ids)
    wanted = np.array([[fractions[name]] for name in split]) / sum(fractions.values())
    return float((wanted * (np.hstack([shares, images]) / wanted - 1) ** 2).sum())


@pytest.mark.parametrize("seed", range(6))
def test_near_the_best_of_all_splits(seed):
    # 9 groups in 2 parts: 512 splits, all of them looked at.
    sampler = Patients(27, lambda at: f"p{at // 3}", seed=seed)
    fractions = {"a": 2, "b": 1}
    split = split_by_class(sampler, fractions)
    ids = sampler.image_ids
    every = []
    for choice in range(1, 511):
        parts = {"a": [], "b": []}
        for at, one in enumerate(ids):
            parts["b" if choice >> (at // 3) & 1 else "a"].append(one)
        every.append(harm(sampler, parts, fractions))
    # Greedy choice with moves need not find the best, but one of the best.
    assert harm(sampler, split, fractions) <= np.quantile(every, 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_as_even_as_those_of_scikit_learn(seed):
    selection = pytest.importorskip("sklearn.model_selection")
    sampler = Patients(200, lambda at: f"p{Draws(seed, 0, at // 2).below(45)}", seed=seed)
    folds = [split["val"] for split in k_folds(sampler, 5, seed)]
    rows = [
        (image_id, sampler.class_map.index_of(category))
        for image_id in sampler.image_ids
        for category in sampler.shapes_of(image_id).category_ids.tolist()
        if sampler.class_map.index_of(category) not in (0, sampler.class_map.ignore)
    ]
    groups = [sampler.image_record(image_id).group for image_id, _ in rows]
    theirs = selection.StratifiedGroupKFold(5).split(rows, [label for _, label in rows], groups)
    other = {str(n): sorted({rows[at][0] for at in held}) for n, (_, held) in enumerate(theirs)}
    ours = dict(enumerate(folds))
    assert (
        shares_of_classes(sampler, ours).std(axis=0).mean()
        <= shares_of_classes(sampler, other).std(axis=0).mean()
    )


def test_bad_word():
    with pytest.raises(TargetError, match="by must be one of annotations, pixels, got 'images'"):
        split_by_class(Patients(9), PARTS, by="images")


# Folds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["annotations", None])
@pytest.mark.parametrize("k", [2, 5, 12])
def test_every_image_is_held_out_once(k, by):
    sampler = Patients(60, lambda at: f"p{at // 4}")
    folds = k_folds(sampler, k, seed=3, by=by)
    assert len(folds) == k
    held = Counter(one for fold in folds for one in fold["val"])
    assert held == Counter(sampler.image_ids)
    for fold in folds:
        check_split(sampler, fold, complete=True)


@pytest.mark.parametrize("k", [1, 0, 16])
def test_number_of_folds(k):
    with pytest.raises(TargetError, match="number of groups, 15"):
        k_folds(Patients(60, lambda at: f"p{at // 4}"), k)


# As given ------------------------------------------------------------------------------------------------


def test_lists_are_taken_as_given():
    assert split_as_given(Patients(5), {"a": (10, 3), "b": np.array([17])}) == {"a": [10, 3], "b": [17]}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, "no list"),
        ({"a": [3], "b": [4]}, "'b' names image 4, which the manifest has not"),
        ({"a": [3, 10, 3]}, "'a' names image 3 twice"),
        ({"a": [3], "b": [10, 3]}, "'b' names image 3 as 'a' does"),
        ({"a": [3], "b": [10]}, "3 images of the manifest are in no part: 17, 24, 31"),
    ],
)
def test_lists_that_are_no_split(lists, message):
    with pytest.raises(TargetError, match=message):
        split_as_given(Patients(5), lists, complete=True)


def test_leaking_groups_are_found():
    sampler = Patients(4, lambda at: "xxyz"[at])
    check_split(sampler, {"a": [3, 10], "b": [17]})
    with pytest.raises(SamplingError, match=r"1 groups.*group x \(image 3 in 'a', image 10 in 'b'\)"):
        check_split(sampler, {"a": [3], "b": [10, 17]})
    # Whose groups these are can be said.
    check_split(sampler, {"a": [3], "b": [10, 17]}, groups={})
    with pytest.raises(SamplingError, match="group 1"):
        check_split(sampler, {"a": [3], "b": [17]}, groups={3: 1, 17: 1})


# By region -----------------------------------------------------------------------------------------------


@given(
    height=st.integers(60, 400),
    width=st.integers(60, 400),
    guard=st.integers(0, 9),
    parts=st.integers(1, 4),
    block=st.none() | st.tuples(st.integers(20, 90), st.integers(20, 90)),
    seed=st.integers(0, 20),
)
def test_regions_are_apart_and_inside(height, width, guard, parts, block, seed):
    sampler = Sizes([(height, width)])
    fractions = {f"part{number}": 1 + number for number in range(parts)}
    try:
        split = split_by_region(sampler, fractions, seed, guard_px=guard, block_px=block, min_px=3)
    except SamplingError:
        # Too small an image: the smallest strip is rounded to less than 3, or there are few blocks.
        usable = max(height, width) - guard * (parts - 1)
        assert block or usable / sum(range(1, parts + 1)) < 4
        return
    check_split(sampler, split, guard_px=guard)
    # Painted, and grown by one pixel less than the band: nothing is painted twice.
    owner = np.zeros((height, width), int)
    for number, regions in enumerate(split.values()):
        for area in regions[3]:
            assert min(area.shape) >= 3
            assert not owner[area.as_slices()].any()
            owner[area.as_slices()] = number + 1
            assert Window(0, 0, height, width).contains(area)
    for number, regions in enumerate(split.values()):
        for area in regions[3]:
            near = area.grow(*[max(guard - 1, 0)] * 4).intersect(Window(0, 0, height, width))
            if guard:
                assert set(np.unique(owner[near.as_slices()])) <= {0, number + 1}
    if block is None:
        # The band takes nothing but what it needs.
        assert (owner == 0).sum() == guard * (parts - 1) * min(height, width)
        areas = [(owner == number + 1).sum() for number in range(parts)]
        assert np.array(areas) / sum(areas) == pytest.approx(
            np.arange(1, parts + 1) / sum(range(1, parts + 1)), abs=1.5 / (max(height, width) - guard * parts)
        )


def test_blocks_are_dealt_out_in_proportion():
    sampler = Sizes([(2000, 3000)])
    split = split_by_region(sampler, PARTS, guard_px=10, block_px=100)
    counts = {name: len(regions[3]) for name, regions in split.items()}
    assert counts == {"test": 60, "train": 420, "val": 120}


def test_parts_lie_elsewhere_in_every_image_and_alone():
    sizes = [(1000, 300)] * 40
    split = split_by_region(Sizes(sizes), {"a": 1, "b": 1}, guard_px=16)
    first = [split["a"][one][0].y == 0 for one in Sizes(sizes).image_ids]
    assert 5 < sum(first) < 35
    fewer = split_by_region(Sizes(sizes), {"a": 1, "b": 1}, guard_px=16, image_ids=[10, 3])
    assert fewer == {name: {one: regions[one] for one in (10, 3)} for name, regions in split.items()}


@pytest.mark.parametrize(
    "options", [{"guard_px": 99}, {"guard_px": 0, "min_px": 51}, {"guard_px": 0, "block_px": 80}]
)
def test_images_too_small_for_regions(options):
    with pytest.raises(SamplingError, match="image 3 of 100 x 90 pixels is too small for 2 parts"):
        split_by_region(Sizes([(100, 90)]), {"a": 1, "b": 1}, **options)


def test_negative_guard():
    with pytest.raises(TargetError, match="guard_px"):
        split_by_region(Sizes([(100, 90)]), {"a": 1}, guard_px=-1)


@pytest.mark.parametrize(("gap", "guard", "fine"), [(5, 5, True), (4, 5, False), (0, 0, True), (-1, 0, False)])
@pytest.mark.parametrize("axis", [0, 1])
def test_regions_too_near_are_found(gap, guard, fine, axis):
    other = (10 + gap, 0, 10, 10) if axis == 0 else (0, 10 + gap, 10, 10)
    split = {"a": {3: (Window(0, 0, 10, 10),)}, "b": {3: (Window(*other),)}}
    sampler = Sizes([(100, 100)])
    if fine:
        assert check_split(sampler, split, guard_px=guard).regions == {"a": 1, "b": 1}
    else:
        with pytest.raises(SamplingError, match=r"the split leaks: 1 rectangles.*of 'a' and .*of 'b'"):
            check_split(sampler, split, guard_px=guard)


def test_regions_diagonal_to_each_other():
    split = {"a": {3: (Window(0, 0, 10, 10),)}, "b": {3: (Window(12, 13, 10, 10),)}}
    check_split(Sizes([(100, 100)]), split, guard_px=3)
    with pytest.raises(SamplingError, match="leaks"):
        check_split(Sizes([(100, 100)]), split, guard_px=4)


def test_regions_outside_the_image_are_found():
    with pytest.raises(SamplingError, match="overhangs"):
        check_split(Sizes([(100, 100)]), {"a": {3: (Window(95, 0, 10, 10),)}})
    with pytest.raises(TargetError, match="image 4"):
        check_split(Sizes([(100, 100)]), {"a": {4: (Window(0, 0, 10, 10),)}})


# Sources that stay inside --------------------------------------------------------------------------------


def regions_of(sampler, part="a"):
    ids = [one for one in sampler.image_ids if min(sampler.image_shape(one)[:2]) >= 400]
    return split_by_region(sampler, {"a": 3, "b": 2}, guard_px=20, min_px=64, image_ids=ids)[part]


@pytest.mark.parametrize("kind", [PositiveSource, NegativeSource])
def test_windows_of_two_parts_never_meet(kind):
    sampler = RectangleSampler(60)
    drawn = {}
    for part in ("a", "b"):
        regions = regions_of(sampler, part)
        source = RestrictedSource(kind(sampler, 48, n=300, seed=1, image_ids=list(regions)), regions)
        assert len(source) == 300
        targets = [source.target(epoch, index) for epoch in (0, 1) for index in range(300)]
        assert all(inside_regions(regions, one.image_id, one.window) for one in targets)
        drawn[part] = targets
    for one in drawn["a"]:
        near = one.window.grow(19, 19, 19, 19)
        assert not any(o.image_id == one.image_id and near.intersect(o.window) for o in drawn["b"])


def test_redrawn_windows_are_distributed_as_the_sources_are():
    # Nine places at random, of which four lie inside: each of the four comes as often.
    class Places:
        def __len__(self):
            return 50

        def target(self, epoch, index):
            place = Draws(0, epoch, index).below(9)
            return FixedSource([{"image_id": 3, "window": (10 * place, 0, 10, 10)}]).target(0, 0)

    source = RestrictedSource(Places(), {3: (Window(20, 0, 40, 10),)})
    counts = Counter(source.target(epoch, index).window.y for epoch in range(40) for index in range(50))
    assert sorted(counts) == [20, 30, 40, 50]
    # 2000 draws, a quarter each: standard deviation 19.4.
    assert max(abs(count - 500) for count in counts.values()) < 4.5 * 19.4


def test_selects_exactly_the_windows_inside():
    sampler = RectangleSampler(30)
    regions = regions_of(sampler)
    grid = GridSource(sampler, 48, stride=24)
    source = RestrictedSource(grid, regions, choose="select")
    every = [grid.target(0, index) for index in range(len(grid))]
    expected = [one for one in every if inside_regions(regions, one.image_id, one.window)]
    assert [source.target(5, index) for index in range(len(source))] == expected
    assert 100 < len(expected) < len(every)


def test_targets_that_say_where_in_another_way():
    sampler = RectangleSampler(3)
    inside = {"image_id": 3, "cx": 30, "cy": 30, "width": 20, "height": 20}
    padded = {"image_id": 3, "window": (20, 20, 20, 20), "pad": 5}
    regions = {3: (Window(20, 20, 20, 20),)}
    source = RestrictedSource(FixedSource([inside, padded]), regions, sampler, choose="select")
    assert [source.target(0, i).cx for i in range(len(source))] == [30]
    with pytest.raises(TargetError, match="FixedSource has no sampler"):
        RestrictedSource(FixedSource([inside]), regions, choose="select")


def test_nothing_inside():
    fixed = FixedSource([{"image_id": 3, "window": (0, 0, 20, 20)}])
    regions = {3: (Window(1, 0, 50, 50),), 10: (Window(0, 0, 50, 50),)}
    with pytest.raises(
        SamplingError, match="none of the 1 windows of FixedSource lies inside the 2 rectangles"
    ):
        RestrictedSource(fixed, regions, choose="select")
    with pytest.raises(SamplingError, match="none of 7 windows for index 0 of epoch 4"):
        RestrictedSource(fixed, regions, max_tries=7).target(4, 0)


def test_a_source_that_changes_cannot_be_selected_from():
    sampler = RectangleSampler(60)
    regions = regions_of(sampler)
    source = RestrictedSource(
        PositiveSource(sampler, 48, n=300, image_ids=list(regions)), regions, choose="select"
    )
    with pytest.raises(SamplingError, match="not the same in epoch 1"):
        _ = [source.target(1, index) for index in range(len(source))]


def test_bad_options():
    fixed = FixedSource([{"image_id": 3, "window": (0, 0, 20, 20)}])
    with pytest.raises(TargetError, match="choose must be one of redraw, select"):
        RestrictedSource(fixed, {}, choose="filter")
    with pytest.raises(ValueError, match="max_tries"):
        RestrictedSource(fixed, {}, max_tries=0)


def test_pickle_has_a_bit_for_each_window():
    sampler = RectangleSampler(30)
    grid = GridSource(sampler, 32, stride=16)
    source = RestrictedSource(grid, regions_of(sampler), choose="select")
    source.target(0, 0)
    assert len(grid) > 20_000
    assert len(pickle.dumps(source)) < len(grid) / 8 + 3000


class TestRestrictedPositives(SourceContract):
    def make_sampler(self):
        return RectangleSampler(300)

    def make_source(self, sampler):
        regions = regions_of(sampler)
        return RestrictedSource(PositiveSource(sampler, 48, n=50, image_ids=list(regions)), regions, seed=2)


class TestRestrictedGrid(SourceContract):
    random = False

    def make_sampler(self):
        return RectangleSampler(100)

    def make_source(self, sampler):
        return RestrictedSource(GridSource(sampler, 48), regions_of(sampler), choose="select")
