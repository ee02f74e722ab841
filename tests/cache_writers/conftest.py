"""A reader over a numpy array that records what is asked of it: the writers are tested without the reader room."""

from __future__ import annotations

import numpy as np
import pytest

from slidesampler.geometry import Window
from slidesampler.models import Level


class MemoryReader:
    """The reader protocol over arrays; ``valid`` (H, W) bool may be None."""

    def __init__(self, pixels, valid=None, *, channels=(), mpp=None, block_shape=None, levels=None):
        self.name = "memory"
        self.pixels = pixels
        self.valid = valid
        self.shape = pixels.shape
        self.dtype = pixels.dtype
        self.levels = levels or (Level(*pixels.shape[:2]),)
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


@pytest.fixture(scope="session")
def memory_reader():
    """The class itself: tests make as many as they need."""
    return MemoryReader
