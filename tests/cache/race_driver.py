"""One of several processes at work on one cache at once; what it does is its first argument."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from slidesampler.cache import BuildSpec, CacheStore, SilentProgress, build
from slidesampler.manifest import Manifest


def build_once(folder: Path, **options):
    manifest = Manifest.load(folder / "slides.json")
    return build(manifest, BuildSpec(backend="npy", labels=False), CacheStore(folder / "work"), **options)


class KillWorker(SilentProgress):
    """Kills the worker that has begun an image."""

    def __init__(self, image_id: int) -> None:
        self.image_id = image_id

    def started(self, row, megapixels):
        if row.image_id == self.image_id:
            [worker] = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)


class Tell(SilentProgress):
    """Says when the plan is made, and when an image is begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def planned(self, plan):
        (self.folder / "planned").write_text("")

    def started(self, row, megapixels):
        (self.folder / "begun").write_text("")


def main(what: str, folder: Path, rest: list[str]) -> None:
    if what == "together":
        # Both processes begin at the same moment, whatever their start took.
        Path(rest[0]).write_text("ready")
        while not all(Path(name).exists() for name in rest):
            time.sleep(0.001)
        print(build_once(folder, progress=Tell(folder)).to_json())
    elif what == "force":
        for _ in range(int(rest[0])):
            assert build_once(folder, force=True).ok
    elif what == "kill-worker":
        from slidesampler.cache import ProcessExecutor

        print(build_once(folder, executor=ProcessExecutor(1), progress=KillWorker(2)).to_json())
    elif what == "interrupt":
        # A test run started in the background is deaf to Ctrl-C, and so would be the processes it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            build_once(folder, jobs=int(rest[0]), progress=Tell(folder))
        except KeyboardInterrupt:
            print(json.dumps("interrupted"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
