"""Which parts of an image are tissue: found from the colours, or taken from a mask of the user's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ManifestError
from slidesampler.foreground.cells import cell_size
from slidesampler.foreground.image_index import TissueMask
from slidesampler.foreground.reduced import picked_pixels, read_reduced
from slidesampler.models import ImageRecord, LabelSpec
from slidesampler.readers import open_reader, spec_for_tissue
from slidesampler.readers.base import Reader

__all__ = ["find_tissue", "image_tissue", "mask_downsample", "tissue_from_mask"]

#: The longer side of a tissue mask has at most this many pixels.
MAX_SIDE = 2048
#: Otsu's threshold of the saturation is kept between these, of 255: it always finds one, also on bare glass
#: (whose noise stays below the lower) and where there is no glass at all (whose palest tissue is above the
#: upper).
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 13, 51
#: What is darker than this share of the brightest pixels has no colour that means anything: pen, scanner, void.
DARKEST = 0.1
#: Side of the median filter, and of the closing and the opening, pixels of the mask.
MEDIAN, CLOSING, OPENING = 5, 7, 3
#: Specks and holes of fewer pixels of the mask are removed.
MIN_PIXELS = 64
#: Grey images: no pixel has a saturation of more than this, of 255 ...
GREY_SATURATION = 2
#: ... and brightness, 1st to 99th percentile, spans more than this share of its maximum. Less is a blank slide.
GREY_RANGE = 0.1
#: Sides of a user's mask and of its image may differ in their ratio by this much.
ASPECT_TOLERANCE = 0.02
_COLOUR_NAMES = (("r", "g", "b"), ("red", "green", "blue"))


def mask_downsample(height: int, width: int) -> int:
    """Return level-0 pixels per pixel of a tissue mask.

    The smallest power of two that leaves at most 2048 pixels a side; it divides the side of a cell of the
    foreground index.

    Examples
    --------
    >>> mask_downsample(2000, 1000), mask_downsample(2049, 1000), mask_downsample(100_000, 80_000)
    (1, 2, 64)
    """
    step = 1
    while step * MAX_SIDE < max(height, width):
        step *= 2
    assert cell_size(height, width) % step == 0
    return step


def find_tissue(reader: Reader) -> TissueMask:
    """Return the parts of an image that are tissue: Otsu's threshold of the saturation, cleaned.

    At a low resolution (at most 2048 pixels a side): the saturation of the mean colour of each pixel, as HSV
    has it, is median-filtered; Otsu's threshold is taken over the pixels that are wholly valid and not dark,
    and kept between 13 and 51 of 255; what is above it is tissue. Then gaps are closed and threads opened, and
    holes and specks of fewer than 64 pixels of the mask removed (at 0.25 micrometres a pixel and 100,000
    pixels a side, those below 128 x 128 micrometres).

    A blank slide (hardly any colour, hardly any difference in brightness) has no tissue; a slide without glass
    is all tissue.

    Parameters
    ----------
    reader : Reader
        The image. Its coarsest level that is fine enough is read, in strips of bounded memory.

    Raises
    ------
    ManifestError
        If the image has no colours to go by: one channel, more than three of which none is named r, g and b, or
        three that are equal everywhere.

    Notes
    -----
    Source of the threshold: N. Otsu, "A threshold selection method from gray-level histograms", IEEE
    Transactions on Systems, Man, and Cybernetics 9 (1979), as OpenCV computes it.
    """
    # Imported here and below: windows are chosen without it.
    import cv2

    channels = _colour_channels(reader)
    step = mask_downsample(*reader.shape[:2])
    colours, share = read_reduced(reader, step, channels)
    whole, some = share >= 1.0, share > 0.0
    picture = _saturation(colours, whole & np.isfinite(colours).all(axis=2))
    if picture.grey:
        raise ManifestError(
            f"tissue: {reader.name} is grey all over, so colours do not tell tissue from glass; name a mask in "
            "the manifest (an asset with the name 'tissue'), or use tissue='none'",
            field="tissue",
        )
    if not picture.counted.any():
        return TissueMask(np.zeros(share.shape, np.bool_), step)
    histogram = picture.saturation[picture.counted]
    found, _ = cv2.threshold(histogram.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    threshold = min(max(found, LOWEST_THRESHOLD), HIGHEST_THRESHOLD)
    mask = (picture.saturation > threshold) & picture.lit & some
    return TissueMask(_cleaned(mask) & some, step)


class _Picture(NamedTuple):
    """What a threshold is chosen from; all ``(h, w)``."""

    #: uint8, median-filtered.
    saturation: NDArray[np.uint8]
    #: Bright enough to have a colour.
    lit: NDArray[np.bool_]
    #: Enters the histogram.
    counted: NDArray[np.bool_]
    grey: bool


def _saturation(colours: NDArray[np.float32], valid: NDArray[np.bool_]) -> _Picture:
    import cv2

    # Half-valid and unreadable pixels have no colour: 0 is one without saturation.
    colours = np.where(np.isfinite(colours), np.maximum(colours, 0), 0).astype(np.float32)
    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    value = hsv[:, :, 2]
    if not valid.any():
        nothing = np.zeros(valid.shape, np.bool_)
        return _Picture(np.zeros(valid.shape, np.uint8), nothing, nothing, False)
    low, high = np.percentile(value[valid], (1, 99))
    lit = value > DARKEST * high
    raw = np.where(lit, np.rint(hsv[:, :, 1] * 255), 0).astype(np.uint8)
    counted = valid & lit
    dull = int(raw[counted].max(initial=0)) <= GREY_SATURATION
    grey = dull and high - low > GREY_RANGE * high
    return _Picture(cv2.medianBlur(raw, MEDIAN).astype(np.uint8), lit, counted, bool(grey))


def _cleaned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps, open threads, then remove small specks and fill small holes."""
    import cv2

    # A margin keeps the morphology from treating the edge of the image as tissue or as glass.
    margin = CLOSING
    picture = cv2.copyMakeBorder(mask.astype(np.uint8), *(margin,) * 4, cv2.BORDER_REPLICATE)
    for operation, side in ((cv2.MORPH_CLOSE, CLOSING), (cv2.MORPH_OPEN, OPENING)):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        picture = cv2.morphologyEx(picture, operation, kernel)
    inner = picture[margin:-margin, margin:-margin] > 0
    inner = _without_small(inner)
    return ~_without_small(~inner)


