"""Windows that were chosen before: a list, a file, or another source's epochs, replayed."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

from slidesampler.errors import SamplingError, TargetError
from slidesampler.sampling.base import TargetSource
from slidesampler.sampling.target_file import TargetFile, write_jsonl
from slidesampler.sampling.windows import checked_index
from slidesampler.target import Target

__all__ = ["FixedSource", "freeze"]


class FixedSource:
    """A list of targets, the same in every epoch.

    Parameters
    ----------
    targets : iterable of Target or mapping
        Checked at once, so that a misspelt key shows here and not in a worker an hour later.
    epochs : range, optional
        Where given, the targets are those of these epochs, one after the other, equally many each; any other
        epoch repeats them in turn. See :func:`freeze`.

    Raises
    ------
    UnknownKeyError, TargetError
        For a target that cannot be one; the message names its position.
    SamplingError
        If the targets are not equally many for each epoch.

    Notes
    -----
    A pickle holds the whole list, about 200 bytes a target. For more than a few hundred write them to a file
    with :func:`~slidesampler.sampling.write_jsonl` and use :meth:`from_jsonl`: that pickles as the path.

    Examples
    --------
    >>> source = FixedSource([{"image_id": 1, "cx": 50, "cy": 50, "width": 32, "height": 32}])
    >>> len(source), source.target(epoch=0, index=0).cx
    (1, 50.0)
    """

    def __init__(self, targets: Iterable[Target | Mapping[str, Any]], *, epochs: range | None = None) -> None:
        if isinstance(targets, Target | Mapping):
            raise TargetError("a list of targets was expected, got one target; put it into [ ]")
        checked = []
        for position, target in enumerate(targets):
            try:
                checked.append(Target.coerce(target))
            except TargetError as error:
                raise type(error)(f"targets[{position}]: {error}") from error
        if epochs is not None and (not len(epochs) or len(checked) % len(epochs)):
            raise SamplingError(f"{len(checked)} targets are not equally many for each of {len(epochs)} epochs")
        self._targets: tuple[Target, ...] | TargetFile = tuple(checked)
        self.epochs = epochs

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], *, check: bool | None = None) -> FixedSource:
        """Return the source of the targets in a file, a JSON object a line.

        The lines are found in one pass over the bytes and parsed when they are asked for: a file of 1,000,000
        targets opens in a fraction of a second, and a pickle of the source is its path, size and digest.

        Parameters
        ----------
        path : path
            As :func:`~slidesampler.sampling.write_jsonl` writes it, or any file of targets. Blank lines mean
            nothing. It must stay where it is, as it is, while the source is in use.
        check : bool, optional
            Whether to parse every line now; where None, files of up to 10,000 targets.

        Raises
        ------
        SourceMissingError
            If there is no such file, now or later.
        TargetError
            For a line that is no target, with its number; now, or where it is first asked for.
        SamplingError
            If the file is incomplete or of another format; later on, if it was changed.
        """
        source = cls(())
        source._targets = TargetFile(path, check)
        source.epochs = source._targets.epochs
        return source

    def __len__(self) -> int:
        return len(self._targets) // (1 if self.epochs is None else len(self.epochs))

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index``, whatever the epoch; of ``epochs`` in turn, where they were given.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        """
        epoch, index = operator.index(epoch), checked_index(index, len(self))
        if self.epochs is not None:
            index += (epoch - self.epochs.start) // self.epochs.step % len(self.epochs) * len(self)
        return self._targets[index]


def freeze(
    source: TargetSource,
    path: str | os.PathLike[str] | None = None,
    epoch: int = 0,
    *,
    epochs: range | None = None,
    about: Mapping[str, Any] | None = None,
) -> FixedSource:
    """Return what a source gives, as a list or a file that gives the same for ever.

    What a source draws depends on the manifest, its options and this package's version; a frozen one depends on
    nothing. Use it to keep the windows of a benchmark or a validation set, to hand them to somebody else, or to
    pay for an expensive source once.

    Parameters
    ----------
    source : TargetSource
    path : path, optional
        File to write, a line of JSON a target; kept in memory where None.
    epoch : int
        The epoch to keep. The frozen source gives it in every epoch.
    epochs : range, optional
        Several epochs to keep instead. ``frozen.target(epoch, index)`` is then ``source.target(epoch, index)``
        for each of them; an epoch outside the range repeats them in turn.
    about : mapping, optional
        Kept in the file's header: JSON types. The kind of the source is noted in any case.

    Raises
    ------
    SamplingError
        If ``epochs`` is an empty range.

    Examples
    --------
    >>> source = FixedSource([{"image_id": 1}, {"image_id": 2}])
    >>> freeze(source).target(7, 1) == source.target(0, 1)
    True
    """
    if epochs is not None and not len(epochs):
        raise SamplingError("no epoch was asked for: epochs is empty")
    wanted = range(operator.index(epoch), operator.index(epoch) + 1) if epochs is None else epochs
    targets = (source.target(one, index) for one in wanted for index in range(len(source)))
    if path is None:
        return FixedSource(targets, epochs=epochs)
    origin = (
        {"source": type(source).__name__, "epoch": wanted.start}
        if epochs is None
        else {"source": type(source).__name__}
    )
    write_jsonl(targets, path, epochs=epochs, about={**origin, **(about or {})})
    return FixedSource.from_jsonl(path, check=False)
