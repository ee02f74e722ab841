"""What every source of windows is: a pure function from ``(epoch, index)`` to a target.

A source answers *where?* and never sees a pixel. It is asked for any index in any order by any process, so all
it knows is drawn from ``rng_for(seed, epoch, index)`` and from the manifest.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import Window, ceil_size
from slidesampler.models import ClassMap
from slidesampler.shapes import Shapes
from slidesampler.target import Target

__all__ = ["AnnotTable", "ImageChoice", "SourceSampler", "TargetSource", "WindowShape", "WindowSource"]


@runtime_checkable
class TargetSource(Protocol):
    """The one way windows are chosen.

    A source is pure: ``target(epoch, index)`` is the same whatever was asked before, in any process, thread or
    worker, whether the cache is warm or cold. It reads no pixels (labels at most), it pickles small, and its
    length never changes. :class:`slidesampler.testing.source_contract.SourceContract` tests all of this.
    """

    def __len__(self) -> int:
        """Return how many targets an epoch has."""
        ...

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index``, in ``[0, len(self))``, of an epoch.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``; negative indices do not count from the end here (they do
            in :class:`slidesampler.torch.WindowDataset`).
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        """
        ...


class AnnotTable(Protocol):
    """The part of a manifest that sources look at: annotations as columns."""

    @property
    def shapes(self) -> Shapes:
        """All annotations, those of one image next to each other."""
        ...

    def shapes_of(self, image_id: int) -> Shapes:
        """Return the annotations of one image; costs the same however many there are."""
        ...

    def locate_annot(self, annot_id: int) -> tuple[int, int]:
        """Return the image of an annotation and its row within ``shapes_of`` that image."""
        ...


class SourceSampler(Protocol):
    """What a source needs of a sampler; :class:`slidesampler.Sampler` satisfies it."""

    @property
    def manifest(self) -> AnnotTable:
        """The annotations."""
        ...

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Every image of the manifest, in its order."""
        ...

    @property
    def class_map(self) -> ClassMap:
        """Categories <-> class indices."""
        ...

    def image_shape(self, image_id: int) -> tuple[int, int, int]:
        """Return ``(H, W, C)``."""
        ...

    def resolve(self, target: Target) -> Target:
        """Return the target with its window and output size filled in."""
        ...

    def load_mask(
        self, image_id: int, window: Window, size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return class indices ``(h, w)`` of a window, at full resolution or at ``size``; reads no pixels."""
        ...


#: Fields of a target that say *how* it is read; the others say where, which is the source's business.
HOW_FIELDS = ("channels", "dtype", "nodata", "padding")


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How large the windows of a source are, and how they are to be read.

    Parameters
    ----------
    size : (int, int)
        Output pixels, ``(height, width)``.
    downsample : float or None
        Level-0 pixels per output pixel, at least 1.
    mpp : float or None
        Micrometres per output pixel; needs images whose resolution is known. Not with ``downsample``.
    how : Target
        ``channels``, ``dtype``, ``nodata`` and ``padding`` of every target.

    See Also
    --------
    WindowShape.of : parses what a user gives.
    """

    size: tuple[int, int]
    downsample: float | None
    mpp: float | None
    how: Target

    @classmethod
    def of(
        cls,
        size: int | tuple[int, int],
        downsample: float | None = None,
        mpp: float | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> WindowShape:
        """Return the shape that a user's words mean; one number is a square.

        Raises
        ------
        TargetError
            For values that no target takes, both scales at once, or a ``how`` that says where.
        """
        # One door for everything that becomes part of a target: its own parser.
        given = Target.from_mapping({"size": size, "downsample": downsample, "mpp": mpp})
        if given.size is None:
            raise TargetError("size must be a whole number of output pixels or (height, width), got None")
        if given.downsample is not None and given.mpp is not None:
            raise TargetError("'downsample' and 'mpp' both say the output pixel size; give one of them")
        template = Target() if how is None else Target.coerce(how)
        misplaced = set(template.to_mapping()) - set(HOW_FIELDS)
        if misplaced:
            raise TargetError(
                f"how takes {', '.join(HOW_FIELDS)}, got {', '.join(sorted(misplaced))}: "
                "the source itself chooses where and how large"
            )
        return cls(given.size, given.downsample, given.mpp, template)

    def extent(self, sampler: SourceSampler, image_id: int) -> tuple[int, int]:
        """Return ``(height, width)`` of a window in level-0 pixels of one image.

        Raises
        ------
        TargetError
            If ``mpp`` is asked for and the image has no known resolution.
        """
        if self.mpp is None:
            scale = self.downsample or 1.0
            return ceil_size(self.size[0] * scale), ceil_size(self.size[1] * scale)
        # Only the sampler knows the image's resolution (the manifest's word, an override, or the file's).
        probe = Target(image_id=image_id, cx=0.0, cy=0.0, size=self.size, mpp=self.mpp)
        window = sampler.resolve(probe).window
        assert window is not None
        return window.shape

    def target(
        self,
        image_id: int,
        window: Window,
        kind: str,
        index: int,
        annot_id: int | None = None,
        category_id: int | None = None,
    ) -> Target:
        """Return the target of one window."""
        # A window at full resolution implies its size; saying it again would only make batches larger.
        scaled = self.downsample is not None or self.mpp is not None
        return self.how.with_fields(
            image_id=image_id,
            window=window,
            size=self.size if scaled else None,
            downsample=self.downsample,
            mpp=self.mpp,
            kind=kind,
            index=index,
            annot_id=annot_id,
            category_id=category_id,
        )


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

    def ids(self, sampler: SourceSampler) -> NDArray[np.int64]:
        """Return the image ids, in the order given."""
        ids = np.asarray(sampler.image_ids, dtype=np.int64)
        return ids if self._positions is None else ids[self._positions]


class WindowSource(ABC):
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

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), cached_property)
        }


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


def checked_count(n: int) -> int:
    """Return ``n``, the number of windows an epoch has.

    Raises
    ------
    ValueError
        If it is less than 1.
    TypeError
        If it is not a whole number.
    """
    number = operator.index(n)
    if number < 1:
        raise ValueError(f"n must be at least 1, got {number}")
    return number


def checked_pair(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    """Return a number per axis, ``(y, x)``, for one number or a pair of them.

    Raises
    ------
    TargetError
        If they are not whole numbers of at least ``minimum``.
    """
    pair = np.asarray(value)
    if pair.dtype.kind not in "iu" or pair.shape not in ((), (2,)) or pair.min() < minimum:
        raise TargetError(
            f"{name} must be whole pixels, one number or one per axis (y, x), at least {minimum}; got {value!r}"
        )
    y, x = np.broadcast_to(pair, (2,)).tolist()
    return y, x
