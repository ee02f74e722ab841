"""The tile size that suits a window: what a window at a random place costs with tiles of each size."""

from __future__ import annotations

from typing import Literal

from slidesampler.cache.spec import TILES

__all__ = ["TILE_OVERHEAD_PX", "TileSize", "best_tile", "expected_cost", "expected_tiles", "resolve_tile"]

#: A tile size, pixels, or ``"auto"``: the one that suits the windows.
TileSize = int | Literal["auto"]

#: What fetching and starting to decode a tile costs, in pixels that could have been decoded meanwhile.
#:
#: Measured with the compiled reader (RGB uint8, tiles of 128, 256 and 512 of a synthetic slide, time of a tile
#: fitted by a constant and a cost a pixel; a virtual SSD): 8,000 to 11,000 pixels for zstd, deflate and jpeg
#: with the file in the page cache, 18,000 to 26,000 without. In between, since training meets both. The size
#: that is chosen is the same for 256-pixel windows from 0 to 22,900, for 512-pixel ones from 11,300 to 91,900.
TILE_OVERHEAD_PX = 16_000
#: Share of the time of decoding a JPEG that goes into its entropy-coded bits, measured as above: a corner of 16
#: x 16 pixels, for which the whole tile has to be parsed, takes 0.34 to 0.42 of the time of the tile.
JPEG_PARSING = 0.4


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

    Every codec but JPEG unpacks each tile that a window touches whole: ``(height + tile - 1) * (width + tile -
    1)`` pixels on average. Of a JPEG the bits are parsed from the top of each tile to the last row that is
    needed, ``(height + (tile - 1) / 2) * (width + tile - 1)`` pixels, and only the window's own pixels are
    transformed. Each tile touched costs :data:`TILE_OVERHEAD_PX` on top.

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
        parsed = (height + (tile - 1) / 2) * (columns * tile)
        pixels = JPEG_PARSING * parsed + (1 - JPEG_PARSING) * height * width
    else:
        pixels = (rows * tile) * (columns * tile)
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
    [128, 128, 256, 256, 512]
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
    >>> resolve_tile(512, None), resolve_tile("auto", 256)
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
