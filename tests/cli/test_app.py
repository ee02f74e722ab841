"""What all commands share: help, version, errors as messages, exit codes, streams, the progress bar."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from slidesampler import errors
from slidesampler.cache.plan import BuildPlan, PlanRow
from slidesampler.cache.report import BuildRow
from slidesampler.cache.spec import BuildSpec
from slidesampler.cli import info as info_command
from slidesampler.cli.exits import ExitCode, exit_code_of
from slidesampler.cli.progress import BuildBar
from slidesampler.manifest import Manifest

COMMANDS = ["build", "bench", "check", "info", "manifest", "stats", "sample", "report", "doctor", "demo-data"]


def test_help_lists_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    commands = result.stdout.partition("Commands:\n")[2]
    listed = re.findall(r"^  ([a-z-]+)  +[A-Z]", commands, re.MULTILINE)
    assert listed == COMMANDS
    assert "..." not in commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(run, command):
    result = run(command, "-h")
    assert result.exit_code == 0
    assert f"Examples:\n    slidesampler {command}" in result.stdout
    options = result.stdout.partition("Options:\n")[2].partition("\n\n")[0]
    bare = [line for line in options.splitlines() if re.fullmatch(r"  -\S+( <\w+>)?", line)]
    assert not bare, "an option without a word of help"


def test_the_version(run):
    from slidesampler import __version__

    assert run("--version").stdout == f"slidesampler {__version__}\n"


def test_an_unknown_command_is_wrong_usage(run):
    result = run("biuld")
    assert result.exit_code == 2
    assert "build" in result.stderr


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "slidesampler", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("slidesampler ")


class TestErrors:
    @pytest.fixture
    def failing(self, monkeypatch):
        def fail_with(error):
            def store(*arguments):
                raise error

            monkeypatch.setattr("slidesampler.cache.CacheStore", store)

        assert info_command.EXAMPLES
        return fail_with

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.MissingDependencyError("get GDAL [all]"), 3),
            (PermissionError(13, "Permission denied", "/cache"), 3),
            (OSError(28, "No space left on device"), 3),
            (errors.BuildError("no workers"), 3),
            (errors.ManifestError("bad"), 2),
            (errors.UnknownKeyError("bad"), 2),
            (errors.CodecError("bad"), 2),
            (errors.CacheError("bad"), 2),
            (errors.ReadError("bad"), 1),
            (KeyboardInterrupt(), 130),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_each_kind_has_its_code_and_one_message(self, run, tmp_path, failing, error, code):
        failing(error)
        result = run("info", tmp_path)
        assert result.exit_code == code
        assert result.stdout == ""
        text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        assert result.stderr == f"slidesampler: {text}\n"

    def test_an_error_that_nobody_foresaw_keeps_its_traceback(self, run, tmp_path, failing):
        failing(ZeroDivisionError("a fault of ours"))
        result = run("info", tmp_path)
        assert isinstance(result.exception, ZeroDivisionError)
        assert exit_code_of(ZeroDivisionError()) is None

    @pytest.mark.parametrize("way", ["option", "environment"])
    def test_debugging_shows_the_traceback(self, run, tmp_path, failing, way):
        failing(errors.ManifestError("bad"))
        if way == "option":
            result = run("--debug", "info", tmp_path)
        else:
            result = run("info", tmp_path, env={"SLIDESAMPLER_DEBUG": "1"})
        assert result.exit_code == 2
        assert "Traceback (most recent call last)" in result.stderr
        assert result.stderr.endswith("slidesampler: bad\n")

    def test_every_error_of_ours_has_a_code(self):
        for name in errors.__all__:
            assert exit_code_of(getattr(errors, name)("text")) in (
                ExitCode.FAILED,
                ExitCode.USAGE,
                ExitCode.ENVIRONMENT,
            )


def test_without_gdal_a_build_says_how_to_get_it(slides, tmp_path):
    shadow = tmp_path / "shadow" / "osgeo"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'osgeo'\", name='osgeo')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "slidesampler", "build", str(slides), "--workdir", str(tmp_path / "cache")],
        env=os.environ | {"PYTHONPATH": str(shadow.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert re.search(r"conda install|pip install|scripts/setup", done.stderr)


class TestProgress:
    def build(self, slides, tmp_path, **streams):
        return subprocess.Popen(
            [sys.executable, "-m", "slidesampler", "build", str(slides), "--workdir", str(tmp_path / "cache")],
            env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            text=True,
            **streams,
        )

    def test_a_terminal_sees_a_bar_on_stderr_and_only_there(self, slides, tmp_path):
        ours, theirs = pty.openpty()
        with self.build(slides, tmp_path, stderr=theirs) as process:
            os.close(theirs)
            shown = b""
            # The end of a terminal is an error on Linux, and the end of a file elsewhere.
            try:
                while chunk := os.read(ours, 65536):
                    shown += chunk
            except OSError:
                pass
            stdout = process.stdout.read()
        os.close(ours)
        assert process.returncode == 0
        assert b"3/3 images" in shown
        assert b"MP/s" in shown
        assert "\x1b" not in stdout
        assert "3/3 images" not in stdout

    def test_without_a_terminal_there_is_none(self, slides, tmp_path):
        with self.build(slides, tmp_path, stderr=subprocess.PIPE) as process:
            _, shown = process.communicate()
        assert process.returncode == 0
        assert shown == ""

    def test_the_bar_goes_by_megapixels_and_counts_images(self, slides):
        manifest = Manifest.load(slides)
        bar = BuildBar(Console(file=io.StringIO(), force_terminal=True, width=120), manifest)
        rows = [
            PlanRow(image_id, name, what, action, "", "", "")
            for image_id, name, what, action in (
                (1, "a", "image", "build"),
                (1, "a", "labels", "build"),
                (2, "b", "image", "build"),
                (-3, "c", "image", "reuse"),
            )
        ]
        (task,) = bar._bar.tasks
        with bar:
            bar.planned(BuildPlan(tuple(rows), BuildSpec(), "/cache"))
            # The size of image 2 is not in the manifest.
            assert task.total == pytest.approx(0.24)
            bar.finished(BuildRow(-3, "c", "image", "reused", ""))
            assert task.fields["images"] == "1/3 images"
            bar.started(rows[0], 0.12)
            bar.advanced(rows[0], 0.05)
            assert task.completed == pytest.approx(0.05)
            bar.finished(BuildRow(1, "a", "image", "built", ""))
            assert task.fields["images"] == "1/3 images"
            bar.finished(BuildRow(1, "a", "labels", "failed", ""))
            assert task.fields["images"] == "2/3 images"
            assert task.completed == pytest.approx(0.24)
            bar.started(rows[2], 10.0)
            assert task.total == pytest.approx(10.24)
            bar.finished(BuildRow(2, "b", "image", "failed", ""))
            assert task.completed == pytest.approx(task.total)
            assert task.fields["images"] == "3/3 images"


def test_help_waits_for_nothing_heavy():
    code = "import sys, slidesampler.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "osgeo", "torch", "kwcoco", "openslide"} & set(done.stdout.split())
