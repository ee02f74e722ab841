from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from positive_samplers import BoxSampler, is_plausible, targets_of

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.models import NO_CATEGORY, ClassMap
from slidesampler.sampling.positive import PositiveSource
from slidesampler.testing.source_contract import RectangleSampler


def center_pixel(sampler, annot_id):
    """The pixel that holds the centre of the annotation's box inside its image."""
    image_id, row = sampler.locate_annot(annot_id)
    height, width, _ = sampler.image_shape(image_id)
    x0, y0, x1, y1 = np.clip(sampler.shapes_of(image_id).boxes_xyxy[row], 0, [width, height, width, height])
    return min(int(np.floor((y0 + y1) / 2)), height - 1), min(int(np.floor((x0 + x1) / 2)), width - 1)


@pytest.mark.parametrize("size", [1, 2, 7, (64, 33)])
@pytest.mark.parametrize("jitter_px", [0, 3, (500, 2), 10**6])
@pytest.mark.parametrize("how", [{}, {"downsample": 2.3}, {"mpp": 0.75}])
@pytest.mark.parametrize("inside", [False, True])
def test_window_holds_the_centre_of_its_annotation(size, jitter_px, how, inside):
    sampler = RectangleSampler(images=12)
    source = PositiveSource(sampler, size, seed=3, jitter_px=jitter_px, allow_border=not inside, **how)
    for target in targets_of(source, epochs=(0, 1)):
        y, x = center_pixel(sampler, target.annot_id)
        assert target.window.contains(Window(y, x, 1, 1))
        assert sampler.locate_annot(target.annot_id)[0] == target.image_id
        if inside:
            assert Window(0, 0, *sampler.image_shape(target.image_id)[:2]).contains(target.window)


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((100, 50, 120, 90), (32, 64), (54, 78)),  # centre (70, 110)
        ((100.5, 50.2, 101.5, 51.2), (1, 1), (50, 101)),  # the one pixel that holds (50.7, 101.0)
        ((-40, -10, 20, 30), (10, 10), (10, 5)),  # inside the image the box is (0, 0, 20, 30)
        ((490, 380, 700, 700), (10, 10), (385, 490)),
        ((600, 500, 700, 700), (10, 10), (395, 495)),  # wholly outside: the nearest corner
        ((500, 400, 500, 400), (1, 1), (399, 499)),  # a point on the far corner
    ],
)
def test_without_jitter_the_window_is_centred(box, size, expected):
    source = PositiveSource(BoxSampler([(10, box)]), size)
    window = source.target(5, 0).window
    assert (window.y, window.x) == expected


def test_each_annotation_once_an_epoch_in_order():
    sampler = RectangleSampler(images=60)
    wanted = [
        int(annot_id)
        for annot_id, category in zip(sampler.shapes.annot_ids, sampler.shapes.category_ids, strict=True)
        if category in (10, 20)
    ]
    assert len(wanted) < len(sampler.shapes)
    source = PositiveSource(sampler, 32, jitter_px=10)
    for epoch in (0, 1):
        assert [target.annot_id for target in targets_of(source, (epoch,))] == wanted


def test_annotations_without_a_class_are_never_chosen():
    sampler = RectangleSampler(images=60)
    for weights in (None, "uniform"):
        drawn = targets_of(PositiveSource(sampler, 32, n=500, class_weights=weights))
        assert {target.category_id for target in drawn} == {10, 20}


def test_category_that_is_ignored_is_never_chosen():
    class Ignoring(BoxSampler):
        class_map = ClassMap(("background", "tumour"), {10: 1, 20: 255, 30: 0, 40: 255}, {})

    box = (10, 10, 20, 20)
    sampler = Ignoring([(20, box), (10, box), (30, box), (NO_CATEGORY, box), (40, box)])
    assert [target.annot_id for target in targets_of(PositiveSource(sampler, 8))] == [1001]
    with pytest.raises(TargetError, match="'stroma' stands for the background or for ignored"):
        PositiveSource(sampler, 8, categories="stroma")


CROWDED = BoxSampler(
    [(10, (i, i, i + 9, i + 9)) for i in range(90)],
    [(20, (i, 0, i + 9, 9)) for i in range(9)],
    [(40, (0, 0, 9, 9))],
)


def test_without_weights_it_is_uniform_over_annotations():
    n = 3000
    counts = Counter(t.annot_id for t in targets_of(PositiveSource(CROWDED, 8, n=n, seed=1)))
    assert set(counts) == set(range(1000, 1100))
    assert is_plausible(list(counts.values()), [n / 100] * 100)


def test_uniform_class_weights_are_uniform_over_classes_and_within_them():
    n = 3000
    drawn = targets_of(PositiveSource(CROWDED, 8, n=n, seed=1, class_weights="uniform"))
    classes = Counter(target.category_id for target in drawn)
    assert set(classes) == {10, 20, 40}
    assert is_plausible(list(classes.values()), [n / 3] * 3)
    within = Counter(target.annot_id for target in drawn if target.category_id == 10)
    assert len(within) == 90
    assert is_plausible(list(within.values()), [classes[10] / 90] * 90)


def test_plausibility_check_tells_the_two_apart():
    n = 3000
    drawn = targets_of(PositiveSource(CROWDED, 8, n=n, seed=1))
    classes = Counter(target.category_id for target in drawn)
    assert not is_plausible([classes[c] for c in (10, 20, 40)], [n / 3] * 3)


