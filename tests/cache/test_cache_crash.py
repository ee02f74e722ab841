"""Builds that are killed, and disks that are full: never a partial entry, never debris that stays."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slidesampler.cache import publish as publish_module
from slidesampler.errors import CacheMissError

HERE = Path(__file__).parent


def drive(script: str, *arguments) -> list:
    result = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)], capture_output=True, text=True, cwd=HERE
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_recovered(result: dict, entries: int) -> None:
    assert "error" not in result, result
    assert result["ok"], result
    assert result["after"] == "+".join(["whole"] * entries), result
    assert result["debris"] == [], result
    assert result["entries"] == entries, result


@pytest.mark.parametrize("scenario", ["fresh", "forced"])
def test_killed_before_every_step(tmp_path, scenario):
    results = drive("crash_driver.py", tmp_path, "steps", scenario)
    names = [result["step"].split(": ")[1] for result in results]
    # The folder of the generation, its files read back, on the disk, under their new name, and the record.
    assert {"mkdir", "fsync", "rename", "replace", "checksum_files"} <= set(names), names
    for result in results:
        assert_recovered(result, 1)
    # A reader never loses an entry that was there.
    assert {result["found"] for result in results} == ({"whole"} if scenario == "forced" else {"miss", "whole"})


def test_killed_at_any_time(tmp_path):
    results = drive("crash_driver.py", tmp_path, "times", 12)
    assert len(results) == 12
    for result in results:
        assert_recovered(result, 2)
        assert result["fresh"] or result["found"] == "whole+whole"


# Full disks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["npy", "cog"])
def test_full_disk_fails_one_image_and_leaves_nothing(tmp_path, backend):
    [result] = drive("full_disk_driver.py", tmp_path, backend)
    assert result["statuses"] == ["built", "failed", "built"]
    assert "s2.tif" in result["path"]
    assert "File too large" in result["reason"], result["reason"]
    assert result["debris"] == []
    assert result["served"] == [1, 3]
    # With room again, the next build finishes the job.
    assert result["then"] == ["reused", "built", "reused"]


@pytest.mark.parametrize("force", [False, True])
# Three of files and folders, one of the new record; then the record is replaced, and three more of folders.
@pytest.mark.parametrize("step", range(7))
def test_disk_that_fails_at_any_flush(bundle, monkeypatch, debris, step, force):
    bundle.build(only_images=[])
    if force:
        bundle.build()
        before = bundle.find()
    flushes = []
    flush = os.fsync

    def failing(descriptor):
        flushes.append(descriptor)
        if len(flushes) == step + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(publish_module.os, "fsync", failing)
    [row] = bundle.build(force=force).rows
    monkeypatch.undo()
    assert row.status == "failed"
    assert "No space left on device" in row.reason
    assert debris(bundle.workdir) == []
    if force:
        # The old entry, or the new one where the record had been replaced already.
        np.testing.assert_array_equal(np.load(bundle.find().files["image"]), bundle.pixels[1])
        assert bundle.find() == before or step >= 4
    elif step < 4:
        with pytest.raises(CacheMissError):
            bundle.find()
    assert bundle.build().ok
    np.testing.assert_array_equal(np.load(bundle.find().files["image"]), bundle.pixels[1])


@pytest.mark.parametrize("step", range(4))
def test_failed_rebuild_of_a_damaged_record_leaves_nothing_more(bundle, monkeypatch, step):
    bundle.build()
    folder = Path(bundle.find().folder)
    (folder / "entry.json").write_text("{")
    before = sorted(folder.rglob("*"))
    flushes = []

    def failing(descriptor):
        flushes.append(descriptor)
        if len(flushes) == step + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(publish_module.os, "fsync", failing)
    [row] = bundle.build().rows
    assert (row.status, len(flushes)) == ("failed", step + 1)
    assert "No space left on device" in row.reason
    assert sorted(folder.rglob("*")) == before
