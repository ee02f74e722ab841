"""What a window holds: pixels of every class, counted where that is cheapest and always exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground import VALID, ForegroundIndex
from slidesampler.geometry import Window
from slidesampler.sampling.base import SourceSampler
from slidesampler.target import Target

__all__ = ["ClassCounts", "class_counts", "read_class_counts", "target_counts"]

#: Labels are looked at in blocks of this side, so that a window of any size costs bounded memory.
BLOCK_PX = 1024


class ClassCounts(NamedTuple):
    """Pixels of a window, by class."""

    #: Pixels of every class index, the background first; int64 ``(n_classes,)``.
    counts: NDArray[np.int64]
    #: Pixels of no class, not even the background: outside the image or its valid region, or *ignored*.
    ignored: int

    @property
    def foreground(self) -> int:
        """Pixels that have a class other than the background."""
        return int(self.counts[1:].sum())

    @property
    def valid(self) -> int:
        """Pixels that are not ignored: background and foreground."""
        return int(self.counts.sum())

    @property
    def labels(self) -> int:
        """How many class indices have at least one pixel, the background among them."""
        return int(np.count_nonzero(self.counts))


def class_counts(
    sampler: SourceSampler,
    image_id: int,
    window: Window,
    size: tuple[int, int] | None = None,
    *,
    index: ForegroundIndex | None = None,
) -> ClassCounts:
    """Return the pixels of each class of a window, as its mask shows them.

    At full resolution the foreground index answers, and the labels are read only where it cannot tell (labels
    like noise). A mask of reduced size has pixels of its own, so that one is read.

    Parameters
    ----------
    sampler : SourceSampler
    image_id : int
    window : Window
        Level-0 pixels; what overhangs the image is ignored pixels.
    size : (int, int), optional
        ``(height, width)`` of the mask; the window's own where None.
    index : ForegroundIndex, optional
        ``sampler.foreground``, for callers that keep it.

    Returns
    -------
    ClassCounts
        Their sum, with ``ignored``, is ``height * width`` of the mask.

    Examples
    --------
    >>> from slidesampler import Sampler
    >>> manifest = {
    ...     "images": [{"id": 1, "file_name": "array://judged"}],
    ...     "categories": [{"id": 1, "name": "tumour"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 2]}],
    ... }
    >>> sampler = Sampler(manifest, arrays={"judged": np.zeros((10, 40), np.uint8)})
    >>> found = class_counts(sampler, 1, Window(0, 0, 20, 10))
    >>> found.counts.tolist(), found.ignored
    ([88, 12], 100)
    """
    if size is None or size == window.shape:
        index = sampler.foreground if index is None else index
        found = index.count(index.row(image_id), range(index.n_classes), window)
        if found is not None:
            valid = found[VALID]
            found[0] = valid - sum(found[1:])
            return ClassCounts(np.array(found, np.int64), window.height * window.width - valid)
    return read_class_counts(sampler, image_id, window, size)


def read_class_counts(
    sampler: SourceSampler, image_id: int, window: Window, size: tuple[int, int] | None = None
) -> ClassCounts:
    """Return what :func:`class_counts` returns, from the labels alone.

    For windows of images whose foreground index nobody has built.
    """
    n_classes, ignore = len(sampler.class_map.names), sampler.class_map.ignore
    counts = np.zeros(n_classes, np.int64)
    pixels = ignored = 0
    whole = size is None or size == window.shape
    for block in window.blocks(BLOCK_PX) if whole else (window,):
        mask = sampler.load_mask(image_id, block, None if whole else size)
        found = np.bincount(mask.reshape(-1), minlength=ignore + 1)
        counts += found[:n_classes]
        ignored += int(found[ignore])
        pixels += mask.size
    if counts.sum() + ignored != pixels:
        raise ValueError(f"the mask of image {image_id} has class indices that the class map has not")
    return ClassCounts(counts, ignored)


def target_counts(
    sampler: SourceSampler, target: Target, *, index: ForegroundIndex | None = None, read: bool = False
) -> ClassCounts:
    """Return the pixels of each class of a target's mask, in the output pixels that a sample of it has.

    Parameters
    ----------
    sampler : SourceSampler
    target : Target
        Of one image; not a sequence.
    index : ForegroundIndex, optional
        ``sampler.foreground``, for callers that keep it.
    read : bool
        Read the labels rather than ask the index.

    Raises
    ------
    TargetError
        If the target cannot be resolved.
    """
    image_id, window, size = target.image_id, target.window, None
    plain = target.size is None and target.downsample is None and target.mpp is None and not any(target.pad)
    if image_id is None or window is None or not plain:
        resolved = sampler.resolve(target)
        image_id, window, size = resolved.image_id, resolved.window, resolved.size
        assert image_id is not None
        assert window is not None
    if read:
        return read_class_counts(sampler, image_id, window, size)
    return class_counts(sampler, image_id, window, size, index=index)
