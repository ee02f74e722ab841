"""``SourceContract``: what every source of windows must do, as a test class to inherit.

::

    class TestMySource(SourceContract):
        def make_source(self, sampler):
            return MySource(sampler, size=64, n=100, seed=0)
"""

from __future__ import annotations

import multiprocessing
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from slidesampler.foreground import ForegroundIndex, ImageIndex, IndexColumns, TissueMask, index_image
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.models import NO_CATEGORY, Asset, ClassMap, ImageRecord
from slidesampler.resolve import ImageFacts, resolve_target
from slidesampler.rng import rng_for
from slidesampler.sampling import SourceSampler, TargetSource
from slidesampler.shapes import ShapeKind, Shapes
from slidesampler.target import Target

__all__ = ["RectangleSampler", "SourceContract"]

#: A source travels to every worker of every rank.
MAX_PICKLE_BYTES = 64 * 1024
#: Different images of a :class:`RectangleSampler`.
LAYOUTS = 97


class RectangleSampler:
    """A sampler of images that have sizes, annotations and masks, but no pixels: reading one fails.

    Every annotation is a rectangle of whole pixels, so its mask is exact by construction. It satisfies
    :class:`slidesampler.sampling.SourceSampler`, and pickles to two numbers.

    Parameters
    ----------
    images : int
        How many images; their ids are 3, 10, 17 ... (positions are no ids).
    seed : int
        Chooses sizes (256 to 1023 pixels a side) and up to four annotations an image. There are 97 different
        layouts, which repeat. Images of an odd height have a tissue mask: their left half.
    """

    #: Two classes below one supercategory, a category that means background, and one nobody uses.
    class_map = ClassMap(
        ("background", "tumour", "stroma", "necrosis"),
        {10: 1, 20: 2, 30: 0, 40: 3},
        {"tumour": "tissue", "stroma": "tissue"},
    )

    def __init__(self, images: int = 10_000, seed: int = 0) -> None:
        self.images = images
        self.seed = seed

    def __getstate__(self) -> dict[str, int]:
        return {"images": self.images, "seed": self.seed}

    @property
    def manifest(self) -> RectangleSampler:
        """The sampler itself: it also has the annotations."""
        return self

    @property
    def image_ids(self) -> tuple[int, ...]:
        """3, 10, 17 ..."""
        return tuple(range(3, 3 + 7 * self.images, 7))

    def image_record(self, image_id: int) -> ImageRecord:
        """Return a record with a size and 0.5 micrometres a pixel."""
        height, width = self._sizes[self._position(image_id)].tolist()
        return ImageRecord(image_id, f"image-{image_id}", (Asset(""),), height, width, mpp=(0.5, 0.5))

    def image_shape(self, image_id: int) -> tuple[int, int, int]:
        """Return ``(H, W, 3)``."""
        height, width = self._sizes[self._position(image_id)].tolist()
        return height, width, 3

    def resolve(self, target: Target) -> Target:
        """Return the target as the real sampler resolves it."""
        assert target.image_id is not None
        return resolve_target(
            target, ImageFacts(target.image_id, *self.image_shape(target.image_id)[:2], (0.5, 0.5))
        )

    def load_mask(
        self, image_id: int, window: Window, size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Return class indices of a window; a later annotation wins, outside the image is *ignore*."""
        height, width = self.image_shape(image_id)[:2]
        rows, cols = size or window.shape
        ys = window.y + (2 * np.arange(rows) + 1) * window.height // (2 * rows)
        xs = window.x + (2 * np.arange(cols) + 1) * window.width // (2 * cols)
        mask = np.zeros((rows, cols), np.uint8)
        shapes = self.shapes_of(image_id)
        for (x0, y0, x1, y1), category in zip(shapes.boxes_xyxy, shapes.category_ids, strict=True):
            inside = np.ix_((ys >= y0) & (ys < y1), (xs >= x0) & (xs < x1))
            mask[inside] = self.class_map.index_of(int(category))
        mask[(ys < 0) | (ys >= height)] = self.class_map.ignore
        mask[:, (xs < 0) | (xs >= width)] = self.class_map.ignore
        return mask

    def load_sample(self, target: Target) -> NoReturn:
        """Fail: a source chooses windows without looking at pixels."""
        raise AssertionError(f"a source must not read pixels, but asked for {target}")

    @property
    def shapes(self) -> Shapes:
        """All annotations; those of image ``i`` are rows ``_stops[i - 1]`` to ``_stops[i]``."""
        return self._shapes

    @property
    def category_names(self) -> dict[int, str]:
        """Name of every category id."""
        return {10: "tumour", 20: "stroma", 30: "glass", 40: "necrosis"}

    def shapes_of(self, image_id: int) -> Shapes:
        """Return the annotations of one image."""
        position = self._position(image_id)
        return self._shapes.rows(self._first(position), int(self._stops[position]))

    def locate_annot(self, annot_id: int) -> tuple[int, int]:
        """Return the image of an annotation and its row there; ids are 1000, 1001 ..."""
        row = annot_id - 1000
        position = int(np.searchsorted(self._stops, row, side="right"))
        return 3 + 7 * position, row - self._first(position)

    def _position(self, image_id: int) -> int:
        position, rest = divmod(image_id - 3, 7)
        if rest or not 0 <= position < self.images:
            raise KeyError(image_id)
        return position

    def _first(self, position: int) -> int:
        return int(self._stops[position - 1]) if position else 0

    @property
    def foreground(self) -> ForegroundIndex:
        """The index of the masks."""
        if type(self) is RectangleSampler:
            return _rectangle_foreground(self.images, self.seed)
        return self.index_masks()

    def index_masks(self) -> ForegroundIndex:
        """Return the index of the masks, made anew."""
        known: dict[tuple[Any, ...], ImageIndex] = {}
        images = []
        for image_id in self.image_ids:
            shapes, shape = self.shapes_of(image_id), self.image_shape(image_id)[:2]
            key = (shape, shapes.boxes_xyxy.tobytes(), shapes.category_ids.tobytes())
            if key not in known:
                known[key] = index_image(
                    partial(self.load_mask, image_id),
                    shape,
                    len(self.class_map.names),
                    self.class_map.ignore,
                    self.tissue_mask(image_id),
                )
            images.append(known[key])
        return ForegroundIndex(IndexColumns.join(self.image_ids, images))

    def tissue_mask(self, image_id: int) -> TissueMask | None:
        """Return the left half of images of an odd height, in blocks of 8 pixels; None for others."""
        height, width = self.image_shape(image_id)[:2]
        if height % 2 == 0:
            return None
        mask = np.zeros((-(-height // 8), -(-width // 8)), np.bool_)
        mask[:, : mask.shape[1] // 2] = True
        return TissueMask(mask, 8)

    @lazy_property
    def _sizes(self) -> NDArray[np.int64]:
        return self._repeat(rng_for(self.seed, stream="sizes").integers(256, 1024, (LAYOUTS, 2)))

    @lazy_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum(self._repeat(rng_for(self.seed, stream="counts").integers(0, 5, LAYOUTS)))

    def _repeat(self, layouts: NDArray[np.int64]) -> NDArray[np.int64]:
        return layouts[np.arange(self.images) % LAYOUTS]

    @lazy_property
    def _shapes(self) -> Shapes:
        counts = np.diff(self._stops, prepend=0)
        n = int(self._stops[-1])
        # The same numbers for every image of a layout.
        stream = rng_for(self.seed, stream="annotations")
        places, extents = stream.random((LAYOUTS, 4, 2)), stream.integers(8, 200, (LAYOUTS, 4, 2))
        # Tumour is three times as frequent as stroma; some are background, some have no category.
        categories = stream.choice([10, 10, 10, 20, 30, NO_CATEGORY], (LAYOUTS, 4))
        image = np.repeat(np.arange(self.images), counts)
        which = image % LAYOUTS, np.arange(n) - np.repeat(self._stops - counts, counts)
        sizes = self._sizes[image]
        first = (places[which] * (sizes - 8)).astype(np.int64)
        last = np.minimum(first + extents[which], sizes)
        boxes = np.concatenate([first[:, ::-1], last[:, ::-1]], axis=1).astype(np.float64)
        zeros = np.zeros(n + 1, np.int64)
        return replace(
            Shapes.empty(),
            annot_ids=1000 + np.arange(n),
            category_ids=categories[which],
            kinds=np.full(n, ShapeKind.BOX, np.uint8),
            boxes_xyxy=boxes,
            areas=(last - first).prod(axis=1).astype(np.float64),
            annot_parts=zeros,
            annot_runs=zeros,
            annot_keypoints=zeros,
            rle_heights=np.zeros(n, np.int64),
        )


@lru_cache(maxsize=8)
def _rectangle_foreground(images: int, seed: int) -> ForegroundIndex:
    return RectangleSampler(images, seed).index_masks()


class SourceContract(ABC):
    """Tests that every :class:`~slidesampler.sampling.TargetSource` passes; inherit and say how to make one.

    Attributes
    ----------
    random : bool
        Whether epochs differ. A source that is the same in every epoch sets it to False.
    """

    random = True

    @abstractmethod
    def make_source(self, sampler: SourceSampler) -> TargetSource:
        """Return a new source of at least 8 targets, always the same one."""

    def make_sampler(self) -> RectangleSampler:
        """Return the sampler that sources are made over; by default 10,000 images without pixels."""
        return RectangleSampler()

    def _source(self) -> TargetSource:
        return self.make_source(self.make_sampler())

    def test_satisfies_the_protocol(self) -> None:
        """It has a length and targets, enough of them for these tests."""
        source = self._source()
        assert isinstance(source, TargetSource)
        assert len(source) >= 8

    def test_same_target_in_any_order(self) -> None:
        """What was asked before changes nothing, and neither does who made the source."""
        one, other = self._source(), self._source()
        asked = _places(one)
        forward = [one.target(*place) for place in asked]
        assert [other.target(*place) for place in reversed(asked)] == forward[::-1]
        assert [one.target(*place) for place in asked] == forward

    def test_same_target_in_threads(self) -> None:
        """Threads that ask at once, the first time included, get what one gets."""
        one, shared = self._source(), self._source()
        asked = _places(one) * 4
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda place: shared.target(*place), asked))
        assert found == [one.target(*place) for place in asked]

    def test_same_target_in_a_spawned_process(self) -> None:
        """A process that inherits nothing gets the same targets from the pickle."""
        source = self._source()
        asked = _places(source)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(_targets, source, asked).result() == [source.target(*place) for place in asked]

    def test_same_target_in_a_forked_process(self) -> None:
        """A process that inherits everything, what was drawn before included, gets the same targets."""
        source = self._source()
        asked = _places(source)
        expected = [source.target(*place) for place in asked]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            assert pool.submit(_targets, source, asked).result() == expected

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_same_epoch_for_any_number_of_workers(self, workers: int) -> None:
        """Workers that deal out an epoch among themselves, each with a copy of its own, draw what one draws."""
        source = self._source()
        asked = [(2, index) for index in range(min(len(source), 32))]
        copies = [pickle.loads(pickle.dumps(source)) for _ in range(workers)]  # noqa: S301
        shares = [_targets(copy, asked[rank::workers]) for rank, copy in enumerate(copies)]
        dealt = [shares[at % workers][at // workers] for at in range(len(asked))]
        assert dealt == _targets(source, asked)

    def test_pickle_is_small(self) -> None:
        """At most 64 kB, also after use, and the copy gives the same targets."""
        source = self._source()
        asked = _places(source)
        expected = _targets(source, asked)
        state = pickle.dumps(source)
        assert len(state) <= MAX_PICKLE_BYTES
        assert _targets(pickle.loads(state), asked) == expected  # noqa: S301  (made two lines above)

    def test_length_is_stable(self) -> None:
        """Neither use nor epochs nor copies change how many targets there are."""
        source = self._source()
        before = len(source)
        _targets(source, _places(source))
        assert len(source) == before
        assert len(pickle.loads(pickle.dumps(source))) == before  # noqa: S301
        assert len(self._source()) == before

    def test_targets_are_windows_of_known_images(self) -> None:
        """Every target resolves to a window that shares pixels with an image of the sampler."""
        sampler = self.make_sampler()
        source = self.make_source(sampler)
        for target in _targets(source, _places(source)):
            assert isinstance(target, Target)
            assert target.image_id in sampler.image_ids
            window = sampler.resolve(target).window
            assert window is not None
            assert window.intersect(Window(0, 0, *sampler.image_shape(target.image_id)[:2])) is not None

    @pytest.mark.parametrize("past", [0, 1, 10**12])
    def test_index_past_the_end(self, past: int) -> None:
        """There is no target after the last one."""
        source = self._source()
        with pytest.raises(IndexError, match=str(len(source))):
            source.target(0, len(source) + past)

    @pytest.mark.parametrize("index", [-1, -(10**12)])
    def test_negative_index(self, index: int) -> None:
        """Sources do not count from the end; datasets do."""
        with pytest.raises(IndexError):
            self._source().target(0, index)

    @pytest.mark.parametrize("bad", [0.0, 1.5, "0", None, (0, 0), slice(0, 1)])
    def test_index_and_epoch_are_whole_numbers(self, bad: Any) -> None:
        """Nothing is rounded or guessed."""
        source = self._source()
        with pytest.raises(TypeError):
            source.target(0, bad)
        with pytest.raises(TypeError):
            source.target(bad, 0)

    def test_numpy_integers(self) -> None:
        """Samplers of indices often give numpy integers."""
        source = self._source()
        assert source.target(np.int64(1), np.int32(2)) == source.target(1, 2)  # type: ignore[arg-type]

    def test_epochs(self) -> None:
        """A random source shows something new every epoch, any other the same."""
        source = self._source()
        epochs = [[source.target(epoch, index) for index in range(8)] for epoch in (0, 1, 2, 10**9)]
        if self.random:
            windows = [[target.window for target in epoch] for epoch in epochs]
            assert all(one != other for i, one in enumerate(windows) for other in windows[:i])
        else:
            assert epochs == [epochs[0]] * len(epochs)


def _places(source: TargetSource) -> list[tuple[int, int]]:
    """Return some ``(epoch, index)``, the first and last index among them."""
    last = len(source) - 1
    indices = sorted({*range(6), last // 3, last // 2, last - 1, last})
    return [(epoch, index) for epoch in (0, 3) for index in indices]


def _targets(source: TargetSource, places: Sequence[tuple[int, int]]) -> list[Target]:
    return [source.target(*place) for place in places]
