#!/usr/bin/env python
"""The main job, end to end: slides, manifest, cog and npy cache, windows with masks through a DataLoader.

    scripts/demo                          two synthetic slides with exact polygon ground truth
    scripts/demo path/to/slide.svs ...    your own slides; windows are drawn where there is tissue

Prints how long a window takes from each backend beside decoding the whole image, how large the cache is and how
many windows a second the DataLoader gives, and draws a contact sheet. Run again, it uses what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import slidesampler
from slidesampler import NegativeSource, PositiveSource, Sample, Sampler, Target, Window, rng_for
from slidesampler.cache import BuildReport
from slidesampler.cli.output import format_bytes, format_seconds, print_table, stderr
from slidesampler.cli.progress import BuildBar
from slidesampler.report import contact_sheet
from slidesampler.testing import make_dataset

ROOT = Path(__file__).resolve().parents[1]
SIZE = 256
#: Windows that are timed one by one, and those on the contact sheet.
TIMED, SHOWN = 100, 36
#: More than this is not decoded at once: the time of a whole image is then estimated from a part of it.
DECODE_PX = 100_000_000


@dataclass
class Row:
    """What the table says of one backend."""

    name: str
    report: BuildReport | None
    window_ms: float
    image_ms: float
    estimated: bool
    windows_per_s: float


def main() -> int:
    options = parse_options()
    sys.stdout.reconfigure(line_buffering=True)
    started = time.perf_counter()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    missing = [slide for slide in options.slides if not slide.exists()]
    if missing:
        print(f"demo: there is no file {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    manifest = own_manifest(options.slides, out) if options.slides else synthetic_manifest(out, options.size)

    say("2. cache: each slide once as COG and once as npy, with its label layer")
    reports = {backend: build(manifest, out / "cache", backend, options.jobs) for backend in ("cog", "npy")}
    failed = {row.image_id for report in reports.values() for row in report.failed}
    sampler = Sampler(manifest, workdir=out / "cache")
    good = [image_id for image_id in sampler.image_ids if image_id not in failed]
    if not good:
        return 1

    say(f"3. windows of {SIZE} x {SIZE} with masks, through a DataLoader with {options.jobs} workers")
    sources = choose_windows(sampler, good, options.windows)
    rows = [
        measure(
            Sampler(manifest, workdir=out / "cache", backend=backend), name, report, sources, good, options.jobs
        )
        for name, backend, report in (
            ("source", None, None),
            ("cog", "cog", reports["cog"]),
            ("npy", "npy", reports["npy"]),
        )
    ]
    print_rows(rows)
    same, total = compare(manifest, out / "cache", sources)
    print(f"\n{same} of {total} windows are equal, byte for byte, from source, cog and npy.")

    say("4. contact sheet")
    cog = Sampler(manifest, workdir=out / "cache", backend="cog")
    title = "slidesampler: positive and negative windows" if len(sources) == 2 else "slidesampler: windows"
    sheet = contact_sheet(
        samples_for_sheet(cog, sources), out / "contact_sheet.png", cog.class_map, title=title
    )
    print(f"{sheet}\n\ndone in {format_seconds(time.perf_counter() - started)}")
    return 1 if failed else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path, help="anything that GDAL or OpenSlide opens")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=6000, help="pixels along a synthetic slide: %(default)s")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes: %(default)s")
    parser.add_argument("--windows", type=int, default=384, help="windows an epoch: %(default)s")
    options = parser.parse_args()
    if options.size < 4 * SIZE:
        parser.error(f"--size must be at least {4 * SIZE}: there must be room for windows without a tumour")
    if options.jobs < 1 or options.windows < 2:
        parser.error("--jobs must be at least 1 and --windows at least 2")
    return options


def say(text: str) -> None:
    print(f"\n{text}")


# --- slides and manifest -----------------------------------------------------------------------------------


def synthetic_manifest(out: Path, size: int) -> Path:
    folder = out / f"synthetic-{size}px"
    manifest = folder / "slides.kwcoco.json"
    say(f"1. slides: two synthetic ones of {size} x {size} pixels, stained as with haematoxylin and eosin")
    if not manifest.exists():
        with painting_bar(2 * size * size) as advance:
            make_dataset(folder, 2, size, size, advance=advance)
    print(f"{manifest} ({format_bytes(sum(file.stat().st_size for file in folder.iterdir()))} with its slides)")
    return manifest


@contextlib.contextmanager
def painting_bar(pixels: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    console = stderr()
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("painting", total=pixels)
        yield lambda done: bar.advance(task, done)


def own_manifest(slides: Sequence[Path], out: Path) -> Path:
    say(f"1. slides: {len(slides)} of yours, without annotations")
    images = [
        {"id": number, "name": slide.stem, "file_name": str(slide.resolve())}
        for number, slide in enumerate(slides, start=1)
    ]
    manifest = out / "own-slides.kwcoco.json"
    manifest.write_text(json.dumps({"images": images, "annotations": [], "categories": []}), encoding="utf-8")
    print(manifest)
    return manifest


# --- cache -------------------------------------------------------------------------------------------------


def build(manifest: Path, workdir: Path, backend: str, jobs: int) -> BuildReport:
    sampler = Sampler(manifest, workdir=workdir, backend=backend)
    console = stderr()
    bar = BuildBar(console, sampler.manifest) if console.is_terminal else None
    with bar or contextlib.nullcontext():
        report = sampler.build(jobs=jobs, progress=bar)
    counts = ", ".join(f"{count} {status}" for status, count in report.counts.items())
    print(f"{backend}: {counts}; {format_bytes(report.size_bytes)} in {format_seconds(report.seconds)}")
    for row in report.failed:
        print(f"{backend}: {row.path}: {row.reason}", file=sys.stderr)
    return report


# --- windows -----------------------------------------------------------------------------------------------


def choose_windows(sampler: Sampler, image_ids: list[int], count: int) -> list[Any]:
    """Return target sources: positives and negatives where there are annotations, else tissue."""
    if len(sampler.manifest.shapes):
        return [
            PositiveSource(
                sampler, SIZE, count // 2, balance="class", jitter_px=100, inside=True, image_ids=image_ids
            ),
            NegativeSource(sampler, SIZE, count // 2, image_ids=image_ids),
        ]
    return [slidesampler.FixedSource(tissue_targets(sampler, image_ids, count))]


def tissue_targets(sampler: Sampler, image_ids: list[int], count: int) -> list[Target]:
    """Return windows around random points that are not background, the same number on each slide."""
    targets = []
    for image_id in image_ids:
        height, width = sampler.image_shape(image_id)[:2]
        downsample = max(1.0, max(height, width) / 1024)
        overview = sampler.load_sample(
            {"image_id": image_id, "downsample": downsample}, with_annots=False, with_mask=False
        )
        places = np.argwhere(foreground(overview))
        rng = rng_for(0, index=image_id, stream="tissue")
        for row, column in places[rng.integers(len(places), size=-(-count // len(image_ids)))].tolist():
            # In the middle of a pixel of the overview; a slide smaller than the window lies inside it.
            y, x = (
                min(
                    max(int((place + 0.5) * downsample) - SIZE // 2, min(0, length - SIZE)),
                    max(0, length - SIZE),
                )
                for place, length in ((row, height), (column, width))
            )
            targets.append(Target(image_id=image_id, window=Window(y, x, SIZE, SIZE), kind="tissue"))
    return targets


def foreground(overview: Sample) -> np.ndarray:
    """Return which pixels of an overview are not background: stained, or unlike most of a grey image."""
    image = overview.image.astype(np.float32)
    if image.shape[2] >= 3:
        # Glass is grey however bright; stain is not. A black border has no colour either.
        strength = image[..., :3].max(axis=2) - image[..., :3].min(axis=2)
    else:
        strength = np.abs(image[..., 0] - np.median(image[..., 0][overview.valid]))
    strength = np.nan_to_num(strength) * overview.valid
    scaled = cv2.normalize(strength, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    threshold, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    chosen = (scaled > threshold) & overview.valid
    return chosen if chosen.any() else np.ones_like(chosen)


def samples_for_sheet(sampler: Sampler, sources: list[Any]) -> list[Sample]:
    # Twice as many positives as negatives, most of which are plain.
    shares = (SHOWN * 2 // 3, SHOWN // 3) if len(sources) == 2 else (SHOWN,)
    samples = []
    for source, share in zip(sources, shares, strict=True):
        indices = np.linspace(0, len(source) - 1, min(len(source), share)).astype(int).tolist()
        samples += [sampler.load_sample(source.target(0, index)) for index in indices]
    return samples


# --- measuring ---------------------------------------------------------------------------------------------


def measure(
    sampler: Sampler,
    name: str,
    report: BuildReport | None,
    sources: list[Any],
    image_ids: list[int],
    jobs: int,
) -> Row:
    targets = some_targets(sources)
    sampler.load_sample(targets[0])  # opens files: paid once, not by each window
    started = time.perf_counter()
    for target in targets:
        sampler.load_sample(target, with_annots=False)
    window_ms = 1000 * (time.perf_counter() - started) / len(targets)
    image_ms, estimated = decode_whole(sampler, image_ids[0])
    return Row(name, report, window_ms, image_ms, estimated, through_loader(sampler, sources, jobs))


def some_targets(sources: list[Any]) -> list[Target]:
    """Return ``TIMED`` targets, spread over the sources and over each of them."""
    picked = [
        source.target(0, index)
        for source in sources
        for index in np.linspace(0, len(source) - 1, min(len(source), TIMED // len(sources)))
        .astype(int)
        .tolist()
    ]
    return [picked[index] for index in rng_for(0, stream="order").permutation(len(picked))]


def decode_whole(sampler: Sampler, image_id: int) -> tuple[float, bool]:
    """Return milliseconds to read all pixels of an image, and whether that was estimated from a part."""
    height, width = sampler.image_shape(image_id)[:2]
    rows = max(1, min(height, DECODE_PX // width))
    started = time.perf_counter()
    sampler.load_sample(
        {"image_id": image_id, "window": Window((height - rows) // 2, 0, rows, width)},
        with_annots=False,
        with_mask=False,
    )
    return 1000 * (time.perf_counter() - started) * height / rows, rows < height


def through_loader(sampler: Sampler, sources: list[Any], jobs: int) -> float:
    """Return windows a second of a DataLoader's second epoch; the first one starts the workers."""
    # Imported here: what needs no torch should not wait for it.
    from torch.utils.data import ConcatDataset, DataLoader

    from slidesampler.torch import WindowDataset

    datasets = [WindowDataset(sampler, source, with_annots=False) for source in sources]
    first = datasets[0][0]["image"]
    # Slides of different kinds cannot be stacked: then a batch is a list.
    alike = all(
        (image.shape, image.dtype) == (first.shape, first.dtype)
        for image in (
            datasets[0][i]["image"] for i in range(0, len(datasets[0]), max(1, len(datasets[0]) // 32))
        )
    )
    loader = DataLoader(
        ConcatDataset(datasets),
        batch_size=16,
        shuffle=True,
        num_workers=jobs,
        persistent_workers=jobs > 0,
        collate_fn=WindowDataset.collate if alike else list,
    )
    for epoch in range(2):
        for dataset in datasets:
            dataset.set_epoch(epoch)
        seen, started = 0, time.perf_counter()
        for batch in loader:
            seen += len(batch["image"]) if alike else len(batch)
    return seen / (time.perf_counter() - started)


def compare(manifest: Path, workdir: Path, sources: list[Any]) -> tuple[int, int]:
    """Return how many windows are the same from the source and from both caches, and how many were read."""
    samplers = [Sampler(manifest, workdir=workdir, backend=backend) for backend in (None, "cog", "npy")]
    same, targets = 0, some_targets(sources)
    for target in targets:
        first, *others = (sampler.load_sample(target) for sampler in samplers)
        same += all(
            np.array_equal(getattr(first, part), getattr(other, part))
            for other in others
            for part in ("image", "mask", "valid")
        )
    return same, len(targets)


def print_rows(rows: list[Row]) -> None:
    names = ("read from", "build", "cache", "a window", "whole image", "ratio", "DataLoader")
    print_table(
        names,
        [
            (
                row.name,
                "-" if row.report is None else format_seconds(row.report.seconds),
                "-" if row.report is None else format_bytes(row.report.size_bytes),
                f"{row.window_ms:.2f} ms",
                f"{'~' if row.estimated else ''}{row.image_ms:.4g} ms",
                f"1:{row.image_ms / row.window_ms:.3g}",
                f"{row.windows_per_s:.0f} windows/s",
            )
            for row in rows
        ],
        right=names[1:],
    )


if __name__ == "__main__":
    sys.exit(main())
