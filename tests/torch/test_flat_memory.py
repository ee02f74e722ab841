"""Many images and many epochs take no more memory and no more files than few."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from torch.utils.data import DataLoader

from slidesampler import GridSource, Sampler
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.testing.source_contract import RectangleSampler
from slidesampler.torch import WindowBatchSampler, WindowDataset, WindowSampler

IMAGES = 40
MAX_OPEN = 8
#: Allocators keep what they have. One window of 12 kB, or one open slide, leaked per read would be nearly twice
#: this.
SLACK_BYTES = 4 * 2**20
#: An epoch by which pools and caches are as full as they get, and the last one.
COMPARED = (4, 19)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many-slides")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for image_id in range(1, IMAGES + 1):
        tifffile.imwrite(folder / f"{image_id}.tif", np.roll(pixels, image_id, axis=0), photometric="rgb")
    manifest = {
        "images": [{"id": i, "file_name": str(folder / f"{i}.tif")} for i in range(1, IMAGES + 1)],
        "categories": [{"id": 1, "name": "c"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [20, 20, 40, 40]} for i in range(1, IMAGES + 1)
        ],
    }
    assert Sampler(manifest, folder / "cache", "cog").build(codec="deflate").ok
    return manifest, folder / "cache"


@pytest.fixture(autouse=True)
def _no_garbage_of_others():
    """What tests before these have left in cycles would be closed in the middle of the counting."""
    gc.collect()


def used():
    """(bytes, open files) of this process."""
    return psutil.Process().memory_info().rss, len(list(Path("/proc/self/fd").iterdir()))


def add_use(item):
    return item | dict(zip(("rss", "files"), used(), strict=True))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
@pytest.mark.parametrize("backend", ["cog", None], ids=["cog", "in-place"])
def test_twenty_epochs_in_one_process(slides, backend):
    manifest, workdir = slides
    sampler = Sampler(manifest, workdir if backend else None, backend, max_open=MAX_OPEN)
    dataset = WindowDataset(sampler, GridSource(sampler, 64, stride=96))
    assert len(dataset) >= IMAGES
    _, before = used()
    after = []
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for index in range(0, len(dataset), 4):
            dataset[index]
        after.append(used())
    # The first epochs fill pools and caches, up to their limits.
    assert after[-1][0] - after[4][0] < SLACK_BYTES
    assert len({files for _, files in after[1:]}) == 1
    # A reader may hold more than one file (levels, mask, the label layer is a reader of its own).
    assert after[-1][1] - before <= 3 * MAX_OPEN


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_twenty_epochs_in_a_persistent_worker(slides):
    manifest, workdir = slides
    sampler = Sampler(manifest, workdir, "cog", max_open=MAX_OPEN)
    dataset = WindowDataset(sampler, GridSource(sampler, 64, stride=96), add_use)
    places = list(range(0, len(dataset), 4))
    loader = DataLoader(
        dataset,
        batch_size=20,
        sampler=places,
        num_workers=1,
        collate_fn=dataset.collate,
        persistent_workers=True,
    )
    after = []
    for _ in range(20):
        *_, last = loader
        after.append((int(last["rss"][-1]), int(last["files"][-1])))
    assert after[-1][0] - after[4][0] < SLACK_BYTES
    files = [files for _, files in after[1:]]
    # Batches on their way to the parent hold a few files each, and how many are on their way varies.
    assert max(files) - min(files) <= 2 * 20
    assert files[-1] < 200


def test_twenty_epochs_of_mixed_windows_in_a_persistent_worker(slides):
    """Balanced batches dealt out to a rank: neither the worker nor the process that samples grows."""
    manifest, workdir = slides
    sampler = Sampler(manifest, workdir, "cog", max_open=MAX_OPEN)
    source = BalancedSource(sampler, 24, n=128, batch_size=16)
    dataset = WindowDataset(sampler, source, add_use)
    batches = WindowBatchSampler(dataset, rank=0, world_size=2)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=1,
        collate_fn=dataset.collate,
        persistent_workers=True,
    )
    main, worker = [], []
    for epoch in range(20):
        batches.set_epoch(epoch)
        used_here = 0
        for batch in loader:
            used_here = int(batch["rss"][-1])
        if epoch in COMPARED:
            gc.collect()
            worker.append(used_here)
            main.append(used()[0])
    # 960 windows since the fifth epoch: kept, with masks, annotations and targets, they would be more.
    assert worker[1] - worker[0] < SLACK_BYTES
    assert main[1] - main[0] < SLACK_BYTES


def make_sources():
    sampler = RectangleSampler(40)
    positive = PositiveSource(sampler, 32, jitter_px=9)
    pixels = PositiveSource(sampler, 32, 400, choose="pixel")
    negative = NegativeSource(sampler, 32, 400)
    return {
        "positive": positive,
        "pixels": pixels,
        "negative": negative,
        "rejection": RejectionSource(GridSource(sampler, 32), sampler, on_exhausted="best"),
        "balanced": BalancedSource.of(positive, negative, 0.3, batch_size=16),
        "mixture": MixtureSource([positive, negative, pixels], [1, 2, 3]),
    }


@pytest.mark.parametrize("name", ["positive", "pixels", "negative", "rejection", "balanced", "mixture"])
def test_twenty_epochs_of_targets(name):
    """What Python allocates for a source and its sampler, counted: a few bytes kept a target would show."""
    source = make_sources()[name]
    windows = WindowSampler(source, rank=0, world_size=2, even="pad", keep_batches=False)
    held = []
    # The index that the sampler makes at the first question is no leak.
    source.target(0, 0)
    tracemalloc.start()
    try:
        for epoch in range(20):
            windows.set_epoch(epoch)
            for place, _ in zip(windows, range(60), strict=False):
                source.target(*place)
            if epoch in COMPARED:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # 900 targets since the fifth epoch; caches of fixed size are not all full by then.
    assert held[1] - held[0] < 900 * 64
