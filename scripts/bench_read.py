#!/usr/bin/env python
"""Time of a window per backend, as a ratio to the bare read and to ndsampler, on the same files in one run.

    python scripts/bench_read.py [--size 8192] [--windows 200] [--rounds 9] [--out bench_output]

Makes a synthetic slide, stores it as an npy and as COGs of several codecs, then reads random windows in rounds.
In every round each contender reads the same windows, new ones each round; a ratio is taken within the round and
the median over the rounds is printed. GDAL's block cache is kept too small to help anybody, so what is measured
is reading, not remembering. ndsampler takes part where it is installed (`pip install ndsampler`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from osgeo import gdal, gdal_array

from slidesampler import Sampler
from slidesampler.cache import CacheStore
from slidesampler.testing import make_dataset

gdal.UseExceptions()
WINDOW = 256
CODECS = ("none", "zstd", "deflate", "jpeg")
Read = Callable[[int, int], Any]


def memmap_copy(path: str) -> Read:
    """Bare limit for npy: a copy of a slice of a memory map."""
    array = np.load(path, mmap_mode="r")
    return lambda y, x: np.array(array[y : y + WINDOW, x : x + WINDOW])


def gdal_read(path: str) -> Read:
    """Bare limit for COG: GDAL straight into an array."""
    dataset = gdal.Open(path)

    def read(y: int, x: int) -> Any:
        out = np.empty((WINDOW, WINDOW, 3), np.uint8)
        return gdal_array.DatasetReadAsArray(dataset, x, y, WINDOW, WINDOW, buf_obj=out, interleave="pixel")

    return read


def window_at(y: int, x: int) -> dict[str, int]:
    """Where a window lies, in the words that both samplers know."""
    return {"cy": y + WINDOW // 2, "cx": x + WINDOW // 2, "width": WINDOW, "height": WINDOW}


def ours(sampler: Sampler, **options: bool) -> Read:
    image_id = sampler.image_ids[0]

    def read(y: int, x: int) -> Any:
        return sampler.load_sample({"image_id": image_id, **window_at(y, x)}, **options).image

    return read


def ndsampler_read(
    manifest: dict[str, Any], image: str, folder: Path, backend: str, *, with_annots: bool
) -> Read | None:
    """ndsampler over one image; None where it is not installed."""
    try:
        import kwcoco
        import ndsampler
    except ImportError:
        return None
    one_image = {**manifest, "images": [{**manifest["images"][0], "file_name": image}]}
    dataset = kwcoco.CocoDataset(one_image)
    sampler = ndsampler.CocoSampler(dataset, workdir=str(folder), backend=backend, verbose=0)
    image_id = one_image["images"][0]["id"]
    # Its cache would hold a lossy copy of a COG that its own validator does not know. A link in the place of
    # that copy lets both read the very same file.
    for channel in sampler.frames._lookup_pathinfo(image_id)["channels"].values():  # noqa: SLF001
        cached = Path(channel["cache"])
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.unlink(missing_ok=True)
        cached.symlink_to(image)

    def read(y: int, x: int) -> Any:
        return sampler.load_sample({"gid": image_id, **window_at(y, x)}, with_annots=with_annots)["im"]

    return read


def run(contenders: dict[str, Read], size: int, windows: int, rounds: int) -> dict[str, list[float]]:
    """Return microseconds a window per round of every contender."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        places = rng.integers(0, size - WINDOW, (windows, 2)).tolist()
        names = list(contenders)
        rng.shuffle(names)
        for name in names:
            read = contenders[name]
            start = time.perf_counter()
            for y, x in places:
                read(y, x)
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start) / windows * 1e6)
    return times


def check_equal(contenders: dict[str, Read], size: int) -> None:
    """All contenders of a group must give the same pixels, or the comparison is worth nothing."""
    rng = np.random.default_rng(1)
    for y, x in rng.integers(0, size - WINDOW, (5, 2)).tolist():
        blocks = {name: np.asarray(read(y, x)) for name, read in contenders.items()}
        first = next(iter(blocks.values()))
        for name, block in blocks.items():
            if not np.array_equal(block, first):
                raise SystemExit(f"{name} gives other pixels than {next(iter(blocks))} at y={y} x={x}")


