"""Label and instance masks: who wins a pixel, and that the block does not matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from annotation_oracles import box, keypoints, make_shapes, polygon, raster, rle
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler import shape_index
from slidesampler.annotations import (
    AnnotIndex,
    instance_block,
    label_block,
    map_category_raster,
    paint_order,
)
from slidesampler.annotations import index as index_module
from slidesampler.errors import ManifestError
from slidesampler.models import NO_CATEGORY, ClassMap, LabelSpec

CLASSES = ClassMap(("background", "a", "b", "c"), {1: 1, 2: 2, 3: 3, 9: 0, -7: 255})
OVERLAPS = ["last", "first", "smallest", "largest", "class"]


def labels_of(annots, ys, xs, spec=LabelSpec(), classes=CLASSES, **layers):  # noqa: B008
    shapes = make_shapes(annots)
    return label_block(shapes, AnnotIndex(shapes), classes, spec, ys, xs, **layers)


def instances_of(annots, ys, xs, spec=LabelSpec(), **layers):  # noqa: B008
    shapes = make_shapes(annots)
    return instance_block(shapes, AnnotIndex(shapes), CLASSES, spec, ys, xs, **layers)


# Annotation 0 is large, of class b; 1 is small, of class c; 2 is in between, of class a. All hold pixel (2, 2).
STACK = [box(0, 0, 9, 9, category=2), box(1, 1, 4, 4, category=3), box(0, 0, 6, 6, category=1)]


@pytest.mark.parametrize(
    ("overlap", "order", "at_2_2", "at_5_5", "at_8_8"),
    [
        ("last", [0, 1, 2], 1, 1, 2),
        ("first", [2, 1, 0], 2, 2, 2),
        ("smallest", [0, 2, 1], 3, 1, 2),
        ("largest", [1, 2, 0], 2, 2, 2),
        ("class", [2, 0, 1], 3, 2, 2),
    ],
)
def test_overlap_orders(overlap, order, at_2_2, at_5_5, at_8_8):
    shapes = make_shapes(STACK)
    assert paint_order(shapes, np.array([2, 3, 1]), np.arange(3), overlap).tolist() == order
    pixels, spec = np.arange(10), LabelSpec(overlap=overlap)
    mask = labels_of(STACK, pixels, pixels, spec)
    assert [mask[2, 2], mask[5, 5], mask[8, 8], mask[9, 9]] == [at_2_2, at_5_5, at_8_8, 0]
    owners = instances_of(STACK, pixels, pixels, spec)
    class_of_owner = np.array([0, 2, 3, 1])
    np.testing.assert_array_equal(class_of_owner[owners], mask)


@pytest.mark.parametrize("overlap", ["smallest", "largest", "class"])
def test_ties_are_won_by_the_later_annotation(overlap):
    twins = [box(0, 0, 4, 4), box(2, 2, 6, 6), box(1, 1, 5, 5)]
    owners = instances_of(twins, np.arange(6), np.arange(6), LabelSpec(overlap=overlap))
    assert [owners[0, 0], owners[3, 3], owners[5, 5], owners[1, 1]] == [1, 3, 2, 3]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("reverse", [False, True])
def test_an_annotation_without_category_paints_ignore_and_always_gives_way(overlap, reverse):
    small = overlap == "smallest"
    nameless = box(2, 2, 4, 4, category=None) if small else box(0, 0, 6, 6, category=None)
    named = box(0, 0, 6, 6, category=1) if small else box(2, 2, 4, 4, category=1)
    annots = [named, nameless] if reverse else [nameless, named]
    annots.append(box(8, 8, 10, 10, category=None))
    mask = labels_of(annots, np.arange(10), np.arange(10), LabelSpec(overlap=overlap))
    assert mask[3, 3] == 1
    assert mask[0, 0] == (1 if small else 255)
    assert mask[9, 9] == 255


def test_a_category_named_ignore_or_background_paints_it_in_its_turn():
    annots = [box(0, 0, 6, 6, category=1), box(0, 0, 2, 2, category=9), box(4, 4, 6, 6, category=-7)]
    mask = labels_of(annots, np.arange(6), np.arange(6))
    assert [mask[0, 0], mask[3, 3], mask[5, 5]] == [0, 1, 255]


def test_layers_lie_in_their_order_base_annotations_valid():
    base = np.full((6, 6), 3, np.uint8)
    valid = np.ones((6, 6), bool)
    valid[:, 5] = valid[0] = False
    before = base.copy()
    mask = labels_of([box(0, 0, 3, 6)], np.arange(6), np.arange(6), base=base, valid=valid)
    expected = np.full((6, 6), 3)
    expected[:, :3] = 1
    expected[0] = expected[:, 5] = 255
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(base, before)
    owners = instances_of([box(0, 0, 3, 6)], np.arange(6), np.arange(6), valid=valid)
    np.testing.assert_array_equal(owners, (expected == 1).astype(int))


def test_dtype_and_ignore_follow_the_class_map():
    names = ("background", *(f"class {i}" for i in range(300)))
    classes = ClassMap(names, {i: i for i in range(1, 301)})
    annots = [box(0, 0, 2, 2, category=300), box(2, 2, 4, 4, category=None)]
    mask = labels_of(annots, np.arange(4), np.arange(4), classes=classes)
    assert mask.dtype == np.uint16
    assert [mask[0, 0], mask[3, 3], mask[0, 3]] == [300, 65535, 0]
    assert labels_of([], np.arange(4), np.arange(4)).dtype == np.uint8
    assert instances_of(annots[1:], np.arange(4), np.arange(4)).dtype == np.uint32


def test_no_annotation_and_no_pixel():
    assert not labels_of([], np.arange(3), np.arange(4)).any()
    assert labels_of(STACK, np.arange(0), np.arange(4)).shape == (0, 4)
    assert instances_of(STACK, np.arange(3), np.arange(0)).shape == (3, 0)


def test_an_unknown_category_names_the_annotation():
    with pytest.raises(ManifestError, match=r"annotation 101 has category_id 77.*\[-7, 1, 2, 3, 9\]") as caught:
        labels_of([box(0, 0, 2, 2), box(0, 0, 2, 2, category=77)], np.arange(2), np.arange(2))
    assert caught.value.annot_id == 101


def test_keypoints_just_outside_a_block_reach_into_it():
    annots = [keypoints((9.5, 3.5, 2))] + [box(50, 50, 51, 51)] * 300
    spec = LabelSpec(keypoint_radius_px=2.0)
    assert labels_of(annots, np.arange(8), np.arange(8), spec)[3].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def scene(seed, size=48):
    """Every kind of annotation, overlapping, with and without category; base and valid layers."""
    rng = np.random.default_rng(seed)
    annots = []
    for _ in range(30):
        category = [1, 2, 3, 9, None][rng.integers(5)]
        x, y = rng.uniform(-4, size, 2)
        kind = rng.integers(4)
        if kind == 0:
            ring, hole = rng.uniform(-7, 7, (2, 6, 2)) + np.array((x, y))
            annots.append(polygon([ring, hole * 0.5 + (x / 2, y / 2)], category=category))
        elif kind == 1:
            annots.append(box(x, y, x + rng.uniform(1, 9), y + rng.uniform(1, 9), category=category))
        elif kind == 2:
            mask = np.zeros((size, size), bool)
            mask[int(abs(y)) :, int(abs(x)) :][:6, :7] = (
                rng.random((6, 7))[: size - int(abs(y)), : size - int(abs(x))] < 0.7
            )
            if mask.any():
                annots.append(rle(mask, category=category))
        else:
            annots.append(keypoints((x, y, 2), (x + 3, y + 2, 1), category=category))
    base = rng.integers(0, 4, (size, size)).astype(np.uint8)
    return annots, base, rng.random((size, size)) < 0.9


def expected_labels(annots, base, valid, overlap, radius):
    """Pixel by pixel from the definition: no index, no block, no paint order."""
    size = np.arange(len(base))
    marked = np.array([raster(annot, size, size, radius) for annot in annots])
    value = [255 if a["category"] is None else CLASSES.category_to_index[a["category"]] for a in annots]

    def strength(i):
        by = {
            "last": i,
            "first": -i,
            "smallest": -annots[i]["area"],
            "largest": annots[i]["area"],
            "class": value[i],
        }
        return annots[i]["category"] is not None, by[overlap], i

    labels, owners = base.astype(int), np.zeros(base.shape, int)
    for y, x in np.argwhere(marked.any(axis=0)):
        winner = max(np.flatnonzero(marked[:, y, x]), key=strength)
        labels[y, x], owners[y, x] = value[winner], winner + 1
    labels[~valid], owners[~valid] = 255, 0
    return labels, owners


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("radius", [0.0, 2.5])
def test_masks_agree_with_the_definition_pixel_by_pixel(overlap, radius):
    annots, base, valid = scene(OVERLAPS.index(overlap), size=24)
    spec, pixels = LabelSpec(overlap=overlap, keypoint_radius_px=radius), np.arange(24)
    labels, owners = expected_labels(annots, base, valid, overlap, radius)
    np.testing.assert_array_equal(labels_of(annots, pixels, pixels, spec, base=base, valid=valid), labels)
    np.testing.assert_array_equal(instances_of(annots, pixels, pixels, spec, valid=valid), owners)


cuts = st.lists(st.integers(0, 48), max_size=4).map(lambda inner: sorted({0, 48, *inner}))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9),
    st.sampled_from(OVERLAPS),
    st.sampled_from([0.0, 3.3]),
    st.sampled_from([1, 2, 3, 4, 16]),
    cuts,
    cuts,
    st.booleans(),
)
def test_blocks_and_levels_are_the_full_raster(seed, overlap, radius, step, rows, cols, deep):
    """Any cut into blocks at any spacing is the full raster, cut and decimated."""
    annots, base, valid = scene(seed)
    shapes, spec, pixels = (
        make_shapes(annots),
        LabelSpec(overlap=overlap, keypoint_radius_px=radius),
        np.arange(48),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (index_module, shape_index) if deep else ():
            patch.setattr(module, "TOP_ANNOTS", 1)
        patch.setattr(shape_index, "FAN_OUT", 3)
        index = AnnotIndex(shapes)
    labels = label_block(shapes, index, CLASSES, spec, pixels, pixels, base=base, valid=valid)
    owners = instance_block(shapes, index, CLASSES, spec, pixels, pixels, valid=valid)
    # Pixel j of a label level of downsample d is the level-0 pixel min(j * d + d // 2, size - 1).
    sampled = np.minimum(np.arange(-(-48 // step)) * step + step // 2, 47)
    for y0, y1 in pairwise(rows):
        for x0, x1 in pairwise(cols):
            ys = sampled[(sampled >= y0) & (sampled < y1)]
            xs = sampled[(sampled >= x0) & (sampled < x1)]
            at = np.ix_(ys, xs)
            block = label_block(shapes, index, CLASSES, spec, ys, xs, base=base[at], valid=valid[at])
            np.testing.assert_array_equal(block, labels[at])
            block = instance_block(shapes, index, CLASSES, spec, ys, xs, valid=valid[at])
            np.testing.assert_array_equal(block, owners[at])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64"])
def test_category_rasters_are_mapped_value_by_value(dtype):
    classes = ClassMap(("background", "a", "b"), {5: 2, 100: 1, 7: 0})
    raster_in = np.array([[0, 5, 100], [7, 7, 5]], dtype)
    mapped = map_category_raster(raster_in, classes)
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[0, 2, 1], [0, 0, 2]]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_category_rasters_with_negative_and_large_ids(dtype):
    classes = ClassMap(("background", "a", "b"), {-7: 1, 2**40: 2})
    assert map_category_raster(np.array([[-7, 0]], dtype), classes).tolist() == [[1, 0]]
    if dtype == "int64":
        assert map_category_raster(np.array([[2**40]]), classes).tolist() == [[2]]


def test_a_bool_raster_is_category_1():
    assert map_category_raster(np.array([[True, False]]), CLASSES).tolist() == [[1, 0]]


def test_zero_in_a_category_raster_is_background_whatever_the_categories():
    assert map_category_raster(np.zeros((1, 1), np.uint8), ClassMap(("background", "a"), {0: 1})).tolist() == [
        [0]
    ]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64"])
def test_a_value_that_is_no_category_is_named(dtype):
    with pytest.raises(ManifestError, match=r"holds 4, 77, but.*\[-7, 1, 2, 3, 9\]") as caught:
        map_category_raster(np.array([[1, 77], [77, 4]], dtype), CLASSES)
    assert caught.value.field == "labels"


def test_a_raster_of_fractions_is_refused():
    with pytest.raises(ManifestError, match="float32"):
        map_category_raster(np.ones((2, 2), np.float32), CLASSES)


def test_no_category_is_no_category_id():
    assert make_shapes([box(0, 0, 1, 1, category=None)]).category_ids.tolist() == [NO_CATEGORY]
