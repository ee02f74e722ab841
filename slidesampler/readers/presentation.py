"""How stored values become what a person sees: palettes, few-bit grey, and white that is zero. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Presentation", "palette_presentation", "scale_presentation"]


@dataclass(frozen=True, slots=True, eq=False)
class Presentation:
    """A table or an inversion that takes stored values to shown ones.

    Parameters
    ----------
    table : ndarray of uint8, shape (n,) or (n, C), or None
        Shown value of each stored one. ``(n,)`` works on each channel; ``(n, C)`` makes C channels of one.
    top : int or None
        Where there is no table: shown value = ``top`` - stored value.
    visible : ndarray of bool, shape (n,), or None
        Which stored values are not wholly transparent, where some are.
    """

    table: NDArray[np.uint8] | None = None
    top: int | None = None
    visible: NDArray[np.bool_] | None = None

    @property
    def expands(self) -> bool:
        """Whether one stored channel becomes several."""
        return self.table is not None and self.table.ndim == 2

    def apply(self, stored: NDArray[Any], channels: tuple[int, ...] | None, out: NDArray[Any]) -> NDArray[Any]:
        """Fill ``out`` with the shown values and return it.

        Parameters
        ----------
        stored : ndarray, shape (h, w, n)
            The one channel that is expanded, else the channels wanted.
        channels : tuple of int or None
            Which of the expanded channels; ignored where nothing is expanded.
        out : ndarray, shape (h, w, C)
        """
        if self.table is None:
            assert self.top is not None
            np.subtract(self.top, stored, out=out, casting="unsafe")
        elif self.expands:
            table = self.table if channels is None else self.table[:, channels]
            out[...] = table[stored[..., 0]]
        else:
            out[...] = self.table[stored]
        return out


def palette_presentation(colours: NDArray[np.uint8], values: int) -> Presentation:
    """Return the presentation of a palette.

    Parameters
    ----------
    colours : ndarray of uint8, shape (n, 4)
        Red, green, blue, alpha of each stored value.
    values : int
        How many values the stored type has; those past the end of the palette are shown black.

    Notes
    -----
    A palette of nothing but greys makes one channel, as the image has no colour.
    """
    full = np.zeros((values, 4), np.uint8)
    full[:, 3] = 255
    full[: len(colours)] = colours[:values]
    visible = full[:, 3] > 0
    grey = bool((colours[:, :1] == colours[:, 1:3]).all())
    table = full[:, 0] if grey else full[:, :3]
    return Presentation(np.ascontiguousarray(table), visible=None if visible.all() else visible)


def scale_presentation(bits: int, white_is_zero: bool, dtype: np.dtype[Any]) -> Presentation | None:
    """Return the presentation of values of a few bits, or with white as zero; None where nothing changes.

    Parameters
    ----------
    bits : int
        Significant bits. Fewer than 8 are stretched over 0 to 255; 9 to 15 are left as they are, since a 12-bit
        value is a measurement, not a shade.
    white_is_zero : bool
        Whether 0 is white (TIFF's ``MinIsWhite``). Only unsigned integers are inverted: signed and floating
        values have no value that stands for black.
    dtype : numpy.dtype
        Stored type.

    Examples
    --------
    >>> scale_presentation(2, False, np.dtype(np.uint8)).table[:4].tolist()
    [0, 85, 170, 255]
    """
    if dtype.kind != "u":
        return None
    top = 2**bits - 1
    if dtype.itemsize == 1 and bits < 8:
        shades = np.rint(np.arange(256).clip(max=top) * 255 / top).astype(np.uint8)
        return Presentation(255 - shades if white_is_zero else shades)
    return Presentation(top=top) if white_is_zero else None