def _without_small(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove connected parts of fewer than ``MIN_PIXELS`` pixels, unless the whole mask is that small."""
    import cv2

    if mask.size < 4 * MIN_PIXELS:
        return mask
    _, parts, table, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = table[:, cv2.CC_STAT_AREA] >= MIN_PIXELS
    kept[0] = False
    large: NDArray[np.bool_] = kept[parts]
    return large


def _colour_channels(reader: Reader) -> tuple[int, ...] | None:
    """Return the channels that are red, green and blue; None where they are the image's three."""
    names = tuple(name.lower() for name in reader.channels)
    for wanted in _COLOUR_NAMES:
        if set(wanted) <= set(names):
            return tuple(names.index(name) for name in wanted)
    count = reader.shape[2]
    if count == 3 and not names:
        return None
    found = f"{count} channels" if count > 1 else "one channel"
    named = f" ({', '.join(reader.channels)})" if names else ""
    raise ManifestError(
        f"tissue: {reader.name} has {found}{named}, and tissue='otsu' goes by red, green and blue; name the "
        "channels 'r|g|b' in the manifest, or name a mask there (an asset with the name 'tissue'), or use "
        "tissue='none'",
        field="tissue",
    )


def tissue_from_mask(reader: Reader, shape: tuple[int, int]) -> TissueMask:
    """Return a user's mask as a tissue mask of an image.

    Each pixel of the tissue mask takes the pixel of the user's mask that lies under its centre.

    Parameters
    ----------
    reader : Reader
        The mask: one channel of any resolution, non-zero (and valid, where it has a valid mask) = tissue.
    shape : (int, int)
        ``(H, W)`` of the image, level-0 pixels.

    Raises
    ------
    ManifestError
        If it has several channels, or its sides another ratio than the image's, by more than 2 % (and more than
        the rounding of its sides explains).
    """
    height, width = shape
    own_height, own_width, count = reader.shape
    if count != 1:
        raise ManifestError(
            f"tissue: {reader.name} has {count} channels; a mask has one, non-zero where there is tissue",
            field="tissue",
        )
    ratio = (own_height / height) / (own_width / width)
    # A mask of few pixels is rounded to whole ones: that may change its ratio by a pixel a side.
    allowed = ASPECT_TOLERANCE + 1 / own_height + 1 / own_width
    if not 1 - allowed <= ratio <= 1 + allowed:
        raise ManifestError(
            f"tissue: {reader.name} is {own_height} x {own_width} pixels, the image {height} x {width}: their "
            "sides have different ratios; give a mask of the whole image",
            field="tissue",
        )
    step = mask_downsample(height, width)
    rows, columns = _middles(height, step, own_height), _middles(width, step, own_width)
    return TissueMask(picked_pixels(reader, rows, columns), step)


def _middles(length: int, step: int, own: int) -> NDArray[np.int64]:
    """Return which of ``own`` pixels lies under the middle of each pixel of a tissue mask, along one axis."""
    starts = np.arange(0, length, step, dtype=np.int64)
    # Whole numbers throughout: twice the middle of the part that is inside the image.
    doubled = starts + np.minimum(starts + step, length)
    return doubled * own // (2 * length)


def image_tissue(
    record: ImageRecord,
    label_spec: LabelSpec,
    shape: tuple[int, int],
    open_image: Callable[[], AbstractContextManager[Reader]],
) -> TissueMask | None:
    """Return the tissue of an image as a label spec asks for it; None where all that is valid counts.

    Parameters
    ----------
    record : ImageRecord
    label_spec : LabelSpec
    shape : (int, int)
        ``(H, W)``, level-0 pixels.
    open_image : callable
        Opens the image; only called where its pixels decide.

    Raises
    ------
    ManifestError
        If a mask is asked for and the manifest names none, the mask is not one of this image, or the image has
        no colours to go by.
    """
    if label_spec.tissue == "none":
        return None
    if label_spec.tissue == "otsu":
        with open_image() as reader:
            return find_tissue(reader)
    spec = spec_for_tissue(record)
    if spec is not None:
        with closing(open_reader(spec)) as reader:
            return tissue_from_mask(reader, shape)
    if label_spec.tissue == "mask":
        raise ManifestError(
            "tissue: tissue='mask' was asked for, and the manifest names no mask for this image; give it an "
            "asset with the name 'tissue', or use tissue='otsu' or 'none'",
            field="tissue",
        )
    return None
