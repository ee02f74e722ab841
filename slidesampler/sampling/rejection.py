"""Windows of another source, most of those with little in them left out."""

from __future__ import annotations

import operator
import warnings
from typing import Literal, NamedTuple, get_args

from slidesampler.errors import SamplingError, TargetError
from slidesampler.foreground import ForegroundIndex
from slidesampler.lazy import lazy_property
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.draw_record import DrawRecord
from slidesampler.sampling.judge import target_counts
from slidesampler.sampling.windows import TablesMadeAnew, checked_index
from slidesampler.target import Target

__all__ = ["RejectionSource"]

#: What is done when all trials were rejected; see :class:`RejectionSource`.
OnExhausted = Literal["warn", "raise", "best"]
#: Where counts come from; see :class:`RejectionSource`.
CountsFrom = Literal["index", "labels"]
#: Epochs of the wrapped source that trials are drawn from.
_EPOCHS = 1 << 62


class RejectionSource(TablesMadeAnew):
    """Windows of another source, of which those with too little foreground are mostly drawn again.

    A *trial* is a window of the wrapped source. It is tested by three rules, in this order, and the first that
    fails rejects it:

    - ``valid_ratio``: the share of its pixels that are valid must be *more than* this.
    - ``size_threshold``: with *fewer than* this many pixels of foreground it is rejected with probability
      ``p``; with exactly as many it is kept.
    - ``diversity``: with *fewer than* this many distinct labels it is rejected with probability ``p``. The
      background is a label where it shows, so 2 asks for more than one thing, whatever it is.

    All counts are of the mask as it is loaded, in output pixels; ignored pixels (outside the image or its valid
    region, or under an annotation without category) are not valid and have no label. No image pixel is read
    until the window that is kept is loaded.

    Parameters
    ----------
    source : TargetSource
        Where windows come from; of single images, not of sequences. Give one that draws at random: every trial
        of a grid is the same window.
    sampler : Sampler, optional
        The one that ``source`` was made with; ``source.sampler`` where None.
    seed : int
        Same seed and same wrapped source, same windows.
    size_threshold : int
        Output pixels; 0 switches the rule off.
    p : float
        0 to 1.
    diversity : int
        Distinct labels; 0 and 1 switch the rule off (but for windows without a valid pixel).
    valid_ratio : float
        Less than 1. Negative switches the rule off.
    max_trials : int
        Rejections before giving up: at most ``max_trials + 1`` windows are looked at.
    on_exhausted : {"warn", "raise", "best"}
        When the last of them is rejected, too: give it nevertheless, with a warning; raise; or give the one
        with the most foreground, the first such one.
    counts_from : {"index", "labels"}
        Ask the foreground index about windows at full resolution, or always read their labels. The windows are
        the same; reading suits a few windows of large images that have no cache.

    Raises
    ------
    TargetError
        If ``source`` has no ``sampler`` and none is given.
    ValueError
        For numbers outside the ranges above, or an unknown word.

    Notes
    -----
    Trial ``t`` of index ``i`` in an epoch is ``source.target(e, i)``, where ``e`` is a number of 62 bits drawn
    from ``(seed, epoch, t)``. So a trial depends on nothing but ``(seed, epoch, index, t)``, no index repeats
    the trials of another, what belongs to an index of the wrapped source (such as its annotation) stays with
    it, and two rejection sources of different seeds over one source are independent.

    If a share ``q`` of the wrapped source's windows passes the size rule, then of the windows that are kept
    ``q / (q + (1 - q) (1 - p))`` pass it, and a window takes ``1 / (1 - (1 - q) p)`` trials in the mean (for
    unlimited trials, and without the other rules): with ``r = (1 - q) p`` rejected at each trial, and at most
    ``m`` trials, ``(1 - r**m) / (1 - r)``.

    Wrap the sources that you mix, not the mixture: rejection changes how often what is mixed is kept.

    Targets are those of the wrapped source, unchanged.
    """

    def __init__(
        self,
        source: TargetSource,
        sampler: SourceSampler | None = None,
        *,
        seed: int = 0,
        size_threshold: int = 0,
        p: float = 0.95,
        diversity: int = 0,
        valid_ratio: float = 0.5,
        max_trials: int = 50,
        on_exhausted: OnExhausted = "warn",
        counts_from: CountsFrom = "index",
    ) -> None:
        found = getattr(source, "sampler", None) if sampler is None else sampler
        if found is None:
            raise TargetError(
                f"{type(source).__name__} has no sampler to count the pixels of its windows with; give "
                "RejectionSource one: RejectionSource(source, sampler)"
            )
        for name, value in (
            ("size_threshold", size_threshold),
            ("diversity", diversity),
            ("max_trials", max_trials),
        ):
            if operator.index(value) < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= p <= 1:
            raise ValueError(f"p is the probability of rejecting a window, 0 to 1, got {p}")
        if not valid_ratio < 1:
            raise ValueError(
                f"valid_ratio is a share of which a window must have more, so less than 1, got {valid_ratio}"
            )
        for name, word, words in (
            ("on_exhausted", on_exhausted, get_args(OnExhausted)),
            ("counts_from", counts_from, get_args(CountsFrom)),
        ):
            if word not in words:
                raise ValueError(f"{name} must be one of {', '.join(words)}, got {word!r}")
        self.source = source
        self._sampler = sampler
        self.seed = operator.index(seed)
        self.size_threshold = operator.index(size_threshold)
        self.p = float(p)
        self.diversity = operator.index(diversity)
        self.valid_ratio = float(valid_ratio)
        self.max_trials = operator.index(max_trials)
        self.on_exhausted = on_exhausted
        self.counts_from = counts_from

    @classmethod
    def connectomics(
        cls,
        source: TargetSource,
        sampler: SourceSampler | None = None,
        *,
        seed: int = 0,
        size_threshold: int = 1000,
        on_exhausted: OnExhausted = "warn",
    ) -> RejectionSource:
        """Return the source with the settings of PyTorch Connectomics' rejection sampling.

        Windows of fewer than 1000 pixels of foreground are rejected with probability 0.95, those of which not
        more than half is valid always, and after 50 rejections the 51st window is given whatever it is.
        """
        return cls(
            source,
            sampler,
            seed=seed,
            size_threshold=size_threshold,
            p=0.95,
            diversity=0,
            valid_ratio=0.5,
            max_trials=50,
            on_exhausted=on_exhausted,
        )

    @property
    def sampler(self) -> SourceSampler:
        """The sampler whose masks are looked at."""
        found: SourceSampler = self.source.sampler if self._sampler is None else self._sampler  # type: ignore[attr-defined]
        return found

    def __len__(self) -> int:
        return len(self.source)

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index`` of an epoch; see :meth:`TargetSource.target`.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        SamplingError
            If every trial was rejected, with ``on_exhausted="raise"``.

        Warns
        -----
        UserWarning
            If every trial was rejected, with ``on_exhausted="warn"``; once for each source and process.
        """
        return self.explain(epoch, index)[0]

    def explain(self, epoch: int, index: int) -> tuple[Target, DrawRecord]:
        """Return the target at ``index`` of an epoch, and how many trials were rejected before it, and why.

        The reasons are ``"valid"``, ``"size"`` and ``"diversity"``. Raises and warns as :meth:`target` does.
        """
        epoch, index = operator.index(epoch), checked_index(index, len(self))
        draws = Draws(self.seed, epoch, index, "rejection")
        refused: dict[str, int] = {}
        best: _Trial | None = None
        for number in range(self.max_trials + 1):
            trial = self._try(draws, epoch, index, number)
            if trial.reason is None:
                return trial.target, DrawRecord(number + 1, refused)
            refused[trial.reason] = refused.get(trial.reason, 0) + 1
            if best is None or self.on_exhausted != "best" or trial.foreground > best.foreground:
                best = trial
        assert best is not None
        if self.on_exhausted != "best":
            self._complain(epoch, index, refused)
        return best.target, DrawRecord(self.max_trials + 1, refused, exhausted=True)

    def _try(self, draws: Draws, epoch: int, index: int, number: int) -> _Trial:
        inner = Draws(self.seed, epoch, number, "rejection trial").below(_EPOCHS)
        target = self.source.target(inner, index)
        # Two numbers for every trial, whatever the rules: one rule does not change what another gets.
        by_size, by_diversity = draws.uniform() < self.p, draws.uniform() < self.p
        counts = target_counts(self.sampler, target, index=self._index, read=self.counts_from == "labels")
        foreground, valid = counts.foreground, counts.valid
        reason = None
        if not valid / (valid + counts.ignored) > self.valid_ratio:
            reason = "valid"
        elif foreground < self.size_threshold and by_size:
            reason = "size"
        elif counts.labels < self.diversity and by_diversity:
            reason = "diversity"
        return _Trial(target, foreground, reason)

    def _complain(self, epoch: int, index: int, refused: dict[str, int]) -> None:
        """Raise, or warn the first time."""
        reasons = ", ".join(f"{count} by {name}" for name, count in refused.items())
        message = (
            f"all {self.max_trials + 1} windows for index {index} of epoch {epoch} were rejected ({reasons}); "
            f"with size_threshold={self.size_threshold}, diversity={self.diversity} and valid_ratio="
            f"{self.valid_ratio} this source has too few windows to keep: lower them, raise max_trials, or use "
            "PositiveSource, which looks for what is rare instead of waiting for it"
        )
        if self.on_exhausted == "raise":
            raise SamplingError(message)
        if not self._warned:
            self._warned.append(True)
            warnings.warn(f"{message}; the last one is given, and further ones without a warning", stacklevel=4)

    @lazy_property
    def _index(self) -> ForegroundIndex | None:
        return self.sampler.foreground if self.counts_from == "index" else None

    @lazy_property
    def _warned(self) -> list[bool]:
        return []


class _Trial(NamedTuple):
    target: Target
    #: Output pixels.
    foreground: int
    #: Why it is rejected; None where it is kept.
    reason: str | None
