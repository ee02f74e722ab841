"""The tile size that is chosen is the one that counting says, place by place."""

from __future__ import annotations

import itertools
import math

import pytest

from slidesampler.cache.spec import TILES, BuildSpec
from slidesampler.cache.tile_size import (
    JPEG_FETCHED,
    JPEG_PARSING,
    TILE_OVERHEAD_PX,
    best_tile,
    expected_cost,
    expected_tiles,
    resolve_tile,
)


def tiles_of(start: int, length: int, tile: int) -> set[int]:
    return {pixel // tile for pixel in range(start, start + length)}


def counted(window: tuple[int, int], tile: int, codec: str) -> float:
    """Mean cost over all places of a window in the grid of tiles, tile by tile."""
    total = 0.0
    spans = [[(start, tiles_of(start, length, tile)) for start in range(tile)] for length in window]
    for (y, rows), (x, columns) in itertools.product(*spans):
        parsed = sum(
            # From the top of a tile to the last row of the window in it, over its whole width.
            min((row + 1) * tile, y + window[0]) - row * tile
            for row in rows
        ) * (len(columns) * tile)
        pixels = {
            "zstd": parsed,
            "deflate": len(rows) * len(columns) * tile**2,
            "jpeg": JPEG_FETCHED * len(rows) * len(columns) * tile**2 + (1 - JPEG_PARSING) * math.prod(window),
        }[codec]
        if codec == "jpeg":
            # Intervals lie in one tile each.
            intervals = [
                {p // side for p in range(at, at + n)}
                for at, n, side in zip((y, x), window, (16, 64), strict=True)
            ]
            total += JPEG_PARSING * len(intervals[0]) * 16 * len(intervals[1]) * 64
        total += pixels + TILE_OVERHEAD_PX * len(rows) * len(columns)
    return total / tile**2


@pytest.mark.parametrize("tile", [1, 2, 16, 31])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64])
def test_tiles_touched(length: int, tile: int) -> None:
    places = [len(tiles_of(start, length, tile)) for start in range(tile)]
    assert expected_tiles(length, tile) == pytest.approx(sum(places) / tile)


@pytest.mark.parametrize("codec", ["zstd", "deflate", "jpeg"])
@pytest.mark.parametrize(("window", "tile"), [((1, 1), 64), ((20, 7), 64), ((16, 48), 64), ((33, 12), 128)])
def test_cost_of_a_window(window: tuple[int, int], tile: int, codec: str) -> None:
    assert expected_cost(window, tile, codec=codec) == pytest.approx(counted(window, tile, codec))


def test_larger_windows_want_larger_tiles() -> None:
    sides = [16, 64, 256, 512, 1024, 2048, 4096, 100_000]
    for codec in ("zstd", "deflate", "jpeg"):
        chosen = [best_tile(side, codec=codec) for side in sides]
        assert chosen == sorted(chosen)
        assert (chosen[0], chosen[-1]) == (min(TILES), max(TILES))


def test_what_is_not_unpacked_allows_larger_tiles() -> None:
    for tile in TILES:
        costs = [expected_cost((256, 256), tile, codec=codec) for codec in ("jpeg", "zstd", "deflate")]
        assert costs == sorted(costs)
    assert best_tile(96, codec="jpeg") > best_tile(96, codec="zstd")
    assert best_tile(256, codec="zstd") > best_tile(256, codec="deflate")


def test_both_sides_count() -> None:
    assert best_tile((100, 100_000)) < best_tile(100_000)
    assert best_tile((256, 256)) == best_tile(256)


def test_without_an_overhead_small_tiles_always_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidesampler.cache.tile_size.TILE_OVERHEAD_PX", 0)
    assert best_tile(4096) == min(TILES)
    monkeypatch.setattr("slidesampler.cache.tile_size.TILE_OVERHEAD_PX", 10**9)
    assert best_tile(256) == max(TILES)


def test_an_axis_that_does_not_move_costs_its_own_tiles_alone() -> None:
    # A row of pixels as wide as a tile lies in one row of tiles, at 255 of 256 places in two columns.
    assert expected_cost((1, 256), 256, codec="deflate") == (TILE_OVERHEAD_PX + 256 * 256) * (1 + 255 / 256)


def test_auto_is_the_explicit_tile() -> None:
    assert resolve_tile(512, None) == 512
    tile = resolve_tile("auto", 256, codec="zstd")
    assert BuildSpec(tile=tile).resolved() == BuildSpec(tile=best_tile(256)).resolved()


def test_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="window=256"):
        resolve_tile("auto", None)
    with pytest.raises(ValueError, match="'auto'"):
        resolve_tile(256, 256)
    for window in (0, (256, -1)):
        with pytest.raises(ValueError, match="at least 1 x 1"):
            best_tile(window)
