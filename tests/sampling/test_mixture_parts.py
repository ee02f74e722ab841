"""What mixtures are made of: quotas in whole numbers, and orders that take no memory."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.errors import SamplingError
from slidesampler.sampling.permutation import SHORT, Permutation
from slidesampler.sampling.quota import Quota

# Quotas -------------------------------------------------------------------------------------------------------

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any)


@given(WEIGHTS, st.integers(0, 300))
def test_counts_add_up_and_never_fall(weights, start):
    quota = Quota(weights)
    totals = [quota.counts(total) for total in range(start, start + 40)]
    assert [sum(counts) for counts in totals] == list(range(start, start + 40))
    for before, after in itertools.pairwise(totals):
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0] * (len(weights) - 1) + [1]


@given(WEIGHTS, st.integers(0, 10**12))
def test_counts_never_drift(weights, total):
    quota = Quota(weights)
    off = [
        abs(count - Fraction(weight * total, sum(weights)))
        for count, weight in zip(quota.counts(total), weights, strict=True)
    ]
    assert max(off) <= quota.max_deviation + 1e-9
    positive = sum(map(bool, weights))
    # One window off at most for up to three kinds, or where none of many has much more than the others.
    assert quota.max_deviation <= {1: 0.0, 2: 0.5}.get(positive, 0.999 if positive == 3 else 2.0)


@pytest.mark.parametrize("kinds", range(2, 40))
def test_equal_kinds_are_within_one(kinds):
    assert Quota([1] * kinds).max_deviation < 1


@pytest.mark.parametrize("big", [0.5, 0.9, 0.99])
def test_one_large_kind_among_many_is_within_one(big):
    quota = Quota([big, *[(1 - big) / 20] * 20])
    assert quota.max_deviation < 1
    worst = max(
        abs(count - float(quota.share(kind)) * total)
        for total in range(500)
        for kind, count in enumerate(quota.counts(total))
    )
    assert 0.4 < worst <= quota.max_deviation + 1e-9


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**9))
def test_two_kinds_are_rounded(first, second, total):
    exact = Fraction(first * total, first + second)
    assert Quota([first, second]).counts(total)[0] == math.floor(exact + Fraction(1, 2))


@given(WEIGHTS, st.integers(0, 200))
def test_counts_are_those_of_a_divisor_method(weights, total):
    """Webster's method by its definition, one window after the other, where no kind is rounded by itself."""
    quota = Quota(weights)
    if quota._rounded_first:
        return
    counts = [0] * len(weights)
    for _ in range(total):
        waiting = [Fraction(2 * c + 1, w) if w else math.inf for c, w in zip(counts, weights, strict=True)]
        counts[waiting.index(min(waiting))] += 1
    assert quota.counts(total) == counts


def test_floats_mean_what_they_are_printed_as():
    assert Quota([0.1, 0.9]).share(0) == Fraction(1, 10)
    assert Quota([0.35, 0.65]).counts(10) == [4, 6]  # 3.5, rounded up, though 0.35 is a little less
    assert Quota([Fraction(1, 3), Fraction(2, 3)]).counts(9) == [3, 6]
    assert Quota([5e-324, 1.0]).counts(10**6) == [0, 10**6]
    assert Quota([1e300, 1e300]).counts(8) == [4, 4]


@pytest.mark.parametrize("wrong", [[], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1], [None], ["much"]])
def test_wrong_weights(wrong):
    with pytest.raises(SamplingError, match="weights"):
        Quota(wrong)


# Orders -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(), st.integers(), st.integers())
def test_each_thing_has_one_place(n, seed, epoch, index):
    order = Permutation(n, seed, epoch, index, "test")
    assert sorted(map(order, range(n))) == list(range(n))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_a_few_is_as_likely(n):
    draws, orders = 6000, math.factorial(n)
    found = Counter(tuple(map(Permutation(n, seed), range(n))) for seed in range(draws))
    chi2 = sum(
        (found[order] - draws / orders) ** 2 * orders / draws for order in itertools.permutations(range(n))
    )
    freedom = orders - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [SHORT + 1, 97, 1000, 10**6])
def test_places_and_neighbours_of_many_are_uniform(n):
    """Where a thing goes, and how far apart two neighbours go, in tenths of the whole: chi-square."""
    draws, bins = 4000, 10
    place, apart = Counter(), Counter()
    for seed in range(draws):
        order = Permutation(n, seed, epoch=1)
        here, there = order(n // 3), order(n // 3 + 1)
        place[here * bins // n] += 1
        apart[((there - here) % n - 1) * bins // (n - 1)] += 1
    for found, size in ((place, n), (apart, n - 1)):
        expected = (
            [sum(v * bins // size == b for v in range(size)) / size for b in range(bins)]
            if n < 2000
            else [0.1] * 10
        )
        chi2 = sum((found[b] - draws * e) ** 2 / (draws * e) for b, e in enumerate(expected))
        assert chi2 < 9 + 5 * math.sqrt(18)


def test_orders_differ_by_all_that_they_belong_to():
    asked = [(0, 0, 0, ""), (1, 0, 0, ""), (0, 1, 0, ""), (0, 0, 1, ""), (0, 0, 0, "x"), (-1, 0, 0, "")]
    for n in (50, 5000):
        assert len({tuple(map(Permutation(n, *one), range(50))) for one in asked}) == len(asked)


def test_huge_orders():
    n = 10**15 + 7
    order = Permutation(n, 3)
    places = [order(i) for i in range(2000)]
    assert len(set(places)) == 2000
    # The mean of uniform numbers below n, to five standard errors.
    assert abs(sum(places) / 2000 / n - 0.5) < 5 / math.sqrt(12 * 2000)


@pytest.mark.parametrize("place", [-1, 10, 100])
def test_place_that_is_none(place):
    with pytest.raises(IndexError, match=f"position {place}"):
        Permutation(10)(place)
    with pytest.raises(IndexError):
        Permutation(100)(place - 90 if place < 0 else place + 90)


def test_nothing_to_order():
    with pytest.raises(ValueError, match="at least 1"):
        Permutation(0)
