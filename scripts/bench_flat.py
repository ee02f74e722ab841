#!/usr/bin/env python
"""What a window costs, over the size of the slide, the number of slides and the number of annotations: a plot.

    python scripts/bench_flat.py [--rounds 9] [--windows 64] [--out FOLDER] [--plot docs/img/flat_cost.png]

Random windows of 256 x 256 with their masks, from JPEG COGs with files in the page cache, on one thread.

* Slides of 4,096 to 60,000 pixels a side, with as many annotations for each megapixel. Their tiles are those of
  a synthetic H&E slide over and over (`scripts/_repeating_cog.py`): as long as real files, and quickly made.
* 1 to 1,000 slides of 4,096 pixels. Each was visited once before, when its entry in the cache is looked up; its
  cost is printed. They may be more than a process keeps open, so files are opened on the way.
* 10 to 1,000,000 annotations on a slide of 16,384 pixels. Windows are in a corner that holds the same ten of
  them in all cases, since a window that shows more has more to draw; what is seen is what finding them costs.

GDAL reads the same windows of the same files beside, all of them open, which other annotations do not change.
What grows for it too is the machine's, whose caches hold one small file and not a large one or a thousand; what
grows against it is ours.

No two windows of a batch share a tile: `load_batch` decodes a tile once, and few slides would look cheaper.
Rounds take turns over everything that is in the plot; points are medians, bars quartiles.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# osgeo before the peers: they bring libraries of the same names.
from osgeo import gdal  # isort: skip

import matplotlib as mpl
import numpy as np
from _peers import CACHE_BYTES, gdal_read
from _repeating_cog import TileSet, read_tile_set, write_repeating_cog
from bench_read import BATCH, machine

from slidesampler import Sampler, Target, Window
from slidesampler.cache import CacheStore
from slidesampler.testing import make_dataset

mpl.use("Agg")
gdal.UseExceptions()
WINDOW = 256
SIZES = (4096, 8192, 16384, 30000, 60000)
SLIDES = (1, 10, 100, 1000)
SLIDE_SIDE = 4096
ANNOTS = (10, 1000, 30_000, 1_000_000)
ANNOT_SLIDE = 16384
CORNER = 4096
CONTROL = "GDAL, image and mask"
#: A window lies within a cell of so many tiles a side, and no two in the same one.
CELL_TILES = 2
PER_MPX = 20
BOX = 12


class Point(NamedTuple):
    """A place on the x axis: what is read there, and how its windows are chosen."""

    panel: str
    x: int
    sampler: Sampler
    draw: Callable[[np.random.Generator, int], list[Target]]


def boxes(rng: np.random.Generator, count: int, low: int, high: int) -> np.ndarray:
    """Corners of ``count`` boxes within a square, ``(n, 2)``."""
    return rng.integers(low, high - BOX, (count, 2))


def manifest_of(images: Sequence[tuple[Path, int]], corners: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return a manifest of slides (file, side) with boxes at corners ``(y, x)``."""
    records = [
        {"id": number, "file_name": str(path), "width": side, "height": side}
        for number, (path, side) in enumerate(images, start=1)
    ]
    annots: list[dict[str, Any]] = []
    for number, some in enumerate(corners, start=1):
        for y, x in some.tolist():
            box = {"bbox": [x, y, BOX, BOX], "category_id": 1 + len(annots) % 3}
            annots.append({"id": len(annots) + 1, "image_id": number, **box})
    categories = [{"id": number, "name": f"class-{number}"} for number in (1, 2, 3)]
    return {"categories": categories, "images": records, "annotations": annots}


def open_sampler(manifest: dict[str, Any] | Path, work: Path) -> Sampler:
    sampler = Sampler(manifest, workdir=work, backend="cog")
    report = sampler.build(codec="jpeg")
    if report.failed:
        raise SystemExit(f"could not build {work}: {report.failed}")
    return sampler


