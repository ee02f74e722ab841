"""Every window of a regular grid, for validation and inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import Window, ceil_size
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.shape import WindowShape, image_sizes
from slidesampler.sampling.windows import WindowSource, checked_pair
from slidesampler.target import Target

__all__ = ["GridSource"]


class GridSource(WindowSource):
    """Windows that cover images row by row, the last of each row and column tucked in at the edge.

    The order is image by image as ``image_ids`` has them, then row by row, then left to right. No list of
    windows is kept, window ``index`` is computed from ``index``: a grid over 10,000 slides costs a few numbers
    each. An image smaller than a window gets one window that overhangs it below and to the right.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    stride : int or (int, int), optional
        Output pixels from one window to the next; ``size`` where None, so that windows touch. A stride larger
        than the size leaves gaps.
    overlap : int or (int, int), optional
        Output pixels that neighbours share, less than ``size``; another way to say ``stride = size - overlap``.
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    TargetError
        For a stride below 1, an overlap of the whole window, or an image that the manifest has not.

    Notes
    -----
    The targets have ``kind="grid"``. The grid is the same in every epoch.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        *,
        overlap: int | tuple[int, int] | None = None,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how), image_ids)
        self.stride = _stride(self.shape.size, stride, overlap)
        self._length = int(self._table.stops[-1])

    def __len__(self) -> int:
        return self._length

    def _draw(self, epoch: int, index: int) -> Target:  # noqa: ARG002  (the same in every epoch)
        table = self._table
        image = int(np.searchsorted(table.stops, index, side="right"))
        rank = index - (int(table.stops[image - 1]) if image else 0)
        place = divmod(rank, int(table.counts[image, 1]))
        # Item ``place`` of geometry.axis_positions along each axis, without listing them all.
        last = np.maximum(table.lengths[image] - table.extents[image], 0)
        y, x = np.minimum(place * table.steps[image], last).tolist()
        height, width = table.extents[image].tolist()
        return self.shape.target(table.ids[image], Window(y, x, height, width), "grid", index)

    @cached_property
    def _table(self) -> _GridTable:
        ids = self._images.ids(self.sampler)
        lengths, extents = image_sizes(self.sampler, ids), self.shape.extents(self.sampler, ids)
        # The step scales with the window and never falls behind it: touching windows touch at any scale.
        (stride_y, stride_x), (height, width) = self.stride, self.shape.size
        steps = np.array([(_step(h, stride_y, height), _step(w, stride_x, width)) for h, w in extents.tolist()])
        beyond = np.maximum(lengths - extents, 0)
        counts = -(-beyond // steps) + 1
        return _GridTable(ids, lengths, extents, steps, counts, np.cumsum(counts.prod(axis=1)))


class _GridTable(NamedTuple):
    """Per image; pairs are ``(y, x)``, level-0 pixels."""

    ids: list[int]
    lengths: NDArray[np.int64]
    extents: NDArray[np.int64]
    steps: NDArray[np.int64]
    counts: NDArray[np.int64]
    #: Index after the last window of the image.
    stops: NDArray[np.int64]


def _step(extent: int, stride: int, size: int) -> int:
    """Return the stride in level-0 pixels, rounded so that it leaves no gap that was not asked for."""
    step = ceil_size(stride * (extent / size))
    return min(step, extent) if stride <= size else step


def _stride(
    size: tuple[int, int], stride: int | tuple[int, int] | None, overlap: int | tuple[int, int] | None
) -> tuple[int, int]:
    if stride is not None and overlap is not None:
        raise TargetError("'stride' and 'overlap' both say the step of the grid; give one of them")
    if overlap is not None:
        shared = checked_pair("overlap", overlap, 0)
        if shared[0] >= size[0] or shared[1] >= size[1]:
            raise TargetError(f"overlap must be less than the size {size}, got {overlap!r}")
        return size[0] - shared[0], size[1] - shared[1]
    return size if stride is None else checked_pair("stride", stride, 1)
