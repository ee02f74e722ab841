from __future__ import annotations

import pickle
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.rng import Draws
from slidesampler.sampling.base import TargetSource
from slidesampler.sampling.draw_record import ExplainedSource
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.target import Target
from slidesampler.testing.source_contract import RectangleSampler, SourceContract


class CoinSampler(RectangleSampler):
    """One image whose columns of 8 x 8 pixels each hold a known number of pixels of a class.

    ``kinds`` says of each column how many pixels have class 1, how many class 2, and how many are ignored.
    """

    def __init__(self, kinds):
        super().__init__(images=1)
        self.kinds = kinds
        blocks = []
        for ones, twos, ignored in kinds:
            block = np.zeros(64, np.uint8)
            block[:ones] = 1
            block[ones : ones + twos] = 2
            block[64 - ignored :] = 255
            blocks.append(block.reshape(8, 8))
        self.labels = np.concatenate(blocks, axis=1)

    @property
    def _sizes(self):
        return np.array([self.labels.shape])

    def load_mask(self, image_id, window, size=None):
        mask = self.labels[window.as_slices()]
        return mask if size is None else mask[:: window.height // size[0], :: window.width // size[1]]

    def tissue_mask(self, image_id):
        return None


class CoinSource:
    """Draws a column, each as likely."""

    def __init__(self, kinds, n, seed=0):
        self.sampler = CoinSampler(kinds)
        # Made once, not whenever it is asked for.
        self.sampler.__class__ = type("Once", (CoinSampler,), {"foreground": self.sampler.index_masks()})
        self.n, self.seed = n, seed

    def __len__(self):
        return self.n

    def target(self, epoch, index):
        if not 0 <= index < self.n:
            raise IndexError(f"{index} of {self.n}")
        column = Draws(self.seed, epoch, index, "coin").below(len(self.sampler.kinds))
        return Target(image_id=3, window=Window(0, 8 * column, 8, 8), kind="coin", index=index)


def columns_of(source):
    return [source.target(0, index).window.x // 8 for index in range(len(source))]


def near(found, expected, deviation, n):
    return abs(found - expected) <= 4.5 * deviation / n**0.5


#: One column in four has as many pixels of foreground as the threshold, the others one less, or nothing.
QUARTER = [(10, 0, 0), (9, 0, 0), (0, 0, 0), (4, 5, 0)]


@pytest.mark.parametrize("p", [0.0, 0.5, 0.95])
def test_share_of_foreground_and_number_of_trials(p):
    """``q / (q + (1 - q) (1 - p))`` of the windows, and ``1 / (1 - (1 - q) p)`` trials each, in the mean."""
    q, n = 0.25, 1500
    source = RejectionSource(CoinSource(QUARTER, n), size_threshold=10, p=p, seed=5, max_trials=10_000)
    found = [source.explain(0, index) for index in range(n)]
    share = q / (q + (1 - q) * (1 - p))
    kept = np.mean([target.window.x == 0 for target, _ in found])
    assert near(kept, share, (share * (1 - share)) ** 0.5, n)
    accepted = 1 - (1 - q) * p
    tries = np.mean([record.tries for _, record in found])
    # Geometric: the variance is (1 - a) / a^2.
    assert near(tries, 1 / accepted, (1 - accepted) ** 0.5 / accepted, n)
    assert all(
        record.refused == ({"size": record.tries - 1} if record.tries > 1 else {}) for _, record in found
    )


@pytest.mark.parametrize("max_trials", [0, 1, 4])
def test_trials_that_are_cut_off(max_trials):
    """With ``r`` rejected each time and at most ``m`` trials, ``(1 - r^m) / (1 - r)`` in the mean."""
    r, n, most = 0.75, 1500, max_trials + 1
    source = RejectionSource(
        CoinSource(QUARTER, n), size_threshold=10, p=1, seed=6, max_trials=max_trials, on_exhausted="best"
    )
    records = [source.explain(0, index)[1] for index in range(n)]
    tries = np.array([record.tries for record in records])
    chances = np.array([r ** (t - 1) * (1 - r) for t in range(1, most)] + [r ** (most - 1)])
    numbers = np.arange(1, most + 1)
    mean = (1 - r**most) / (1 - r)
    assert mean == pytest.approx((chances * numbers).sum())
    deviation = ((chances * numbers**2).sum() - mean**2) ** 0.5
    assert tries.max() == most
    assert near(tries.mean(), mean, deviation + 1e-9, n)
    exhausted = np.mean([record.exhausted for record in records])
    assert near(exhausted, r**most, (r**most * (1 - r**most)) ** 0.5, n)
    assert all(record.exhausted == (sum(record.refused.values()) == record.tries) for record in records)


def test_exactly_the_threshold_is_kept():
    source = RejectionSource(CoinSource(QUARTER, 200), size_threshold=10, p=1, max_trials=10_000)
    assert set(columns_of(source)) == {0}
    lower = RejectionSource(CoinSource(QUARTER, 200), size_threshold=9, p=1, max_trials=10_000)
    # Both classes count together: 4 pixels and 5 are 9 of foreground.
    assert set(columns_of(lower)) == {0, 1, 3}


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, {0}), (0.49, {0, 1}), (0.25, {0, 1}), (0.0, {0, 1, 2})])
def test_valid_must_be_more_than_the_ratio(ratio, kept):
    """Columns of 33, 32 and 16 valid pixels of 64; and one of none."""
    kinds = [(0, 0, 31), (0, 0, 32), (0, 0, 48), (0, 0, 64)]
    source = RejectionSource(CoinSource(kinds, 200), valid_ratio=ratio, max_trials=10_000)
    assert set(columns_of(source)) == kept
    off = RejectionSource(CoinSource(kinds, 200), valid_ratio=-1)
    assert set(columns_of(off)) == {0, 1, 2, 3}


