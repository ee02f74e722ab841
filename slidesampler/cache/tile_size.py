"""The tile size that suits a window: what a window at a random place costs with tiles of each size."""

from __future__ import annotations

import math
from typing import Literal

from slidesampler.cache.spec import TILES

__all__ = ["TILE_OVERHEAD_PX", "TileSize", "best_tile", "expected_cost", "expected_tiles", "resolve_tile"]

#: A tile size, pixels, or ``"auto"``: the one that suits the windows.
TileSize = int | Literal["auto"]

#: What fetching a tile costs, in pixels that could have been decoded meanwhile.
#:
#: Measured with the compiled reader on a virtual SSD (RGB uint8, tiles of a synthetic slide, one thread): a
#: tile of 128 pixels that is not in the page cache takes 100 to 165 us longer than one that is, and a pixel
#: takes 8 to 12 ns to decode, so a tile costs 8,000 to 20,000 pixels; in the page cache next to nothing.
#: Training on more than the memory holds reads from the disk. Disks that turn and networks want larger tiles
#: than this says: ``slidesampler bench`` measures them.
TILE_OVERHEAD_PX = 16_000
#: Share of the time of decoding a JPEG that goes into its entropy-coded bits, measured as above: a corner of 16
#: x 16 pixels of a tile without restart markers takes 0.34 to 0.42 of the time of the tile.
JPEG_PARSING = 0.4
#: Rows and columns of pixels between the restart markers of our JPEG tiles: as many are parsed at once.
JPEG_INTERVAL = (16, 64)
#: What a pixel of a JPEG tile costs that is fetched but not parsed, where one that is decoded costs 1. In the
#: page cache tiles of 512 take as long as those of 256 for windows of 256, which makes 0.09; a disk of 200
#: MB/s, with a fifth of a byte a pixel, makes 0.1.
JPEG_FETCHED = 0.1
#: Codecs that are unpacked from the top of a tile to the last row that is needed; all others whole. ``"auto"``
#: is zstd nearly everywhere.
_UNPACKED_FROM_TOP = ("auto", "zstd", "lzw")


def expected_tiles(length: int, tile: int) -> float:
    """Return how many tiles an interval of ``length`` pixels touches, all places being as likely.

    ``(length - 1) / tile + 1``: of the ``tile`` places where it can start within a tile, each pixel after the
    first lies in a new tile at one of them.

    Examples
    --------
    >>> expected_tiles(1, 256), expected_tiles(257, 256)
    (1.0, 2.0)
    """
    return (length - 1) / tile + 1


def expected_cost(window: tuple[int, int], tile: int, *, codec: str = "auto") -> float:
    """Return what a window at a random place costs, in pixels decoded.

    The tiles that a window touches have ``height + tile - 1`` rows, ``width + tile - 1`` columns on average.
    DEFLATE is unpacked whole; ZSTD and LZW from the top of each tile to the last row that is needed, which
    makes ``height + (tile - 1) / 2`` rows. Of JPEG, as the compiled encoder writes it, the intervals between
    restart markers that the window touches are parsed, the window's own pixels transformed, and all bytes
    fetched. Each tile touched costs :data:`TILE_OVERHEAD_PX` on top.

    Parameters
    ----------
    window : (int, int)
        ``(height, width)`` in pixels of the level that is read.
    tile : int
        Pixels.
    codec : str

    Notes
    -----
    The two axes are independent, so expectations multiply. Source of the number of tiles: counting places, as
    :func:`expected_tiles` says; the tests count them one by one.
    """
    height, width = window
    rows, columns = expected_tiles(height, tile), expected_tiles(width, tile)
    if codec == "jpeg":
        parsed = math.prod(
            side * expected_tiles(n, side) for n, side in zip(window, JPEG_INTERVAL, strict=True)
        )
        fetched = rows * columns * tile**2
        pixels = JPEG_PARSING * parsed + (1 - JPEG_PARSING) * height * width + JPEG_FETCHED * fetched
    else:
        from_top = codec in _UNPACKED_FROM_TOP
        pixels = (height + (tile - 1) / 2 if from_top else rows * tile) * (columns * tile)
    return pixels + TILE_OVERHEAD_PX * rows * columns


def best_tile(window: int | tuple[int, int], *, codec: str = "auto") -> int:
    """Return the tile size from which windows cost least.

    Parameters
    ----------
    window : int or (height, width)
        Output pixels of the windows that are intended.
    codec : str
        The COG's.

    Raises
    ------
    ValueError
        If a side is less than 1.

    Examples
    --------
    >>> [best_tile(side) for side in (64, 256, 512, 1024, 4096)]
    [128, 256, 256, 256, 512]
    """
    sides = (window, window) if isinstance(window, int) else window
    if min(sides) < 1:
        raise ValueError(f"a window is at least 1 x 1 pixel, got {window!r}")
    return min(TILES, key=lambda tile: expected_cost(sides, tile, codec=codec))


def resolve_tile(tile: TileSize, window: int | tuple[int, int] | None, *, codec: str = "auto") -> int:
    """Return a tile size with nothing left open: before any key is made, so that equal tiles are equal entries.

    Parameters
    ----------
    tile : int or "auto"
    window : int or (height, width), optional
        Output pixels of the windows that are intended; for ``"auto"`` alone.
    codec : str

    Raises
    ------
    ValueError
        If tile is ``"auto"`` and no window is given, or a window is given for nothing.

    Examples
    --------
    >>> resolve_tile(512, None), resolve_tile("auto", 64)
    (512, 128)
    """
    if tile != "auto":
        if window is not None:
            raise ValueError(f"a window is for tile 'auto', which follows from it; tile is {tile!r}")
        return tile
    if window is None:
        raise ValueError(
            "tile 'auto' follows from the size of the windows: give it too, window=256 for example"
        )
    return best_tile(window, codec=codec)
