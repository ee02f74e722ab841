"""``DatasetStatistics``: what there is to sample from, in numbers: the nouns.

:func:`slidesampler.sampling.survey.dataset_statistics` fills it; :mod:`slidesampler.sampling.advice` reads it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ClassStatistics", "DatasetStatistics", "Estimate", "ImageStatistics"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share that was estimated by drawing.

    Parameters
    ----------
    share : float
        0 to 1.
    error : float
        Its standard error, at most; where the share is 0 or 1, one over the number of draws: of what is rarer
        than that nothing was seen.
    """

    share: float
    error: float

    def __str__(self) -> str:
        digits = 1 if self.share >= 0.01 else 2
        return f"{self.share:.{digits}%} ± {self.error:.{digits}%}"


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """One class of a dataset.

    Parameters
    ----------
    class_index : int
    name : str
    annotations : int
    images : int
        Images that have a pixel of it (an annotation of it, for a manifest without pixels under it).
    pixels : int
        Level-0 pixels of the label layers.
    pixel_share : float
        Of the known pixels (background and classes) of all images, 0 to 1.
    area_px : (float, float, float) or None
        Smallest, median and largest area of its annotations, level-0 square pixels; None without annotations.
    window_share : Estimate
        Share of windows at random places of the tissue that hold at least one pixel of it.
    """

    class_index: int
    name: str
    annotations: int
    images: int
    pixels: int
    pixel_share: float
    area_px: tuple[float, float, float] | None
    window_share: Estimate


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """One image of a dataset.

    Parameters
    ----------
    image_id : int
    name : str
    height, width : int
        Level-0 pixels.
    annotations : int
    valid_share, tissue_share, foreground_share : float
        Of the image's pixels; without a tissue mask tissue is what is valid.
    free_share : float or None
        Share of the random windows of this image that hold no foreground pixel; None for an image without
        tissue.
    tries : float or None
        Mean number of tries until such a window, ``1 / free_share``; None where none was found.
    negatives : {"yes", "none found", "impossible"}
        Whether there are windows of this size without foreground. ``"impossible"`` is certain, from the index;
        ``"none found"`` is after a search of 200 more windows.
    """

    image_id: int
    name: str
    height: int
    width: int
    annotations: int
    valid_share: float
    tissue_share: float
    foreground_share: float
    free_share: float | None
    tries: float | None
    negatives: str


@dataclass(frozen=True, slots=True)
class DatasetStatistics:
    """What there is to sample from, and what it would cost.

    Parameters
    ----------
    size : (int, int)
        Windows that the estimates are for, ``(height, width)``, level-0 pixels.
    drawn : int
        Random windows behind the estimates.
    classes : tuple of ClassStatistics
        By class index, without the background.
    images : tuple of ImageStatistics
        In the sampler's order.
    valid_share, tissue_share, foreground_share : float
        Of the pixels of all images.
    any_foreground, enough_foreground : Estimate
        Share of random windows with at least one foreground pixel, and with at least ``threshold`` of them.
    threshold : int
        Level-0 pixels.
    warnings : tuple of str
        What will not work, and what to use instead; one sentence or two each.
    """

    size: tuple[int, int]
    drawn: int
    classes: tuple[ClassStatistics, ...]
    images: tuple[ImageStatistics, ...]
    valid_share: float
    tissue_share: float
    foreground_share: float
    any_foreground: Estimate
    enough_foreground: Estimate
    threshold: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in JSON types."""
        return asdict(self)
