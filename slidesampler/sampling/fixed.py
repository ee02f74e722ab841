"""Windows that somebody else chose."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from slidesampler.errors import TargetError
from slidesampler.sampling.windows import checked_index
from slidesampler.target import Target

__all__ = ["FixedSource"]


class FixedSource:
    """A list of targets, the same in every epoch.

    Parameters
    ----------
    targets : iterable of Target or mapping
        Checked at once, so that a misspelt key shows here and not in a worker an hour later.

    Raises
    ------
    UnknownKeyError, TargetError
        For a target that cannot be one; the message names its position.

    Examples
    --------
    >>> source = FixedSource([{"image_id": 1, "cx": 50, "cy": 50, "width": 32, "height": 32}])
    >>> len(source), source.target(epoch=0, index=0).cx
    (1, 50.0)
    """

    def __init__(self, targets: Iterable[Target | Mapping[str, Any]]) -> None:
        if isinstance(targets, Target | Mapping):
            raise TargetError("a list of targets was expected, got one target; put it into [ ]")
        checked = []
        for position, target in enumerate(targets):
            try:
                checked.append(Target.coerce(target))
            except TargetError as error:
                raise type(error)(f"targets[{position}]: {error}") from error
        self._targets = tuple(checked)

    def __len__(self) -> int:
        return len(self._targets)

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index``, whatever the epoch.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        """
        operator.index(epoch)
        return self._targets[checked_index(index, len(self))]
