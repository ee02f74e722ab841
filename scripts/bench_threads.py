#!/usr/bin/env python
"""What several threads gain when they read batches, beside what as many processes gain that share nothing.

    python scripts/bench_threads.py [--size 16384] [--workers 2] [--rounds 8] [--seconds 1.2] [--out FOLDER]

Batches of 32 windows of 256 x 256 pixels from a JPEG COG, read over and over: by one thread; by one call on
several threads; by as many processes, one thread each. Processes do not wait for each other, so they are what
the machine allows: cores that it lends may share what is behind them. Ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

# osgeo before the peers that bench_read imports: they bring libraries of the same names.
from osgeo import gdal  # noqa: F401 # isort: skip

import numpy as np
from _peers import WINDOW
from bench_read import BATCH, build, machine

from slidesampler import Sampler, Target, Window


class Reading:
    """Reads the same few batches over and over, into one array."""

    def __init__(self, sampler: Sampler, size: int) -> None:
        places = np.random.default_rng(0).integers(0, size - WINDOW, (24, BATCH, 2)).tolist()
        self._sampler = sampler
        self._batches = [
            [Target(image_id=1, window=Window(y, x, WINDOW, WINDOW)) for y, x in batch] for batch in places
        ]
        self._out = {"image": np.zeros((BATCH, WINDOW, WINDOW, 3), np.uint8)}

    def rate(self, seconds: float, threads: int = 1) -> float:
        """Return windows a second."""
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            self._sampler.load_batch(
                self._batches[done % len(self._batches)], self._out, threads, with_mask=False
            )
            done += 1
        return done * BATCH / (time.perf_counter() - start)

    def rate_of_processes(self, seconds: float, count: int) -> float:
        """Return windows a second of so many processes together."""
        children = []
        for _ in range(count - 1):
            read_end, write_end = os.pipe()
            if os.fork() == 0:
                os.write(write_end, str(self.rate(seconds)).encode())
                os._exit(0)
            os.close(write_end)
            children.append(read_end)
        total = self.rate(seconds)
        for child in children:
            with os.fdopen(child) as file:
                total += float(file.read())
            os.wait()
        return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384, help="side of the slide, pixels")
    parser.add_argument("--workers", type=int, default=2, help="threads, and processes")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each turn")
    parser.add_argument("--out", type=Path, default=Path("bench_output"), help="files are kept here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (slide,) = build(args.out.resolve(), args.size, ["cog jpeg"]).values()
    reading = Reading(Sampler(slide.manifest, workdir=slide.work, backend="cog", codec="jpeg"), args.size)
    reading.rate(args.seconds)
    ways = {
        "1 thread": lambda: reading.rate(args.seconds),
        f"{args.workers} threads": lambda: reading.rate(args.seconds, args.workers),
        f"{args.workers} processes": lambda: reading.rate_of_processes(args.seconds, args.workers),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            rates[name].append(way())
    print(f"{machine(set())}\n\n| | windows a second | x 1 thread |\n|---|---:|---:|")
    for name, found in rates.items():
        ratio = statistics.median(many / one for many, one in zip(found, rates["1 thread"], strict=True))
        print(f"| {name} | {statistics.median(found):.0f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
