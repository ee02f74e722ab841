"""Run-length encoded masks -> run ends in column-major order.

*Source of the formats:* ``rleFrString`` in ``maskApi.c`` of the COCO API for the compressed string; kwimage's
``encode_run_length`` for the ``order`` key. No mask is decoded to pixels, which for a slide would not fit.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.manifest.fields import FieldFault, RowFault, plain, short, whole_number

__all__ = ["Rle", "RunTable", "parse_rle", "run_table"]

#: Characters of one run in a compressed string; 8 hold 40 bits.
_MAX_CHARACTERS = 8
#: Pixels that are decoded at once where a row-major mask is turned around.
_STRIP_PIXELS = 2_000_000


@dataclass(frozen=True, slots=True)
class Rle:
    """One mask as the manifest has it.

    Parameters
    ----------
    counts : array of int64, or bytes
        Lengths of the runs, background first; or the compressed string.
    height, width : int
    row_major : bool
        Whether the runs go along rows (kwimage's order "C"), not along columns.
    """

    counts: array[int] | bytes
    height: int
    width: int
    row_major: bool = False


@dataclass(frozen=True, slots=True)
class RunTable:
    """Masks as columns; see :class:`~slidesampler.shapes.Shapes`.

    Parameters
    ----------
    offsets : int64 (n + 1,)
    ends : int64 (runs,)
    areas : float64 (n,)
        Foreground pixels.
    boxes_xyxy : float64 (n, 4)
        Half-open bounds of the foreground.
    """

    offsets: NDArray[np.int64]
    ends: NDArray[np.int64]
    areas: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]


def parse_rle(value: Any, image_size: tuple[int | None, int | None]) -> Rle:
    """Return one mask after checking everything but the sum of its runs.

    Parameters
    ----------
    value : mapping, str or bytes
        ``{"counts": ..., "size": [height, width]}``, or a compressed string alone, which is the image's size.
    image_size : (int or None, int or None)
        ``(height, width)`` of the image as far as the manifest says.

    Raises
    ------
    FieldFault
        If the counts are neither integers nor a string, or the size is missing or not the image's.
    """
    if isinstance(value, (str, bytes)):
        value = {"counts": value}
    size = plain(value.get("size", value.get("shape")))
    if size is None:
        if None in image_size:
            raise FieldFault("segmentation.size", "is missing; say [height, width] there or in the image")
        size = image_size
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise FieldFault("segmentation.size", f"must be [height, width], found {short(size)}")
    height, width = (whole_number(side, "segmentation.size") for side in size)
    if any(said is not None and said != found for said, found in zip(image_size, (height, width), strict=True)):
        raise FieldFault(
            "segmentation.size",
            f"is {height} x {width}, but the image is {image_size[0]} x {image_size[1]} (height x width); "
            "encode the mask at the image's size",
        )
    order = value.get("order", "F")
    if order not in ("C", "F"):
        raise FieldFault("segmentation.order", f"must be 'C' or 'F', found {short(order)}")
    if value.get("binary", True) is not True:
        raise FieldFault("segmentation.binary", "must be true: only masks of one class are understood")
    return Rle(_counts(value.get("counts")), height, width, order == "C")


def _counts(counts: Any) -> array[int] | bytes:
    counts = plain(counts)
    if isinstance(counts, (str, bytes)):
        try:
            return counts.encode("ascii") if isinstance(counts, str) else counts
        except UnicodeEncodeError:
            raise FieldFault("segmentation.counts", f"is no compressed RLE: {short(counts)}") from None
    if not isinstance(counts, Sequence):
        raise FieldFault(
            "segmentation.counts", f"must be a list of integers or a string, found {short(counts)}"
        )
    try:
        return array("q", counts)
    except (TypeError, OverflowError):
        raise FieldFault("segmentation.counts", f"must be a list of integers, found {short(counts)}") from None


def run_table(masks: Sequence[Rle]) -> RunTable:
    """Return masks as columns.

    Raises
    ------
    RowFault
        For the first mask whose string is damaged, whose runs are negative or do not add up to its size, or
        that marks no pixel.
    """
    counts = _all_counts(masks)
    for row, (mask, runs) in enumerate(zip(masks, counts, strict=True)):
        _check_sum(row, mask, runs)
        if mask.row_major:
            counts[row] = _column_major(runs, mask.height, mask.width)
    offsets = np.zeros(len(masks) + 1, np.int64)
    np.cumsum([len(runs) for runs in counts], out=offsets[1:])
    ends = [np.cumsum(runs) for runs in counts]
    areas = np.array([float(runs[1::2].sum()) for runs in counts], np.float64)
    if (areas == 0).any():
        raise RowFault(
            int(np.argmax(areas == 0)), "segmentation.counts", "marks no pixel; leave the annotation out"
        )
    boxes = [_bounds(one, mask.height) for one, mask in zip(ends, masks, strict=True)]
    return RunTable(
        offsets,
        np.concatenate(ends) if ends else np.zeros(0, np.int64),
        areas,
        np.array(boxes, np.float64).reshape(-1, 4),
    )


def _check_sum(row: int, mask: Rle, runs: NDArray[np.int64]) -> None:
    pixels = mask.height * mask.width
    if len(runs) and (runs.min() < 0 or runs.max() > pixels):
        wrong = runs[(runs < 0) | (runs > pixels)][0]
        raise RowFault(row, "segmentation.counts", f"has a run of {wrong} pixels in a mask of {pixels}")
    # Every run is at most 2**62 long, so a sum that overflows shows up as ends that go down.
    ends = np.cumsum(runs)
    total = int(ends[-1]) if len(ends) else 0
    if total != pixels or (np.diff(ends) < 0).any():
        raise RowFault(
            row,
            "segmentation.counts",
            f"adds up to {total} pixels, but {mask.height} x {mask.width} are {pixels}",
        )


def _bounds(ends: NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """Return the half-open ``(x0, y0, x1, y1)`` of the foreground, of which there is some."""
    starts, stops = ends[:-1:2], ends[1::2]
    some = stops > starts
    first, last = starts[some], stops[some] - 1
    column, last_column = first // height, last // height
    x0, x1 = int(column[0]), int(last_column[-1]) + 1
    if (last_column > column).any():
        # A run that goes on in the next column holds the bottom row of one and the top row of the other.
        return x0, 0, x1, height
    return x0, int((first % height).min()), x1, int((last % height).max()) + 1


def _all_counts(masks: Sequence[Rle]) -> list[NDArray[np.int64]]:
    """Return the run lengths of every mask; compressed ones are decoded together."""
    counts = [
        np.zeros(0, np.int64) if isinstance(mask.counts, bytes) else np.array(mask.counts, np.int64)
        for mask in masks
    ]
    packed = [(row, mask.counts) for row, mask in enumerate(masks) if isinstance(mask.counts, bytes)]
    packed = [(row, text) for row, text in packed if text]
    if not packed:
        return counts
    values, offsets = _decode(packed)
    for position, (row, _) in enumerate(packed):
        runs = values[offsets[position] : offsets[position + 1]]
        # From the fourth on, a run is stored as its difference from the last but one.
        runs[1::2] = np.cumsum(runs[1::2])
        runs[2::2] = np.cumsum(runs[2::2])
        counts[row] = runs
    return counts


def _decode(packed: Sequence[tuple[int, bytes]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers in all strings, and the offsets of each string's."""
    codes = np.frombuffer(b"".join(text for _, text in packed), np.uint8).astype(np.int64) - 48
    text_ends = np.cumsum([len(text) for _, text in packed])

    def fault(at: int, problem: str) -> RowFault:
        row, text = packed[int(np.searchsorted(text_ends, at, "right"))]
        return RowFault(row, "segmentation.counts", f"is no compressed RLE, {problem}: {short(text)}")

    strange = (codes < 0) | (codes > 63)
    if strange.any():
        raise fault(int(np.argmax(strange)), "it holds other characters than '0' to 'o'")
    # Six bits a character: five of the number, lowest first, and whether it goes on.
    final = (codes & 0x20) == 0
    cut = text_ends[~final[text_ends - 1]]
    if len(cut):
        raise fault(int(cut[0]) - 1, "it ends within a number")
    stops = np.flatnonzero(final) + 1
    starts = np.concatenate([[0], stops[:-1]])
    lengths = stops - starts
    if (lengths > _MAX_CHARACTERS).any():
        raise fault(int(starts[np.argmax(lengths > _MAX_CHARACTERS)]), "a number is too long")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 0x1F) << shifts, starts)
    negative = (codes[stops - 1] & 0x10) != 0
    values[negative] -= np.int64(1) << (5 * lengths[negative])
    offsets = np.concatenate([[0], np.searchsorted(stops, text_ends, "right")])
    return values, offsets


