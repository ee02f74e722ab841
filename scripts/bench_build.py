#!/usr/bin/env python3
"""Megapixels a second of building a pyramid: ours, `gdal_translate -of COG`, and `vips tiffsave --pyramid`.

Makes a tiled JPEG TIFF (or an uncompressed one, or takes the file that is given) and has each program make a
tiled TIFF with overviews of it, with the same codec, tile and threads, each in a process of its own. What a
program takes for an image of one tile is its start, which is subtracted and printed beside. Programs take
turns; ratios are taken within a round, and what is printed are medians over the rounds. A program that is not
installed is left out, with a word.

    python scripts/bench_build.py                          # JPEG and ZSTD, 1 and 2 threads
    python scripts/bench_build.py --codec zstd --raw       # from an uncompressed TIFF
    python scripts/bench_build.py slide.svs                # from a slide of yours

vips stores the colours of a JPEG at full resolution from quality 90 on, and has twice as much to compress then:
give --quality 89 for a comparison of the same work.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import bench_build_memory

TILE = 256
OURS, GDAL, VIPS = "slidesampler", "gdal_translate", "vips tiffsave"


class Run(NamedTuple):
    seconds: float
    start_seconds: float
    cpu_seconds: float
    peak_bytes: int
    size_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, help="a tiled TIFF or slide instead of a made one")
    parser.add_argument("--size", type=int, default=8192, help="height and width of the made image, pixels")
    parser.add_argument("--raw", action="store_true", help="make it without compression")
    parser.add_argument("--codec", action="append", choices=["jpeg", "zstd"], help="default: both")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG")
    parser.add_argument("--threads", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go (and are removed); default: temporary")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        build(options.source, *options.child)
        return 0
    if options.plain:
        decompress(options.source, options.plain)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare(options, Path(folder))
    return 0


def build(source: Path, target: str, codec: str, quality: str, threads: str) -> None:
    """Write an image as a build does; runs in a process of its own."""
    from slidesampler.cache.spec import BuildSpec
    from slidesampler.cache.write import write_image
    from slidesampler.readers import ReaderSpec, open_reader

    reader = open_reader(ReaderSpec("auto", str(source)))
    spec = BuildSpec(codec=codec, quality=int(quality) if codec == "jpeg" else None, tile=TILE)
    write_image(reader, Path(target).parent, spec, threads=int(threads))


def compare(options: argparse.Namespace, folder: Path) -> None:
    source = options.source or make_source(folder / "source.tif", options.size, raw=options.raw)
    small = make_source(folder / "small.tif", TILE, raw=options.raw)
    megapixels = count_pixels(source) / 1e6
    programs = [OURS]
    for name in (GDAL, VIPS):
        if shutil.which(name.split()[0]):
            programs.append(name)
        else:
            print(f"{name} is not installed and left out", file=sys.stderr)
    print("| codec | threads | program | Mpx/s | ours is x as fast | start, s | CPU s | peak RSS | size |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    for codec in options.codec or ["jpeg", "zstd"]:
        for threads in options.threads or [1, 2]:
            rounds = [
                {
                    program: run_less_start(program, source, small, folder, codec, options.quality, threads)
                    for program in (programs if number % 2 == 0 else programs[::-1])
                }
                for number in range(options.rounds)
            ]
            for program in programs:
                print_row(codec, threads, program, megapixels, rounds)


def print_row(
    codec: str, threads: int, program: str, megapixels: float, rounds: Sequence[dict[str, Run]]
) -> None:
    runs = [found[program] for found in rounds]
    ratio = statistics.median(found[program].seconds / found[OURS].seconds for found in rounds)
    seconds, start, cpu = (
        statistics.median(values)
        for values in zip(*((r.seconds, r.start_seconds, r.cpu_seconds) for r in runs), strict=True)
    )
    print(
        f"| {codec} | {threads} | {program} | {megapixels / seconds:.1f} | {ratio:.2f} | {start:.2f} "
        f"| {cpu:.2f} | {max(r.peak_bytes for r in runs) / 2**20:.0f} MiB "
        f"| {runs[0].size_bytes / 1e6:.1f} MB |",
        flush=True,
    )


def run_less_start(
    program: str, source: Path, small: Path, folder: Path, codec: str, quality: int, threads: int
) -> Run:
    start = run(program, small, folder, codec, quality, threads)
    found = run(program, source, folder, codec, quality, threads)
    return found._replace(
        seconds=found.seconds - start.seconds,
        start_seconds=start.seconds,
        cpu_seconds=found.cpu_seconds - start.cpu_seconds,
    )


def run(program: str, source: Path, folder: Path, codec: str, quality: int, threads: int) -> Run:
    target = folder / "out" / "image.tif"
    target.parent.mkdir()
    environment = {**os.environ, "VIPS_CONCURRENCY": str(threads)}
    before = time.perf_counter()
    with subprocess.Popen(
        command(program, source, target, codec, quality, threads), stdout=subprocess.DEVNULL, env=environment
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - before
        # Waited for already.
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{program} failed")
    size = target.stat().st_size
    shutil.rmtree(target.parent)
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, 0.0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, size)


def command(program: str, source: Path, target: Path, codec: str, quality: int, threads: int) -> list[str]:
    if program == OURS:
        child = ["--child", str(target), codec, str(quality), str(threads)]
        return [sys.executable, __file__, str(source), *child]
    if program == VIPS:
        how = ["--Q", str(quality)] if codec == "jpeg" else ["--level", "1", "--predictor", "horizontal"]
        sizes = ["--tile-width", str(TILE), "--tile-height", str(TILE)]
        return [
            "vips",
            "tiffsave",
            str(source),
            str(target),
            "--tile",
            "--pyramid",
            "--compression",
            codec,
            *how,
            *sizes,
        ]
    chosen = {
        "COMPRESS": codec,
        "OVERVIEW_COMPRESS": codec,
        "BLOCKSIZE": TILE,
        "NUM_THREADS": threads,
        "OVERVIEWS": "IGNORE_EXISTING",
        "OVERVIEW_RESAMPLING": "AVERAGE",
        "BIGTIFF": "IF_SAFER",
    }
    if codec == "jpeg":
        chosen |= {"QUALITY": quality, "OVERVIEW_QUALITY": quality}
    else:
        chosen |= {"LEVEL": 1, "PREDICTOR": "YES", "OVERVIEW_PREDICTOR": "YES"}
    settings = [word for key, value in chosen.items() for word in ("-co", f"{key}={value}")]
    return ["gdal_translate", "-q", "-of", "COG", *settings, str(source), str(target)]


def make_source(path: Path, size: int, *, raw: bool) -> Path:
    # In processes of their own: what they need would count as the peak of those that are started after them.
    bench_build_memory.start("make", Path(str(size)), path, 1)
    if not raw:
        return path
    plain = path.with_name(f"plain-{path.name}")
    subprocess.run([sys.executable, __file__, str(path), "--plain", str(plain)], check=True)
    return plain


def decompress(source: Path, target: Path) -> None:
    from osgeo import gdal

    gdal.UseExceptions()
    layout = ["TILED=YES", f"BLOCKXSIZE={TILE}", f"BLOCKYSIZE={TILE}", "PHOTOMETRIC=RGB"]
    gdal.Translate(str(target), str(source), creationOptions=layout)


def count_pixels(source: Path) -> int:
    code = (
        "import sys; from osgeo import gdal; d = gdal.Open(sys.argv[1]); print(d.RasterXSize * d.RasterYSize)"
    )
    counted = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(source)], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(counted.stdout)


if __name__ == "__main__":
    sys.exit(main())
