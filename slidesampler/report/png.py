"""Figures as PNG: drawn without a screen, small enough to be embedded."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor

__all__ = ["COLORS", "DPI", "missing_glyphs_allowed", "one_line", "to_png", "to_small_png"]

#: Dots an inch of every figure of a report.
DPI = 110
#: A palette of this many colours holds tissue and text, in half the bytes.
COLORS = 256


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    return _encoded(_drawn(figure))


def to_small_png(figure: Figure, exact: Sequence[str] = (), colors: int = COLORS) -> bytes:
    """Return a figure as a PNG of few colours.

    Parameters
    ----------
    figure : Figure
    exact : sequence of str
        Colours, ``"#rrggbb"``, that are kept as they are, however few pixels have them: those of a legend.
    colors : int
        All colours, at most 256 and more than ``exact`` has.
    """
    flat = _drawn(figure)
    kept = [ImageColor.getrgb(color)[:3] for color in exact]
    few = flat.quantize(colors - len(kept), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    found = (few.getpalette() or [])[: 3 * (colors - len(kept))]
    pixels, places = np.asarray(flat), np.array(few)
    for number, color in enumerate(kept, start=len(found) // 3):
        places[(pixels == color).all(axis=2)] = number
    picture = Image.fromarray(places)
    picture.putpalette([*found, *(channel for color in kept for channel in color)])
    return _encoded(picture)


@contextlib.contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """Draw a name in a script that the font lacks as boxes, without a warning for each letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def one_line(text: str, longest: int = 40) -> str:
    r"""Return a name as a figure can hold it: one line, printable, cut off where it is long.

    Examples
    --------
    >>> one_line("a\nb"), one_line("slide-0001", 8)
    ('a b', 'slide-0…')
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    with missing_glyphs_allowed():
        canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
