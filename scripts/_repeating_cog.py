"""Large slides in no time: a COG whose compressed tiles repeat those of a small one.

What a window costs must not depend on how large its slide is. To see that, slides of 60,000 pixels are needed
and what is on them is not: the tiles of a small JPEG COG are written again and again, in an order of chance,
each copy at a place of its own, so that the file is as long as a real one. Overviews are made of the same
tiles, so they show something else than the levels below them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

__all__ = ["TileSet", "read_tile_set", "write_repeating_cog"]

#: TIFF field types.
ASCII, SHORT, LONG, UNDEFINED, LONG8 = 2, 3, 4, 7, 16
SIZES = {ASCII: 1, SHORT: 2, LONG: 4, UNDEFINED: 1, LONG8: 8}
FORMATS = {SHORT: "<u2", LONG: "<u4", LONG8: "<u8"}
JPEG, YCBCR = 7, 6


class TileSet(NamedTuple):
    """Compressed tiles of one size, and the tables that their JPEG streams share."""

    tiles: Sequence[bytes]
    side: int
    tables: bytes


def read_tile_set(path: str | Path, count: int = 1024) -> TileSet:
    """Return up to ``count`` whole tiles of the full resolution of a JPEG COG (YCbCr, 4:2:0)."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        if (page.compression, page.photometric) != (JPEG, YCBCR):
            raise ValueError(f"{path}: the tiles of a JPEG COG in YCbCr are wanted")
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))[:count]
        segments = tiff.filehandle.read_segments(*zip(*places, strict=True))
        tiles = [bytes(data) for data, _ in segments if data is not None]
        return TileSet(tiles, page.tilewidth, bytes(page.jpegtables or b""))


def write_repeating_cog(path: str | Path, tiles: TileSet, size: int, seed: int = 0) -> Path:
    """Write a COG of ``size x size`` RGB pixels, with overviews down to a tile.

    Parameters
    ----------
    path : path
    tiles : TileSet
    size : int
        Pixels.
    seed : int
        Decides which tile stands where.
    """
    sizes = [size]
    while sizes[-1] > tiles.side:
        sizes.append(-(-sizes[-1] // 2))
    rng = np.random.default_rng(seed)
    which = [rng.integers(0, len(tiles.tiles), (-(-side // tiles.side)) ** 2) for side in sizes]
    lengths = np.array([len(tile) for tile in tiles.tiles], np.uint64)
    counts = [lengths[chosen] for chosen in which]
    # Directories come first and data last, that of the smallest level before that of the larger ones.
    heads = [_directory(tiles, side, count, count, 0, 0) for side, count in zip(sizes, counts, strict=True)]
    start = 16 + sum(map(len, heads))
    offsets: list[NDArray[np.uint64]] = []
    for count in reversed(counts):
        ends = start + np.cumsum(count, dtype=np.uint64)
        offsets.insert(0, ends - count)
        start = int(ends[-1])
    path = Path(path)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16))
        for level, side in enumerate(sizes):
            place = file.tell()
            following = place + len(heads[level]) if level + 1 < len(sizes) else 0
            file.write(_directory(tiles, side, offsets[level], counts[level], place, following, level > 0))
        for chosen in reversed(which):
            file.writelines(tiles.tiles[tile] for tile in chosen)
    return path


def _directory(
    tiles: TileSet,
    side: int,
    offsets: NDArray[np.uint64],
    counts: NDArray[np.uint64],
    place: int,
    following: int,
    reduced: bool = False,
) -> bytes:
    """Return the directory of a level at a place in the file, with the values that do not fit into it."""
    fields: list[tuple[int, int, Sequence[int] | NDArray[np.uint64] | bytes]] = [
        (254, LONG, [int(reduced)]),
        (256, LONG, [side]),
        (257, LONG, [side]),
        (258, SHORT, [8, 8, 8]),
        (259, SHORT, [JPEG]),
        (262, SHORT, [YCBCR]),
        (277, SHORT, [3]),
        (284, SHORT, [1]),
        (322, LONG, [tiles.side]),
        (323, LONG, [tiles.side]),
        (324, LONG8, offsets),
        (325, LONG8, counts),
        (347, UNDEFINED, tiles.tables),
        (530, SHORT, [2, 2]),
    ]
    beside = place + 8 + 20 * len(fields) + 8
    head, values = struct.pack("<Q", len(fields)), b""
    for tag, kind, content in fields:
        data = content if isinstance(content, bytes) else np.asarray(content, FORMATS[kind]).tobytes()
        head += struct.pack("<HHQ", tag, kind, len(data) // SIZES[kind])
        if len(data) <= 8:
            head += data.ljust(8, b"\0")
        else:
            head += struct.pack("<Q", beside + len(values))
            values += data.ljust(-(-len(data) // 8) * 8, b"\0")
    return head + struct.pack("<Q", following) + values
