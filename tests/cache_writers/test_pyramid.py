"""Reduced levels against sums in float64, pixel by pixel where it matters."""

from fractions import Fraction
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler import _native
from slidesampler.cache.pyramid import decimation, decimation_part, halve, halve_valid, image_levels, thin
from slidesampler.geometry import label_level_downsamples


@pytest.fixture(scope="module", params=["compiled", "numpy"], autouse=True)
def compiled(request):
    """Both of those that halve."""
    if request.param == "compiled":
        if _native.encode is None:
            pytest.skip(_native.missing_because)
        yield True
    else:
        with mock.patch.object(_native, "encode", None):
            yield False


DTYPES = [np.uint8, np.uint16, np.int16, np.float32]
SIZES = st.integers(1, 21)


def pixelwise(pixels, valid):
    """2 x 2 means one by one, with fractions."""
    h, w, c = pixels.shape
    out = np.empty((-(-h // 2), -(-w // 2), c), pixels.dtype)
    some = np.zeros(out.shape[:2], bool)
    for y, x in np.ndindex(out.shape[:2]):
        cell = [(i, j) for i in (2 * y, 2 * y + 1) for j in (2 * x, 2 * x + 1) if i < h and j < w]
        good = [at for at in cell if valid[at]]
        some[y, x] = bool(good)
        for k in range(c):
            values = [Fraction(float(pixels[(*at, k)])) for at in good or cell]
            mean = sum(values) / len(values)
            if pixels.dtype.kind in "iu":
                mean = (mean + Fraction(1, 2)).__floor__()
            out[y, x, k] = mean if isinstance(mean, int) else float(mean)
    return out, some


@settings(deadline=None, max_examples=80)
@given(
    h=SIZES,
    w=SIZES,
    c=st.sampled_from([1, 2, 3, 4, 5, 7, 9]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
)
def test_means_are_exact(tools, h, w, c, dtype, seed):
    pixels = tools.random_pixels(np.random.default_rng(seed), (h, w, c), dtype)
    expected, _ = pixelwise(pixels, np.ones((h, w), bool))
    found = halve(pixels)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=80)
@given(h=SIZES, w=SIZES, c=st.sampled_from([1, 3, 7]), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 9))
def test_only_valid_pixels_are_averaged(tools, h, w, c, dtype, seed):
    rng = np.random.default_rng(seed)
    pixels = tools.random_pixels(rng, (h, w, c), dtype)
    valid = rng.random((h, w)) < 0.6
    expected, some = pixelwise(pixels, valid)
    found, any_valid = halve_valid(pixels, valid)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(any_valid, some)


def test_an_invalid_nan_does_not_spread_and_a_valid_one_does():
    pixels = np.ones((4, 4, 1), np.float32)
    pixels[0, 0] = pixels[2, 2] = np.nan
    valid = np.ones((4, 4), bool)
    valid[0, 0] = False
    found, _ = halve_valid(pixels, valid)
    np.testing.assert_array_equal(found[:, :, 0], [[1, 1], [1, np.nan]])


def test_extreme_floats_do_not_overflow():
    # The lowest float32 is what satellite scenes use for "no data".
    pixels = np.full((2, 2, 1), np.finfo(np.float32).min)
    assert halve(pixels)[0, 0, 0] == np.finfo(np.float32).min


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(131, 90), (64, 33)])
def test_threads_and_strides_do_not_matter(tools, dtype, size):
    rng = np.random.default_rng(9)
    pixels = tools.random_pixels(rng, (*size, 3), dtype)
    valid = rng.random(size) < 0.5
    expected = pixelwise(pixels, valid)
    turned = np.ascontiguousarray(pixels[::-1])[::-1]
    for found in (halve_valid(pixels, valid, 3), halve_valid(turned, np.asfortranarray(valid))):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(halve(turned, 3), pixelwise(pixels, np.ones(size, bool))[0])


@given(st.data())
def test_thinning_is_indexing(data):
    array = np.arange(17 * 13).reshape(17, 13)
    index = [np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))) for size in (17, 13)]
    np.testing.assert_array_equal(thin(array, *index), array[np.ix_(*index)])
    steps = [np.arange(data.draw(st.integers(0, 5)), 13, data.draw(st.integers(1, 4))) for _ in range(2)]
    found = thin(array, *steps)
    np.testing.assert_array_equal(found, array[np.ix_(*steps)])
    assert np.shares_memory(found, array)


def test_a_mask_of_noise_is_averaged_piece_by_piece(tools, monkeypatch):
    monkeypatch.setattr("slidesampler.cache.pyramid._MIXED_AT_ONCE", 7)
    rng = np.random.default_rng(3)
    pixels, valid = tools.random_pixels(rng, (31, 44, 3), np.uint8), rng.random((31, 44)) < 0.5
    np.testing.assert_array_equal(halve_valid(pixels, valid)[0], pixelwise(pixels, valid)[0])


@pytest.mark.parametrize(("size", "top", "count"), [(1, 256, 1), (256, 256, 1), (257, 256, 2), (1025, 128, 5)])
def test_levels_end_at_the_first_that_fits(size, top, count):
    levels = image_levels(size, 3, top)
    assert len(levels) == count
    for k, level in enumerate(levels):
        assert (level.height, level.width) == (-(-size // 2**k), -(-3 // 2**k))
        assert level.downsample == (2.0**k, 2.0**k)


@given(size=st.integers(1, 5000), power=st.integers(0, 10))
def test_decimation_shows_the_middle_pixel_or_the_last(tools, size, power):
    assert decimation(size, 2**power).tolist() == tools.shown_pixels(size, 2**power)


@given(size=st.integers(1, 400), power=st.integers(0, 7), cuts=st.lists(st.integers(1, 399), max_size=6))
def test_parts_of_a_decimation_cover_it_once_however_it_is_cut(tools, size, power, cuts):
    shown = tools.shown_pixels(size, 2**power)
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    found = []
    for start, stop in pairwise(edges):
        first, offsets = decimation_part(size, 2**power, start, stop)
        if len(offsets):
            assert first == len(found)
        found += (offsets + start).tolist()
    assert found == shown


def test_label_levels_decimate_without_repeats(tools):
    for size in (513, 1025, 4097):
        for downsample in label_level_downsamples(size, size):
            shown = tools.shown_pixels(size, downsample)
            assert len(set(shown)) == len(shown)
