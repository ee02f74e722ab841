"""Parts of a slide for training and parts for testing, and sources that stay in theirs."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.pairs import checked_pair
from slidesampler.sampling.shape import image_sizes
from slidesampler.sampling.splits import checked_fractions
from slidesampler.sampling.windows import ImageChoice, TablesMadeAnew, checked_index
from slidesampler.target import Target

__all__ = ["Regions", "RestrictedSource", "inside_regions", "split_by_region"]

#: Rectangles of each image, level-0 pixels.
Regions: TypeAlias = Mapping[int, tuple[Window, ...]]
Choose = Literal["redraw", "select"]
#: Epochs of the wrapped source that tries are drawn from.
_EPOCHS = 1 << 62


def split_by_region(
    sampler: SourceSampler,
    fractions: Mapping[str, float],
    seed: int = 0,
    *,
    guard_px: int,
    block_px: int | tuple[int, int] | None = None,
    min_px: int | tuple[int, int] = 1,
    image_ids: Iterable[int] | None = None,
) -> dict[str, dict[int, tuple[Window, ...]]]:
    """Return rectangles of every image for each part, with a band between parts that belongs to none.

    A window inside a rectangle of one part and a window inside a rectangle of another are at least ``guard_px``
    level-0 pixels apart, along y or along x.

    Parameters
    ----------
    sampler : Sampler
    fractions : mapping of str to float
        How much of each image a part is to have, in any unit, the band not counted.
    seed : int
        Where in an image a part lies is shuffled, for each image by itself: other images change nothing.
    guard_px : int
        Level-0 pixels, at least 0.
    block_px : int or (int, int), optional
        Cut each image into equal blocks of about this many level-0 pixels, ``(height, width)``, and deal them
        out, one at least to each part; a band runs between all of them. Where None, one strip for each part,
        across the longer side.
    min_px : int or (int, int)
        What a rectangle must have at least, ``(height, width)``, level-0 pixels: a window.
    image_ids : iterable of int, optional
        All images where None.

    Returns
    -------
    mapping of str to mapping of int to tuple of Window
        For each part, the rectangles of each image; inside the image.

    Raises
    ------
    TargetError
        For fractions or pixels that are none, or an unknown image.
    SamplingError
        If an image is too small for all parts and the bands between them.
    """
    names, shares = checked_fractions(fractions)
    if operator.index(guard_px) < 0:
        raise TargetError(f"guard_px must be at least 0, got {guard_px}")
    guard, smallest = operator.index(guard_px), checked_pair("min_px", min_px, 1)
    block = None if block_px is None else checked_pair("block_px", block_px, 1)
    ids = ImageChoice(sampler, image_ids).ids(sampler)
    split: dict[str, dict[int, tuple[Window, ...]]] = {name: {} for name in names}
    for image_id, size in zip(ids, image_sizes(sampler, ids).tolist(), strict=True):
        draws = Draws(seed, 0, image_id, "split by region")
        if block is None:
            found = _strips(draws, size, shares, guard)
        else:
            found = _blocks(draws, size, shares, guard, block)
        for part, name in enumerate(names):
            large = [(y0, x0, y1, x1) for which, y0, x0, y1, x1 in found if which == part]
            if not large or any(y1 - y0 < smallest[0] or x1 - x0 < smallest[1] for y0, x0, y1, x1 in large):
                raise SamplingError(
                    f"image {image_id} of {size[0]} x {size[1]} pixels is too small for {len(names)} parts "
                    f"with {guard} pixels between them and at least {smallest[0]} x {smallest[1]} for "
                    f"{name!r}; split by image, or ask for less"
                )
            split[name][image_id] = tuple(Window(y0, x0, y1 - y0, x1 - x0) for y0, x0, y1, x1 in large)
    return split


def _strips(draws: Draws, size: list[int], shares: NDArray[np.float64], guard: int) -> list[tuple[int, ...]]:
    """Return ``(part, y0, x0, y1, x1)``: a strip for each part, in an order of chance."""
    axis = 0 if size[0] >= size[1] else 1
    order = _shuffled(draws, len(shares))
    usable = max(size[axis] - guard * (len(shares) - 1), 0)
    stops = [0, *np.rint(np.cumsum(shares[order]) * usable).astype(int).tolist()]
    found: list[tuple[int, ...]] = []
    for place, part in enumerate(order):
        low, high = stops[place] + place * guard, stops[place + 1] + place * guard
        found.append((part, low, 0, high, size[1]) if axis == 0 else (part, 0, low, size[0], high))
    return found


def _blocks(
    draws: Draws, size: list[int], shares: NDArray[np.float64], guard: int, block: tuple[int, int]
) -> list[tuple[int, ...]]:
    """Return ``(part, y0, x0, y1, x1)`` of equal blocks, dealt out in an order of chance."""
    rows, columns = (max(length // side, 1) for length, side in zip(size, block, strict=True))
    ys, xs = (_cut(length, count, guard) for length, count in zip(size, (rows, columns), strict=True))
    boxes = [(y0, x0, y1, x1) for y0, y1 in ys for x0, x1 in xs]
    order = _shuffled(draws, len(boxes))
    # The first blocks go to a part each, the others to the part that lacks most.
    first = _shuffled(draws, len(shares))
    missing = (shares * len(boxes)).tolist()
    found: list[tuple[int, ...]] = []
    for place, one in enumerate(order):
        part = first[place] if place < len(first) else missing.index(max(missing))
        missing[part] -= 1
        found.append((part, *boxes[one]))
    return sorted(found)


def _cut(length: int, count: int, guard: int) -> list[tuple[int, int]]:
    """Return equal intervals with a band between them."""
    edges = [length * at // count for at in range(count + 1)]
    # Of an odd band one pixel more lies at the beginning of an interval.
    return [
        (low + (guard + 1) // 2 * (at > 0), high - guard // 2 * (at < count - 1))
        for at, (low, high) in enumerate(pairwise(edges))
    ]


def _shuffled(draws: Draws, n: int) -> list[int]:
    """Return ``0 .. n - 1`` in an order of chance (Fisher and Yates)."""
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        other = draws.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def inside_regions(regions: Regions, image_id: int, window: Window) -> bool:
    """Return whether a window lies wholly inside one of an image's rectangles.

    Examples
    --------
    >>> regions = {3: (Window(0, 0, 100, 50), Window(0, 60, 100, 50))}
    >>> inside_regions(regions, 3, Window(10, 60, 32, 32)), inside_regions(regions, 3, Window(10, 40, 32, 32))
    (True, False)
    """
    return any(region.contains(window) for region in regions.get(image_id, ()))


class RestrictedSource(TablesMadeAnew):
    """The windows of another source that lie wholly inside given rectangles.

    Parameters
    ----------
    source : TargetSource
        Of windows of single images.
    regions : mapping of int to tuple of Window
        Rectangles of each image, such as one part of :func:`split_by_region`. An image that is not named has no
        window.
    sampler : Sampler, optional
        The one that ``source`` was made with; ``source.sampler`` where None. It is asked where a target's
        window is that says so in another way, such as by its centre.
    seed : int
    choose : {"redraw", "select"}
        ``"redraw"``, for sources that draw at random: every index has a stream of windows of its own, each
        drawn from some index of some epoch of the source, and takes the first that lies inside. As many
        targets as the source has; each is distributed as the source's are, given that they lie inside;
        but what the source gives once an epoch may come twice.
        ``"select"``, for sources that are the same in every epoch (a grid, a list, a coverage that is not
        shuffled): those targets that lie inside, each once. It goes through an epoch when it is made.
    max_tries : int
        With ``"redraw"``, how many windows are looked at for an index.

    Raises
    ------
    TargetError
        For another word, or targets of other than one image.
    SamplingError
        If no window lies inside: with ``"select"`` when made, with ``"redraw"`` after ``max_tries``.

    Notes
    -----
    Give ``source`` only the images of the regions (``image_ids=``), so that few windows are drawn in vain, and
    sources that may overhang the image their option to stay inside.

    A pickle takes 24 bytes for each rectangle, and with ``"select"`` a bit for each window of the source.
    """

    def __init__(
        self,
        source: TargetSource,
        regions: Regions,
        sampler: SourceSampler | None = None,
        *,
        seed: int = 0,
        choose: Choose = "redraw",
        max_tries: int = 10_000,
    ) -> None:
        if choose not in get_args(Choose):
            raise TargetError(f"choose must be one of {', '.join(get_args(Choose))}, got {choose!r}")
        if operator.index(max_tries) < 1:
            raise ValueError(f"max_tries must be at least 1, got {max_tries}")
        self.source = source
        self.seed = operator.index(seed)
        self.choose = choose
        self.max_tries = operator.index(max_tries)
        self._sampler = sampler
        rows = [(int(one), *area.as_xyxy()) for one, areas in regions.items() for area in areas]
        table = np.array(rows, np.int64).reshape(-1, 5)
        self._ids = table[:, 0]
        self._boxes = table[:, 1:].astype(np.int32)
        self._selected: NDArray[np.uint8] | None = None
        self._length = len(source)
        if choose == "select":
            inside = np.array(
                [self._is_inside(source.target(0, index)) for index in range(len(source))], np.bool_
            )
            self._selected, self._length = np.packbits(inside), int(inside.sum())
            if not self._length:
                raise SamplingError(
                    f"none of the {len(source)} windows of {type(source).__name__} lies inside the "
                    f"{len(self._ids)} rectangles given; take larger ones, or smaller windows"
                )

    def __len__(self) -> int:
        return self._length

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index`` of an epoch; see :meth:`TargetSource.target`.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        SamplingError
            If no window was found inside, or a selected one lies elsewhere in this epoch.
        """
        epoch, index = operator.index(epoch), checked_index(index, len(self))
        if self._selected is not None:
            target = self.source.target(epoch, self._positions[index])
            if not self._is_inside(target):
                raise SamplingError(
                    f"{type(self.source).__name__} is not the same in epoch {epoch} as in epoch 0: a selected "
                    'window lies outside; use choose="redraw"'
                )
            return target
        draws = Draws(self.seed, epoch, index, "restricted")
        for _ in range(self.max_tries):
            target = self.source.target(draws.below(_EPOCHS), draws.below(self._length))
            if self._is_inside(target):
                return target
        raise SamplingError(
            f"none of {self.max_tries} windows for index {index} of epoch {epoch} lies inside the "
            f"{len(self._ids)} rectangles given; take larger ones, smaller windows, or give the source only "
            "images that have one"
        )

    def _is_inside(self, target: Target) -> bool:
        if target.image_id is None or target.window is None or target.pad != (0, 0, 0, 0):
            target = self.sampler.resolve(target)
        image_id, window = target.image_id, target.window
        if image_id is None or window is None:
            raise TargetError(
                "a source of windows of single images can be restricted; these targets are others"
            )
        y0, x0, y1, x1 = window.y, window.x, window.y1, window.x1
        for left, top, right, bottom in self._areas.get(image_id, ()):
            if top <= y0 and left <= x0 and y1 <= bottom and x1 <= right:
                return True
        return False

    @property
    def sampler(self) -> SourceSampler:
        """The sampler of the windows."""
        found: SourceSampler | None = (
            getattr(self.source, "sampler", None) if self._sampler is None else self._sampler
        )
        if found is None:
            raise TargetError(f"{type(self.source).__name__} has no sampler; give RestrictedSource one")
        return found

    @lazy_property
    def _areas(self) -> dict[int, list[tuple[int, int, int, int]]]:
        areas: dict[int, list[tuple[int, int, int, int]]] = {}
        for image_id, (x0, y0, x1, y1) in zip(self._ids.tolist(), self._boxes.tolist(), strict=True):
            areas.setdefault(image_id, []).append((x0, y0, x1, y1))
        return areas

    @lazy_property
    def _positions(self) -> list[int]:
        assert self._selected is not None
        found: list[int] = np.flatnonzero(np.unpackbits(self._selected, count=len(self.source))).tolist()
        return found
