"""Many images and many epochs take no more memory and no more files than few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from torch.utils.data import DataLoader

from slidesampler import GridSource, Sampler
from slidesampler.torch import WindowDataset

IMAGES = 40
MAX_OPEN = 8
#: Allocators keep what they have. One window of 12 kB, or one open slide, leaked per read would be nearly twice
#: this.
SLACK_BYTES = 4 * 2**20


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
