#!/usr/bin/env python3
"""Peak memory of building one large image into the cache: both backends, from GDAL and from OpenSlide.

Makes a tiled JPEG TIFF of 30,000 x 30,000 pixels (or takes the file that is given), builds it in a fresh
process for each combination, and prints peak RSS, time and size. Exits with 1 when a peak is over the limit.

    python scripts/bench_build_memory.py                 # the full size: some minutes, about 8 GB of disk
    python scripts/bench_build_memory.py --size 8000     # a trial
    python scripts/bench_build_memory.py slide.svs       # a slide of yours
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_BYTES = int(1.5 * 2**30)
BLOCK = 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, help="a tiled TIFF or slide instead of a made one")
    parser.add_argument("--size", type=int, default=30_000, help="height and width of the made image, pixels")
    parser.add_argument("--folder", type=Path, help="where the files go (and are removed); default: temporary")
    parser.add_argument("--threads", type=int, default=2, help="threads that compress")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, target, threads = options.child
        print(json.dumps(run_child(kind, options.source, Path(target), int(threads))))
        return 0
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> int:
    source = options.source
    if source is None:
        source = folder / "source.tif"
        # Not in this process: what it needs would count as the peak of the processes that it starts.
        made = start("make", Path(str(options.size)), source, options.threads)
        print(f"made {options.size} x {options.size} pixels in {made['seconds']:.0f} s")
    print(f"{'from':<10} {'to':<8} {'peak RSS':>10} {'seconds':>8} {'Mpx/s':>6} {'size':>9}")
    too_much = 0
    for reader in ("gdal", "openslide"):
        for what in ("cog", "npy", "labels"):
            target = folder / f"{reader}-{what}"
            target.mkdir()
            found = start(f"{reader}-{what}", source, target, options.threads)
            size = sum(path.stat().st_size for path in target.iterdir())
            for path in target.iterdir():
                path.unlink()
            megapixels = found["pixels"] / 1e6
            too_much += found["peak_bytes"] > LIMIT_BYTES
            print(
                f"{reader:<10} {what:<8} {found['peak_bytes'] / 2**20:>6.0f} MiB {found['seconds']:>8.1f} "
                f"{megapixels / found['seconds']:>6.1f} {size / 1e6:>6.0f} MB",
                flush=True,
            )
    print(f"limit {LIMIT_BYTES / 2**20:.0f} MiB: {f'{too_much} over it' if too_much else 'kept'}")
    return 1 if too_much else 0


def start(kind: str, source: Path, target: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, str(source), "--child", kind, str(target), str(threads)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def run_child(kind: str, source: Path, target: Path, threads: int) -> dict[str, float]:
    started = time.perf_counter()
    pixels = make_source(target, int(str(source))) if kind == "make" else build(kind, source, target, threads)
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"pixels": pixels, "seconds": time.perf_counter() - started, "peak_bytes": peak}


def build(kind: str, source: Path, target: Path, threads: int) -> int:
    from slidesampler.cache.spec import BuildSpec
    from slidesampler.cache.verify import verify_image
    from slidesampler.cache.write import write_image
    from slidesampler.cache.write_labels import write_labels
    from slidesampler.models import ClassMap, LabelSpec
    from slidesampler.readers.cog import CogReader
    from slidesampler.readers.gdal import GdalReader
    from slidesampler.readers.npy import NpyReader
    from slidesampler.readers.openslide import OpenSlideReader
    from slidesampler.shapes import Shapes

    name, what = kind.split("-")
    reader = GdalReader(str(source)) if name == "gdal" else OpenSlideReader(str(source))
    height, width, _ = reader.shape
    if what == "labels":
        classes = ClassMap(("background",), {})
        write_labels(
            target, (height, width), Shapes.empty(), classes, LabelSpec(), valid=reader, threads=threads
        )
        return height * width
    written = write_image(reader, target, BuildSpec(backend=what), threads=threads)
    files = {role: str(target / file) for role, file in written.files.items()}
    built = CogReader(files["image"]) if what == "cog" else NpyReader(files)
    verify_image(reader, built, lossless=True, seed=0, levels=written.levels)
    return height * width


def make_source(path: Path, size: int) -> int:
    """Write tissue-like noise block by block, as JPEG tiles, which OpenSlide opens as a generic TIFF."""
    import numpy as np
    from osgeo import gdal, gdal_array

    gdal.UseExceptions()
    gdal.SetCacheMax(64 * 2**20)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:BLOCK, :BLOCK]
    waves = np.sin(y / 37) * np.cos(x / 53) + 0.5 * np.sin((x + 2 * y) / 11)
    colour = np.array([225, 190, 215]) + waves[:, :, None] * np.array([18, 40, 22])
    tissue = np.clip(colour + rng.normal(0, 6, colour.shape), 0, 255).astype(np.uint8)
    options = ["TILED=YES", "COMPRESS=JPEG", "PHOTOMETRIC=YCBCR", "JPEG_QUALITY=90", "NUM_THREADS=2"]
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), size, size, 3, gdal.GDT_Byte, options=options)
    for top in range(0, size, BLOCK):
        for left in range(0, size, BLOCK):
            # Moved about, so that no two blocks are the same.
            block = np.roll(tissue, rng.integers(BLOCK, size=2), (0, 1))
            block = block[: size - top, : size - left]
            gdal_array.DatasetWriteArray(dataset, block, left, top, interleave="pixel")
    dataset.FlushCache()
    return size * size


if __name__ == "__main__":
    sys.exit(main())
