"""The eight orientations of TIFF and EXIF, as a mapping of windows: no image is ever turned as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from slidesampler.geometry import Window

__all__ = ["UPRIGHT", "Orientation"]

#: Tag value -> (transpose, flip_y, flip_x); see :class:`Orientation`.
_CODES = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, slots=True)
class Orientation:
    """How the stored image is turned to stand as a person sees it.

    The displayed image is the stored one, transposed if ``transpose``, then flipped along its (new) axes.

    Parameters
    ----------
    transpose, flip_y, flip_x : bool

    Notes
    -----
    *Source:* TIFF 6.0, section "Baseline Field Reference", tag 274; EXIF 2.32, section 4.6.4, the same tag.

    Examples
    --------
    >>> Orientation.of(6).shape(2, 3)
    (3, 2)
    """

    transpose: bool = False
    flip_y: bool = False
    flip_x: bool = False

    @classmethod
    def of(cls, code: int) -> Orientation:
        """Return the orientation of a tag value 1 to 8; any other value is taken for 1, as viewers do."""
        return cls(*_CODES.get(code, _CODES[1]))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the displayed ``(height, width)`` of a stored size, and the other way round."""
        return (width, height) if self.transpose else (height, width)

    def stored_window(self, window: Window, height: int, width: int) -> Window:
        """Return where a window of the displayed image is in the stored one.

        Parameters
        ----------
        window : Window
            Inside the displayed image.
        height, width : int
            Size of the displayed image.
        """
        y = height - window.y1 if self.flip_y else window.y
        x = width - window.x1 if self.flip_x else window.x
        if self.transpose:
            return Window(x, y, window.width, window.height)
        return Window(y, x, window.height, window.width)

    def stored_view(self, out: NDArray[Any]) -> NDArray[Any]:
        """Return a view of ``out``, which is as displayed, with its first two axes as stored."""
        view = out[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return view.swapaxes(0, 1) if self.transpose else view


#: The orientation of most files.
UPRIGHT = Orientation()
