"""The sources over the real sampler and a manifest of 10,000 images, none of whose files exist."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from slidesampler import GridSource, NegativeSource, PositiveSource, Sampler, SourceMissingError
from slidesampler.sampling import SourceSampler
from slidesampler.testing.source_contract import MAX_PICKLE_BYTES

IMAGES = 10_000


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    rng = np.random.default_rng(0)
    sizes = rng.integers(300, 5000, (IMAGES, 2)).tolist()
    corners = (rng.random((IMAGES, 2)) * 200).tolist()
    manifest = {
        "images": [
            {"id": 5 + 3 * i, "file_name": f"slide{i}.tif", "height": h, "width": w}
            for i, (h, w) in enumerate(sizes)
        ],
        "categories": [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}],
        "annotations": [
            {"id": i, "image_id": 5 + 3 * (i // 2), "category_id": 1 + i % 2, "bbox": [x, y, 40, 30]}
            for i, (x, y) in enumerate(corners)
        ],
    }
    return Sampler(manifest, bundle_dir=tmp_path_factory.mktemp("no-slides"))


@pytest.fixture(scope="module")
def sources(sampler):
    half = sampler.image_ids[::2]
    return {
        "grid": GridSource(sampler, 256, overlap=32, downsample=2, image_ids=sampler.image_ids[::-1]),
        "each": PositiveSource(sampler, 128, jitter_px=40),
        "positive": PositiveSource(sampler, 128, n=50_000, seed=1, class_weights="uniform", image_ids=half),
    }


def targets_of(source, places):
    return [source.target(*place) for place in places]


def test_sampler_is_what_sources_ask_for(sampler):
    source: SourceSampler = sampler
    assert source.image_ids[:2] == (5, 8)
    assert dict(source.manifest.category_names) == {1: "tumour", 2: "stroma"}


@pytest.mark.parametrize("name", ["grid", "each", "positive"])
def test_pickles_small(sources, name):
    assert len(pickle.dumps(sources[name])) <= MAX_PICKLE_BYTES


@pytest.mark.parametrize("name", ["grid", "each", "positive"])
def test_chooses_windows_without_opening_an_image(sources, name):
    source = sources[name]
    places = [(epoch, index) for epoch in (0, 4) for index in (0, 1, len(source) // 2, len(source) - 1)]
    expected = targets_of(source, places)
    assert len({target.image_id for target in expected}) >= 3
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(targets_of, source, places).result() == expected


@pytest.mark.filterwarnings("ignore:looking for the classes in the masks of 10000 images")
def test_negatives_look_at_labels_when_they_are_made(sampler):
    """So that a slide that cannot be read, or has no negative, is known before training begins."""
    with pytest.raises(SourceMissingError, match=r"slide\d+\.tif"):
        NegativeSource(sampler, 128, n=50_000, seed=1, image_ids=sampler.image_ids[::2])


def test_positives_hold_their_box_centre(sampler, sources):
    rng = np.random.default_rng(0)
    rng.integers(300, 5000, (IMAGES, 2))
    corners = rng.random((IMAGES, 2)) * 200
    for index in range(0, IMAGES, 499):
        target = sources["each"].target(2, index)
        x, y = corners[target.annot_id] + (20, 15)
        assert target.annot_id == index
        assert target.image_id == 5 + 3 * (index // 2)
        assert target.window.y <= y < target.window.y1
        assert target.window.x <= x < target.window.x1
