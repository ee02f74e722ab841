"""Positives and negatives in a given proportion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.mixture import MixtureSource, natural_length
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.quota import Quota
from slidesampler.target import Target

__all__ = ["BalancedSource"]


class BalancedSource(MixtureSource):
    """Windows around annotations and windows without any, in a given proportion.

    With ``batch_size`` every *global* batch holds its share of positives: half of 32 is 16 in each; a third of
    32 is 10 or 11, and 32 in the first three batches, in the next three and so on. Without, each window is a
    positive with that chance.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    n : int, optional
        Windows an epoch. Where None, so many that each annotation that has a class comes once (rounded up to
        whole batches).
    seed : int
        Same seed, same windows.
    pos_fraction : float
        Share of positives, 0 to 1, both included.
    batch_size : int, optional
        Windows of a global batch, all ranks together; see :class:`MixtureSource`.
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    snap : int or (int, int), optional
        Windows start at multiples of this many output pixels, so that fewer tiles are read for each; anywhere
        where None. Both sources take it.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    ValueError
        For ``pos_fraction`` outside 0 to 1, ``n`` or ``batch_size`` below 1; for no ``n`` where
        ``pos_fraction`` is 0.
    SamplingError, TargetError
        What :class:`PositiveSource` and :class:`NegativeSource` raise.

    See Also
    --------
    BalancedSource.of : takes sources with options of their own.
    MixtureSource : mixes any number of sources.

    Notes
    -----
    The targets have ``kind="positive"`` or ``kind="negative"``, as their sources say.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        n: int | None = None,
        seed: int = 0,
        *,
        pos_fraction: float | Fraction = 0.5,
        batch_size: int | None = None,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        snap: int | tuple[int, int] | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        weights = _weights(pos_fraction)
        ids = None if image_ids is None else list(image_ids)
        counts = None if n is None else Quota(weights).counts(n)
        made: list[TargetSource] = []
        if weights[0]:
            wanted = None if counts is None else max(1, counts[0])
            made.append(
                PositiveSource(
                    sampler,
                    size,
                    wanted,
                    seed,
                    image_ids=ids,
                    downsample=downsample,
                    mpp=mpp,
                    snap=snap,
                    how=how,
                )
            )
        if counts is None:
            if not made:
                raise ValueError("without positives an epoch has no natural length: say how many windows, n=")
            n = natural_length([len(made[0])], weights[:1], batch_size)
            counts = Quota(weights).counts(n)
        if weights[1]:
            wanted = max(1, counts[1])
            made.append(
                NegativeSource(
                    sampler,
                    size,
                    wanted,
                    seed,
                    image_ids=ids,
                    downsample=downsample,
                    mpp=mpp,
                    snap=snap,
                    how=how,
                )
            )
        # A source of weight 0 is never asked, so any will do where there is only one.
        super().__init__([made[0], made[-1]], weights, n, seed, batch_size)

    @classmethod
    def of(
        cls,
        positive: TargetSource,
        negative: TargetSource,
        pos_fraction: float | Fraction = 0.5,
        n: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        *,
        shuffle: bool = True,
    ) -> BalancedSource:
        """Return a mixture of two ready-made sources.

        Parameters
        ----------
        positive, negative : TargetSource
        pos_fraction : float
            Share of windows from ``positive``, 0 to 1, both included.
        n : int, optional
            Windows an epoch. Where None, so many that the source that is used up first has given each of its
            windows once (rounded up to whole batches).
        seed, batch_size, shuffle
            See :class:`MixtureSource`.

        Raises
        ------
        ValueError, TargetError, SamplingError
            As :class:`MixtureSource` does.

        Examples
        --------
        >>> from slidesampler.sampling import FixedSource
        >>> tumour, glass = FixedSource([{"image_id": 1}] * 20), FixedSource([{"image_id": 2}] * 500)
        >>> source = BalancedSource.of(tumour, glass, pos_fraction=0.25, batch_size=16)
        >>> len(source), sum(source.target(0, index).image_id == 1 for index in range(16))
        (80, 4)
        """
        self = cls.__new__(cls)
        MixtureSource.__init__(
            self, [positive, negative], _weights(pos_fraction), n, seed, batch_size, shuffle=shuffle
        )
        return self

    @property
    def positive(self) -> TargetSource:
        """Where positives come from."""
        return self.sources[0]

    @property
    def negative(self) -> TargetSource:
        """Where negatives come from."""
        return self.sources[1]

    @property
    def pos_fraction(self) -> float:
        """Share of positives."""
        return float(self.quota.share(0))


def _weights(pos_fraction: float | Fraction) -> list[Fraction]:
    """Return the exact weights of positives and negatives."""
    share = float(pos_fraction)
    if not 0 <= share <= 1:
        raise ValueError(f"pos_fraction is a share, 0 to 1, got {pos_fraction}")
    exact = pos_fraction if isinstance(pos_fraction, Fraction) else Fraction(repr(share))
    return [exact, 1 - exact]
