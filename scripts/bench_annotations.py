#!/usr/bin/env python
"""What annotations cost by their number: opening, a worker, a window, one huge polygon.

    python scripts/bench_annotations.py [--counts 10 1000 100000 1000000] [--out bench_output]

Manifests of nuclei (polygons of 20 vertices) are written to a temporary folder and opened in processes of
their own: cold (parsed), and again (mapped). Then windows that see some 30 of them are asked on one image,
however many there are in all, and a window at the border of one polygon of 20 to 1,000,000 vertices. A time is
the median over the windows of the least of some repetitions: what the work takes, whatever else is going on.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from slidesampler.annotations import AnnotIndex, annots_in_window, label_block
from slidesampler.geometry import Window
from slidesampler.manifest import Manifest
from slidesampler.models import ClassMap, LabelSpec
from slidesampler.shape_index import index_shapes
from slidesampler.shapes import Shapes

#: Nuclei a square pixel, such that a window of 256 pixels sees about 30.
DENSITY = 30 / 276**2
SIDE = 256
VERTICES = 20
HUGE = (20, 1000, 50_000, 1_000_000)


def write_manifest(path: Path, images: int, annots: int) -> None:
    """Write nuclei at random places of images that are as large as the density asks."""
    rng = np.random.default_rng(0)
    side = max(600, int(np.sqrt(annots / images / DENSITY)))
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    with path.open("w") as file:
        rows = [{"id": i, "file_name": f"{i}.tif", "height": side, "width": side} for i in range(images)]
        file.write(f'{{"images": {json.dumps(rows)}, "categories": [{{"id": 1, "name": "nucleus"}}],')
        file.write('"annotations": [')
        for first in range(0, annots, 10_000):
            n = min(10_000, annots - first)
            radius = rng.uniform(5, 15, (n, 1)) * rng.uniform(0.8, 1.2, (n, VERTICES))
            center = rng.uniform(20, side - 20, (n, 2))
            xy = np.stack([center[:, :1] + radius * np.cos(angle), center[:, 1:] + radius * np.sin(angle)], 2)
            text = ",\n".join(
                f'{{"id": {first + k}, "image_id": {(first + k) % images}, "category_id": 1, '
                f'"segmentation": [{ring}]}}'
                for k, ring in enumerate(xy.round(1).reshape(n, -1).tolist())
            )
            file.write((",\n" if first else "") + text)
        file.write("]}")


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Return what this script prints when it is started to do one thing."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def open_one(path: str) -> dict[str, float]:
    """Load a manifest in this process, and say how long it took and what the process owns by it."""
    before = psutil.Process().memory_full_info().uss
    start = time.perf_counter()
    manifest = Manifest.load(path)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "uss": psutil.Process().memory_full_info().uss - before,
        "images": len(manifest),
    }


def work_one(path: str) -> dict[str, float]:
    """Unpickle a manifest in this process, as a worker does."""
    Manifest.load({"images": []})
    text = Path(path).read_bytes()
    before = psutil.Process().memory_full_info().uss
    start = time.perf_counter()
    manifest = pickle.loads(text)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "uss": psutil.Process().memory_full_info().uss - before,
        "images": len(manifest),
    }


def microseconds(work: Callable[[Window], Any], windows: Sequence[Window], rounds: int = 15) -> float:
    """Return the median over windows of the least time of some rounds."""
    best = [float("inf")] * len(windows)
    for _ in range(rounds):
        for place, window in enumerate(windows):
            start = time.perf_counter()
            work(window)
            best[place] = min(best[place], time.perf_counter() - start)
    return statistics.median(best) * 1e6


def label_work(shapes: Shapes, index: AnnotIndex, classes: ClassMap) -> Callable[[Window], Any]:
    """Return the rasterising of a window."""

    def work(window: Window) -> Any:
        ys, xs = np.arange(window.y, window.y1), np.arange(window.x, window.x1)
        return label_block(shapes, index, classes, LabelSpec(), ys, xs)

    return work


def ask_windows(manifest: Manifest) -> dict[str, float]:
    """Ask windows of the first image: of 256 pixels, and such that see one or two annotations or none."""
    row, first, last = manifest.annot_rows(int(manifest.image_ids[0]))
    shapes, classes = manifest.shapes.rows(first, last), manifest.class_map
    index = AnnotIndex(shapes, manifest.shape_index, row, first)
    rng = np.random.default_rng(1)
    side = int(shapes.boxes_xyxy.max()) if len(shapes) else SIDE
    corners = [rng.integers(0, max(side - SIDE, 1), 2).tolist() for _ in range(60)]
    large, small = ([Window(y, x, size, size) for y, x in corners] for size in (SIDE, 24))
    seen = [len(index.query(window)) for window in small]
    few = [window for window, count in zip(small, seen, strict=True) if 1 <= count <= 2] or small
    none = [Window(-5000 - y, -5000 - x, SIDE, SIDE) for y, x in corners]

    def annots(window: Window) -> Any:
        return annots_in_window(shapes, index, classes, window, window.shape)

    return {
        "seen": statistics.mean(len(index.query(window)) for window in large),
        "index_us": microseconds(lambda _: AnnotIndex(shapes, manifest.shape_index, row, first), large),
        "query_us": microseconds(index.query, large),
        "annots_us": microseconds(annots, large),
        "annots_few_us": microseconds(annots, few),
        "annots_none_us": microseconds(annots, none),
        "label_us": microseconds(label_work(shapes, index, classes), large),
    }


def ask_huge(vertices: int) -> dict[str, float]:
    """Ask a window that sees about ten vertices of one outline, the others being far away."""
    here = min(10, vertices // 2)
    inside = np.stack([np.linspace(100, 150, here), np.full(here, 128.0) + np.arange(here) % 2], 1)
    angle = np.linspace(0.1, np.pi - 0.1, vertices - here)
    radius = 20_000 * (1 + 0.02 * np.random.default_rng(0).uniform(-1, 1, vertices - here))
    outside = np.stack([128 + radius * np.cos(angle), 600 + radius * np.sin(angle)], 1)
    data = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 50_000, "width": 50_000}],
        "categories": [{"id": 1, "name": "tissue"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "segmentation": [np.concatenate([inside, outside]).tolist()],
            }
        ],
    }
    manifest = Manifest.load(data)
    shapes = manifest.shapes
    index = AnnotIndex(shapes, index_shapes(shapes, np.array([0, 1])))
    windows = [Window(0, 0, SIDE, SIDE)]
    return {
        "annots_us": microseconds(
            lambda w: annots_in_window(shapes, index, manifest.class_map, w, w.shape), windows, 200
        ),
        "label_us": microseconds(label_work(shapes, index, manifest.class_map), windows, 200),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 1000, 100_000, 1_000_000])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench_output"))
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open or arguments.work:
        print(json.dumps(open_one(arguments.open) if arguments.open else work_one(arguments.work)))
        return
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        found["opening"] = bench_opening(Path(folder), arguments)
        found["windows"] = bench_windows(Path(folder), arguments)
    print(f"\n{'vertices':>10} {'annots us':>10} {'label us':>10}")
    found["huge"] = {}
    for vertices in HUGE:
        found["huge"][vertices] = one = ask_huge(vertices)
        print(f"{vertices:>10} {one['annots_us']:>10.0f} {one['label_us']:>10.0f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench_annotations.json").write_text(json.dumps(found, indent=1))


def bench_opening(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Open manifests of many images, cold, warm and as a worker."""
    found = {}
    names = ("annots", "cold s", "warm s", "worker s", "worker KiB", "pickle B")
    print(" ".join(f"{name:>10}" for name in names))
    for annots in sorted({0, *arguments.counts}):
        path = folder / f"many{annots}.json"
        write_manifest(path, arguments.images, annots)
        cold = in_a_process("--open", str(path))["seconds"]
        warm = [in_a_process("--open", str(path)) for _ in range(arguments.rounds)]
        text = pickle.dumps(Manifest.load(path))
        (folder / "pickle").write_bytes(text)
        work = [in_a_process("--work", str(folder / "pickle")) for _ in range(arguments.rounds)]
        found[annots] = one = {
            "cold_s": cold,
            "warm_s": statistics.median(some["seconds"] for some in warm),
            "worker_s": statistics.median(some["seconds"] for some in work),
            "worker_bytes": statistics.median(some["uss"] for some in work),
            "pickle_bytes": len(text),
        }
        numbers = (cold, one["warm_s"], one["worker_s"], one["worker_bytes"] / 1024, len(text))
        print(f"{annots:>10} " + " ".join(f"{number:>10.3f}" for number in numbers))
        path.unlink()
    return found


def bench_windows(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask windows of one image that has all annotations."""
    found = {}
    names = ("annots", "seen", "index us", "query us", "none us", "1-2 us", "all us", "label us")
    print("\n" + " ".join(f"{name:>10}" for name in names))
    for annots in arguments.counts:
        path = folder / f"one{annots}.json"
        write_manifest(path, 1, annots)
        found[annots] = one = ask_windows(Manifest.load(path))
        keys = ("seen", "index_us", "query_us", "annots_none_us", "annots_few_us", "annots_us", "label_us")
        print(f"{annots:>10} {' '.join(f'{one[key]:>10.1f}' for key in keys)}")
        path.unlink()
    return found


if __name__ == "__main__":
    main()
