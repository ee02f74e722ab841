"""Every source passes the shipped contract; sources that break it do not."""

from __future__ import annotations

import random
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from slidesampler.geometry import Window
from slidesampler.rng import rng_for
from slidesampler.sampling import FixedSource, GridSource, NegativeSource, PositiveSource
from slidesampler.target import Target
from slidesampler.testing.source_contract import RectangleSampler, SourceContract


class TestFixed(SourceContract):
    random = False

    def make_source(self, sampler):
        return FixedSource(
            [{"image_id": 3, "cx": 9 * i, "cy": 5, "width": 32, "height": 16} for i in range(20)]
        )


class TestGrid(SourceContract):
    random = False

    def make_source(self, sampler):
        return GridSource(sampler, size=(64, 96), overlap=(16, 0), downsample=1.5)


class TestGridOfChosenImages(SourceContract):
    random = False

    def make_source(self, sampler):
        return GridSource(sampler, size=128, mpp=1.0, image_ids=sampler.image_ids[::-1])


class TestPositive(SourceContract):
    def make_source(self, sampler):
        return PositiveSource(sampler, size=64, n=1000, seed=7, jitter_px=20)


class TestPositiveEachOnce(SourceContract):
    def make_source(self, sampler):
        return PositiveSource(sampler, size=(48, 64), seed=-1, categories="tissue", jitter_px=9, mpp=1.25)


class TestPositiveByClass(SourceContract):
    def make_source(self, sampler):
        ids = sampler.image_ids[:9000]
        return PositiveSource(
            sampler, size=64, seed=2**70, class_weights="uniform", allow_border=False, image_ids=ids
        )


class TestNegative(SourceContract):
    def make_source(self, sampler):
        return NegativeSource(sampler, size=64, n=1000, seed=7)


class TestNegativeReduced(SourceContract):
    def make_source(self, sampler):
        return NegativeSource(
            sampler, size=32, n=50, seed=7, downsample=2.5, image_ids=sampler.image_ids[5000:]
        )


# The contract itself: each of these sources breaks one promise, and one test must say so.


class Honest:
    """A correct source, for the broken ones to start from."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __len__(self):
        return 10

    def target(self, epoch, index):
        if not isinstance(epoch, int | np.integer) or not isinstance(index, int | np.integer):
            raise TypeError("whole numbers only")
        if not 0 <= index < 10:
            raise IndexError(f"{index} of 10")
        y = int(rng_for(0, epoch, index).integers(200))
        return Target(image_id=3, window=Window(y, 0, 8, 8))


class Stateful(Honest):
    def target(self, epoch, index):
        self.asked = getattr(self, "asked", 0) + 1
        return super().target(epoch + self.asked, index)


class PerProcess(Honest):
    def target(self, epoch, index):
        return super().target(epoch, index).with_fields(category_id=PER_PROCESS)


PER_PROCESS = random.SystemRandom().randrange(2**62)


class Heavy(Honest):
    def __init__(self, sampler):
        super().__init__(sampler)
        self.table = np.arange(10_000) * 1.5


class Shrinking(Honest):
    length = 10

    def __len__(self):
        self.length -= 1
        return self.length


class Greedy(Honest):
    def target(self, epoch, index):
        self.sampler.load_sample(Target(image_id=3))
        return super().target(epoch, index)


class FromTheEnd(Honest):
    def target(self, epoch, index):
        return super().target(epoch, index + 10 if -10 <= index < 0 else index)


class Rounding(Honest):
    def target(self, epoch, index):
        return super().target(epoch, int(index) if isinstance(index, float) else index)


class SameEpochs(Honest):
    def target(self, epoch, index):
        if not isinstance(epoch, int | np.integer):
            raise TypeError
        return super().target(0, index)


class Elsewhere(Honest):
    def target(self, epoch, index):
        return super().target(epoch, index).with_fields(window=Window(5000, 0, 8, 8))


def contract_of(kind):
    class Contract(SourceContract):
        def make_source(self, sampler):
            return kind(sampler)

    return Contract()


@pytest.mark.parametrize(
    ("kind", "test", "arguments"),
    [
        (Stateful, "test_same_target_in_any_order", ()),
        (PerProcess, "test_same_target_in_a_spawned_process", ()),
        (Heavy, "test_pickle_is_small", ()),
        (Shrinking, "test_length_is_stable", ()),
        (Greedy, "test_same_target_in_any_order", ()),
        (FromTheEnd, "test_negative_index", (-1,)),
        (Rounding, "test_index_and_epoch_are_whole_numbers", (1.5,)),
        (SameEpochs, "test_epochs", ()),
        (Elsewhere, "test_targets_are_windows_of_known_images", ()),
    ],
)
def test_contract_catches(kind, test, arguments):
    getattr(contract_of(Honest), test)(*arguments)
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(contract_of(kind), test)(*arguments)
    assert not isinstance(caught.value, BrokenProcessPool)


def test_rectangle_sampler_mask_is_what_its_boxes_say():
    sampler = RectangleSampler(images=50)
    image_id = sampler.image_ids[31]
    height, width, _ = sampler.image_shape(image_id)
    truth = np.full((height + 20, width + 20), 255)
    truth[10:-10, 10:-10] = 0
    shapes = sampler.shapes_of(image_id)
    assert len(shapes) > 0
    for box, category in zip(shapes.boxes_xyxy.astype(int), shapes.category_ids, strict=True):
        x0, y0, x1, y1 = box + 10
        truth[y0:y1, x0:x1] = sampler.class_map.index_of(int(category))
    np.testing.assert_array_equal(sampler.load_mask(image_id, Window(-10, -10, height + 20, width + 20)), truth)
    for row, annot_id in enumerate(shapes.annot_ids.tolist()):
        assert sampler.locate_annot(annot_id) == (image_id, row)
