"""One axis of a grid against a listing of it, and against pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slidesampler.geometry import axis_positions
from slidesampler.sampling.grid_axis import GridAxis, scaled_step

EDGES = ("shift", "pad", "even")
axes = st.builds(
    GridAxis.of, st.integers(1, 120), st.integers(1, 50), st.integers(1, 60), st.sampled_from(EDGES)
)


def starts_of(axis):
    return [axis.start(i) for i in range(axis.windows)]


def pixels_of(axis, stretch):
    """Return how often each pixel of the axis, and of a margin behind it, is in a stretch of a window."""
    seen = np.zeros(axis.length + 2 * axis.extent, int)
    for i in range(axis.windows):
        first, stop = stretch(i)
        assert first < stop
        seen[first:stop] += 1
    return seen


@settings(max_examples=400)
@given(axis=axes)
@example(axis=GridAxis.of(10, 2, 10, "pad"))
@example(axis=GridAxis.of(10, 2, 9, "shift"))
def test_owned_stretches_share_nothing_and_lie_in_their_windows(axis):
    owned = pixels_of(axis, axis.owned)
    assert owned.max() == 1
    assert owned[axis.length :].max() == 0
    for i in range(axis.windows):
        first, stop = axis.owned(i)
        assert axis.start(i) <= first < stop <= axis.start(i) + axis.extent
    covered = pixels_of(axis, lambda i: (axis.start(i), axis.start(i) + axis.extent))
    # Whatever is in a window is owned by one: without gaps that is everything.
    np.testing.assert_array_equal(owned[: axis.length] > 0, covered[: axis.length] > 0)
    if axis.step <= axis.extent:
        assert owned[: axis.length].min() == 1


@settings(max_examples=200)
@given(axis=axes)
def test_a_cut_is_in_the_middle_of_what_neighbours_share(axis):
    for i in range(axis.windows - 1):
        shared = axis.start(i) + axis.extent - axis.start(i + 1)
        if shared < 0:
            continue
        (_, cut), (behind, _) = axis.owned(i), axis.owned(i + 1)
        assert cut == behind
        before, after = cut - axis.start(i + 1), axis.start(i) + axis.extent - cut
        assert before in (after, after - 1)


@settings(max_examples=200)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 60))
def test_shift_is_the_listed_grid(length, extent, step):
    axis = GridAxis.of(length, extent, step, "shift")
    assert starts_of(axis) == axis_positions(length, extent, step).tolist()


@settings(max_examples=200)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 60))
def test_pad_walks_on_until_nothing_is_left(length, extent, step):
    starts = [0]
    while starts[-1] + extent < length and starts[-1] + step < length:
        starts.append(starts[-1] + step)
    assert starts_of(GridAxis.of(length, extent, step, "pad")) == starts


@settings(max_examples=200)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 60))
def test_even_goes_from_end_to_end_in_equal_steps(length, extent, step):
    axis = GridAxis.of(length, extent, step, "even")
    starts = starts_of(axis)
    if length <= extent:
        assert starts == [0]
        return
    assert (starts[0], starts[-1]) == (0, length - extent)
    # Fewer windows would be further apart than asked.
    assert len(starts) == 1 + next(n for n in range(1, length + 1) if (length - extent) / n <= step)
    spacing = np.diff(starts)
    assert spacing.max() <= step
    assert spacing.max() - spacing.min() <= 1
    ideal = np.linspace(0, length - extent, len(starts))
    assert np.abs(starts - ideal).max() <= 0.5 + 1e-9


@settings(max_examples=200)
@given(axis=axes, data=st.data())
def test_spans_are_the_windows_cut_at_the_image(axis, data):
    begin = data.draw(st.integers(0, axis.windows))
    end = data.draw(st.integers(begin, axis.windows))
    expected = [(axis.start(i), min(axis.start(i) + axis.extent, axis.length)) for i in range(begin, end)]
    assert axis.spans(begin, end).tolist() == [list(span) for span in expected]


@pytest.mark.parametrize("edge", EDGES)
def test_short_axis_has_one_window_that_owns_it(edge):
    axis = GridAxis.of(7, 20, 3, edge)
    assert (axis.windows, axis.start(0), axis.owned(0)) == (1, 0, (0, 7))


@settings(max_examples=200)
@given(st.integers(1, 64), st.integers(1, 64), st.floats(1, 9))
def test_scaled_step_leaves_no_gap_that_was_not_asked_for(stride, size, scale):
    extent = int(np.ceil(size * scale - 1e-4))
    step = scaled_step(extent, stride, size)
    assert step >= 1
    assert (step <= extent) == (stride <= size) or (stride > size and step == extent)
