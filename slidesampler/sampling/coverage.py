"""Few windows that hold every object."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import Words, foreground_categories
from slidesampler.sampling.permutation import Permutation
from slidesampler.sampling.pieces import Frames, LeftOut, Pieces, cut_into_pieces
from slidesampler.sampling.set_cover import cover_rectangles, harmonic_number, independent_rectangles
from slidesampler.sampling.shape import WindowShape, image_sizes
from slidesampler.sampling.snap import snapped
from slidesampler.sampling.windows import WindowSource, checked_count
from slidesampler.target import Target

__all__ = ["CoverageReport", "CoverageSource"]

#: Windows that compress to more than this are left out of pickles and found again where they are needed.
MAX_PACKED_BYTES = 32 * 1024

_Ints = NDArray[np.int64]


class CoverageReport(NamedTuple):
    """How many windows there are, and how many there would have to be.

    Parameters
    ----------
    objects, covered : int
        Objects that could be covered, and those that are.
    pieces : int
        Rectangles that the objects were made into: one each, more for those larger than a window.
    windows : int
        Windows of an epoch.
    windows_for_all : int
        Windows that cover every object; more than ``windows`` where ``max_windows`` was less.
    lower_bound : int
        No choice of windows, from all positions there are, covers every piece with less than this.
    guarantee : float
        ``windows_for_all`` is at most this many times the fewest windows that would do.
    complete : bool
        Whether the guarantee is against every choice of windows; else against those made from the corners of
        groups of objects, which is what is looked at where an image has many.
    """

    objects: int
    covered: int
    pieces: int
    windows: int
    windows_for_all: int
    lower_bound: int
    guarantee: float
    complete: bool

    @property
    def ratio(self) -> float:
        """``windows_for_all / lower_bound``: how far from the fewest possible it can be, at most."""
        return self.windows_for_all / self.lower_bound


class CoverageSource(WindowSource):
    """A small set of windows that covers every object: each annotation that has a class.

    An object whose box fits into a window is covered where *one* window holds at least ``min_fraction`` of its
    area; a larger one where windows *together* do, each of them holding one of the equal tiles it is cut into.
    The area is that of the shape inside the image: of the polygon less its holes, of the mask, of the box.

    Windows are found image by image: the one that holds most of what is not yet covered is chosen, again and
    again ("greedy set cover"), and then moved so that what it is the first to hold lies in its middle (as near
    to it as ``snap`` allows). It lies inside the image where that is large enough. The number of windows is at
    most ``H(d) = 1 + 1/2 + ... + 1/d`` times the fewest possible, where ``d`` is the most pieces that a window
    holds; :attr:`report` says how far from the fewest it can be at most, which is mostly far less.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    max_windows : int, optional
        No more windows than this, chosen so that they hold as many pieces as greedy choice finds: at least
        ``1 - 1/e`` (63 %) of what the best choice of so many would.
    seed : int
        Of the order, with ``shuffle``.
    min_fraction : float
        Of each object's area, above 0 and at most 1.
    categories : str, int or iterable of these, optional
        Names (of categories, of classes, of supercategories for all below them) or category ids; all where
        None.
    shuffle : bool
        Whether every epoch has the windows in another order; else they come image by image, from top to bottom.
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    snap : int or (int, int), optional
        Windows start at multiples of this many output pixels (at most ``size``), so that fewer tiles are read
        for each; or end where the image ends. Anywhere where None. An object that no such window holds is
        treated as one larger than a window: several hold it together.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Attributes
    ----------
    min_fraction : float
    max_windows : int or None

    Raises
    ------
    TargetError
        For a class or category that the manifest has not (with the closest name), an unknown image, or a
        fraction that is none.
    SamplingError
        If there is no object to cover.

    Notes
    -----
    The targets have ``kind="coverage"``. An epoch is as long as there are windows, and has each once.

    Objects are taken as they are annotated: where a mask shows another annotation on top, that is not seen.
    With ``min_fraction`` below 1 a window must hold a rectangle that is smaller than the object's box by as
    much as that allows on each side; windows that hold the fraction in another way are not thought of.

    A pickle carries the windows where they compress to 32 kB, which several thousand do. Otherwise another
    process finds them again when it is first asked; :func:`~slidesampler.sampling.freeze` a large source to a
    file if that takes long.

    *Source:* Johnson 1974 and Chvatal 1979 (see :mod:`slidesampler.sampling.set_cover`) for the number of
    windows; Nemhauser, Wolsey and Fisher, "An analysis of approximations for maximizing submodular set
    functions", Mathematical Programming 14 (1978) for ``max_windows``.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        max_windows: int | None = None,
        seed: int = 0,
        *,
        min_fraction: float = 1.0,
        categories: Words | None = None,
        shuffle: bool = False,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        snap: int | tuple[int, int] | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how, snap), image_ids)
        if isinstance(min_fraction, str | bool) or not 0 < min_fraction <= 1:
            raise TargetError(f"min_fraction must be above 0 and at most 1, got {min_fraction!r}")
        self.max_windows = None if max_windows is None else checked_count(max_windows)
        self.seed = operator.index(seed)
        self.min_fraction = float(min_fraction)
        self.shuffle = shuffle
        wanted = foreground_categories(sampler, categories)
        self._wanted = None if wanted is None else frozenset().union(*wanted.values())
        self._packed: bytes | None = None
        places = self._solution.places
        self._length = len(places)
        packed = _pack(places)
        self._packed = packed if len(packed) <= MAX_PACKED_BYTES else None

    def __len__(self) -> int:
        return self._length

    def _draw(self, epoch: int, index: int) -> Target:
        table = self._table
        at = _order(self._length, self.seed, epoch)(index) if self.shuffle else index
        image = table.images[at]
        window = Window(table.ys[at], table.xs[at], *table.extents[image])
        return self.shape.target(table.ids[image], window, "coverage", index)

    @property
    def windows(self) -> tuple[tuple[int, Window], ...]:
        """Every window with the id of its image, image by image, from top to bottom."""
        table = self._table
        return tuple(
            (table.ids[image], Window(y, x, *table.extents[image]))
            for image, y, x in zip(table.images, table.ys, table.xs, strict=True)
        )

    @property
    def covered(self) -> _Ints:
        """Ids of the annotations that are covered, image by image in the manifest's order, int64 ``(n,)``."""
        return self._solution.pieces.annot_ids[self._solution.covered]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Annotations that are not covered, each with the reason; none of categories not asked for."""
        pieces, ids = self._solution.pieces, self._table.ids
        missed = [
            LeftOut(int(pieces.annot_ids[one]), ids[pieces.object_image[one]], "max_windows")
            for one in np.flatnonzero(~self._solution.covered).tolist()
        ]
        return (*pieces.left_out, *missed)

    @lazy_property
    def report(self) -> CoverageReport:
        """How many windows there are, and how many there would have to be at least."""
        solution = self._solution
        boxes = np.split(solution.pieces.boxes, _starts(solution.pieces.image)[1:])
        images = solution.pieces.image[_starts(solution.pieces.image)]
        bounds = [
            independent_rectangles(*self._frames.places(image, some)[:2])
            for image, some in zip(images.tolist(), boxes, strict=True)
        ]
        return CoverageReport(
            objects=len(solution.covered),
            covered=int(solution.covered.sum()),
            pieces=len(solution.pieces.boxes),
            windows=len(self),
            windows_for_all=solution.windows_for_all,
            lower_bound=sum(bounds),
            guarantee=harmonic_number(solution.largest),
            complete=solution.complete,
        )

    @lazy_property
    def _table(self) -> _Table:
        ids = self._images.ids(self.sampler)
        places = self._solution.places if self._packed is None else _unpack(self._packed)
        extents = [(height, width) for height, width in self.shape.extents(self.sampler, ids).tolist()]
        return _Table(ids, extents, *places.T.tolist())

    @lazy_property
    def _frames(self) -> Frames:
        ids, shape = self._images.ids(self.sampler), self.shape
        return Frames(
            image_sizes(self.sampler, ids), shape.extents(self.sampler, ids), shape.steps(self.sampler, ids)
        )

    @lazy_property
    def _solution(self) -> _Solution:
        ids = self._images.ids(self.sampler)
        pieces = cut_into_pieces(self.sampler, ids, self._frames, self._wanted, self.min_fraction)
        if not len(pieces.boxes):
            scope = "the manifest" if self._images.everything else "the images given"
            raise SamplingError(
                f"{scope} has no object to cover ({len(pieces.left_out)} annotations are without class, empty "
                "or outside their image); use GridSource for images without annotations"
            )
        return _solve(pieces, self._frames, self.max_windows)


class _Table(NamedTuple):
    """The windows as Python numbers, which are faster to use one at a time than numpy's."""

    ids: list[int]
    extents: list[tuple[int, int]]  # of a window in each image
    images: list[int]
    ys: list[int]
    xs: list[int]


