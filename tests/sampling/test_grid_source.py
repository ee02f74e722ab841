from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.errors import TargetError
from slidesampler.geometry import Window, axis_positions
from slidesampler.sampling import GridSource
from slidesampler.testing.source_contract import RectangleSampler


class SizedSampler(RectangleSampler):
    """Images of given sizes, ids 3, 10, 17 ..."""

    def __init__(self, *sizes):
        super().__init__(images=len(sizes))
        self.sizes = sizes
        self.opened = []

    def __getstate__(self):
        return {**super().__getstate__(), "sizes": self.sizes, "opened": []}

    @property
    def _sizes(self):
        return np.array(self.sizes)

    def image_shape(self, image_id):
        self.opened.append(image_id)
        return super().image_shape(image_id)


def windows_of(source):
    return [(t.image_id, t.window) for t in (source.target(0, i) for i in range(len(source)))]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    stride=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_equals_the_listed_grid(sizes, size, stride):
    sampler = SizedSampler(*sizes)
    expected = [
        (image_id, Window(int(y), int(x), *size))
        for image_id, (height, width) in zip(sampler.image_ids, sizes, strict=True)
        for y in axis_positions(height, size[0], stride[0])
        for x in axis_positions(width, size[1], stride[1])
    ]
    assert windows_of(GridSource(sampler, size, stride)) == expected


def test_touching_windows_cover_every_pixel_and_stay_inside():
    height, width = 130, 97
    seen = np.zeros((height, width), int)
    for _, window in windows_of(GridSource(SizedSampler((height, width)), size=(32, 40))):
        assert Window(0, 0, height, width).contains(window)
        seen[window.as_slices()] += 1
    assert seen.min() == 1
    # 4 whole rows of windows and 1 tucked in, 2 whole columns and 1 tucked in.
    np.testing.assert_array_equal(seen[:, 0], np.r_[np.ones(98), np.full(30, 2), np.ones(2)])
    np.testing.assert_array_equal(seen[0], np.r_[np.ones(57), np.full(23, 2), np.ones(17)])


def test_small_image_has_one_overhanging_window():
    found = windows_of(GridSource(SizedSampler((10, 12), (64, 64)), size=32))
    assert found[0] == (3, Window(0, 0, 32, 32))
    assert [image_id for image_id, _ in found] == [3] + [10] * 4


def test_overlap_is_size_less_stride():
    sampler = SizedSampler((100, 100))
    assert windows_of(GridSource(sampler, 32, overlap=(8, 0))) == windows_of(GridSource(sampler, 32, (24, 32)))


@pytest.mark.parametrize(("how", "extent"), [({"downsample": 2.5}, 80), ({"mpp": 1.0}, 64), ({}, 32)])
def test_size_is_in_output_pixels(how, extent):
    sampler = SizedSampler((300, 300))
    source = GridSource(sampler, 32, **how)
    target = source.target(0, 1)
    assert target.window == Window(0, extent, extent, extent)
    resolved = sampler.resolve(target)
    assert resolved.size == (32, 32)
    assert resolved.window == target.window
    assert (target.downsample, target.mpp) == (how.get("downsample"), how.get("mpp"))


@pytest.mark.parametrize("downsample", [1.3, 1.7, 2.01, 3.999, 7.77])
@pytest.mark.parametrize("stride", [13, 16])
def test_scaled_grid_leaves_no_gap(downsample, stride):
    seen = np.zeros((200, 200), int)
    for _, window in windows_of(GridSource(SizedSampler((200, 200)), 16, stride, downsample=downsample)):
        seen[window.as_slices()] += 1
    assert seen.min() >= 1


def test_images_in_the_order_given():
    source = GridSource(SizedSampler(*[(32, 32)] * 5), 32, image_ids=[24, 3, 17])
    assert [image_id for image_id, _ in windows_of(source)] == [24, 3, 17]
    assert [image_id for image_id, _ in windows_of(pickle.loads(pickle.dumps(source)))] == [24, 3, 17]


def test_opens_no_image_whose_size_is_known():
    sampler = SizedSampler(*[(100, 100)] * 5)
    source = GridSource(sampler, 32, mpp=1.0)
    source.target(0, len(source) - 1)
    # One look is the question what 1 micrometre a pixel means at the one resolution there is.
    assert len(sampler.opened) == 1


def test_opens_images_whose_size_is_not_known():
    class Unsaid(SizedSampler):
        def image_record(self, image_id):
            record = super().image_record(image_id)
            return type(record)(record.image_id, record.name, record.assets)

    sampler = Unsaid((64, 32), (64, 64))
    assert len(GridSource(sampler, 32)) == 2 + 4
    assert {3, 10} <= set(sampler.opened)


def test_carries_how_to_read():
    source = GridSource(
        SizedSampler((64, 64)), 32, how={"channels": [2, 0], "padding": "reflect", "dtype": "f4"}
    )
    target = source.target(0, 3)
    assert (target.channels, target.padding.mode, target.dtype) == ((2, 0), "reflect", "float32")
    assert (target.kind, target.index) == ("grid", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 8, "overlap": 8}, "give one of them"),
        ({"stride": 0}, "stride.*at least 1; got 0"),
        ({"stride": 1.5}, "stride.*whole.*got 1.5"),
        ({"stride": (1, 2, 3)}, "stride"),
        ({"overlap": 32}, "overlap must be less"),
        ({"overlap": -1}, "overlap.*at least 0; got -1"),
        ({"size": 0}, "size.*at least 1"),
        ({"size": None}, "size"),
        ({"downsample": 0.5}, "at least 1"),
        ({"downsample": 2, "mpp": 1}, "give one of them"),
        ({"image_ids": [3, 4, 5]}, "2 of the 3 image_ids.*4, 5"),
        ({"image_ids": [3, 3]}, "image 3 more than once"),
        ({"image_ids": []}, "empty"),
        ({"how": {"cx": 3}}, "how takes.*got cx"),
        ({"how": {"chanels": [0]}}, "'channels'"),
    ],
)
def test_impossible_grids(arguments, message):
    with pytest.raises(TargetError, match=message):
        GridSource(SizedSampler((64, 64)), **{"size": 32, **arguments})


def test_no_images():
    with pytest.raises(TargetError, match="no images"):
        GridSource(SizedSampler(), 32)
