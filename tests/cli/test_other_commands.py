"""``check``, ``info``, ``doctor`` and ``demo-data``."""

from __future__ import annotations

import json
from pathlib import Path

import kwcoco
import numpy as np
import pytest
import tifffile

from slidesampler.cache import CacheStore
from slidesampler.cli import doctor as doctor_command
from slidesampler.doctor import Finding


@pytest.fixture
def workdir(run, slides, tmp_path):
    path = tmp_path / "cache"
    assert run("build", slides, "--workdir", path).exit_code == 0
    return path


def image_entry(workdir, name):
    (entry,) = [
        entry
        for entry in CacheStore(workdir).entries()
        if entry.kind == "image" and entry.source["record"]["name"] == name
    ]
    return entry


def damage(entry):
    path = Path(entry.files["image"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


class TestCheck:
    def test_a_sound_cache(self, run, workdir):
        result = run("check", workdir)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1] == "7 ok"
        assert result.stderr == ""

    def test_damage_is_found_then_repaired(self, run, workdir):
        damage(image_entry(workdir, "a"))
        found = run("check", workdir)
        assert found.exit_code == 1
        assert "1 corrupt, 6 ok" in found.stdout
        assert "--repair" in found.stdout.splitlines()[-1]
        repaired = run("check", workdir, "--repair")
        assert repaired.exit_code == 0, repaired.output
        assert any(line.split()[:2] == ["corrupt", "rebuilt"] for line in repaired.stdout.splitlines())
        assert run("check", workdir).exit_code == 0

    def test_json(self, run, workdir):
        damage(image_entry(workdir, "b"))
        result = run("check", workdir, "--json")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert report["ok"] is False
        assert report["counts"] == {"corrupt": 1, "ok": 6}
        (row,) = [row for row in report["rows"] if row["status"] == "corrupt"]
        assert row["name"] == "b"

    def test_an_edited_source_is_stale(self, run, workdir, tmp_path):
        tifffile.imwrite(tmp_path / "c.tif", np.zeros((300, 400, 3), np.uint8), photometric="rgb")
        result = run("check", workdir)
        assert result.exit_code == 1
        assert "2 stale" in result.stdout

    def test_an_entry_whose_source_is_gone_is_no_failure(self, run, workdir, tmp_path):
        (tmp_path / "c.tif").unlink()
        result = run("check", workdir)
        assert result.exit_code == 0
        assert "5 ok, 2 orphan" in result.stdout
        assert run("check", workdir, "--repair").exit_code == 0
        assert image_entry(workdir, "c")
        assert run("check", workdir, "--repair", "--remove-orphans").exit_code == 0
        assert "4 ok" in run("check", workdir).stdout

    def test_removing_orphans_belongs_to_repair(self, run, workdir):
        assert run("check", workdir, "--remove-orphans").exit_code == 2

    def test_a_folder_that_is_no_cache(self, run, tmp_path):
        result = run("check", tmp_path)
        assert result.exit_code == 2
        assert "is not a slidesampler cache" in result.stderr
        assert result.stdout == ""


class TestInfo:
    def test_it_lists_what_is_there(self, run, workdir):
        result = run("info", workdir)
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert [line.split()[:3] for line in lines[1:7]] == [
            ["a", "image", "cog"],
            ["a", "labels", "cog"],
            ["b", "image", "cog"],
            ["b", "labels", "cog"],
            ["c", "image", "cog"],
            ["c", "labels", "cog"],
        ]
        assert lines[-1].startswith("6 entries, ")
        assert not any(line.endswith(" ") for line in lines)

    def test_lossy_entries_say_so(self, run, slides, tmp_path):
        run("build", slides, "--workdir", tmp_path / "lossy", "--codec", "jpeg", "--no-labels")
        assert run("info", tmp_path / "lossy").stdout.count("jpeg q90 (lossy)") == 3

    def test_json(self, run, workdir):
        report = json.loads(run("info", workdir, "--json").stdout)
        first = report["entries"][0]
        assert (first["name"], first["shape"], first["dtype"]) == ("a", [300, 400, 3], "uint8")
        sizes = [Path(path).stat().st_size for entry in report["entries"] for path in entry["files"].values()]
        assert report["size_bytes"] == sum(sizes)

    def test_a_folder_that_is_no_cache(self, run, tmp_path):
        assert run("info", tmp_path / "nowhere").exit_code == 2


class TestDoctor:
    @pytest.fixture
    def sick(self, monkeypatch):
        findings = [
            Finding("Python", "ok", "3.12"),
            Finding("GDAL", "missing", "No module named 'osgeo'", "get [gdal]"),
            Finding("torch", "missing", "not installed", "get torch", needed=False),
        ]
        monkeypatch.setattr(doctor_command, "diagnose", lambda workdir: findings)
        return findings

    def test_something_needed_is_missing(self, run, sick):
        result = run("doctor")
        assert result.exit_code == 3
        assert "GDAL: to mend it,\n  get [gdal]\n" in result.stdout
        assert "torch (optional): to mend it,\n  get torch\n" in result.stdout

    def test_json(self, run, sick):
        result = run("doctor", "--json")
        assert result.exit_code == 3
        report = json.loads(result.stdout)
        assert report["ok"] is False
        assert [row["name"] for row in report["findings"]] == ["Python", "GDAL", "torch"]
        assert report["findings"][1]["mend"] == "get [gdal]"

    def test_only_something_optional_is_missing(self, run, sick):
        del sick[1]
        result = run("doctor")
        assert result.exit_code == 0
        assert result.stderr == ""

    def test_nothing_is_missing(self, run, sick):
        del sick[1:]
        result = run("doctor")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[1].split() == ["Python", "ok", "3.12"]
        assert result.stdout.endswith("Nothing to mend.\n")


class TestDemoData:
    def test_it_writes_slides_and_a_manifest_that_builds(self, run, tmp_path):
        out = tmp_path / "demo"
        result = run("demo-data", out, "--height", 400, "--width", 300, "--slides", 2, "--seed", 5)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        dataset = kwcoco.CocoDataset(str(out / "slides.kwcoco.json"))
        assert len(dataset.imgs) == 2
        assert len(dataset.anns) > 0
        for path in (out / "slide-01.tif", out / "slide-02.tif"):
            assert tifffile.imread(path).shape == (400, 300, 3)
        command = result.stdout.splitlines()[-1].removeprefix("next: slidesampler ").split()
        assert run(*command).exit_code == 0

    def test_the_seed_decides(self, run, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            run("demo-data", tmp_path / name, "--height", 200, "--width", 200, "--slides", 1, "--seed", seed)
        a, b, c = (tifffile.imread(tmp_path / name / "slide-01.tif") for name in "abc")
        assert (a == b).all()
        assert (a != c).any()

    def test_json(self, run, tmp_path):
        result = run("demo-data", tmp_path / "d", "--height", 200, "--width", 200, "--slides", 1, "--json")
        report = json.loads(result.stdout)
        assert Path(report["manifest"]).is_file()
        assert [Path(path).name for path in report["slides"]] == ["slide-01.tif"]

    def test_a_manifest_is_not_replaced_without_force(self, run, tmp_path):
        (tmp_path / "slides.kwcoco.json").write_text("mine")
        arguments = ("demo-data", tmp_path, "--height", 200, "--width", 200, "--slides", 1)
        assert run(*arguments).exit_code == 2
        assert (tmp_path / "slides.kwcoco.json").read_text() == "mine"
        assert run(*arguments, "--force").exit_code == 0

    @pytest.mark.parametrize("options", [("--tile", 100), ("--height", 5), ("--codec", "zstd"), ("--mpp", 9)])
    def test_wrong_options(self, run, tmp_path, options):
        result = run("demo-data", tmp_path / "d", *options)
        assert result.exit_code == 2
        assert not (tmp_path / "d").exists()
