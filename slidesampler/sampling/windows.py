"""The common part of sources that cut windows out of a sampler's images."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.shape import WindowShape
from slidesampler.target import Target

__all__ = ["ImageChoice", "TablesMadeAnew", "WindowSource", "checked_count", "checked_index"]


class ImageChoice:
    """Which images of a sampler a source draws from, in the order given.

    Kept as positions in the sampler's list in the smallest integers that hold them, so that a source over
    10,000 images still pickles to a few kilobytes.

    Parameters
    ----------
    sampler : SourceSampler
    image_ids : iterable of int, optional
        All images where None.

    Raises
    ------
    TargetError
        For an image that the sampler has not, one named twice, or no image at all.
    """

    def __init__(self, sampler: SourceSampler, image_ids: Iterable[int] | None = None) -> None:
        self._positions: NDArray[np.unsignedinteger[Any]] | None = None
        if image_ids is None:
            if not sampler.image_ids:
                raise TargetError("the manifest has no images to choose windows from")
            return
        wanted = [operator.index(image_id) for image_id in image_ids]
        if not wanted:
            raise TargetError("image_ids is empty: name at least one image, or leave it out for all of them")
        where = {image_id: position for position, image_id in enumerate(sampler.image_ids)}
        unknown = [image_id for image_id in wanted if image_id not in where]
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
            raise TargetError(
                f"{len(unknown)} of the {len(wanted)} image_ids are not in the manifest: {shown}; "
                f"it has {len(where)} images"
            )
        if len(set(wanted)) < len(wanted):
            twice = next(image_id for image_id in wanted if wanted.count(image_id) > 1)
            raise TargetError(f"image_ids names image {twice} more than once")
        positions = np.array([where[image_id] for image_id in wanted])
        self._positions = positions.astype(np.min_scalar_type(len(where)))

    @property
    def everything(self) -> bool:
        """Whether all images are meant, in the manifest's order."""
        return self._positions is None

    def ids(self, sampler: SourceSampler) -> list[int]:
        """Return the image ids, in the order given."""
        ids = sampler.image_ids
        return list(ids) if self._positions is None else [ids[position] for position in self._positions]


class TablesMadeAnew:
    """Leaves what ``functools.cached_property`` made out of pickles: it is made again where it is needed.

    So a source pickles small, and a worker process starts fast.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), cached_property)
        }


class WindowSource(TablesMadeAnew, ABC):
    """Base of sources that cut windows of one shape out of a sampler's images.

    A subclass says how many windows there are and draws one. Tables that can be made again from the manifest
    belong into ``functools.cached_property``: they are left out of pickles and made again where needed, so that
    a worker process starts fast and a source pickles small.
    """

    def __init__(
        self, sampler: SourceSampler, shape: WindowShape, image_ids: Iterable[int] | None = None
    ) -> None:
        self.sampler = sampler
        self.shape = shape
        self._images = ImageChoice(sampler, image_ids)

    @abstractmethod
    def __len__(self) -> int:
        """Return how many targets an epoch has."""

    @abstractmethod
    def _draw(self, epoch: int, index: int) -> Target:
        """Return the target; ``index`` is in ``[0, len(self))``."""

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index`` of an epoch; see :meth:`TargetSource.target`.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        """
        return self._draw(operator.index(epoch), checked_index(index, len(self)))


def checked_index(index: int, length: int) -> int:
    """Return ``index`` as an int in ``[0, length)``.

    Raises
    ------
    IndexError
        If it is not in that range.
    TypeError
        If it is not a whole number.
    """
    number = operator.index(index)
    if not 0 <= number < length:
        raise IndexError(f"index {number} was asked for; this source has {length} targets, counted from 0")
    return number


def checked_count(n: int, what: str = "n") -> int:
    """Return ``n``, the number of windows an epoch has (or of something else, ``what``).

    Raises
    ------
    ValueError
        If it is less than 1.
    TypeError
        If it is not a whole number.
    """
    number = operator.index(n)
    if number < 1:
        raise ValueError(f"{what} must be at least 1, got {number}")
    return number
