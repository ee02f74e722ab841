"""``View``: how an output lies on an image, which of its pixels are inside, and what each of them shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window, choose_level, label_level_downsamples, lattice_indices
from slidesampler.lazy import lazy_property

__all__ = ["View"]


class View:
    """Where the pixels of an output lie on an image.

    An output pixel is *inside* where its centre is inside the image. Labels and valid masks show, for each
    output pixel inside, one level-0 pixel: ``ys[i], xs[j]``, the same whether it comes from a stored pyramid or
    is computed on the spot.

    Parameters
    ----------
    window : Window
        Level-0 pixels; may overhang the image or lie outside.
    size : (height, width)
        Of the output, pixels.
    image_shape : (height, width)
        Of level 0.

    Attributes
    ----------
    rows, cols : slice
        Output rows and columns that are inside (possibly empty).
    label_downsample : int
        Of the label level that is shown.
    """

    def __init__(self, window: Window, size: tuple[int, int], image_shape: tuple[int, int]) -> None:
        self.window = window
        self.size = size
        self._image_shape = image_shape
        #: Whether an output pixel is a level-0 pixel: most windows are such, and cost no array here.
        self.at_full_resolution: bool = size == (window.height, window.width)
        if self.at_full_resolution:
            self.label_downsample = 1
            self.rows = _overlap(window.y, size[0], image_shape[0])
            self.cols = _overlap(window.x, size[1], image_shape[1])
        else:
            downsamples = label_level_downsamples(*image_shape)
            scale = min(window.height / size[0], window.width / size[1])
            self.label_downsample = downsamples[choose_level(downsamples, scale)]
            self.rows = _centres_inside(window.y, window.height, size[0], image_shape[0])
            self.cols = _centres_inside(window.x, window.width, size[1], image_shape[1])

    @lazy_property
    def label_rows(self) -> NDArray[np.int64]:
        """Return the label level's pixel row for each output row inside."""
        return self._lattice(self.window.y, self.window.height, self.size[0], self.rows)

    @lazy_property
    def label_cols(self) -> NDArray[np.int64]:
        """Return the label level's pixel column for each output column inside."""
        return self._lattice(self.window.x, self.window.width, self.size[1], self.cols)

    def _lattice(self, start: int, extent: int, size: int, inside: slice) -> NDArray[np.int64]:
        if self.at_full_resolution:
            return np.arange(start + inside.start, start + inside.stop, dtype=np.int64)
        return lattice_indices(start, extent, size, self.label_downsample)[inside]

    @lazy_property
    def ys(self) -> NDArray[np.int64]:
        """Return the level-0 pixel row for each output row inside."""
        return self._level_0(self.label_rows, self._image_shape[0])

    @lazy_property
    def xs(self) -> NDArray[np.int64]:
        """Return the level-0 pixel column for each output column inside."""
        return self._level_0(self.label_cols, self._image_shape[1])

    def _level_0(self, index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        downsample = self.label_downsample
        return index if downsample == 1 else np.minimum(index * downsample + downsample // 2, length - 1)

    @property
    def empty(self) -> bool:
        """Whether no output pixel is inside the image."""
        return bool(self.rows.stop == self.rows.start or self.cols.stop == self.cols.start)

    @property
    def full(self) -> bool:
        """Whether every output pixel is inside the image."""
        rows, cols = self.rows, self.cols
        return bool(rows.stop - rows.start == self.size[0] and cols.stop - cols.start == self.size[1])

    def inside(self) -> NDArray[np.bool_]:
        """Return which output pixels are inside the image, bool of ``size``."""
        inside = np.empty(self.size, np.bool_)
        inside.fill(self.full)
        if not self.full:
            inside[self.rows, self.cols] = True
        return inside

    @property
    def window_inside(self) -> Window:
        """The part of the window that is inside; only at full resolution, and where there is one."""
        y, x = self.window.y, self.window.x
        rows, cols = self.rows, self.cols
        return Window(y + rows.start, x + cols.start, rows.stop - rows.start, cols.stop - cols.start)

    @property
    def scale(self) -> tuple[float, float]:
        """Level-0 pixels per output pixel, ``(y, x)``."""
        return self.window.height / self.size[0], self.window.width / self.size[1]


def _overlap(start: int, size: int, length: int) -> slice:
    lo = min(max(-start, 0), size)
    return slice(lo, max(lo, min(length - start, size)))


def _centres_inside(start: int, extent: int, size: int, length: int) -> slice:
    centres = lattice_indices(start, extent, size, 1)
    lo, hi = (int(v) for v in np.searchsorted(centres, (0, length)))
    return slice(lo, max(lo, hi))
