"""Restricted and classified grids pass the contract of sources; what they cost a slide."""

from __future__ import annotations

import pickle

import numpy as np

from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.grid_rule import TileRule
from slidesampler.testing.source_contract import MAX_PICKLE_BYTES, RectangleSampler, SourceContract

IMAGES = 60


class FewerImages(SourceContract):
    random = False

    def make_sampler(self):
        return RectangleSampler(IMAGES)


class TestTissue(FewerImages):
    def make_source(self, sampler):
        return GridSource(sampler, size=(64, 96), overlap=(16, 0), edge="pad", where="tissue", downsample=1.5)


class TestRegions(FewerImages):
    def make_source(self, sampler):
        return GridSource(
            sampler,
            size=64,
            stride=40,
            edge="even",
            roi=["tumour", {17: [[(0, 0), (90, 0), (0, 90)]]}],
            mpp=1.0,
        )


class TestClassified(FewerImages):
    def make_source(self, sampler):
        return GridSource(sampler, size=48, classify=TileRule(0.2, 0.1, categories="tumour"))


class TestPositivesOfMasks(FewerImages):
    def make_source(self, sampler):
        masks = {image_id: np.eye(9, dtype=bool) for image_id in sampler.image_ids}
        ids = sampler.image_ids[::-1]
        return GridSource(sampler, size=48, where=masks, min_tissue=0.3, only="positive", image_ids=ids)


def test_restricted_grid_of_ten_thousand_images_pickles_small():
    source = GridSource(RectangleSampler(), size=64, where="tissue")
    assert len(source) > 500_000
    state = pickle.dumps(source)
    assert len(state) <= MAX_PICKLE_BYTES
    copy = pickle.loads(state)
    for index in np.linspace(0, len(source) - 1, 200).astype(int).tolist():
        assert copy.target(0, index) == source.target(0, index)


def test_a_grid_holds_a_few_numbers_an_image_and_no_list():
    source = GridSource(RectangleSampler(), size=32, stride=1)
    assert len(source) > 10**9
    source.target(0, len(source) - 1)
    held = [value for value in vars(source).values() if isinstance(value, list | np.ndarray)]
    assert all(len(value) <= 10_000 for value in held)
