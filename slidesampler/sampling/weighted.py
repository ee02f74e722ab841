"""Windows whose centres are drawn in proportion to a map."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.readers import Reader, ReaderPool
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.centering import CenteredSource, start_with_middle
from slidesampler.sampling.choice import WeightedChoice
from slidesampler.sampling.map_files import GivenMaps, MapRows, WeightMaps, map_rows
from slidesampler.sampling.shape import WindowShape
from slidesampler.sampling.slides import BalanceBy, SlideRule, SlideWeights
from slidesampler.sampling.weight_maps import WeightMap, changed
from slidesampler.sampling.windows import checked_count
from slidesampler.target import Target

__all__ = ["WeightedSource"]

#: Maps whose files are kept open, in each process.
MAX_OPEN = 64
#: A map whose sum differs by more than this share was changed.
SAME_TOTAL = 1e-5


class WeightedSource(CenteredSource):
    """Windows whose centres are drawn in proportion to a map: a heat map, an error map, a tissue probability.

    Each window is drawn in three steps: a slide; a pixel of its map, with a chance in proportion to its weight
    and to its area on the slide; a pixel of the slide among those that the map's pixel stands for, each of them
    equally likely. That one is the centre: pixel ``(height // 2, width // 2)`` of the window.

    A map covers its whole image, at any resolution up to that of the image; its shape is the image's, to within
    a pixel of the map. Where one whole number of pixels a pixel explains the shape, rounded up or down, it is
    that (the last row and column stand for what is left); else the map is stretched over the image. A weight of
    0 means never, one of 5 five times as often as one of 1. NaN (and pixels that the map's file marks invalid)
    weigh 0.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    maps : mapping of int to array or path, or str
        A map for each image id: an array ``(h, w)``, or the name of a file, ``.npy`` (which is mapped into
        memory) or any image of one channel that can be read. Or one name for all, such as
        ``"errors/{image_id}.npy"`` (see :func:`slidesampler.sampling.save_maps`). Or ``"tissue"``: every pixel
        of tissue weighs the same, as the foreground index has it (without a tissue mask all that is valid).
    n : int
        Windows an epoch.
    seed : int
        Same seed, same windows.
    slide_weights : {"uniform", "area", "sqrt_area"} or mapping of int to float, optional
        How likely each slide is whose map is not all 0: the same for each; by its area or the square root of
        that; or given by image id, 0 for never. Where None by the sum of its weights over all its pixels.
    balance_by : {"group"}, optional
        Give every group (such as a patient) the same chance, and choose the slide within it as
        ``slide_weights`` says.
    allow_border : bool
        Whether windows may overhang the image. Where not, they are pushed back into it; only along an axis
        where the image is shorter than the window does one overhang, with the image wholly inside.
    image_ids : iterable of int, optional
        The images of ``maps`` where None, in the manifest's order; all images where it names no images.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    snap : int or (int, int), optional
        Windows start at multiples of this many output pixels (at most ``size``), so that fewer tiles are read
        for each: see :mod:`slidesampler.sampling.snap`. Anywhere where None. The pixel
        that was drawn stays in the window, though not as its centre.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    TargetError
        For an image without a map or one that the manifest has not, or a map that is neither an array nor a
        name.
    SamplingError
        For a map that does not have the shape of its image, or holds a weight that is negative or infinite; if
        all weights are 0.
    SourceMissingError, UnsupportedSourceError
        For a file that is not there, or cannot be read.
    ValueError
        For ``n`` below 1.

    Notes
    -----
    The targets have ``kind="weighted"``.

    Maps are read once when the source is made and, whatever their size, one number is kept for 256 of their
    pixels: a draw is a binary search, and looks at 256 pixels of the map. In a pickle names take little, and
    arrays what they take in memory: a source that goes to many workers wants files. A process that looks at a
    map for the first time notices where it was changed after the source was made.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        maps: WeightMaps,
        n: int,
        seed: int = 0,
        *,
        slide_weights: SlideWeights | None = None,
        balance_by: BalanceBy | None = None,
        allow_border: bool = True,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        snap: int | tuple[int, int] | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        if callable(maps) or not isinstance(maps, str | Mapping):
            raise TargetError(
                "maps must be a mapping of image id to array or path, a name with {image_id} in it, or "
                f"'tissue'; got {type(maps).__name__}"
            )
        if image_ids is None and not isinstance(maps, str):
            image_ids = _ids_of(sampler, maps)
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how, snap), image_ids)
        self.seed = operator.index(seed)
        self.allow_border = allow_border
        self._length = checked_count(n)
        self._by_weight = slide_weights is None
        self._slide_rule = SlideRule(sampler, self._ids, slide_weights or "uniform", balance_by)
        self._maps = None if maps == "tissue" else GivenMaps(maps, self._ids)
        if self._maps is not None:
            # Relative to the largest, four bytes an image: workers choose slides without reading every map.
            totals = np.array([self._read_map(at).total for at in range(len(self._ids))])
            self._scale = totals.max()
            if not self._scale > 0:
                raise SamplingError("every map is 0 everywhere; there is no place to choose")
            self._totals: NDArray[np.float32] = (totals / self._scale).astype(np.float32)
        _ = self._slides

    def __len__(self) -> int:
        return self._length

    def _draw(self, epoch: int, index: int) -> Target:
        draws = Draws(self.seed, epoch, index, "weighted")
        image = self._slides.draw(draws)
        y, x = self._place(image, draws)
        frame = self._frame(image)
        (height, width), (extent_y, extent_x), (step_y, step_x) = frame.lengths, frame.extents, frame.steps
        y = start_with_middle(y, height, extent_y, step_y, allow_border=self.allow_border)
        x = start_with_middle(x, width, extent_x, step_x, allow_border=self.allow_border)
        return self.shape.target(frame.image_id, Window(y, x, extent_y, extent_x), "weighted", index)

    def _place(self, image: int, draws: Draws) -> tuple[int, int]:
        """Return the pixel that was drawn, of the image at a position of ``_ids``."""
        if self._maps is None:
            index = self.sampler.foreground
            row, slot = index.row(self._ids[image]), index.tissue_slot
            return index.place(row, slot, draws.below(int(index.pixels[row, slot])))
        found = self._looked_at.get(image)
        if found is None:
            one = self._read_map(image)
            if abs(one.total / self._scale - self._totals[image]) > SAME_TOTAL * self._totals[image]:
                del self._looked_at[image]
                raise changed(self._what(image))
            found = self._looked_at[image]
        return found[0].draw(draws, found[1], f"the map of image {self._ids[image]}")

    def _read_map(self, image: int) -> WeightMap:
        assert self._maps is not None
        with self._pool.lease(image) as reader:
            one = WeightMap.of(reader, self._frame(image).lengths, self._what(image))
        self._looked_at[image] = one, map_rows(self._maps, image, self._names[image], self._pool)
        return one

    def _what(self, image: int) -> str:
        name = self._names[image]
        return f"the map of image {self._ids[image]}" + (f" ({name})" if name else "")

    def _open(self, image: int) -> Reader:
        assert self._maps is not None
        return self._maps.open(image, self._names[image])

    @lazy_property
    def _names(self) -> list[str]:
        assert self._maps is not None
        return self._maps.names(self._ids)

    @lazy_property
    def _pool(self) -> ReaderPool:
        return ReaderPool(self._open, MAX_OPEN)

    @lazy_property
    def _looked_at(self) -> dict[int, tuple[WeightMap, MapRows]]:
        return {}

    @lazy_property
    def _slides(self) -> WeightedChoice:
        totals: NDArray[Any]
        if self._maps is None:
            index = self.sampler.foreground
            totals = index.pixels[[index.row(image_id) for image_id in self._ids], index.tissue_slot]
            if not totals.any():
                raise SamplingError("no image has a pixel of tissue; there is no place to choose")
        else:
            totals = self._totals
        factors = totals if self._by_weight else totals > 0
        weighed = self._slide_rule.over(self.sampler, self._ids, self._areas())
        return WeightedChoice(weighed.weigh(factors=factors), "slide")


def _ids_of(sampler: SourceSampler, maps: Mapping[int, Any]) -> list[int]:
    """Return the images that have a map, in the manifest's order, then what the manifest has not."""
    if not maps:
        raise TargetError("maps is empty: give at least one image a map")
    known = [image_id for image_id in sampler.image_ids if image_id in maps]
    return [*known, *(set(maps) - set(known))] if len(known) < len(maps) else known
