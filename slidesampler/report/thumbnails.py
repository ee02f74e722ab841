"""Small pictures of whole slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.report.contact_sheet import display_pixels
from slidesampler.sampler import Sampler

__all__ = ["THUMBNAIL_PX", "Thumbnail", "read_thumbnail"]

#: Pixels of a thumbnail's longer side.
THUMBNAIL_PX = 480


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """A whole slide, small.

    Parameters
    ----------
    image_id : int
    image : uint8 (h, w, 3)
    mask : integers (h, w)
        Class index of each pixel.
    size : (int, int)
        ``(H, W)`` of the slide, level-0 pixels.
    """

    image_id: int
    image: NDArray[np.uint8]
    mask: NDArray[Any]
    size: tuple[int, int]


def read_thumbnail(sampler: Sampler, image_id: int, longest: int = THUMBNAIL_PX) -> Thumbnail:
    """Read a slide at a coarse level.

    Parameters
    ----------
    sampler : Sampler
        Of a cache, a coarse level is read; a source without levels is read whole.
    image_id : int
    longest : int
        Pixels of the longer side, at most.

    Raises
    ------
    SlideSamplerError
        If the slide cannot be read.
    """
    height, width = sampler.image_shape(image_id)[:2]
    scale = max(1.0, max(height, width) / longest)
    small = max(1, round(height / scale)), max(1, round(width / scale))
    sample = sampler.load_sample({"image_id": image_id, "size": small}, with_annots=False)
    assert sample.mask is not None
    return Thumbnail(image_id, display_pixels(sample), sample.mask, (height, width))
