"""The lattice of snapped windows along one axis, against brute force over every start there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slidesampler.errors import TargetError
from slidesampler.rng import Draws
from slidesampler.sampling.centering import start_around, start_with_middle
from slidesampler.sampling.set_cover import cover_rectangles
from slidesampler.sampling.snap import (
    aligned_starts,
    can_be_held,
    checked_snap,
    cut_lines,
    held_start,
    in_places,
    snapped,
    step_of,
)

lengths, extents = st.integers(1, 300), st.integers(1, 90)


@st.composite
def axes(draw):
    """Length of an image, extent of a window, a step of at most that, and whether windows may overhang."""
    extent = draw(extents)
    return draw(lengths), extent, draw(st.integers(1, extent)), draw(st.booleans())


def allowed_starts(length, extent, step, allow_border, held):
    """Starts of windows that hold a pixel: multiples, and only where there is none the one at the far edge."""
    slack = length - extent
    places = [
        start
        for start in range(held - extent + 1, held + 1)
        if allow_border or min(slack, 0) <= start <= max(slack, 0)
    ]
    return [start for start in places if start % step == 0] or [slack]


@given(axes(), st.integers(-400, 400), st.data())
def test_nearest_start_that_holds_the_pixel(axis, start, data):
    length, extent, step, allow_border = axis
    held = data.draw(st.integers(0, length - 1))
    found = held_start(start, held, length, extent, step, allow_border=allow_border)
    if step == 1:
        assert found == start
        return
    allowed = allowed_starts(length, extent, step, allow_border, held)
    assert found in allowed
    nearest = min(abs(one - start) for one in allowed)
    assert found == max(one for one in allowed if abs(one - start) == nearest)
    assert found <= held < found + extent
    if not allow_border:
        # Inside; or, where the image is shorter, the image inside.
        assert min(0, length - extent) <= found <= max(0, length - extent)


@given(axes(), st.integers(0, 40), st.integers(0, 10**6), st.data())
def test_start_around_a_place_is_the_one_without_step_snapped(axis, jitter, seed, data):
    length, extent, step, allow_border = axis
    center = data.draw(st.floats(0, length))
    free, found = (
        start_around(Draws(seed), center, length, extent, jitter, allow_border, one) for one in (1, step)
    )
    held = min(int(center), length - 1)
    allowed = [free] if step == 1 else allowed_starts(length, extent, step, allow_border, held)
    assert found in allowed
    assert abs(found - free) == min(abs(one - free) for one in allowed)


@given(st.integers(1, 90), st.integers(-1000, 1000), st.data())
def test_the_pixel_in_the_middle_is_held_by_the_nearest_multiple(extent, pixel, data):
    """No window has to be moved further than to the nearest multiple, for every step up to the extent."""
    step = data.draw(st.integers(2, extent)) if extent > 1 else 1
    assume(step > 1)
    start = start_with_middle(pixel, 10**6, extent, step)
    assert abs(2 * (start - (pixel - extent // 2))) <= step
    # So the pixels that lead to one place are a cell of so many in a row: as many in each.
    cell = [
        one
        for one in range(start - extent, start + 2 * extent)
        if start_with_middle(one, 10**6, extent, step) == start
    ]
    assert cell == list(range(cell[0], cell[0] + step))
    assert start <= cell[0]
    assert cell[-1] < start + extent


@given(extents, st.integers(1, 200))
def test_a_step_of_at_most_the_window_and_no_other_leaves_no_gap(extent, step):
    """The rule of ``checked_snap``: pixels 0 .. 999, and the windows at multiples that hold them."""
    seen = {
        pixel
        for start in range(-step * 1000 // step, 1000)
        if start % step == 0
        for pixel in range(start, start + extent)
    }
    assert (set(range(1000)) <= seen) == (step <= extent)


@given(axes())
def test_places_inside_an_image(axis):
    length, extent, step, _ = axis
    slack = max(length - extent, 0)
    expected = sorted({one for one in range(slack + 1) if one % step == 0} | {slack})
    assert aligned_starts(length, extent, step).tolist() == expected


def intervals(draw, length, count):
    low = draw(st.lists(st.integers(0, length - 1), min_size=count, max_size=count))
    return np.array([(one, draw(st.integers(one + 1, length))) for one in low])


@given(axes(), st.data())
def test_what_can_be_held(axis, data):
    length, extent, step, _ = axis
    low, high = intervals(data.draw, length, 5).T
    starts = aligned_starts(length, extent, step)
    expected = ((starts[:, None] <= low) & (starts[:, None] + extent >= high)).any(axis=0)
    same = (np.full(5, one) for one in (length, extent, step))
    assert can_be_held(low, high, *same).tolist() == expected.tolist()


@given(axes(), st.data())
def test_cut_lines_are_as_few_as_can_be(axis, data):
    length, extent, step, _ = axis
    ((low, high),) = intervals(data.draw, length, 1).tolist()
    lines = cut_lines(low, high, length, extent, step)
    assert (lines[0], lines[-1]) == (low, high)
    assert (np.diff(lines) > 0).all()
    same = (np.full(len(lines) - 1, one) for one in (length, extent, step))
    assert can_be_held(lines[:-1], lines[1:], *same).all()
    # Fewest: how many windows in a row it takes to hold all pixels, each as far to the right as may be.
    starts, count, reached = aligned_starts(length, extent, step).tolist(), 0, low
    while reached < high:
        reached = max(start for start in starts if start <= reached) + extent
        count += 1
    assert len(lines) - 1 == count


def test_cut_lines_at_the_far_edge():
    # The last windows start at 18 and, flush with the edge, at 19: from 20 on the latter reaches further.
    assert cut_lines(0, 27, 27, 8, 3).tolist() == [0, 8, 14, 20, 27]


@given(axes(), st.data())
def test_counted_in_places_a_window_holds_the_same(axis, data):
    length, extent, step, _ = axis
    low, high = intervals(data.draw, length, 8).T
    starts = aligned_starts(length, extent, step)
    some = ((starts[:, None] <= low) & (starts[:, None] + extent >= high)).any(axis=0)
    assume(some.any())
    low, high = low[some], high[some]
    found = in_places(low, high, length, extent, step)
    places = np.arange(max(found.length - found.extent, 0) + 1)
    held = (places[:, None] <= found.low) & (places[:, None] + found.extent >= found.high)
    assert held.tolist() == ((starts[:, None] <= low) & (starts[:, None] + extent >= high)).tolist()
    assert (found.low >= 0).all()
    assert (found.high > found.low).all()
    # The solver of set cover takes it.
    flat = np.stack([np.zeros_like(found.low), found.low, np.ones_like(found.low), found.high], 1)
    cover = cover_rectangles(flat, (1, found.extent), (1, found.length))
    assert held[cover.starts[cover.held_by, 1], np.arange(len(low))].all()


@pytest.mark.parametrize(
    ("snap", "scale", "step"),
    [
        (64, 1.0, 64),
        (64, 1.5, 96),
        (64, 2.5, 160),
        (1, 4.0, 4),
        # Of 0.2499 and 0.2501 micrometres at 0.5: the second level of the pyramid.
        (64, 0.5 / 0.2499, 128),
        (64, 0.5 / 0.2501, 128),
        (64, 0.5, 32),
        (3, 1 / 3, 1),
    ],
)
def test_steps_at_a_scale(snap, scale, step):
    assert step_of(snap, scale) == step


@pytest.mark.parametrize(("snap", "scale"), [(65, 1.5), (64, 0.5 / 0.2527), (1, 0.5), (256, 1.978)])
def test_steps_that_no_start_can_have(snap, scale):
    with pytest.raises(TargetError, match=f"snap={snap} at .* of image 7 .*whole number"):
        step_of(snap, scale, " of image 7")


@pytest.mark.parametrize("bad", [0, -64, True, 1.5, "64", (64, 64, 64), (64, 0), float("nan")])
def test_bad_snaps(bad):
    with pytest.raises(TargetError, match="snap must be whole pixels"):
        checked_snap(bad, (128, 128))


@pytest.mark.parametrize("bad", [129, (64, 257), (129, 1)])
def test_snaps_larger_than_a_window(bad):
    with pytest.raises(TargetError, match="more than the size of a window, 128 x 256"):
        checked_snap(bad, (128, 256))
    assert checked_snap((128, 256), (128, 256)) == (128, 256)


def test_halfway_is_upwards():
    assert [snapped(start, -99, 99, 10) for start in (-15, -5, 4, 5, 15)] == [-10, 0, 0, 10, 20]
