"""Tissue against what a synthetic slide is known to show, and what has none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile

from slidesampler.errors import ManifestError
from slidesampler.foreground import find_tissue, tissue_from_mask
from slidesampler.foreground.reduced import picked_pixels, read_reduced
from slidesampler.foreground.tissue import mask_downsample
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers import ArrayReader, ReaderSpec, open_reader
from slidesampler.testing import make_slide
from slidesampler.testing._anatomy import Anatomy


def reader_of(pixels, channels=()):
    return ArrayReader(np.asarray(pixels), "array://test", channels=channels)


def tissue_truth(truth, mask):
    """The outlines that the slide was painted from, at the resolution of a mask."""
    (anatomy,) = [value for value in vars(truth.painter).values() if isinstance(value, Anatomy)]
    wanted = np.zeros(mask.mask.shape, np.uint8)
    for ring in anatomy.tissue:
        cv2.fillPoly(wanted, [np.rint(np.asarray(ring) / mask.downsample - 0.5).astype(np.int32)], 1)
    return wanted > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_the_tissue_of_a_synthetic_slide(tmp_path, seed):
    truth = make_slide(tmp_path / "slide.tif", 2400, 1800, seed)
    reader = open_reader(ReaderSpec("auto", str(tmp_path / "slide.tif")))
    found = find_tissue(reader)
    reader.close()
    assert found.downsample == 2
    wanted = tissue_truth(truth, found)
    # Clefts, fat and lumens are no tissue, a stroke of a marker looks like it: outlines tell nothing of these.
    assert (found.mask & ~wanted).mean() < 0.02
    assert (wanted & ~found.mask).mean() < 0.1
    assert (found.mask & wanted).sum() / (found.mask | wanted).sum() > 0.85


def painted(height=400, width=600):
    """Grey-white glass with a pink ellipse, and which pixels it covers."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(236, 244, (height, width, 1)).repeat(3, axis=2)
    inside = np.zeros((height, width), np.uint8)
    cv2.ellipse(inside, (width // 2, height // 2), (width // 4, height // 4), 0, 0, 360, 1, -1)
    pixels[inside > 0] = rng.integers((200, 90, 140), (230, 130, 180), (int(inside.sum()), 3))
    return pixels.astype(np.uint8), inside > 0


def agreement(found, wanted):
    return (found.mask == wanted).mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_range_of_the_pixels_does_not_matter(dtype):
    pixels, inside = painted()
    scale = {np.uint8: 1, np.uint16: 16, np.float32: 1 / 255}[dtype]
    found = find_tissue(reader_of((pixels * scale).astype(dtype)))
    assert agreement(found, inside) > 0.995


def test_channels_go_by_their_names():
    pixels, inside = painted()
    extra = np.zeros((400, 600, 1), np.uint8)
    mixed = np.concatenate([extra, pixels[:, :, [2, 0, 1]]], axis=2)
    found = find_tissue(reader_of(mixed, ("nir", "b", "r", "g")))
    assert agreement(found, inside) > 0.995
    named = find_tissue(reader_of(pixels, ("Red", "Green", "Blue")))
    assert agreement(named, inside) > 0.995


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.zeros((50, 60), np.uint8), "one channel"),
        (np.zeros((50, 60, 5), np.uint8), "5 channels"),
        (np.arange(3000).reshape(50, 60, 1).repeat(3, 2) % 251, "grey all over"),
    ],
)
def test_grey_images_are_refused_with_a_way_out(pixels, found):
    with pytest.raises(ManifestError, match=found) as error:
        find_tissue(reader_of(pixels.astype(np.uint8)))
    assert "tissue='none'" in str(error.value)
    assert "'tissue'" in str(error.value)


@pytest.mark.parametrize("level", [0, 128, 240, 255])
def test_a_blank_slide_has_no_tissue(level):
    rng = np.random.default_rng(1)
    noise = rng.integers(-2, 3, (300, 200, 3)) * (0 < level < 255)
    for pixels in (np.full((300, 200, 3), level), np.full((300, 200, 3), level) + noise):
        assert not find_tissue(reader_of(pixels.astype(np.uint8))).mask.any()