def anywhere(side: int, slides: int = 1) -> Callable[[np.random.Generator, int], list[Target]]:
    """Return what draws windows within the first ``side`` pixels of the first slides."""
    cell = CELL_TILES * WINDOW
    across = side // cell

    def draw(rng: np.random.Generator, count: int) -> list[Target]:
        targets = []
        for _ in range(count // BATCH):
            cells = rng.choice(across * across * slides, BATCH, replace=False)
            inside = rng.integers(0, cell - WINDOW + 1, (BATCH, 2))
            for number, (y, x) in zip(cells.tolist(), inside.tolist(), strict=True):
                row, column = divmod(number % (across * across), across)
                window = Window(row * cell + y, column * cell + x, WINDOW, WINDOW)
                targets.append(Target(image_id=1 + number // (across * across), window=window))
        return targets

    return draw


def slide(path: Path, tiles: TileSet, side: int, seed: int = 0) -> Path:
    """Write a slide, or leave the one of last time where it is: a new one would make its cache stale."""
    return path if path.exists() else write_repeating_cog(path, tiles, side, seed)


def size_points(tiles: TileSet, folder: Path) -> list[Point]:
    points = []
    for side in SIZES:
        path = slide(folder / f"side-{side}.tif", tiles, side)
        corners = boxes(np.random.default_rng(side), side * side * PER_MPX // 10**6, 0, side)
        sampler = open_sampler(manifest_of([(path, side)], [corners]), folder / f"cache-side-{side}")
        points.append(Point("pixels a side", side, sampler, anywhere(side)))
        print(f"{side} x {side} pixels: {path.stat().st_size / 1e6:.0f} MB", flush=True)
    return points


def slide_points(tiles: TileSet, folder: Path) -> list[Point]:
    slides = [
        (slide(folder / f"slide-{number}.tif", tiles, SLIDE_SIDE, number), SLIDE_SIDE)
        for number in range(max(SLIDES))
    ]
    per_slide = SLIDE_SIDE * SLIDE_SIDE * PER_MPX // 10**6
    corners = [boxes(np.random.default_rng(number), per_slide, 0, SLIDE_SIDE) for number in range(len(slides))]
    points = []
    for count in reversed(SLIDES):
        manifest = manifest_of(slides[:count], corners[:count])
        sampler = open_sampler(manifest, folder / "cache-slides")
        points.append(Point("slides", count, sampler, anywhere(SLIDE_SIDE, count)))
        print(f"{count} slides", flush=True)
    return points[::-1]


def annot_points(tiles: TileSet, folder: Path) -> list[Point]:
    path = slide(folder / "annotated.tif", tiles, ANNOT_SLIDE)
    rng = np.random.default_rng(0)
    few = boxes(rng, min(ANNOTS), 0, CORNER)
    points = []
    for count in ANNOTS:
        others = boxes(rng, 2 * count, 0, ANNOT_SLIDE)
        others = others[(others > CORNER).any(axis=1)][: count - len(few)]
        manifest = manifest_of([(path, ANNOT_SLIDE)], [np.concatenate([few, others])])
        sampler = open_sampler(manifest, folder / f"cache-annots-{count}")
        points.append(Point("annotations", count, sampler, anywhere(CORNER)))
        print(f"{count} annotations", flush=True)
    return points


def gdal_control(sampler: Sampler) -> Callable[[list[Target]], Any]:
    """Return what reads windows of images and their label layers with GDAL."""
    assert sampler.workdir is not None
    store, images, labels = CacheStore(sampler.workdir), {}, {}
    for record in sampler.manifest.records():
        images[record.image_id] = gdal_read(store.find_image(record, "cog").files["image"])
        found = store.find_labels(sampler.manifest, record, None, sampler.label_spec)
        labels[record.image_id] = gdal.Open(found.files["labels"])

    def read(targets: list[Target]) -> None:
        for target in targets:
            assert target.image_id is not None
            assert target.window is not None
            y, x = target.window.y, target.window.x
            images[target.image_id]([(y, x)])
            labels[target.image_id].ReadAsArray(x, y, WINDOW, WINDOW)

    return read


def readers(point: Point) -> dict[str, Callable[[list[Target]], Any]]:
    """Return the ways to read that a panel shows."""
    sampler = point.sampler
    found: dict[str, Callable[[list[Target]], Any]] = {
        "load_sample": lambda targets: [sampler.load_sample(target, False) for target in targets],
        "load_batch": lambda targets: sampler.load_batch(targets, threads=1),
    }
    if point.panel != "annotations":
        found[CONTROL] = gdal_control(sampler)
    if point.panel == "annotations":
        found["load_sample, with annotations"] = lambda targets: [
            sampler.load_sample(target) for target in targets
        ]
        found["load_batch, with annotations"] = lambda targets: sampler.load_batch(
            targets, threads=1, with_annots=True
        )
    return found


def visit_slides(points: list[Point]) -> None:
    """Read a window of every slide, and say what the first one costs."""
    for point in points:
        if point.panel == "slides":
            first = [
                Target(image_id=number, window=Window(0, 0, WINDOW, WINDOW))
                for number in point.sampler.image_ids
            ]
            start = time.perf_counter()
            for target in first:
                point.sampler.load_sample(target, False)
            micros = (time.perf_counter() - start) / len(first) * 1e6
            print(f"first window of each of {len(first)} slides: {micros:.0f} us", flush=True)


def measure(points: list[Point], windows: int, rounds: int) -> dict[tuple[str, int, str], list[float]]:
    rng = np.random.default_rng(0)
    cases = [
        (point, name, read, (point.panel, point.x, name))
        for point in points
        for name, read in readers(point).items()
    ]
    times: dict[tuple[str, int, str], list[float]] = {key: [] for *_, key in cases}
    for number in range(rounds + 1):
        for index in rng.permutation(len(cases)).tolist():
            point, _, read, key = cases[index]
            targets = point.draw(rng, windows)
            start = time.perf_counter()
            for first in range(0, windows, BATCH):
                read(targets[first : first + BATCH])
            if number:  # the first round warms up
                times[key].append((time.perf_counter() - start) / windows * 1e6)
    return times


def ratio_of(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def draw_plot(times: dict[tuple[str, int, str], list[float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    panels = {
        "pixels a side": "Size of the slide\n(pixels a side)",
        "slides": "Number of slides",
        "annotations": "Annotations on the slide",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, constrained_layout=True)
    colours = {"load_sample": "#c44e52", "load_batch": "#4c72b0", "GDAL": "#999999"}
    for axis, (panel, label) in zip(axes, panels.items(), strict=True):
        for name in sorted({key[2] for key in times if key[0] == panel}):
            xs = sorted(key[1] for key in times if key[0] == panel and key[2] == name)
            quartiles = np.array([np.percentile(times[panel, x, name], (25, 50, 75)) for x in xs]) / 1000
            low, middle, high = quartiles.T
            axis.errorbar(
                xs,
                middle,
                (middle - low, high - middle),
                marker="o",
                markersize=4,
                capsize=3,
                color=colours[name.split(",")[0]],
                linestyle=":" if name == CONTROL else "--" if "annotations" in name else "-",
                label=name,
            )
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xticks(SIZES, [f"{side // 1000}k" for side in SIZES])
    axes[0].minorticks_off()
    axes[0].set_ylabel("ms a window, image and mask")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    axes[2].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--windows", type=int, default=64, help="windows a point and round")
    parser.add_argument("--out", type=Path, default=Path("bench_output"), help="files are kept here: 4 GB")
    parser.add_argument("--plot", type=Path, default=Path("docs/img/flat_cost.png"))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = args.out.resolve() / "flat"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "data" / "slides.kwcoco.json"
    if not manifest.exists():
        make_dataset(folder / "data", n_slides=1, height=4096, width=4096, seed=0)
    small = open_sampler(manifest, folder / "cache-small")
    entry = CacheStore(folder / "cache-small").find_image(small.image_record(1), "cog", codec="jpeg")
    tiles = read_tile_set(entry.files["image"])
    points = [*size_points(tiles, folder), *slide_points(tiles, folder), *annot_points(tiles, folder)]
    visit_slides(points)
    gdal.SetCacheMax(CACHE_BYTES)
    # GDAL keeps all slides open.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    times = measure(points, args.windows, args.rounds)
    print(f"{machine(set())}\n\n| over | at | read | us a window | x the first | GDAL / it |")
    print("|---|---:|---|---:|---:|---:|")
    rows = []
    first = {(panel, name): x for (panel, x, name) in reversed(times)}
    for (panel, x, name), micros in times.items():
        ratio = ratio_of(micros, times[panel, first[panel, name], name])
        beside = times.get((panel, x, CONTROL))
        row = {"panel": panel, "x": x, "read": name, "us": micros, "x first": ratio}
        if beside is not None:
            row["GDAL /"] = ratio_of(beside, micros)
        rows.append(row)
        control = f"{row['GDAL /']:.2f}" if beside is not None else ""
        print(f"| {panel} | {x:,} | {name} | {statistics.median(micros):.0f} | {ratio:.2f} | {control} |")
    (args.out / "bench_flat.json").write_text(json.dumps({"machine": machine(set()), "rows": rows}, indent=1))
    draw_plot(times, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
