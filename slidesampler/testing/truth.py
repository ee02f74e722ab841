"""``SlideTruth``: what a synthetic slide shows, known exactly because it was painted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.models import Part
from slidesampler.testing._painter import Painter
from slidesampler.testing._raster import inside_part

__all__ = ["CLASS_NAMES", "IGNORE", "SUPERCATEGORIES", "SlideTruth", "TrueAnnot"]

#: Class index to name; the category id in a manifest is the same number.
CLASS_NAMES = ("background", "tumour", "necrosis", "tumour_nucleus")
#: ``supercategory`` of the categories.
SUPERCATEGORIES = {"tumour": "lesion", "necrosis": "lesion", "tumour_nucleus": "cell"}
#: Label of what is outside the slide.
IGNORE = 255


@dataclass(frozen=True, slots=True, eq=False)
class TrueAnnot:
    """One annotated thing.

    Parameters
    ----------
    class_index : int
        Into :data:`CLASS_NAMES`.
    parts : tuple of Part
        Disjoint parts, each the exterior ring followed by its holes; rings are float64 ``(n, 2)`` in order
        ``(x, y)``, level-0 pixels, not closed.
    """

    class_index: int
    parts: tuple[Part, ...]

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """Bounds of the exteriors, level-0 pixels."""
        rings = [part[0] for part in self.parts]
        low = np.min([ring.min(axis=0) for ring in rings], axis=0)
        high = np.max([ring.max(axis=0) for ring in rings], axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True, slots=True, eq=False)
class SlideTruth:
    """What is on a synthetic slide.

    Parameters
    ----------
    path : Path
        The slide.
    height, width : int
        Pixels.
    mpp : float
        Micrometres per pixel.
    annots : sequence of TrueAnnot
        Tumours, then necroses, then tumour nuclei. Where several lie over a pixel the later one wins, so a
        nucleus wins over the tumour it is in; a necrosis fills a hole of a tumour and shares no pixel with it.
        Tumour nuclei beyond the limit that the slide was made with are painted, but not annotated: they are
        labelled *tumour*. Other cells (fibroblasts, lymphocytes) are background.
    painter : Painter
        What painted it.
    boxes_xyxy : ndarray of float64, shape (n, 4)
        Bounds of the annotations, level-0 pixels.
    """

    path: Path
    height: int
    width: int
    mpp: float
    annots: Sequence[TrueAnnot]
    painter: Painter = field(repr=False)
    boxes_xyxy: NDArray[np.float64] = field(repr=False)

    def owners(self, window: Window) -> NDArray[np.int64]:
        """Return 1 + position in ``annots`` of the annotation that each pixel belongs to, 0 for background.

        A pixel belongs to an annotation if its centre lies inside. Worked out from the polygons alone, by code
        that shares nothing with the package's own rasteriser.

        Parameters
        ----------
        window : Window
            May overhang the slide; annotations do not.

        Returns
        -------
        ndarray of int64, shape (height, width)
        """
        out = np.zeros(window.shape, np.int64)
        x0, y0, x1, y1 = self.boxes_xyxy.T
        near = (x0 < window.x1) & (x1 > window.x) & (y0 < window.y1) & (y1 > window.y)
        for row in np.flatnonzero(near).tolist():
            # Only around the annotation: a nucleus must not cost a whole window.
            box = Window(*_cover(self.boxes_xyxy[row])).intersect(window)
            assert box is not None
            target = out[box.shift(-window.y, -window.x).as_slices()]
            for part in self.annots[row].parts:
                if (inside := inside_part(part, box)) is not None:
                    target[inside] = row + 1
        return out

    def labels(self, window: Window) -> NDArray[np.uint8]:
        """Return the class index of each pixel, uint8 ``(height, width)``; 255 outside the slide.

        Parameters
        ----------
        window : Window
            May overhang the slide.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from slidesampler.geometry import Window
        >>> from slidesampler.testing import make_slide
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     truth = make_slide(Path(folder) / "slide.tif", 300, 400)
        >>> labels = truth.labels(Window(-1, 0, 301, 400))
        >>> sorted({int(v) for v in labels[1:].ravel()} - {2}), int(labels[0, 0])
        ([0, 1, 3], 255)
        """
        classes = np.array([0, *(annot.class_index for annot in self.annots)], np.uint8)
        out = classes[self.owners(window)]
        real = window.intersect(Window(0, 0, self.height, self.width))
        outside = np.ones(window.shape, np.bool_)
        if real is not None:
            outside[real.shift(-window.y, -window.x).as_slices()] = False
        out[outside] = IGNORE
        return out

    def pixels(self, window: Window) -> NDArray[np.uint8]:
        """Return the pixels of a window inside the slide, uint8 ``(height, width, 3)``, without the file."""
        return self.painter.paint(window)


def _cover(box_xyxy: NDArray[np.float64]) -> tuple[int, int, int, int]:
    x0, y0 = (int(v) for v in np.floor(box_xyxy[:2]))
    x1, y1 = (int(v) for v in np.ceil(box_xyxy[2:]))
    return y0, x0, max(1, y1 - y0), max(1, x1 - x0)
