"""Several files as the channels of one image, and a valid mask from a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers.base import Reader, check_channels, check_window, decimate, output_array

__all__ = ["StackReader"]


class StackReader:
    """The channels of several readers one after the other, or one reader with a mask from elsewhere.

    Parameters
    ----------
    parts : sequence of Reader
        At least one; owned from here on, and closed with the stack.
    valid : Reader, optional
        A mask of the size of the image: a pixel whose channels are all 0 is not valid.
    name : str
        For error messages; the parts' own names where empty.
    channels : tuple of str
        Names of all channels; the parts' where empty and each has its own.
    mpp : (float, float), optional
        Micrometres per pixel; that of the first part that knows it where None.

    Raises
    ------
    ReadError
        If the sizes of the parts, or of the mask, differ; the message names two that do. The parts are closed.

    Notes
    -----
    Levels are those that all parts have, by size. The dtype is what :func:`numpy.result_type` makes of the
    parts' (so uint64 with int64 gives float64). A pixel is valid where it is so in every part and in the
    mask. The mask is always read at level 0, and decimated for the others, as every valid mask of the package
    is.
    """

    def __init__(
        self,
        parts: Sequence[Reader],
        *,
        valid: Reader | None = None,
        name: str = "",
        channels: tuple[str, ...] = (),
        mpp: tuple[float, float] | None = None,
    ) -> None:
        self._parts = tuple(parts)
        self._mask = valid
        self.name = name or " + ".join(part.name for part in self._parts)
        self._closed = False
        try:
            self._check_sizes()
            count = sum(part.shape[2] for part in self._parts)
            names = channels or self._own_names()
            if len(names) not in (0, count):
                raise ReadError(
                    f"{self.name}: {len(names)} channel names were given, but it has {count} channels"
                )
        except ReadError:
            self.close()
            raise
        self.channels = names
        height, width, _ = self._parts[0].shape
        self.shape = (height, width, count)
        self.dtype: np.dtype[Any] = np.result_type(*(part.dtype for part in self._parts))
        self.levels, self._part_levels = self._shared_levels()
        self.mpp = mpp or next((part.mpp for part in self._parts if part.mpp), None)
        self.has_valid = valid is not None or any(part.has_valid for part in self._parts)
        # Global channel -> (part, channel of the part).
        self._owners = [(k, i) for k, part in enumerate(self._parts) for i in range(part.shape[2])]

    def _check_sizes(self) -> None:
        first = self._parts[0]
        for other in (*self._parts[1:], *([self._mask] if self._mask is not None else [])):
            if other.shape[:2] != first.shape[:2]:
                role = "the valid mask" if other is self._mask else "another asset"
                raise ReadError(
                    f"{first.name} is {first.shape[0]} x {first.shape[1]} pixels, but {role} of the same "
                    f"image, {other.name}, is {other.shape[0]} x {other.shape[1]}; all assets of an image "
                    "must have one size"
                )

    def _own_names(self) -> tuple[str, ...]:
        if not all(part.channels for part in self._parts):
            return ()
        names = tuple(name for part in self._parts for name in part.channels)
        # Two files that both say "gray" have said nothing.
        return names if len(set(names)) == len(names) else ()

    def _shared_levels(self) -> tuple[tuple[Level, ...], tuple[tuple[int, ...], ...]]:
        """Return the levels that all parts have, and the index of each within each part."""
        by_size = [
            {(item.height, item.width): k for k, item in reversed(list(enumerate(part.levels)))}
            for part in self._parts
        ]
        levels, indices = [], []
        for item in self._parts[0].levels:
            size = (item.height, item.width)
            if all(size in sizes for sizes in by_size):
                levels.append(item)
                indices.append(tuple(sizes[size] for sizes in by_size))
        return tuple(levels), tuple(indices)

    def _check(self, window: Window, level: int) -> None:
        if self._closed:
            raise ReadError(f"{self.name}: the reader is closed")
        check_window(self.name, self.levels, window, level)

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window inside a level, as :class:`.base.Reader` has it.

        Parts none of whose channels are asked for are not read.
        """
        self._check(window, level)
        if len(self._parts) == 1:
            return self._parts[0].read(window, self._part_levels[level][0], channels=channels, out=out)
        if channels is not None:
            check_channels(self.name, self.shape[2], channels)
        wanted = range(self.shape[2]) if channels is None else channels
        out = output_array(out, (window.height, window.width, len(wanted)), self.dtype, self.name)
        for k, part in enumerate(self._parts):
            places = [place for place, channel in enumerate(wanted) if self._owners[channel][0] == k]
            if not places:
                continue
            own = tuple(self._owners[wanted[place]][1] for place in places)
            where = slice(places[0], places[-1] + 1)
            adjacent = len(places) == where.stop - where.start
            part_level = self._part_levels[level][k]
            if adjacent and part.dtype == self.dtype:
                part.read(window, part_level, channels=own, out=out[..., where])
            else:
                out[..., places] = part.read(window, part_level, channels=own)
        return out

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of a window are valid in every part and in the mask, bool ``(h, w)``."""
        self._check(window, level)
        valid = np.ones(window.shape, dtype=bool)
        for k, part in enumerate(self._parts):
            if part.has_valid:
                valid &= part.read_valid(window, self._part_levels[level][k])
        if self._mask is not None:
            if level == 0:
                valid &= self._read_mask(window)
            else:
                valid &= decimate(self._read_mask, window, self.levels[level], self.shape[:2])
        return valid

    def _read_mask(self, window: Window) -> NDArray[np.bool_]:
        assert self._mask is not None
        marked: NDArray[np.bool_] = (self._mask.read(window) != 0).any(axis=2)
        return marked & self._mask.read_valid(window) if self._mask.has_valid else marked

    def close(self) -> None:
        """Close all parts. Closing twice does nothing."""
        self._closed = True
        for part in self._parts:
            part.close()
        if self._mask is not None:
            self._mask.close()