def test_classes_not_categories_are_balanced():
    class Merged(BoxSampler):
        class_map = ClassMap(("background", "tissue", "necrosis"), {10: 1, 20: 1, 30: 0, 40: 2}, {})

    box = (10, 10, 20, 20)
    sampler = Merged([(10, box), (20, box), (40, box)])
    n = 3000
    counts = Counter(
        t.category_id for t in targets_of(PositiveSource(sampler, 8, n=n, class_weights="uniform"))
    )
    assert is_plausible([counts[10], counts[20], counts[40]], [n / 4, n / 4, n / 2])


def test_jitter_is_uniform_and_independent_along_both_axes():
    source = PositiveSource(BoxSampler([(10, (200, 200, 210, 210))]), 64, n=3000, seed=2, jitter_px=(1, 2))
    counts = Counter((t.window.y - 173, t.window.x - 173) for t in targets_of(source))
    assert set(counts) == {(dy, dx) for dy in (-1, 0, 1) for dx in (-2, -1, 0, 1, 2)}
    assert is_plausible(list(counts.values()), [3000 / 15] * 15)


def test_categories_by_name_id_class_and_supercategory():
    sampler = RectangleSampler(images=60)

    def chosen(categories):
        return {target.category_id for target in targets_of(PositiveSource(sampler, 8, categories=categories))}

    assert chosen("stroma") == chosen(20) == chosen([20]) == chosen(np.int64(20)) == {20}
    assert chosen("tissue") == chosen(["tumour", "stroma"]) == chosen((10, "stroma")) == {10, 20}

    class Merged(RectangleSampler):
        class_map = ClassMap(("background", "cell"), {10: 1, 20: 1, 30: 0, 40: 1}, {})

    sampler = Merged(images=60)
    assert chosen("stroma") == {20}
    assert chosen("cell") == {10, 20}


def test_chosen_images_only():
    sampler = RectangleSampler(images=60)
    some = sampler.image_ids[40:10:-3]
    expected = [
        int(annot_id)
        for image_id in some
        for annot_id, category in zip(
            sampler.shapes_of(image_id).annot_ids, sampler.shapes_of(image_id).category_ids, strict=True
        )
        if category in (10, 20)
    ]
    assert [target.annot_id for target in targets_of(PositiveSource(sampler, 8, image_ids=some))] == expected


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ("tumor", "did you mean 'tumour'"),
        ("zzz", "it has background, glass, necrosis, stroma, tissue, tumour"),
        (11, "no category id 11; it has 10, 20, 30, 40"),
        ("background", "stands for the background"),
        ("glass", "stands for the background"),
        ([], "empty"),
    ],
)
def test_unknown_categories(categories, message):
    with pytest.raises(TargetError, match=message):
        PositiveSource(RectangleSampler(images=9), 8, categories=categories)


def test_nothing_to_choose_from():
    nothing = BoxSampler([], [(NO_CATEGORY, (0, 0, 9, 9)), (30, (0, 0, 9, 9))], [(10, (0, 0, 9, 9))])
    with pytest.raises(SamplingError, match="the images given has no annotation with a class"):
        PositiveSource(nothing, 8, image_ids=nothing.image_ids[:2])
    with pytest.raises(SamplingError, match="no annotation of category 'necrosis' in the manifest"):
        PositiveSource(RectangleSampler(images=9), 8, categories=["tissue", "necrosis"])
    # A word whose annotations another word brings in, too, is still a word with none of its own.
    with pytest.raises(SamplingError, match="no annotation of category 'stroma'"):
        PositiveSource(nothing, 8, categories=["stroma", "tissue"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1"),
        ({"n": 1.5}, TypeError, "integer"),
        ({"seed": None}, TypeError, "integer"),
        ({"jitter_px": -1}, TargetError, "jitter_px.*got -1"),
        ({"jitter_px": 0.5}, TargetError, "jitter_px.*got 0.5"),
        ({"choose": "slide"}, TargetError, "choose must be one of annotation, pixel, got 'slide'"),
        ({"choose": "pixel"}, ValueError, "needs n"),
        ({"class_weights": "area"}, TargetError, "class_weights must be one of uniform, inverse_frequency"),
        ({"class_weights": {}}, TargetError, "class_weights is empty"),
        ({"class_weights": {"tumor": 1}}, TargetError, "did you mean 'tumour'"),
        ({"class_weights": {"tumour": -1}}, TargetError, "must be a finite number of at least 0, got -1"),
        ({"class_weights": {"tumour": 0}}, SamplingError, "class_weights is 0 for every class"),
        (
            {"class_weights": {"necrosis": 1}},
            SamplingError,
            "names class 'necrosis', but there is no annotation",
        ),
        ({"slide_weights": "log"}, TargetError, "slide_weights must be one of uniform, area, sqrt_area"),
        ({"slide_weights": {3: 1}}, TargetError, "leaves out 8 of 9 images, the first is 10"),
        ({"balance_by": "patient"}, TargetError, "balance_by must be 'group' or None"),
        ({"balance_by": "group"}, SamplingError, "9 of 9 have none, the first is image 3"),
    ],
)
def test_impossible_requests(arguments, error, message):
    with pytest.raises(error, match=message):
        PositiveSource(RectangleSampler(images=9), 8, **arguments)
