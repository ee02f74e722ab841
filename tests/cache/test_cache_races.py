"""Several processes at work on one cache: builds, readers, workers that die, builds that are interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from slidesampler.cache import BuildSpec, CacheStore, publish
from slidesampler.cache.make import make_entry
from slidesampler.cache.plan import plan_entry
from slidesampler.cache.publish import clean_entry, discard_entry, entry_lock, remove_entry
from slidesampler.cache.task import EntryTask

DRIVER = Path(__file__).with_name("race_driver.py")


def start(*arguments) -> subprocess.Popen:
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out) if out else None


@pytest.fixture
def on_disk(make_bundle, tmp_path):
    """A bundle whose manifest is a file at ``tmp_path / "slides.json"``, for other processes to load."""

    def make(*arguments, **options):
        bundle = make_bundle(*arguments, **options)
        images = [{**image, "file_name": f"bundle/{image['file_name']}"} for image in bundle.document["images"]]
        (tmp_path / "slides.json").write_text(json.dumps({**bundle.document, "images": images}))
        return bundle

    return make


def test_two_builds_at_once_build_each_entry_once(on_disk, tmp_path, debris):
    bundle = on_disk(8, size=(500, 500))
    names = [tmp_path / "ready1", tmp_path / "ready2"]
    builds = [start("together", tmp_path, *names), start("together", tmp_path, *reversed(names))]
    reports = [result_of(process) for process in builds]
    assert [report["ok"] for report in reports] == [True, True]
    by_image = list(zip(*[[row["status"] for row in report["rows"]] for report in reports], strict=True))
    assert [sorted(pair) for pair in by_image] == [["built", "reused"]] * 8
    for image_id, pixels in bundle.pixels.items():
        np.testing.assert_array_equal(np.load(bundle.find(image_id).files["image"]), pixels)
    assert debris(bundle.workdir) == []


def test_two_builds_really_meet(on_disk, tmp_path):
    # The one that comes second waits for the lock, looks again, and finds the work done.
    bundle = on_disk()
    manifest = bundle.manifest
    spec = BuildSpec(backend="npy").resolved()
    folder = bundle.store.image_folder(manifest.record(1), spec)
    (tmp_path / "also").write_text("ready")
    with entry_lock(folder):
        waiting = start("together", tmp_path, tmp_path / "ready", tmp_path / "also")
        # It plans to build, since there is nothing yet, and then waits for us.
        while not (tmp_path / "planned").exists():
            time.sleep(0.01)
        row = plan_entry(manifest.record(1), "image", folder, spec, force=False)
        task = EntryTask(row, manifest.record(1), spec, str(bundle.workdir))
        entry = make_entry(task, "build", lambda pixels: None, lambda pixels: None)
    report = result_of(waiting)
    assert [(row["status"], row["reason"]) for row in report["rows"]] == [
        ("reused", "built by another process meanwhile")
    ]
    assert bundle.find() == entry


def test_readers_go_on_while_entries_are_rebuilt(on_disk, tmp_path, debris):
    bundle = on_disk(2, size=(200, 200))
    bundle.build()
    mapped = np.load(bundle.find(1).files["image"], mmap_mode="r")
    rebuilding = start("force", tmp_path, 12)
    seen, again = set(), 0
    while rebuilding.poll() is None:
        for image_id in (1, 2):
            # What a reader does: look up, open, and look up once more where the entry was replaced in between.
            for last in (False, True):
                entry = bundle.find(image_id)
                try:
                    pixels = np.load(entry.files["image"])
                except FileNotFoundError:
                    again += 1
                    if last:
                        raise
                    continue
                break
            np.testing.assert_array_equal(pixels, bundle.pixels[image_id])
            seen.add(entry.created)
    result_of(rebuilding)
    # Several generations were met while they were there.
    assert len(seen) > 4
    # Who had a file open has kept it.
    np.testing.assert_array_equal(mapped, bundle.pixels[1])
    assert debris(bundle.workdir) == []


def test_killed_worker_fails_its_image_only(on_disk, tmp_path, debris):
    bundle = on_disk(sizes=[(50, 60), (4000, 2500), (70, 80), (90, 90)])
    report = result_of(start("kill-worker", tmp_path))
    assert [row["status"] for row in report["rows"]] == ["built", "failed", "built", "built"]
    assert "killed by SIGKILL" in report["rows"][1]["reason"]
    assert "memory" in report["rows"][1]["reason"]
    assert debris(bundle.workdir) == []
    assert [row.status for row in bundle.build()] == ["reused", "built", "reused", "reused"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_build_removes_what_it_began(on_disk, tmp_path, debris, jobs):
    bundle = on_disk(2, size=(4000, 2500))
    building = start("interrupt", tmp_path, jobs)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    building.send_signal(signal.SIGINT)
    assert result_of(building) == "interrupted"
    assert debris(bundle.workdir) == []
    # Nothing was finished in that time, and the next build is not hindered.
    assert bundle.build(only_images=[1]).ok


def test_workers_do_not_outlive_a_killed_build(on_disk, tmp_path, debris):
    bundle = on_disk(3, size=(2500, 2000))
    building = start("interrupt", tmp_path, 2)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    workers = psutil.Process(building.pid).children(recursive=True)
    building.kill()
    building.communicate()
    assert len(workers) >= 2
    # Each notices that nobody listens any more, at the latest when its image is done.
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert bundle.build().ok
    assert debris(bundle.workdir) == []


def test_script_without_a_guard_is_told_so(on_disk, tmp_path):
    on_disk(2)
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(DRIVER.parent)!r})\n"
        "from pathlib import Path\n"
        "from race_driver import build_once\n"
        f"build_once(Path({str(tmp_path)!r}), jobs=2)\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "BuildError: worker processes cannot be started" in result.stderr
    assert '__name__ == "__main__"' in result.stderr


# Locks and debris ---------------------------------------------------------------------------------------------


def test_lock_is_exclusive_and_ends_with_its_block(tmp_path):
    folder = tmp_path / "entry"
    with entry_lock(folder) as held:
        assert held
        with entry_lock(folder, wait=False) as second:
            assert not second
    with entry_lock(folder, wait=False) as held:
        assert held


def test_lock_of_a_removed_entry_guards_nothing(tmp_path):
    folder = tmp_path / "images" / "a" / "b"
    with entry_lock(folder):
        discard_entry(folder)
        assert not folder.exists()
        # The next one makes the folder anew, and does not wait for the lock of the removed one.
        with entry_lock(folder, wait=False) as held:
            assert held
            assert (folder / ".lock").exists()


def test_sweep_removes_debris_but_not_from_under_a_running_build(bundle, debris):
    bundle.build()
    folder = Path(bundle.find().folder)
    other = bundle.workdir / "labels" / "s9-0123456789abcdef"
    for place in (folder, other):
        (place / "0badf00d.partial").mkdir(parents=True)
        (place / "0badf00d.partial" / "image.npy").write_bytes(b"part")
        (place / "deadbeef").mkdir()
        (place / "entry.json.12345678.tmp").write_text("{")
    (bundle.workdir / "images" / "empty-0123456789abcdef").mkdir()
    with entry_lock(folder), entry_lock(other):
        CacheStore(bundle.workdir).sweep()
        assert len(list(folder.glob("*"))) == 6
        assert len(list(other.glob("*"))) == 4
    entry = bundle.find()
    assert [row.status for row in bundle.build()] == ["reused"]
    assert debris(bundle.workdir) == []
    assert not other.exists()
    assert bundle.find() == entry


def test_nothing_is_called_debris_beside_a_record_that_cannot_be_read(bundle):
    bundle.build()
    folder = Path(bundle.find().folder)
    (folder / "entry.json").write_text("{")
    before = sorted(folder.rglob("*"))
    with entry_lock(folder):
        clean_entry(folder)
    assert sorted(folder.rglob("*")) == before


def test_removed_entry_is_a_miss_at_every_moment(bundle, monkeypatch):
    bundle.build()
    folder = Path(bundle.find().folder)
    seen = []
    remove = publish._remove

    def watched(path):
        seen.append((folder / "entry.json").exists())
        remove(path)

    monkeypatch.setattr(publish, "_remove", watched)
    with entry_lock(folder):
        remove_entry(folder)
    # The record went before any file.
    assert seen == [False]
    assert not folder.parent.exists()
