"""Positives and negatives in proportion, on slides that are nearly empty; masks say what a window holds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from slidesampler.errors import SamplingError
from slidesampler.geometry import Window
from slidesampler.sampler import Sampler
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.testing.source_contract import RectangleSampler, SourceContract
from slidesampler.torch.window_sampler import WindowBatchSampler

SIDE, SLIDES, SIZE = 1000, 3, 32


class TestBalanced(SourceContract):
    def make_source(self, sampler):
        return BalancedSource(
            sampler, size=64, n=1000, seed=7, pos_fraction=0.3, image_ids=sampler.image_ids[:200]
        )


class TestBalancedBatches(SourceContract):
    def make_source(self, sampler):
        return BalancedSource(
            sampler,
            size=32,
            pos_fraction=0.25,
            batch_size=24,
            downsample=2.0,
            image_ids=sampler.image_ids[:200],
        )


class TestBalancedOfSources(SourceContract):
    def make_source(self, sampler):
        ids = sampler.image_ids[:200]
        positive = PositiveSource(sampler, 64, jitter_px=20, image_ids=ids)
        return BalancedSource.of(
            positive, NegativeSource(sampler, 64, 50, image_ids=ids), 0.5, 600, batch_size=8
        )


@pytest.fixture(scope="module")
def sampler():
    """Three slides of which 95 % are empty: fifty squares each of a thousandth of the slide."""
    images, annotations, arrays = [], [], {}
    for image_id in range(1, SLIDES + 1):
        name = f"balanced-{image_id}"
        arrays[name] = np.zeros((SIDE, SIDE, 1), np.uint8)
        images.append({"id": image_id, "file_name": f"array://{name}"})
        places = np.random.default_rng(image_id).permutation(400)[:50]
        for place in places.tolist():
            y, x = divmod(place, 20)
            box = [x * 50 + 9, y * 50 + 9, 31, 32]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "bbox": box}
            )
    manifest = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tumour"}]}
    return Sampler(manifest, arrays=arrays)


def holds_foreground(sampler, target):
    mask = sampler.load_mask(target.image_id, sampler.resolve(target).window)
    return bool(((mask != 0) & (mask != 255)).any())


def test_slides_are_nearly_empty(sampler):
    shares = [
        (sampler.load_mask(image_id, Window(0, 0, SIDE, SIDE)) == 1).mean() for image_id in sampler.image_ids
    ]
    assert max(shares) < 0.05


@pytest.mark.parametrize("pos_fraction", [0.1, 0.5, 0.9])
def test_share_of_positives_on_nearly_empty_slides(sampler, pos_fraction):
    """Of 300 windows in the middle of an epoch, within five standard errors of the binomial."""
    source = BalancedSource(sampler, size=SIZE, n=5000, seed=3, pos_fraction=pos_fraction)
    targets = [source.target(1, index) for index in range(2000, 2300)]
    found = sum(holds_foreground(sampler, target) for target in targets)
    assert abs(found - 300 * pos_fraction) < 5 * math.sqrt(300 * pos_fraction * (1 - pos_fraction))
    assert [holds_foreground(sampler, target) for target in targets] == [t.kind == "positive" for t in targets]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("pos_fraction", "batch_size"), [(0.5, 8), (0.25, 16), (1 / 3, 8), (0.05, 12)])
def test_quota_of_every_global_batch_over_ranks(sampler, world_size, pos_fraction, batch_size):
    source = BalancedSource(sampler, SIZE, 15 * batch_size, pos_fraction=pos_fraction, batch_size=batch_size)
    ranks = [WindowBatchSampler(source, seed=9, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in (0, 1):
        for rank in ranks:
            rank.set_epoch(epoch)
        total = {}
        for batches in zip(*map(list, ranks), strict=True):
            places = [place for batch in batches for place in batch]
            number = places[0][1] // batch_size
            total[number] = sum(source.target(*place).kind == "positive" for place in places)
        share = Fraction(str(pos_fraction)) * batch_size
        for number in range(15):
            # Exactly the share where that is whole; else within one of it, and never drifting.
            assert abs(total[number] - share) < 1
            assert abs(sum(total[i] for i in range(number + 1)) - share * (number + 1)) <= Fraction(1, 2)


def test_quota_is_what_masks_show(sampler):
    source = BalancedSource(sampler, size=SIZE, n=64, pos_fraction=0.25, batch_size=16)
    for batch in range(4):
        targets = [source.target(0, index) for index in range(16 * batch, 16 * batch + 16)]
        assert sum(holds_foreground(sampler, target) for target in targets) == 4


@pytest.mark.parametrize("batch_size", [None, 16])
def test_epoch_shows_each_annotation_once_by_default(sampler, batch_size):
    source = BalancedSource(sampler, size=SIZE, pos_fraction=0.25, batch_size=batch_size)
    # 150 annotations; rounded up to 38 batches of 16.
    assert len(source) == (600 if batch_size is None else 608)
    for epoch in (0, 5):
        targets = [source.target(epoch, index) for index in range(len(source))]
        annots = [target.annot_id for target in targets if target.kind == "positive"]
        assert set(annots) == set(range(1, 151))
        assert len(annots) == len(source) // 4
        negatives = [(t.image_id, t.window) for t in targets if t.kind == "negative"]
        assert len(set(negatives)) > 0.9 * len(negatives)


def test_positives_of_a_batch_come_from_all_slides(sampler):
    source = BalancedSource(sampler, size=SIZE, n=32, batch_size=32)
    assert {source.target(0, index).image_id for index in range(32)} == {1, 2, 3}


def test_ready_made_sources(sampler):
    positive = PositiveSource(sampler, SIZE, jitter_px=8)
    negative = NegativeSource(sampler, SIZE, 40, seed=8)
    source = BalancedSource.of(positive, negative, 0.75, batch_size=20)
    assert (source.positive, source.negative, source.pos_fraction) == (positive, negative, 0.75)
    # The 40 negatives are used up first.
    assert len(source) == 160
    assert isinstance(source, BalancedSource)
    found = [source.target(0, index).kind for index in range(160)]
    assert found.count("negative") == 40
    place = next(place for i in range(160) if (place := source.locate(2, i)).source == 1)
    assert negative.target(place.epoch, place.number) in [source.target(2, i) for i in range(160)]


@pytest.mark.parametrize(("pos_fraction", "kind"), [(0, "negative"), (1, "positive")])
def test_one_kind_alone(sampler, pos_fraction, kind):
    source = BalancedSource(sampler, SIZE, n=20, pos_fraction=pos_fraction)
    assert {source.target(0, index).kind for index in range(20)} == {kind}


def test_no_negatives_are_looked_for_where_none_are_wanted():
    everywhere = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40]}
    manifest = {
        "images": [{"id": 1, "file_name": "array://full-of-tumour"}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [everywhere],
    }
    full = Sampler(manifest, arrays={"full-of-tumour": np.zeros((40, 40, 1), np.uint8)})
    assert BalancedSource(full, 16, pos_fraction=1).target(0, 0).kind == "positive"
    with pytest.raises(SamplingError):
        BalancedSource(full, 16, pos_fraction=0.5)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, 50, math.nan])
def test_wrong_share(sampler, wrong):
    with pytest.raises(ValueError, match="pos_fraction is a share, 0 to 1"):
        BalancedSource(sampler, SIZE, n=10, pos_fraction=wrong)


def test_negatives_alone_need_a_number(sampler):
    with pytest.raises(ValueError, match="say how many windows, n="):
        BalancedSource(sampler, SIZE, pos_fraction=0)


@pytest.mark.parametrize("n", [0, -5])
def test_wrong_number(sampler, n):
    with pytest.raises(ValueError, match="n must be at least 1"):
        BalancedSource(sampler, SIZE, n=n)


def test_options_reach_both_sources():
    sampler = RectangleSampler(40)
    ids = sampler.image_ids[3:20]
    source = BalancedSource(sampler, 48, n=60, image_ids=iter(ids), mpp=1.0, how={"nodata": 3})
    targets = [source.target(0, index) for index in range(60)]
    assert {target.kind for target in targets} == {"positive", "negative"}
    assert {(target.mpp, target.nodata, target.size) for target in targets} == {(1.0, 3.0, (48, 48))}
    assert {target.image_id for target in targets} <= set(ids)
