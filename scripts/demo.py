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

import numpy as np

from slidesampler import (
    BalancedSource,
    LabelSpec,
    NegativeSource,
    PositiveSource,
    ReadError,
    Sampler,
    Target,
    Window,
    rng_for,
)
from slidesampler.cache import BuildReport
from slidesampler.cli.output import format_bytes, format_seconds, print_table, stderr
from slidesampler.cli.progress import BuildBar
from slidesampler.report import contact_sheet, write_report
from slidesampler.sampling import TargetSource, summarize
from slidesampler.sampling.asked import asked_shares
from slidesampler.sampling.dry_runs import dry_run
from slidesampler.testing import make_dataset

ROOT = Path(__file__).resolve().parents[1]
SIZE = 256
BATCH = 16
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
    sampler = open_sampler(manifest, out / "cache", None)
    good = [image_id for image_id in sampler.image_ids if image_id not in failed]
    if not good:
        return 1

    say(f"3. windows of {SIZE} x {SIZE} with masks, through a DataLoader with {options.jobs} workers")
    source = choose_windows(sampler, good, options.windows)
    rows = [
        measure(open_sampler(manifest, out / "cache", backend), name, report, source, good, options.jobs)
        for name, backend, report in (
            ("source", None, None),
            ("cog", "cog", reports["cog"]),
            ("npy", "npy", reports["npy"]),
        )
    ]
    print_rows(rows)
    same, total = compare(manifest, out / "cache", source)
    print(f"\n{same} of {total} windows are equal, byte for byte, from source, cog and npy.")

    say("4. what was sampled: a contact sheet and a report")
    sheet, page = draw(open_sampler(manifest, out / "cache", "cog"), source, out)
    print(f"{sheet}\n{page}\n\ndone in {format_seconds(time.perf_counter() - started)}")
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


def open_sampler(manifest: Path, workdir: Path, backend: str | None) -> Sampler:
    """Return a sampler that looks for windows on tissue; grey images have no stain to find it by."""
    plain = Sampler(manifest)
    coloured = all(plain.image_shape(image_id)[2] >= 3 for image_id in readable(plain))
    label_spec = LabelSpec(tissue="otsu" if coloured else "none")
    return Sampler(manifest, workdir=workdir, backend=backend, label_spec=label_spec)


def readable(sampler: Sampler) -> list[int]:
    found = []
    for image_id in sampler.image_ids:
        with contextlib.suppress(ReadError):
            sampler.image_shape(image_id)
            found.append(image_id)
    return found


def build(manifest: Path, workdir: Path, backend: str, jobs: int) -> BuildReport:
    sampler = open_sampler(manifest, workdir, backend)
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


def choose_windows(sampler: Sampler, image_ids: list[int], count: int) -> TargetSource:
    """Return what a model would train on: objects and plain tissue where there are annotations, else tissue."""
    tissue = NegativeSource(sampler, SIZE, count, image_ids=image_ids)
    if not len(sampler.manifest.shapes):
        return tissue
    objects = PositiveSource(
        sampler, SIZE, count, class_weights="uniform", jitter_px=100, allow_border=False, image_ids=image_ids
    )
    return BalancedSource.of(objects, tissue, n=count, batch_size=BATCH)


def draw(sampler: Sampler, source: TargetSource, out: Path) -> tuple[Path, Path]:
    """Draw the contact sheet and the report of an epoch; return both files."""
    drawn = dry_run(source)
    by_kind = [[t for t in drawn.targets if t.kind == kind] for kind in ("positive", "negative")]
    # Twice as many positives as negatives, most of which are plain.
    shares = (SHOWN * 2 // 3, SHOWN // 3) if all(by_kind) else (SHOWN, SHOWN)
    shown = [target for some, share in zip(by_kind, shares, strict=True) for target in some[:share]]
    samples = [sampler.load_sample(target) for target in shown]
    sheet = contact_sheet(
        samples, out / "contact_sheet.png", sampler.class_map, title="slidesampler: windows of one epoch"
    )
    summary = summarize(drawn.targets, sampler, asked=asked_shares(source), records=drawn.records)
    return sheet, write_report(sampler, summary, drawn.targets, out / "report").page


# --- measuring ---------------------------------------------------------------------------------------------


def measure(
    sampler: Sampler,
    name: str,
    report: BuildReport | None,
    source: TargetSource,
    image_ids: list[int],
    jobs: int,
) -> Row:
    targets = some_targets(source)
    sampler.load_sample(targets[0])  # opens files: paid once, not by each window
    started = time.perf_counter()
    for target in targets:
        sampler.load_sample(target, with_annots=False)
    window_ms = 1000 * (time.perf_counter() - started) / len(targets)
    image_ms, estimated = decode_whole(sampler, image_ids[0])
    return Row(name, report, window_ms, image_ms, estimated, through_loader(sampler, source, jobs))


def some_targets(source: TargetSource) -> list[Target]:
    """Return ``TIMED`` targets of an epoch, in any order."""
    order = rng_for(0, stream="order").permutation(len(source))[:TIMED].tolist()
    return [source.target(0, index) for index in order]


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


def through_loader(sampler: Sampler, source: TargetSource, jobs: int) -> float:
    """Return windows a second of a DataLoader's second epoch; the first one starts the workers."""
    # Imported here: what needs no torch should not wait for it.
    from torch.utils.data import DataLoader

    from slidesampler.torch import WindowDataset, WindowSampler

    dataset = WindowDataset(sampler, source, with_annots=False)
    order = WindowSampler(dataset, batch_size=BATCH)
    # Slides of different kinds cannot be stacked: then a batch is a list.
    some = [dataset[index]["image"] for index in range(0, len(dataset), max(1, len(dataset) // 32))]
    alike = all((image.shape, image.dtype) == (some[0].shape, some[0].dtype) for image in some)
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=order,
        num_workers=jobs,
        persistent_workers=jobs > 0,
        collate_fn=dataset.collate if alike else list,
    )
    for epoch in range(2):
        order.set_epoch(epoch)
        seen, started = 0, time.perf_counter()
        for batch in loader:
            seen += len(batch["image"]) if alike else len(batch)
    return seen / (time.perf_counter() - started)


def compare(manifest: Path, workdir: Path, source: TargetSource) -> tuple[int, int]:
    """Return how many windows are the same from the source and from both caches, and how many were read."""
    samplers = [open_sampler(manifest, workdir, backend) for backend in (None, "cog", "npy")]
    same, targets = 0, some_targets(source)
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
