"""A byte string that stands for a level, a tile of it and an area of the tile: fuzz_input.h in Python."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<5B3x8H2Q")
MAX_SIDE = 256
NONE, DEFLATE, ZSTD, LZW, JPEG = range(5)
SWAP, PACKED, YCBCR, COUNT_LIES, OFFSET_LIES = 1, 2, 4, 8, 16


class FuzzInput(NamedTuple):
    """What the decoder is asked, in plain words."""

    codec: int
    predictor: int
    samples: int
    itemsize: int
    flags: int
    tile: tuple[int, int]
    #: Rows y0 to y1 and columns x0 to x1, ends excluded.
    area: tuple[int, int, int, int]
    tables: bytes
    #: Another tile of the level, which may be decoded before.
    other: bytes
    data: bytes
    count: int = 0
    offset: int = 0

    def pack(self) -> bytes:
        """Return the byte string."""
        y0, y1, x0, x1 = self.area
        header = HEADER.pack(
            self.codec,
            self.predictor - 1,
            self.samples - 1,
            (self.itemsize).bit_length() - 1,
            self.flags,
            *(side - 1 for side in self.tile),
            y0,
            y1 - y0 - 1,
            x0,
            x1 - x0 - 1,
            len(self.tables),
            len(self.other),
            self.count,
            self.offset,
        )
        return header + self.tables + self.other + self.data


def unpack(string: bytes) -> FuzzInput | None:
    """Return what a byte string stands for; None where it is too short to stand for anything."""
    if len(string) < HEADER.size:
        return None
    codec, predictor, samples, itemsize, flags, *numbers, count, offset = HEADER.unpack_from(string)
    codec %= 5
    if codec == JPEG:
        flags &= ~PACKED
    bytes_only = flags & PACKED or codec == JPEG
    samples = 1 + samples % (4 if codec == JPEG else 8)
    if samples != 3:
        flags &= ~YCBCR
    height, width = 1 + numbers[0] % MAX_SIDE, 1 + numbers[1] % MAX_SIDE
    y0, x0 = numbers[2] % height, numbers[4] % width
    area = (y0, y0 + 1 + numbers[3] % (height - y0), x0, x0 + 1 + numbers[5] % (width - x0))
    rest = string[HEADER.size :]
    tables = numbers[6] % (len(rest) + 1)
    other = numbers[7] % (len(rest) - tables + 1)
    data = rest[tables + other :]
    if count <= 2**29:
        count %= 2**16
    return FuzzInput(
        codec,
        1 if bytes_only else 1 + predictor % 3,
        samples,
        1 if bytes_only else 1 << itemsize % 4,
        flags,
        (height, width),
        area,
        rest[:tables],
        rest[tables : tables + other],
        data,
        count if flags & COUNT_LIES else len(data),
        offset if flags & OFFSET_LIES else other,
    )