def test_diversity():
    """Distinct labels, the background among them: 3, 2, 2, 1 and 1."""
    kinds = [(5, 5, 0), (5, 0, 0), (32, 32, 0), (64, 0, 0), (0, 0, 9)]
    for k, kept in ((3, {0}), (2, {0, 1, 2}), (1, {0, 1, 2, 3, 4})):
        source = RejectionSource(CoinSource(kinds, 200), diversity=k, p=1, max_trials=10_000)
        assert set(columns_of(source)) == kept
    n = 2000
    source = RejectionSource(CoinSource(kinds, n), diversity=3, p=0.5, max_trials=10_000, seed=3)
    found = [source.explain(0, index) for index in range(n)]
    share = 0.2 / (0.2 + 0.8 * 0.5)
    assert near(np.mean([t.window.x == 0 for t, _ in found]), share, (share * (1 - share)) ** 0.5, n)
    assert {name for _, record in found for name in record.refused} == {"diversity"}


def test_both_rules_have_their_own_chance():
    """A window that fails both rules is kept with ``(1 - p)^2``."""
    n = 3000
    source = RejectionSource(
        CoinSource([(64, 0, 0), (0, 0, 0)], n), size_threshold=10, diversity=2, p=0.5, seed=1, max_trials=10_000
    )
    found = [source.explain(0, index) for index in range(n)]
    # The first column has one label, the second neither enough pixels nor labels.
    kept = np.array([0.5, 0.25])
    share = kept[0] / kept.sum()
    assert near(np.mean([t.window.x == 0 for t, _ in found]), share, (share * (1 - share)) ** 0.5, n)
    refused = sum((Counter(record.refused) for _, record in found), Counter())
    trials = sum(record.tries for _, record in found)
    # Of all trials a quarter is refused by size, and 0.25 + 0.125 by diversity.
    assert near(refused["size"] / trials, 0.25, (0.25 * 0.75) ** 0.5, trials)
    assert near(refused["diversity"] / trials, 0.375, (0.375 * 0.625) ** 0.5, trials)


