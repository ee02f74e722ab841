"""``slidesampler report``, from slides on the disk to the page."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
import typer
from typer.testing import CliRunner

from slidesampler.cli import report as report_command
from slidesampler.cli.app import Commands
from slidesampler.report import sheets
from slidesampler.sampler import Sampler
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.log import SampleLog
from slidesampler.sampling.target_file import write_jsonl
from slidesampler.testing import make_dataset

WORDS = {"source": "balanced", "size": 128, "n": 60, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two painted slides and a cache of them."""
    path = tmp_path_factory.mktemp("report")
    make_dataset(path, 2, 1000, 1200, seed=1, max_nuclei=200)
    sampler = Sampler(path / "slides.kwcoco.json", path / "cache", "cog")
    assert sampler.build().ok
    return path


@pytest.fixture(scope="module")
def targets(folder):
    source = BalancedSource(Sampler(folder / "slides.kwcoco.json", folder / "cache"), 128, 60, 0)
    return [source.target(0, index) for index in range(len(source))]


@pytest.fixture
def run(folder):
    app = typer.Typer(cls=Commands)
    app.callback()(lambda: None)
    app.command("report")(report_command.report)

    def call(*arguments):
        words = ["report", folder / "slides.kwcoco.json", "--workdir", folder / "cache", *arguments]
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    """Drawing dozens of panels is most of the time, and another file's business."""
    monkeypatch.setattr(sheets, "SHOWN", 2)


def counts(targets):
    return dict(Counter(target.kind for target in targets)), dict(
        Counter(target.image_id for target in targets)
    )


def told(result):
    document = json.loads(result.stdout)
    kinds = {row["kind"]: row["windows"] for row in document["kinds"]}
    return kinds, {row["image_id"]: row["windows"] for row in document["images"] if row["windows"]}


def test_from_a_source(run, tmp_path, targets):
    out = tmp_path / "deep" / "report"
    result = run("--source", "balanced", "--n", 60, "--size", 128, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out / 'report.html'}: 60 windows")
    assert result.stderr == ""
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Slides of slides.kwcoco.json; windows of source balanced." in page
    kinds, slides = counts(targets)
    for kind, windows in kinds.items():
        assert f'<th scope="row">{kind}</th><td class="number">{windows}</td>' in page
    for image_id, windows in slides.items():
        name = f"slide-{image_id:02d}"
        cells = f'<td class="number">{image_id}</td><td class="number">{windows}</td>'
        assert f'<th scope="row">{name}</th>{cells}' in page
    for name in ("tumour", "necrosis", "tumour_nucleus"):
        assert f'<th scope="row">{name}</th>' in page
    pictures = {path.name for path in out.glob("*.png")}
    assert {"kinds.png", "slides.png", "tries.png", "coverage-1.png", "positives.png"} <= pictures
    assert folder_of(page) == set()


def folder_of(page):
    """Return what looks like a path of this machine."""
    text = re.sub(r'src="data:[^"]*"', "", page)
    return set(re.findall(r"/(?:tmp|home|work|root)/[\w./-]+", text))


def test_from_a_file_of_windows(run, tmp_path, targets):
    path = tmp_path / "windows.jsonl"
    write_jsonl(targets, path, about={**WORDS, "epoch": 0, "manifest": "slides.kwcoco.json"})
    result = run("--windows", path, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert told(result) == counts(targets)
    document = json.loads(result.stdout)
    assert document["ok"]
    # The header says what was asked for.
    assert {row["kind"]: row["asked"] for row in document["kinds"]} == {"positive": 0.5, "negative": 0.5}
    assert (document["seed"], document["epochs"]) == (0, [0])


def test_a_source_that_cannot_be_made_again_is_no_reason_to_stop(run, tmp_path, targets):
    path = tmp_path / "windows.jsonl"
    write_jsonl(targets, path, about={"source": "lottery", "epoch": 0})
    result = run("--windows", path, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert all(row["asked"] is None for row in json.loads(result.stdout)["kinds"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "What was asked for is not known" in page
    assert "lottery" in page


@pytest.mark.parametrize("source", [[], ["--source", "balanced", "--size", 128, "--n", 60]])
def test_from_a_log(run, tmp_path, targets, source):
    with SampleLog(tmp_path / "log") as log:
        for epoch in (0, 1):
            for target in targets[: 60 - 20 * epoch]:
                log.write(target, epoch=epoch, tries=2, refused={"foreground": 1})
    with next((tmp_path / "log").iterdir()).open("a") as file:
        file.write("torn")
    result = run("--log", tmp_path / "log", *source, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    kinds, slides = counts([*targets, *targets[:40]])
    assert told(result) == (kinds, slides)
    document = json.loads(result.stdout)
    assert document["epochs"] == [0, 1]
    assert sum(row["refused"]["foreground"] for row in document["tries"]) == 100
    asked = {row["kind"]: row["asked"] for row in document["kinds"]}
    assert asked == dict.fromkeys(asked, 0.5 if source else None)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "1 lines of the log could not be read" in page
    assert str(tmp_path) not in page
    again = run("--log", tmp_path / "log", "--epoch", 1, "--out", tmp_path / "out", "--json", "--force")
    assert told(again) == counts(targets[:40])


def test_an_empty_log(run, tmp_path):
    with SampleLog(tmp_path / "log") as log:
        log.write({"image_id": 1, "window": (0, 0, 64, 64)}, epoch=0)
    result = run("--log", tmp_path / "log", "--epoch", 7, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "there are no windows" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "nothing").mkdir()
    result = run("--log", tmp_path / "nothing", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "samples-" in result.stderr


def test_a_report_that_is_there_is_kept(run, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    arguments = ("--source", "grid", "--size", 512, "--out", tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (tmp_path / "report.html").read_text() == "mine"
    assert run(*arguments, "--force").exit_code == 0
    assert (tmp_path / "report.html").read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --log, --windows and --source"),
        (["--source", "lottery"], "lottery"),
        (["--source", "grid", "--size", "big"], "no size"),
        (["--source", "grid", "-O", "stridee=4"], "stride"),
    ],
)
def test_wrong_usage(run, tmp_path, arguments, message):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_slide_that_is_gone_is_named(run, folder, tmp_path, targets, monkeypatch):
    path = tmp_path / "windows.jsonl"
    write_jsonl(targets, path)
    real = Sampler.load_sample

    def fail(self, target, *arguments, **options):
        if getattr(target, "image_id", None) is None and target["image_id"] == 2:
            raise OSError("the disk is gone")
        return real(self, target, *arguments, **options)

    monkeypatch.setattr(Sampler, "load_sample", fail)
    result = run("--windows", path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "failed: The thumbnail of image 2 could not be read: the disk is gone" in result.stderr
    assert (tmp_path / "out" / "coverage-2.png").exists()


def test_pixels_come_from_the_cache_where_it_has_them(folder, tmp_path, monkeypatch):
    manifest = folder / "slides.kwcoco.json"
    assert report_command._open(manifest, folder / "cache").backend == "cog"
    assert report_command._open(manifest, None).backend is None
    # A cache of one of two slides would leave the other out.
    part = Sampler(manifest, tmp_path / "part", "npy")
    assert part.build(only_images=[1]).ok
    assert report_command._open(manifest, tmp_path / "part").backend is None
