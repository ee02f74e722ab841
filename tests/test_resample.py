"""Area means against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.resample import area_mean, cast_pixels


def exact_mean(block, y0, y1, x0, x1):
    """Mean of one output pixel by summing every overlap as a fraction."""
    total, weight = Fraction(0), Fraction(0)
    for y in range(math.floor(y0), math.ceil(y1)):
        for x in range(math.floor(x0), math.ceil(x1)):
            overlap = (min(y1, y + 1) - max(y0, y)) * (min(x1, x + 1) - max(x0, x))
            total += overlap * int(block[y, x])
            weight += overlap
    return float(total / weight)


@st.composite
def blocks_and_edges(draw):
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    block = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, (h, w))

    def edges(length):
        count = draw(st.integers(1, 6))
        cuts = draw(st.lists(st.integers(0, 16 * length), min_size=count + 1, max_size=count + 1, unique=True))
        return [Fraction(c, 16) for c in sorted(cuts)]

    return block, edges(h), edges(w)


@given(blocks_and_edges())
def test_every_output_pixel_is_the_mean_of_the_ground_it_covers(case):
    block, ey, ex = case
    got = area_mean(
        block[..., None].astype(np.uint8), np.array([float(e) for e in ey]), np.array([float(e) for e in ex])
    )
    expected = [
        [exact_mean(block, ey[i], ey[i + 1], ex[j], ex[j + 1]) for j in range(len(ex) - 1)]
        for i in range(len(ey) - 1)
    ]
    np.testing.assert_allclose(got[..., 0], expected, rtol=1e-5, atol=1e-3)


def test_whole_number_reduction_is_the_block_mean():
    rng = np.random.default_rng(0)
    block = rng.integers(0, 65536, (32, 48, 3), dtype=np.uint16)
    got = area_mean(block, np.arange(0, 33, 4.0), np.arange(0, 49, 4.0))
    np.testing.assert_allclose(got, block.reshape(8, 4, 12, 4, 3).mean((1, 3)), rtol=1e-6)


def test_nan_reaches_only_the_pixels_that_cover_it():
    block = np.ones((4, 4, 1), np.float32)
    block[0, 0] = np.nan
    got = area_mean(block, np.array([0.0, 2, 4]), np.array([0.0, 2, 4]))[..., 0]
    assert np.isnan(got).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint8", [-3.0, 0.5, 1.5, 254.6, 300.0], [0, 0, 2, 255, 255]),
        ("int16", [-4e4, -1.5, 4e4], [-32768, -2, 32767]),
        ("uint16", [math.nan, math.inf, -math.inf], [0, 65535, 0]),
        ("float32", [0.25, 1e10], [0.25, 1e10]),
        ("float16", [0.25, 1e10], [0.25, math.inf]),
        ("int32", [math.inf, 2.0**31, 2.0**31 - 1, -math.inf, math.nan], [2**31 - 1] * 3 + [-(2**31), 0]),
        ("uint32", [math.inf, 2.0**32, -1.0], [2**32 - 1, 2**32 - 1, 0]),
    ],
)
def test_cast_rounds_and_clips(dtype, values, expected):
    got = cast_pixels(np.array(values), np.dtype(dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
def test_cast_to_wide_integers_never_wraps(stored, dtype):
    info = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        values = np.array([np.inf, float(info.max), 7.0, -np.inf], np.float64).astype(stored)
    assert cast_pixels(values, np.dtype(dtype)).tolist() == [info.max, info.max, 7, info.min]


def test_cast_between_integers_clips_instead_of_wrapping():
    got = cast_pixels(np.array([-1, 255, 256], np.int16), np.dtype("uint8"))
    assert got.tolist() == [0, 255, 255]