def test_counts_are_of_the_mask_as_it_is_loaded():
    """40 pixels of foreground are 10 of the mask at half the resolution."""

    class Reduced(CoinSource):
        def target(self, epoch, index):
            return super().target(epoch, index).with_fields(size=(4, 4), downsample=2.0)

    kinds = [(40, 0, 0), (36, 0, 0)]
    full = RejectionSource(CoinSource(kinds, 100), size_threshold=12, p=1)
    assert set(columns_of(full)) == {0, 1}
    counts = [int((np.arange(64).reshape(8, 8)[::2, ::2] < ones).sum()) for ones, _, _ in kinds]
    assert counts == [12, 10]
    half = RejectionSource(Reduced(kinds, 100), size_threshold=12, p=1, max_trials=1000)
    assert set(columns_of(half)) == {0}


def test_all_rejected_best():
    """The window with the most foreground of all trials, the first such one."""
    kinds = [(at, 0, 0) for at in range(10)]
    inner = CoinSource(kinds, 50)
    source = RejectionSource(inner, size_threshold=64, p=1, max_trials=4, on_exhausted="best", seed=9)
    for index in range(50):
        trials = [
            inner.target(Draws(9, 0, number, "rejection trial").below(1 << 62), index).window.x // 8
            for number in range(5)
        ]
        target, record = source.explain(0, index)
        assert target.window.x // 8 == max(trials)
        assert (record.tries, record.refused, record.exhausted) == (5, {"size": 5}, True)


def test_all_rejected_raise():
    source = RejectionSource(
        CoinSource([(0, 0, 0)], 9), size_threshold=5, p=1, max_trials=3, on_exhausted="raise"
    )
    with pytest.raises(SamplingError, match=r"all 4 windows for index 2 of epoch 7 .* .4 by size.") as caught:
        source.target(7, 2)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_all_rejected_warn():
    """One warning, and the last trial: whoever is asked, and however often."""
    kinds = [(at, 0, 0) for at in range(10)]
    inner = CoinSource(kinds, 50)
    source = RejectionSource(inner, size_threshold=64, p=1, max_trials=4, seed=9)
    with pytest.warns(UserWarning, match="all 5 windows for index 3 of epoch 0 were rejected") as caught:
        first = source.target(0, 3)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.target(0, 3) == first
        source.target(1, 4)
    assert first == inner.target(Draws(9, 0, 4, "rejection trial").below(1 << 62), 3)


