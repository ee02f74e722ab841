"""What a positive window may be put around: the annotations, or the foreground pixels, of some images.

Both are numbered by class, slide and rank: object ``rank`` of those of class ``classes[which]`` on its slide
``slide``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slidesampler.sampling.base import SourceSampler

__all__ = ["AnnotObjects", "ObjectPlace", "Objects", "PixelObjects"]


class ObjectPlace(NamedTuple):
    """Where an object is."""

    #: Its centre, level-0 pixels, inside the image.
    cy: float
    cx: float
    annot_id: int | None
    category_id: int | None


class Objects(Protocol):
    """Objects by class and slide.

    Attributes
    ----------
    classes : int64 (k,)
        Class indices of which there is an object, ascending; ``[1]`` where all are taken together.
    images : list of k lists
        For each class the positions of the images that have it, ascending.
    counts : list of k lists
        How many objects of the class each of them has.
    """

    classes: NDArray[np.int64]
    images: list[list[int]]
    counts: list[list[int]]

    def place(self, which: int, slide: int, rank: int, lengths: tuple[int, int]) -> ObjectPlace:
        """Return where an object is; ``lengths`` is the size of its image."""
        ...


class AnnotObjects:
    """Annotations: their centre is that of their box, of the part of the box inside the image.

    Parameters
    ----------
    sampler : SourceSampler
    image_ids : sequence of int
    possible : bool (n,)
        Which of the images may be chosen.
    class_of : callable
        The class index that an annotation of a category id counts as; None for one that is not wanted.
    in_order : bool
        Whether all classes are taken together, as one, so that :meth:`locate` counts in the manifest's order.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        image_ids: Sequence[int],
        possible: NDArray[np.bool_],
        class_of: Callable[[int], int | None],
        in_order: bool = False,
    ) -> None:
        self._annot_ids: list[NDArray[np.int64]] = []
        self._category_ids: list[NDArray[np.int64]] = []
        self._boxes: list[NDArray[np.float64]] = []
        for image_id in image_ids:
            shapes = sampler.manifest.shapes_of(image_id)
            # Views of columns that processes share: nothing is copied, and nothing looked up for a target.
            self._annot_ids.append(shapes.annot_ids)
            self._category_ids.append(shapes.category_ids)
            self._boxes.append(shapes.boxes_xyxy)
        lengths = np.array([len(ids) for ids in self._annot_ids], np.int64)
        present, inverse = np.unique(np.concatenate(self._category_ids), return_inverse=True)
        known = [class_of(int(category)) for category in present]
        codes = np.array([0 if index is None else index for index in known], np.uint16)
        if in_order:
            codes = np.minimum(codes, 1)
        codes = codes[inverse]
        chosen = np.flatnonzero((codes > 0) & np.repeat(possible, lengths))
        #: Category ids that can be chosen.
        self.categories = set(present[np.bincount(inverse[chosen], minlength=len(present)) > 0].tolist())
        order = chosen[np.argsort(codes[chosen], kind="stable")]
        image_of = np.repeat(np.arange(len(lengths)), lengths)[order]
        first_of = np.cumsum(lengths) - lengths
        #: Row within its image of each annotation, sorted by class, then by image.
        self._rows = (order - first_of[image_of]).astype(np.int32)
        self._index(codes[order].astype(np.int64), image_of)

    def _index(self, codes: NDArray[np.int64], image_of: NDArray[np.int64]) -> None:
        new = (np.diff(codes, prepend=-1) != 0) | (np.diff(image_of, prepend=-1) != 0)
        firsts = np.flatnonzero(new)
        counts = np.diff(firsts, append=len(codes))
        self.classes, starts = np.unique(codes[firsts], return_index=True)
        self.images: list[list[int]] = []
        self.counts: list[list[int]] = []
        self._firsts: list[list[int]] = []
        for start, stop in pairwise([*starts.tolist(), len(firsts)]):
            self.images.append(image_of[firsts[start:stop]].tolist())
            self.counts.append(counts[start:stop].tolist())
            self._firsts.append(firsts[start:stop].tolist())

    def locate(self, number: int) -> tuple[int, int, int]:
        """Return class, slide and rank of the annotation with a number, where they were taken in order."""
        slide = bisect_right(self._firsts[0], number) - 1
        return 0, slide, number - self._firsts[0][slide]

    def place(self, which: int, slide: int, rank: int, lengths: tuple[int, int]) -> ObjectPlace:
        """Return the centre of an annotation; see :class:`Objects`."""
        image = self.images[which][slide]
        row = self._rows.item(self._firsts[which][slide] + rank)
        x0, y0, x1, y1 = self._boxes[image][row].tolist()
        height, width = lengths
        return ObjectPlace(
            (min(max(y0, 0.0), height) + min(max(y1, 0.0), height)) / 2,
            (min(max(x0, 0.0), width) + min(max(x1, 0.0), width)) / 2,
            self._annot_ids[image].item(row),
            self._category_ids[image].item(row),
        )


class PixelObjects:
    """Foreground pixels, out of the foreground index: pixels of masks, so that what lies in a hole is none.

    Parameters
    ----------
    sampler : SourceSampler
    image_ids : sequence of int
    possible : bool (n,)
        Which of the images may be chosen.
    classes : sequence of int
        Class indices, ascending.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        image_ids: Sequence[int],
        possible: NDArray[np.bool_],
        classes: Sequence[int],
    ) -> None:
        self._index = sampler.foreground
        self._rows = [self._index.row(image_id) for image_id in image_ids]
        pixels = self._index.pixels[self._rows][:, list(classes)] * possible[:, None]
        there = [at for at in range(len(classes)) if pixels[:, at].any()]
        self.classes = np.array(classes, np.int64)[there]
        self.images: list[list[int]] = [np.flatnonzero(pixels[:, at]).tolist() for at in there]
        self.counts: list[list[int]] = [pixels[pixels[:, at] > 0, at].tolist() for at in there]
        # Of several categories that are drawn as the class, the manifest's first.
        first: dict[int, int] = {}
        for category, index in sampler.class_map.category_to_index.items():
            first.setdefault(index, category)
        self._category_ids = [first.get(index) for index in self.classes.tolist()]
        self._slots: list[int] = self.classes.tolist()

    def place(
        self,
        which: int,
        slide: int,
        rank: int,
        lengths: tuple[int, int],  # noqa: ARG002  (pixels are inside)
    ) -> ObjectPlace:
        """Return the centre of a pixel; see :class:`Objects`."""
        y, x = self._index.place(self._rows[self.images[which][slide]], self._slots[which], rank)
        return ObjectPlace(y + 0.5, x + 0.5, None, self._category_ids[which])
