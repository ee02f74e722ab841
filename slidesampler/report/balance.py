"""Where a slide was seen more or less than its tissue explains: counts a coarse cell, and how unlikely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesampler.sampling.statistics import Coverage

__all__ = ["MIN_EXPECTED", "CellBalance", "cell_balance", "cell_pixels"]

#: A cell of fewer expected windows is not judged: a normal approximation of so small a count says little.
MIN_EXPECTED = 5.0
#: Cells are made coarser until those that can be judged hold this share of the tissue.
JUDGED_SHARE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class CellBalance:
    """Windows that fell on each coarse cell of a slide, beside those that its tissue would get.

    Windows are counted by the tissue they show: one that lies half in a cell counts half there. The unit is the
    mean window of this slide, so that the counts are those of windows.

    Parameters
    ----------
    cell_px : int
        Side of a coarse cell, level-0 pixels; those of the last row and column may be cut off by the image.
    got, expected : float64 (rows, columns)
        Windows on the cell's tissue, and what they would be if all tissue of the slide had been seen as often.
        Their sums are equal.
    z : float64 (rows, columns)
        ``(got - expected) / sqrt(expected)``; NaN where fewer than :data:`MIN_EXPECTED` are expected.
    """

    cell_px: int
    got: NDArray[np.float64]
    expected: NDArray[np.float64]
    z: NDArray[np.float64]


def cell_balance(coverage: Coverage, size: tuple[int, int], windows: int) -> CellBalance | None:
    """Return the balance of a slide; None where there are too few windows to compare two cells.

    Parameters
    ----------
    coverage : Coverage
        Of the slide.
    size : (int, int)
        ``(H, W)``, level-0 pixels.
    windows : int
        Windows on the slide.

    Notes
    -----
    A coarse cell is at least as large as the mean window: smaller ones would see the same windows as their
    neighbours. For windows of one size that are placed at random, the share of a window that falls on a cell
    varies at most as much as a Poisson count of the same mean, so about one cell in twenty is beyond 2 by
    chance, and about one in sixteen thousand beyond 4.

    *Source:* the Pearson residual of a Poisson count, ``(x - mu) / sqrt(mu)``.
    """
    area = cell_pixels(coverage.seen.shape, coverage.cell_px, size)
    shown = float((coverage.seen * area).sum())
    tissue = coverage.interest * area
    if not windows or shown <= 0 or tissue.sum() <= 0:
        return None
    mean_window = shown / windows
    got = coverage.seen * tissue / mean_window
    expected = tissue * (got.sum() / tissue.sum())
    for factor in _doublings(got.shape):
        coarse_got, coarse_expected = _merged(got, factor), _merged(expected, factor)
        judged = coarse_expected >= MIN_EXPECTED
        wide = (coverage.cell_px * factor) ** 2 >= mean_window
        if wide and coarse_expected[judged].sum() >= JUDGED_SHARE * coarse_expected.sum():
            break
    if judged.sum() < 2:
        return None
    z = np.full(coarse_got.shape, np.nan)
    z[judged] = (coarse_got - coarse_expected)[judged] / np.sqrt(coarse_expected[judged])
    return CellBalance(coverage.cell_px * factor, coarse_got, coarse_expected, z)


def cell_pixels(grid: tuple[int, ...], cell_px: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the pixels of each cell of a grid over an image, float64 ``(rows, columns)``.

    Examples
    --------
    >>> cell_pixels((2, 2), 64, (100, 70)).tolist()
    [[4096.0, 384.0], [2304.0, 216.0]]
    """
    sides = [
        np.clip(length - np.arange(cells) * cell_px, 0, cell_px)
        for cells, length in zip(grid, size, strict=True)
    ]
    return np.outer(sides[0], sides[1]).astype(np.float64)


def _merged(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Return the sums over squares of ``factor`` cells."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], factor), axis=0)
    return np.add.reduceat(rows, np.arange(0, values.shape[1], factor), axis=1)


def _doublings(grid: tuple[int, ...]) -> Iterator[int]:
    """Yield 1, 2, 4 ... up to what makes one cell of a grid."""
    factor = 1
    yield factor
    while factor < max(grid):
        factor *= 2
        yield factor
