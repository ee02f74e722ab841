"""Handles and memory after many epochs: as many as after a few."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from raster_files import noise, write_cog, write_pyramid

from slidesampler.geometry import Window
from slidesampler.readers import ReaderPool, ReaderSpec, open_reader, openslide

OPEN_FILES = Path("/proc/self/fd")
MAX_OPEN = 16
#: A leak of 5 KB for each of the 3,000 files that are opened after the warm-up is more than this.
SLACK_BYTES = 12 * 2**20


def write(folder, kind, i):
    image = noise(96, 96, seed=i)
    path = folder / f"{kind}{i}"
    if kind == "cog":
        path = write_cog(path.with_suffix(".tif"), image, mask=image[..., 0] > 9, factors=(2,))
    elif kind == "openslide":
        path = write_pyramid(path.with_suffix(".tif"), image, (image[::2, ::2],))
    elif kind == "gdal":
        path = path.with_suffix(".png")
        Image.fromarray(image).save(path)
    else:
        path = path.with_suffix(".npy")
        np.save(path, image)
    return ReaderSpec(kind, str(path))


def open_files():
    return len(list(OPEN_FILES.iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts handles in /proc")
def test_twenty_epochs_over_two_hundred_images(tmp_path, monkeypatch):
    # The cache of decoded tiles, one for all slides, would still be filling up at the end.
    monkeypatch.setattr(openslide, "CACHE_BYTES", 2 * 2**20)
    monkeypatch.setattr(openslide, "_CACHES", {})
    specs = [write(tmp_path, kind, i) for i in range(50) for kind in ("cog", "gdal", "npy", "openslide")]
    pool = ReaderPool(open_reader, max_open=MAX_OPEN)
    rng = np.random.default_rng(0)
    process = psutil.Process()
    # What other tests have left, and nobody has collected yet, is not ours.
    gc.collect()
    before = open_files()
    files, memory = [], []
    for _ in range(20):
        for k in rng.permutation(len(specs)):
            with pool.lease(specs[k]) as reader:
                window = Window(int(rng.integers(20)), int(rng.integers(20)), 20, 20)
                reader.read(window, len(reader.levels) - 1)
                reader.read_valid(window)
        files.append(open_files() - before)
        memory.append(process.memory_info().rss)
    # A file for each reader, or none: OpenSlide opens its own when it reads.
    assert max(files) <= MAX_OPEN
    assert pool.idle == MAX_OPEN
    assert max(memory[5:]) - memory[4] < SLACK_BYTES
    assert pool.opened > 15 * len(specs)
    pool.close()
    assert open_files() == before
