"""Window arithmetic against brute force."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.geometry import (
    Window,
    area_bounds,
    axis_positions,
    ceil_size,
    choose_level,
    label_level_downsamples,
    lattice_indices,
    normalize_pad,
    pad_indices,
    start_from_center,
    window_from_center,
)

small = st.integers(-60, 60)
sizes = st.integers(1, 40)
windows = st.builds(Window, small, small, sizes, sizes)


def covered(window):
    return {(y, x) for y in range(window.y, window.y1) for x in range(window.x, window.x1)}


class TestWindow:
    @given(windows, windows)
    def test_intersect_is_the_common_pixels(self, a, b):
        common = a.intersect(b)
        assert (covered(common) if common else set()) == covered(a) & covered(b)

    @given(windows, windows)
    def test_contains_is_the_subset_relation(self, a, b):
        assert a.contains(b) == (covered(b) <= covered(a))

    @given(windows, small, small)
    def test_shift_moves_every_pixel(self, window, dy, dx):
        assert covered(window.shift(dy, dx)) == {(y + dy, x + dx) for y, x in covered(window)}

    @given(windows, *[st.integers(0, 9)] * 4)
    def test_grow_adds_pixels_on_each_side(self, window, top, bottom, left, right):
        grown = window.grow(top, bottom, left, right)
        expected = {
            (y, x)
            for y in range(window.y - top, window.y1 + bottom)
            for x in range(window.x - left, window.x1 + right)
        }
        assert covered(grown) == expected

    @given(windows, st.integers(1, 50))
    def test_blocks_partition_the_window(self, window, size):
        pixels = [pixel for block in window.blocks(size) for pixel in covered(block)]
        assert len(pixels) == len(set(pixels))
        assert set(pixels) == covered(window)

    def test_slices_select_what_numpy_selects(self):
        array = np.arange(70).reshape(7, 10)
        window = Window(2, 3, 4, 5)
        assert (array[window.as_slices()] == array[2:6, 3:8]).all()
        assert window.as_xyxy() == (3, 2, 8, 6)
        assert window.center == (4.0, 5.5)

    def test_numpy_integers_become_int_and_fractions_are_refused(self):
        window = Window(np.int64(1), np.float64(2.0), np.uint8(3), 4)
        assert [type(v) for v in (window.y, window.x, window.height, window.width)] == [int] * 4
        with pytest.raises(ValueError, match="whole number"):
            Window(0.5, 0, 1, 1)

    @pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (-3, 2)])
    def test_empty_windows_are_refused(self, height, width):
        with pytest.raises(ValueError, match="at least 1 x 1"):
            Window(0, 0, height, width)

    def test_values_compare_hash_and_pickle(self):
        window = Window(1, 2, 3, 4)
        assert pickle.loads(pickle.dumps(window)) == window
        assert hash(window) == hash(Window(1, 2, 3, 4))


class TestCentreRule:
    @pytest.mark.parametrize(
        ("value", "expected"), [(64, 64), (64.000003, 64), (63.999997, 64), (64.01, 65), (0.3, 1), (1e9, 10**9)]
    )
    def test_ceil_size(self, value, expected):
        assert ceil_size(value) == expected

    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e-9])
    def test_sizes_that_are_none(self, value):
        with pytest.raises(ValueError, match="positive and finite"):
            ceil_size(value)

    @given(st.fractions(-500, 500, max_denominator=64), st.integers(1, 300))
    def test_start_is_the_floor_of_centre_less_half(self, center, size):
        # Multiples of 1/64 are exact in binary, so the rule can be computed exactly beside it.
        assert start_from_center(float(center), size) == math.floor(center - Fraction(size, 2))

    @given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.01, 5000), st.floats(0.01, 5000))
    def test_the_window_has_the_asked_size_wherever_it_is(self, cy, cx, height, width):
        here = window_from_center(cy, cx, height, width)
        there = window_from_center(cy + 0.37, cx - 12.9, height, width)
        assert here.shape == there.shape
        assert height - 1e-3 <= here.height < height + 1
        assert abs(here.y - (cy - height / 2)) <= 1.001

    def test_float_noise_in_the_start(self):
        assert start_from_center(0.1 * 3 + 0.7, 2) == 0

    def test_a_centre_must_be_finite(self):
        with pytest.raises(ValueError, match="finite"):
            start_from_center(math.nan, 3)


class TestPad:
    @pytest.mark.parametrize("mode", ["reflect", "edge", "symmetric"])
    @given(size=st.integers(1, 12), start=st.integers(-40, 40), length=st.integers(1, 50))
    def test_indices_are_numpys(self, mode, size, start, length):
        stop = start + length
        before, after = max(-start, 0), max(stop - size, 0)
        padded = np.pad(np.arange(size), (before, after), mode)
        assert pad_indices(start, stop, size, mode).tolist() == padded[start + before : stop + before].tolist()

    @given(size=st.integers(1, 12), start=st.integers(-20, 20), length=st.integers(1, 30))
    def test_constant_marks_the_outside(self, size, start, length):
        expected = [i if 0 <= i < size else -1 for i in range(start, start + length)]
        assert pad_indices(start, start + length, size, "constant").tolist() == expected

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match="padding mode"):
            pad_indices(0, 1, 1, "wrap")

    @pytest.mark.parametrize("pad", ["3", 1.5, (1, 2, 3), ((1, 2),), [], None])
    def test_pads_that_are_none(self, pad):
        with pytest.raises(ValueError, match="pad must be"):
            normalize_pad(pad)


class TestLevels:
    @given(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32.01]), min_size=1, unique=True), st.floats(0.3, 100))
    def test_choose_level_is_the_coarsest_not_coarser(self, downsamples, wanted):
        downsamples = [1, *sorted(d for d in downsamples if d != 1)]
        fine_enough = [d for d in downsamples if d <= wanted * 1.001]
        assert downsamples[choose_level(downsamples, wanted)] == (max(fine_enough) if fine_enough else 1)

    @given(st.integers(1, 100_000), st.integers(1, 100_000))
    def test_label_levels_halve_down_to_one_tile(self, height, width):
        levels = label_level_downsamples(height, width)
        assert levels == tuple(2**k for k in range(len(levels)))
        longest = [math.ceil(max(height, width) / d) for d in levels]
        assert longest[-1] <= 512
        assert all(side > 512 for side in longest[:-1])

    @given(small, st.integers(1, 400), st.integers(1, 60), st.sampled_from([1, 2, 4, 8]))
    def test_lattice_is_the_label_pixel_under_each_centre(self, start, extent, size, downsample):
        expected = [
            math.floor((start + (i + Fraction(1, 2)) * Fraction(extent, size)) / downsample)
            for i in range(size)
        ]
        assert lattice_indices(start, extent, size, downsample).tolist() == expected

    def test_area_bounds_cut_the_window_evenly(self):
        assert area_bounds(-4, 12, 3, 2).tolist() == [-2.0, 0.0, 2.0, 4.0]


class TestAxisPositions:
    @given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 60))
    def test_windows_cover_the_axis_and_stay_inside(self, length, size, stride):
        starts = axis_positions(length, size, stride).tolist()
        assert starts == sorted(set(starts))
        if length <= size:
            assert starts == [0]
            return
        assert starts[0] == 0
        assert starts[-1] + size == length
        if stride <= size:
            assert {p for s in starts for p in range(s, s + size)} == set(range(length))
        # No start more than needed: all but the last are multiples of the stride.
        assert starts[:-1] == [i * stride for i in range(len(starts) - 1)]

    def test_bad_numbers(self):
        with pytest.raises(ValueError, match="at least 1"):
            axis_positions(10, 4, 0)
