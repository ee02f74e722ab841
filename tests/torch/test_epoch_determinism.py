"""An epoch is the same windows for any number of workers and ranks, however started, cached or not."""

from __future__ import annotations

import datetime
import json
import multiprocessing

import numpy as np
import pytest
import tifffile
import torch
from torch import distributed
from torch.utils.data import DataLoader

from slidesampler.rng import rng_for
from slidesampler.sampler import Sampler
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.torch import WindowBatchSampler, WindowDataset, WindowSampler

pytestmark = [
    # Four workers are what is promised, whatever the number of cores here.
    pytest.mark.filterwarnings("ignore:This DataLoader will create . worker:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SIDE, SLIDES, SIZE = 160, 4, 24
#: 50 windows of batches of 8: six batches and a quarter, which two or four ranks cannot share evenly.
WINDOWS, BATCH = 50, 8


class Augment:
    """A random transform as the documentation has it: of (seed, epoch, index), whoever carries it out."""

    def __call__(self, item):
        draws = rng_for(11, item["epoch"], item["index"], "augment")
        return item | {"drawn": int(draws.integers(2**62))}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A manifest, and the folder of a cache that is built."""
    folder = tmp_path_factory.mktemp("determinism")
    rng = np.random.default_rng(5)
    images, annotations = [], []
    for image_id in range(1, SLIDES + 1):
        path = folder / f"{image_id}.tif"
        pixels = rng.integers(0, 256, (SIDE, SIDE + 16 * image_id, 3), dtype=np.uint8)
        tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb")
        images.append({"id": image_id, "file_name": str(path), "height": SIDE, "width": SIDE + 16 * image_id})
        for x, y in rng.integers(0, SIDE - 12, (5, 2)).tolist():
            annot_id = len(annotations) + 1
            annotations.append({"id": annot_id, "image_id": image_id, "category_id": 1, "bbox": [x, y, 12, 12]})
    manifest = folder / "slides.kwcoco.json"
    categories = [{"id": 1, "name": "tumour"}]
    manifest.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    assert Sampler(manifest, folder / "cache", "cog").build().ok
    return str(manifest), str(folder / "cache")


def make_dataset(slides, workdir=True):
    manifest, cache = slides
    sampler = Sampler(manifest, cache if workdir else None, "cog" if workdir else None)
    positive = PositiveSource(sampler, SIZE, jitter_px=9, seed=2)
    negative = NegativeSource(sampler, SIZE, 60, seed=2)
    source = BalancedSource.of(positive, negative, 0.5, WINDOWS, seed=2, batch_size=BATCH)
    return WindowDataset(sampler, source, Augment())


def served(batch):
    """(epoch, index, image_id, window, what the augmentation drew) of each window of a batch."""
    columns = (batch["epoch"], batch["index"], batch["image_id"], batch["window"], batch["drawn"])
    return [
        (e, i, image, tuple(window), drawn)
        for e, i, image, window, drawn in zip(*map(torch.Tensor.tolist, columns), strict=True)
    ]


def expected_epoch(slides, epoch):
    """What an epoch is, by asking the source for each index in turn."""
    dataset = make_dataset(slides)
    out = []
    for index in range(WINDOWS):
        target = dataset.sampler.resolve(dataset.source.target(epoch, index))
        y, x, (h, w) = target.window.y, target.window.x, target.window.shape
        drawn = int(rng_for(11, epoch, index, "augment").integers(2**62))
        out.append((epoch, index, target.image_id, (y, x, h, w), drawn))
    return out


@pytest.fixture(scope="module")
def epochs(slides):
    return {epoch: expected_epoch(slides, epoch) for epoch in (0, 1, 5)}


def loader_of(dataset, rank, world_size, workers, start="fork", even=False):
    batches = WindowBatchSampler(dataset, seed=1, rank=rank, world_size=world_size, even=even)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=dataset.collate,
        multiprocessing_context=start if workers else None,
        persistent_workers=workers > 0,
    )


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_workers_and_ranks(slides, epochs, workers, world_size):
    dataset = make_dataset(slides)
    loaders = [loader_of(dataset, rank, world_size, workers) for rank in range(world_size)]
    for epoch in (0, 5):
        found = []
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
            found += [window for batch in loader for window in served(batch)]
        assert sorted(found) == epochs[epoch]


# A spawned worker takes seconds to start: each number of workers and of ranks once is enough.
@pytest.mark.parametrize(("workers", "world_size"), [(1, 4), (4, 1), (2, 2)])
def test_workers_started_afresh(slides, epochs, workers, world_size):
    dataset = make_dataset(slides)
    loaders = [loader_of(dataset, rank, world_size, workers, "spawn") for rank in range(world_size)]
    for epoch in (1, 5):
        found = []
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
            found += [window for batch in loader for window in served(batch)]
        assert sorted(found) == epochs[epoch]


def test_cache_is_warm_cold_or_not_there(slides, epochs):
    cold, uncached = make_dataset(slides), make_dataset(slides, workdir=False)
    warm = make_dataset(slides)
    for index in range(WINDOWS):
        warm[1, index]
    for dataset in (cold, uncached, warm):
        loader = loader_of(dataset, 0, 1, 1)
        loader.batch_sampler.set_epoch(5)
        assert sorted(window for batch in loader for window in served(batch)) == epochs[5]


def test_nothing_is_repeated_where_it_should_differ(epochs):
    drawn = [drawn for windows in epochs.values() for *_, drawn in windows]
    assert len(set(drawn)) == len(drawn) == 3 * WINDOWS
    # Positives are 20 annotations, moved by up to 9 pixels along both axes; negatives are anywhere.
    windows = [(image, window) for epoch in epochs.values() for _, _, image, window, _ in epoch]
    assert len(set(windows)) > 0.95 * len(windows)


def test_workers_differ_from_each_other(slides):
    """Torch seeds workers; numpy's global generator, the classic trap, plays no part here."""
    dataset = make_dataset(slides)
    loader = loader_of(dataset, 0, 1, 4)
    batches = [served(batch) for batch in loader]
    assert len({window[-1] for batch in batches for window in batch}) == WINDOWS


# Real processes -----------------------------------------------------------------------------------------------


def train(slides, folder, rank, world_size, workers):
    """One rank of a training run; every step waits for all ranks, as gradients do."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet-{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=90),
    )
    dataset = make_dataset(slides)
    out = {}
    for even in ("pad", "drop", False):
        sampler = WindowSampler(dataset, 1, even=even)
        assert (sampler.rank, sampler.world_size) == (rank, world_size)
        loader = DataLoader(
            dataset,
            batch_size=BATCH // world_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=dataset.collate,
            multiprocessing_context="fork" if workers else None,
            persistent_workers=workers > 0,
        )
        for epoch in (0, 5):
            sampler.set_epoch(epoch)
            steps = []
            for batch in loader:
                steps.append(served(batch))
                if even:
                    # What a rank that has no step left would make the others wait for.
                    distributed.all_reduce(torch.tensor([len(steps[-1])]))
            gathered = [None] * world_size
            distributed.all_gather_object(gathered, (steps, sampler.padding))
            out[f"{even} {epoch}"] = gathered
    distributed.barrier()
    distributed.destroy_process_group()
    if rank == 0:
        with open(f"{folder}/served-{world_size}.json", "w", encoding="utf-8") as file:
            json.dump(out, file)


def run_rank(slides, folder, rank):
    """Four ranks without workers, then the first two of them with a worker each."""
    torch.set_num_threads(1)
    train(slides, folder, rank, 4, 0)
    if rank < 2:
        train(slides, folder, rank, 2, 1)


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks_of_torch_distributed(slides, epochs, tmp_path):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(slides, str(tmp_path), rank)) for rank in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(180)
    hanging = [process for process in ranks if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, "a rank waits for the others"
    assert [process.exitcode for process in ranks] == [0] * 4
    for world_size in (2, 4):
        found = json.loads((tmp_path / f"served-{world_size}.json").read_text(encoding="utf-8"))
        for epoch in (0, 5):
            whole = json.loads(json.dumps(epochs[epoch]))
            assert sorted(flat(found[f"False {epoch}"])) == whole
            padded = found[f"pad {epoch}"]
            assert len({sum(map(len, steps)) for steps, _ in padded}) == 1
            own = [[w for step in steps for w in step] for steps, _ in padded]
            own = [windows[: len(windows) - extra] for windows, (_, extra) in zip(own, padded, strict=True)]
            assert sorted(window for windows in own for window in windows) == whole
            dropped = flat(found[f"drop {epoch}"])
            assert len(dropped) == WINDOWS // world_size * world_size
            assert len({tuple(window[:2]) for window in dropped}) == len(dropped)
            assert all(window in whole for window in dropped)


def flat(gathered):
    return [window for steps, _ in gathered for step in steps for window in step]
