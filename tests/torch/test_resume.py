"""Stopping in the middle of an epoch and going on, with loaders whose workers load ahead."""

from __future__ import annotations

import copy
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.torch.window_sampler import WindowBatchSampler, WindowSampler

#: torchdata's loader calls something that this torch wants nobody to call.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

N, BATCH = 90, 8


class Places(Dataset):
    """A dataset that gives back what it was asked for."""

    def __len__(self):
        return N

    def __getitem__(self, place):
        return torch.tensor(place)


def quota_source():
    return MixtureSource([FixedSource([{"image_id": kind}] * 50) for kind in (1, 2)], n=N, batch_size=BATCH)


def steps_of(batches):
    return [[tuple(place) for place in batch.tolist()] for batch in batches]


def by_windows(workers, loader=DataLoader, **where):
    sampler = WindowSampler(quota_source(), 3, **where)
    size = BATCH // sampler.world_size
    return sampler, loader(Places(), batch_size=size, sampler=sampler, num_workers=workers)


def by_batches(workers, loader=DataLoader, **where):
    sampler = WindowBatchSampler(quota_source(), seed=3, **where)
    return sampler, loader(Places(), batch_sampler=sampler, num_workers=workers)


MAKES = pytest.mark.parametrize("make", [by_windows, by_batches])


@MAKES
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 0), (0, 2)])
def test_recipe_for_a_plain_loader(make, before, after):
    """Count the steps, and say how many there were: the sampler itself is ahead of the loop."""
    sampler, loader = make(before)
    sampler.set_epoch(4)
    whole = steps_of(loader)
    assert len(whole) == 12
    seen = []
    for step, batch in enumerate(loader, 1):
        seen.append([tuple(place) for place in batch.tolist()])
        if step == 5:
            done = {"batches_done": step} if make is by_batches else {"windows_done": step * loader.batch_size}
            state, ahead = sampler.state_dict(**done), sampler.state_dict()
            break
    assert state["position"] == 5 * BATCH
    assert (ahead["position"] > state["position"]) is (before > 0)
    sampler, loader = make(after)
    sampler.load_state_dict(state)
    for epoch in range(sampler.epoch, 6):
        sampler.set_epoch(epoch)
        if epoch == 4:
            seen += steps_of(loader)
        else:
            assert len(steps_of(loader)) == 12
    assert seen == whole


@MAKES
def test_recipe_with_other_ranks(make):
    whole = steps_of(make(0)[1])
    seen, states = [[] for _ in range(12)], []
    for rank in range(2):
        sampler, loader = make(0, rank=rank, world_size=2)
        for step, batch in zip(range(1, 4), loader, strict=False):
            seen[step - 1] += [tuple(place) for place in batch.tolist()]
        done = {"batches_done": step} if make is by_batches else {"windows_done": step * loader.batch_size}
        states.append(sampler.state_dict(**done))
    assert states[0] == states[1]
    for rank in range(4):
        sampler, loader = make(0, rank=rank, world_size=4)
        sampler.load_state_dict(states[0])
        for step, batch in enumerate(steps_of(loader)):
            seen[3 + step] += batch
    assert [sorted(batch) for batch in seen[:11]] == [sorted(batch) for batch in whole[:11]]
    # 90 windows: the last batch has two, which four ranks can only share with two repeats, from the beginning.
    assert sorted(seen[11]) == sorted(whole[11] + whole[0][:2])


@pytest.fixture
def stateful():
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    return module.StatefulDataLoader


@MAKES
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", [{}, {"rank": 1, "world_size": 2}], ids=["alone", "rank"])
def test_stateful_loader(make, workers, where, stateful):
    sampler, loader = make(workers, stateful, **where)
    sampler.set_epoch(4)
    whole = steps_of(loader)
    batches = iter(loader)
    seen = steps_of(islice(batches, 5))
    state = copy.deepcopy(loader.state_dict())
    del batches
    for _ in range(2):
        sampler, loader = make(workers, stateful, **where)
        loader.load_state_dict(state)
        sampler.set_epoch(4)
        assert seen + steps_of(loader) == whole
        # The next epoch is a whole one.
        sampler.set_epoch(5)
        after = steps_of(loader)
        assert len(after) == 12
        assert {epoch for batch in after for epoch, _ in batch} == {5}


@MAKES
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_stopped_twice(make, workers, stateful):
    _, loader = make(workers, stateful)
    whole, seen = steps_of(loader), []
    for part in (3, 4, 2):
        batches = iter(loader)
        seen += steps_of(islice(batches, part))
        state = loader.state_dict()
        del batches
        _, loader = make(workers, stateful)
        loader.load_state_dict(state)
    assert seen + steps_of(loader) == whole


@MAKES
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_at_the_end_of_an_epoch(make, workers, stateful):
    sampler, loader = make(workers, stateful)
    whole = steps_of(loader)
    state = loader.state_dict()
    sampler, loader = make(workers, stateful)
    loader.load_state_dict(state)
    # torchdata goes on with the next time around at once.
    sampler.set_epoch(1)
    following = steps_of(loader) or steps_of(loader)
    assert len(following) == len(whole)
