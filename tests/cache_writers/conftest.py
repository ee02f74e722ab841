"""What the tests of the writers share: a reader over arrays, and levels by another way than the writers'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from osgeo_utils.samples.validate_cloud_optimized_geotiff import validate

from slidesampler import _native
from slidesampler.cache import cog_scratch, cog_stream
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.shapes import ShapeKind, Shapes


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


def polygon_shapes(annots):
    """Columns of ``(annot_id, category_id, rings)``: one part each, the first ring the exterior, (x, y)."""
    rings = [np.asarray(ring, float) for _, _, parts in annots for ring in parts]
    counts = [len(parts) for _, _, parts in annots]
    boxes = np.array([[*np.min(r[0], 0), *np.max(r[0], 0)] for _, _, r in annots], float).reshape(-1, 4)
    empty = Shapes.empty()
    return replace(
        empty,
        annot_ids=np.array([a for a, _, _ in annots], np.int64),
        category_ids=np.array([c for _, c, _ in annots], np.int64),
        kinds=np.full(len(annots), ShapeKind.POLYGON, np.uint8),
        boxes_xyxy=boxes,
        areas=np.array([abs(_area(r[0])) - sum(abs(_area(h)) for h in r[1:]) for _, _, r in annots]),
        annot_parts=np.arange(len(annots) + 1),
        part_rings=np.cumsum([0, *counts]),
        ring_vertices=np.cumsum([0, *(len(ring) for ring in rings)]),
        vertices=np.concatenate(rings) if rings else empty.vertices,
        annot_runs=np.zeros(len(annots) + 1, np.int64),
        rle_heights=np.zeros(len(annots), np.int64),
        annot_keypoints=np.zeros(len(annots) + 1, np.int64),
    )


def _area(ring):
    x, y = np.asarray(ring, float).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def inside(ring, shape):
    """Even-odd test of every pixel centre, edge by edge; half-open in y."""
    ring = np.asarray(ring, float)
    x_low, y_low = np.clip(np.floor(ring.min(0)).astype(int), 0, shape[::-1])
    x_high, y_high = np.clip(np.ceil(ring.max(0)).astype(int), 0, shape[::-1])
    yc, xc = np.mgrid[y_low:y_high, x_low:x_high] + 0.5
    odd = np.zeros(yc.shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        crosses = (y0 <= yc) != (y1 <= yc)
        if y0 != y1:
            odd ^= crosses & (x0 + (yc - y0) * (x1 - x0) / (y1 - y0) <= xc)
    whole = np.zeros(shape, bool)
    whole[y_low:y_high, x_low:x_high] = odd
    return whole


class Tools:
    """Handed out by a fixture, since test folders are no packages."""

    reader = MemoryReader
    mean_levels = staticmethod(mean_levels)
    decimated = staticmethod(decimated)
    shown_pixels = staticmethod(shown_pixels)
    random_pixels = staticmethod(random_pixels)
    complaints = staticmethod(complaints)
    polygon_shapes = staticmethod(polygon_shapes)
    inside = staticmethod(inside)


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file."""
    return Tools


@pytest.fixture
def by_gdal(monkeypatch):
    """COGs are written by GDAL, as where nothing was compiled."""
    monkeypatch.setattr(_native, "encode", None)


@pytest.fixture(params=["CogStream", "CogScratch"])
def writer_class(request, monkeypatch):
    """Each of the two writers of a COG, in force."""
    if request.param == "CogScratch":
        monkeypatch.setattr(_native, "encode", None)
        return cog_scratch.CogScratch
    if _native.encode is None:
        pytest.skip(_native.missing_because)
    return cog_stream.CogStream
