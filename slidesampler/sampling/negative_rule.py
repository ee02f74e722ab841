"""Whether a window is a negative: counted by the index where it can tell, from the labels where it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground import VALID, ForegroundIndex
from slidesampler.geometry import Window
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.judge import BLOCK_PX, read_class_counts
from slidesampler.target import Target

__all__ = ["NegativeJudge", "NegativeLimits"]


@dataclass(frozen=True, slots=True)
class NegativeLimits:
    """What makes a window a negative; see :class:`~slidesampler.sampling.negative.NegativeSource`.

    Parameters
    ----------
    classes : tuple of int
        Class indices that are foreground, ascending.
    max_foreground : float
        Share of the window's valid pixels, 0 to 1.
    min_valid, min_tissue : float
        Shares of all pixels of the window, 0 to 1.
    min_distance_px : float
        Level-0 pixels.
    """

    classes: tuple[int, ...]
    max_foreground: float = 0.0
    min_valid: float = 0.5
    min_tissue: float = 0.0
    min_distance_px: float = 0.0

    def __post_init__(self) -> None:
        for name, meaning in (
            ("max_foreground", "the share of a window's valid pixels that may be foreground"),
            ("min_valid", "the share of a window that must be known"),
            ("min_tissue", "the share of a window that must be tissue"),
        ):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {meaning}, 0 to 1, got {value!r}")
        if not 0 <= self.min_distance_px < math.inf:
            raise ValueError(f"min_distance_px is a number of pixels, at least 0, got {self.min_distance_px!r}")
        if self.min_distance_px and self.max_foreground:
            raise ValueError(
                f"max_foreground={self.max_foreground} allows foreground in a window, min_distance_px="
                f"{self.min_distance_px} forbids it even beside the window; give one of them"
            )

    def reason(self, foreground: int, valid: int, tissue: int, area: int) -> str | None:
        """Return why a window of these numbers of pixels is no negative; None where it may be one.

        Shares are compared as quotients: they are as exact as the numbers a user writes, 29 of 100 is 0.29.
        """
        if foreground and (not valid or foreground / valid > self.max_foreground):
            return "foreground"
        if valid / area < self.min_valid:
            return "unknown"
        if tissue / area < self.min_tissue:
            return "tissue"
        return None


class NegativeJudge:
    """Decides about windows of a sampler's images.

    Parameters
    ----------
    sampler : SourceSampler
    index : ForegroundIndex
        Of that sampler.
    limits : NegativeLimits
    """

    def __init__(self, sampler: SourceSampler, index: ForegroundIndex, limits: NegativeLimits) -> None:
        self._sampler = sampler
        self._index = index
        self._limits = limits
        self._slots = (*limits.classes, VALID) + ((index.tissue_slot,) if limits.min_tissue else ())
        self._known: list[bool] = (index.pixels[:, VALID] == index.sizes.prod(axis=1)).tolist()
        self._sizes: list[list[int]] = index.sizes.tolist()
        # Pixels next to the window, at a distance of 1, are far enough from it for any distance up to 1.
        self._reach = max(math.ceil(limits.min_distance_px) - 1, 0)
        classes = sampler.class_map
        self._is_foreground = np.zeros(max(classes.ignore + 1, len(classes.names)), np.bool_)
        self._is_foreground[list(limits.classes)] = True

    def refuse(self, row: int, image_id: int, window: Window) -> str | None:
        """Return why a window is no negative at full resolution; None where it is one.

        Parameters
        ----------
        row : int
            Of the image, in the index.
        image_id : int
        window : Window

        Returns
        -------
        {"foreground", "distance", "unknown", "tissue"} or None
        """
        far = self._reach > 0 and self._nothing_within(row, window)
        reason = self._by_counts(row, image_id, window, no_foreground=far)
        if reason is None and self._reach and not far and self._is_near(row, image_id, window):
            reason = "distance"
        return reason

    def _by_counts(self, row: int, image_id: int, window: Window, *, no_foreground: bool) -> str | None:
        limits, area = self._limits, window.height * window.width
        if self._known[row] and not limits.min_tissue:
            # The usual case: all that the image has of the window is valid, only foreground is to be counted.
            height, width = self._sizes[row]
            valid = max(min(window.y1, height) - max(window.y, 0), 0) * max(
                min(window.x1, width) - max(window.x, 0), 0
            )
            least, most = self._by_foreground(row, window, valid, no_foreground)
        else:
            slots = self._slots
            low, high = self._index.bounds(row, slots, window)
            least, most = self._best_and_worst(low, high)
        reason = limits.reason(*least, area)
        if reason is not None or limits.reason(*most, area) is None:
            return reason
        return limits.reason(
            *self._exact(row, image_id, window, tissue=low[-1] if limits.min_tissue else 0), area
        )

    def _by_foreground(
        self, row: int, window: Window, valid: int, no_foreground: bool
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return foreground, valid and tissue at their best and at their worst, where ``valid`` is known."""
        limits = self._limits
        if no_foreground:
            low = high = 0
        elif limits.max_foreground:
            lows, highs = self._index.bounds(row, limits.classes, window)
            low, high = sum(lows), sum(highs)
        else:
            # One pixel is too many: nobody need know how many more there are.
            found = self._index.holds(row, limits.classes, window)
            low, high = int(found is True), int(found is not False)
        return (low, valid, 0), (min(high, valid), valid, 0)

    def _best_and_worst(
        self, low: Sequence[int], high: Sequence[int]
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return foreground, valid and tissue at their best and at their worst for a negative."""
        n = len(self._limits.classes)
        with_tissue = len(low) > n + 1
        least = sum(low[:n]), high[n], high[-1] if with_tissue else 0
        most = min(sum(high[:n]), high[n]), low[n], low[-1] if with_tissue else 0
        return least, most

    def _exact(self, row: int, image_id: int, window: Window, tissue: int) -> tuple[int, int, int]:
        """Return foreground, valid and tissue; of tissue like noise what is certain: ``tissue``."""
        found = self._index.count(row, self._slots, window)
        n = len(self._limits.classes)
        if found is not None:
            return sum(found[:n]), found[n], found[-1] if self._limits.min_tissue else 0
        if self._limits.min_tissue:
            counted = self._index.count(row, self._slots[-1:], window)
            tissue = counted[0] if counted is not None else tissue
        read = read_class_counts(self._sampler, image_id, window)
        return int(read.counts[list(self._limits.classes)].sum()), read.valid, tissue

    def refuse_as_read(self, target: Target, image_id: int, window: Window) -> str | None:
        """Return why a window that is one at full resolution is no negative as a target reads it.

        Parameters
        ----------
        target : Target
            With that image and window, at any scale.
        image_id : int
        window : Window

        Returns
        -------
        {"foreground"} or None
        """
        if target.downsample is None and target.mpp is None:
            return None
        # A pixel of a reduced mask may show ground just outside the window (the pixel of a label level that
        # reaches over the edge), and the promise is about what the training loop gets to see.
        size = self._sampler.resolve(target).size
        if size == window.shape:
            return None
        read = read_class_counts(self._sampler, image_id, window, size)
        foreground = int(read.counts[list(self._limits.classes)].sum())
        shown = foreground and foreground / read.valid > self._limits.max_foreground
        return "foreground" if shown else None

    # Distance ---------------------------------------------------------------------------------------------

    def _nothing_within(self, row: int, window: Window) -> bool:
        """Return whether the index sees at once that there is no foreground in the window and around it."""
        grown = window.grow(*(self._reach,) * 4)
        return not any(self._index.bounds(row, self._limits.classes, grown)[1])

    def _is_near(self, row: int, image_id: int, window: Window) -> bool:
        """Return whether foreground outside the window is nearer than ``min_distance_px``."""
        reach = self._reach
        above, below = Window(window.y - reach, window.x, reach, window.width), window.y1
        left, right = Window(window.y, window.x - reach, window.height, reach), window.x1
        arms = (
            above,
            Window(below, window.x, reach, window.width),
            left,
            Window(window.y, right, window.height, reach),
        )
        if any(self._holds(row, image_id, arm) for arm in arms):
            return True
        corners = [(y, x) for y in (above.y, below) for x in (left.x, right)]
        return any(self._corner_near(row, image_id, window, Window(y, x, reach, reach)) for y, x in corners)

    def _holds(self, row: int, image_id: int, window: Window) -> bool:
        """Return whether a window has a pixel of foreground."""
        inside = window.intersect(Window(0, 0, *self._sizes[row]))
        if inside is None:
            return False
        found = self._index.count(row, self._limits.classes, inside)
        if found is not None:
            return any(found)
        return any(found.any() for _, found in self._read(image_id, inside))

    def _corner_near(self, row: int, image_id: int, window: Window, corner: Window) -> bool:
        """Return whether a pixel of foreground in the square at a window's corner is too near to it."""
        if not self._holds(row, image_id, corner):
            return False
        inside = corner.intersect(Window(0, 0, *self._sizes[row]))
        assert inside is not None
        nearest = self._limits.min_distance_px**2
        for block, found in self._read(image_id, inside):
            ys, xs = np.nonzero(found)
            # From the centre of the pixel to that of the nearest one of the window.
            dy = _gap(ys + block.y, window.y, window.y1)
            dx = _gap(xs + block.x, window.x, window.x1)
            if (dy * dy + dx * dx < nearest).any():
                return True
        return False

    def _read(self, image_id: int, window: Window) -> Iterator[tuple[Window, NDArray[np.bool_]]]:
        for block in window.blocks(BLOCK_PX):
            yield block, self._is_foreground[self._sampler.load_mask(image_id, block)]


def _gap(places: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Return how many pixels lie from each place to the nearest one of ``[start, stop)``."""
    return np.maximum(np.maximum(start - places, places - (stop - 1)), 0)
