"""How likely each class is: by how much there is of it, the same for all, against that, or by given numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, TargetError
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import Word, class_weights_of

__all__ = ["ClassRule", "ClassWeights", "inverse_frequencies"]

ClassWord = Literal["uniform", "inverse_frequency"]
#: A rule's name, or a weight for each class.
ClassWeights: TypeAlias = ClassWord | Mapping[Word, float]


class ClassRule:
    """How likely each class is, as a user said it.

    Parameters
    ----------
    sampler : SourceSampler
    weights : {"uniform", "inverse_frequency"}, mapping of str or int to float, or None
        The same for each class that occurs; one over its pixels; or given by the name of a category, class or
        supercategory, or a category's id: a class that is not named, or named with 0, is never chosen. In
        proportion to how many objects (annotations or pixels) there are of it where None.

    Raises
    ------
    TargetError
        For another word, a class that the manifest has not, or a weight that is none.
    SamplingError
        If every given weight is 0.
    """

    def __init__(self, sampler: SourceSampler, weights: ClassWeights | None = None) -> None:
        self._given: dict[int, float] | None = None
        self._word: ClassWord | None = None
        if isinstance(weights, Mapping):
            self._given = class_weights_of(sampler, weights)
            if not any(self._given.values()):
                raise SamplingError("class_weights is 0 for every class; give at least one a weight above 0")
        elif weights is None or (isinstance(weights, str) and weights in get_args(ClassWord)):
            self._word = weights
        else:
            raise TargetError(
                f"class_weights must be one of {', '.join(get_args(ClassWord))}, a mapping of class to weight, "
                f"or None; got {weights!r}"
            )

    def __repr__(self) -> str:
        return f"ClassRule({self._word if self._given is None else self._given!r})"

    @property
    def by_pixels(self) -> bool:
        """Whether the pixels of each class have to be known."""
        return self._word == "inverse_frequency"

    @property
    def named(self) -> tuple[int, ...]:
        """The class indices that were given a weight above 0; empty where a rule's name was given."""
        return tuple(index for index, weight in (self._given or {}).items() if weight > 0)

    def weigh(
        self, classes: NDArray[np.int64], objects: NDArray[np.int64], pixels: NDArray[np.int64] | None
    ) -> NDArray[np.float64]:
        """Return the weight of each of some classes: their ratios count, they are not scaled to any sum.

        Parameters
        ----------
        classes : int64 (k,)
            Class indices that occur.
        objects : int64 (k,)
            How many there are of each, at least 1.
        pixels : int64 (k,) or None
            Pixels of each, where ``by_pixels``.
        """
        if self._given is not None:
            return np.array([self._given.get(index, 0.0) for index in classes.tolist()], np.float64)
        if self._word == "uniform":
            return np.ones(len(classes))
        if self._word == "inverse_frequency":
            assert pixels is not None
            return inverse_frequencies(pixels)
        return objects.astype(np.float64)


def inverse_frequencies(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one over the share that each class has of the pixels; 0 for a class without a pixel.

    Examples
    --------
    >>> inverse_frequencies(np.array([100, 300, 0])).tolist()
    [4.0, 1.3333333333333333, 0.0]
    """
    counts = pixels.astype(np.float64)
    inverse = np.zeros(len(counts))
    there = counts > 0
    inverse[there] = counts.sum() / counts[there]
    return inverse
