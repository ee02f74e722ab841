"""The spatial index against a comparison of every box, and what it costs by counting."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from annotation_oracles import box, keypoints, make_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler import shape_index
from slidesampler.annotations import AnnotIndex
from slidesampler.annotations import index as index_module
from slidesampler.geometry import Window
from slidesampler.shapes import Shapes


def boxes_only(boxes):
    return make_shapes([box(*b) for b in np.asarray(boxes, dtype=float).tolist()])


def many(rng, n, extent, size):
    corner = rng.uniform(0, extent, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, size, (n, 2))], axis=1)


def shares_area(boxes, window):
    """Rows of half-open boxes that share area with a window, or, without area, lie in it."""

    def axis(low, high, start, stop):
        return (low < stop) & ((high > start) | ((low == high) & (low == start)))

    x = axis(boxes[:, 0], boxes[:, 2], window.x, window.x1)
    y = axis(boxes[:, 1], boxes[:, 3], window.y, window.y1)
    return np.flatnonzero(x & y).tolist()


def always_tree(patch, fan_out=2):
    """Trees of several levels over a handful of boxes."""
    for module in (index_module, shape_index):
        patch.setattr(module, "TOP_ANNOTS", 1)
    patch.setattr(shape_index, "FAN_OUT", fan_out)


@pytest.fixture
def deep_trees(monkeypatch):
    always_tree(monkeypatch)


coordinate = st.one_of(st.integers(-40, 140), st.sampled_from([0, 16, 64, 63.5, 1e5, -1e5, 3e8, -3e8, 1e12]))
extent = st.one_of(st.integers(0, 70), st.sampled_from([0, 0.5, 16, 16.5, 64, 256, 1e6, 1e9, 1e12]))
any_box = st.tuples(coordinate, coordinate, extent, extent).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
any_window = st.builds(
    Window,
    st.one_of(st.integers(-60, 150), st.sampled_from([10**5, 3 * 10**8])),
    st.one_of(st.integers(-60, 150), st.sampled_from([10**5, 3 * 10**8])),
    st.one_of(st.integers(1, 80), st.just(10**9)),
    st.one_of(st.integers(1, 80), st.just(10**9)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(any_box, min_size=1, max_size=30), any_window, st.sampled_from([0, 2, 3]))
def test_a_query_finds_what_a_comparison_of_every_box_finds(boxes, window, fan_out):
    shapes = boxes_only(boxes)
    with pytest.MonkeyPatch.context() as patch:
        if fan_out:
            always_tree(patch, fan_out)
        found = AnnotIndex(shapes).query(window)
    assert found.dtype == np.int64
    assert found.tolist() == shares_area(shapes.boxes_xyxy, window)


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_annotations_of_all_sizes(seed):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([many(rng, 3000, 5000, 30), many(rng, 200, 5000, 900), many(rng, 20, 100, 5000)])
    index = AnnotIndex(boxes_only(boxes))
    for _ in range(40):
        window = Window(*rng.integers(-100, 5000, 2).tolist(), *rng.integers(1, 600, 2).tolist())
        assert index.query(window).tolist() == shares_area(boxes, window)


def test_annotations_elsewhere_cost_a_query_nothing():
    rng = np.random.default_rng(0)
    here = many(rng, 500, 1000, 30)
    window = Window(300, 300, 256, 256)
    costs = []
    for n in (0, 1000, 50_000):
        elsewhere = many(rng, n, 50_000, 30) + 2000
        index = AnnotIndex(boxes_only(np.concatenate([here, elsewhere])))
        costs.append(len(index.candidates(window)))
        assert index.query(window).tolist() == shares_area(here, window)
    # At most as many nodes as make up the window and its border, of 64 boxes each.
    assert max(costs[1:]) <= 64 * 12


def test_huge_annotations_are_looked_at_once_each():
    rng = np.random.default_rng(0)
    small, huge = many(rng, 2000, 10_000, 20), np.tile([0.0, 0.0, 10_000.0, 10_000.0], (300, 1))
    window = Window(5000, 5000, 128, 128)
    without = len(AnnotIndex(boxes_only(small)).candidates(window))
    index = AnnotIndex(boxes_only(np.concatenate([small, huge])))
    candidates = index.candidates(window)
    assert len(candidates) == len(set(candidates.tolist())) <= without + 300 + 64


def test_memory_is_bounded_by_the_number_of_annotations_whatever_their_size():
    huge = np.tile([0.0, 0.0, 1e6, 1e6], (5000, 1))
    assert len(pickle.dumps(AnnotIndex(boxes_only(huge)))) < 5000 * 100


def test_a_window_over_everything_finds_everything():
    boxes = many(np.random.default_rng(0), 2000, 5000, 50)
    assert AnnotIndex(boxes_only(boxes)).query(Window(-10, -10, 10_000, 10_000)).tolist() == list(range(2000))


def test_windows_that_only_touch_a_box_do_not_share_area_with_it():
    index = AnnotIndex(boxes_only([(10, 10, 20, 20)]))
    found = {
        name: len(index.query(window))
        for name, window in {
            "left": Window(10, 0, 5, 10),
            "right": Window(10, 20, 5, 5),
            "above": Window(0, 10, 10, 5),
            "below": Window(20, 10, 5, 5),
            "inside": Window(12, 12, 1, 1),
            "corner": Window(19, 19, 5, 5),
        }.items()
    }
    assert found == {"left": 0, "right": 0, "above": 0, "below": 0, "inside": 1, "corner": 1}


@pytest.mark.usefixtures("deep_trees")
def test_points_on_the_border_of_the_box_of_keypoints_are_found():
    index = AnnotIndex(make_shapes([keypoints((2, 2, 2), (8, 5, 2)), keypoints((8, 5, 2))]))
    assert index.has_keypoints
    assert index.query(Window(5, 8, 2, 2)).tolist() == [0, 1]
    assert index.query(Window(4, 7, 1, 1)).tolist() == [0]
    assert index.query(Window(6, 8, 2, 2)).tolist() == []


@pytest.mark.usefixtures("deep_trees")
def test_coordinates_of_any_size_are_found():
    boxes = np.array([(-3e8, -3e8, 1e12, 1e12), (1e10, 1e10, 1e10 + 5, 1e10 + 5), (1, 1, 2, 2)])
    index = AnnotIndex(boxes_only(boxes))
    for start in (0, 9 * 10**8, 10**10, 10**11):
        window = Window(start, start, 8, 8)
        assert index.query(window).tolist() == shares_area(boxes, window)


@pytest.mark.parametrize("n", [1, 300])
def test_boxes_that_are_not_finite_are_never_found(n):
    boxes = np.tile([0.0, 0.0, 5.0, 5.0], (n + 1, 1))
    boxes[0] = np.nan
    index = AnnotIndex(boxes_only(boxes))
    assert index.query(Window(0, 0, 9, 9)).tolist() == list(range(1, n + 1))


def test_no_annotations():
    index = AnnotIndex(Shapes.empty())
    assert len(index) == 0
    assert not index.has_keypoints
    assert index.query(Window(0, 0, 5, 5)).tolist() == []


def test_an_index_survives_pickling():
    boxes = many(np.random.default_rng(0), 1000, 1000, 50)
    index = AnnotIndex(boxes_only(boxes))
    window = Window(100, 100, 50, 50)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.query(window).tolist() == index.query(window).tolist() == shares_area(boxes, window)


def test_the_columns_of_many_images_are_those_of_each():
    rng = np.random.default_rng(0)
    counts = [0, 10, 700, 0, 2100, 1, 513, 512]
    boxes = [many(rng, count, 3000, 60) for count in counts]
    shapes = boxes_only(np.concatenate(boxes))
    ends = np.cumsum([0, *counts])
    packed = shape_index.index_shapes(shapes, ends)
    assert len(packed.image_trees) == len(counts) + 1
    for image, own in enumerate(boxes):
        first = int(ends[image])
        index = AnnotIndex(shapes.rows(first, int(ends[image + 1])), packed, image, first)
        assert len(index) == len(own)
        assert len(pickle.dumps(index)) < 2000 + 50 * len(own)
        for _ in range(10):
            window = Window(*rng.integers(-50, 3000, 2).tolist(), *rng.integers(1, 400, 2).tolist())
            assert index.query(window).tolist() == (shares_area(own, window) if len(own) else [])


def test_which_images_have_keypoints():
    shapes = make_shapes([box(0, 0, 2, 2), keypoints((2, 2, 2)), box(1, 1, 2, 2)])
    assert shape_index.index_shapes(shapes, np.array([0, 1, 1, 2, 3])).has_keypoints.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("n", [100, 10_000, 300_000])
def test_a_query_compares_few_boxes_however_many_there_are(n, monkeypatch):
    side = int(np.sqrt(n)) * 20
    index = AnnotIndex(boxes_only_fast(many(np.random.default_rng(0), n, side, 30)))
    compared = []
    original = shape_index._children
    monkeypatch.setattr(
        shape_index,
        "_children",
        lambda level, hit, window: compared.append(len(hit) * 64) or original(level, hit, window),
    )
    for _ in range(20):
        compared.clear()
        index.query(Window(side // 2, side // 3, 128, 128))
        assert sum(compared) <= 64 * 24


def boxes_only_fast(boxes):
    one = boxes_only([(0, 0, 1, 1)])
    n = len(boxes)
    columns = {
        name: np.repeat(getattr(one, name), n)
        for name in ("annot_ids", "category_ids", "kinds", "areas", "rle_heights")
    }
    offsets = {name: np.zeros(n + 1, np.int64) for name in ("annot_parts", "annot_runs", "annot_keypoints")}
    return dataclasses.replace(one, boxes_xyxy=boxes, **columns, **offsets)