def groups(folder: Path, size: int) -> dict[str, dict[str, Read]]:
    """Build the files and return, per kind of file, the bare read first and then everybody else."""
    manifest_path = make_dataset(folder / "data", n_slides=1, height=size, width=size, seed=0)
    manifest = json.loads(Path(manifest_path).read_text())
    work = folder / "cache"
    found: dict[str, dict[str, Read]] = {}

    def add(group: str, bare: tuple[str, Read], sampler: Sampler, path: str, backend: str) -> None:
        contenders = {
            bare[0]: bare[1],
            "load_sample, pixels": ours(sampler, with_annots=False, with_mask=False),
            "load_sample, pixels + mask": ours(sampler, with_annots=False, with_mask=True),
            "load_sample, pixels + annotations": ours(sampler, with_mask=False),
            "load_sample, pixels + mask + annotations": ours(sampler),
        }
        for name, with_annots in (("pixels", False), ("pixels + annotations", True)):
            peer = ndsampler_read(manifest, path, folder / "nd" / group, backend, with_annots=with_annots)
            if peer is not None:
                contenders[f"ndsampler, {name}"] = peer
        check_equal(contenders, size)
        found[group] = contenders

    for backend, codec in (("npy", "none"), *(("cog", codec) for codec in CODECS)):
        sampler = Sampler(manifest_path, workdir=work, backend=backend, codec=codec)
        report = sampler.build(codec=codec)
        if report.failed:
            raise SystemExit(f"could not build {backend} {codec}: {report.failed}")
        record = sampler.image_record(sampler.image_ids[0])
        path = CacheStore(work).find_image(record, backend, codec=codec).files["image"]
        if backend == "npy":
            add("npy", ("memmap copy", memmap_copy(path)), sampler, path, backend)
        else:
            add(f"cog {codec}", ("GDAL ReadRaster", gdal_read(path)), sampler, path, backend)
    return found


def table(results: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    rows = []
    for group, times in results.items():
        bare = next(iter(times))
        for name, micros in times.items():
            # Like with like: their sample with annotations beside ours with annotations. Only we make masks.
            peer = "ndsampler, pixels + annotations" if "annotations" in name else "ndsampler, pixels"
            rows.append(
                {
                    "file": group,
                    "read": name,
                    "us": statistics.median(micros),
                    "x bare": statistics.median(a / b for a, b in zip(micros, times[bare], strict=True)),
                    "x ndsampler": statistics.median(a / b for a, b in zip(micros, times[peer], strict=True))
                    if peer in times
                    else None,
                }
            )
    return rows


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    versions = f"Python {platform.python_version()}, GDAL {gdal.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, {versions}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, help="side of the slide, pixels")
    parser.add_argument("--windows", type=int, default=200, help="windows a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("bench_output"))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    found = groups(args.out, args.size)
    # Eight tiles of 256 x 256 x 3: enough for a window, too little to remember the last one.
    gdal.SetCacheMax(2 * 2**20)
    results = {
        group: run(contenders, args.size, args.windows, args.rounds) for group, contenders in found.items()
    }
    rows = table(results)
    print(f"\n{machine()}")
    print(
        f"{args.size} x {args.size} RGB, {WINDOW} x {WINDOW} windows, {args.windows} x {args.rounds} rounds\n"
    )
    print("| file | read | us a window | x bare read | x ndsampler |")
    print("|---|---|---:|---:|---:|")
    for row in rows:
        peer = "" if row["x ndsampler"] is None else f"{row['x ndsampler']:.2f}"
        print(f"| {row['file']} | {row['read']} | {row['us']:.0f} | {row['x bare']:.2f} | {peer} |")
    (args.out / "bench_read.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
