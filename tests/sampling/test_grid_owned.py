"""The owned rectangles of a grid partition every image; index and position are each other's inverse."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.errors import TargetError
from slidesampler.geometry import Window
from slidesampler.sampling.grid import GridSource
from slidesampler.testing.source_contract import RectangleSampler

EDGES = st.sampled_from(["shift", "pad", "even"])
SIDES = st.tuples(st.integers(1, 50), st.integers(1, 50))


class SizedSampler(RectangleSampler):
    """Images of given sizes, ids 3, 10, 17 ..."""

    def __init__(self, *sizes):
        super().__init__(images=len(sizes))
        self.sizes = sizes

    def __getstate__(self):
        return {**super().__getstate__(), "sizes": self.sizes}

    @property
    def _sizes(self):
        return np.array(self.sizes)


def targets_of(source):
    return [source.target(0, i) for i in range(len(source))]


def raster(size, windows):
    """Return how often each pixel is in a window; windows may not leave the image."""
    seen = np.zeros(size, int)
    for window in windows:
        assert Window(0, 0, *size).contains(window)
        seen[window.as_slices()] += 1
    return seen


@settings(max_examples=100)
@given(
    sizes=st.lists(SIDES, min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    overlap=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    edge=EDGES,
    scale=st.one_of(st.just({}), st.builds(lambda d: {"downsample": d}, st.floats(1, 6))),
)
def test_owned_rectangles_partition_every_image_at_any_scale(sizes, size, overlap, edge, scale):
    stride = tuple(max(1, round(side * (1 - share))) for side, share in zip(size, overlap, strict=True))
    source = GridSource(SizedSampler(*sizes), size, stride, edge=edge, **scale)
    targets = targets_of(source)
    for image_id, shape in zip(source.image_ids, sizes, strict=True):
        mine = [target for target in targets if target.image_id == image_id]
        assert (raster(shape, [target.owned for target in mine]) == 1).all()
        assert all(target.window.contains(target.owned) for target in mine)


@settings(max_examples=60)
@given(shape=SIDES, size=st.integers(1, 12), gap=st.integers(1, 12), edge=EDGES)
def test_with_gaps_a_window_owns_itself_and_nothing_is_owned_twice(shape, size, gap, edge):
    targets = targets_of(GridSource(SizedSampler(shape), size, size + gap, edge=edge))
    image = Window(0, 0, *shape)
    windows = [target.window.intersect(image) for target in targets]
    owned = raster(shape, [target.owned for target in targets])
    assert owned.max() == 1
    np.testing.assert_array_equal(owned > 0, raster(shape, windows) > 0)
    if edge == "pad":
        assert [target.owned for target in targets] == windows


@settings(max_examples=60)
@given(
    sizes=st.lists(SIDES, min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    stride=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    edge=EDGES,
)
def test_index_and_place_are_inverse(sizes, size, stride, edge):
    source = GridSource(SizedSampler(*sizes), size, stride, edge=edge)
    listed = [
        (image_id, row, column)
        for image_id in source.image_ids
        for row in range(source.grid_shape(image_id)[0])
        for column in range(source.grid_shape(image_id)[1])
    ]
    assert [source.locate(i) for i in range(len(source))] == listed
    assert [source.index_of(*place) for place in listed] == list(range(len(source)))
    assert list(source.tile_counts) == [np.prod(source.grid_shape(i)) for i in source.image_ids]
    # Windows go row by row: their corners ascend.
    corners = [(t.image_id, t.window.y, t.window.x) for t in targets_of(source)]
    assert corners == sorted(corners)
    assert len(set(corners)) == len(corners)


@pytest.mark.parametrize("edge", ["shift", "pad", "even"])
def test_small_images_are_padded_and_owned_whole(edge):
    source = GridSource(SizedSampler((10, 12), (64, 9), (1, 1)), 32, overlap=8, edge=edge)
    by_image = {}
    for target in targets_of(source):
        by_image.setdefault(target.image_id, []).append(target)
    assert [t.window for t in by_image[3]] == [Window(0, 0, 32, 32)]
    assert [t.owned for t in by_image[3]] == [Window(0, 0, 10, 12)]
    assert {(t.window.x, t.window.width, t.owned.x, t.owned.width) for t in by_image[10]} == {(0, 32, 0, 9)}
    assert [t.owned for t in by_image[17]] == [Window(0, 0, 1, 1)]


def test_edges_differ_where_they_should():
    sampler = SizedSampler((100, 40))
    found = {
        edge: [t.window.y for t in targets_of(GridSource(sampler, 40, edge=edge))]
        for edge in ("shift", "pad", "even")
    }
    assert found == {"shift": [0, 40, 60], "pad": [0, 40, 80], "even": [0, 30, 60]}
    last = GridSource(sampler, 40, edge="pad").target(0, 2)
    assert (last.window, last.owned) == (Window(80, 0, 40, 40), Window(80, 0, 20, 40))


def test_huge_grids_are_not_listed():
    side = 2_000_000
    source = GridSource(SizedSampler((side, side)), 64, 1)
    across = side - 64 + 1
    assert len(source) == across**2
    middle = 1_000_003 * across + 77
    assert source.locate(middle) == (3, 1_000_003, 77)
    assert source.target(0, middle).window == Window(1_000_003, 77, 64, 64)
    # One pixel each, next to the middle of the window.
    assert source.target(0, middle).owned == Window(1_000_034, 108, 1, 1)
    assert source.index_of(3, 1_000_003, 77) == middle
    assert len(pickle.dumps(source)) < 2000


def test_places_that_are_not_there():
    source = GridSource(SizedSampler((64, 64)), 32)
    with pytest.raises(IndexError, match="2 x 2"):
        source.index_of(3, 2, 0)
    with pytest.raises(IndexError):
        source.index_of(3, 0, -1)
    with pytest.raises(IndexError, match="4 targets"):
        source.locate(4)
    with pytest.raises(TargetError, match="no image 4"):
        source.grid_shape(4)
    with pytest.raises(TargetError, match="edge must be one of shift, pad, even, got 'wrap'"):
        GridSource(SizedSampler((64, 64)), 32, edge="wrap")