def test_a_slide_without_glass_is_all_tissue():
    rng = np.random.default_rng(2)
    pixels = rng.integers((180, 80, 120), (240, 160, 200), (300, 400, 3)).astype(np.uint8)
    assert find_tissue(reader_of(pixels)).mask.all()


def test_black_borders_and_pen_are_no_tissue():
    pixels, inside = painted()
    # Compression leaves colours in black that mean nothing.
    pixels[:60] = np.random.default_rng(3).integers(0, 9, (60, 600, 3))
    found = find_tissue(reader_of(pixels))
    assert not found.mask[:55].any()
    assert agreement(found, inside) > 0.99


def test_specks_and_holes_are_removed():
    pixels, _ = painted()
    pixels[20:25, 20:25] = (210, 100, 150)
    pixels[200:206, 300:306] = 240
    found = find_tissue(reader_of(pixels))
    assert not found.mask[15:30, 15:30].any()
    assert found.mask[195:211, 295:311].all()
    # A large hole stays.
    pixels[180:220, 280:320] = 240
    assert not find_tissue(reader_of(pixels)).mask[185:215, 285:315].any()


class WithMask(ArrayReader):
    """An array of which a part is not valid."""

    def __init__(self, pixels, valid):
        super().__init__(pixels, "array://masked")
        self._valid = valid
        self.has_valid = True

    def read_valid(self, window, level=0):
        assert level == 0
        return self._valid[window.as_slices()]


def test_what_is_not_valid_counts_for_nothing():
    pixels, inside = painted()
    valid = np.ones(inside.shape, bool)
    valid[:, 300:] = False
    # Glaring colours where nothing is valid: they would shift any threshold.
    pixels[:, 300:] = (255, 0, 0)
    found = find_tissue(WithMask(pixels, valid))
    assert not found.mask[:, 300:].any()
    assert (found.mask[:, :300] == inside[:, :300]).mean() > 0.99
    assert not find_tissue(WithMask(pixels, np.zeros_like(valid))).mask.any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (3, 2, 3)])
def test_tiny_images(shape):
    assert find_tissue(reader_of(np.full(shape, 240, np.uint8))).mask.shape == shape[:2]


def test_numbers_that_are_none_count_for_nothing():
    pixels, inside = painted()
    pixels = pixels.astype(np.float32)
    pixels[:10] = np.nan
    found = find_tissue(reader_of(pixels))
    assert not found.mask[:10].any()
    assert agreement(found, inside) > 0.99


# Reduced images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 80, 3), (67, 81, 1), (130, 5, 2)])
@pytest.mark.parametrize("step", [1, 2, 8])
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_reducing_is_the_mean_of_each_block(monkeypatch, shape, step, budget):
    monkeypatch.setattr("slidesampler.foreground.reduced._BLOCK_BYTES", budget)
    pixels = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    means, share = read_reduced(reader_of(pixels), step)
    assert (share == 1).all()
    for i in range(means.shape[0]):
        for j in range(means.shape[1]):
            block = pixels[i * step : (i + 1) * step, j * step : (j + 1) * step]
            np.testing.assert_allclose(means[i, j], block.mean(axis=(0, 1)), rtol=1e-5)


def test_reducing_goes_by_the_valid_part():
    pixels, _ = painted(40, 64)
    valid = np.random.default_rng(5).random((40, 64)) < 0.3
    valid[:8, :8] = False
    means, share = read_reduced(WithMask(pixels, valid), 8)
    assert share[0, 0] == 0
    block, part = pixels[8:16, 16:24], valid[8:16, 16:24]
    assert share[1, 2] == pytest.approx(part.mean())
    np.testing.assert_allclose(means[1, 2], block[part].mean(axis=0), rtol=1e-4)