class _Solution(NamedTuple):
    """What the windows are, and what they were made for."""

    pieces: Pieces
    places: _Ints  # (windows, 3): position of the image, y, x; ascending
    covered: NDArray[np.bool_]  # (objects,)
    windows_for_all: int
    largest: int
    complete: bool


def _starts(image: _Ints) -> _Ints:
    """Return where the rows of each image begin."""
    return np.flatnonzero(np.diff(image, prepend=-1))


def _solve(pieces: Pieces, frames: Frames, max_windows: int | None) -> _Solution:
    firsts = _starts(pieces.image)
    held_by = np.empty(len(pieces.boxes), np.int64)
    gains: list[_Ints] = []
    count, largest, complete = 0, 0, True
    for first, last in zip(firsts.tolist(), [*firsts[1:].tolist(), len(held_by)], strict=True):
        image = int(pieces.image[first])
        cover = cover_rectangles(*frames.places(image, pieces.boxes[first:last]))
        held_by[first:last] = count + cover.held_by
        gains.append(cover.gains)
        count += len(cover.gains)
        largest, complete = max(largest, cover.largest), complete and cover.complete
    # The windows of an image come with falling gains, so the greatest gains of all are the greedy choice over
    # all images at once; of equal ones the first.
    kept = np.ones(count, np.bool_)
    if max_windows is not None and max_windows < count:
        kept[np.argsort(-np.concatenate(gains), kind="stable")[max_windows:]] = False
    covered = np.ones(len(pieces.annot_ids), np.bool_)
    covered[pieces.object[~kept[held_by]]] = False
    places = _centred(pieces, held_by, frames)[kept]
    places = places[np.lexsort(places.T[::-1])]
    return _Solution(pieces, places, covered, count, largest, complete)