def test_settings_of_connectomics():
    """1000 pixels, 0.95, more than half valid, 50 rejections, and the 51st window whatever it is."""

    class Large(RectangleSampler):
        """Windows of 40 x 40 pixels: nothing; 999 pixels; 1000; half of it valid."""

        foreground = None

        def load_mask(self, image_id, window, size=None):
            mask = np.zeros(1600, np.uint8)
            mask[: (0, 999, 1000, 1000)[window.x // 40]] = 1
            if window.x == 120:
                mask[800:] = 255
                mask[:200] = 0
            return mask.reshape(40, 40)

    class Proposing(CoinSource):
        def __init__(self, columns, n):
            self.sampler, self.columns, self.n, self.seed = Large(images=1), columns, n, 0

        def target(self, epoch, index):
            column = self.columns[Draws(0, epoch, index, "coin").below(len(self.columns))]
            return Target(image_id=3, window=Window(0, 40 * column, 40, 40))

    n = 1000
    source = RejectionSource.connectomics(Proposing([0, 1, 2, 3], n), seed=2)
    assert (source.size_threshold, source.p, source.valid_ratio, source.max_trials) == (1000, 0.95, 0.5, 50)
    source.counts_from = "labels"
    found = [source.explain(0, index) for index in range(n)]
    counts = Counter(target.window.x // 40 for target, _ in found)
    assert 3 not in counts
    share = 1 / (1 + 2 * 0.05)
    assert near(counts[2] / n, share, (share * (1 - share)) ** 0.5, n)

    # Nothing valid at all: 51 draws, the last one given.
    never = RejectionSource.connectomics(Proposing([3], 10), seed=2, on_exhausted="best")
    never.counts_from = "labels"
    assert never.explain(0, 0)[1].tries == 51
    assert never.explain(0, 0)[1].refused == {"valid": 51}
    # Background only: rejected 50 times and then given, or earlier with a chance of 0.05 each.
    empty = RejectionSource.connectomics(Proposing([0], n), seed=2)
    empty.counts_from = "labels"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tries = np.array([empty.explain(0, index)[1].tries for index in range(n)])
    assert tries.max() == 51
    last = 0.95**50
    assert near((tries == 51).mean(), last, (last * (1 - last)) ** 0.5, n)
    mean = float((1 - Fraction(95, 100) ** 51) / Fraction(5, 100))
    assert near(tries.mean(), mean, tries.std(), n)


def test_seeds_and_nested_sources_are_independent():
    inner = CoinSource([(at, 0, 0) for at in range(64)], 300)
    plain = columns_of(inner)
    one, other = (RejectionSource(inner, seed=seed) for seed in (1, 2))
    nested = RejectionSource(RejectionSource(inner, seed=1), seed=1)
    drawn = [columns_of(source) for source in (one, other, nested)]
    for at, first in enumerate([plain, *drawn]):
        for second in [plain, *drawn][at + 1 :]:
            # Independent columns agree once in 64.
            assert near(np.mean(np.array(first) == np.array(second)), 1 / 64, (1 / 64) ** 0.5, 300)


def test_one_rule_does_not_change_what_another_gets():
    """Trials, and the numbers they are tested with, do not depend on the options."""
    inner = CoinSource(QUARTER, 100)
    strict = RejectionSource(inner, size_threshold=10, p=0.9, max_trials=1000)
    lax = RejectionSource(inner, size_threshold=10, p=0.3, max_trials=1000)
    for index in range(100):
        target, record = strict.explain(0, index)
        if record.tries == 1:
            assert lax.target(0, index) == target


def test_reads_labels_only_where_asked():
    sampler = RectangleSampler(images=20)
    inner = PositiveSource(sampler, size=64, n=50)
    by_index = RejectionSource(inner, size_threshold=500, seed=1)
    by_labels = RejectionSource(inner, size_threshold=500, seed=1, counts_from="labels")
    for index in range(50):
        assert by_index.explain(0, index) == by_labels.explain(0, index)


def test_targets_are_those_of_the_source():
    inner = PositiveSource(RectangleSampler(images=20), size=64, n=50)
    source = RejectionSource(inner, seed=1)
    assert len(source) == 50
    assert source.sampler is inner.sampler
    assert isinstance(source, TargetSource)
    assert isinstance(source, ExplainedSource)
    target = source.target(0, 7)
    assert (target.kind, target.index) == ("positive", 7)
    assert target.annot_id is not None


def test_a_source_without_sampler_needs_one():
    fixed = FixedSource([{"image_id": 3, "window": [0, 0, 8, 8]}] * 9)
    with pytest.raises(TargetError, match="FixedSource has no sampler"):
        RejectionSource(fixed)
    assert len(RejectionSource(fixed, RectangleSampler(images=3))) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_threshold": -1}, "size_threshold must be at least 0, got -1"),
        ({"diversity": -1}, "diversity must be at least 0"),
        ({"max_trials": -1}, "max_trials must be at least 0"),
        ({"p": 1.5}, "p is the probability .* got 1.5"),
        ({"p": float("nan")}, "p is the probability"),
        ({"valid_ratio": 1}, "valid_ratio is a share of which a window must have more"),
        ({"on_exhausted": "stop"}, "on_exhausted must be one of warn, raise, best, got 'stop'"),
        ({"counts_from": "pixels"}, "counts_from must be one of index, labels, got 'pixels'"),
    ],
)
def test_impossible_requests(options, message):
    with pytest.raises(ValueError, match=message):
        RejectionSource(CoinSource(QUARTER, 9), **options)


class TestRejection(SourceContract):
    def make_source(self, sampler):
        inner = PositiveSource(sampler, size=96, n=500, seed=1, jitter_px=60)
        return RejectionSource(
            inner, seed=2, size_threshold=3000, diversity=2, p=0.9, max_trials=10, on_exhausted="best"
        )


class TestRejectionOfReducedNegatives(SourceContract):
    def make_source(self, sampler):
        inner = NegativeSource(sampler, size=24, n=100, seed=1, downsample=2)
        return RejectionSource(inner, seed=2, valid_ratio=0.6)
