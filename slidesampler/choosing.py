"""The part of a sampler that chooses windows: short ways to make a source, and items by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from slidesampler.errors import SamplingError
from slidesampler.models import Sample
from slidesampler.sampling import (
    BalancedSource,
    CoverageSource,
    GridSource,
    NegativeSource,
    PositiveSource,
    RejectionSource,
    SourceSampler,
    TargetSource,
    WeightedSource,
)
from slidesampler.sampling.windows import checked_index
from slidesampler.target import Target

__all__ = ["ChoosesWindows"]


class Preselected(NamedTuple):
    """The sources that ``load_positive`` and ``load_negative`` take their windows from."""

    positive: TargetSource
    negative: TargetSource


class LoadsSamples(SourceSampler, Protocol):
    """What the methods below need of the sampler that they are methods of."""

    preselected: Preselected | None

    def load_sample(
        self, target: Target | Mapping[str, Any], with_annots: bool = True, with_mask: bool = True
    ) -> Sample:
        """Return the pixels of a target, with its mask and annotations."""
        ...

    def load_positive(
        self, index: int, epoch: int = 0, *, with_annots: bool = True, with_mask: bool = True
    ) -> Sample:
        """See :meth:`ChoosesWindows.load_positive`."""
        ...

    def load_negative(
        self, index: int, epoch: int = 0, *, with_annots: bool = True, with_mask: bool = True
    ) -> Sample:
        """See :meth:`ChoosesWindows.load_negative`."""
        ...


class ChoosesWindows:
    """Methods of :class:`slidesampler.Sampler` that choose windows.

    ``sampler.positive(size=256, n=1000)`` is ``PositiveSource(sampler, size=256, n=1000)``, and so on: the
    short ways take what the class takes, less the sampler.
    """

    #: What :meth:`preselect` chose.
    preselected: Preselected | None = None

    @property
    def positive(self: SourceSampler) -> Callable[..., PositiveSource]:
        """Make a :class:`slidesampler.PositiveSource`: windows that hold an object, or a pixel of a class."""
        return partial(PositiveSource, self)

    @property
    def negative(self: SourceSampler) -> Callable[..., NegativeSource]:
        """Make a :class:`slidesampler.NegativeSource`: windows without foreground."""
        return partial(NegativeSource, self)

    @property
    def balanced(self: SourceSampler) -> Callable[..., BalancedSource]:
        """Make a :class:`slidesampler.BalancedSource`: positives and negatives in a given proportion."""
        return partial(BalancedSource, self)

    @property
    def rejection(self: SourceSampler) -> Callable[..., RejectionSource]:
        """Make a :class:`slidesampler.RejectionSource`: another source, less what has too little in it."""
        return partial(RejectionSource, sampler=self)

    @property
    def grid(self: SourceSampler) -> Callable[..., GridSource]:
        """Make a :class:`slidesampler.GridSource`: every window of a regular grid."""
        return partial(GridSource, self)

    @property
    def coverage(self: SourceSampler) -> Callable[..., CoverageSource]:
        """Make a :class:`slidesampler.CoverageSource`: few windows that hold every object."""
        return partial(CoverageSource, self)

    @property
    def weighted(self: SourceSampler) -> Callable[..., WeightedSource]:
        """Make a :class:`slidesampler.WeightedSource`: centres in proportion to a map."""
        return partial(WeightedSource, self)

    def preselect(
        self: LoadsSamples,
        size: int | tuple[int, int],
        n_pos: int | None = None,
        n_neg: int | None = None,
        seed: int = 0,
        *,
        positive: TargetSource | None = None,
        negative: TargetSource | None = None,
    ) -> tuple[int, int]:
        """Choose what ``load_positive``, ``load_negative`` and ``load_item`` load.

        Parameters
        ----------
        size : int or (int, int)
            Output pixels, ``(height, width)``.
        n_pos : int, optional
            Positives; one for each annotation with a class where None. Exactly so many: none is lost.
        n_neg : int, optional
            Negatives; as many as positives where None.
        seed : int
            Same seed, same windows, whatever is in the cache.
        positive, negative : TargetSource, optional
            Sources of your own instead.

        Returns
        -------
        (int, int)
            Number of positives and negatives; ``len(sampler)`` is their sum, and never changes after this.
        """
        if positive is None:
            positive = PositiveSource(self, size, n_pos, seed)
        if negative is None:
            negative = NegativeSource(self, size, len(positive) if n_neg is None else n_neg, seed)
        self.preselected = Preselected(positive, negative)
        return len(positive), len(negative)

    @property
    def n_positives(self: LoadsSamples) -> int:
        """Number of items that ``load_positive`` has."""
        return len(_chosen(self).positive)

    @property
    def n_negatives(self: LoadsSamples) -> int:
        """Number of items that ``load_negative`` has."""
        return len(_chosen(self).negative)

    def __len__(self: LoadsSamples) -> int:
        """Return how many items ``load_item`` has: positives and negatives."""
        chosen = _chosen(self)
        return len(chosen.positive) + len(chosen.negative)

    def __bool__(self) -> bool:
        # A sampler has a length once something was preselected; it is something before that, too.
        return True

    def load_positive(
        self: LoadsSamples, index: int, epoch: int = 0, *, with_annots: bool = True, with_mask: bool = True
    ) -> Sample:
        """Return a window that holds an object.

        Parameters
        ----------
        index : int
            In ``[0, n_positives)``.
        epoch : int
            The same index is another window in another epoch, where the source is random.
        with_annots, with_mask : bool
            What to load besides pixels.

        Raises
        ------
        SamplingError
            Before :meth:`preselect`.
        IndexError
            If the index is not in that range.
        """
        target = _chosen(self).positive.target(epoch, index)
        return self.load_sample(target, with_annots, with_mask)

    def load_negative(
        self: LoadsSamples, index: int, epoch: int = 0, *, with_annots: bool = True, with_mask: bool = True
    ) -> Sample:
        """Return a window without foreground; parameters and errors as :meth:`load_positive`."""
        target = _chosen(self).negative.target(epoch, index)
        return self.load_sample(target, with_annots, with_mask)

    def load_item(
        self: LoadsSamples, index: int, epoch: int = 0, *, with_annots: bool = True, with_mask: bool = True
    ) -> Sample:
        """Return positive ``index``, or from ``n_positives`` on negative ``index - n_positives``.

        Parameters and errors as :meth:`load_positive`; the index is in ``[0, len(sampler))``.
        """
        positives, negatives = map(len, _chosen(self))
        index = checked_index(index, positives + negatives)
        if index < positives:
            return self.load_positive(index, epoch, with_annots=with_annots, with_mask=with_mask)
        return self.load_negative(index - positives, epoch, with_annots=with_annots, with_mask=with_mask)


def _chosen(sampler: LoadsSamples) -> Preselected:
    if sampler.preselected is None:
        raise SamplingError(
            "no items were chosen yet: call sampler.preselect(size=256, n_pos=..., n_neg=...) first"
        )
    return sampler.preselected