def _centred(pieces: Pieces, held_by: _Ints, frames: Frames) -> _Ints:
    """Return each window's image and start, so that what it is the first to hold lies in its middle."""
    order = np.argsort(held_by, kind="stable")
    firsts = _starts(held_by[order])
    image = pieces.image[order][firsts]
    low = np.minimum.reduceat(pieces.boxes[order, :2], firsts)
    high = np.maximum.reduceat(pieces.boxes[order, 2:], firsts)
    extent, step = frames.extents[image], frames.steps[image]
    last = np.maximum(frames.sizes[image] - extent, 0)
    start = np.clip((low + high - extent) // 2, 0, last)
    # What a window has to hold leaves it these starts; one of them at least is on the lattice.
    lowest, highest = np.maximum(high - extent, 0), np.minimum(low, last)
    for at in np.argwhere(step > 1).tolist():
        one = tuple(at)
        start[one] = snapped(*(int(column[one]) for column in (start, lowest, highest, step)))
    return np.column_stack([image, start])


def _pack(places: _Ints) -> bytes:
    """Return windows as compressed bytes: differences to the window before, byte by byte."""
    steps = np.diff(places, axis=0, prepend=0).astype("<i4")
    return zlib.compress(steps.T.copy().view(np.uint8).reshape(-1, 4).T.tobytes(), 9)


def _unpack(packed: bytes) -> _Ints:
    planes = np.frombuffer(zlib.decompress(packed), np.uint8)
    steps = planes.reshape(4, -1).T.copy().view("<i4").reshape(3, -1).T
    return np.cumsum(steps, axis=0, dtype=np.int64)


@lru_cache(maxsize=8)
def _order(n: int, seed: int, epoch: int) -> Permutation:
    return Permutation(n, seed, epoch, stream="coverage")
