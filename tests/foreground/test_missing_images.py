"""An image that cannot be read is in nobody's way but of who asks for it."""

from __future__ import annotations

import json
import pickle

import pytest

from slidesampler import (
    CacheMissError,
    NegativeSource,
    PositiveSource,
    Sampler,
    SlideSamplerError,
    SourceMissingError,
    TargetError,
    foregrounds,
)
from slidesampler.testing import make_dataset


@pytest.fixture
def manifest(tmp_path):
    path = make_dataset(tmp_path / "slides", n_slides=2, height=600, width=700, seed=4)
    document = json.loads(path.read_text())
    document["images"].insert(1, {"id": 50, "file_name": "gone.tif", "height": 900, "width": 900})
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("cached", [False, True])
def test_others_can_be_sampled(manifest, tmp_path, cached):
    sampler = Sampler(manifest, tmp_path / "cache", "npy" if cached else None)
    if cached:
        report = sampler.build()
        assert {row.image_id for row in report.failed} == {50}
    index = sampler.foreground
    assert index.image_ids.tolist() == list(sampler.image_ids)
    assert list(index.missing) == [50]
    assert index.pixels[1].tolist() == [0] * (index.n_classes + 1)
    kind = CacheMissError if cached else SourceMissingError
    with pytest.raises(kind, match="gone"):
        index.row(50)
    with pytest.raises(kind, match="gone"):
        pickle.loads(pickle.dumps(index)).row(50)
    with pytest.raises(TargetError):
        index.row(51)
    there = [image_id for image_id in sampler.image_ids if image_id != 50]
    for source in (
        NegativeSource(sampler, 64, n=20, image_ids=there),
        PositiveSource(sampler, 64, n=20, choose="pixel", image_ids=there),
    ):
        assert {source.target(0, i).image_id for i in range(20)} == set(there)
    with pytest.raises(kind, match="gone"):
        NegativeSource(sampler, 64, n=20)


def test_an_image_that_comes_back_is_seen(manifest, tmp_path):
    assert list(Sampler(manifest).foreground.missing) == [50]
    slides = manifest.parent
    (slides / "gone.tif").write_bytes((slides / "slide-01.tif").read_bytes())
    document = json.loads(manifest.read_text())
    document["images"][1].update(height=600, width=700)
    manifest.write_text(json.dumps(document))
    index = Sampler(manifest).foreground
    assert not index.missing
    assert index.pixels[1, 0] == 600 * 700


def test_nothing_but_missing_images_is_an_error(tmp_path):
    sampler = Sampler({"images": [{"id": 1, "file_name": "a.tif"}]}, bundle_dir=tmp_path)
    with pytest.raises(SlideSamplerError, match=r"a\.tif"):
        _ = sampler.foreground


def test_a_long_wait_is_announced(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(foregrounds, "SLOW_PIXELS", 2 * 600 * 700)
    with pytest.warns(UserWarning, match="masks of 3 images.*slidesampler build"):
        _ = Sampler(manifest).foreground
    # What a build has looked at is not looked at again; the missing image alone is small.
    built = Sampler(manifest, tmp_path / "cache", "npy")
    built.build()
    monkeypatch.setattr(foregrounds, "SLOW_PIXELS", 900 * 900)
    assert built.foreground.missing
