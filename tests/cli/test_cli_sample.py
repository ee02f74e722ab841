"""``slidesampler sample`` prints what it drew, writes what can be used, and reads no pixel."""

from __future__ import annotations

import json
import re

import kwcoco
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from slidesampler import Manifest, Sampler
from slidesampler.cli import sample as sample_command
from slidesampler.cli import stats as stats_command
from slidesampler.cli.app import Commands
from slidesampler.cli.exits import exit_code_of
from slidesampler.errors import NegativesExhaustedError, SamplingError
from slidesampler.sampling import FixedSource, GridSource, NegativeSource, PositiveSource
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.from_words import SOURCE_NAMES, source_from_words, source_options
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.rejection import RejectionSource


@pytest.fixture
def run():
    app = typer.Typer(cls=Commands, rich_markup_mode=None)
    app.command("sample", epilog=sample_command.EXAMPLES)(sample_command.sample)
    app.command("stats", epilog=stats_command.EXAMPLES)(stats_command.stats)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, shape in (("a", (300, 400)), ("b", (200, 260))):
        np.save(folder / f"{name}.npy", np.zeros((*shape, 3), np.uint8))
    data = {
        "images": [
            {"id": 1, "name": "a", "file_name": "a.npy", "height": 300, "width": 400},
            {"id": -3, "name": "b", "file_name": "b.npy", "height": 200, "width": 260},
        ],
        "categories": [{"id": 5, "name": "tumour"}, {"id": 6, "name": "stroma"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [20, 30, 60, 40]},
            {"id": 2, "image_id": 1, "category_id": 6, "bbox": [200, 200, 30, 30]},
            {"id": 9, "image_id": -3, "category_id": 6, "bbox": [0, 0, 50, 50]},
        ],
    }
    path = folder / "slides.kwcoco.json"
    path.write_text(json.dumps(data))
    return path


def targets_of(source, n=None):
    return [source.target(0, index) for index in range(len(source) if n is None else n)]


