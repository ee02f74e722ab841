"""How likely each slide is: by a rule, by given numbers, or so that every patient counts the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.shape import image_sizes

__all__ = ["BalanceBy", "SlideRule", "SlideWeights", "WeighedSlides", "slide_weights"]

#: What is made equally likely before slides are weighed within it.
BalanceBy = Literal["group"]
SlideWord = Literal["uniform", "area", "sqrt_area"]
#: A rule's name, or a weight for each image id.
SlideWeights: TypeAlias = SlideWord | Mapping[int, float]


class SlideRule:
    """How likely each slide is, as a user said it: checked, and small in a pickle.

    Numbers given for each image are kept as float32, four bytes an image.

    Parameters
    ----------
    sampler : SourceSampler
    image_ids : sequence of int
        The images that are chosen from.
    weights : {"uniform", "area", "sqrt_area"} or mapping of int to float
        The same for each; in proportion to its area or to the square root of that; or given by image id, 0 for
        never. A mapping names every image of ``image_ids``; it may name others of the manifest, too.
    balance_by : {"group"}, optional
        Give every group (such as a patient) the same total, and weigh slides within it as ``weights`` says.
    what : str
        The argument's name, for messages.

    Raises
    ------
    TargetError
        For another word; a mapping that leaves out an image, names one that the manifest has not, or holds
        anything but finite numbers of at least 0.
    SamplingError
        If every given weight is 0.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        image_ids: Sequence[int],
        weights: SlideWeights = "uniform",
        balance_by: BalanceBy | None = None,
        what: str = "slide_weights",
    ) -> None:
        if balance_by not in (None, *get_args(BalanceBy)):
            raise TargetError(f"balance_by must be 'group' or None, got {balance_by!r}")
        self.balance_by = balance_by
        self._given: NDArray[np.float32] | None = None
        self._word = ""
        if isinstance(weights, Mapping):
            self._given = _given_weights(sampler, image_ids, weights, what)
        elif isinstance(weights, str) and weights in get_args(SlideWord):
            self._word = weights
        else:
            raise TargetError(
                f"{what} must be one of {', '.join(get_args(SlideWord))}, or a mapping of image id to weight; "
                f"got {weights!r}"
            )

    def __repr__(self) -> str:
        said = repr(self._word) if self._given is None else f"<of {len(self._given)} images>"
        return f"SlideRule({said}, balance_by={self.balance_by!r})"

    def weigh(
        self,
        sampler: SourceSampler,
        image_ids: Sequence[int],
        *,
        areas: ArrayLike | None = None,
        possible: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Return the weight of each image: their ratios count, they are not scaled to any sum.

        Parameters
        ----------
        sampler, image_ids
            What the rule was made with.
        areas : array_like (n,), optional
            What "area" means, for example pixels of tissue; the area of the image where None (which opens those
            whose size the manifest leaves out).
        possible : array_like of bool (n,), optional
            Which images may be chosen at all; the others weigh 0, and a group without any has no share.

        Returns
        -------
        float64 (n,)
            All 0 where nothing is left to choose.

        Raises
        ------
        SamplingError
            For images without group that are to be balanced by it.
        """
        return self.over(sampler, image_ids, areas).weigh(possible)

    def over(
        self, sampler: SourceSampler, image_ids: Sequence[int], areas: ArrayLike | None = None
    ) -> WeighedSlides:
        """Return the slides with what the rule needs of them looked up, to be weighed again and again."""
        if self._given is not None:
            given = self._given.astype(np.float64)
        elif self._word == "uniform":
            given = np.ones(len(image_ids))
        else:
            sizes = image_sizes(sampler, image_ids).prod(axis=1) if areas is None else areas
            given = np.array(sizes, np.float64)
            if self._word == "sqrt_area":
                given = np.sqrt(given)
        groups = None if self.balance_by is None else _group_numbers(sampler, image_ids)
        return WeighedSlides(given, groups)


class WeighedSlides(NamedTuple):
    """Slides with the weights of a rule, before it is known which of them may be chosen."""

    #: One a slide.
    weights: NDArray[np.float64]
    #: A number for the group of each, where groups are balanced.
    groups: NDArray[np.int64] | None

    def weigh(self, possible: ArrayLike | None = None, factors: ArrayLike = 1.0) -> NDArray[np.float64]:
        """Return the weight of each slide times its factor; see :meth:`SlideRule.weigh`."""
        weights = self.weights * np.asarray(factors, np.float64)
        if possible is not None:
            weights = np.where(possible, weights, 0.0)
        if self.groups is not None:
            totals = np.bincount(self.groups, weights)[self.groups]
            weights = np.divide(weights, totals, out=np.zeros(len(weights)), where=totals > 0)
        return weights


def slide_weights(
    sampler: SourceSampler,
    image_ids: Sequence[int],
    weights: SlideWeights = "uniform",
    balance_by: BalanceBy | None = None,
    *,
    areas: ArrayLike | None = None,
    possible: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the weight of each image, float64 ``(n,)``: :class:`SlideRule` made and asked at once.

    Examples
    --------
    >>> from slidesampler.testing.source_contract import RectangleSampler
    >>> sampler = RectangleSampler(images=4)
    >>> slide_weights(sampler, (3, 10, 17), "sqrt_area", areas=[100, 25, 4], possible=[1, 1, 0]).tolist()
    [10.0, 5.0, 0.0]
    >>> slide_weights(sampler, (10, 3), {3: 0.5, 10: 2}).tolist()
    [1.0, 0.25]
    """
    rule = SlideRule(sampler, image_ids, weights, balance_by)
    return rule.weigh(sampler, image_ids, areas=areas, possible=possible)


def _given_weights(
    sampler: SourceSampler, image_ids: Sequence[int], weights: Mapping[int, float], what: str
) -> NDArray[np.float32]:
    missing = [image_id for image_id in image_ids if image_id not in weights]
    if missing:
        raise TargetError(
            f"{what} leaves out {len(missing)} of {len(image_ids)} images, the first is {missing[0]}; give "
            "every image a weight, 0 for never"
        )
    if len(weights) > len(image_ids):
        known = set(sampler.image_ids)
        unknown = [image_id for image_id in weights if image_id not in known]
        if unknown:
            raise TargetError(f"{what} names image {unknown[0]!r}, which is not in the manifest")
    try:
        given = np.array([weights[image_id] for image_id in image_ids], np.float64)
    except (TypeError, ValueError) as error:
        raise TargetError(f"{what} must be numbers: {error}") from error
    bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
    if len(bad):
        raise TargetError(
            f"{what}[{image_ids[bad[0]]}] must be a finite number of at least 0, got {given[bad[0]]}"
        )
    if not given.any():
        raise SamplingError(f"{what} is 0 for every image; give at least one a weight above 0")
    # Scaled first: what float64 holds may overflow float32, or vanish in it.
    kept: NDArray[np.float32] = (given / given.max()).astype(np.float32)
    return kept


def _group_numbers(sampler: SourceSampler, image_ids: Sequence[int]) -> NDArray[np.int64]:
    """Return a number for the group of each image, counted from 0."""
    numbers: dict[str, int] = {}
    found = np.empty(len(image_ids), np.int64)
    without: list[int] = []
    for at, image_id in enumerate(image_ids):
        group = sampler.image_record(image_id).group
        if group is None:
            without.append(image_id)
        else:
            found[at] = numbers.setdefault(group, len(numbers))
    if without:
        raise SamplingError(
            f"balance_by='group' needs the group of every image, but {len(without)} of {len(image_ids)} have "
            f"none, the first is image {without[0]}; give each a 'group' in the manifest (such as the patient)"
        )
    return found
