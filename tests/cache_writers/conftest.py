"""What the tests of the writers share: a reader over arrays, and levels by another way than the writers'."""

from __future__ import annotations

import numpy as np
import pytest
from osgeo_utils.samples.validate_cloud_optimized_geotiff import validate

from slidesampler.geometry import Window
from slidesampler.models import Level


class MemoryReader:
    """The reader protocol over arrays; records the windows it is asked for. ``valid`` (H, W) bool or None."""

    def __init__(self, pixels, valid=None, *, channels=(), mpp=None, block_shape=None):
        self.name = "memory"
        self.pixels = pixels
        self.valid = valid
        self.shape = pixels.shape
        self.dtype = pixels.dtype
        self.levels = (Level(*pixels.shape[:2]),)
        self.mpp = mpp
        self.channels = channels
        self.has_valid = valid is not None
        self.windows = []
        if block_shape is not None:
            self.block_shape = block_shape

    def read(self, window, level=0, *, channels=None, out=None):
        assert level == 0
        assert Window(0, 0, *self.shape[:2]).contains(window)
        self.windows.append(window)
        found = self.pixels[window.as_slices()]
        if channels is not None:
            found = found[:, :, list(channels)]
        if out is None:
            return found.copy()
        out[...] = found
        return out

    def read_valid(self, window, level=0):
        assert level == 0
        if self.valid is None:
            return np.ones(window.shape, bool)
        return self.valid[window.as_slices()].copy()

    def close(self):
        pass


def mean_levels(pixels, valid, count):
    """Levels by NaN-padded sums in float64: pixels, and where any pixel is valid."""
    levels = [pixels]
    usable = np.ones(pixels.shape[:2], bool) if valid is None else valid
    for _ in range(count - 1):
        plain = _two_by_two(levels[-1].astype(np.float64))
        weighted = _two_by_two(np.where(usable[:, :, None], levels[-1].astype(np.float64), np.nan))
        some = ~np.isnan(_two_by_two(np.where(usable, 1.0, np.nan)[:, :, None])[:, :, 0])
        mean = np.where(some[:, :, None], weighted, plain)
        if pixels.dtype.kind in "iu":
            mean = np.floor(mean + 0.5)
        levels.append(mean.astype(pixels.dtype))
        usable = some
    return levels


def _two_by_two(values):
    h, w, c = values.shape
    padded = np.full((h + h % 2, w + w % 2, c), np.nan)
    padded[:h, :w] = values
    cells = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, c)
    there = ~np.isnan(cells)
    count = there.sum((1, 3))
    total = np.where(there, cells, 0).sum((1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def shown_pixels(size, downsample):
    """The level-0 pixel that each pixel of a mask level shows, one by one."""
    return [min(j * downsample + downsample // 2, size - 1) for j in range(-(-size // downsample))]


def decimated(array, downsample):
    """A mask level."""
    return array[np.ix_(shown_pixels(array.shape[0], downsample), shown_pixels(array.shape[1], downsample))]


def random_pixels(rng, shape, dtype):
    """Pixels over the whole range of an integer dtype, or normal floats."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(scale=1000, size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True, dtype=dtype)


def complaints(path):
    """Errors and warnings of GDAL's validator."""
    warnings, errors, _ = validate(str(path), full_check=True)
    return warnings + errors


class Tools:
    """Handed out by a fixture, since test folders are no packages."""

    reader = MemoryReader
    mean_levels = staticmethod(mean_levels)
    decimated = staticmethod(decimated)
    shown_pixels = staticmethod(shown_pixels)
    random_pixels = staticmethod(random_pixels)
    complaints = staticmethod(complaints)


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file."""
    return Tools
