"""Snapped sources pass the shipped contract, and sources that do not snap are what they were."""

from __future__ import annotations

import hashlib

import pytest

from slidesampler.sampling import (
    BalancedSource,
    CoverageSource,
    NegativeSource,
    PositiveSource,
    RejectionSource,
    WeightedSource,
)
from slidesampler.testing.source_contract import RectangleSampler, SourceContract

SAMPLER = RectangleSampler(60)


def targets_of(source, epoch=0):
    return [source.target(epoch, index) for index in range(len(source))]


# Every source keeps the contract -----------------------------------------------------------------------------


class SnappedContract(SourceContract):
    """Over fewer images: how sources do over 10,000 does not depend on where windows start."""

    def make_sampler(self):
        return RectangleSampler(500)


class TestPositive(SnappedContract):
    def make_source(self, sampler):
        return PositiveSource(sampler, size=64, n=1000, seed=7, jitter_px=90, snap=32)


class TestPositivePixels(SnappedContract):
    def make_source(self, sampler):
        return PositiveSource(
            sampler, size=64, n=1000, choose="pixel", mpp=1.25, snap=(32, 64), allow_border=False
        )


class TestNegative(SnappedContract):
    def make_source(self, sampler):
        return NegativeSource(sampler, size=64, n=500, seed=7, snap=32, downsample=1.5)


class TestBalanced(SnappedContract):
    def make_source(self, sampler):
        return BalancedSource(sampler, size=64, n=400, batch_size=32, snap=64)


class TestRejection(SnappedContract):
    def make_source(self, sampler):
        inner = PositiveSource(sampler, 64, 300, jitter_px=200, snap=16)
        return RejectionSource(inner, size_threshold=100, p=0.5, on_exhausted="best")


class TestWeighted(SnappedContract):
    def make_source(self, sampler):
        return WeightedSource(sampler, 64, "tissue", 300, snap=48, allow_border=False)


class TestCoverage(SnappedContract):
    def make_source(self, sampler):
        return CoverageSource(sampler, 64, shuffle=True, snap=32, image_ids=sampler.image_ids[:200])


# Without snap nothing has changed ----------------------------------------------------------------------------

#: SHA-256 of the windows of epoch 3, made before sources could snap.
BEFORE = {
    "12fc2d6eed7aaa8b": lambda s: PositiveSource(s, 64, jitter_px=20),
    "9baf531e88f91fee": lambda s: PositiveSource(
        s, (48, 80), 200, choose="pixel", allow_border=False, downsample=1.5
    ),
    "0ce0162c6fc0b056": lambda s: NegativeSource(s, 64, 200, mpp=1.25),
    "bb229425c9ac3acd": lambda s: NegativeSource(s, 64, 200, allow_border=True, min_valid=0.1),
    "2d146a0153c6005c": lambda s: BalancedSource(s, 64, 200, batch_size=16),
    "91c3af0fbc7bb08f": lambda s: WeightedSource(s, 64, "tissue", 200),
    "8335844f37260379": lambda s: CoverageSource(s, 64, min_fraction=0.9),
}


@pytest.mark.parametrize("digest", BEFORE)
def test_without_snap_windows_are_those_of_before(digest):
    windows = [
        (one.image_id, one.window.as_xyxy()) for one in targets_of(BEFORE[digest](RectangleSampler(50)), 3)
    ]
    assert hashlib.sha256(repr(windows).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "make",
    [
        lambda snap: PositiveSource(SAMPLER, 64, 200, jitter_px=20, allow_border=False, snap=snap),
        lambda snap: NegativeSource(SAMPLER, 64, 200, snap=snap),
        lambda snap: WeightedSource(SAMPLER, 64, "tissue", 200, snap=snap),
        lambda snap: CoverageSource(SAMPLER, 64, min_fraction=0.9, snap=snap),
    ],
)
def test_a_snap_of_one_pixel_changes_nothing(make):
    assert targets_of(make(1)) == targets_of(make(None))
