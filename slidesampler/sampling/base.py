"""What every source of windows is: a pure function from ``(epoch, index)`` to a target.

A source answers *where?* and never sees a pixel. It is asked for any index in any order by any process, so all
it knows is drawn from ``rng_for(seed, epoch, index)`` and from the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground import ForegroundIndex
from slidesampler.geometry import Window
from slidesampler.models import ClassMap, ImageRecord
from slidesampler.shapes import Shapes
from slidesampler.target import Target

__all__ = ["AnnotTable", "SourceSampler", "TargetSource"]


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

    @property
    def category_names(self) -> Mapping[int, str]:
        """Name of every category id."""
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

    @property
    def foreground(self) -> ForegroundIndex:
        """Where the classes of every image are; rows are in the order of ``image_ids``."""
        ...

    def image_record(self, image_id: int) -> ImageRecord:
        """Return what the manifest says of an image; opens no file."""
        ...

    def image_shape(self, image_id: int) -> tuple[int, int, int]:
        """Return ``(H, W, C)``; may open the image."""
        ...

    def resolve(self, target: Target) -> Target:
        """Return the target with its window and output size filled in."""
        ...

    def load_mask(
        self, image_id: int, window: Window, size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return class indices ``(h, w)`` of a window, at full resolution or at ``size``; reads no pixels."""
        ...
