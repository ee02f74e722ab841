#!/usr/bin/env python
"""Time of a window per kind of file, for every program that reads it, on the same files in one run.

    python scripts/bench_read.py [--size 16384] [--windows 96] [--rounds 9] [--only jpeg,npy] [--out FOLDER]

Makes a synthetic H&E slide, stores it as an npy and as COGs of several codecs, and reads random windows in
rounds, in batches of 32. In every round each contender reads the same windows, new ones each round, in a new
order of contenders; a ratio is taken within the round and the median over the rounds is printed. Caches of the
programs are off or too small to help anybody, so what is measured is reading, not remembering. *Warm* finds the
file in the page cache of the system; *CPU* is the processor time of the same rounds, of all threads together,
which other work on the machine disturbs least; *disk* has the system forget the file first (`posix_fadvise`),
in rounds of its own.

Before anything is timed, everybody's pixels are compared with GDAL's (with the memory map's). Who gives others
is said, and left out where it is more than what decoders of JPEG may differ by.

The peers are those that are installed; `scripts/_peers.py` says how each is used. In a folder of their own
they do not disturb the environment of the package:

    pip install --no-deps --target peers cucim-cu12 openslide-python openslide-bin tiffslide imagecodecs zarr \\
        numcodecs donfig google-crc32c crc32c pyvips pyvips-binary cffi rasterio affine click cligj \\
        click-plugins cachetools ndsampler fasteners atomicwrites pyqtree monai
    PYTHONPATH=peers python scripts/bench_read.py
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

# osgeo before the peers: they bring libraries of the same names.
from osgeo import gdal  # isort: skip

import numpy as np
from _ours import BATCH_1, BATCH_2, Contender, ours
from _peers import CACHE_BYTES, NPY_PEERS, TIFF_PEERS, WINDOW, NdsamplerFiles, Peer, Places, Read, missing

from slidesampler import Manifest, Sampler
from slidesampler.cache import CacheStore
from slidesampler.testing import make_dataset

gdal.UseExceptions()
BATCH = 32


class File(NamedTuple):
    """A file that everybody reads: what it is called, how we read it, and its codec."""

    name: str
    backend: str
    codec: str


#: The last one is written by ``gdal_translate`` and read in place.
IN_PLACE = "auto"
FILES = (
    File("npy", "npy", "none"),
    File("cog none", "cog", "none"),
    File("cog zstd", "cog", "zstd"),
    File("cog deflate", "cog", "deflate"),
    File("cog jpeg", "cog", "jpeg"),
    File("cog jpeg of GDAL", IN_PLACE, "jpeg"),
)
JPEG_QUALITY = 90
#: Mean difference of samples that decoders of JPEG may have; a wrong window has tens.
JPEG_TOLERANCE = 1.0

#: Microseconds a window in every round, by contender.
Times = dict[str, list[float]]
#: Times of each kind.
KINDS = ("warm", "cpu", "disk")
Results = dict[str, Times]


class Claim(NamedTuple):
    """What is claimed of two contenders of a file: a ratio or a difference of their times, and its bound."""

    text: str
    file: str
    first: str
    second: str
    bound: float
    kind: str = ">="

    def value(self, times: Times) -> float | None:
        pairs = list(zip(times.get(self.first, []), times.get(self.second, []), strict=False))
        if not pairs:
            return None
        return statistics.median(a - b if self.kind == "us" else a / b for a, b in pairs)

    def kept(self, value: float) -> bool:
        return value >= self.bound if self.kind == ">=" else value <= self.bound


JPEG_PEERS = (
    ("cuCIM batched, 1 worker", 1.4),
    ("GDAL ReadRaster", 2.0),
    ("ndsampler, pixels", 2.3),
    ("openslide", 4.0),
    ("tiffslide", 4.0),
)
CLAIMS = (
    *(
        Claim(f"{peer} / load_batch", file, peer, BATCH_1, bound)
        for file in ("cog jpeg", "cog jpeg of GDAL")
        for peer, bound in JPEG_PEERS
    ),
    Claim("load_batch: 1 thread / 2 threads", "cog jpeg", BATCH_1, BATCH_2, 1.7),
    Claim("cuCIM with 2 workers / 2 threads", "cog jpeg", "cuCIM batched, 2 workers", BATCH_2, 1.3),
    Claim("GDAL ReadRaster / load_batch", "cog none", "GDAL ReadRaster", BATCH_1, 1.5),
    Claim("GDAL ReadRaster / load_batch", "cog zstd", "GDAL ReadRaster", BATCH_1, 1.5),
    Claim("load_batch / memmap copy, stacked", "npy", BATCH_1, "memmap copy, stacked", 1.3, "<="),
    Claim("load_sample - memmap copy, us", "npy", "load_sample", "memmap copy, one by one", 60, "us"),
    Claim("ndsampler - memmap copy, us", "npy", "ndsampler, pixels", "memmap copy, one by one", 1e9, "us"),
    Claim("load_batch: + mask / pixels", "cog jpeg", "load_batch + mask", BATCH_1, 1.3, "<="),
)


def read_round(read: Read, places: Places) -> tuple[float, float]:
    """Return microseconds a window, in batches: by the clock, and of processor time."""
    start = time.perf_counter(), time.process_time()
    for first in range(0, len(places), BATCH):
        read(places[first : first + BATCH])
    stop = time.perf_counter(), time.process_time()
    return (stop[0] - start[0]) / len(places) * 1e6, (stop[1] - start[1]) / len(places) * 1e6


def places_of(rng: np.random.Generator, size: int, windows: int) -> Places:
    return [(int(y), int(x)) for y, x in rng.integers(0, size - WINDOW, (windows, 2))]


def warm_times(
    contenders: list[Contender], size: int, windows: int, rounds: int, *, mapped: bool
) -> tuple[Times, Times]:
    """Everybody's files open, and in the system's page cache; by the clock, and of processor time.

    A file that is mapped is read whole beforehand: the first touch of a page costs more than copying it, and
    contenders would pay for it by when they come. In its turn everybody first reads a batch that is not timed:
    after the turns of all others its code is in no cache of the processor, and a second processor is asleep.
    """
    rng = np.random.default_rng(0)
    readers = {contender.name: contender.open() for contender in contenders}
    clock: Times = {name: [] for name in readers}
    processor: Times = {name: [] for name in readers}
    if mapped:
        whole = [(y, x) for y in range(0, size, WINDOW) for x in range(0, size, WINDOW)]
        for read in readers.values():
            read_round(read, whole)
    for number in range(rounds + 1):
        places, before = places_of(rng, size, windows), places_of(rng, size, BATCH)
        for name in rng.permutation(list(readers)).tolist():
            readers[name](before)
            micros = read_round(readers[name], places)
            if number:  # the first round warms up
                clock[name].append(micros[0])
                processor[name].append(micros[1])
    return clock, processor


def disk_times(contenders: list[Contender], size: int, windows: int, rounds: int, work: Path) -> Times:
    """The system has forgotten the files. A mapped page cannot be forgotten, so nobody else has a file open."""
    rng = np.random.default_rng(1)
    times: Times = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        places = places_of(rng, size, windows)
        for index in rng.permutation(len(contenders)).tolist():
            read = contenders[index].open()
            read([(0, 0)])  # tables are read by now: they are read once a file, not once a window
            forget_files(work)
            times[contenders[index].name].append(read_round(read, places)[0])
            del read
            gc.collect()  # what is in a cycle keeps its files mapped
    return times


def forget_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def compare_pixels(contenders: list[Contender], size: int, *, lossy: bool) -> dict[str, str]:
    """Return how everybody's pixels differ from the first one's: ``same``, ``up to N`` or ``OTHERS``."""
    places = places_of(np.random.default_rng(2), size, 8)
    # Once more than once over the same tile, and at the last window.
    places = [*places, places[0], (size - WINDOW, size - WINDOW)]
    wanted = np.asarray(contenders[0].open()(places)).astype(int)
    found = {}
    for contender in contenders:
        difference = np.abs(np.asarray(contender.open()(places)).astype(int) - wanted)
        if not difference.any():
            found[contender.name] = "same"
        elif contender.ours:
            raise SystemExit(f"{contender.name} gives other pixels than {contenders[0].name}")
        else:
            near = lossy and difference.mean() < JPEG_TOLERANCE
            found[contender.name] = f"up to {difference.max()}" if near else "OTHERS"
    return found


class Built(NamedTuple):
    """Where a file lies, and what our sampler is opened on to read it."""

    path: str
    manifest: Path
    work: Path


def build(folder: Path, size: int, only: list[str]) -> dict[File, Built]:
    """Make the slide and its files, those that are not there from last time."""
    manifest = folder / "data" / "slides.kwcoco.json"
    if not manifest.exists():
        make_dataset(folder / "data", n_slides=1, height=size, width=size, seed=0)
    built = {}
    for file in FILES:
        if only and not {file.name, file.backend, file.codec} & set(only):
            continue
        work, source = folder / "cache", manifest
        if file.backend == IN_PLACE:
            work, source = folder / "in_place", translate(manifest)
        sampler = Sampler(source, workdir=work, backend=file.backend, codec=file.codec)
        report = sampler.build(codec=file.codec, quality=JPEG_QUALITY if file.codec == "jpeg" else None)
        if report.failed:
            raise SystemExit(f"could not build {file.name}: {report.failed}")
        if sampler.image_shape(1)[0] != size:
            raise SystemExit(f"{folder} holds a slide of another size: give another --out, or remove it")
        if file.backend == IN_PLACE:
            path = str(source.with_name(json.loads(source.read_text())["images"][0]["file_name"]))
        else:
            entry = CacheStore(work).find_image(sampler.image_record(1), file.backend, codec=file.codec)
            path = entry.files["image"]
        built[file] = Built(path, source, work)
    os.sync()  # the system does not forget what is not written yet
    return built


def translate(manifest: Path) -> Path:
    """Have GDAL write the slide as a JPEG COG, as ``gdal_translate`` does; return a manifest of it."""
    made = manifest.with_name("translated.kwcoco.json")
    if not made.exists():
        dataset = json.loads(manifest.read_text())
        image = dataset["images"][0]
        source, image["file_name"] = manifest.with_name(image["file_name"]), "translated.tif"
        options = ["COMPRESS=JPEG", f"QUALITY={JPEG_QUALITY}", f"BLOCKSIZE={WINDOW}", "OVERVIEWS=AUTO"]
        gdal.Translate(
            str(manifest.with_name("translated.tif")), str(source), format="COG", creationOptions=options
        )
        made.write_text(json.dumps(dataset))
    return made


def contenders_for(file: File, built: Built, folder: Path) -> tuple[list[Contender], list[str]]:
    """Return who reads a file, the bare read first, and a word on everybody who does not."""
    path, backend, codec = built.path, file.backend, file.codec
    ndsampler = NdsamplerFiles(json.loads(built.manifest.read_text()), folder / "ndsampler")
    peers: list[Peer] = [
        *(NPY_PEERS if backend == "npy" else TIFF_PEERS),
        *(ndsampler.peer(backend.replace(IN_PLACE, "cog"), codec, with_annots=flag) for flag in (False, True)),
    ]
    found, words = [], []
    for peer in peers:
        if absent := missing(peer.needs):
            words.append(f"{peer.name}: {', '.join(absent)} not installed")
        elif codec not in peer.codecs:
            words.append(f"{peer.name}: does not read {codec}")
        else:
            found.append(Contender(peer.name, lambda peer=peer: peer.open(path)))
    return [*found, *ours(Manifest.load(built.manifest), built.work, backend, codec)], words


def machine(distributions: set[str]) -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = [f"Python {platform.python_version()}", f"GDAL {gdal.__version__}"]
    versions += [f"{name} {metadata.version(name)}" for name in sorted(distributions) if not missing([name])]
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; {', '.join(versions)}"


def print_file(file: str, results: Results, pixels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Print and return the rows of a file."""
    bare = next(iter(pixels))
    rows = []
    print(f"\n### {file}\n\n| read | us a window | x bare | CPU us | x bare | us from disk | x bare | pixels |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for name in results["warm"]:
        row: dict[str, Any] = {"file": file, "read": name, "pixels": pixels[name]}
        cells = []
        for kind, times in results.items():
            row[f"{kind} us"] = statistics.median(times[name])
            row[f"{kind} x bare"] = Claim("", file, name, bare, 0).value(times)
            cells += [f"{row[f'{kind} us']:.0f}", f"{row[f'{kind} x bare']:.2f}"]
        cells += [""] * (6 - len(cells))
        rows.append(row)
        print(f"| {name} | {' | '.join(cells)} | {row['pixels']} |", flush=True)
    return rows


def print_claims(results: dict[str, Results]) -> list[dict[str, Any]]:
    rows = []
    print("\n### Claims\n\n| file | what | bound | warm | CPU | from disk |\n|---|---|---:|---:|---:|---:|")
    for claim in CLAIMS:
        values = {kind: claim.value(times) for kind, times in results.get(claim.file, {}).items()}
        cells = []
        for kind in KINDS:
            value = values.get(kind)
            # The processor time of two threads is that of one.
            if value is None or (kind == "cpu" and BATCH_2 in (claim.first, claim.second)):
                cells.append("")
            else:
                cells.append(f"{value:.2f}" if claim.kept(value) else f"**{value:.2f}**")
        if any(cells):
            bound = "" if claim.bound >= 1e9 else f"{claim.kind.replace('us', '<=')} {claim.bound:g}"
            print(f"| {claim.file} | {claim.text} | {bound} | {' | '.join(cells)} |")
            rows.append({**claim._asdict(), **values})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384, help="side of the slide, pixels")
    parser.add_argument("--windows", type=int, default=96, help="windows a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--disk-rounds", type=int, default=5, help="rounds with the page cache emptied; 0: none"
    )
    parser.add_argument("--only", default="", help="codecs, or files by name: npy,zstd,cog jpeg")
    parser.add_argument("--out", type=Path, default=Path("bench_output"), help="files are kept here")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = build(folder, args.size, args.only.split(",") if args.only else [])
    gdal.SetCacheMax(CACHE_BYTES)
    needs = {name for peer in TIFF_PEERS for name in peer.needs} | {*NdsamplerFiles.needs, "openslide-bin"}
    print(
        f"{machine(needs)}\n{args.size} x {args.size} RGB, {WINDOW} x {WINDOW} windows in batches of {BATCH}, "
    )
    print(f"{args.windows} windows in each of {args.rounds} rounds ({args.disk_rounds} from disk)", flush=True)
    if gdal.GetCacheMax() > CACHE_BYTES:
        raise SystemExit("GDAL's block cache is large: nothing would be measured but memory")
    results: dict[str, Results] = {}
    rows: list[dict[str, Any]] = []
    for file, built in files.items():
        contenders, words = contenders_for(file, built, folder)
        pixels = compare_pixels(contenders, args.size, lossy=file.codec == "jpeg")
        words += [f"{name}: gives other pixels" for name, word in pixels.items() if word == "OTHERS"]
        contenders = [one for one in contenders if pixels[one.name] != "OTHERS"]
        mapped = file.backend == "npy"
        # A peer that keeps a file mapped keeps its pages, for everybody: of npy nothing would be from disk.
        disk_rounds = 0 if mapped else args.disk_rounds
        disk = disk_times(contenders, args.size, args.windows, disk_rounds, folder)
        warm, cpu = warm_times(contenders, args.size, args.windows, args.rounds, mapped=mapped)
        results[file.name] = {"warm": warm, "cpu": cpu, **({"disk": disk} if disk_rounds else {})}
        rows += print_file(file.name, results[file.name], pixels)
        if words:
            print(f"\nLeft out: {'; '.join(words)}.")
    report = {"machine": machine(needs), "rows": rows, "claims": print_claims(results)}
    (folder / "bench_read.json").write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
