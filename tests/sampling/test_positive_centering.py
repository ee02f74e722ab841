"""Where windows start around a place, and which pixels a map's rows stand for: for any numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from slidesampler.models import Level
from slidesampler.rng import Draws
from slidesampler.sampling.centering import pushed_inside, start_around
from slidesampler.sampling.weight_maps import MapAxis, _axes

lengths = st.integers(1, 3000)


@given(lengths, lengths, st.integers(0, 5000), st.booleans(), st.integers(0, 10**6), st.data())
def test_the_place_stays_in_the_window(length, extent, jitter, allow_border, seed, data):
    center = data.draw(st.floats(0, length))
    held = min(math.floor(center), length - 1)
    start = start_around(Draws(seed), center, length, extent, jitter, allow_border)
    assert start <= held < start + extent
    if not allow_border:
        assert start >= 0 or length < extent
        assert start + extent <= length or length < extent
        # The image is wholly inside a window that is longer.
        assert start <= 0 or length >= extent
        assert start + extent >= length or length >= extent


@given(lengths, lengths, st.integers(0, 10**6), st.data())
def test_jitter_moves_by_at_most_so_much(length, extent, seed, data):
    center = data.draw(st.floats(0, length))
    jitter = data.draw(st.integers(0, 40))
    still, moved = (start_around(Draws(seed), center, length, extent, by) for by in (0, jitter))
    assert abs(moved - still) <= jitter


@given(lengths, st.integers(1, 3000), st.integers(-4000, 4000))
def test_pushing_moves_by_as_little_as_possible(length, extent, start):
    pushed = pushed_inside(start, length, extent)
    fitting = range(min(0, length - extent), max(0, length - extent) + 1)
    assert pushed in fitting
    assert abs(pushed - start) == min(abs(one - start) for one in (fitting[0], fitting[-1], pushed))
    assert pushed == start or start not in fitting


class FakeReader:
    def __init__(self, shape):
        self.shape = (*shape, 1)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 600))
def test_maps_of_a_whole_downsample_fit(height, width, step):
    """A map made with one value for ``step`` pixels, rounded up, fits and partitions the image."""
    shape = (-(-height // step), -(-width // step))
    axes = _axes(FakeReader(shape), (height, width), "a map")
    assert [axis.length for axis in axes] == [height, width]
    for axis in axes:
        _check_partition(axis)
    if max(height, width) >= 2 * step and Level.of((height, width), shape).downsample == (step, step):
        assert axes[0].whole == axes[1].whole == step
        assert axes[0].bounds(0) == (0, min(step, height))


@given(st.integers(1, 500), st.integers(1, 500), st.fractions(1, 40, max_denominator=50))
def test_maps_of_any_downsample_fit(height, width, scale):
    shape = (max(1, round(Fraction(height) / scale)), max(1, round(Fraction(width) / scale)))
    assume(shape[0] <= height and shape[1] <= width)
    for axis in _axes(FakeReader(shape), (height, width), "a map"):
        _check_partition(axis)


def _check_partition(axis: MapAxis) -> None:
    bounds = np.array([axis.bounds(at) for at in range(axis.pixels)])
    assert bounds[0, 0] == 0
    assert bounds[-1, 1] == axis.length
    assert (bounds[1:, 0] == bounds[:-1, 1]).all()
    assert (np.diff(bounds, axis=1) >= 1).all()
    assert axis.sizes().tolist() == np.diff(bounds, axis=1)[:, 0].tolist()
