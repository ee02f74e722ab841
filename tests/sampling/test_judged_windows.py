"""What windows hold, against counting the pixels of the mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.errors import TargetError
from slidesampler.foreground import ForegroundIndex, IndexColumns, index_image
from slidesampler.geometry import Window
from slidesampler.sampling.judge import class_counts, read_class_counts, target_counts
from slidesampler.target import Target
from slidesampler.testing.source_contract import RectangleSampler

SAMPLER = RectangleSampler(images=40)


def counted(mask):
    return [int((mask == index).sum()) for index in range(4)], int((mask == 255).sum())


@given(
    st.integers(0, 39), st.integers(-50, 1000), st.integers(-50, 1000), st.integers(1, 300), st.integers(1, 300)
)
def test_counts_at_full_resolution(position, y, x, height, width):
    image_id, window = SAMPLER.image_ids[position], Window(y, x, height, width)
    expected = counted(SAMPLER.load_mask(image_id, window))
    for found in (
        class_counts(SAMPLER, image_id, window),
        class_counts(SAMPLER, image_id, window, window.shape, index=SAMPLER.foreground),
        read_class_counts(SAMPLER, image_id, window),
        target_counts(SAMPLER, Target(image_id=image_id, window=window)),
        target_counts(SAMPLER, Target(image_id=image_id, window=window), read=True),
    ):
        assert (found.counts.tolist(), found.ignored) == expected
        assert found.counts.dtype == np.int64
        assert found.foreground == sum(expected[0][1:])
        assert found.valid == sum(expected[0])
        assert found.labels == sum(count > 0 for count in expected[0])


@given(st.integers(0, 39), st.integers(-50, 1000), st.integers(-50, 1000), st.sampled_from([1.5, 2, 3.7, 8]))
def test_counts_of_a_reduced_window_are_of_its_mask(position, y, x, downsample):
    image_id = SAMPLER.image_ids[position]
    target = Target(image_id=image_id, cx=x, cy=y, size=(30, 40), downsample=downsample)
    window = SAMPLER.resolve(target).window
    expected = counted(SAMPLER.load_mask(image_id, window, (30, 40)))
    for found in (target_counts(SAMPLER, target), class_counts(SAMPLER, image_id, window, (30, 40))):
        assert (found.counts.tolist(), found.ignored) == expected


def test_a_target_that_grows_is_counted_as_it_is_read():
    target = Target(image_id=3, window=Window(5, 5, 50, 60), pad=(9, 0, 0, 20))
    expected = counted(SAMPLER.load_mask(3, Window(-4, 5, 59, 80)))
    found = target_counts(SAMPLER, target)
    assert (found.counts.tolist(), found.ignored) == expected


class Noise(RectangleSampler):
    """One image of labels that no rectangles describe: the index cannot count, the labels can."""

    def __init__(self):
        super().__init__(images=1)
        rng = np.random.default_rng(0)
        self.labels = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), self.image_shape(3)[:2])
        self.reads = 0

    def load_mask(self, image_id, window, size=None):
        self.reads += 1
        assert window.height * window.width <= 1024**2
        return self.labels[window.as_slices()] if size is None else np.resize(self.labels, size)

    def index_masks(self):
        image = index_image(lambda window: self.labels[window.as_slices()], self.labels.shape, 4, 255)
        return ForegroundIndex(IndexColumns.join([3], [image]))


def test_labels_like_noise_are_read():
    sampler = Noise()
    window = Window(13, 17, 100, 130)
    assert sampler.foreground.count(0, [1], window) is None
    found = class_counts(sampler, 3, window)
    assert (found.counts.tolist(), found.ignored) == counted(sampler.labels[window.as_slices()])
    assert sampler.reads == 1


def test_large_windows_are_read_in_blocks():
    class Large(RectangleSampler):
        def load_mask(self, image_id, window, size=None):
            assert max(window.shape) <= 1024
            return np.ones(window.shape, np.uint8)

    found = read_class_counts(Large(images=1), 3, Window(-100, 3, 3000, 2500))
    assert (found.counts.tolist(), found.ignored) == ([0, 3000 * 2500, 0, 0], 0)


def test_unknown_class_index_is_an_error():
    class Strange(RectangleSampler):
        def load_mask(self, image_id, window, size=None):
            return np.full(window.shape, 77, np.uint8)

    with pytest.raises(ValueError, match="image 3 has class indices"):
        read_class_counts(Strange(images=1), 3, Window(0, 0, 4, 4))


def test_unknown_image():
    with pytest.raises(TargetError, match="no image 4"):
        class_counts(SAMPLER, 4, Window(0, 0, 4, 4))
