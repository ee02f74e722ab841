"""Boxes, run-length masks and keypoints to pixels."""

from __future__ import annotations

import kwimage
import numpy as np
import pytest
from annotation_oracles import box, keypoints, make_shapes, polygon, raster, rle
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.annotations import paint
from slidesampler.annotations.rle import rle_block, rle_count


def painted(annots, ys, xs, radius=0.0):
    shapes = make_shapes(annots)
    out = np.zeros((len(ys), len(xs)), dtype=np.int32)
    paint(out, shapes, np.arange(len(annots)), np.arange(1, len(annots) + 1), ys, xs, radius)
    return out


def random_mask(seed, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    density = (0.5, 0.05, 0.95)[seed % 3]
    return kwimage.imresize(rng.random((6, 8)), dsize=shape[::-1], interpolation="nearest") < density


indices = st.lists(st.integers(0, 22), min_size=1, max_size=12).map(lambda v: np.array(sorted(v)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8), indices, indices)
def test_any_sample_of_a_run_length_mask_is_the_decoded_mask_there(seed, ys, xs):
    mask = random_mask(seed)
    encoded = kwimage.Mask(mask.astype(np.uint8), "c_mask").to_array_rle()
    decoded = encoded.to_c_mask().data.astype(bool)
    np.testing.assert_array_equal(painted([rle(mask)], ys, xs) == 1, decoded[np.ix_(ys, xs)])


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((5, 4)),
        np.zeros((5, 4)),
        np.eye(6),
        np.pad(np.ones((1, 1)), ((4, 0), (3, 0))),
        np.pad(np.ones((1, 1)), ((0, 4), (0, 3))),
    ],
    ids=["full", "empty", "diagonal", "last pixel", "first pixel"],
)
def test_run_length_masks_at_their_edges(mask):
    ys, xs = np.arange(mask.shape[0]), np.arange(mask.shape[1])
    np.testing.assert_array_equal(painted([rle(mask)], ys, xs) == 1, mask.astype(bool))


def test_runs_of_no_length_change_nothing():
    # 3 background, 0 foreground, 1 background, 2 foreground, of a mask 2 high and 3 wide
    inside = rle_block(np.array([3, 3, 4, 6]), 2, np.arange(2), np.arange(3))
    assert inside.tolist() == [[False, False, True], [False, False, True]]


def test_a_run_length_mask_smaller_than_the_block_ends_where_it_ends():
    out = painted([rle(np.ones((3, 4)))], np.arange(8), np.arange(9))
    expected = np.zeros((8, 9), int)
    expected[:3, :4] = 1
    np.testing.assert_array_equal(out, expected)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 8), *[st.integers(0, 23)] * 2, *[st.integers(0, 31)] * 2)
def test_counted_runs_are_the_pixels_of_the_decoded_mask(seed, y0, y1, x0, x1):
    mask = random_mask(seed)
    runs = rle(mask)["runs"]
    assert rle_count(runs, 23, y0, y1, x0, x1) == mask[y0:y1, x0:x1].sum()


def test_a_huge_run_length_mask_is_never_decoded():
    # 10 gigapixels, two foreground runs: decoding would need 10 GB.
    height = 100_000
    runs = np.array([50_000 * height + 7, 50_000 * height + 20, 50_001 * height + 9, 50_001 * height + 30])
    inside = rle_block(runs, height, np.arange(0, 40), np.arange(49_999, 50_003))
    expected = np.zeros((40, 4), bool)
    expected[7:20, 1] = True
    expected[9:30, 2] = True
    np.testing.assert_array_equal(inside, expected)
    assert rle_count(runs, height, 0, height, 0, height) == 13 + 21


def test_boxes_on_whole_pixels_are_slices():
    out = painted([box(1, 2, 5, 4), box(3, 3, 9, 20)], np.arange(10), np.arange(8))
    expected = np.zeros((10, 8), int)
    expected[2:4, 1:5] = 1
    expected[3:, 3:] = 2
    np.testing.assert_array_equal(out, expected)


def test_a_box_between_two_pixel_centres_marks_nothing():
    assert not painted([box(1.6, 1.6, 2.4, 2.4)], np.arange(5), np.arange(5)).any()


@pytest.mark.parametrize("radius", [0.0, 0.3, 1.0, 2.7, 5.0])
def test_keypoints_mark_discs_and_the_pixel_that_holds_them(radius):
    rng = np.random.default_rng(int(radius * 10))
    points = np.column_stack((rng.uniform(-3, 25, (12, 2)), rng.integers(0, 3, 12)))
    points[0] = 7, 9, 2  # a corner of pixels: every centre at the same distance
    annot = keypoints(*points)
    ys, xs = np.arange(20), np.arange(22)
    np.testing.assert_array_equal(painted([annot], ys, xs, radius) == 1, raster(annot, ys, xs, radius))


def test_unlabelled_keypoints_mark_nothing():
    out = painted([keypoints((3, 3, 0), (6.5, 1.5, 1))], np.arange(8), np.arange(8), 1.0)
    assert out[3, 3] == 0
    assert out[1, 6] == 1


def test_kinds_are_painted_in_the_order_given_not_kind_by_kind():
    square = [(0, 0), (6, 0), (6, 6), (0, 6)]
    annots = [
        box(0, 0, 6, 6),
        polygon([square]),
        rle(np.pad(np.ones((4, 4)), ((1, 1), (1, 1)))),
        keypoints((3.5, 3.5, 2)),
        box(3, 3, 4, 4),
        polygon([square]),
        box(0, 0, 1, 1),
    ]
    shapes = make_shapes(annots)
    pixels = np.arange(6)
    rng = np.random.default_rng(0)
    marked = [raster(annot, pixels, pixels) for annot in annots]
    for _ in range(20):
        order = rng.permutation(len(annots))
        out = np.zeros((6, 6), np.uint8)
        paint(out, shapes, order, order + 1, pixels, pixels)
        expected = np.zeros((6, 6), np.uint8)
        for i in order:
            expected[marked[i]] = i + 1
        np.testing.assert_array_equal(out, expected)


def test_many_keypoints_annotations_keep_their_order():
    annots = [keypoints((4.2, 4.2, 2)), keypoints((5.4, 4.2, 2)), keypoints((4.2, 5.4, 2))]
    pixels = np.arange(10)
    expected = np.zeros((10, 10), int)
    for i, annot in enumerate(annots):
        expected[raster(annot, pixels, pixels, 2.0)] = i + 1
    np.testing.assert_array_equal(painted(annots, pixels, pixels, 2.0), expected)
