#!/usr/bin/env python
"""Batches a second of a whole DataLoader, image and mask, beside MONAI's `PatchWSIDataset` on the same slide.

    python scripts/bench_loader.py [--size 16384] [--windows 512] [--rounds 5] [--out FOLDER]

Both load the same random windows of the same JPEG COG, in batches of 32, to contiguous `(B, C, H, W)` uint8
tensors with the mask of each window. MONAI reads no masks with its patches, so a transform adds them, and the
cheapest one there is: a slice of a memory-mapped array that was unpacked before. It is used with each of its
readers that read regions (the one through tifffile reads the whole slide for each patch). Loaders run with
0, 1 and 2 workers that stay alive; an epoch is timed from asking for its first batch to having its last, after
one that warms up. Epochs of all loaders take turns.

MONAI takes part where it is installed; `scripts/bench_read.py` says how the peers are.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# osgeo before torch and the peers: they bring libraries of the same names.
from osgeo import gdal  # isort: skip

import numpy as np
import torch
from _peers import CACHE_BYTES, WINDOW, missing
from bench_read import BATCH, build, machine
from torch.utils.data import DataLoader

from slidesampler import Sampler, Target, Window
from slidesampler.torch import WindowDataset

gdal.UseExceptions()
WORKERS = (0, 1, 2, 4)
BLOCK = 4096
#: Which distribution a reader of MONAI needs.
MONAI_READERS = {"cucim": "cucim-cu12", "openslide": "openslide-python"}
Loader = Callable[[], Iterator[Any]]


class MaskOfPatch:
    """A MONAI transform: the mask of a patch, from a map of all of them that is opened where it is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.masks: Any = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.masks is None:
            self.masks = np.load(self.path, mmap_mode="r")
        y, x = item["image"].meta["location"]
        return {
            "image": item["image"],
            "mask": torch.from_numpy(self.masks[y : y + WINDOW, x : x + WINDOW] + 0),
        }


def monai_loader(reader: str, image: str, masks: Path, places: np.ndarray, workers: int) -> Iterable[Any]:
    from monai.data import DataLoader as MonaiLoader
    from monai.data import PatchWSIDataset

    data = [{"image": image, "location": place} for place in places.tolist()]
    dataset = PatchWSIDataset(
        data,
        patch_size=WINDOW,
        patch_level=0,
        transform=MaskOfPatch(masks),
        include_label=False,
        center_location=False,
        reader=reader,
    )
    return MonaiLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)


def our_loader(manifest: Path, work: Path, places: np.ndarray, workers: int) -> Iterable[Any]:
    sampler = Sampler(manifest, workdir=work, backend="cog", codec="jpeg")
    image_id = sampler.image_ids[0]
    targets = [Target(image_id=image_id, window=Window(y, x, WINDOW, WINDOW)) for y, x in places.tolist()]
    dataset = WindowDataset(sampler, targets, with_annots=False)
    return DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=dataset.collate,
    )


def unpack_masks(manifest: Path, work: Path, path: Path) -> None:
    """Write the masks of the whole slide as one array."""
    sampler = Sampler(manifest, workdir=work, backend="cog", codec="jpeg")
    image_id = sampler.image_ids[0]
    height, width, _ = sampler.image_shape(image_id)
    masks = np.lib.format.open_memmap(path, "w+", np.uint8, (height, width))
    for y in range(0, height, BLOCK):
        for x in range(0, width, BLOCK):
            window = Window(y, x, min(BLOCK, height - y), min(BLOCK, width - x))
            masks[y : y + window.height, x : x + window.width] = sampler.load_mask(image_id, window)
    masks.flush()


def compare_batches(loaders: dict[str, Iterable[Any]]) -> None:
    """The first batch of everybody is the same, or the comparison is worth nothing."""
    batches = {name: next(iter(loader)) for name, loader in loaders.items()}
    first, wanted = next(iter(batches.items()))
    for name, batch in batches.items():
        for part in ("image", "mask"):
            got, ours = torch.as_tensor(batch[part]), wanted[part]
            if tuple(got.shape) != tuple(ours.shape):
                raise SystemExit(f"{name} and {first} give {part}s of other shapes: {got.shape}, {ours.shape}")
            if (got.float() - ours.float()).abs().mean() > 1:
                raise SystemExit(f"{name} and {first} give other {part}s")


def epoch_seconds(loader: Iterable[Any]) -> float:
    start = time.perf_counter()
    windows = 0
    for batch in loader:
        windows += len(batch["image"])
    return (time.perf_counter() - start) / windows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384, help="side of the slide, pixels")
    parser.add_argument("--windows", type=int, default=512, help="windows an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench_output"), help="files are kept here")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="monai|cucim")
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (slide,) = build(folder, args.size, ["cog jpeg"]).values()
    gdal.SetCacheMax(CACHE_BYTES)
    # As in workers. Stacking a batch on several threads waits for the slowest core of a machine that is shared.
    torch.set_num_threads(1)
    masks = folder / "masks.npy"
    if not masks.exists():
        unpack_masks(slide.manifest, slide.work, masks)
    places = np.random.default_rng(0).integers(0, args.size - WINDOW, (args.windows, 2))
    loaders: dict[str, Iterable[Any]] = {
        f"WindowDataset, {workers} workers": our_loader(slide.manifest, slide.work, places, workers)
        for workers in WORKERS
    }
    for reader, distribution in MONAI_READERS.items():
        if absent := missing(["monai", distribution]):
            print(f"MONAI with {reader} is left out: {', '.join(absent)} not installed")
            continue
        for workers in WORKERS:
            name = f"MONAI, {reader}, {workers} workers"
            loaders[name] = monai_loader(reader, slide.path, masks, places, workers)
    compare_batches(loaders)
    report(loaders, args.rounds, folder)
    return 0


def report(loaders: dict[str, Iterable[Any]], rounds: int, folder: Path) -> None:
    times: dict[str, list[float]] = {name: [] for name in loaders}
    order = np.random.default_rng(1)
    for number in range(rounds + 1):
        for name in order.permutation(list(loaders)).tolist():
            seconds = epoch_seconds(loaders[name])
            if number:
                times[name].append(seconds)
    peers = [name for name in times if name.startswith("MONAI")]
    fastest = min(peers, key=lambda name: statistics.median(times[name])) if peers else None
    words = machine({"monai", "torch", *MONAI_READERS.values()})
    print(f"{words}\n\n| loader | windows a second | x the fastest MONAI |\n|---|---:|---:|")
    rows = []
    for name, seconds in times.items():
        rate = 1 / statistics.median(seconds)
        ratio = (
            statistics.median(b / a for a, b in zip(seconds, times[fastest], strict=True)) if fastest else None
        )
        rows.append({"loader": name, "windows/s": rate, "x fastest MONAI": ratio})
        print(f"| {name} | {rate:.0f} | {'' if ratio is None else f'{ratio:.2f}'} |")
    (folder / "bench_loader.json").write_text(json.dumps({"machine": words, "rows": rows}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
