"""``Batch``: many windows of one size as stacked arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.models import Annots, Sample
from slidesampler.target import Target

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """What :meth:`slidesampler.Sampler.load_batch` gives: N windows of one size, in the order asked.

    Parameters
    ----------
    image : ndarray, shape (N, H, W, C), or (N, C, H, W) where ``channels_first``
        Pixels in the stored dtype (or the one the targets asked for).
    mask : ndarray of uint8 or uint16, shape (N, H, W), or None
        Class index per pixel; the class map's *ignore* where ``valid`` is False.
    valid : ndarray of bool, shape (N, H, W)
        Which pixels are real: False outside the image and outside its valid region.
    targets : tuple of Target
        As resolved: ids, window, size and downsample filled in.
    rel_to_abs : ndarray of float64, shape (N, 3, 3)
        Takes ``(x, y, 1)`` in pixels of a window to level-0 pixels of its image.
    channels_first : bool
    instances : ndarray of uint32, shape (N, H, W), or None
        1 + position of the annotation in the image's list, 0 where there is none; only on request.
    annots : tuple, or None
        What :class:`~slidesampler.Sample` has as ``annots``, one a window; only on request.

    Notes
    -----
    Sequences of T frames have an axis ``T`` after the first on image, mask, valid and instances.

    Examples
    --------
    >>> import numpy as np
    >>> from slidesampler import Sampler
    >>> pixels = np.arange(100 * 80 * 3, dtype=np.uint8).reshape(100, 80, 3)
    >>> sampler = Sampler({"images": [{"id": 1, "file_name": "array://a"}]}, arrays={"a": pixels})
    >>> batch = sampler.load_batch([{"image_id": 1, "window": (y, 8, 16, 32)} for y in (0, 40, 80)])
    >>> batch.image.shape, len(batch), batch[1].window
    ((3, 16, 32, 3), 3, Window(y=40, x=8, height=16, width=32))
    """

    image: NDArray[Any]
    mask: NDArray[Any] | None
    valid: NDArray[np.bool_]
    targets: tuple[Target, ...]
    rel_to_abs: NDArray[np.float64]
    channels_first: bool = False
    instances: NDArray[np.uint32] | None = None
    annots: tuple[Annots | tuple[Annots, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Sample:
        """Return one window; its arrays are views, the image ``(H, W, C)`` whatever the batch's order.

        Raises
        ------
        IndexError
            If there is no such window.
        """
        image = self.image[i]
        return Sample(
            image=np.moveaxis(image, -3, -1) if self.channels_first else image,
            mask=None if self.mask is None else self.mask[i],
            valid=self.valid[i],
            annots=None if self.annots is None else self.annots[i],
            target=self.targets[i],
            rel_to_abs=self.rel_to_abs[i],
            instances=None if self.instances is None else self.instances[i],
        )
