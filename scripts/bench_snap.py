#!/usr/bin/env python
"""Time of a window whose start is free, and of windows that start at multiples of 64, 128 and 256 pixels.

    python scripts/bench_snap.py [--size 8192] [--windows 128] [--rounds 9] [--work FOLDER]

A synthetic slide in tiles of 256 pixels, JPEG and ZSTD; windows of 256 pixels anywhere on the tissue, pixels
alone, one by one and in batches of 32. In every round every snap reads windows of its own at new places, in an
order that changes; a ratio is taken within the round, and the median over the rounds is printed. The file is in
the page cache of the system. Tiles are counted by the starts of the very windows that were read.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from slidesampler import Sampler
from slidesampler.geometry import Window
from slidesampler.sampling import WeightedSource
from slidesampler.target import Target
from slidesampler.testing import make_dataset

WINDOW = TILE = 256
BATCH = 32
SNAPS = (None, 64, 128, 256)
CODECS = ("jpeg", "zstd")

Read: TypeAlias = Callable[[Sampler, Sequence[Target]], None]


def tiles_of(window: Window) -> int:
    """Return how many tiles a window lies on."""
    rows = (window.y1 - 1) // TILE - window.y // TILE + 1
    return rows * ((window.x1 - 1) // TILE - window.x // TILE + 1)


def read_alone(sampler: Sampler, targets: Sequence[Target]) -> None:
    """Read windows one by one."""
    for target in targets:
        sampler.load_sample(target, with_annots=False, with_mask=False)


def read_batches(sampler: Sampler, targets: Sequence[Target]) -> None:
    """Read windows in batches, by one thread."""
    for first in range(0, len(targets), BATCH):
        sampler.load_batch(targets[first : first + BATCH], threads=1, with_mask=False)


def seconds(
    read: Callable[[Sampler, Sequence[Target]], None], sampler: Sampler, targets: list[Target]
) -> float:
    begin = time.perf_counter()
    read(sampler, targets)
    return time.perf_counter() - begin


def measure(sampler: Sampler, windows: int, rounds: int) -> None:
    """Print a table of one codec."""
    sources = {
        snap: WeightedSource(sampler, WINDOW, "tissue", windows, snap=snap, allow_border=False)
        for snap in SNAPS
    }
    tiles: dict[int | None, list[int]] = {snap: [] for snap in SNAPS}
    times: dict[tuple[int | None, Read], list[float]] = {
        (snap, read): [] for snap in SNAPS for read in (read_alone, read_batches)
    }
    for epoch in range(rounds + 1):
        order = list(times)
        random.Random(epoch).shuffle(order)
        for snap, read in order:
            targets = [sources[snap].target(epoch, index) for index in range(windows)]
            spent = seconds(read, sampler, targets)
            # The first round opens files and warms the page cache.
            if epoch:
                times[snap, read].append(spent / windows * 1e6)
                tiles[snap] += [tiles_of(target.window) for target in targets if target.window]
    for snap in SNAPS:
        row = [f"{snap!s:>6}", f"{statistics.mean(tiles[snap]):8.2f}"]
        for read in (read_alone, read_batches):
            ratio = statistics.median(
                free / one for free, one in zip(times[None, read], times[snap, read], strict=True)
            )
            row += [f"{statistics.median(times[snap, read]):10.0f}", f"{ratio:8.2f}"]
        print(*row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, help="pixels a side")
    parser.add_argument("--windows", type=int, default=128, help="windows a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=Path, help="keep the slide and its cache here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        manifest = folder / "slides.kwcoco.json"
        if not manifest.exists():
            make_dataset(folder, 1, options.size, options.size, nuclei_per_mpx=300)
        for codec in CODECS:
            sampler = Sampler(manifest, folder / "cache", "cog", codec=codec, tile=TILE)
            report = sampler.build(codec=codec, tile=TILE, force=False)
            if not report.ok:
                raise SystemExit("\n".join(f"{row.path}: {row.reason}" for row in report.failed))
            print(f"\n{codec}\n  snap    tiles  alone, us  faster  batch, us  faster")
            measure(sampler, options.windows, options.rounds)


if __name__ == "__main__":
    main()
