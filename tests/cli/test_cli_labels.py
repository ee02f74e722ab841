"""Commands read the labels that were built last."""

from __future__ import annotations

import json

import pytest

from slidesampler import FixedSource, LabelSpec, NegativeSource, Sampler
from slidesampler.cli.labels import label_spec_of
from slidesampler.cli.options import Tissue
from slidesampler.testing import make_dataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    manifest = make_dataset(folder / "slides", n_slides=1, height=700, width=900, seed=2)
    for tissue in ("none", "otsu"):
        spec = LabelSpec(overlap="smallest", tissue=tissue)
        Sampler(manifest, folder / "cache", "npy", label_spec=spec).build()
    return manifest, folder / "cache"


def test_the_spec_is_that_of_the_labels_built_last(cache, tmp_path):
    _, workdir = cache
    assert label_spec_of(workdir, None) == LabelSpec(overlap="smallest", tissue="otsu")
    assert label_spec_of(workdir, Tissue.NONE) == LabelSpec(overlap="smallest", tissue="none")
    assert label_spec_of(tmp_path / "nothing", None) == label_spec_of(None, None) == LabelSpec()


def test_stats_of_the_tissue_that_was_built(run, cache):
    manifest, workdir = cache

    def share(*more):
        result = run("stats", str(manifest), "--workdir", str(workdir), "--size", "64", *more, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["images"][0]["tissue_share"]

    assert share("--tissue", "none") == 1
    assert share() < 0.9


def test_windows_are_drawn_from_the_tissue_that_was_built(run, cache, tmp_path):
    manifest, workdir = cache
    words = ("--source", "negative", "--n", "40", "--size", "64", "--out", str(tmp_path / "w.jsonl"))
    result = run("sample", str(manifest), "--workdir", str(workdir), *words)
    assert result.exit_code == 0, result.stderr
    spec = LabelSpec(overlap="smallest", tissue="otsu")
    expected = NegativeSource(Sampler(manifest, workdir, label_spec=spec), 64, 40)
    drawn = FixedSource.from_jsonl(tmp_path / "w.jsonl")
    assert [drawn.target(0, i) for i in range(40)] == [expected.target(0, i) for i in range(40)]


def test_a_word_that_is_no_tissue(run, cache):
    result = run("stats", str(cache[0]), "--tissue", "glass")
    assert result.exit_code == 2
    assert "glass" in result.stderr
