"""``SampleSummary``: what a set of windows shows of a dataset, beside what was asked for.

:func:`slidesampler.sampling.summary.summarize` fills it, the command line prints it, and the report draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window

__all__ = [
    "AskedShares",
    "ClassServed",
    "Coverage",
    "ImageServed",
    "KindServed",
    "Region",
    "SampleSummary",
    "TryCounts",
]


@dataclass(frozen=True, slots=True)
class AskedShares:
    """The shares of its windows that a source was asked for.

    Parameters
    ----------
    kinds : mapping of str to float
        Share of each :attr:`Target.kind`; sums to 1. Empty where nobody asked for any.
    classes : mapping of int to float
        Share of each class index among the windows that were chosen for a class; sums to 1. Empty as above.
    images : mapping of int to float
        Share of each image id among all windows; sums to 1. Empty as above.
    """

    kinds: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[int, float] = field(default_factory=dict)
    images: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindServed:
    """Windows of one kind.

    Parameters
    ----------
    kind : str
        ``"positive"``, ``"negative"``, ``"grid"`` ...; ``""`` for targets that have none.
    windows : int
    served : float
        Share of all windows, 0 to 1.
    asked : float or None
        Share that was asked for; None where nobody did.
    """

    kind: str
    windows: int
    served: float
    asked: float | None


@dataclass(frozen=True, slots=True)
class ClassServed:
    """One class: what was asked for, what was served.

    Parameters
    ----------
    class_index : int
        From 1 on.
    name : str
    windows : int
        Windows that were chosen *for* this class (by their ``category_id``).
    served : float
        Their share of the windows that were chosen for any class, 0 to 1.
    asked : float or None
        Share that was asked for; None where nobody did.
    windows_with : int or None
        Windows (of those counted) that hold at least one pixel of the class, whatever they were chosen for;
        None where pixels were not counted.
    pixels : int or None
        Pixels of the class in the masks of the windows counted, as they are served; a pixel seen twice counts
        twice. None where pixels were not counted.
    pixel_share : float or None
        Its share of all known pixels (background and classes, not *ignore*) of all windows.
    dataset_share : float or None
        Share of the known pixels of all images, to compare with; None where pixels were not counted.
    suggested_weight : float
        Weight for the next run (``class_weights``): what is asked for (equal shares where nothing is) over what
        was served; at most ten times the smallest, and they sum to 1. 0 for a class without annotations.
    """

    class_index: int
    name: str
    windows: int
    served: float
    asked: float | None
    windows_with: int | None
    pixels: int | None
    pixel_share: float | None
    dataset_share: float | None
    suggested_weight: float


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image that was seen much more or much less than the rest of what there is to see.

    Parameters
    ----------
    window : Window
        The box around it, level-0 pixels, cut to the image.
    cells : int
        Cells of the coverage grid that it has (the box may hold others).
    seen, expected : float
        Mean number of times that a pixel in these cells was in a window, and what it would be if all that there
        is to see in this image had been seen as often.
    """

    window: Window
    cells: int
    seen: float
    expected: float


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """How often each part of one image was in a window.

    Parameters
    ----------
    cell_px : int
        Side of a cell, level-0 pixels; a power of two. The last row and column of cells may be cut off by the
        image.
    seen : float32 (rows, columns)
        Mean number of times that a pixel of the cell was in a window.
    interest : float32 (rows, columns)
        Share of the cell's pixels that are worth seeing: tissue (where there is no tissue mask, valid). 0 to 1.
    expected : float32 (rows, columns)
        What ``seen`` would be if all tissue of this image had been seen as often: the mean of ``seen``,
        weighted by tissue, where there is tissue, and 0 where there is none.
    under, over : tuple of Region
        Connected cells (also diagonally) with less than half, or more than twice, of what is expected, beyond
        what chance explains (three standard deviations of a Poisson count); the largest first, at most ten
        each.
    """

    cell_px: int
    seen: NDArray[np.float32]
    interest: NDArray[np.float32]
    expected: NDArray[np.float32]
    under: tuple[Region, ...]
    over: tuple[Region, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImageServed:
    """One image: what was asked for, what was served.

    Parameters
    ----------
    image_id : int
    name : str
    height, width : int
        Level-0 pixels.
    windows : int
    served : float
        Share of all windows, 0 to 1.
    asked : float or None
        Share that was asked for; None where nobody did.
    tissue_share : float
        Share of the tissue (valid pixels where there is no tissue mask) of all images, to compare with.
    kinds : mapping of str to int
        Windows of each kind.
    classes : mapping of int to int
        Windows chosen for each class index.
    seen_share : float
        Share of the image's tissue that was in at least one window, from the cells of the coverage grid: a cell
        that was seen by a half counts half. 0 where there are no windows.
    coverage : Coverage or None
        None for an image without windows.
    suggested_weight : float
        Weight for the next run (``image_weights``): asked for (the share of the tissue where nobody did) over
        served; at most ten times the smallest, and they sum to 1. 0 for an image that has nothing to see.
    """

    image_id: int
    name: str
    height: int
    width: int
    windows: int
    served: float
    asked: float | None
    tissue_share: float
    kinds: Mapping[str, int]
    classes: Mapping[int, int]
    seen_share: float
    coverage: Coverage | None
    suggested_weight: float


@dataclass(frozen=True, slots=True)
class TryCounts:
    """Tries that a kind of windows took.

    Parameters
    ----------
    kind : str
    windows : int
        Windows that say how many tries they took.
    tries : int
        All tries of these, the accepted ones included.
    refused : mapping of str to int
        Tries that were refused, by reason: ``{"foreground": 12, "unknown": 3}``.
    exhausted : int
        Windows for which none of the tries would do (they raised, or the best was taken).
    """

    kind: str
    windows: int
    tries: int
    refused: Mapping[str, int]
    exhausted: int = 0

    @property
    def mean_tries(self) -> float:
        """Tries a window; 0 where there are none."""
        return self.tries / self.windows if self.windows else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SampleSummary:
    """What a set of windows shows of a dataset, beside what was asked for.

    Parameters
    ----------
    windows : int
    seed, epochs : int or None, tuple of int
        What is known of where they come from; epochs ascending, empty where unknown.
    kinds : tuple of KindServed
        By number of windows, the most frequent first; kinds that were asked for and never served at the end.
    classes : tuple of ClassServed
        One a class, by class index; the background has none.
    images : tuple of ImageServed
        One an image of the sampler, in its order.
    tries : tuple of TryCounts
        One a kind that was drawn by trying; empty where the targets say nothing of it.
    counted : int
        Windows whose pixels were counted: all, or evenly chosen ones of many.
    duplicates : int
        Windows that are on the same image with the same rectangle and the same scale as an earlier one.
    """

    windows: int
    kinds: tuple[KindServed, ...]
    classes: tuple[ClassServed, ...]
    images: tuple[ImageServed, ...]
    tries: tuple[TryCounts, ...]
    duplicates: int
    seed: int | None = None
    epochs: tuple[int, ...] = ()
    counted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the coverage grids in JSON types."""
        out = {name: getattr(self, name) for name in ("windows", "counted", "duplicates", "seed")}
        out["epochs"] = list(self.epochs)
        out["kinds"] = [asdict(row) for row in self.kinds]
        out["classes"] = [asdict(row) for row in self.classes]
        out["tries"] = [{**asdict(row), "mean_tries": row.mean_tries} for row in self.tries]
        out["images"] = [_image_dict(row) for row in self.images]
        return out


def _image_dict(row: ImageServed) -> dict[str, Any]:
    out = {
        name: getattr(row, name)
        for name in ("image_id", "name", "height", "width", "windows", "served", "asked", "tissue_share")
    }
    out["kinds"] = dict(row.kinds)
    out["classes"] = {str(index): count for index, count in row.classes.items()}
    out["seen_share"], out["suggested_weight"] = row.seen_share, row.suggested_weight
    found = row.coverage
    for side in ("under", "over"):
        out[side] = [asdict(region) for region in getattr(found, side)] if found else []
    return out
