"""Words for categories and classes, and weights of slides."""

from __future__ import annotations

import numpy as np
import pytest
from positive_samplers import BoxSampler

from slidesampler.errors import SamplingError, TargetError
from slidesampler.models import ClassMap
from slidesampler.sampling.categories import (
    categories_of,
    class_weights_of,
    classes_of,
    foreground_categories,
    foreground_classes,
    words_of,
)
from slidesampler.sampling.class_rule import ClassRule
from slidesampler.sampling.slides import SlideRule, slide_weights
from slidesampler.testing.source_contract import RectangleSampler

SAMPLER = RectangleSampler(4)


class Merged(RectangleSampler):
    class_map = ClassMap(("background", "tissue", "dead"), {10: 1, 20: 1, 30: 255, 40: 2}, {"necrosis": "dead"})


@pytest.mark.parametrize(
    ("word", "categories", "classes"),
    [
        ("tumour", (10,), (1,)),
        (20, (20,), (2,)),
        (np.int32(20), (20,), (2,)),
        ("tissue", (10, 20), (1, 2)),
        ("glass", (30,), (0,)),
        ("background", (30,), (0,)),
        ("necrosis", (40,), (3,)),
    ],
)
def test_what_a_word_stands_for(word, categories, classes):
    assert categories_of(SAMPLER, word) == categories
    assert classes_of(SAMPLER, word) == classes


def test_a_class_of_several_categories():
    sampler = Merged(4)
    assert categories_of(sampler, "tissue") == (10, 20)
    assert classes_of(sampler, "tissue") == (1,)
    assert classes_of(sampler, "dead") == classes_of(sampler, "necrosis") == (2,)
    assert classes_of(sampler, "glass") == ()
    assert foreground_classes(sampler, ["dead", "tissue", "necrosis"]) == (1, 2)
    assert foreground_categories(sampler, [10, "dead"]) == {10: (10,), "dead": (40,)}
    with pytest.raises(TargetError, match="'stroma' is drawn as class 'tissue' together with 'tumour'"):
        foreground_classes(sampler, "stroma")
    with pytest.raises(TargetError, match="'glass' stands for the background or for ignored"):
        foreground_classes(sampler, "glass")


def test_no_word_is_every_class():
    assert foreground_categories(SAMPLER, None) is None
    assert foreground_classes(SAMPLER, None) == (1, 2, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "labels is empty"),
        (3.5, "labels takes names and category ids, got 3.5"),
        ([True], "got True"),
        ([None], "got None"),
        (None, "got None"),
    ],
)
def test_what_is_no_word(words, message):
    with pytest.raises(TargetError, match=message):
        words_of(words, "labels")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tumor", "no category 'tumor'; did you mean 'tumour'"),
        ("zzz", "it has background, glass, necrosis, stroma, tissue, tumour"),
        (11, "no category id 11; it has 10, 20, 30, 40"),
    ],
)
def test_unknown_words(word, message):
    for function in (categories_of, classes_of):
        with pytest.raises(TargetError, match=message):
            function(SAMPLER, word)


def test_class_weights():
    assert class_weights_of(SAMPLER, {"tissue": 2, 40: 0.5}) == {1: 2.0, 2: 2.0, 3: 0.5}
    with pytest.raises(TargetError, match="gives class 'stroma' a weight twice, the second time as 20"):
        class_weights_of(SAMPLER, {"tissue": 2, 20: 1})
    for bad in (-1, float("nan"), float("inf"), "1", True):
        with pytest.raises(TargetError, match=r"class_weights\['tumour'\] must be a finite number"):
            class_weights_of(SAMPLER, {"tumour": bad})


def test_rules_say_what_they_are():
    assert repr(ClassRule(SAMPLER, {"tumour": 2})) == "ClassRule({1: 2.0})"
    assert repr(SlideRule(SAMPLER, (3, 10), {3: 1, 10: 2}, "group")) == (
        "SlideRule(<of 2 images>, balance_by='group')"
    )


# Slides -------------------------------------------------------------------------------------------------------

GROUPED = BoxSampler([], [], [], [], sizes=[(10, 10), (20, 20), (30, 30), (5, 8)], groups=["a", "a", "b", "c"])
IDS = GROUPED.image_ids


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"weights": "area"}, [100, 400, 900, 40]),
        ({"weights": "sqrt_area"}, [10, 20, 30, 40**0.5]),
        ({"weights": "area", "areas": [1, 2, 3, 4]}, [1, 2, 3, 4]),
        ({"weights": "sqrt_area", "areas": [1, 4, 9, 16]}, [1, 2, 3, 4]),
        ({"weights": {3: 4, 10: 2, 17: 0, 24: 1}}, [4, 2, 0, 1]),
        ({"possible": [True, False, True, False]}, [1, 0, 1, 0]),
        ({"balance_by": "group"}, [0.5, 0.5, 1, 1]),
        ({"weights": "area", "balance_by": "group"}, [0.2, 0.8, 1, 1]),
        ({"weights": "area", "balance_by": "group", "possible": [0, 1, 0, 1]}, [0, 1, 0, 1]),
        ({"weights": {3: 1, 10: 3, 17: 0, 24: 9}, "balance_by": "group"}, [0.25, 0.75, 0, 1]),
        ({"possible": [0, 0, 0, 0], "balance_by": "group"}, [0, 0, 0, 0]),
    ],
)
def test_slide_weights(arguments, expected):
    found = slide_weights(GROUPED, IDS, **arguments)
    assert found.dtype == np.float64
    # Only ratios count.
    assert found * max(expected) == pytest.approx(np.array(expected) * max(found.max(), 0))


def test_weights_go_with_the_ids_given():
    assert slide_weights(GROUPED, IDS[::-1], "area").tolist() == [40, 900, 400, 100]
    # Others of the manifest may be in the mapping.
    assert slide_weights(GROUPED, IDS[2:], {17: 1, 24: 2, 3: 0}).tolist() == [0.5, 1]


def test_weights_of_any_size():
    for scale in (1e-300, 1e300):
        assert slide_weights(GROUPED, IDS[:2], {3: scale, 10: 2 * scale}).tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": "big"}, TargetError, "must be one of uniform, area, sqrt_area, or a mapping"),
        ({"weights": [1, 2, 3, 4]}, TargetError, "must be one of"),
        ({"weights": {3: 1}}, TargetError, "leaves out 3 of 4 images, the first is 10"),
        ({"weights": {3: 1, 10: 1, 17: 1, 24: 1, 5: 1}}, TargetError, "names image 5, which is not in"),
        ({"weights": {3: 1, 10: -2, 17: 1, 24: 1}}, TargetError, r"slide_weights\[10\] must be a finite .* -2"),
        ({"weights": {3: 1, 10: np.nan, 17: 1, 24: 1}}, TargetError, r"\[10\] must be a finite"),
        ({"weights": {3: 1, 10: "a", 17: 1, 24: 1}}, TargetError, "must be numbers"),
        ({"weights": dict.fromkeys(IDS, 0)}, SamplingError, "is 0 for every image"),
        ({"balance_by": "patient"}, TargetError, "'group' or None, got 'patient'"),
    ],
)
def test_weights_that_are_none(arguments, error, message):
    with pytest.raises(error, match=message):
        slide_weights(GROUPED, IDS, **arguments)


def test_images_without_a_group():
    some = BoxSampler([], [], groups=["a", None])
    with pytest.raises(SamplingError, match="1 of 2 have none, the first is image 10"):
        slide_weights(some, some.image_ids, balance_by="group")
