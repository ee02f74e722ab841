"""``slidesampler build``: exit codes, what goes to which stream, and that options reach the build."""

from __future__ import annotations

import json
import typing

import numpy as np
import pytest
import tifffile
from osgeo import gdal

from slidesampler.cache import CacheStore
from slidesampler.cache.spec import CODECS, TILES
from slidesampler.cli import build as command
from slidesampler.models import Overlap, Tissue


def entries(workdir, kind="image"):
    return [entry for entry in CacheStore(workdir).entries() if entry.kind == kind]


def test_a_build_prints_a_summary_and_nothing_on_stderr(run, slides, tmp_path):
    result = run("build", slides, "--workdir", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    header, images, labels, _, last = result.stdout.splitlines()
    assert header.split()[:4] == ["built", "reused", "in-place", "failed"]
    assert images.split()[:5] == ["image", "3", "0", "0", "0"]
    assert labels.split()[:5] == ["labels", "3", "0", "0", "0"]
    assert f"cog cache in {tmp_path / 'cache'}" in last
    assert len(entries(tmp_path / "cache")) == 3


def test_what_is_there_is_reused(run, slides, tmp_path):
    run("build", slides, "--workdir", tmp_path / "cache")
    result = run("build", slides, "--workdir", tmp_path / "cache", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["counts"] == {"reused": 6}


def test_force_builds_again(run, slides, tmp_path):
    run("build", slides, "--workdir", tmp_path / "cache")
    result = run("build", slides, "--workdir", tmp_path / "cache", "--json", "--force")
    assert json.loads(result.stdout)["counts"] == {"built": 6}


def test_json_is_all_that_is_on_stdout(run, slides, tmp_path):
    result = run("build", slides, "--workdir", tmp_path / "cache", "--json")
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert [row["image_id"] for row in report["rows"]] == [1, 1, 2, 2, -3, -3]
    assert result.stderr == ""


class TestOptions:
    def test_backend(self, run, slides, tmp_path):
        assert run("build", slides, "--workdir", tmp_path / "cache", "--backend", "npy").exit_code == 0
        built = entries(tmp_path / "cache")
        assert {entry.backend for entry in built} == {"npy"}
        assert np.load(built[0].files["image"], mmap_mode="r").shape == (300, 400, 3)

    def test_backend_auto_says_what_is_converted_and_why(self, run, slides, tmp_path):
        words = ("build", slides, "--workdir", tmp_path / "cache", "--backend", "auto", "--no-labels")
        planned = json.loads(run(*words, "--dry-run", "--json").stdout)["rows"]
        for row in planned:
            assert row["action"] == "in-place" or "; converted: " in row["reason"]
        built = json.loads(run(*words, "--json").stdout)["rows"]
        assert [row["status"] for row in built] == [row["action"].replace("build", "built") for row in planned]

    def test_codec_quality_and_tile(self, run, slides, tmp_path):
        options = ("--codec", "jpeg", "--quality", "70", "--tile", "128")
        assert run("build", slides, "--workdir", tmp_path / "cache", *options).exit_code == 0
        for entry in entries(tmp_path / "cache"):
            assert (entry.codec, entry.quality, entry.lossless) == ("jpeg", 70, False)
            band = gdal.Open(entry.files["image"]).GetRasterBand(1)
            assert band.GetBlockSize() == [128, 128]

    def test_only_images_takes_lists_and_repetitions(self, run, slides, tmp_path):
        result = run("build", slides, "--workdir", tmp_path / "cache", "--only-images=-3,1", "--json")
        assert {row["image_id"] for row in json.loads(result.stdout)["rows"]} == {1, -3}
        again = run(
            "build", slides, "--workdir", tmp_path / "cache2", "--only-images=2", "--only-images", "1", "--json"
        )
        assert {row["image_id"] for row in json.loads(again.stdout)["rows"]} == {1, 2}

    def test_no_labels(self, run, slides, tmp_path):
        assert run("build", slides, "--workdir", tmp_path / "cache", "--no-labels").exit_code == 0
        assert entries(tmp_path / "cache", "labels") == []

    def test_instances(self, run, slides, tmp_path):
        assert run("build", slides, "--workdir", tmp_path / "cache", "--instances").exit_code == 0
        assert all("instances" in entry.files for entry in entries(tmp_path / "cache", "labels"))

    def test_overlap_is_part_of_a_label_layer(self, run, slides, tmp_path):
        workdir = tmp_path / "cache"
        run("build", slides, "--workdir", workdir)
        result = run("build", slides, "--workdir", workdir, "--overlap", "first", "--json")
        actions = {(row["what"], row["status"]) for row in json.loads(result.stdout)["rows"]}
        assert actions == {("image", "reused"), ("labels", "built")}

    def test_tissue_is_part_of_a_label_layer(self, run, slides, tmp_path):
        workdir = tmp_path / "cache"
        run("build", slides, "--workdir", workdir)
        result = run("build", slides, "--workdir", workdir, "--tissue", "none", "--json")
        actions = {(row["what"], row["status"]) for row in json.loads(result.stdout)["rows"]}
        assert actions == {("image", "reused"), ("labels", "built")}

    def test_jobs(self, run, slides, tmp_path):
        result = run("build", slides, "--workdir", tmp_path / "cache", "-j", "2", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["counts"] == {"built": 6}

    def test_the_environment_can_name_the_workdir(self, run, slides, tmp_path):
        result = run("build", slides, env={"SLIDESAMPLER_WORKDIR": str(tmp_path / "cache")})
        assert result.exit_code == 0
        assert len(entries(tmp_path / "cache")) == 3

    def test_tile_auto_is_the_entry_of_that_tile(self, run, slides, tmp_path):
        cache = tmp_path / "cache"
        assert run("build", slides, "--workdir", cache, "--tile", "auto", "--window", "512").exit_code == 0
        assert {path.parent.name.split("-")[2] for path in cache.glob("images/*/*/entry.json")} == {"256"}
        again = run("build", slides, "--workdir", cache, "--tile", "256", "--dry-run", "--json")
        assert json.loads(again.stdout)["counts"] == {"reuse": 6}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--tile", "auto"], "--tile auto --window 256"),
            (["--window", "256"], "is for --tile auto"),
            (["--tile", "auto", "--window", "big"], "no size"),
        ],
    )
    def test_tile_auto_wants_a_window(self, run, slides, tmp_path, arguments, words):
        result = run("build", slides, "--workdir", tmp_path / "cache", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert not (tmp_path / "cache").exists()

    def test_choices_are_those_of_the_cache(self):
        assert tuple(command.Codec) == CODECS
        assert tuple(command.Tile) == ("auto", *map(str, TILES))
        assert tuple(command.Overlap) == typing.get_args(Overlap)
        assert tuple(command.Tissue) == typing.get_args(Tissue)


class TestDryRun:
    def test_it_prints_the_plan_with_reasons_and_does_nothing(self, run, slides, tmp_path):
        result = run("build", slides, "--workdir", tmp_path / "cache", "--dry-run")
        assert result.exit_code == 0
        assert not (tmp_path / "cache").exists()
        rows = [line.split(maxsplit=4) for line in result.stdout.splitlines()[1:6]]
        assert [row[:4] for row in rows] == [
            ["1", "a", "image", "build"],
            ["1", "a", "labels", "build"],
            ["2", "b", "image", "build"],
            ["2", "b", "labels", "build"],
            ["-3", "c", "image", "build"],
        ]
        assert {row[4] for row in rows} == {"not in the cache"}

    def test_an_edited_source_is_the_reason(self, run, slides, tmp_path):
        run("build", slides, "--workdir", tmp_path / "cache", "--only-images=1", "--no-labels")
        result = run("build", slides, "--workdir", tmp_path / "cache", "--dry-run", "--json")
        plan = json.loads(result.stdout)
        assert plan["counts"] == {"reuse": 1, "build": 5}
        assert plan["rows"][0]["reason"] == "up to date"


class TestFailures:
    def test_one_bad_image_does_not_stop_the_others(self, run, slides, tmp_path):
        (tmp_path / "b.tif").write_bytes(b"II*\0 not a tiff at all")
        result = run("build", slides, "--workdir", tmp_path / "cache", "--no-labels")
        assert result.exit_code == 1
        assert result.stdout.splitlines()[1].split()[:5] == ["image", "2", "0", "0", "1"]
        (line,) = result.stderr.splitlines()
        assert line.startswith("failed: image 2 b (image)")
        assert str(tmp_path / "b.tif") in line
        assert len(entries(tmp_path / "cache")) == 2

    def test_json_says_so_too(self, run, slides, tmp_path):
        (tmp_path / "b.tif").unlink()
        result = run("build", slides, "--workdir", tmp_path / "cache", "--no-labels", "--json")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert report["ok"] is False
        assert [row["status"] for row in report["rows"]] == ["built", "failed", "built"]

    def test_a_codec_that_cannot_hold_the_pixels_fails_that_image(self, run, slides, tmp_path):
        tifffile.imwrite(tmp_path / "b.tif", np.zeros((64, 64), np.float32))
        result = run("build", slides, "--workdir", tmp_path / "cache", "--codec", "jpeg", "--no-labels")
        assert result.exit_code == 1
        assert "float32" in result.stderr
        assert len(entries(tmp_path / "cache")) == 2


class TestUsage:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--codec", "zst"], "'zst'"),
            (["--tile", "300"], "'300'"),
            (["--quality", "101", "--codec", "jpeg"], "--quality"),
            (["--quality", "50"], "quality"),
            (["--backend", "npy", "--codec", "zstd"], "npy"),
            (["--only-images", "one"], "'one' is no image id"),
            (["--only-images", "99"], "99"),
            (["--jobs", "0"], "--jobs"),
            (["--frce"], "--force"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_wrong_options_end_with_2_and_make_nothing(self, run, slides, tmp_path, options, words):
        result = run("build", slides, "--workdir", tmp_path / "cache", *options)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert result.stdout == ""
        assert not (tmp_path / "cache" / "images").exists()

    def test_a_manifest_that_is_not_there(self, run, tmp_path):
        result = run("build", tmp_path / "no.json", "--workdir", tmp_path / "cache")
        assert result.exit_code == 2
        assert "no.json" in result.stderr

    def test_a_bad_manifest_names_the_field(self, run, slides, tmp_path):
        content = json.loads(slides.read_text())
        content["annotations"][0]["category_id"] = 77
        slides.write_text(json.dumps(content))
        result = run("build", slides, "--workdir", tmp_path / "cache")
        assert result.exit_code == 2
        assert result.stderr.startswith("slidesampler: ")
        assert "category_id" in result.stderr
        assert "Traceback" not in result.stderr

    def test_the_workdir_must_be_given(self, run, slides):
        result = run("build", slides, env={"SLIDESAMPLER_WORKDIR": ""})
        assert result.exit_code == 2
        assert "--workdir" in result.stderr

    def test_a_workdir_that_is_a_file(self, run, slides):
        result = run("build", slides, "--workdir", slides)
        assert result.exit_code == 2
        assert "is a file" in result.stderr
