"""``slidesampler stats`` prints what the library finds."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from slidesampler import Sampler
from slidesampler.cli import sample as sample_command
from slidesampler.cli import stats as stats_command
from slidesampler.cli.app import Commands
from slidesampler.sampling.survey import dataset_statistics


@pytest.fixture
def run():
    app = typer.Typer(cls=Commands, rich_markup_mode=None)
    app.command("sample", epilog=sample_command.EXAMPLES)(sample_command.sample)
    app.command("stats", epilog=stats_command.EXAMPLES)(stats_command.stats)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def manifest(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1000, 1000, 3), np.uint8))
    data = {
        "images": [{"id": 1, "name": "a", "file_name": "a.npy", "height": 1000, "width": 1000}],
        "categories": [{"id": 5, "name": "tumour"}, {"id": 6, "name": "mitosis"}, {"id": 7, "name": "nerve"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 500, 400]},
            {"id": 2, "image_id": 1, "category_id": 6, "bbox": [700, 700, 10, 10]},
        ],
    }
    path = tmp_path / "slides.kwcoco.json"
    path.write_text(json.dumps(data))
    return path


def test_the_tables(run, manifest):
    result = run("stats", manifest, "--size", 64)
    assert result.exit_code == 0, result.output
    assert "1 slides, 1.0 megapixels: 100.0% valid, 100.0% tissue, 20.0% foreground" in result.stdout
    assert re.search(
        r"tumour +1 +1 +200,000 +20\.0% +200,000 +200,000 +200,000 +\d+\.\d% ± 0\.\d%", result.stdout
    )
    assert re.search(r"mitosis +1 +1 +100 +0\.0001 ", result.stdout)
    assert re.search(r"nerve +0 +0 +0 ", result.stdout)
    assert "warning: class 'mitosis'" in result.stdout
    assert "warning: 1 class (nerve) without annotations" in result.stdout


def test_json_is_what_the_library_finds(run, manifest):
    result = run("stats", manifest, "--size", "64,32", "--downsample", 2, "--draws", 300, "--seed", 5, "--json")
    found = json.loads(result.stdout)
    expected = dataset_statistics(Sampler(manifest), (64, 32), downsample=2, draws=300, seed=5)
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert found["size"] == [128, 64]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--size", "x"], "no size"), (["--draws", "0"], "draws"), (["--downsample", "0.1"], "downsample")],
)
def test_wrong_usage(run, manifest, arguments, words):
    result = run("stats", manifest, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_no_pixel_is_read(run, manifest, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pixels were read")

    monkeypatch.setattr("slidesampler.loading.read_pixels", refuse)
    assert run("stats", manifest).exit_code == 0
