"""The front of a COG: GDAL's structural metadata, every directory, and where each tile will lie.

A cloud-optimised GeoTIFF is a TIFF whose directories come first, full resolution at their head, and whose tiles
come after, full resolution at their end: one request for the start of the file shows a whole small overview.
Source: GDAL's documentation of its COG driver, https://gdal.org/drivers/raster/cog.html.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEADER",
    "TRAILER",
    "Tag",
    "TiffPage",
    "ascii_tag",
    "cog_header",
    "longs",
    "rationals",
    "shorts",
]

#: Bytes before a tile (its size) and after it (its last four bytes again), as the metadata declares.
LEADER, TRAILER = 4, 4
#: Files up to this size are classic TIFFs, which every program reads.
CLASSIC_BYTES = 2**32 - 1

_STRUCTURE = (
    "LAYOUT=IFDS_BEFORE_DATA\n"
    "BLOCK_ORDER=ROW_MAJOR\n"
    "BLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\n"
    # Who edits the file in place writes YES over it; hence the room for one letter more.
    "KNOWN_INCOMPATIBLE_EDITION=NO\n "
)
#: In the byte order of the machine, which is that of the pixels.
_ORDER = "<" if sys.byteorder == "little" else ">"
_ASCII, _SHORT, _LONG, _RATIONAL, _LONG8 = 2, 3, 4, 5, 16
_TILE_OFFSETS, _TILE_BYTE_COUNTS = 324, 325


@dataclass(frozen=True, slots=True)
class Tag:
    """A value of a directory: TIFF's number of its type, how many there are, and their bytes."""

    kind: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TiffPage:
    """A directory and its tiles.

    Parameters
    ----------
    tags : dict of int to Tag
        All but where the tiles lie.
    sizes : uint64 (n,)
        Bytes of each tile, by rows, without leader and trailer; 0 for one that was left out.
    """

    tags: dict[int, Tag]
    sizes: NDArray[np.uint64]

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tiles, leaders and trailers included."""
        return int(self.sizes.sum()) + int(np.count_nonzero(self.sizes)) * (LEADER + TRAILER)


def shorts(*values: int) -> Tag:
    """Return a tag of 16-bit numbers."""
    return Tag(_SHORT, len(values), struct.pack(f"{_ORDER}{len(values)}H", *values))


def longs(*values: int) -> Tag:
    """Return a tag of 32-bit numbers."""
    return Tag(_LONG, len(values), struct.pack(f"{_ORDER}{len(values)}I", *values))


def ascii_tag(text: str) -> Tag:
    """Return a tag of text, UTF-8 where it is more than ASCII, as GDAL has it."""
    data = text.encode() + b"\0"
    return Tag(_ASCII, len(data), data)


def rationals(*values: float) -> Tag:
    """Return a tag of fractions, each the nearest of 32 bits to a number that is not negative."""
    parts: list[int] = []
    for value in values:
        top = 2**32 - 1
        value = min(value, top)
        fraction = Fraction(value).limit_denominator(max(1, min(top, int(top / value)) if value else 1))
        parts += [fraction.numerator, fraction.denominator]
    return Tag(_RATIONAL, len(values), struct.pack(f"{_ORDER}{len(parts)}I", *parts))


def cog_header(pages: Sequence[TiffPage], data_order: Sequence[int]) -> tuple[bytes, list[int]]:
    """Return everything of a COG that comes before its tiles, and where the tiles of each page begin.

    Parameters
    ----------
    pages : sequence of TiffPage
        In the order of their directories, the full image first.
    data_order : sequence of int
        The pages in the order in which their tiles follow the header, without a gap.

    Returns
    -------
    header : bytes
    starts : list of int
        Of each page the offset of its first leader.
    """
    stored = sum(page.stored_bytes for page in pages)
    header = _Header(pages, big=False)
    if header.size + stored > CLASSIC_BYTES:
        header = _Header(pages, big=True)
    starts = [0] * len(pages)
    offset = header.size
    for number in data_order:
        starts[number] = offset
        offset += pages[number].stored_bytes
    return header.pack(starts), starts


class _Header:
    """Sizes and bytes of a header, classic or BigTIFF."""

    def __init__(self, pages: Sequence[TiffPage], *, big: bool) -> None:
        self._pages, self._big = pages, big
        structure = f"GDAL_STRUCTURAL_METADATA_SIZE={len(_STRUCTURE):06d} bytes\n{_STRUCTURE}".encode()
        order = b"II" if _ORDER == "<" else b"MM"
        first = _even((16 if big else 8) + len(structure))
        if big:
            start = order + struct.pack(f"{_ORDER}HHHQ", 43, 8, 0, first)
        else:
            start = order + struct.pack(f"{_ORDER}HI", 42, first)
        self._start = (start + structure).ljust(first, b"\0")
        self._word = 8 if big else 4
        # The number of bytes does not depend on where the tiles lie.
        self.size = first + sum(len(self._directory(page, 0, 0, last=True)) for page in pages)

    def pack(self, starts: Sequence[int]) -> bytes:
        parts = [self._start]
        at = len(self._start)
        for number, (page, start) in enumerate(zip(self._pages, starts, strict=True)):
            parts.append(self._directory(page, start, at, last=number == len(self._pages) - 1))
            at += len(parts[-1])
        return b"".join(parts)

    def _directory(self, page: TiffPage, start: int, at: int, *, last: bool) -> bytes:
        """Return a directory that lies at ``at``, with the values that do not fit into it after it."""
        stored = page.sizes + np.where(page.sizes > 0, np.uint64(LEADER + TRAILER), np.uint64(0))
        offsets = np.cumsum(stored, dtype=np.uint64) - stored + np.uint64(start + LEADER)
        offsets[page.sizes == 0] = 0
        tags = {
            **page.tags,
            _TILE_OFFSETS: self._places(offsets),
            _TILE_BYTE_COUNTS: self._places(page.sizes),
        }
        count, entry = ("Q", "HHQ") if self._big else ("H", "HHI")
        head = struct.pack(_ORDER + count, len(tags))
        values_at = at + len(head) + len(tags) * (struct.calcsize(_ORDER + entry) + self._word) + self._word
        values = b""
        for code, tag in sorted(tags.items()):
            head += struct.pack(_ORDER + entry, code, tag.kind, tag.count)
            if len(tag.data) <= self._word:
                head += tag.data.ljust(self._word, b"\0")
            else:
                head += self._pack_word(values_at + len(values))
                values += tag.data.ljust(_even(len(tag.data)), b"\0")
        return head + self._pack_word(0 if last else values_at + len(values)) + values

    def _places(self, numbers: NDArray[np.uint64]) -> Tag:
        kind: Any = np.uint64 if self._big else np.uint32
        return Tag(_LONG8 if self._big else _LONG, len(numbers), numbers.astype(kind).tobytes())

    def _pack_word(self, value: int) -> bytes:
        return struct.pack(f"{_ORDER}{'Q' if self._big else 'I'}", value)


def _even(size: int) -> int:
    return size + size % 2
