"""Short ways to sources, and items by number."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest

from slidesampler import (
    BalancedSource,
    CoverageSource,
    GridSource,
    NegativeSource,
    PositiveSource,
    RejectionSource,
    Sampler,
    SamplingError,
    WeightedSource,
)


@pytest.fixture
def sampler():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (400, 600, 3), np.uint8)
    boxes = [[20, 30, 40, 40], [300, 200, 30, 60], [500, 350, 20, 20]]
    return Sampler(
        {
            "images": [{"id": 4, "file_name": "array://choosing"}],
            "categories": [{"id": 1, "name": "tumour"}],
            "annotations": [
                {"id": 10 + i, "image_id": 4, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)
            ],
        },
        arrays={"choosing": pixels},
    )


@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("positive", PositiveSource, {"size": 32, "n": 5, "seed": 3}),
        ("negative", NegativeSource, {"size": 32, "n": 5, "seed": 3}),
        ("balanced", BalancedSource, {"size": 32, "n": 8, "seed": 3}),
        ("grid", GridSource, {"size": 64, "overlap": 8}),
        ("coverage", CoverageSource, {"size": 64}),
        ("weighted", WeightedSource, {"size": 32, "maps": {4: np.eye(4)}, "n": 5, "seed": 3}),
    ],
)
def test_short_ways_are_the_classes(sampler, name, kind, arguments):
    short, full = getattr(sampler, name)(**arguments), kind(sampler, **arguments)
    assert type(short) is kind
    assert len(short) == len(full)
    assert [short.target(1, i) for i in range(len(full))] == [full.target(1, i) for i in range(len(full))]
    # What an editor shows is the signature of the class, less the sampler.
    assert (
        list(inspect.signature(getattr(sampler, name)).parameters)
        == list(inspect.signature(kind).parameters)[1:]
    )


def test_rejection_of_another_source(sampler):
    source = sampler.rejection(sampler.grid(size=64), size_threshold=0, p=0.0)
    assert isinstance(source, RejectionSource)
    assert len(source) == len(sampler.grid(size=64))


def test_items_by_number(sampler):
    assert sampler.preselect(size=32, n_pos=7, n_neg=12, seed=5) == (7, 12)
    assert (sampler.n_positives, sampler.n_negatives, len(sampler)) == (7, 12, 19)
    for index in range(7):
        assert (sampler.load_positive(index).mask == 1).any()
        np.testing.assert_array_equal(sampler.load_item(index).image, sampler.load_positive(index).image)
    for index in range(12):
        assert not (sampler.load_negative(index).mask == 1).any()
        np.testing.assert_array_equal(sampler.load_item(7 + index).image, sampler.load_negative(index).image)
    # Another epoch shows other windows, as many of them.
    assert sampler.load_item(0).window != sampler.load_item(0, epoch=1).window
    assert sampler.load_item(3, with_mask=False, with_annots=False).mask is None


def test_as_many_as_asked_for_and_never_fewer(sampler):
    # More positives than annotations, more negatives than would fit side by side.
    assert sampler.preselect(size=64, n_pos=50, n_neg=5000) == (50, 5000)
    assert len(sampler) == 5050
    sampler.load_item(5049)
    assert len(sampler) == 5050


def test_defaults_are_one_for_each_annotation_and_as_many_negatives(sampler):
    assert sampler.preselect(size=32) == (3, 3)
    assert [sampler.load_positive(i).target.annot_id for i in range(3)] == [10, 11, 12]


def test_sources_of_ones_own(sampler):
    grid = sampler.grid(size=100)
    assert sampler.preselect(size=100, positive=grid, n_neg=2) == (24, 2)
    assert sampler.load_positive(3).window == grid.target(0, 3).window


@pytest.mark.parametrize("index", [-1, 19, 10**9])
def test_out_of_range(sampler, index):
    sampler.preselect(size=32, n_pos=7, n_neg=12)
    for load in (sampler.load_item, sampler.load_positive, sampler.load_negative):
        with pytest.raises(IndexError):
            load(index)


def test_before_preselect(sampler):
    assert sampler
    for use in (lambda: sampler.load_item(0), lambda: sampler.load_positive(0), lambda: len(sampler)):
        with pytest.raises(SamplingError, match="preselect"):
            use()


def test_a_copy_has_the_same_items(sampler):
    sampler.preselect(size=32, n_pos=7, n_neg=12, seed=5)
    copy = pickle.loads(pickle.dumps(sampler))
    assert len(copy) == 19
    assert [copy.load_item(i).window for i in range(19)] == [sampler.load_item(i).window for i in range(19)]
