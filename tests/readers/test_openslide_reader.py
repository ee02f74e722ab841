"""OpenSlide's reader against openslide-python itself."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from raster_files import noise, write_pyramid

from slidesampler.geometry import Window
from slidesampler.readers import openslide as module
from slidesampler.readers.openslide import OpenSlideReader, detect_vendor


def random_windows(height, width, count, size, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        h, w = min(size, height), min(size, width)
        yield Window(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)


def test_windows_of_a_real_slide_equal_read_region(real_slide):
    reader = OpenSlideReader(str(real_slide))
    assert reader.shape == (2967, 2220, 3)
    assert reader.mpp == (0.499, 0.499)
    with openslide.OpenSlide(real_slide) as slide:
        for window in random_windows(2967, 2220, 12, 256):
            region = np.asarray(slide.read_region((window.x, window.y), 0, (window.width, window.height)))
            np.testing.assert_array_equal(reader.read(window), region[..., :3])
            assert reader.read_valid(window).all()
    reader.close()


def test_levels_of_no_whole_ratio_equal_read_region(tmp_path):
    """Windows are in pixels of the level, locations in those of level 0."""
    image = noise(301, 403)
    path = write_pyramid(tmp_path / "a.tif", image, (image[::2, ::2][:150, :201], image[::4, ::4]))
    reader = OpenSlideReader(str(path))
    with openslide.OpenSlide(path) as slide:
        assert slide.level_downsamples[1] != 2
        assert [(h, w) for w, h in slide.level_dimensions] == [(k.height, k.width) for k in reader.levels]
        for level, here in enumerate(reader.levels):
            for window in random_windows(here.height, here.width, 8, 50, level):
                scale = slide.level_downsamples[level]
                corner = round(window.x * scale), round(window.y * scale)
                region = np.asarray(slide.read_region(corner, level, (window.width, window.height)))
                np.testing.assert_array_equal(reader.read(window, level), region[..., :3])
    assert reader.levels[1].downsample == (2.0, 2.0)
    reader.close()


class FakeSlide:
    """Paints given RGBA pixels, as openslide-python would: no vendor's slide with gaps is at hand."""

    def __init__(self, rgba, background=None):
        self.rgba = rgba
        self.dimensions = rgba.shape[1::-1]
        self.level_dimensions = (self.dimensions,)
        self.level_downsamples = (1.0,)
        self.properties = {} if background is None else {openslide.PROPERTY_NAME_BACKGROUND_COLOR: background}
        self.regions = 0

    def set_cache(self, cache):
        assert isinstance(cache, openslide.OpenSlideCache)

    def read_region(self, location, level, size):
        from PIL import Image

        self.regions += 1
        (x, y), (w, h) = location, size
        return Image.fromarray(self.rgba[y : y + h, x : x + w])

    def close(self):
        self.rgba = None


@pytest.fixture
def gappy(tmp_path, monkeypatch):
    """A function that opens a reader over RGBA pixels."""
    (tmp_path / "a.svs").touch()

    def open_it(rgba, background=None):
        slide = FakeSlide(rgba, background)
        monkeypatch.setattr(module.openslide, "OpenSlide", lambda path: slide)
        return OpenSlideReader(str(tmp_path / "a.svs")), slide

    return open_it


@pytest.mark.parametrize(("background", "colour"), [(None, (255, 255, 255)), ("0A141E", (10, 20, 30))])
def test_what_was_not_scanned_is_background_and_not_valid(gappy, background, colour):
    rgba = noise(40, 50, 4)
    rgba[..., 3] = np.where(rgba[..., 3] < 60, 0, np.where(rgba[..., 3] < 160, 1, 255))
    reader, _ = gappy(rgba, background)
    whole = Window(0, 0, 40, 50)
    expected = np.where(rgba[..., 3:] == 0, np.array(colour, np.uint8), rgba[..., :3])
    np.testing.assert_array_equal(reader.read(whole), expected)
    np.testing.assert_array_equal(reader.read(whole, channels=(2, 0)), expected[..., [2, 0]])
    np.testing.assert_array_equal(reader.read_valid(whole), rgba[..., 3] > 0)
    part = Window(3, 4, 9, 8)
    np.testing.assert_array_equal(reader.read_valid(part), rgba[3:12, 4:12, 3] > 0)
    assert reader.has_valid
    reader.close()


def test_the_mask_of_the_window_just_read_is_not_painted_again(gappy):
    rgba = noise(40, 50, 4) | 1
    rgba[5, 6, 3] = 0
    reader, slide = gappy(rgba)
    window = Window(1, 2, 20, 30)
    reader.read(window)
    mask = reader.read_valid(window)
    assert slide.regions == 1
    np.testing.assert_array_equal(mask, rgba[1:21, 2:32, 3] > 0)
    # It is the caller's own, and only for that window.
    mask[...] = False
    np.testing.assert_array_equal(reader.read_valid(window), rgba[1:21, 2:32, 3] > 0)
    np.testing.assert_array_equal(reader.read_valid(Window(5, 6, 1, 1)), [[False]])
    assert slide.regions == 2
    reader.close()


def test_large_windows_are_painted_in_bands(gappy, monkeypatch):
    rgba = noise(97, 50, 4)
    reader, slide = gappy(rgba)
    monkeypatch.setattr(module, "BAND_PIXELS", 50 * 10)
    monkeypatch.setattr(module, "KEPT_MASK_PIXELS", 0)
    whole = Window(0, 0, 97, 50)
    expected = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3])
    np.testing.assert_array_equal(reader.read(whole), expected)
    assert slide.regions == 10
    np.testing.assert_array_equal(reader.read_valid(whole), rgba[..., 3] > 0)
    reader.close()


def test_partly_transparent_colours_are_unmultiplied():
    """What openslide-python does to OpenSlide's premultiplied pixels, which the reader relies on."""
    from openslide import _convert

    argb = np.array([[0x80402010, 0xFF010203, 0x00000000]], np.uint32)
    _convert.argb2rgba(argb)
    assert argb.view(np.uint8).reshape(3, 4).tolist() == [[127, 63, 31, 128], [1, 2, 3, 255], [0, 0, 0, 0]]


def test_only_vendors_are_detected(tmp_path, real_slide):
    assert detect_vendor(str(real_slide)) == "aperio"
    assert detect_vendor(str(write_pyramid(tmp_path / "a.tif", noise(64, 64)))) is None
    tifffile.imwrite(tmp_path / "b.tif", noise(64, 64), photometric="rgb")
    assert detect_vendor(str(tmp_path / "b.tif")) is None


def test_all_slides_share_one_bounded_cache(tmp_path):
    path = str(write_pyramid(tmp_path / "a.tif", noise(64, 64)))
    readers = [OpenSlideReader(path) for _ in range(3)]
    assert len(module._CACHES) == 1
    for reader in readers:
        reader.close()
