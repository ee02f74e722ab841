"""Windows that hold an annotation."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple, SupportsIndex, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window, start_from_center
from slidesampler.models import ClassMap
from slidesampler.rng import rng_for
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.shape import WindowShape, image_sizes
from slidesampler.sampling.windows import WindowSource, checked_count, checked_pair
from slidesampler.target import Target

__all__ = ["PositiveSource"]

#: What every draw gives the same chance; see :class:`PositiveSource`.
Balance = Literal["annotation", "class"]


class PositiveSource(WindowSource):
    """Windows around the centres of annotations that have a class.

    The centre of an annotation is the centre of its box (of the part of the box inside the image), so a window
    always holds it, though a ring-shaped annotation may have no pixel there. Annotations without category, and
    those whose category stands for the background or for *ignore*, are never chosen.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    n : int, optional
        Windows an epoch, each drawn independently and with replacement. Where None an epoch has as many windows
        as there are annotations to choose from; with ``balance="annotation"`` window ``i`` is then around the
        ``i``-th of them in the manifest's order, so that each is seen exactly once an epoch.
    seed : int
        Same seed, same windows.
    categories : str, int or iterable of these, optional
        Names (of categories, of classes, of supercategories for all below them) or category ids; all where
        None.
    balance : {"annotation", "class"}
        Whether each annotation has the same chance, or each class (and each annotation within its class).
    jitter_px : int or (int, int)
        Each window is moved by a whole number of *level-0* pixels, uniform in ``[-jitter, jitter]`` along y and
        x, cut to what keeps the annotation's centre inside the window.
    inside : bool
        Push windows that overhang the image back into it where the image is large enough. The annotation's
        centre stays in the window.
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    TargetError
        For a class or category that the manifest has not (with the closest name), or an unknown image.
    SamplingError
        If there is no annotation to choose from, in all or in one of ``categories``.

    Notes
    -----
    The targets have ``kind="positive"`` and the ``annot_id`` and ``category_id`` they were chosen for.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        n: int | None = None,
        seed: int = 0,
        *,
        categories: str | int | Iterable[str | int] | None = None,
        balance: Balance = "annotation",
        jitter_px: int | tuple[int, int] = 0,
        inside: bool = False,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how), image_ids)
        if balance not in get_args(Balance):
            raise TargetError(f"balance must be one of {', '.join(get_args(Balance))}, got {balance!r}")
        self.seed = operator.index(seed)
        self.balance = balance
        self.inside = inside
        self.jitter_px = checked_pair("jitter_px", jitter_px, 0)
        self._wanted = _wanted_categories(sampler, categories)
        self._each_once = n is None and balance == "annotation"
        self._length = len(self._table.annot_ids) if n is None else checked_count(n)

    def __len__(self) -> int:
        return self._length

    def _draw(self, epoch: int, index: int) -> Target:
        rng = rng_for(self.seed, epoch, index, "positive")
        annot_id = int(self._table.annot_ids[self._choose(rng, index)])
        image_id, row = self.sampler.manifest.locate_annot(annot_id)
        shapes = self.sampler.manifest.shapes_of(image_id)
        x0, y0, x1, y1 = shapes.boxes_xyxy[row].tolist()
        height, width = image_sizes(self.sampler, [image_id])[0].tolist()
        extent = self.shape.extents(self.sampler, [image_id])[0].tolist()
        y, x = [
            self._start(rng, (low, high), length, size, jitter)
            for low, high, length, size, jitter in zip(
                (y0, x0), (y1, x1), (height, width), extent, self.jitter_px, strict=True
            )
        ]
        return self.shape.target(
            image_id,
            Window(y, x, *extent),
            "positive",
            index,
            annot_id=annot_id,
            category_id=int(shapes.category_ids[row]),
        )

    def _choose(self, rng: np.random.Generator, index: int) -> int:
        table = self._table
        if self._each_once:
            return index
        if self.balance == "annotation":
            return int(rng.integers(len(table.annot_ids)))
        chosen = int(rng.integers(len(table.class_stops)))
        first = int(table.class_stops[chosen - 1]) if chosen else 0
        return int(table.by_class[rng.integers(first, table.class_stops[chosen])])

    def _start(
        self, rng: np.random.Generator, box: tuple[float, float], length: int, extent: int, jitter: int
    ) -> int:
        """Return the first pixel of the window along one axis."""
        center = (min(max(box[0], 0.0), length) + min(max(box[1], 0.0), length)) / 2
        # The pixel that holds the centre; a box of no area on the far edge is held by the last one.
        held = min(math.floor(center), length - 1)
        lowest, highest = held - extent + 1, held
        start = min(max(start_from_center(center, extent), lowest), highest)
        # Drawn even where there is one choice, so that jitter along y does not change what x gets.
        start = int(rng.integers(max(start - jitter, lowest), min(start + jitter, highest) + 1))
        if self.inside and length >= extent:
            start = min(max(start, 0), length - extent)
        return start

    @cached_property
    def _table(self) -> _AnnotChoice:
        manifest, classes = self.sampler.manifest, self.sampler.class_map
        if self._images.everything:
            slices = [manifest.shapes]
        else:
            slices = [manifest.shapes_of(image_id) for image_id in self._images.ids(self.sampler)]
        annot_ids = np.concatenate([shapes.annot_ids for shapes in slices])
        category_ids = np.concatenate([shapes.category_ids for shapes in slices])
        present, inverse = np.unique(category_ids, return_inverse=True)
        indices = np.array([classes.index_of(int(category)) for category in present], dtype=np.int64)
        wanted = None if self._wanted is None else set().union(*self._wanted.values())
        chosen = [
            index not in (0, classes.ignore) and (wanted is None or int(category) in wanted)
            for category, index in zip(present, indices.tolist(), strict=True)
        ]
        self._check_present(present[chosen])
        rows = np.array(chosen, dtype=bool)[inverse]
        annot_ids, class_index = annot_ids[rows], indices[inverse[rows]]
        by_class = np.argsort(class_index, kind="stable")
        stops = np.cumsum(np.unique(class_index, return_counts=True)[1])
        return _AnnotChoice(annot_ids, by_class, stops)

    def _check_present(self, chosen: NDArray[np.int64]) -> None:
        """Raise unless there is an annotation of everything that was asked for."""
        scope = "the manifest" if self._images.everything else "the images given"
        if self._wanted is None:
            if not len(chosen):
                raise SamplingError(
                    f"{scope} has no annotation with a class to put a window around; "
                    "use GridSource or NegativeSource for images without annotations"
                )
            return
        there = set(chosen.tolist())
        for word, categories in self._wanted.items():
            if there.isdisjoint(categories):
                raise SamplingError(
                    f"no annotation of category {word!r} in {scope}; leave it out of categories, or add images"
                )


