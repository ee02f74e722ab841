"""Windows that hold no foreground."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import NegativesExhaustedError, SamplingError
from slidesampler.geometry import Window
from slidesampler.rng import rng_for
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.shape import WindowShape, image_sizes
from slidesampler.sampling.windows import WindowSource, checked_count
from slidesampler.target import Target

__all__ = ["NegativeSource"]

#: Masks are looked at in blocks of this side, so that a window of any size costs bounded memory.
BLOCK_PX = 1024


class NegativeSource(WindowSource):
    """Windows at random places of the images, none of them over a pixel of foreground.

    Each window is drawn uniformly: an image with a chance that grows with its area, then a place inside it.
    It is kept only if no pixel under it has a class: what counts is the *mask*, pixel by pixel at full
    resolution, so a window inside a huge annotation is never a negative and one inside a hole may be. A window
    that is read at reduced resolution is also checked as it will be read. Otherwise another one is drawn.

    *Ignored* pixels (outside the image or its valid region, or under an annotation without category) are
    neither foreground nor background: a window is drawn again, too, where less than ``min_valid`` is known.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    n : int
        Windows an epoch.
    seed : int
        Same seed, same windows.
    max_tries : int
        Draws per window before giving up. Each reads one window of the label layer.
    min_valid : float
        Share of a window, 0 to 1, that must be known to be background (not *ignore*).
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    SamplingError
        If every image is too small to fill ``min_valid`` of a window.
    ValueError
        For ``n`` or ``max_tries`` below 1, or ``min_valid`` outside 0 to 1.
    TargetError
        For an image that the manifest has not, or a size that no target takes.

    Notes
    -----
    Windows lie wholly inside the image; along an axis where the image is shorter than the window, the image
    lies wholly inside the window. The targets have ``kind="negative"``.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        n: int,
        seed: int = 0,
        *,
        max_tries: int = 1000,
        min_valid: float = 0.5,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how), image_ids)
        if operator.index(max_tries) < 1:
            raise ValueError(f"max_tries must be at least 1, got {max_tries}")
        if not 0 <= min_valid <= 1:
            raise ValueError(f"min_valid is a share, 0 to 1, got {min_valid}")
        self.seed = operator.index(seed)
        self.max_tries = max_tries
        self.min_valid = min_valid
        self._length = checked_count(n)
        self._check_possible()

    def __len__(self) -> int:
        return self._length

    def _draw(self, epoch: int, index: int) -> Target:
        """Return the first window drawn that is a negative.

        Raises
        ------
        NegativesExhaustedError
            If none of ``max_tries`` windows is one.
        """
        rng = rng_for(self.seed, epoch, index, "negative")
        refused = {"foreground": 0, "unknown": 0}
        for _ in range(self.max_tries):
            image_id, window = self._propose(rng)
            target = self.shape.target(image_id, window, "negative", index)
            reason = self._refuse(target, image_id, window)
            if reason is None:
                return target
            refused[reason] += 1
        height, width = self.shape.size
        raise NegativesExhaustedError(
            f"no window of {height} x {width} without foreground for index {index} of epoch {epoch}: wanted 1, "
            f"found 0 in {self.max_tries} tries ({refused['foreground']} held foreground, {refused['unknown']} "
            f"were less than {self.min_valid:.0%} known); use smaller windows, a lower min_valid, more "
            "max_tries, or images with more background",
            wanted=1,
            found=0,
            tries=self.max_tries,
        )

    def _propose(self, rng: np.random.Generator) -> tuple[int, Window]:
        table = self._table
        image = int(np.searchsorted(table.area_stops, rng.integers(table.area_stops[-1]), side="right"))
        slack = table.lengths[image] - table.extents[image]
        y, x = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1).tolist()
        height, width = table.extents[image].tolist()
        return table.ids[image], Window(y, x, height, width)

    def _refuse(self, target: Target, image_id: int, window: Window) -> str | None:
        """Return why a window is no negative; None where it is one."""
        ignore = self.sampler.class_map.ignore
        unknown_allowed = (1 - self.min_valid) * window.height * window.width
        unknown = 0
        for block in window.blocks(BLOCK_PX):
            mask = self.sampler.load_mask(image_id, block)
            background, ignored = np.count_nonzero(mask == 0), np.count_nonzero(mask == ignore)
            if background + ignored < mask.size:
                return "foreground"
            unknown += int(ignored)
            if unknown > unknown_allowed:
                return "unknown"
        if target.downsample is None and target.mpp is None:
            return None
        # A pixel of a reduced mask may show ground just outside the window (the pixel of a label level that
        # reaches over the edge), and the promise is about what the training loop gets to see.
        size = self.sampler.resolve(target).size
        reduced = self.sampler.load_mask(image_id, window, size)
        return "foreground" if ((reduced != 0) & (reduced != ignore)).any() else None

    def _check_possible(self) -> None:
        if not self._table.area_stops[-1]:
            largest = self._table.lengths[self._table.best]
            raise SamplingError(
                f"windows of {self.shape.size[0]} x {self.shape.size[1]} output pixels are too large: no image "
                f"fills {self.min_valid:.0%} of one (the best has {largest[0]} x {largest[1]} level-0 pixels); "
                "use a smaller size or a lower min_valid"
            )

    @cached_property
    def _table(self) -> _AreaTable:
        ids = self._images.ids(self.sampler)
        lengths, extents = image_sizes(self.sampler, ids), self.shape.extents(self.sampler, ids)
        filled = (np.minimum(lengths, extents) / extents).prod(axis=1)
        areas = np.where(filled >= self.min_valid, lengths.prod(axis=1), 0)
        return _AreaTable(ids, lengths, extents, np.cumsum(areas), int(np.argmax(filled)))


class _AreaTable(NamedTuple):
    """Per image; pairs are ``(y, x)``, level-0 pixels."""

    ids: list[int]
    lengths: NDArray[np.int64]
    extents: NDArray[np.int64]
    #: Cumulative area in square pixels; an image too small for the windows adds nothing.
    area_stops: NDArray[np.int64]
    #: Position of the image that fills the most of a window.
    best: int
