"""One pass over an image: bounded, aligned to the source's tiles, and the same whatever the cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.cache import stream
from slidesampler.cache.pyramid import image_levels
from slidesampler.cache.stream import plan_blocks, stream_image


class ArraySink:
    """Levels as arrays; every pixel of every level must be written once."""

    def __init__(self, levels, channels, dtype):
        self.pixels = [np.zeros((v.height, v.width, channels), dtype) for v in levels]
        self.valid = [np.zeros((v.height, v.width), bool) for v in levels]
        self.writes = [np.zeros((v.height, v.width), int) for v in levels]
        self.valid_writes = [np.zeros((v.height, v.width), int) for v in levels]
        self.started = 0

    def write_pixels(self, level, y, x, pixels):
        area = np.s_[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        self.pixels[level][area] = pixels
        self.writes[level][area] += 1

    def start_valid(self):
        self.started += 1

    def write_valid(self, level, y, x, valid):
        assert self.started == 1
        area = np.s_[y : y + valid.shape[0], x : x + valid.shape[1]]
        self.valid[level][area] = valid
        self.valid_writes[level][area] += 1


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few pixels, so that small images have many."""

    def use(unit, strip_rows, budget_bytes):
        monkeypatch.setattr(stream, "_UNIT", unit)
        monkeypatch.setattr(stream, "_STRIP_ROWS", strip_rows)
        monkeypatch.setattr(stream, "_CHUNK_COLUMNS", unit)
        real = plan_blocks
        monkeypatch.setattr(
            stream, "plan_blocks", lambda shape, size, block: real(shape, size, block, budget_bytes)
        )

    return use


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("budget", [10**9, 3000, 200])
@pytest.mark.parametrize("masked", ["no", "late", "noise"])
def test_levels_do_not_depend_on_the_cut(tools, small_blocks, dtype, budget, masked):
    small_blocks(4, 8, budget)
    rng = np.random.default_rng(1)
    pixels = tools.random_pixels(rng, (73, 59, 3), dtype)
    valid = None
    if masked == "late":
        valid = np.ones((73, 59), bool)
        valid[60:, 50:] = False
    elif masked == "noise":
        valid = rng.random((73, 59)) < 0.7
    levels = image_levels(73, 59, 2)
    sink = ArraySink(levels, 3, dtype)
    done = []
    reader = tools.reader(pixels, valid, block_shape=(4, 4))
    found = stream_image(reader, levels, sink, done.append)

    assert found == (masked != "no")
    assert sum(done) == 73 * 59
    for k, expected in enumerate(tools.mean_levels(pixels, valid, len(levels))):
        np.testing.assert_array_equal(sink.pixels[k], expected, err_msg=f"level {k}")
        assert (sink.writes[k] == 1).all()
        if masked != "no":
            np.testing.assert_array_equal(sink.valid[k], tools.decimated(valid, 2**k), err_msg=f"level {k}")
            assert (sink.valid_writes[k] == 1).all()


def test_a_mask_that_hides_nothing_is_not_written(tools):
    levels = image_levels(40, 40, 16)
    sink = ArraySink(levels, 1, np.uint8)
    reader = tools.reader(np.zeros((40, 40, 1), np.uint8), np.ones((40, 40), bool))
    assert stream_image(reader, levels, sink, lambda _: None) is False
    assert sink.started == 0


def test_pixels_marked_valid_are_never_mixed_with_invalid_ones(tools):
    # Invalid pixels are 255, valid ones 10: any mixture shows.
    rng = np.random.default_rng(5)
    valid = rng.random((600, 500)) < 0.3
    pixels = np.where(valid, 10, 255).astype(np.uint8)[:, :, None]
    levels = image_levels(600, 500, 16)
    sink = ArraySink(levels, 1, np.uint8)
    stream_image(tools.reader(pixels, valid), levels, sink, lambda _: None)
    for k in range(len(levels)):
        assert (sink.pixels[k][:, :, 0][sink.valid[k]] == 10).all()
        assert sink.valid[k].any()


@settings(deadline=None)
@given(
    height=st.integers(1, 200_000),
    width=st.integers(1, 200_000),
    channels=st.sampled_from([1, 3, 4, 8, 64]),
    itemsize=st.sampled_from([1, 2, 4]),
    block=st.sampled_from([None, (256, 256), (240, 240), (512, 512), (1024, 1024), (1, 10**6), (7, 10**6)]),
)
def test_blocks_fit_the_budget(height, width, channels, itemsize, block):
    budget = 32 * 2**20
    plan = plan_blocks((height, width, channels), itemsize, block, budget)
    assert min(plan.height, height) * min(plan.width, width) * channels * itemsize <= budget
    assert plan.height % 2**plan.depth == 0
    assert plan.width >= width or plan.width % 2**plan.depth == 0
    assert plan.depth >= 6
    assert plan.chunk >= 1


@pytest.mark.parametrize("tile", [240, 256, 512, 1024])
def test_every_tile_is_asked_for_once(tools, tile):
    # 1 channel keeps the array small; the strip still has several tiles in height.
    pixels = np.zeros((3 * 1024 + 17, 2500, 1), np.uint8)
    reader = tools.reader(pixels, block_shape=(tile, tile))
    levels = image_levels(*pixels.shape[:2], 256)
    stream_image(reader, levels, ArraySink(levels, 1, np.uint8), lambda _: None)
    asked = np.zeros((-(-pixels.shape[0] // tile), -(-pixels.shape[1] // tile)), int)
    for window in reader.windows:
        asked[window.y // tile : -(-window.y1 // tile), window.x // tile : -(-window.x1 // tile)] += 1
    assert (asked == 1).all()


def test_a_source_stored_by_rows_is_read_downwards_in_whole_rows(tools):
    reader = tools.reader(np.zeros((5000, 70, 1), np.uint8), block_shape=(1, 70))
    levels = image_levels(5000, 70, 256)
    stream_image(reader, levels, ArraySink(levels, 1, np.uint8), lambda _: None)
    assert all((w.x, w.width) == (0, 70) for w in reader.windows)
    assert [w.y for w in reader.windows] == sorted({w.y for w in reader.windows})