class _AnnotChoice(NamedTuple):
    """The annotations to choose from, in the manifest's order."""

    annot_ids: NDArray[np.int64]
    #: Positions in ``annot_ids``, sorted by class.
    by_class: NDArray[np.int64]
    #: Position in ``by_class`` after the last annotation of each class that occurs.
    class_stops: NDArray[np.int64]


def _wanted_categories(
    sampler: SourceSampler, categories: str | int | Iterable[str | int] | None
) -> dict[str | int, tuple[int, ...]] | None:
    """Return the category ids that each word stands for; None where all are wanted."""
    if categories is None:
        return None
    words = [categories] if isinstance(categories, str | SupportsIndex) else list(categories)
    if not words:
        raise TargetError("categories is empty: name at least one, or leave it out for all of them")
    classes = sampler.class_map
    wanted: dict[str | int, tuple[int, ...]] = {}
    for word in words:
        found = _categories_of(sampler, word)
        useful = tuple(one for one in found if classes.category_to_index[one] not in (0, classes.ignore))
        if not useful:
            raise TargetError(
                f"category {word!r} stands for the background or for ignored pixels; positives need a class"
            )
        wanted[word] = useful
    return wanted


def _categories_of(sampler: SourceSampler, word: str | int) -> list[int]:
    """Return the ids that a category's name or id, a class's or a supercategory's name stands for."""
    classes = sampler.class_map
    if not isinstance(word, str):
        if operator.index(word) not in classes.category_to_index:
            ids = ", ".join(map(str, list(classes.category_to_index)[:10]))
            raise TargetError(f"the manifest has no category id {word}; it has {ids}")
        return [operator.index(word)]
    names = sampler.manifest.category_names
    found = [
        category
        for category, index in classes.category_to_index.items()
        if word in _lineage(names[category], classes)
        or (index < len(classes.names) and word == classes.names[index])
    ]
    if not found and word not in classes.names:
        known = sorted({*names.values(), *classes.names, *classes.parents.values()})
        closest = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {closest[0]!r}?" if closest else f"it has {', '.join(known)}"
        raise TargetError(f"the manifest has no category {word!r}; {hint}")
    return found


def _lineage(name: str, classes: ClassMap) -> list[str]:
    """Return a category's name and the supercategories above it; a circle ends where it closes."""
    line = [name]
    while (above := classes.parents.get(line[-1])) is not None and above not in line:
        line.append(above)
    return line
