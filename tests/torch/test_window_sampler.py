"""Dealing an epoch out to ranks, shuffling it, and going on in its middle; one process plays all ranks."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import zip_longest

import pytest
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler

from slidesampler.errors import SamplingError
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.torch.dataset import WindowDataset
from slidesampler.torch.window_sampler import WindowBatchSampler, WindowSampler

LENGTHS = (1, 2, 3, 7, 8, 9, 64, 65, 100, 257)


def quota_source(n, batch_size):
    sources = [FixedSource([{"image_id": kind}] * 50) for kind in (1, 2)]
    return MixtureSource(sources, [1, 3], n=n, batch_size=batch_size)


def ranks_of(world_size, *args, kind=WindowSampler, **options):
    return [kind(*args, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


def taking_turns(shares):
    """The order that the ranks' shares are dealt from."""
    return [one for turn in zip_longest(*shares) for one in turn if one is not None]


# Dealing out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_window_once_or_padded_or_dropped(length, world_size, shuffle):
    options = {"seed": 5, "shuffle": shuffle}
    exact = taking_turns(map(list, ranks_of(world_size, length, even=False, **options)))
    assert sorted(exact) == [(0, index) for index in range(length)]
    padded = [list(rank) for rank in ranks_of(world_size, length, even="pad", **options)]
    assert {len(share) for share in padded} == {-(-length // world_size)}
    missing = -length % world_size
    # The repeats are the windows that the epoch began with.
    assert taking_turns(padded) == exact + [exact[i % length] for i in range(missing)]
    if length >= world_size:
        dropped = [list(rank) for rank in ranks_of(world_size, length, even="drop", **options)]
        assert {len(share) for share in dropped} == {length // world_size}
        assert taking_turns(dropped) == exact[: length // world_size * world_size]


@pytest.mark.parametrize("even", ["pad", "drop", False])
@pytest.mark.parametrize("length", [8, 9, 65])
def test_length_is_what_is_given(length, even):
    for world_size in (1, 2, 3, 4):
        for rank in ranks_of(world_size, length, even=even):
            assert len(list(rank)) == len(rank) == rank.num_samples


@pytest.mark.parametrize("length", [8, 9, 10, 11])
def test_padding_is_recognised(length):
    ranks = ranks_of(4, length)
    shares = [list(rank) for rank in ranks]
    own = [share[: len(share) - rank.padding] for share, rank in zip(shares, ranks, strict=True)]
    assert sorted(index for share in own for _, index in share) == list(range(length))
    assert sum(rank.padding for rank in ranks) == -length % 4
    assert all(rank.padding == 0 for even in ("drop", False) for rank in ranks_of(4, length, even=even))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size):
    alone = list(WindowBatchSampler(100, 8, seed=3))
    ranks = [list(rank) for rank in ranks_of(world_size, 100, 8, kind=WindowBatchSampler, seed=3)]
    assert [taking_turns(batches) for batches in zip(*ranks, strict=True)] == alone


def test_order_is_new_every_epoch_and_for_every_seed():
    orders = []
    for seed in (0, 1):
        sampler = WindowSampler(100, seed)
        for epoch in (0, 1, 10**9):
            sampler.set_epoch(epoch)
            pairs = list(sampler)
            assert {one for one, _ in pairs} == {epoch}
            orders.append(tuple(index for _, index in pairs))
            assert list(sampler) == pairs
    assert len(set(orders)) == 6


def test_shuffled_places_are_uniform():
    """Index 0 of 10 windows is at each place in a tenth of the epochs: chi-square, 9 degrees of freedom."""
    sampler = WindowSampler(10)
    found = Counter()
    for epoch in range(2000):
        sampler.set_epoch(epoch)
        found[[index for _, index in sampler].index(0)] += 1
    assert sum((found[place] - 200) ** 2 / 200 for place in range(10)) < 38  # p < 2e-5


def test_a_billion_windows_cost_nothing():
    sampler = WindowSampler(10**9, seed=1, rank=3, world_size=64, batch_size=6400)
    windows = iter(sampler)
    first = [next(windows) for _ in range(1000)]
    assert len(set(first)) == 1000
    assert all(0 <= index < 10**9 for _, index in first)
    assert len(sampler) == 10**9 // 64
    assert len(pickle.dumps(sampler)) < 1000
    sampler.load_state_dict(sampler.state_dict(windows_done=500))
    assert list(zip(range(500), sampler, strict=False)) == list(enumerate(first[500:]))


def test_takes_a_source_a_dataset_or_a_length():
    source = quota_source(40, 8)
    dataset = WindowDataset(None, source)
    assert WindowSampler(source).batch_size == WindowSampler(dataset).batch_size == 8
    plain = FixedSource([{"image_id": 1}] * 12)
    assert (
        list(WindowSampler(plain)) == list(WindowSampler(12)) == list(WindowSampler(WindowDataset(None, plain)))
    )
    assert len(WindowSampler(ConcatDataset([plain, plain]))) == 24


def test_is_what_frameworks_look_for():
    sampler = WindowSampler(10, rank=1, world_size=2)
    assert isinstance(sampler, DistributedSampler)
    assert (sampler.num_replicas, sampler.rank, sampler.total_size) == (2, 1, 10)


# Quotas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_quota_batches_stay_whole_over_ranks(world_size, shuffle, drop_last):
    source = quota_source(52, 8)
    options = {"seed": 2, "shuffle": shuffle, "drop_last": drop_last, "kind": WindowBatchSampler}
    steps = list(zip(*(list(rank) for rank in ranks_of(world_size, source, **options)), strict=True))
    # 52 windows: six batches and half of one.
    assert len(steps) == (6 if drop_last else 7)
    seen = []
    for step, batches in enumerate(steps):
        indices = sorted(index for batch in batches for _, index in batch)
        if step < 6:
            assert len({len(batch) for batch in batches}) == 1
            first = indices[0]
            assert first % 8 == 0
            assert indices == list(range(first, first + 8))
            kinds = [source.target(0, index).image_id for index in indices]
            assert Counter(kinds) == {1: 2, 2: 6}
            seen.append(first // 8)
        else:
            assert indices == [48, 49, 50, 51]
    assert sorted(seen) == list(range(6))
    assert (seen == sorted(seen)) is not shuffle


def test_window_sampler_in_a_loader_gives_the_same_batches():
    source = quota_source(48, 8)
    for rank in (0, 1):
        windows = WindowSampler(source, 1, rank, 2)
        (batches,) = (list(WindowBatchSampler(source, seed=1, rank=rank, world_size=2)),)
        loader = DataLoader(list(range(48)), batch_size=4, sampler=list(windows), collate_fn=list)
        assert list(loader.batch_sampler) == batches


def test_quotas_can_be_given_up():
    sampler = WindowSampler(quota_source(48, 8), keep_batches=False)
    order = [index for _, index in sampler]
    assert sorted(order) == list(range(48))
    assert order == [index for _, index in WindowSampler(48)]


# Going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 4, 6])
def test_place_is_taken_up_exactly(world_size, after):
    for make in (
        lambda **rank: WindowSampler(50, 1, **rank),
        lambda **rank: WindowSampler(quota_source(50, 8), 1, **rank),
    ):
        for rank in range(world_size):
            where = {"rank": rank, "world_size": world_size}
            one, other = make(**where), make(**where)
            one.set_epoch(3)
            whole = list(one)
            windows = iter(one)
            begun = [next(windows) for _ in range(after)]
            state = json.loads(json.dumps(one.state_dict()))
            other.load_state_dict(state)
            assert other.epoch == 3
            other.set_epoch(3)
            assert begun + list(other) == whole
            # Once only: the next time around is a whole epoch, as is the next epoch.
            assert list(other) == whole
            other.load_state_dict(state)
            other.set_epoch(4)
            assert len(list(other)) == len(whole)


def test_place_is_the_same_on_all_ranks():
    states = []
    for rank in ranks_of(4, 50, batch_size=8):
        windows = iter(rank)
        next(windows)
        next(windows)
        states.append(rank.state_dict())
    assert states == [states[0]] * 4
    assert states[0]["position"] == 8


def test_twice_resumed():
    whole = list(WindowSampler(40, 7))
    sampler, seen = WindowSampler(40, 7), []
    for part in (5, 9, 13):
        windows = iter(sampler)
        seen += [next(windows) for _ in range(part)]
        state = sampler.state_dict()
        sampler = WindowSampler(40, 7)
        sampler.load_state_dict(state)
        # Asked before the loop begins, the place is where it will begin.
        assert sampler.state_dict() == state
    assert seen + list(sampler) == whole


def test_what_the_loop_has_had_is_counted_from_where_it_began():
    """Workers load ahead: the sampler has handed out 40 windows when the loop has had 12."""
    whole = list(WindowSampler(100, 7, 1, 2))
    sampler = WindowSampler(100, 7, 1, 2)
    windows = iter(sampler)
    for _ in range(40):
        next(windows)
    state = sampler.state_dict(windows_done=12)
    again = WindowSampler(100, 7, 1, 2)
    again.load_state_dict(state)
    windows = iter(again)
    for _ in range(20):
        next(windows)
    last = WindowSampler(100, 7, 1, 2)
    last.load_state_dict(again.state_dict(windows_done=8))
    assert list(last) == whole[20:]


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("even", ["pad", "drop", False])
def test_another_number_of_ranks_takes_over(before, after, even):
    for source in (54, quota_source(54, 8)):
        options = {"kind": WindowBatchSampler, "seed": 4, "even": even}
        begun, states = [], []
        for rank in ranks_of(before, source, 8, **options):
            batches = iter(rank)
            begun.append([next(batches) for _ in range(3)])
            states.append(rank.state_dict())
        assert states == [states[0]] * before
        rest = []
        for rank in ranks_of(after, source, 8, **options):
            rank.load_state_dict(states[0])
            rest.append(list(rank))
        if even:
            assert len({sum(map(len, batches)) for batches in rest}) == 1
        found = Counter(window for batches in (*begun, *rest) for batch in batches for window in batch)
        left_out = 30 % after if even == "drop" else 0
        twice = -30 % after if even == "pad" else 0
        assert len(found) == 54 - left_out
        assert sum(found.values()) == len(found) + twice
        # Batch by batch what one rank would have had.
        alone = list(WindowBatchSampler(source, 8, 4, 0, 1))
        full = [taking_turns(step) for step in zip(*rest, strict=False)][:3]
        assert full == alone[3:6]


def test_windows_can_be_taken_over_by_other_ranks_anywhere_without_batches():
    ranks = ranks_of(3, 50, seed=1)
    begun = []
    for rank in ranks:
        windows = iter(rank)
        begun.append([next(windows) for _ in range(5)])
    rest = []
    for rank in ranks_of(2, 50, seed=1, even=False):
        rank.load_state_dict(ranks[0].state_dict())
        rest.append(list(rank))
    assert taking_turns(begun) + taking_turns(rest) == list(WindowSampler(50, 1))


def test_end_of_an_epoch_is_a_place_too():
    for rank in ranks_of(4, 50, 8, kind=WindowBatchSampler):
        batches = len(list(rank))
        # The last batch holds fewer windows than eight, and counts all the same.
        for state in (rank.state_dict(), rank.state_dict(batches_done=batches)):
            again = WindowBatchSampler(50, 8, rank=rank.sampler.rank, world_size=4)
            again.load_state_dict(state)
            assert list(again) == []
            again.set_epoch(1)
            assert len(list(again)) == batches


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"source": 51}, "length=50.*this one has 51"),
        ({"seed": 2}, "seed=1.*this one has 2"),
        ({"shuffle": False}, "shuffle=True"),
        ({"batch_size": 16}, "batch_size=8"),
    ],
)
def test_place_in_another_order_is_an_error(changed, match):
    options = {"source": 50, "seed": 1, "batch_size": 8}
    state = WindowSampler(**options).state_dict()
    with pytest.raises(SamplingError, match=match):
        WindowSampler(**(options | changed)).load_state_dict(state)


