"""Randomness as a pure function of place: hashes of lattice cells, smooth noise, periodic textures.

Nothing here has state, so a slide painted block by block is the same slide however it is cut.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.rng import rng_for

__all__ = [
    "TEXTURE_PX",
    "band_texture",
    "cell_uniform",
    "coarse_grid",
    "coarse_noise",
    "noise_at",
    "smooth_noise",
    "upsampled",
]

#: Side of a periodic texture, in pixels.
TEXTURE_PX = 512
#: Smooth fields are worked out once per square of this side and interpolated: a sixteenth of the work.
COARSE_PX = 4

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP_Y, _STEP_X = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def cell_uniform(iy: NDArray[np.int64], ix: NDArray[np.int64], key: int) -> NDArray[np.float32]:
    """Return a number in [0, 1) for each lattice cell, independent from cell to cell and from key to key.

    Parameters
    ----------
    iy, ix : ndarray of int64
        Cell numbers, negative ones included; broadcast against each other.
    key : int
        Names the sequence, 0 to 2**64 - 1.

    Notes
    -----
    *Source:* the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), applied to a linear combination of
    the cell numbers and the key.
    """
    with np.errstate(over="ignore"):
        z = iy.astype(np.uint64) * _STEP_Y + ix.astype(np.uint64) * _STEP_X + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def smooth_noise(window: Window, spacing: float, key: int) -> NDArray[np.float32]:
    """Return smooth noise over a window, about -1 to 1 with mean 0 and deviation 0.35.

    Cubic B-splines through random numbers on a square lattice, drawn as :func:`upsampled` does.

    Parameters
    ----------
    window : Window
        Sides are multiples of 4 pixels.
    spacing : float
        Lattice spacing in pixels: the size of the blobs.
    key : int
        Names the field; see :func:`cell_uniform`.

    Returns
    -------
    ndarray of float32, shape (height, width)
    """
    return upsampled(coarse_noise(window, spacing, key))


def coarse_grid(start: int, length: int) -> NDArray[np.float64]:
    """Return the coordinates, in pixels, at which a field is worked out before it is :func:`upsampled`.

    The middles of intervals of 4 pixels along one axis of a window, one interval more at each end.
    """
    return np.asarray(start + (np.arange(length // COARSE_PX + 2) - 0.5) * COARSE_PX, np.float64)


def upsampled(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a field given on :func:`coarse_grid` at every pixel of the window, by linear interpolation."""
    height, width = coarse.shape
    fine = cv2.resize(coarse, (width * COARSE_PX, height * COARSE_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(fine[COARSE_PX:-COARSE_PX, COARSE_PX:-COARSE_PX])


def coarse_noise(window: Window, spacing: float, key: int) -> NDArray[np.float32]:
    """Return the values of :func:`smooth_noise` on the :func:`coarse_grid` of a window."""
    rows, by_row = _grid_weights(window.y, window.height, spacing)
    cols, by_col = _grid_weights(window.x, window.width, spacing)
    return np.asarray(by_row @ _lattice(rows[:, None], cols[None, :], key) @ by_col.T, np.float32)


# A square shares its rows with those beside it and its columns with those below: nearly every call is a hit.
@functools.lru_cache(maxsize=1024)
def _grid_weights(start: int, length: int, spacing: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the lattice cells that matter to a window along one axis, and their weights ``(n, cells)``."""
    cells, weights = _spline_weights(coarse_grid(start, length) / spacing)
    knots = np.arange(cells[0, 0], cells[-1, -1] + 1)
    matrix = np.zeros((len(cells), len(knots)), np.float32)
    np.put_along_axis(matrix, cells - knots[0], weights, 1)
    return knots, matrix


def noise_at(ys: NDArray[np.float64], xs: NDArray[np.float64], spacing: float, key: int) -> NDArray[np.float32]:
    """Return the values of :func:`smooth_noise` at ``n`` scattered points, in pixels."""
    cells_y, weights_y = _spline_weights(ys / spacing)
    cells_x, weights_x = _spline_weights(xs / spacing)
    lattice = _lattice(cells_y[:, :, None], cells_x[:, None, :], key)
    return np.asarray((lattice * weights_y[:, :, None] * weights_x[:, None, :]).sum(axis=(1, 2)), np.float32)


def _lattice(rows: NDArray[np.int64], cols: NDArray[np.int64], key: int) -> NDArray[np.float32]:
    # A B-spline averages 4 x 4 values: 3 brings the spread back to about that of the numbers.
    return (cell_uniform(rows, cols, key) - np.float32(0.5)) * np.float32(3)


def _spline_weights(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the four lattice cells around each position, int64 ``(n, 4)``, and their weights."""
    cell = np.floor(position)
    t = (position - cell)[:, None]
    values = np.concatenate(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    return cell.astype(np.int64)[:, None] + np.arange(-1, 3), (values / 6).astype(np.float32)


def band_texture(
    seed: int, stream: str, fine: tuple[float, float], coarse: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Return noise that repeats every :data:`TEXTURE_PX` pixels, mean 0 and deviation 1.

    White noise blurred by a Gaussian, less the same noise blurred by a wider one.

    Parameters
    ----------
    seed, stream
        See :func:`slidesampler.rng.rng_for`.
    fine, coarse : (float, float)
        Deviations of the two Gaussians in pixels, ``(y, x)``; no second one where None.

    Returns
    -------
    ndarray of float32, shape (512, 512)
    """
    white = np.fft.rfft2(rng_for(seed, stream=stream).standard_normal((TEXTURE_PX, TEXTURE_PX)))
    fy = np.fft.fftfreq(TEXTURE_PX)[:, None]
    fx = np.fft.rfftfreq(TEXTURE_PX)[None, :]

    def gaussian(sigma: tuple[float, float]) -> NDArray[np.float64]:
        return np.asarray(np.exp(-2 * np.pi**2 * ((sigma[0] * fy) ** 2 + (sigma[1] * fx) ** 2)))

    response = gaussian(fine) - (gaussian(coarse) if coarse else 0.0)
    response[0, 0] = 0.0
    texture = np.fft.irfft2(white * response, (TEXTURE_PX, TEXTURE_PX))
    return np.asarray(texture / texture.std(), np.float32)
