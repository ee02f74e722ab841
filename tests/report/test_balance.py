"""The counts and z of coarse cells, beside those counted pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.geometry import Window
from slidesampler.report.balance import MIN_EXPECTED, cell_balance, cell_pixels
from slidesampler.sampling.statistics import Coverage


def random_windows(rng, size, n, side):
    return [
        Window(int(rng.integers(size[0] - side + 1)), int(rng.integers(size[1] - side + 1)), side, side)
        for _ in range(n)
    ]


def pixels_of_coarse_cells(windows, size, cell):
    """Pixels of windows that fall on each coarse cell, from an image of counts."""
    counts = np.zeros(size, np.int64)
    for window in windows:
        counts[window.as_slices()] += 1
    rows, columns = math.ceil(size[0] / cell), math.ceil(size[1] / cell)
    return np.array(
        [
            [counts[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].sum() for c in range(columns)]
            for r in range(rows)
        ]
    )


@pytest.mark.parametrize("size", [(640, 640), (500, 970), (1000, 130)])
def test_counts_are_those_of_the_pixels(brute, size):
    windows = random_windows(np.random.default_rng(1), size, 200, 70)
    found = cell_balance(brute.coverage(windows, size), size, len(windows))
    pixels = pixels_of_coarse_cells(windows, size, found.cell_px)
    np.testing.assert_allclose(found.got, pixels / (70 * 70), rtol=1e-5)
    areas = cell_pixels(found.got.shape, found.cell_px, size)
    np.testing.assert_allclose(found.expected, 200 * areas / areas.sum(), rtol=1e-5)
    assert found.got.sum() == pytest.approx(200)
    assert found.expected.sum() == pytest.approx(200)
    judged = found.expected >= MIN_EXPECTED
    assert judged.any()
    np.testing.assert_allclose(
        found.z[judged], ((found.got - found.expected) / np.sqrt(found.expected))[judged], atol=1e-9
    )
    assert np.isnan(found.z[~judged]).all()


def test_cells_are_no_smaller_than_windows(brute):
    size = (2048, 2048)
    windows = random_windows(np.random.default_rng(2), size, 3000, 200)
    assert cell_balance(brute.coverage(windows, size), size, len(windows)).cell_px == 256


def test_only_tissue_counts(brute):
    # Tissue on the left half; the windows lie on the upper half, half of them on glass.
    size = (1024, 1024)
    interest = np.zeros((16, 16), np.float32)
    interest[:, :8] = 1
    windows = [Window(y, x, 64, 64) for y in range(0, 512, 64) for x in range(0, 1024, 64)]
    found = cell_balance(brute.coverage(windows, size, interest), size, len(windows))
    left = found.got.shape[1] // 2
    assert found.got[:, left:].sum() == 0
    assert np.isnan(found.z[:, left:]).all()
    assert found.got.sum() == pytest.approx(64)
    assert found.expected[:, :left].sum() == pytest.approx(64)
    upper = found.got.shape[0] // 2
    assert (found.z[:upper, :left] > 0).all()
    assert (found.z[upper:, :left] < 0).all()


def test_random_windows_are_rarely_beyond_two(brute):
    # Windows that may overhang: every place is as likely as any other.
    size = (1024, 1024)
    rng = np.random.default_rng(3)
    beyond = total = 0
    for _ in range(40):
        windows = [
            Window(int(rng.integers(-63, 1024)), int(rng.integers(-63, 1024)), 64, 64) for _ in range(400)
        ]
        z = cell_balance(brute.coverage(windows, size), size, len(windows)).z
        beyond += int((np.abs(z) > 2).sum())
        total += int(np.isfinite(z).sum())
    assert total > 1000
    # 0.0455 of a normal, and no more: windows shared between cells only even the counts out.
    assert beyond / total < 0.0455 + 4 * math.sqrt(0.0455 / total)


def test_a_corner_that_is_seen_too_often_shows(brute):
    size = (1024, 1024)
    windows = random_windows(np.random.default_rng(4), size, 400, 64)
    windows += [Window(0, 0, 64, 64)] * 200
    found = cell_balance(brute.coverage(windows, size), size, len(windows))
    assert np.nanargmax(found.z) == 0
    assert found.z[0, 0] > 10


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_windows_are_not_judged(brute, n):
    size = (640, 640)
    windows = random_windows(np.random.default_rng(5), size, n, 64)
    assert cell_balance(brute.coverage(windows, size), size, n) is None


def test_nothing_to_see():
    zeros = np.zeros((4, 4), np.float32)
    assert cell_balance(Coverage(64, zeros + 1, zeros, zeros, (), ()), (256, 256), 50) is None
    assert cell_balance(Coverage(64, zeros, zeros + 1, zeros, (), ()), (256, 256), 50) is None


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 2**32 - 1),
)
def test_sums_are_kept(height, width, side, n, seed):
    rng = np.random.default_rng(seed)
    grid = (math.ceil(height / 64), math.ceil(width / 64))
    seen = rng.random(grid).astype(np.float32) * n * side / 300
    interest = rng.random(grid).astype(np.float32) * (rng.random(grid) < 0.7)
    found = cell_balance(Coverage(64, seen, interest, seen, (), ()), (height, width), n)
    if found is None:
        return
    assert found.got.sum() == pytest.approx(found.expected.sum(), rel=1e-6)
    areas = cell_pixels(grid, 64, (height, width))
    assert areas.sum() == height * width
    whole = (seen * areas).sum(dtype=np.float64) / n
    assert found.got.sum() == pytest.approx((seen * areas * interest).sum(dtype=np.float64) / whole, rel=1e-5)
    assert np.isfinite(found.z).sum() >= 2
