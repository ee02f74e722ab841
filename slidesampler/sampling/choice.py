"""``WeightedChoice``: one of many, in proportion to weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidesampler.errors import SamplingError
from slidesampler.rng import Draws

__all__ = ["WeightedChoice"]


class WeightedChoice:
    """Positions drawn in proportion to weights; a weight of 0 is never drawn. A draw costs a binary search.

    Parameters
    ----------
    weights : array_like (n,)
        Not negative, finite, at least one of them above 0.
    what : str
        What is chosen, for messages.

    Raises
    ------
    SamplingError
        If the weights are not such.

    Examples
    --------
    >>> choice = WeightedChoice([0, 2, 1], "class")
    >>> {choice.draw(Draws(0, index=i)) for i in range(50)}
    {1, 2}
    """

    def __init__(self, weights: ArrayLike, what: str) -> None:
        array: NDArray[np.float64] = np.asarray(weights, np.float64)
        if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or (array < 0).any():
            raise SamplingError(
                f"weights of {what} must be finite numbers of at least 0, one each; got {weights!r}"
            )
        if not array.any():
            raise SamplingError(f"there is no {what} to choose: all weights are 0")
        # The last stop is exactly 1 for every position from the last weight on, so that no draw, which is less
        # than 1, falls behind them all.
        self._stops = np.cumsum(array / array.sum())
        self._stops[np.flatnonzero(array)[-1] :] = 1.0

    def __len__(self) -> int:
        return len(self._stops)

    def draw(self, draws: Draws) -> int:
        """Return a position; takes one number of the stream."""
        return int(self._stops.searchsorted(draws.uniform(), "right"))

    def share(self, position: int) -> float:
        """Return how likely a position is."""
        return float(self._stops[position] - (self._stops[position - 1] if position else 0.0))
