"""When a window of a grid is positive, negative or neither, and which windows a grid keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.foreground import VALID
from slidesampler.geometry import Window
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import Words
from slidesampler.sampling.grid_axis import GridAxis
from slidesampler.sampling.grid_counts import window_counts
from slidesampler.sampling.grid_kept import KeptPositions
from slidesampler.sampling.grid_regions import IndexRegion, Region

__all__ = ["KINDS", "Condition", "GridFilter", "TileRule", "least_pixels"]

#: What a window may be; its state is the position here.
KINDS = ("ignored", "negative", "positive")
#: Points of the lattice of windows' edges that are looked at together: bounds memory.
LATTICE_POINTS = 1 << 20
#: Labels are read in blocks of this side where the index cannot tell.
BLOCK_PX = 1024
#: A share of pixels within this of a whole number of pixels is that number.
NOISE_PX = 1e-6


@dataclass(frozen=True, slots=True)
class TileRule:
    """When a window of a grid is positive, negative, or ignored: by the pixels of the mask it holds.

    Counted at full resolution, whatever the scale of the windows. All shares are of the whole window, what of
    it overhangs the image included (which is neither valid nor foreground).

    1. *Ignored* where less than ``min_valid`` of the window is valid (labelled, inside the image).
    2. *Positive* where at least ``min_foreground`` of it is foreground, and at least ``min_pixels`` pixels are.
    3. *Negative* where at most ``max_foreground`` of it is foreground.
    4. *Ignored* in between.

    Parameters
    ----------
    min_foreground : float
        Share, 0 to 1.
    max_foreground : float
        Share, 0 to 1; 0 is no foreground pixel at all.
    min_pixels : int
        At least 1.
    min_valid : float
        Share, 0 to 1.
    categories : str, int or iterable of these, optional
        What is foreground: names of categories, classes or supercategories, or category ids. Every class but
        the background where None.

    Raises
    ------
    TargetError
        For a share that is not in 0 to 1, ``max_foreground`` above ``min_foreground``, or ``min_pixels``
        below 1.

    Examples
    --------
    >>> rule = TileRule(min_foreground=0.25, max_foreground=0.05)
    >>> rule.kind_of(foreground=30, valid=100, area=100), rule.kind_of(10, 100, 100), rule.kind_of(5, 100, 100)
    ('positive', 'ignored', 'negative')
    """

    min_foreground: float = 0.0
    max_foreground: float = 0.0
    min_pixels: int = 1
    min_valid: float = 0.5
    categories: Words | None = None

    def __post_init__(self) -> None:
        for name in ("min_foreground", "max_foreground", "min_valid"):
            checked_share(name, getattr(self, name))
        if self.max_foreground > self.min_foreground:
            raise TargetError(
                f"max_foreground ({self.max_foreground}) is above min_foreground ({self.min_foreground}): what "
                "lies between would be positive and negative"
            )
        if isinstance(self.min_pixels, bool) or self.min_pixels != int(self.min_pixels) or self.min_pixels < 1:
            raise TargetError(f"min_pixels must be a whole number of at least 1, got {self.min_pixels!r}")
        if self.categories is not None and not isinstance(self.categories, str | SupportsIndex | tuple):
            object.__setattr__(self, "categories", tuple(self.categories))

    def limits(self, area: int) -> tuple[int, int, int]:
        """Return the least foreground of a positive, the most of a negative, and the least valid, in pixels."""
        return (
            max(least_pixels(self.min_foreground, area), self.min_pixels),
            math.floor(self.max_foreground * area + NOISE_PX),
            least_pixels(self.min_valid, area),
        )

    def states(self, foreground: NDArray[np.int64], valid: NDArray[np.int64], area: int) -> NDArray[np.uint8]:
        """Return positions in :data:`KINDS` for pixel counts of windows of ``area`` pixels."""
        least, most, known = self.limits(area)
        states = np.where(foreground >= least, 2, np.where(foreground <= most, 1, 0))
        return np.where(valid >= known, states, 0).astype(np.uint8)

    def kind_of(self, foreground: int, valid: int, area: int) -> str:
        """Return one of :data:`KINDS` for one window."""
        least, most, known = self.limits(area)
        if valid < known:
            return "ignored"
        if foreground >= least:
            return "positive"
        return "negative" if foreground <= most else "ignored"

    def kind_of_window(
        self, sampler: SourceSampler, image_id: int, window: Window, classes: Sequence[int]
    ) -> str:
        """Return one of :data:`KINDS` for a window of an image: from the index, in noise from the labels.

        Parameters
        ----------
        sampler : SourceSampler
        image_id : int
        window : Window
        classes : sequence of int
            Class indices of the foreground.
        """
        index = sampler.foreground
        row = index.row(image_id)
        # Classes that the image has; most images have few of them.
        slots = (VALID, *(slot for slot in classes if index.pixels.item(row, slot)))
        counts = index.count(row, slots, window)
        if counts is not None:
            return self.kind_of(sum(counts[1:]), counts[0], window.height * window.width)
        foreground = valid = 0
        for block in window.blocks(BLOCK_PX):
            labels = sampler.load_mask(image_id, block)
            foreground += int(np.count_nonzero(np.isin(labels, classes)))
            valid += int(np.count_nonzero(labels != sampler.class_map.ignore))
        return self.kind_of(foreground, valid, window.height * window.width)


class Condition(NamedTuple):
    """A window is kept if it shares pixels with a region, and at least ``share`` of its part inside the image.

    Parameters
    ----------
    name : str
        The argument that asked for it, for messages.
    region : Region
    share : float
        0 to 1; 0 is any pixel.
    """

    name: str
    region: Region
    share: float


class GridFilter(NamedTuple):
    """Which windows a grid keeps.

    Parameters
    ----------
    conditions : tuple of Condition
        All of them hold for what is kept.
    rule : TileRule or None
    classes : tuple of int
        Class indices of the rule's foreground.
    only : tuple of int or None
        States (positions in :data:`KINDS`) that are kept; all where None.
    """

    conditions: tuple[Condition, ...]
    rule: TileRule | None
    classes: tuple[int, ...]
    only: tuple[int, ...] | None

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is asked for."""
        return not self.conditions and self.only is None

    @property
    def in_memory(self) -> bool:
        """Whether a part of it is there in this process only."""
        return any(condition.region.in_memory for condition in self.conditions)

    def kept(
        self, sampler: SourceSampler, image_ids: Sequence[int], axes: Sequence[tuple[GridAxis, GridAxis]]
    ) -> KeptPositions:
        """Return what is kept of the grids of some images; reads labels only where they are like noise.

        Raises
        ------
        SamplingError
            If nothing is; says which condition left how much.
        """
        # Positions left after each condition, and after the rule.
        left = np.zeros(len(self.conditions) + 1, np.int64)
        parts = []
        for image_id, pair in zip(image_ids, axes, strict=True):
            for first, stop in _bands(pair):
                kept = self._band(sampler, image_id, pair, (first, stop), left)
                parts.append(np.packbits(kept, axis=1).reshape(-1))
        if not left[-1]:
            names = [condition.name for condition in self.conditions] + ["only"] * (self.only is not None)
            steps = ", ".join(f"{name} left {n}" for name, n in zip(names, left.tolist(), strict=False))
            total = sum(rows.windows * columns.windows for rows, columns in axes)
            raise SamplingError(
                f"no window of the grid is kept: of {total} on {len(image_ids)} images {steps}; ask for "
                "less, or name other images"
            )
        shapes = [(rows.windows, columns.windows) for rows, columns in axes]
        return KeptPositions(shapes, np.concatenate(parts))

    def _band(
        self,
        sampler: SourceSampler,
        image_id: int,
        axes: tuple[GridAxis, GridAxis],
        band: tuple[int, int],
        left: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return what is kept of some rows of a grid; counts in ``left`` what each condition left."""
        kept = np.ones((band[1] - band[0], axes[1].windows), np.bool_)
        for at, condition in enumerate(self.conditions):
            if kept.any():
                shared, inside = _shared(condition.region, sampler, image_id, axes, band)
                least = np.ceil(condition.share * inside - NOISE_PX)
                kept &= (shared > 0) & (shared >= least)
            left[at] += np.count_nonzero(kept)
        if self.only is not None and kept.any():
            kept &= np.isin(self.states(sampler, image_id, axes, band), self.only)
        left[-1] += np.count_nonzero(kept)
        return kept

    def states(
        self,
        sampler: SourceSampler,
        image_id: int,
        axes: tuple[GridAxis, GridAxis],
        band: tuple[int, int],
    ) -> NDArray[np.uint8]:
        """Return the states of rows ``[first, stop)`` of a grid, uint8; needs a rule."""
        rule = self.rule
        assert rule is not None
        foreground, inside = _shared(IndexRegion(self.classes), sampler, image_id, axes, band)
        index = sampler.foreground
        # Without invalid pixels what is valid is what is inside.
        if rule.min_valid and not index.columns.flags[index.row(image_id), 0]:
            inside, _ = _shared(IndexRegion((VALID,)), sampler, image_id, axes, band)
        return rule.states(foreground, inside, axes[0].extent * axes[1].extent)

    def all_states(
        self, sampler: SourceSampler, image_id: int, axes: tuple[GridAxis, GridAxis]
    ) -> NDArray[np.uint8]:
        """Return the state of every position of a grid, uint8 ``(rows, columns)``; needs a rule."""
        return np.concatenate([self.states(sampler, image_id, axes, band) for band in _bands(axes)])


def checked_share(name: str, value: float) -> float:
    """Return a share, 0 to 1.

    Raises
    ------
    TargetError
        If it is none.
    """
    if isinstance(value, str | bool) or not 0 <= value <= 1:
        raise TargetError(f"{name} is a share, 0 to 1, got {value!r}")
    return float(value)


def least_pixels(share: float, area: int) -> int:
    """Return how many pixels are at least a share of an area.

    Examples
    --------
    >>> least_pixels(0.07, 100), least_pixels(0.071, 100), least_pixels(0, 100)
    (7, 8, 0)
    """
    return math.ceil(share * area - NOISE_PX)


def _bands(axes: tuple[GridAxis, GridAxis]) -> Iterator[tuple[int, int]]:
    """Yield rows of a grid that are looked at together."""
    rows, columns = axes
    height = max(1, LATTICE_POINTS // (4 * columns.windows))
    for first in range(0, rows.windows, height):
        yield first, min(first + height, rows.windows)


def _shared(
    region: Region,
    sampler: SourceSampler,
    image_id: int,
    axes: tuple[GridAxis, GridAxis],
    band: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return how many pixels windows share with a region, and how many with the image."""
    rows, columns = axes[0].spans(*band), axes[1].spans(0, axes[1].windows)
    shape = axes[0].length, axes[1].length
    extent = int(rows[0, 0]), int(rows[:, 1].max())
    counts = window_counts(rows, columns, region.rectangles(sampler, image_id, shape, extent))
    return counts, np.diff(rows) * np.diff(columns)[:, 0]
