"""Windows of several sources, in given proportions."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from slidesampler.errors import SamplingError, TargetError
from slidesampler.sampling.base import TargetSource
from slidesampler.sampling.draw_record import DrawRecord, ExplainedSource
from slidesampler.sampling.permutation import Permutation
from slidesampler.sampling.quota import Quota
from slidesampler.sampling.windows import checked_count, checked_index
from slidesampler.target import Target

__all__ = ["MixtureSource", "Place", "natural_length"]


class Place(NamedTuple):
    """Where a window of a mixture comes from."""

    #: Position in ``sources``.
    source: int
    #: The epoch that the source is asked for.
    epoch: int
    #: The index that it is asked for.
    number: int


class MixtureSource:
    """Windows of any sources, in given proportions.

    With ``batch_size`` every batch holds its quota of each source. A quota that is no whole number is met over
    batches: after any number of them each source has had its exact share, to within ``quota.max_deviation``
    windows (half a window for two sources, less than one for three). Which places of a batch a source gets is
    drawn anew for each batch. Without ``batch_size`` it is the epoch as a whole that holds the quotas, and
    which source an index gets is drawn at random: a batch then holds more or less of a source, as chance would
    have it.

    A source is asked for each of its windows once before it is asked for any of them again. Where an epoch
    takes more windows than a source has, the source is asked for another of *its* epochs, so that a random
    source gives new windows.

    Parameters
    ----------
    sources : sequence of TargetSource
        At least one; mixtures can be mixed, too.
    weights : sequence of float, optional
        One a source, at least 0, any scale; all the same where None. A source of weight 0 is never asked.
    n : int, optional
        Windows an epoch. Where None, so many that the source that is used up first, at these weights, has given
        each of its windows once; with ``batch_size`` rounded up to whole batches.
    seed : int
        Same seed, same mixture.
    batch_size : int, optional
        Windows of a *global* batch: what all ranks together take in one step. Batch ``b`` is the indices
        ``[b * batch_size, (b + 1) * batch_size)``; :class:`slidesampler.torch.WindowSampler` shuffles whole
        batches and deals each out to the ranks.
    shuffle : bool
        Take the windows of each source in a random order, another one every epoch; else in the source's own
        order (which is often slide by slide, so that windows of a batch look alike).

    Raises
    ------
    TargetError
        For something in ``sources`` that is no source, or not one weight a source.
    SamplingError
        For weights that are negative, not finite, or all 0; for a source without windows.
    ValueError
        For ``n`` or ``batch_size`` below 1.

    Notes
    -----
    The ``r``-th time around, a source is asked for its epoch ``epoch * rounds + r``, where ``rounds`` is how
    many times around an epoch goes at most: every round of every epoch is an epoch of its own. Where it is once
    around, that is ``epoch``.

    Targets are passed on as the source made them, with its ``kind`` and ``index``.

    Examples
    --------
    >>> from slidesampler.sampling import FixedSource
    >>> a, b = (FixedSource([{"image_id": i}] * 100) for i in (1, 2))
    >>> source = MixtureSource([a, b], [1, 3], batch_size=8)
    >>> [sum(source.target(0, i).image_id == 1 for i in range(8 * k, 8 * k + 8)) for k in range(4)]
    [2, 2, 2, 2]
    >>> len(source)
    136
    """

    def __init__(
        self,
        sources: Sequence[TargetSource],
        weights: Sequence[float | Fraction] | None = None,
        n: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        *,
        shuffle: bool = True,
    ) -> None:
        self.sources = tuple(sources)
        for position, source in enumerate(self.sources):
            if not isinstance(source, TargetSource):
                raise TargetError(f"sources[{position}] must be a source, got {type(source).__name__}")
        weights = [1] * len(self.sources) if weights is None else list(weights)
        if len(weights) != len(self.sources) or not self.sources:
            raise TargetError(
                "a mixture takes at least one source, and one weight a source; "
                f"got {len(self.sources)} sources and {len(weights)} weights"
            )
        self.quota = Quota(weights)
        self.seed = operator.index(seed)
        self.batch_size = None if batch_size is None else checked_count(batch_size, "batch_size")
        self.shuffle = shuffle
        self._lengths = [len(source) for source in self.sources]
        self._check_lengths()
        shares = [self.quota.share(position) for position in range(len(self.sources))]
        self._length = natural_length(self._lengths, shares, self.batch_size) if n is None else checked_count(n)
        self._last_deal: tuple[int, list[int], list[int]] = (-1, [], [])
        counts = self.quota.counts(self._length)
        self._rounds = [
            max(1, -(-count // max(1, have))) for count, have in zip(counts, self._lengths, strict=True)
        ]

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
        """
        place = self.locate(epoch, index)
        return self.sources[place.source].target(place.epoch, place.number)

    def explain(self, epoch: int, index: int) -> tuple[Target, DrawRecord]:
        """Return the target, and what it took to choose it, as the source that it comes from says.

        One try, where that source does not choose by trying. Raises what :meth:`target` raises.
        """
        place = self.locate(epoch, index)
        source = self.sources[place.source]
        if isinstance(source, ExplainedSource):
            return source.explain(place.epoch, place.number)
        return source.target(place.epoch, place.number), DrawRecord(1, {})

    def locate(self, epoch: int, index: int) -> Place:
        """Return which source a window comes from, and what that source is asked for.

        Raises
        ------
        IndexError, TypeError
            As :meth:`target` does.
        """
        epoch, index = operator.index(epoch), checked_index(index, self._length)
        size = self.batch_size or self._length
        batch = index // size
        first = batch * size
        place = Permutation(min(size, self._length - first), self.seed, epoch, batch, "mixture")(index - first)
        _, before, quotas = self._deal(batch)
        kind = 0
        # The places of a batch before they are permuted: those of source 0, of source 1 and so on.
        while place >= quotas[kind]:
            place -= quotas[kind]
            kind += 1
        around, number = divmod(before[kind] + place, self._lengths[kind])
        own_epoch = epoch * self._rounds[kind] + around
        if self.shuffle:
            number = Permutation(self._lengths[kind], self.seed, own_epoch, kind, "mixture order")(number)
        return Place(kind, own_epoch, number)

    def _deal(self, batch: int) -> tuple[int, list[int], list[int]]:
        """Return the batch, how many windows each source gave before it, and how many it gives in it."""
        # The windows of a batch are asked for together, so the last answer is mostly the next one. It is
        # replaced as a whole, so that threads may do so at once.
        deal = self._last_deal
        if deal[0] != batch:
            size = self.batch_size or self._length
            before = self.quota.counts(batch * size)
            after = self.quota.counts(min((batch + 1) * size, self._length))
            deal = batch, before, [b - a for a, b in zip(before, after, strict=True)]
            self._last_deal = deal
        return deal

    def _check_lengths(self) -> None:
        for position, length in enumerate(self._lengths):
            if not length and self.quota.share(position):
                raise SamplingError(
                    f"sources[{position}] has no windows; leave it out, or give it the weight 0"
                )


def natural_length(lengths: Sequence[int], shares: Sequence[Fraction], batch_size: int | None) -> int:
    """Return how long an epoch is in which the source that is used up first gives each of its windows once.

    Rounded up to whole batches. Sources of share 0 are left out.
    """
    n = min(math.ceil(length / share) for length, share in zip(lengths, shares, strict=True) if share)
    return n if batch_size is None else -(-n // batch_size) * batch_size