def _column_major(runs: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Return the lengths of the runs along columns of a mask given along rows; never the whole mask at once."""
    ends = np.cumsum(runs)
    starts, stops = ends[:-1:2], ends[1::2]
    some = stops > starts
    starts, stops = starts[some], stops[some]
    if not len(starts):
        return np.array([height * width], np.int64)
    top, bottom = int(starts[0]) // width, int(stops[-1] - 1) // width + 1
    step = max(1, _STRIP_PIXELS // (bottom - top))
    # Positions, in column-major order, at which the mask changes.
    changes: list[NDArray[np.int64]] = []
    for x0 in range(0, width, step):
        x1 = min(x0 + step, width)
        strip = _strip(starts, stops, width, (top, bottom), (x0, x1))
        column, y = np.nonzero(np.diff(strip.T.astype(np.int8), axis=1, prepend=0, append=0))
        changes.append((column + x0) * height + top + y)
    at = np.concatenate(changes)
    # A run that goes on from the bottom of a column to the top of the next ends and begins at one position.
    positions, times = np.unique(at, return_counts=True)
    edges = np.concatenate([[0], positions[times == 1], [height * width]])
    lengths = np.diff(edges)
    return lengths if lengths[-1] else lengths[:-1]


def _strip(
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    width: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return the pixels of some rows and columns of a mask given by its foreground runs along rows."""
    y = np.arange(rows[0], rows[1], dtype=np.int64)[:, None] * width
    x = np.arange(columns[0], columns[1], dtype=np.int64)
    run = np.searchsorted(starts, y + x, "right") - 1
    return (run >= 0) & (y + x < stops[np.maximum(run, 0)])