class TestDrawing:
    def test_the_file_holds_what_the_library_draws(self, run, manifest, tmp_path):
        out = tmp_path / "new" / "windows.jsonl"
        result = run(
            "sample", manifest, "--source", "balanced", "--n", 40, "--size", 48, "--seed", 3,
            "--pos-fraction", 0.25, "--epoch", 2, "--out", out,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        source = BalancedSource(Sampler(manifest), 48, n=40, seed=3, pos_fraction=0.25)
        written = FixedSource.from_jsonl(out)
        assert targets_of(written) == [source.target(2, index) for index in range(40)]
        head = json.loads(out.read_text().splitlines()[0])
        assert head["about"]["source"] == "balanced"
        assert head["about"]["epoch"] == 2

    def test_windows_start_where_tiles_do(self, run, manifest, tmp_path):
        out = tmp_path / "windows.jsonl"
        result = run("sample", manifest, "-n", 40, "--size", 48, "--snap", 16, "--out", out)
        assert result.exit_code == 0, result.output
        expected = targets_of(BalancedSource(Sampler(manifest), 48, n=40, snap=16))
        assert targets_of(FixedSource.from_jsonl(out)) == expected
        assert not any("snap" in line for line in out.read_text().splitlines()[1:])
        assert run("sample", manifest, "--source", "grid", "--snap", 16).exit_code == 2

    def test_the_tables_say_what_was_drawn(self, run, manifest):
        result = run("sample", manifest, "--source", "balanced", "-n", 40, "--size", 48, "--pos-fraction", 0.25)
        assert result.exit_code == 0
        assert "source balanced, epoch 0, seed 0: 40 windows in" in result.stdout
        assert "windows/s" in result.stdout
        assert re.search(r"negative +30 +75\.0% +75\.0% +\d", result.stdout)
        assert re.search(r"positive +10 +25\.0% +25\.0%", result.stdout)
        assert "nothing was written" in result.stderr

    def test_json_is_one_document(self, run, manifest):
        result = run("sample", manifest, "--source", "positive", "-n", 60, "--size", 32, "--json")
        found = json.loads(result.stdout)
        source = PositiveSource(Sampler(manifest), 32, n=60)
        targets = targets_of(source)
        assert found["windows"] == 60
        assert {row["name"]: row["windows"] for row in found["classes"]} == {
            name: sum(target.category_id == number for target in targets)
            for name, number in (("tumour", 5), ("stroma", 6))
        }
        assert {row["image_id"]: row["windows"] for row in found["images"]} == {
            image_id: sum(target.image_id == image_id for target in targets) for image_id in (1, -3)
        }
        assert found["kinds"] == [{"kind": "positive", "windows": 60, "served": 1.0, "asked": 1.0}]

    def test_tries_are_told(self, run, manifest):
        result = run("sample", manifest, "--source", "negative", "-n", 50, "--size", 64, "--json")
        (told,) = json.loads(result.stdout)["tries"]
        source = NegativeSource(Sampler(manifest), 64, n=50)
        assert told["tries"] == sum(source.explain(0, index)[1].tries for index in range(50)) > 50

    def test_a_grid_is_drawn_whole_or_to_a_number(self, run, manifest, tmp_path):
        out = tmp_path / "w.jsonl"
        assert (
            run("sample", manifest, "-s", "grid", "--size", "50,100", "--overlap", 10, "-o", out).exit_code == 0
        )
        whole = targets_of(GridSource(Sampler(manifest), (50, 100), overlap=10))
        assert targets_of(FixedSource.from_jsonl(out)) == whole
        result = run("sample", manifest, "-s", "grid", "--size", "50x100", "-n", 7, "-o", out, "--force")
        assert result.exit_code == 0
        assert len(FixedSource.from_jsonl(out)) == 7

    def test_a_file_of_windows_is_a_source_too(self, run, manifest, tmp_path):
        out, again = tmp_path / "w.jsonl", tmp_path / "again.jsonl"
        run("sample", manifest, "-s", "positive", "-n", 9, "--size", 32, "-o", out)
        result = run("sample", manifest, "-s", "fixed", "-O", f"path={out}", "-o", again)
        assert result.exit_code == 0, result.output
        assert targets_of(FixedSource.from_jsonl(again)) == targets_of(FixedSource.from_jsonl(out))

    @pytest.mark.parametrize("source", ["coverage", "weighted", "rejection"])
    def test_other_sources(self, run, manifest, source):
        result = run("sample", manifest, "-s", source, "-n", 20, "--size", 32, "--downsample", 2, "--json")
        assert result.exit_code == 0, result.output
        assert 0 < json.loads(result.stdout)["windows"] <= 20

    def test_no_pixel_is_read(self, run, manifest, monkeypatch):
        def refuse(*arguments, **options):
            raise AssertionError("pixels were read")

        monkeypatch.setattr("slidesampler.loading.read_pixels", refuse)
        assert run("sample", manifest, "-s", "balanced", "-n", 20, "--size", 32).exit_code == 0


class TestWriting:
    def arguments(self, manifest, tmp_path):
        return (
            "sample", manifest, "-s", "balanced", "-n", 30, "--size", 40, "--categories", "stroma",
            "--out", tmp_path / "w.jsonl", "--geojson", tmp_path / "qupath",
            "--kwcoco", tmp_path / "w.kwcoco.json",
        )  # fmt: skip

    def test_a_dry_run_writes_nothing(self, run, manifest, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        result = run(*self.arguments(manifest, tmp_path), "--dry-run")
        assert result.exit_code == 0
        assert "30 windows" in result.stdout
        assert sorted(tmp_path.rglob("*")) == before

    def test_all_three_hold_the_same_windows(self, run, manifest, tmp_path):
        result = run(*self.arguments(manifest, tmp_path))
        assert result.exit_code == 0, result.output
        targets = targets_of(FixedSource.from_jsonl(tmp_path / "w.jsonl"))
        assert all(target.category_id in (None, 6) for target in targets)
        wanted = sorted((t.image_id, t.window.as_xyxy(), t.kind) for t in targets)
        names = {"a": 1, "b": -3}
        shown = []
        for name, image_id in names.items():
            features = json.loads((tmp_path / "qupath" / f"{name}.geojson").read_text())["features"]
            for feature in features:
                ring = feature["geometry"]["coordinates"][0]
                kind = feature["properties"]["classification"]["name"].removeprefix("window-")
                shown.append((image_id, (*ring[0], *ring[2]), kind))
        assert sorted(shown) == wanted
        coco = kwcoco.CocoDataset(str(tmp_path / "w.kwcoco.json"))
        boxes = [
            (annot["image_id"], annot["bbox"], coco.cats[annot["category_id"]]["name"].removeprefix("window-"))
            for annot in coco.annots().objs
            if "target" in annot
        ]
        assert sorted((i, (x, y, x + w, y + h), kind) for i, (x, y, w, h), kind in boxes) == wanted
        for path in ("w.jsonl", "qupath/a.geojson", "qupath/b.geojson", "w.kwcoco.json"):
            assert f"wrote {tmp_path / path}" in result.stdout
        assert not list(tmp_path.rglob("*.partial"))

    @pytest.mark.parametrize("there", ["w.jsonl", "qupath/a.geojson", "w.kwcoco.json"])
    def test_what_is_there_is_not_replaced_unasked(self, run, manifest, tmp_path, there):
        (tmp_path / "qupath").mkdir()
        (tmp_path / there).write_text("mine")
        result = run(*self.arguments(manifest, tmp_path))
        assert result.exit_code == 2
        assert there in result.stderr
        assert "--force" in result.stderr
        assert (tmp_path / there).read_text() == "mine"
        assert run(*self.arguments(manifest, tmp_path), "--force").exit_code == 0
        assert (tmp_path / there).read_text() != "mine"

    def test_the_copy_loads_as_a_manifest(self, run, manifest, tmp_path):
        run(*self.arguments(manifest, tmp_path))
        loaded = Manifest.load(tmp_path / "w.kwcoco.json")
        assert len(loaded.shapes) == 3 + 30
        loaded.check_files()


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-s", "postive"], "did you mean 'positive'?"),
            (["-s", "grid", "--pos-fraction", "0.5"], "'pos_fraction'"),
            (["-s", "positive", "-O", "jiter_px=3"], "did you mean 'jitter_px'?"),
            (["-s", "balanced", "-n", "5", "-O", "strid=3"], "'strid'"),
            (["-s", "rejection", "-n", "5", "-O", "size_treshold=3"], "size_treshold"),
            (["-s", "negative"], "needs 'n'"),
            (["-s", "positive", "--categories", "tumor"], "did you mean 'tumour'?"),
            (["-s", "positive", "--size", "12.5"], "12.5"),
            (["-s", "positive", "--size", "0"], "no size"),
            (["-s", "positive", "-O", "word"], "NAME=VALUE"),
            (["-s", "positive", "-O", "n=1", "-O", "n=2"], "twice"),
            (["-s", "positive", "--only-images", "x"], "no image id"),
            (["-s", "positive", "--only-images", "77"], "77"),
            (["-s", "negative", "-n", "5", "-O", "min_valid=7"], "min_valid"),
            (["-s", "fixed"], "needs 'path'"),
            (["-s", "positive", "--downsample", "0.5"], "downsample"),
        ],
    )
    def test_it_is_said_and_the_code_is_2(self, run, manifest, arguments, words):
        result = run("sample", manifest, *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert "Traceback" not in result.output

    def test_nothing_to_choose_from(self, run, manifest):
        result = run("sample", manifest, "-s", "negative", "-n", 3, "--size", 2000)
        assert result.exit_code == 2
        assert "2000" in result.stderr

    def test_running_out_of_negatives_is_a_failure(self, run, tmp_path):
        np.save(tmp_path / "full.npy", np.zeros((128, 128, 3), np.uint8))
        data = {
            "images": [{"id": 1, "file_name": "full.npy", "height": 128, "width": 128}],
            "categories": [{"id": 1, "name": "tumour"}],
            # A lattice: no window of 40 pixels is free, but no cell is full either.
            "annotations": [
                {"id": n, "image_id": 1, "category_id": 1, "bbox": [x, 0, 1, 128]}
                for n, x in enumerate(range(0, 128, 30), 1)
            ],
        }
        path = tmp_path / "full.kwcoco.json"
        path.write_text(json.dumps(data))
        out = tmp_path / "w.jsonl"
        result = run("sample", path, "-s", "negative", "-n", 3, "--size", 40, "-O", "max_tries=5", "-o", out)
        assert result.exit_code in (1, 2), "1 where it is found out by trying, 2 where at once"
        assert "foreground" in result.stderr
        assert not out.exists()

    def test_codes_of_errors_about_windows(self):
        assert exit_code_of(NegativesExhaustedError("none")) == 1
        assert exit_code_of(SamplingError("none")) == 2


class TestWords:
    @pytest.fixture
    def sampler(self, manifest):
        return Sampler(manifest)

    def test_options_go_to_the_part_that_takes_them(self, sampler):
        words = {"source": "balanced", "size": 32, "n": 20, "jitter_px": 5, "max_foreground": 0.5, "seed": 4}
        source = source_from_words(sampler, words)
        assert source.positive.jitter_px == (5, 5)
        assert (len(source), source.positive.seed, source.negative.seed) == (20, 4, 4)
        # What the positives are told does not change the negatives.
        plain = BalancedSource(sampler, 32, n=20, seed=4)
        source = source_from_words(sampler, {**words, "max_foreground": None})
        assert [t for t in targets_of(source) if t.kind == "negative"] == [
            t for t in targets_of(plain) if t.kind == "negative"
        ]

    def test_options_for_one_part_alone(self, sampler):
        words = {"source": "balanced", "size": 32, "n": 20, "negative": {"size": 48}}
        sizes = {target.kind: target.window.height for target in targets_of(source_from_words(sampler, words))}
        assert sizes == {"positive": 32, "negative": 48}

    def test_balanced_without_more_is_the_class_itself(self, sampler):
        source = source_from_words(sampler, {"source": "balanced", "size": 32, "n": 12, "pos_fraction": 0.7})
        assert targets_of(source) == targets_of(BalancedSource(sampler, 32, n=12, pos_fraction=0.7))

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_one_part_alone_is_made(self, sampler, share):
        words = {"source": "balanced", "size": 32, "n": 12, "pos_fraction": share, "allow_border": False}
        kinds = {target.kind for target in targets_of(source_from_words(sampler, words))}
        assert kinds == {"positive" if share else "negative"}

    def test_rejection_wraps(self, sampler):
        words = {"source": "rejection", "of": "positive", "n": 9, "size": 32, "size_threshold": 10, "seed": 8}
        source = source_from_words(sampler, {**words, "categories": "stroma"})
        assert isinstance(source, RejectionSource)
        assert (source.seed, source.size_threshold) == (8, 10)
        assert isinstance(source.source, PositiveSource)
        assert source.source.seed == 8
        assert {target.category_id for target in targets_of(source)} == {6}

    def test_mixtures_nest(self, sampler):
        words = {
            "source": "mixture",
            "weights": [1, 3],
            "n": 20,
            "of": [
                {"source": "grid", "size": 32},
                {"source": "balanced", "size": 32, "n": 10},
            ],
        }
        source = source_from_words(sampler, words)
        assert isinstance(source, MixtureSource)
        kinds = [target.kind for target in targets_of(source)]
        assert sum(kind == "grid" for kind in kinds) == 5

    def test_ids_of_json_are_numbers(self, sampler):
        words = {"source": "positive", "size": 32, "n": 30, "slide_weights": {"1": 0, "-3": 1}}
        assert {target.image_id for target in targets_of(source_from_words(sampler, words))} == {-3}

    def test_every_source_has_options(self):
        for name in SOURCE_NAMES:
            assert source_options(name) == tuple(sorted(source_options(name)))
            assert "sampler" not in source_options(name)
        assert "size_threshold" in source_options("rejection")
