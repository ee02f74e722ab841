"""Windows that hold an object, or a pixel of a class."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import Words, foreground_categories, foreground_classes
from slidesampler.sampling.centering import CenteredSource, start_around
from slidesampler.sampling.choice import WeightedChoice
from slidesampler.sampling.class_rule import ClassRule, ClassWeights
from slidesampler.sampling.objects import AnnotObjects, Objects, PixelObjects
from slidesampler.sampling.pairs import checked_pair
from slidesampler.sampling.shape import WindowShape
from slidesampler.sampling.slides import BalanceBy, SlideRule, SlideWeights, WeighedSlides
from slidesampler.sampling.statistics import AskedShares
from slidesampler.sampling.windows import checked_count
from slidesampler.target import Target

__all__ = ["PositiveSource"]

#: What a window is put around; see :class:`PositiveSource`.
Choose = Literal["annotation", "pixel"]


class PositiveSource(CenteredSource):
    """Windows around annotations, or around foreground pixels, of chosen classes.

    Each window is drawn in three steps: a class; a slide that has it; an annotation or a pixel of the class on
    that slide, each of them equally likely. Then the window is moved by the jitter. What was chosen stays in
    the window: the pixel, or the centre of the annotation.

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
        as there are annotations to choose from; and where nothing is weighted (the three arguments below), each
        annotation is seen exactly once an epoch: window ``i`` is around the ``i``-th in the manifest's order.
        Pixels need a number.
    seed : int
        Same seed, same windows.
    choose : {"annotation", "pixel"}
        Annotations count one each, whatever their size, and no file is opened to choose them. Pixels are those
        of the masks, from the foreground index: what is in a hole, or covered by another class, is none.
    categories : str, int or iterable of these, optional
        Names (of categories, of classes, of supercategories for all below them) or category ids; all where
        None. Pixels can be told apart by class only.
    class_weights : {"uniform", "inverse_frequency"} or mapping of str or int to float, optional
        How likely each class is: the same for each that occurs; one over its pixels on the images chosen from;
        or given by name or category id (classes left out are never chosen). Where None in proportion to its
        annotations or pixels, so that each of these has the same chance.
    slide_weights : {"uniform", "area", "sqrt_area"} or mapping of int to float, optional
        How likely each slide is among those that have the class: the same for each; by its area or the square
        root of that; or given by image id, 0 for never. Where None in proportion to what it has of the class.
    balance_by : {"group"}, optional
        Give every group (such as a patient) that has the class the same chance, and choose the slide within it
        as ``slide_weights`` says.
    jitter_px : int or (int, int)
        Each window is moved by a whole number of *level-0* pixels, uniform in ``[-jitter, jitter]`` along y and
        x, cut to what keeps the chosen place inside the window.
    allow_border : bool
        Whether windows may overhang the image. Where not, they are pushed back into it; only along an axis
        where the image is shorter than the window does one overhang, with the image wholly inside.
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    snap : int or (int, int), optional
        Windows start at multiples of this many output pixels (at most ``size``), so that fewer tiles are read
        for each: see :mod:`slidesampler.sampling.snap`. Anywhere where None. What was
        chosen stays in the window.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    TargetError
        For a class or category that the manifest has not (with the closest name), an unknown image, or weights
        that are none.
    SamplingError
        If there is nothing to choose from, in all or of one class that was asked for; for images without group
        that are to be balanced by it.
    ValueError
        For ``n`` below 1, or pixels without ``n``.

    Notes
    -----
    The targets have ``kind="positive"`` and the ``category_id`` and (for annotations) ``annot_id`` that they
    were chosen for. Of several categories that are drawn as one class, a pixel has the manifest's first.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        n: int | None = None,
        seed: int = 0,
        *,
        choose: Choose = "annotation",
        categories: Words | None = None,
        class_weights: ClassWeights | None = None,
        slide_weights: SlideWeights | None = None,
        balance_by: BalanceBy | None = None,
        jitter_px: int | tuple[int, int] = 0,
        allow_border: bool = True,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        snap: int | tuple[int, int] | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how, snap), image_ids)
        if choose not in get_args(Choose):
            raise TargetError(f"choose must be one of {', '.join(get_args(Choose))}, got {choose!r}")
        if choose == "pixel" and n is None:
            raise ValueError(
                "choose='pixel' needs n, the windows an epoch has: pixels are too many to see each"
            )
        self.seed = operator.index(seed)
        self.choose = choose
        self.allow_border = allow_border
        self.jitter_px = checked_pair("jitter_px", jitter_px, 0)
        self._wanted = foreground_categories(sampler, categories)
        self._pixel_classes = foreground_classes(sampler, categories) if choose == "pixel" else ()
        self._class_rule = ClassRule(sampler, class_weights)
        # What a slide has of the class takes the place of its area where no weights are given.
        self._by_objects = slide_weights is None
        self._slide_rule = SlideRule(sampler, self._ids, slide_weights or "uniform", balance_by)
        self._each_once = n is None and class_weights is None and slide_weights is None and balance_by is None
        # Made now, too, so that what could not be drawn later is refused.
        table = self._table
        self._length = table.total if n is None else checked_count(n)

    def __len__(self) -> int:
        return self._length

    def asked_shares(self) -> AskedShares:
        """Return the shares of classes and images that were asked for; of none where each comes once."""
        if self._each_once:
            return AskedShares(kinds={"positive": 1.0})
        table = self._table
        classes: dict[int, float] = {}
        images: dict[int, float] = {}
        for which, index in enumerate(table.objects.classes.tolist()):
            classes[index] = share = table.classes.share(which)
            for at, image in enumerate(table.objects.images[which]):
                image_id = self._ids[image]
                images[image_id] = images.get(image_id, 0.0) + share * table.slides[which].share(at)
        return AskedShares({"positive": 1.0}, classes, images)

    def _draw(self, epoch: int, index: int) -> Target:
        draws = Draws(self.seed, epoch, index, "positive")
        table = self._table
        objects = table.objects
        if self._each_once:
            assert isinstance(objects, AnnotObjects)
            which, slide, rank = objects.locate(index)
        else:
            which = table.classes.draw(draws)
            slide = table.slides[which].draw(draws)
            rank = draws.below(objects.counts[which][slide])
        frame = self._frame(objects.images[which][slide])
        place = objects.place(which, slide, rank, frame.lengths)
        (extent_y, extent_x), border = frame.extents, self.allow_border
        around = zip(
            (place.cy, place.cx), frame.lengths, frame.extents, self.jitter_px, frame.steps, strict=True
        )
        y, x = (
            start_around(draws, center, length, extent, jitter, border, step)
            for center, length, extent, jitter, step in around
        )
        return self.shape.target(
            frame.image_id,
            Window(y, x, extent_y, extent_x),
            "positive",
            index,
            annot_id=place.annot_id,
            category_id=place.category_id,
        )

    @lazy_property
    def _table(self) -> _PositiveTable:
        weighed = self._slide_rule.over(self.sampler, self._ids, self._areas())
        objects = self._objects(weighed.weights > 0)
        if not len(objects.classes):
            masks = "choose='pixel' takes what masks hold; " if self.choose == "annotation" else ""
            raise SamplingError(
                f"{self._scope} has no {self.choose} with a class to put a window around; {masks}"
                "use GridSource or NegativeSource for images without annotations"
            )
        for index in set(self._class_rule.named) - set(objects.classes.tolist()):
            raise SamplingError(
                f"class_weights names class {self.sampler.class_map.names[index]!r}, but there is no "
                f"{self.choose} of it to choose in {self._scope}; leave it out, or add images"
            )
        return self._weighted(objects, weighed)

    def _objects(self, possible: NDArray[np.bool_]) -> Objects:
        """Return what is chosen from; ``possible`` says on which images."""
        classes = self.sampler.class_map
        if self.choose == "pixel":
            pixels = PixelObjects(self.sampler, self._ids, possible, self._pixel_classes)
            there = set(pixels.classes.tolist())
            self._check_words({c for c, index in classes.category_to_index.items() if index in there})
            return pixels
        wanted = None if self._wanted is None else set().union(*self._wanted.values())

        def class_of(category: int) -> int | None:
            index = classes.index_of(category)
            if index in (0, classes.ignore) or (wanted is not None and category not in wanted):
                return None
            return index

        annots = AnnotObjects(self.sampler, self._ids, possible, class_of, self._each_once)
        self._check_words(annots.categories)
        return annots

    def _check_words(self, there: set[int]) -> None:
        """Raise unless there is something of every category that was asked for."""
        for word, categories in (self._wanted or {}).items():
            if there.isdisjoint(categories):
                raise SamplingError(
                    f"no {self.choose} of category {word!r} in {self._scope}; leave it out of categories, or "
                    "add images"
                )

    def _weighted(self, objects: Objects, weighed: WeighedSlides) -> _PositiveTable:
        """Return the objects with the choice of a class, and of a slide for each class."""
        totals = np.array([sum(counts) for counts in objects.counts], np.int64)
        weights = self._class_rule.weigh(objects.classes, totals, self._pixels_of(objects.classes, weighed))
        slides = []
        for images, counts in zip(objects.images, objects.counts, strict=True):
            has = np.zeros(len(self._ids))
            has[images] = counts if self._by_objects else 1
            slides.append(WeightedChoice(weighed.weigh(factors=has)[images], "slide"))
        return _PositiveTable(objects, WeightedChoice(weights, "class"), slides, int(totals[weights > 0].sum()))

    def _pixels_of(self, classes: NDArray[np.int64], weighed: WeighedSlides) -> NDArray[np.int64] | None:
        """Return the pixels of each class on the images that can be chosen, where they are needed."""
        if not self._class_rule.by_pixels:
            return None
        index = self.sampler.foreground
        rows = [index.row(one) for one, weight in zip(self._ids, weighed.weights, strict=True) if weight > 0]
        pixels: NDArray[np.int64] = index.pixels[rows][:, classes].sum(axis=0)
        for at in np.flatnonzero(pixels == 0).tolist():
            raise SamplingError(
                f"class {self.sampler.class_map.names[classes[at]]!r} has annotations but no pixel in "
                f"{self._scope}, so it has no inverse frequency; give class_weights as a mapping"
            )
        return pixels

    @property
    def _scope(self) -> str:
        """What is chosen from, for messages."""
        return "the manifest" if self._images.everything else "the images given"


class _PositiveTable(NamedTuple):
    """What is drawn from."""

    objects: Objects
    classes: WeightedChoice
    #: For each class: which of its slides.
    slides: list[WeightedChoice]
    #: How many objects can be chosen.
    total: int
