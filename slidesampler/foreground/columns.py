"""The indices of many images in columns, which processes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground.image_index import ImageIndex

__all__ = ["IndexColumns"]


@dataclass(frozen=True, slots=True, eq=False)
class IndexColumns:
    """The columns of the :class:`ImageIndex` of ``n`` images, one image after the other.

    Parameters
    ----------
    image_ids : int64 (n,)
    sizes : int64 (n, 2)
        ``(H, W)``, level-0 pixels.
    cells : int64 (n,)
        Side of a cell, pixels.
    flags : bool (n, 2)
        ``all_valid``, ``has_tissue``.
    pixels : int64 (n, n_classes + 1)
        Pixels of each slot.
    slot_starts : int64 (n, n_classes + 2)
        First entry of each slot of each image, and the image's end.
    keys, ends : int64 (E,)
    counts : uint32 (E,)
    rect_ends : int64 (E,)
        Position in ``rects`` after the entry's last, over all images.
    rects : uint16 (R, 4)
    rect_areas : uint32 (R,)
    """

    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    cells: NDArray[np.int64]
    flags: NDArray[np.bool_]
    pixels: NDArray[np.int64]
    slot_starts: NDArray[np.int64]
    keys: NDArray[np.int64]
    counts: NDArray[np.uint32]
    ends: NDArray[np.int64]
    rect_ends: NDArray[np.int64]
    rects: NDArray[np.uint16]
    rect_areas: NDArray[np.uint32]

    @classmethod
    def join(cls, image_ids: Sequence[int], images: Sequence[ImageIndex]) -> IndexColumns:
        """Return the columns of several images, at least one, that have the same classes."""
        n_slots = images[0].n_classes + 1
        if any(image.n_classes + 1 != n_slots for image in images):
            raise ValueError("the images have different numbers of classes")
        starts = np.zeros((len(images), n_slots + 1), np.int64)
        entries = rects = 0
        rect_ends = []
        for row, image in enumerate(images):
            rows, columns = image.grid
            starts[row] = entries + image.keys.searchsorted(np.arange(n_slots + 1) * (rows * columns))
            rect_ends.append(image.rect_ends + rects)
            entries, rects = entries + len(image.keys), rects + len(image.rects)
        return cls(
            image_ids=np.array(image_ids, np.int64),
            sizes=np.array([(image.height, image.width) for image in images], np.int64),
            cells=np.array([image.cell_px for image in images], np.int64),
            flags=np.array([(image.all_valid, image.has_tissue) for image in images], np.bool_),
            pixels=np.stack([image.pixels for image in images]),
            slot_starts=starts,
            keys=np.concatenate([image.keys for image in images]),
            counts=np.concatenate([image.counts for image in images]),
            ends=np.concatenate([image.ends for image in images]),
            rect_ends=np.concatenate(rect_ends),
            rects=np.concatenate([image.rects for image in images]),
            rect_areas=np.concatenate([image.rect_areas for image in images]),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> IndexColumns:
        """Return the columns that :meth:`to_arrays` gave; only their sizes are looked at.

        Raises
        ------
        ValueError, KeyError
            If they cannot be that.
        """
        columns = cls(**{item.name: arrays[item.name] for item in fields(cls)})
        columns._check()
        return columns

    def _check(self) -> None:
        n, entries, rects = len(self.image_ids), len(self.keys), len(self.rects)
        slots = self.pixels.shape[-1]
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
            "image_ids": (np.int64, (n,)),
            "sizes": (np.int64, (n, 2)),
            "cells": (np.int64, (n,)),
            "flags": (np.bool_, (n, 2)),
            "pixels": (np.int64, (n, slots)),
            "slot_starts": (np.int64, (n, slots + 1)),
            "keys": (np.int64, (entries,)),
            "counts": (np.uint32, (entries,)),
            "ends": (np.int64, (entries,)),
            "rect_ends": (np.int64, (entries,)),
            "rects": (np.uint16, (rects, 4)),
            "rect_areas": (np.uint32, (rects,)),
        }
        for name, (dtype, shape) in wanted.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(f"{name} is {column.dtype} {column.shape}, not {np.dtype(dtype)} {shape}")
        ends = (int(self.slot_starts[-1, -1]), int(self.rect_ends[-1]) if entries else 0) if n else (0, 0)
        if ends != (entries, rects):
            raise ValueError(f"{ends} entries and rectangles are named, {(entries, rects)} are there")

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
