"""How likely PositiveSource finds classes, slides and groups, against closed forms."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from positive_samplers import BoxSampler, follows, is_plausible, targets_of

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.models import ClassMap
from slidesampler.sampling.positive import PositiveSource
from slidesampler.testing.source_contract import MAX_PICKLE_BYTES, RectangleSampler, SourceContract

N = 4000

#: Tumour (10) on all three slides, stroma (20) on two, necrosis (40) on one.
SLIDES = BoxSampler(
    [(10, (0, 0, 10, 10))] * 30 + [(20, (50, 50, 60, 60))],
    [(10, (20, 20, 30, 40))] * 9,
    [(10, (0, 0, 10, 5)), (20, (70, 70, 80, 100)), (20, (200, 70, 205, 100)), (40, (100, 0, 110, 10))],
    sizes=[(200, 200), (400, 900), (100, 400)],
    groups=["ada", "ada", "bob"],
)


def classes_of(source):
    return [target.category_id for target in targets_of(source)]


def images_of(source, category=None):
    return [target.image_id for target in targets_of(source) if category in (None, target.category_id)]


def pixel_counts(sampler, image_ids=None):
    """Pixels of each class, counted in the masks."""
    counts = Counter()
    for image_id in image_ids or sampler.image_ids:
        mask = sampler.load_mask(image_id, Window(0, 0, *sampler.image_shape(image_id)[:2]))
        counts.update(dict(zip(*np.unique(mask, return_counts=True), strict=True)))
    return counts


# Classes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choose", ["annotation", "pixel"])
@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ("uniform", {10: 1, 20: 1, 40: 1}),
        ({"tumour": 1, "stroma": 5, "necrosis": 2}, {10: 1, 20: 5, 40: 2}),
        ({"stroma": 5, 40: 2.5}, {20: 2, 40: 1}),
        ({"tissue": 1, "necrosis": 2}, {10: 1, 20: 1, 40: 2}),
        ({"tumour": 0, "stroma": 1e-300}, {20: 1}),
    ],
)
def test_class_weights(choose, weights, shares):
    source = PositiveSource(SLIDES, 8, n=N, seed=1, choose=choose, class_weights=weights)
    assert follows(classes_of(source), shares)


def test_without_class_weights_each_annotation_has_the_same_chance():
    drawn = classes_of(PositiveSource(SLIDES, 8, n=N, slide_weights="uniform"))
    assert follows(drawn, {10: 40, 20: 3, 40: 1})


def test_without_class_weights_each_pixel_has_the_same_chance():
    pixels = pixel_counts(SLIDES)
    source = PositiveSource(SLIDES, 8, n=N, choose="pixel")
    assert follows(classes_of(source), {10: pixels[1], 20: pixels[2], 40: pixels[3]})


@pytest.mark.parametrize("choose", ["annotation", "pixel"])
@pytest.mark.parametrize("image_ids", [None, (3, 17)])
def test_inverse_frequency_is_one_over_the_pixels_on_the_images_chosen_from(choose, image_ids):
    pixels = pixel_counts(SLIDES, image_ids)
    source = PositiveSource(
        SLIDES, 8, n=N, choose=choose, class_weights="inverse_frequency", image_ids=image_ids
    )
    assert follows(classes_of(source), {10: 1 / pixels[1], 20: 1 / pixels[2], 40: 1 / pixels[3]})


def test_inverse_frequency_leaves_out_slides_that_are_never_chosen():
    pixels = pixel_counts(SLIDES, (3, 17))
    source = PositiveSource(
        SLIDES, 8, n=N, class_weights="inverse_frequency", slide_weights={3: 1, 10: 0, 17: 1}
    )
    assert follows(classes_of(source), {10: 1 / pixels[1], 20: 1 / pixels[2], 40: 1 / pixels[3]})


def test_a_class_whose_pixels_are_all_covered_has_no_inverse_frequency():
    covered = BoxSampler([(20, (10, 10, 20, 20)), (10, (0, 0, 50, 50))])
    with pytest.raises(SamplingError, match="'stroma' has annotations but no pixel in the manifest"):
        PositiveSource(covered, 8, n=9, class_weights="inverse_frequency")
    source = PositiveSource(covered, 8, n=9, choose="pixel", class_weights="inverse_frequency")
    assert set(classes_of(source)) == {10}


def test_categories_limit_the_classes_that_are_weighed():
    source = PositiveSource(SLIDES, 8, n=N, class_weights="uniform", categories=["stroma", 40])
    assert follows(classes_of(source), {20: 1, 40: 1})
    with pytest.raises(SamplingError, match="class_weights names class 'tumour', but there is no annotation"):
        PositiveSource(SLIDES, 8, n=9, class_weights={"tumour": 1, "stroma": 1}, categories="stroma")


def test_length_is_what_can_be_chosen():
    assert len(PositiveSource(SLIDES, 8)) == len(PositiveSource(SLIDES, 8, class_weights="uniform")) == 44
    assert len(PositiveSource(SLIDES, 8, class_weights={"stroma": 1, "tumour": 0})) == 3
    assert len(PositiveSource(SLIDES, 8, slide_weights={3: 0, 10: 1, 17: 1})) == 13


# Slides -------------------------------------------------------------------------------------------------------

AREAS = {3: 200 * 200, 10: 400 * 900, 17: 100 * 400}


@pytest.mark.parametrize("choose", ["annotation", "pixel"])
@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ("uniform", {3: 1, 10: 1, 17: 1}),
        ("area", AREAS),
        ("sqrt_area", {image_id: area**0.5 for image_id, area in AREAS.items()}),
        ({3: 0.5, 10: 0, 17: 2}, {3: 0.5, 17: 2}),
    ],
)
def test_slide_weights(choose, weights, shares):
    source = PositiveSource(SLIDES, 8, n=N, seed=2, choose=choose, categories="tumour", slide_weights=weights)
    assert follows(images_of(source), shares)


def test_without_slide_weights_a_slide_counts_by_what_it_has_of_the_class():
    source = PositiveSource(SLIDES, 8, n=N, class_weights="uniform")
    assert follows(images_of(source, 10), {3: 30, 10: 9, 17: 1})
    assert follows(images_of(source, 20), {3: 1, 17: 2})
    source = PositiveSource(SLIDES, 8, n=N, class_weights="uniform", choose="pixel")
    # The tumour boxes of a slide are one above the other.
    assert follows(images_of(source, 10), {3: 100, 10: 200, 17: 50})


def test_only_slides_that_have_the_class():
    drawn = targets_of(PositiveSource(SLIDES, 8, n=N, class_weights="uniform", slide_weights="uniform"))
    where = {category: {t.image_id for t in drawn if t.category_id == category} for category in (10, 20, 40)}
    assert where == {10: {3, 10, 17}, 20: {3, 17}, 40: {17}}
    # Whatever the weights of slides, classes are weighed first.
    assert follows((target.category_id for target in drawn), {10: 1, 20: 1, 40: 1})


def test_a_class_that_is_only_on_slides_that_are_never_chosen():
    weights = {3: 1, 10: 1, 17: 0}
    assert set(classes_of(PositiveSource(SLIDES, 8, n=200, slide_weights=weights))) == {10, 20}
    with pytest.raises(SamplingError, match="no annotation of category 'necrosis' in"):
        PositiveSource(SLIDES, 8, n=9, slide_weights=weights, categories=["stroma", "necrosis"])
    with pytest.raises(SamplingError, match="names class 'necrosis'"):
        PositiveSource(SLIDES, 8, n=9, slide_weights=weights, class_weights={"necrosis": 1})


@pytest.mark.parametrize(("choose", "shares"), [("annotation", {10: 39, 20: 1}), ("pixel", {10: 3, 20: 1})])
def test_what_is_on_slides_that_are_never_chosen_counts_for_nothing(choose, shares):
    source = PositiveSource(SLIDES, 8, n=N, choose=choose, slide_weights={3: 1, 10: 1, 17: 0})
    assert follows(classes_of(source), shares)


@pytest.mark.parametrize(
    ("weights", "within"),
    [(None, (30, 9)), ("uniform", (1, 1)), ("area", (1, 9)), ({3: 3, 10: 1, 17: 9}, (3, 1))],
)
def test_groups_have_the_same_chance(weights, within):
    source = PositiveSource(
        SLIDES, 8, n=N, seed=3, categories="tumour", slide_weights=weights, balance_by="group"
    )
    first, second = np.array(within) / sum(within) / 2
    assert follows(images_of(source), {3: first, 10: second, 17: 0.5})


def test_a_group_without_the_class_has_no_share():
    sampler = BoxSampler(
        [(10, (0, 0, 9, 9))], [(20, (0, 0, 9, 9))], [(20, (0, 0, 9, 9))], groups=["ada", "bob", "cyd"]
    )
    source = PositiveSource(sampler, 8, n=N, class_weights={"tumour": 1, "stroma": 3}, balance_by="group")
    assert follows(images_of(source), {3: 1, 10: 1.5, 17: 1.5})


# What a choice of one thing does not change -------------------------------------------------------------------


@pytest.mark.parametrize("choose", ["annotation", "pixel"])
def test_jitter_and_border_do_not_change_what_is_chosen(choose):
    def drawn(**options):
        source = PositiveSource(SLIDES, 20, n=200, choose=choose, class_weights="uniform", **options)
        return targets_of(source)

    plain = drawn()
    for other in (drawn(jitter_px=7), drawn(allow_border=False), drawn(jitter_px=(0, 5), allow_border=False)):
        assert [(t.image_id, t.annot_id, t.category_id) for t in other] == [
            (t.image_id, t.annot_id, t.category_id) for t in plain
        ]
    # Jitter along y leaves x alone, and the other way round.
    assert [t.window.x for t in drawn(jitter_px=(9, 5))] == [t.window.x for t in drawn(jitter_px=(0, 5))]
    assert [t.window.y for t in drawn(jitter_px=(9, 5))] == [t.window.y for t in drawn(jitter_px=(9, 0))]


def test_jitter_of_pixels_is_uniform_in_its_bounds():
    def starts(jitter):
        source = PositiveSource(SLIDES, 64, n=N, seed=5, choose="pixel", jitter_px=jitter)
        return np.array([(t.window.y, t.window.x) for t in targets_of(source)])

    moved = [tuple(by) for by in (starts((1, 2)) - starts(0)).tolist()]
    assert follows(moved, {(dy, dx): 1 for dy in (-1, 0, 1) for dx in (-2, -1, 0, 1, 2)})


def test_jitter_is_cut_to_what_keeps_the_pixel_in_the_window():
    one = BoxSampler([(10, (200, 150, 201, 151))])
    source = PositiveSource(one, (3, 5), n=N, choose="pixel", jitter_px=1000)
    starts = [(target.window.y, target.window.x) for target in targets_of(source)]
    assert follows(starts, {(y, x): 1 for y in (148, 149, 150) for x in range(196, 201)})


@pytest.mark.parametrize("choose", ["annotation", "pixel"])
def test_windows_are_pushed_back_and_still_hold_what_was_chosen(choose):
    corners = BoxSampler([(10, (0, 0, 3, 3)), (20, (496, 397, 500, 400))])
    source = PositiveSource(corners, 64, n=50, choose=choose, allow_border=False, jitter_px=9)
    windows = {target.window for target in targets_of(source)}
    assert windows == {Window(0, 0, 64, 64), Window(400 - 64, 500 - 64, 64, 64)}


@pytest.mark.parametrize("choose", ["annotation", "pixel"])
def test_a_window_larger_than_the_image_has_all_of_it(choose):
    small = BoxSampler([(10, (0, 0, 3, 3)), (10, (90, 290, 100, 300))], sizes=[(300, 100)])
    source = PositiveSource(small, 256, n=200, choose=choose, jitter_px=200, allow_border=False)
    for target in targets_of(source):
        assert 0 <= target.window.y <= 300 - 256
        assert 100 - 256 <= target.window.x <= 0


# Classes that several categories share ------------------------------------------------------------------------


class Merged(BoxSampler):
    class_map = ClassMap(("background", "tissue", "dead"), {20: 1, 10: 1, 30: 0, 40: 2}, {})


def test_pixels_tell_classes_apart_not_categories():
    sampler = Merged([(10, (0, 0, 9, 9)), (20, (50, 50, 60, 60)), (40, (90, 90, 99, 99))])
    with pytest.raises(TargetError, match="'tumour' is drawn as class 'tissue' together with 'stroma'"):
        PositiveSource(sampler, 8, n=9, choose="pixel", categories="tumour")
    with pytest.raises(TargetError, match="name 'tissue'"):
        PositiveSource(sampler, 8, n=9, class_weights={"tumour": 1})
    drawn = targets_of(PositiveSource(sampler, 1, n=N, choose="pixel", categories="tissue"))
    # The first category of the class, in the manifest's order.
    assert {target.category_id for target in drawn} == {20}
    assert follows((target.window.y < 20 for target in drawn), {True: 81, False: 100})
    weighed = PositiveSource(sampler, 8, n=N, class_weights={"tissue": 1, "dead": 3})
    assert follows(classes_of(weighed), {10: 0.5, 20: 0.5, 40: 3})


def test_annotations_are_uniform_within_class_and_slide():
    source = PositiveSource(SLIDES, 8, n=N, class_weights="uniform", slide_weights="uniform")
    drawn = Counter(t.annot_id for t in targets_of(source) if (t.image_id, t.category_id) == (3, 10))
    assert set(drawn) == set(range(1000, 1030))
    assert is_plausible(list(drawn.values()), [sum(drawn.values()) / 30] * 30)


# What is looked at --------------------------------------------------------------------------------------------


class Blind(RectangleSampler):
    @property
    def foreground(self):
        raise AssertionError("the foreground index was asked for")


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": "uniform"}, {"class_weights": {"tumour": 2}, "slide_weights": "area"}]
)
def test_annotations_need_no_foreground_index(options):
    assert len(targets_of(PositiveSource(Blind(50), 8, **options))) > 9


@pytest.mark.parametrize("options", [{"choose": "pixel"}, {"class_weights": "inverse_frequency"}])
def test_pixels_do(options):
    with pytest.raises(AssertionError, match="foreground index"):
        PositiveSource(Blind(50), 8, n=9, **options)


# Promises of every source -------------------------------------------------------------------------------------


class GroupedSampler(RectangleSampler):
    def image_record(self, image_id):
        return replace(super().image_record(image_id), group=f"patient {image_id % 11}")

    @property
    def foreground(self):
        return RectangleSampler(self.images, self.seed).foreground


class PositiveContract(SourceContract):
    """Few images: that sources pickle small over 10,000 is tested below."""

    def make_sampler(self):
        return GroupedSampler(300)


class TestPositivePixels(PositiveContract):
    def make_source(self, sampler):
        return PositiveSource(sampler, 64, n=1000, seed=7, choose="pixel", jitter_px=20)


class TestPositivePixelsWeighed(PositiveContract):
    def make_source(self, sampler):
        return PositiveSource(
            sampler,
            (32, 48),
            n=10**9,
            seed=-5,
            choose="pixel",
            categories="tissue",
            class_weights="inverse_frequency",
            slide_weights="sqrt_area",
            allow_border=False,
            mpp=1.25,
        )


class TestPositiveGivenSlides(PositiveContract):
    def make_source(self, sampler):
        ids = sampler.image_ids[::-1]
        weights = {image_id: 1 + image_id % 3 for image_id in ids}
        return PositiveSource(
            sampler, 64, n=1000, class_weights={"tumour": 1, "stroma": 4}, slide_weights=weights, image_ids=ids
        )


class TestPositiveGroups(PositiveContract):
    def make_source(self, sampler):
        return PositiveSource(sampler, 64, slide_weights="area", balance_by="group", jitter_px=(0, 9))


def test_a_pickle_holds_no_table():
    sampler = RectangleSampler()
    source = PositiveSource(sampler, 64, n=1000, class_weights="uniform", slide_weights="area")
    targets_of(source)
    assert len(pickle.dumps(source)) < 2000
    ids = sampler.image_ids[::-1]
    weights = {image_id: 0.1 + image_id % 7 for image_id in ids}
    given = PositiveSource(sampler, 64, n=9, slide_weights=weights, image_ids=ids)
    assert len(pickle.dumps(given)) <= MAX_PICKLE_BYTES
    assert targets_of(pickle.loads(pickle.dumps(given))) == targets_of(given)
