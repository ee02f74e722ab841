"""Sources mixed in given proportions: counted over batches, ranks and epochs."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from fractions import Fraction

import pytest

from slidesampler.errors import NegativesExhaustedError, SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.sampling.draw_record import DrawRecord
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.mixture import MixtureSource, Place
from slidesampler.target import Target
from slidesampler.testing.source_contract import SourceContract


class Spoken:
    """A source of given length that says in its target what it was asked for."""

    def __init__(self, name, length):
        self.name = name
        self.length = length

    def __len__(self):
        return self.length

    def target(self, epoch, index):
        assert 0 <= index < self.length
        return Target(image_id=self.name, window=Window(index, epoch, 1, 1), kind=f"kind {self.name}")


class Trying(Spoken):
    """One that chooses by trying."""

    def explain(self, epoch, index):
        return self.target(epoch, index), DrawRecord(index + 2, {"no": index + 1})


def spoken(*lengths):
    return [Spoken(name, length) for name, length in enumerate(lengths)]


def asked(mixture, epoch=0):
    """(source, its epoch, its index) for each index of an epoch."""
    targets = [mixture.target(epoch, index) for index in range(len(mixture))]
    return [(target.image_id, target.window.x, target.window.y) for target in targets]


def kinds(mixture, epoch=0):
    return [kind for kind, _, _ in asked(mixture, epoch)]


class TestMixture(SourceContract):
    def make_source(self, sampler):
        grid = GridSource(sampler, size=64, image_ids=sampler.image_ids[:50])
        fixed = FixedSource([{"image_id": 3, "window": (i, 0, 32, 32)} for i in range(30)])
        return MixtureSource([grid, fixed], [0.7, 0.3], n=1000, seed=5, batch_size=24)


class TestMixtureWithoutBatches(SourceContract):
    def make_source(self, sampler):
        grids = [GridSource(sampler, size=size, image_ids=sampler.image_ids[:9]) for size in (32, 48, 64)]
        return MixtureSource(grids, [1, 2, 3], seed=-4)


class TestMixtureOfMixtures(SourceContract):
    def make_source(self, sampler):
        inner = TestMixtureWithoutBatches().make_source(sampler)
        return MixtureSource([inner, GridSource(sampler, size=96)], n=500, batch_size=10)


# Quotas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32, 33])
@pytest.mark.parametrize("weights", [[1, 1], [1, 2], [0.1, 0.9], [5, 0, 3], [1, 1, 1], [0.2, 0.3, 0.1, 0.4]])
def test_quotas_hold_after_every_batch(weights, batch_size):
    mixture = MixtureSource(spoken(*[37] * len(weights)), weights, n=20 * batch_size, batch_size=batch_size)
    share = [Fraction(str(weight)) / sum(Fraction(str(w)) for w in weights) for weight in weights]
    found = kinds(mixture)
    for batches in range(1, 21):
        total = batches * batch_size
        counts = Counter(found[:total])
        assert max(abs(counts[kind] - total * s) for kind, s in enumerate(share)) < 1
        batch = Counter(found[total - batch_size : total])
        if all((s * batch_size).denominator == 1 for s in share):
            assert [batch[kind] for kind in range(len(share))] == [s * batch_size for s in share]
        # A batch is never more than one off a whole quota in either direction.
        assert all(abs(batch[kind] - s * batch_size) < 2 for kind, s in enumerate(share))


def test_last_batch_that_is_not_full_has_its_share():
    mixture = MixtureSource(spoken(100, 100), [1, 3], n=36, batch_size=16)
    found = kinds(mixture)
    assert [Counter(found[i : i + 16])[0] for i in (0, 16, 32)] == [4, 4, 1]


@pytest.mark.parametrize("batch_size", [8, 200])
def test_places_within_a_batch_are_drawn(batch_size):
    """Each place of a batch is of source 0 in a quarter of the batches: five standard errors."""
    batches = 400
    mixture = MixtureSource(spoken(10**6, 10**6), [1, 3], n=batches * batch_size, batch_size=batch_size)
    places = range(0, batch_size, max(1, batch_size // 8))
    for place in places:
        found = sum(mixture.locate(1, b * batch_size + place).source == 0 for b in range(batches))
        assert abs(found - batches / 4) < 5 * math.sqrt(batches * 3 / 16)
    first = [mixture.locate(0, place).source for place in range(batch_size)]
    assert first != [mixture.locate(1, place).source for place in range(batch_size)]
    assert first != [mixture.locate(0, batch_size + place).source for place in range(batch_size)]


def test_without_batches_each_window_is_drawn():
    """Counts of 100 batches of 32 spread as draws do: between a half and twice the binomial variance."""
    mixture = MixtureSource(spoken(10**6, 10**6), [0.3, 0.7], n=10**5)
    counts = [
        sum(mixture.locate(2, first + i).source == 0 for i in range(32)) for first in range(0, 90_000, 900)
    ]
    mean = sum(counts) / 100
    assert abs(mean - 9.6) < 5 * math.sqrt(32 * 0.21 / 100)
    variance = sum((count - mean) ** 2 for count in counts) / 99
    assert 32 * 0.21 / 2 < variance < 32 * 0.21 * 2
    # And over the epoch exactly.
    assert Counter(kinds(MixtureSource(spoken(999, 999), [0.3, 0.7], n=1000))) == {0: 300, 1: 700}


def test_source_of_weight_zero_is_never_asked():
    mixture = MixtureSource(spoken(0, 5, 5), [0, 1, 0], n=40)
    assert set(kinds(mixture)) == {1}


def test_same_weights_by_default():
    assert Counter(kinds(MixtureSource(spoken(9, 9, 9), n=27, batch_size=9))) == {0: 9, 1: 9, 2: 9}


# Which windows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("shuffle", [True, False])
def test_no_window_twice_before_all_were_there_once(batch_size, shuffle):
    mixture = MixtureSource(spoken(10, 25), [1, 1], n=96, batch_size=batch_size, shuffle=shuffle)
    windows = asked(mixture, epoch=4)
    # 48 of each: five times around the first, twice around the second, each in an epoch of its own.
    for kind, length, rounds in ((0, 10, 5), (1, 25, 2)):
        own = Counter((epoch, index) for one, epoch, index in windows if one == kind)
        assert set(own.values()) == {1}
        per_epoch = Counter(epoch for epoch, _ in own)
        assert per_epoch == {4 * rounds + r: min(length, 48 - r * length) for r in range(rounds)}


def test_in_order_it_is_the_running_number():
    mixture = MixtureSource(spoken(100, 100), [1, 3], n=80, batch_size=8, shuffle=False)
    windows = asked(mixture)
    for b in range(10):
        batch = windows[8 * b : 8 * b + 8]
        assert sorted(index for kind, _, index in batch if kind == 0) == [2 * b, 2 * b + 1]
        assert sorted(index for kind, _, index in batch if kind == 1) == list(range(6 * b, 6 * b + 6))


def test_shuffled_it_is_another_order_each_epoch():
    mixture = MixtureSource(spoken(200), n=200, seed=1)
    orders = [tuple(index for _, _, index in asked(mixture, epoch)) for epoch in range(3)]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(200)) for order in orders)
    # Neighbours are not neighbours any more: at most a few are.
    assert sum(abs(a - b) == 1 for a, b in zip(orders[0], orders[0][1:], strict=False)) < 12


@pytest.mark.parametrize("epochs", [range(-3, 0), range(3), range(10**12, 10**12 + 3)])
def test_epochs_of_sources_never_meet(epochs):
    mixture = MixtureSource(spoken(7, 50), n=60)
    seen = [window for epoch in epochs for window in asked(mixture, epoch)]
    assert len(set(seen)) == len(seen)


def test_seed_changes_the_mixture():
    orders = {tuple(asked(MixtureSource(spoken(50, 50), n=60, seed=seed))) for seed in (0, 1, -1, 2**80)}
    assert len(orders) == 4


# Length -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "weights", "batch_size", "expected"),
    [
        ((100, 100), [1, 1], None, 200),
        ((30, 100), [1, 1], None, 60),
        ((30, 100), [1, 1], 16, 64),
        ((30, 10), [1, 9], None, 12),
        ((7, 10**9), [0.3, 0.7], None, 24),
        ((7, 5, 0), [1, 1, 0], None, 10),
        ((50,), None, 20, 60),
    ],
)
def test_length_by_default(lengths, weights, batch_size, expected):
    mixture = MixtureSource(spoken(*lengths), weights, batch_size=batch_size)
    assert len(mixture) == expected
    # Some source has given each of its windows.
    complete = [{(e, i) for k, e, i in asked(mixture) if k == kind and e == 0} for kind in range(len(lengths))]
    assert any(len(own) == length for own, length in zip(complete, lengths, strict=True) if length)


def test_length_asked_for():
    assert len(MixtureSource(spoken(3, 3), n=1001, batch_size=16)) == 1001


# Passing on ---------------------------------------------------------------------------------------------------


def test_targets_and_explanations_are_passed_on():
    mixture = MixtureSource([Spoken(0, 40), Trying(1, 40)], n=40)
    for index in range(40):
        place = mixture.locate(3, index)
        assert isinstance(place, Place)
        target, record = mixture.explain(3, index)
        expected = mixture.sources[place.source].target(place.epoch, place.number)
        assert target == mixture.target(3, index) == expected
        tries = place.number + 2 if place.source else 1
        assert record == DrawRecord(tries, {"no": tries - 1} if place.source else {})


def test_errors_of_a_source_are_passed_on():
    class Exhausted(Spoken):
        def target(self, epoch, index):
            raise NegativesExhaustedError("nothing here", wanted=1, found=0, tries=9)

    with pytest.raises(NegativesExhaustedError, match="nothing here") as caught:
        MixtureSource([Exhausted(0, 5)]).target(0, 0)
    assert caught.value.tries == 9


def test_pickled_mixture_is_the_same():
    mixture = MixtureSource(spoken(10, 10**9), n=10**6, batch_size=64)
    before = [mixture.target(5, index) for index in range(0, 10**6, 99_991)]
    state = pickle.dumps(mixture)
    assert len(state) < 2000
    again = pickle.loads(state)
    assert [again.target(5, index) for index in range(0, 10**6, 99_991)] == before


# Arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([], None), TargetError, "at least one source"),
        ((spoken(5, 5), [1]), TargetError, "got 2 sources and 1 weights"),
        (([Spoken(0, 5), [1, 2]], None), TargetError, r"sources\[1\] must be a source, got list"),
        ((spoken(5, 5), [0, 0]), SamplingError, "all weights are 0"),
        ((spoken(5, 5), [1, -1]), SamplingError, "at least 0, got -1"),
        ((spoken(5, 0), None), SamplingError, r"sources\[1\] has no windows"),
        ((spoken(5), None, 0), ValueError, "n must be at least 1"),
        ((spoken(5), None, 5, 0, 0), ValueError, "batch_size must be at least 1, got 0"),
        ((spoken(5), None, 5, 0.5), TypeError, "float"),
        ((spoken(5), None, 5, 0, 1.5), TypeError, "float"),
    ],
)
def test_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        MixtureSource(*arguments)
