"""What a source was asked for, as shares, to compare with what was served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.sampling.statistics import AskedShares
from slidesampler.target import Target

__all__ = ["DeclaringSource", "asked_shares", "given_shares"]

Key = TypeVar("Key", str, int)


@runtime_checkable
class DeclaringSource(Protocol):
    """A source that knows what it was asked for."""

    def asked_shares(self) -> AskedShares:
        """Return the shares of kinds, classes and images that its windows have in the long run."""
        ...


def asked_shares(source: TargetSource) -> AskedShares:
    """Return what a source was asked for, as far as its options say; draws nothing.

    A source may say it itself, with a method of this name. Of others it is known which kind their windows have:
    a mixture has the shares of its parts. What nobody asked for stays empty.

    Parameters
    ----------
    source : TargetSource

    Examples
    --------
    >>> from slidesampler.sampling.balanced import BalancedSource
    >>> from slidesampler.testing.source_contract import RectangleSampler
    >>> source = BalancedSource(RectangleSampler(10), size=64, n=100, pos_fraction=0.25)
    >>> asked_shares(source).kinds
    {'positive': 0.25, 'negative': 0.75}
    """
    if isinstance(source, DeclaringSource):
        return source.asked_shares()
    if isinstance(source, RejectionSource):
        # Which classes and images are kept is what the rejection is there to change.
        return AskedShares(kinds=asked_shares(source.source).kinds)
    if isinstance(source, MixtureSource):
        shares = [float(source.quota.share(at)) for at in range(len(source.sources))]
        parts = [
            (asked_shares(part), share) for part, share in zip(source.sources, shares, strict=True) if share
        ]
        return _mixed(parts)
    return AskedShares()


def given_shares(targets: Iterable[Target], sampler: SourceSampler) -> AskedShares:
    """Return the shares that a list of targets has: what a log of them should show.

    Parameters
    ----------
    targets : iterable of Target
        All that a source gives in the epochs of the log.
    sampler : Sampler
        Knows the classes.
    """
    kinds: Counter[str] = Counter()
    classes: Counter[int] = Counter()
    images: Counter[int] = Counter()
    index_of = sampler.class_map.category_to_index
    for target in targets:
        frames = target.image_ids or (target.image_id,)
        kinds[target.kind or ""] += len(frames)
        number = None if target.category_id is None else index_of.get(target.category_id)
        if number is not None and 0 < number < len(sampler.class_map.names):
            classes[number] += len(frames)
        images.update(frame for frame in frames if frame is not None)
    return AskedShares(_shares(kinds), _shares(classes), _shares(images))


def _mixed(parts: Sequence[tuple[AskedShares, float]]) -> AskedShares:
    """Return the shares of a mixture; nothing is said where a part of it says nothing."""
    kinds: dict[str, float] = {}
    classes: dict[int, float] = {}
    images: dict[int, float] = {}
    for asked, share in parts:
        _add(kinds, asked.kinds.items(), share)
        _add(classes, asked.classes.items(), share)
        _add(images, asked.images.items(), share)
    total = sum(classes.values())
    # Negatives are chosen for no class; whatever else says nothing of classes leaves the whole unknown.
    told = all(asked.classes or set(asked.kinds) == {"negative"} for asked, _ in parts)
    return AskedShares(
        kinds if all(asked.kinds for asked, _ in parts) else {},
        # Of the windows that were chosen for a class, whichever part they are from.
        {number: share / total for number, share in classes.items()} if told else {},
        images if all(asked.images for asked, _ in parts) else {},
    )


def _add(total: dict[Key, float], shares: Iterable[tuple[Key, float]], weight: float) -> None:
    for key, share in shares:
        total[key] = total.get(key, 0.0) + share * weight


def _shares(counts: Counter[Key]) -> dict[Key, float]:
    total = counts.total()
    return {key: count / total for key, count in counts.items()}