def test_a_level_is_read_where_there_is_one(tmp_path):
    """What is read follows the size of the mask, not that of the image."""
    pixels, inside = painted(4096, 3000)
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(256, 256), photometric="rgb", subifds=1)
        file.write(pixels[::2, ::2], tile=(256, 256), photometric="rgb", subfiletype=1)
    reader = open_reader(ReaderSpec("auto", str(path)))
    if len(reader.levels) == 1:
        reader.close()
        pytest.skip("this GDAL does not show the reduced page")
    asked = []
    read = reader.read
    reader.read = lambda window, level=0, **options: (asked.append(level), read(window, level, **options))[1]
    found = find_tissue(reader)
    reader.close()
    assert set(asked) == {1}
    assert (found.mask == inside[::2, ::2]).mean() > 0.99


def test_levels_of_odd_sizes_leave_no_pixel_out():
    class Odd(ArrayReader):
        def __init__(self, pixels):
            super().__init__(pixels, "array://odd")
            # As a vendor rounds: down.
            self.reduced = pixels[:-1:2, :-1:2][: pixels.shape[0] // 2]
            self.levels = (*self.levels, Level(*self.reduced.shape[:2], (2.0, 2.0)))

        def read(self, window, level=0, *, channels=None, out=None):
            return (
                self.reduced[window.as_slices()] if level else super().read(window, channels=channels, out=out)
            )

    pixels = np.random.default_rng(6).integers(0, 256, (65, 129, 3), np.uint8)
    means, _ = read_reduced(Odd(pixels), 2)
    assert means.shape == (33, 65, 3)
    np.testing.assert_array_equal(means[:32, :64], pixels[:64:2, :128:2])
    assert np.isfinite(means).all()


# A user's mask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 4, 0.5])
def test_a_mask_of_any_resolution(scale):
    height, width = 400, 600
    full = np.zeros((height, width), bool)
    full[96:304, 48:400] = True
    if scale == 0.5:
        mask = full.repeat(2, 0).repeat(2, 1)
    else:
        mask = full[::scale, ::scale]
    found = tissue_from_mask(reader_of(mask.astype(np.uint8) * 7), (height, width))
    assert found.downsample == mask_downsample(height, width) == 1
    np.testing.assert_array_equal(found.mask, full)


def test_a_coarse_mask_of_a_large_image():
    mask = np.zeros((50, 100), np.uint8)
    mask[10:20, 30:60] = 1
    found = tissue_from_mask(reader_of(mask), (50_000, 100_000))
    step = found.downsample
    assert step == 64
    ys = (np.arange(found.mask.shape[0]) + 0.5) * step / 1000
    xs = (np.arange(found.mask.shape[1]) + 0.5) * step / 1000
    wanted = np.outer((ys >= 10) & (ys < 20), (xs >= 30) & (xs < 60))
    np.testing.assert_array_equal(found.mask, wanted)


@pytest.mark.parametrize(
    ("shape", "said"), [((100, 100), "different ratios"), ((200, 300, 3), "3 channels"), ((300, 200), "ratios")]
)
def test_a_mask_of_something_else_is_refused(shape, said):
    with pytest.raises(ManifestError, match=said):
        tissue_from_mask(reader_of(np.ones(shape, np.uint8)), (400, 600))


def test_picked_pixels_are_read_in_pieces(monkeypatch):
    monkeypatch.setattr("slidesampler.foreground.reduced._BLOCK_BYTES", 1)
    mask = np.random.default_rng(7).integers(0, 2, (90, 70), np.uint8)
    rows, columns = np.arange(1, 90, 7), np.arange(3, 70, 5)
    found = picked_pixels(reader_of(mask), rows, columns)
    np.testing.assert_array_equal(found, mask[np.ix_(rows, columns)] > 0)
    assert found.any()
    assert not found.all()


def test_the_mask_of_a_window():
    found = tissue_from_mask(reader_of(np.eye(4, dtype=np.uint8)), (40, 40))
    assert found.pixels(Window(8, 8, 4, 4)).astype(int).tolist() == np.kron(np.eye(2), np.ones((2, 2))).tolist()
