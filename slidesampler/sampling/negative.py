"""Windows that hold no foreground."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import NegativesExhaustedError, SamplingError
from slidesampler.foreground import ForegroundIndex
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import Words, foreground_classes
from slidesampler.sampling.centering import start_with_middle
from slidesampler.sampling.choice import WeightedChoice
from slidesampler.sampling.draw_record import DrawRecord
from slidesampler.sampling.map_files import WeightMaps
from slidesampler.sampling.negative_images import prove_impossible
from slidesampler.sampling.negative_rule import NegativeJudge, NegativeLimits
from slidesampler.sampling.shape import WindowShape
from slidesampler.sampling.slides import BalanceBy, SlideRule, SlideWeights
from slidesampler.sampling.statistics import AskedShares
from slidesampler.sampling.weighted import WeightedSource
from slidesampler.sampling.windows import WindowSource, checked_count, checked_index
from slidesampler.target import Target

__all__ = ["NegativeSource"]

#: Epochs of the source that proposes by maps.
_EPOCHS = 1 << 62


class NegativeSource(WindowSource):
    """Windows at random places of the tissue, none of them with more foreground than allowed.

    Windows are proposed uniformly: a pixel of the tissue is drawn, of all images together, and becomes the
    middle of the window. A proposal is refused if too many pixels under it have a class: what counts is the
    *mask*, pixel by pixel at full resolution, so a window inside a huge annotation is never a negative and one
    inside a hole may be. A window that is read at reduced resolution is also checked as it will be read. What
    is refused is drawn again, ``max_tries`` times at most.

    *Tissue* is what the tissue mask says, where an image has one, and every valid pixel where it has none.
    *Ignored* pixels (outside the image or its valid region, or under an annotation without category) are
    neither foreground nor background.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    n : int
        Windows an epoch.
    seed : int
        Same seed, same windows.
    max_foreground : float
        Share of the window's *valid* pixels, 0 to 1, that may be foreground; 0 is no pixel at all.
    min_valid : float
        Share of all pixels of a window, 0 to 1, that must be valid (not *ignored*).
    min_tissue : float
        Share of all pixels of a window, 0 to 1, that must be tissue.
    min_distance_px : float
        No pixel of foreground may be nearer to the window than this, level-0 pixels: from the centre of the
        pixel to that of the nearest pixel of the window, so that a pixel beside the window is 1 away and 1
        forbids nothing more than 0 does. Not with ``max_foreground``.
    negative_categories : str, int or iterable of these, optional
        Categories that are no foreground: names (of categories, of classes, of supercategories for all below
        them) or category ids. A class counts as negative as a whole, so a category that is drawn as one class
        with others must be named with them.
    maps : mapping of int to array or path, or str, optional
        Where to look for *hard* negatives: a map of weights for each image, such as the false positives of the
        last epoch, given as to :class:`~slidesampler.sampling.weighted.WeightedSource`. The middle of a window
        is then drawn in proportion to the map instead of uniformly over the tissue; a weight of 0 is never.
    slide_weights : {"area", "sqrt_area", "uniform"} or mapping of int to float, optional
        How likely each image is, see Notes. Where None by pixels of tissue, or by the sum of its map.
    balance_by : {"group"}, optional
        Give every group (such as a patient) the same share of the windows.
    allow_border : bool
        Whether windows may overhang the image. Where not, they are pushed back into it; where the image is
        shorter than the window, so that the image lies wholly inside the window.
    max_tries : int
        Windows looked at before giving up. The foreground index answers for most of them; a try reads one
        window of the label layer where the labels are like noise, and where a window of reduced resolution is
        about to be accepted.
    image_ids : iterable of int, optional
        All images where None; those that have a map, where ``maps`` is a mapping.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    snap : int or (int, int), optional
        Windows start at multiples of this many output pixels (at most ``size``), so that fewer tiles are read
        for each: see :mod:`slidesampler.sampling.snap`. Anywhere where None. A proposal
        is moved there before it is judged, and still holds the pixel that was drawn.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    SamplingError
        If no image can have a negative window (see :attr:`impossible`), or those that can weigh 0.
    ValueError
        For ``n`` or ``max_tries`` below 1, a share outside 0 to 1, a distance below 0, or a distance together
        with ``max_foreground``.
    TargetError
        For an image, class or category that the manifest has not, or a size that no target takes.

    Notes
    -----
    The middle of a window of ``h`` rows that starts at row ``y`` is row ``y + h // 2``; columns likewise. It is
    uniform over the tissue; a window that is then pushed back from the border has its middle elsewhere, so the
    places along the border of an image stand for all middles beyond them.

    Without ``slide_weights`` and ``balance_by`` every try draws its image anew, so that windows are uniform
    over all places where a negative can be. With either of them the image is drawn once, and all tries are made
    on it: the images then have exactly the shares that were asked for, however hard it is to find a negative
    on some of them. (With ``maps`` every try draws its image anew, whatever the weights.)

    The targets have ``kind="negative"``.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        n: int,
        seed: int = 0,
        *,
        max_foreground: float = 0.0,
        min_valid: float = 0.5,
        min_tissue: float = 0.0,
        min_distance_px: float = 0.0,
        negative_categories: Words | None = None,
        maps: WeightMaps | None = None,
        slide_weights: SlideWeights | None = None,
        balance_by: BalanceBy | None = None,
        allow_border: bool = False,
        max_tries: int = 1000,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        snap: int | tuple[int, int] | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        if image_ids is None and isinstance(maps, Mapping):
            image_ids = [
                *(one for one in sampler.image_ids if one in maps),
                *(set(maps) - set(sampler.image_ids)),
            ]
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how, snap), image_ids)
        if operator.index(max_tries) < 1:
            raise ValueError(f"max_tries must be at least 1, got {max_tries}")
        self.seed = operator.index(seed)
        self.max_tries = operator.index(max_tries)
        self.allow_border = bool(allow_border)
        negative = set(
            ()
            if negative_categories is None
            else foreground_classes(sampler, negative_categories, "negative_categories")
        )
        classes = tuple(index for index in foreground_classes(sampler, None) if index not in negative)
        self.limits = NegativeLimits(classes, max_foreground, min_valid, min_tissue, min_distance_px)
        self._each_try_anew = slide_weights is None and balance_by is None
        self._around_tissue = maps is None
        ids = self._images.ids(sampler)
        self._slides = SlideRule(sampler, ids, "area" if slide_weights is None else slide_weights, balance_by)
        self._length = checked_count(n)
        left = self._check_possible()
        self._hard = (
            None
            if maps is None
            else WeightedSource(
                sampler,
                size,
                maps,
                self._length,
                self.seed,
                slide_weights=slide_weights,
                balance_by=balance_by,
                allow_border=self.allow_border,
                image_ids=left,
                downsample=downsample,
                mpp=mpp,
                snap=snap,
            )
        )

    def __len__(self) -> int:
        return self._length

    @property
    def impossible(self) -> dict[int, str]:
        """Images that cannot have a negative, and why; they are never drawn.

        What is proven from the totals and the counts a cell of the foreground index. An image that is not
        here may still have no negative, if its foreground is scattered in just the wrong way.
        """
        return dict(self._table.impossible)

    def asked_shares(self) -> AskedShares:
        """Return the shares of images that were asked for; of none where negatives decide where they are."""
        images: dict[int, float] = {}
        if not self._each_try_anew and self._hard is None:
            weights = self._table.weights / self._table.weights.sum()
            images = {
                image_id: weight
                for image_id, weight in zip(self._table.ids, weights.tolist(), strict=True)
                if weight
            }
        return AskedShares(kinds={"negative": 1.0}, images=images)

    def explain(self, epoch: int, index: int) -> tuple[Target, DrawRecord]:
        """Return the target at ``index`` of an epoch, and how many windows were refused before it, and why.

        The reasons are ``"foreground"``, ``"distance"``, ``"unknown"`` (less than ``min_valid``) and
        ``"tissue"``. Raises what :meth:`target` raises.
        """
        return self._search(operator.index(epoch), checked_index(index, len(self)))

    def _draw(self, epoch: int, index: int) -> Target:
        return self._search(epoch, index)[0]

    def _search(self, epoch: int, index: int) -> tuple[Target, DrawRecord]:
        """Return the first proposal that is a negative.

        Raises
        ------
        NegativesExhaustedError
            If none of ``max_tries`` is one.
        """
        judge, refused = self._judge, dict[str, int]()
        proposals = (
            self._uniform(epoch, index) if self._hard is None else self._weighted(self._hard, epoch, index)
        )
        image_id = None
        for tries, (image_id, row, window) in enumerate(islice(proposals, self.max_tries), start=1):
            reason = judge.refuse(row, image_id, window)
            if reason is None:
                target = self.shape.target(image_id, window, "negative", index)
                reason = judge.refuse_as_read(target, image_id, window)
                if reason is None:
                    return target, DrawRecord(tries, refused)
            refused[reason] = refused.get(reason, 0) + 1
        anew = self._each_try_anew or self._hard is not None
        raise self._exhausted(epoch, index, None if anew else image_id, refused)

    def _uniform(self, epoch: int, index: int) -> Iterator[tuple[int, int, Window]]:
        """Yield windows around pixels of the tissue: image id, row of the foreground index, window."""
        draws = Draws(self.seed, epoch, index, "negative")
        table, choice = self._table, self._choice
        place, slot = table.foreground.place, table.foreground.tissue_slot
        image = choice.draw(draws)
        while True:
            row, (height, width), (step_y, step_x) = table.rows[image], table.extents[image], table.steps[image]
            length_y, length_x = table.lengths[image]
            y, x = place(row, slot, draws.below(table.tissue[image]))
            y = start_with_middle(y, length_y, height, step_y, allow_border=self.allow_border)
            x = start_with_middle(x, length_x, width, step_x, allow_border=self.allow_border)
            yield table.ids[image], row, Window(y, x, height, width)
            if self._each_try_anew:
                image = choice.draw(draws)

    def _weighted(self, source: WeightedSource, epoch: int, index: int) -> Iterator[tuple[int, int, Window]]:
        """Yield windows around pixels of the maps, as :meth:`_uniform` does."""
        row_of = self._table.foreground.row
        for number in count():
            # Another epoch for every try: the same index, so that no two indices share their tries.
            inner = Draws(self.seed, epoch, number, "negative map").below(_EPOCHS)
            target = source.target(inner, index)
            assert target.image_id is not None
            assert target.window is not None
            yield target.image_id, row_of(target.image_id), target.window

    def _exhausted(
        self, epoch: int, index: int, image_id: int | None, refused: Mapping[str, int]
    ) -> NegativesExhaustedError:
        limits, (height, width) = self.limits, self.shape.size
        texts = {
            "foreground": f"held more than {limits.max_foreground:.0%} foreground"
            if limits.max_foreground
            else "held foreground",
            "distance": f"were less than {limits.min_distance_px:g} pixels from foreground",
            "unknown": f"were less than {limits.min_valid:.0%} known",
            "tissue": f"were less than {limits.min_tissue:.0%} tissue",
        }
        reasons = ", ".join(f"{refused[name]} {text}" for name, text in texts.items() if refused.get(name))
        where = "" if image_id is None else f" on image {image_id}"
        advice = "" if image_id is None else ", or leave the image out (image_ids, or a weight of 0)"
        return NegativesExhaustedError(
            f"no window of {height} x {width} without foreground for index {index} of epoch {epoch}{where}: "
            f"wanted 1, found 0 in {self.max_tries} tries ({reasons}); use smaller windows, a lower min_valid, "
            f"a higher max_foreground, more max_tries, or images with more background{advice}",
            wanted=1,
            found=0,
            tries=self.max_tries,
            refused=refused,
        )

    def _check_possible(self) -> list[int]:
        """Return the images that can have a negative; raise unless there is one to draw from."""
        table = self._table
        left = [image_id for image_id in table.ids if image_id not in table.impossible]
        height, width = self.shape.size
        if not left:
            shown = [f"image {image_id}: {reason}" for image_id, reason in list(table.impossible.items())[:3]]
            more = " ..." if len(table.impossible) > 3 else ""
            raise SamplingError(
                f"none of {len(table.ids)} images can have a negative window of {height} x {width} output "
                f"pixels ({'; '.join(shown)}{more}); use a smaller size, a lower min_valid or min_tissue, a "
                "higher max_foreground, or images with background"
            )
        if self._around_tissue and not table.weights.any():
            raise SamplingError(
                f"slide_weights is 0 for each of the {len(left)} images that can have a negative window; "
                f"{len(table.impossible)} others cannot have one"
            )
        return left

    @lazy_property
    def _choice(self) -> WeightedChoice:
        return WeightedChoice(self._table.weights, "image")

    @lazy_property
    def _judge(self) -> NegativeJudge:
        return NegativeJudge(self.sampler, self._table.foreground, self.limits)

    @lazy_property
    def _table(self) -> _ImageTable:
        ids, index = self._images.ids(self.sampler), self.sampler.foreground
        rows = np.array([index.row(image_id) for image_id in ids], np.int64)
        extents = self.shape.extents(self.sampler, ids)
        tissue = index.pixels[rows, index.tissue_slot]
        impossible = prove_impossible(
            index,
            rows,
            extents,
            self.limits,
            allow_border=self.allow_border,
            around_tissue=self._around_tissue,
            centred=self.shape.snap is None,
        )
        possible = np.ones(len(ids), np.bool_)
        possible[list(impossible)] = False
        weights = self._slides.weigh(self.sampler, ids, areas=tissue, possible=possible)
        return _ImageTable(
            ids=ids,
            foreground=index,
            rows=rows.tolist(),
            lengths=index.sizes[rows].tolist(),
            extents=extents.tolist(),
            steps=self.shape.steps(self.sampler, ids).tolist(),
            tissue=tissue.tolist(),
            weights=weights,
            impossible={ids[at]: impossible[at] for at in sorted(impossible)},
        )


class _ImageTable(NamedTuple):
    """Per image, in the order of ``ids``; pairs are ``(y, x)``, level-0 pixels."""

    ids: list[int]
    foreground: ForegroundIndex
    #: Of the foreground index.
    rows: list[int]
    lengths: list[list[int]]
    #: Of a window.
    extents: list[list[int]]
    #: Windows start at multiples of these.
    steps: list[list[int]]
    #: Pixels of tissue.
    tissue: list[int]
    weights: NDArray[np.float64]
    #: By image id.
    impossible: dict[int, str]