def test_other_ranks_within_a_batch_are_an_error():
    sampler = WindowSampler(50, 1, 0, 2, batch_size=8)
    next(iter(sampler))
    with pytest.raises(SamplingError, match="2 ranks stopped within a global batch, at window 2"):
        WindowSampler(50, 1, 0, 4, batch_size=8).load_state_dict(sampler.state_dict())


def test_something_else_is_no_state():
    with pytest.raises(SamplingError, match="no state of a WindowSampler: it has no batch_size, epoch"):
        WindowSampler(50).load_state_dict({"yielded": 3})


def test_more_done_than_handed_out_is_an_error():
    sampler = WindowSampler(50)
    windows = iter(sampler)
    next(windows)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"{wrong} windows cannot be done: 1 were"):
            sampler.state_dict(windows_done=wrong)


# Arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 1}, "belong together"),
        ({"world_size": 2}, "belong together"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to world_size - 1, got rank=2"),
        ({"rank": -1, "world_size": 2}, "got rank=-1"),
        ({"even": True}, "even must be 'pad', 'drop' or False, got True"),
        ({"even": "padded"}, "got 'padded'"),
        ({"drop_last": True}, "say how large it is, batch_size="),
        ({"keep_batches": True}, "say how large it is, batch_size="),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        (
            {"batch_size": 32, "rank": 0, "world_size": 3},
            "cannot be dealt out evenly to 3 ranks; take 30 or 33",
        ),
        ({"batch_size": 2, "rank": 0, "world_size": 4}, "4 ranks; take 4$"),
    ],
)
def test_wrong_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        WindowSampler(100, **options)


def test_batches_of_the_source_and_of_the_loader_must_agree():
    with pytest.raises(ValueError, match="quotas hold in batches of 8"):
        WindowSampler(quota_source(48, 8), batch_size=16)
    with pytest.raises(ValueError, match="batch_size="):
        WindowBatchSampler(100)


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (0, {}),
        (7, {"batch_size": 8, "drop_last": True}),
        (3, {"even": "drop", "rank": 0, "world_size": 4}),
    ],
)
def test_nothing_left_is_an_error(length, options):
    with pytest.raises(SamplingError, match=f"of {length} windows none is left"):
        WindowSampler(length, **options)
