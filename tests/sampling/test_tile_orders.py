"""Orders of tiles against lists of them, with as many tiles an image as you like."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slidesampler.errors import TargetError
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.tiles import ImageMajorTiles, RandomTilePerImage, TileMajorOrder, TileMajorTiles
from slidesampler.testing.source_contract import RectangleSampler, SourceContract


class TestImageMajor(SourceContract):
    random = False

    def make_sampler(self):
        return RectangleSampler(60)

    def make_source(self, sampler):
        return ImageMajorTiles(GridSource(sampler, 64, overlap=16))


class TestTileMajor(SourceContract):
    random = False

    def make_source(self, sampler):
        return TileMajorTiles(GridSource(sampler, 64, edge="even", image_ids=sampler.image_ids[::-1]))


class TestTileMajorOfARegion(TestImageMajor):
    def make_source(self, sampler):
        return TileMajorTiles(GridSource(sampler, 64, roi="tumour"))


class TestRandomTile(SourceContract):
    def make_source(self, sampler):
        return RandomTilePerImage(GridSource(sampler, 64, 48, edge="pad", downsample=1.5), seed=5)


class SizedSampler(RectangleSampler):
    """One row of 8-pixel tiles an image, as many as given."""

    def __init__(self, *tiles):
        super().__init__(images=len(tiles))
        self.tiles = tiles

    def __getstate__(self):
        return {**super().__getstate__(), "tiles": self.tiles}

    @property
    def _sizes(self):
        return np.array([(8, 8 * n) for n in self.tiles])


def grid_of(*tiles):
    return GridSource(SizedSampler(*tiles), 8)


def with_empty_images(*counts):
    """Return a grid of which image ``i`` keeps the first ``counts[i]`` tiles."""
    sampler = SizedSampler(*(max(n, 1) for n in counts))
    masks = {
        image_id: np.arange(max(n, 1))[None] < n for image_id, n in zip(sampler.image_ids, counts, strict=True)
    }
    return GridSource(sampler, 8, where=masks)


def tile_major(counts):
    """Return ``(image, tile)`` as one would list them."""
    return [(i, t) for t in range(max(counts, default=0)) for i, n in enumerate(counts) if n > t]


@settings(max_examples=200)
@given(st.lists(st.integers(0, 9), max_size=40))
@example([])
@example([1])
@example([0, 0])
@example([3] * 33)
@example([1, 0, 5, 5, 0, 2])
def test_tile_major_order_is_the_list(counts):
    order = TileMajorOrder(counts)
    listed = tile_major(counts)
    assert len(order) == len(listed)
    assert [order.locate(i) for i in range(len(order))] == listed
    assert [order.index_of(*place) for place in listed] == list(range(len(listed)))
    for image, count in enumerate(counts):
        with pytest.raises(IndexError, match=f"image {image} has {count}"):
            order.index_of(image, count)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.data())
def test_tile_major_order_of_numbers_that_no_list_holds(counts, data):
    order = TileMajorOrder(counts)
    assert len(order) == sum(counts)
    if not sum(counts):
        return
    index = data.draw(st.integers(0, sum(counts) - 1))
    image, tile = order.locate(index)
    assert 0 <= tile < counts[image]
    assert order.index_of(image, tile) == index
    # Before it come all earlier tiles, and the same tile of earlier images.
    before = sum(min(count, tile) for count in counts) + sum(count > tile for count in counts[:image])
    assert before == index


def test_a_negative_number_of_tiles():
    with pytest.raises(TargetError, match="-1 tiles"):
        TileMajorOrder([3, -1])


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_image_major_is_divmod_with_a_size_of_each_images_own(counts):
    grid = grid_of(*counts)
    order = ImageMajorTiles(grid)
    listed = [(grid.image_ids[i], t) for i, n in enumerate(counts) for t in range(n)]
    assert [order.locate(i) for i in range(len(order))] == listed
    assert [order.index_of(*place) for place in listed] == list(range(len(order)))
    assert [order.target(0, i) for i in range(len(order))] == [grid.target(0, i) for i in range(len(grid))]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_tile_major_targets_are_the_grids(counts):
    grid = grid_of(*counts)
    order = TileMajorTiles(grid)
    listed = [(grid.image_ids[i], t) for i, t in tile_major(counts)]
    assert [order.locate(i) for i in range(len(order))] == listed
    assert [order.index_of(*place) for place in listed] == list(range(len(order)))
    for i, (image_id, tile) in enumerate(listed):
        expected = grid.target(0, grid.index_of(image_id, 0, tile))
        assert order.target(3, i) == expected.with_fields(index=i)


@pytest.mark.parametrize("tiles", [1, 7])
def test_equal_images_are_divmod(tiles):
    grid = grid_of(*[tiles] * 5)
    ids = grid.image_ids
    image_major, tile_major_ = ImageMajorTiles(grid), TileMajorTiles(grid)
    for i in range(5 * tiles):
        assert image_major.locate(i) == (ids[i // tiles], i % tiles)
        assert tile_major_.locate(i) == (ids[i % 5], i // 5)


def test_images_that_keep_no_tile():
    counts = (0, 3, 0, 1, 2, 0)
    grid = with_empty_images(*counts)
    assert grid.tile_counts == counts
    ids = grid.image_ids
    image_major, by_tile, one = ImageMajorTiles(grid), TileMajorTiles(grid), RandomTilePerImage(grid)
    assert image_major.image_ids == ids
    assert [image_major.locate(i) for i in range(6)] == [
        (ids[i], t) for i, n in enumerate(counts) for t in range(n)
    ]
    assert [by_tile.locate(i) for i in range(6)] == [(ids[i], t) for i, t in tile_major(counts)]
    assert [one.locate(i)[0] for i in range(len(one))] == [ids[1], ids[3], ids[4]]
    assert [one.index_of(ids[i]) for i in (1, 3, 4)] == [0, 1, 2]
    for order in (image_major, by_tile):
        with pytest.raises(IndexError, match="has 0"):
            order.index_of(ids[0], 0)
    with pytest.raises(IndexError, match="has 0"):
        one.index_of(ids[0])


def test_every_epoch_shows_every_image_once():
    grid = grid_of(1, 4, 9, 2)
    source = RandomTilePerImage(grid, seed=3)
    assert len(source) == 4
    for epoch in range(50):
        targets = [source.target(epoch, i) for i in range(4)]
        assert [target.image_id for target in targets] == list(grid.image_ids)
        assert [target.index for target in targets] == [0, 1, 2, 3]
        places = [source.locate(i, epoch) for i in range(4)]
        assert [(t.image_id, t.window.x // 8) for t in targets] == places


def test_tiles_are_drawn_uniformly_and_anew():
    counts = (1, 4, 9, 2)
    source = RandomTilePerImage(grid_of(*counts), seed=3)
    epochs = 4000
    drawn = np.array([[source.locate(i, epoch)[1] for i in range(4)] for epoch in range(epochs)])
    for image, n in enumerate(counts):
        seen = np.bincount(drawn[:, image], minlength=n)
        assert len(seen) == n
        # Five standard deviations of a binomial.
        assert np.abs(seen - epochs / n).max() <= 5 * math.sqrt(epochs / n * (1 - 1 / n))
    # Images draw independently of one another: pairs are as even as each is.
    pairs = np.bincount(drawn[:, 1] * 9 + drawn[:, 2], minlength=36)
    assert np.abs(pairs - epochs / 36).max() <= 5 * math.sqrt(epochs / 36)
    other = RandomTilePerImage(grid_of(*counts), seed=4)
    assert [other.locate(2, epoch) for epoch in range(20)] != [source.locate(2, epoch) for epoch in range(20)]


@pytest.mark.parametrize("kind", [ImageMajorTiles, TileMajorTiles, RandomTilePerImage])
def test_places_that_are_not_there(kind):
    order = kind(grid_of(2, 3))
    with pytest.raises(IndexError, match=f"{len(order)} targets"):
        order.locate(len(order))
    with pytest.raises(IndexError):
        order.locate(-1)
    with pytest.raises(TypeError):
        order.locate(0.5)
    with pytest.raises(TargetError, match="no image 4"):
        order.index_of(4, *([] if kind is RandomTilePerImage else [0]))


def test_orders_pickle_without_tables():
    order = TileMajorTiles(GridSource(RectangleSampler(), 64))
    order.target(0, 100_000)
    assert len(pickle.dumps(order)) < 2000
