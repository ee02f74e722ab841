"""Kills builds at chosen or random instants and looks at what they leave; prints JSON.

    crash_driver.py FOLDER steps fresh|forced      one kill before every call that changes the disk
    crash_driver.py FOLDER times COUNT             COUNT kills at random times of forced builds

Every build runs in a forked child. This process itself never builds, so that there are no threads to fork.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
from conftest import Bundle, unexpected_files
from osgeo import gdal_array  # noqa: F401  # imported once here, rather than in every child

import slidesampler.cache.verify
import slidesampler.cache.write_cog
from slidesampler.cache.fingerprint import hash_file
from slidesampler.errors import CacheMissError
from slidesampler.models import LabelSpec

# A killed process loses nothing that the kernel has been given: flushing for real would only take time.
os.fsync = lambda descriptor: None


def in_child(function) -> tuple[int, object]:
    """Run a function in a forked child; return its signal (0 for none) and what it returned."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writable, json.dumps(function()).encode())
        except BaseException as error:
            os.write(writable, json.dumps({"error": repr(error)}).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, json.loads(answer) if answer else None


class Steps:
    """Counts the calls that change the disk in this process, and ends it with SIGKILL before one of them."""

    def __init__(self, kill_before: int | None = None) -> None:
        self.names: list[str] = []
        self.kill_before = kill_before
        for owner, name in (
            (os, "fsync"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (os, "rename"), (os, "replace"),
            (shutil, "rmtree"), (slidesampler.cache.make, "checksum_files"),
        ):  # fmt: skip
            if True:
                setattr(owner, name, self.wrap(name, getattr(owner, name)))

    def wrap(self, name, function):
        def call(*args, **kwargs):
            if len(self.names) == self.kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            self.names.append(name)
            return function(*args, **kwargs)

        return call


def read(bundle: Bundle) -> str:
    """Read as a training job would: everything found must be whole. Returns what was found."""
    manifest = bundle.manifest
    finders = [lambda: bundle.find()]
    if bundle.document["annotations"]:
        record, size = manifest.record(1), bundle.pixels[1].shape[:2]
        finders.append(lambda: bundle.store.find_labels(manifest, record, size, LabelSpec()))
    found = []
    for find in finders:
        try:
            entry = find()
        except CacheMissError:
            found.append("miss")
            continue
        for role, name in entry.files.items():
            assert hash_file(Path(name)) == entry.checksums[role], name
        found.append("whole")
    if found[0] == "whole":
        np.testing.assert_array_equal(np.load(bundle.find().files["image"]), bundle.pixels[1])
    return "+".join(found)


def aftermath(bundle: Bundle) -> dict:
    """What a reader finds after the kill, and what the next build leaves."""
    found = read(bundle)
    report = bundle.build()
    return {
        "found": found,
        "ok": report.ok,
        "after": read(bundle),
        "debris": unexpected_files(bundle.workdir),
        "entries": len(list(bundle.store.entries())),
    }


def steps(folder: Path, scenario: str) -> list:
    template = folder / "template"
    bundle = Bundle(folder / "bundle", template, [(50, 50)], suffix=".npy")
    if scenario == "forced":
        in_child(lambda: bundle.build().ok)
    bundle.workdir = folder / "work"
    results = []
    kill_before: int | None = None
    while True:
        shutil.rmtree(bundle.workdir, ignore_errors=True)
        if scenario == "forced":
            shutil.copytree(template, bundle.workdir)

        def build(kill_before=kill_before):
            steps = Steps(kill_before)
            bundle.build(force=scenario == "forced")
            return steps.names

        killed, names = in_child(build)
        if kill_before is None:
            assert killed == 0
            kill_before = 0
            all_names = names
            continue
        if not killed:
            # Every step has had its turn.
            assert kill_before >= len(all_names)
            return results
        _, seen = in_child(lambda: aftermath(bundle))
        results.append({"step": f"{kill_before}: {all_names[kill_before]}", **seen})
        kill_before += 1


def times(folder: Path, count: int) -> list:
    bundle = Bundle(folder / "bundle", folder / "work", [(700, 700)])
    bundle.annotate(1, [5, 5, 20, 20])
    begin = time.perf_counter()
    in_child(lambda: bundle.build().ok)
    in_child(lambda: bundle.build(force=True).ok)
    longest = time.perf_counter() - begin
    # The times are random but the same in every run; what is asserted holds at any time.
    rng = random.Random(0)
    results = []
    for number in range(count):
        if number % 2:
            shutil.rmtree(bundle.workdir)
        pid = os.fork()
        if pid == 0:
            bundle.build(force=True)
            os._exit(0)
        time.sleep(rng.uniform(0, longest / 2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _, seen = in_child(lambda: aftermath(bundle))
        results.append({"step": f"time {number}", "fresh": bool(number % 2), **seen})
    return results


if __name__ == "__main__":
    root, mode, argument = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    print(json.dumps(steps(root, argument) if mode == "steps" else times(root, int(argument))))
