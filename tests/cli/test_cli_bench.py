"""``slidesampler bench`` prints what the library measures, and what it recommends can be built."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from slidesampler.cli import bench as command
from slidesampler.cli.bench import _figure
from slidesampler.cli.exits import ExitCode
from slidesampler.errors import BuildError
from slidesampler.measure import Spread
from slidesampler.measure.variants import BACKENDS

QUICK = ("--size", "64", "--images", "1", "--windows", "3", "--rounds", "2", "--threads", "2")
FEW = ("--backend", "in-place", "--backend", "npy", "--backend", "cog", "--codec", "jpeg", "--tile", "128")


def test_the_table(run, slides, tmp_path):
    result = run("bench", slides, "--workdir", tmp_path / "cache", *QUICK, *FEW)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "64 x 64 windows of 1 of 3 slides (0.1 of 0.4 megapixels):"
    assert lines[1] == "  b: 300 x 400 pixels, all of it"
    heading = next(line for line in lines if line.startswith(" ") and "build Mpx/s" in line)
    assert heading.split("  ")[-1].strip() == "warm, 2 threads"
    for name, loss in (("in-place", "none"), ("npy", "none"), ("cog jpeg q90 128", "lossy")):
        assert any(re.match(rf"[> ] {name} +{loss} ", line) for line in lines), name
    assert sum(line.startswith(">") for line in lines) == 1
    assert "Only 3 windows" not in result.stdout
    assert "Recommended: " in result.stdout
    assert "If loss is acceptable: cog jpeg q90 128 " in result.stdout
    assert not (tmp_path / "cache").exists()


def test_what_is_recommended_can_be_built(run, slides, tmp_path):
    cache = tmp_path / "a cache"
    result = run("bench", slides, "--workdir", cache, *QUICK, *FEW[2:], "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    advice = json.loads((tmp_path / "out.json").read_text())["recommendation"]
    assert advice["command"] in result.stdout
    assert {item["name"] for item in advice["alternatives"]} == {"cog jpeg q90 128"}
    for text in (advice["command"], *(item["command"] for item in advice["alternatives"])):
        words = shlex.split(text)
        assert words[0] == "slidesampler"
        assert run(*words[1:]).exit_code == 0
    built = {path.parent.name.rpartition("-")[0] for path in cache.glob("images/*/*/entry.json")}
    assert built == {"npy-none-0", "cog-jpeg-q90-128"}


def test_json_alone(run, slides, tmp_path):
    arguments = (*QUICK, "--backend", "npy", "--mask", "--crop", "128", "--json", "-")
    result = run("bench", slides, "--workdir", tmp_path / "cache", *arguments)
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["rows"]] == ["npy"]
    assert (found["with_mask"], found["threads"], found["window"]) == (True, 2, [64, 64])
    assert [(part["height"], part["image_height"]) for part in found["parts"]] == [(128, 300)]


def test_a_variant_that_does_not_work_is_told_of(run, slides, tmp_path):
    result = run("bench", slides, "--workdir", tmp_path / "c", *QUICK, "--backend", "auto", "--backend", "npy")
    assert result.exit_code == 0
    assert re.search(r"^auto: failed: b would be converted: \S", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "0"], "no size"),
        (["--size", "big"], "no size"),
        (["--images", "0"], "--images"),
        (["--rounds", "0"], "--rounds"),
        (["--threads", "0"], "neither 'all' nor a number"),
        (["--threads", "many"], "neither 'all' nor a number"),
        (["--crop", "0"], "--crop"),
        (["--seconds", "0"], "--seconds"),
        (["--only-images", "x"], "no image id"),
        (["--only-images", "77"], "77"),
        (["--backend", "zarr"], "zarr"),
        (["--tile", "100"], "100"),
        (["--backend", "cog", "--codec", "jpeg", "--no-lossy"], "lossy"),
        (["--json", "none/there/out.json"], "there is no folder"),
    ],
    ids=" ".join,
)
def test_wrong_usage(run, slides, tmp_path, arguments, words):
    result = run("bench", slides, "--workdir", tmp_path / "cache", *arguments)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert words in result.stderr
    assert not (tmp_path / "cache").exists()


def test_no_room_and_control_c(run, slides, tmp_path, monkeypatch):
    def no_room(*_):
        raise BuildError("no room")

    monkeypatch.setattr("slidesampler.measure.caches.check_room", no_room)
    result = run("bench", slides, "--workdir", tmp_path / "cache", *QUICK, "--backend", "npy")
    assert (result.exit_code, result.stderr) == (ExitCode.ENVIRONMENT, "slidesampler: no room\n")
    monkeypatch.undo()

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("slidesampler.measure.caches.run_round", stop)
    result = run("bench", slides, "--workdir", tmp_path / "cache", *QUICK, "--backend", "npy")
    assert (result.exit_code, result.stderr) == (ExitCode.INTERRUPTED, "slidesampler: interrupted\n")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1234.0, 1234.0], "1,230 ±0%"),
        ([100.0, 110.0, 150.0], "110 ±23%"),
        ([0.01234], "0.01"),
        ([5.678], "5.68"),
        ([56.78], "56.8"),
        ([56_780.0], "56,800"),
        ([0.0], "0"),
    ],
)
def test_figures(values, text):
    assert _figure(Spread.of(values)) == text


def test_choices_are_those_of_the_library():
    assert tuple(command.BenchBackend) == BACKENDS
