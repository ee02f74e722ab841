"""Windows of pixels against a brute-force numpy oracle: np.pad, slicing, exact area means."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler import pixels
from slidesampler.errors import TargetError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.pixels import read_labels, read_pixels, read_valid
from slidesampler.target import Padding
from slidesampler.viewport import View


class PyramidReader:
    """A reader of arrays in memory that counts the pixels it hands out."""

    def __init__(self, levels, valid=None):
        self.arrays = levels
        self.name = "memory"
        self.shape = levels[0].shape
        self.dtype = levels[0].dtype
        self.levels = tuple(Level.of(levels[0].shape[:2], a.shape[:2]) for a in levels)
        self.mpp = None
        self.channels = ()
        self.valids = valid
        self.has_valid = valid is not None
        self.pixels_read = 0
        self.largest_read = 0

    def read(self, window, level=0, *, channels=None, out=None):
        height, width = self.arrays[level].shape[:2]
        assert Window(0, 0, height, width).contains(window), (window, level)
        self.pixels_read += window.height * window.width
        self.largest_read = max(self.largest_read, window.height * window.width)
        block = self.arrays[level][window.as_slices()]
        block = block if channels is None else block[..., list(channels)]
        if out is None:
            return block.copy()
        out[...] = block
        return out

    def read_valid(self, window, level=0):
        return self.valids[level][window.as_slices()].copy()

    def close(self):
        pass


def random_image(height, width, channels=3, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(dtype)


def halve(image):
    """Mean of 2 x 2 blocks, the last odd row and column over what there is."""
    height, width = -(-image.shape[0] // 2), -(-image.shape[1] // 2)
    out = np.empty((height, width, image.shape[2]), image.dtype)
    for y in range(height):
        for x in range(width):
            block = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(-1, image.shape[2])
            out[y, x] = np.rint(block.mean(0))
    return out


starts = st.integers(-60, 70)
lengths = st.integers(1, 50)
images = st.tuples(st.integers(1, 40), st.integers(1, 40))


class TestFullResolution:
    @pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "symmetric"])
    @given(shape=images, y=starts, x=starts, h=lengths, w=lengths)
    def test_is_what_numpy_pad_gives(self, mode, shape, y, x, h, w):
        image = random_image(*shape)
        far = 130
        value = (7, 8, 9)
        if mode == "constant":
            padded = np.stack([np.pad(image[..., c], far, constant_values=value[c]) for c in range(3)], axis=-1)
            padding = Padding("constant", value)
        else:
            padded = np.pad(image, ((far, far), (far, far), (0, 0)), mode)
            padding = Padding(mode)
        expected = padded[far + y : far + y + h, far + x : far + x + w]
        view = View(Window(y, x, h, w), (h, w), shape)
        np.testing.assert_array_equal(read_pixels(PyramidReader([image]), view, padding), expected)

    @given(shape=images, y=starts, x=starts, h=lengths, w=lengths)
    def test_valid_is_the_inside(self, shape, y, x, h, w):
        expected = np.pad(np.ones(shape, bool), 130)[130 + y : 130 + y + h, 130 + x : 130 + x + w]
        view = View(Window(y, x, h, w), (h, w), shape)
        reader = PyramidReader([random_image(*shape)])
        np.testing.assert_array_equal(read_valid(reader, view), expected)
        assert view.empty == (not expected.any())
        assert view.full == expected.all()

    @given(shape=images, y=starts, x=starts, h=lengths, w=lengths)
    def test_a_valid_mask_holds_inside(self, shape, y, x, h, w):
        mask = random_image(*shape, 1, seed=3)[..., 0] > 99
        expected = np.pad(mask, 130)[130 + y : 130 + y + h, 130 + x : 130 + x + w]
        view = View(Window(y, x, h, w), (h, w), shape)
        np.testing.assert_array_equal(read_valid(PyramidReader([random_image(*shape)], [mask]), view), expected)

    def test_channels_and_out(self):
        image = random_image(20, 20)
        view = View(Window(-2, 3, 8, 9), (8, 9), (20, 20))
        out = np.full((8, 9, 2), 77, np.uint8)
        got = read_pixels(PyramidReader([image]), view, Padding("constant", (1.0, 2.0)), (2, 0), out)
        assert got is out
        np.testing.assert_array_equal(got[2:], image[:6, 3:12, [2, 0]])
        assert (got[:2] == (1, 2)).all()

    def test_a_wrong_number_of_padding_values(self):
        view = View(Window(-2, 3, 8, 9), (8, 9), (20, 20))
        with pytest.raises(TargetError, match="2 values, but the image read has 3 channels"):
            read_pixels(PyramidReader([random_image(20, 20)]), view, Padding("constant", (1.0, 2.0)))

    @given(
        shape=images, y=starts, x=starts, h=lengths, w=lengths, mode=st.sampled_from(["constant", "reflect"])
    )
    def test_reads_no_more_pixels_than_the_window_has(self, shape, y, x, h, w, mode):
        reader = PyramidReader([random_image(*shape)])
        view = View(Window(y, x, h, w), (h, w), shape)
        read_pixels(reader, view, Padding(mode))
        assert reader.pixels_read <= h * w


class TestReduced:
    def test_aligned_windows_are_the_stored_level(self):
        image = random_image(61, 47)
        half = halve(image)
        reader = PyramidReader([image, half, halve(half)])
        view = View(Window(8, 4, 32, 24), (8, 6), (61, 47))
        got = read_pixels(reader, view, Padding())
        np.testing.assert_array_equal(got, reader.arrays[2][2:10, 1:7])
        assert reader.pixels_read == 48

    @given(
        shape=images,
        y=st.integers(-30, 30),
        x=st.integers(-30, 30),
        size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
        extra=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    )
    def test_constant_padding_never_mixes_with_pixels(self, shape, y, x, size, extra):
        """Each inside pixel is the exact mean of the real ground under it; the others hold the constant."""
        image = random_image(*shape, 1, dtype=np.float32)
        window = Window(y, x, size[0] + extra[0], size[1] + extra[1])
        view = View(window, size, shape)
        got = read_pixels(PyramidReader([image]), view, Padding("constant", (-9.0,)))[..., 0]
        valid = read_valid(PyramidReader([image]), view)

        def cells(start, extent, count, length):
            step = Fraction(extent, count)
            spans = [(start + i * step, start + (i + 1) * step) for i in range(count)]
            return [(max(a, 0), min(b, length), 0 <= (a + b) / 2 < length) for a, b in spans]

        for i, (y0, y1, in_y) in enumerate(cells(window.y, window.height, size[0], shape[0])):
            for j, (x0, x1, in_x) in enumerate(cells(window.x, window.width, size[1], shape[1])):
                assert valid[i, j] == (in_y and in_x)
                if not (in_y and in_x):
                    assert got[i, j] == -9.0
                    continue
                total = Fraction(0)
                for yy in range(math.floor(y0), math.ceil(y1)):
                    for xx in range(math.floor(x0), math.ceil(x1)):
                        overlap = (min(y1, yy + 1) - max(y0, yy)) * (min(x1, xx + 1) - max(x0, xx))
                        total += overlap * int(image[yy, xx, 0])
                assert got[i, j] == pytest.approx(float(total / ((y1 - y0) * (x1 - x0))), rel=1e-4, abs=1e-3)

    @pytest.mark.parametrize("mode", ["reflect", "edge", "symmetric"])
    @given(
        shape=images,
        y=st.integers(-30, 40),
        x=st.integers(-30, 40),
        factor=st.integers(2, 5),
        n=st.integers(1, 9),
    )
    def test_other_paddings_are_the_mean_of_the_padded_image(self, mode, shape, y, x, factor, n):
        image = random_image(*shape, 1, dtype=np.float32)
        padded = np.pad(image[..., 0], 130, mode)
        size = n * factor
        region = padded[130 + y : 130 + y + size, 130 + x : 130 + x + size]
        expected = region.reshape(n, factor, n, factor).mean((1, 3))
        view = View(Window(y, x, size, size), (n, n), shape)
        got = read_pixels(PyramidReader([image]), view, Padding(mode))[..., 0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)

    @given(
        length=st.integers(1, 3000),
        start=st.integers(-100, 3100),
        size=st.integers(1, 40),
        extra=st.integers(0, 2000),
    )
    def test_labels_are_the_same_from_a_pyramid_and_from_level_0(self, length, start, size, extra):
        """A stored label pyramid and level-0 sampling pick the very same level-0 pixels."""
        labels = np.arange(length, dtype=np.uint16).reshape(-1, 1, 1)
        view = View(Window(start, 0, size + extra, 1 + extra), (size, 1), (length, 1))
        if view.empty:
            return
        d = view.label_downsample
        level = labels[np.minimum(np.arange(-(-length // d)) * d + d // 2, length - 1)]
        reader = PyramidReader([labels] if d == 1 else [labels, level])
        reader.levels = (Level(length, 1), Level(len(level), 1, (float(d), float(d))))
        from_pyramid = read_labels(reader, view)
        from_level_0 = read_labels(reader, view, full=True)
        np.testing.assert_array_equal(from_pyramid, from_level_0)
        # and they are the pixel under the centre, to within half a label pixel
        centres = [start + (i + Fraction(1, 2)) * Fraction(size + extra, size) for i in range(size)]
        inside = [c for c in centres if 0 <= c < length]
        assert len(inside) == from_pyramid.shape[0]
        assert all(
            abs(int(p) + 0.5 - float(c)) <= d / 2 + 0.5 for p, c in zip(from_pyramid[:, 0], inside, strict=True)
        )

    def test_a_thumbnail_of_an_image_without_levels_is_read_in_bands(self, monkeypatch):
        image = random_image(400, 300)
        view = View(Window(0, 0, 400, 300), (40, 30), (400, 300))
        whole = read_pixels(PyramidReader([image]), view, Padding())
        monkeypatch.setattr(pixels, "BLOCK_BYTES", 20_000)
        reader = PyramidReader([image], [image[..., 0] > 50])
        np.testing.assert_array_equal(read_pixels(reader, view, Padding()), whole)
        assert reader.largest_read * 3 <= 20_000
        np.testing.assert_array_equal(read_valid(reader, view), (image[..., 0] > 50)[5::10, 5::10])
        reader.largest_read = 0
        labels = read_labels(PyramidReader([image[..., :1]]), view)
        np.testing.assert_array_equal(labels, image[5::10, 5::10, 0])

    @pytest.mark.parametrize("mode", ["constant", "edge"])
    def test_one_row_of_output_over_all_of_an_image_is_read_in_strips(self, monkeypatch, mode):
        image = random_image(400, 300)
        padded = np.pad(image, ((10, 0), (0, 0), (0, 0)), mode) if mode == "edge" else image
        window = Window(-10, 0, 410, 300) if mode == "edge" else Window(0, 0, 400, 300)
        view = View(window, (1, 2), (400, 300))
        expected = np.stack([padded[:, :150].mean((0, 1)), padded[:, 150:].mean((0, 1))])
        monkeypatch.setattr(pixels, "BLOCK_BYTES", 20_000)
        reader = PyramidReader([image])
        np.testing.assert_array_equal(read_pixels(reader, view, Padding(mode))[0], np.rint(expected))
        assert reader.largest_read * 3 <= 20_000 + 2 * 300 * 3  # a strip ends within a row

    def test_pixels_touched_do_not_grow_with_the_image(self):
        touched = []
        for side in (512, 2048, 8192):
            base = np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (side, side, 1))
            levels = [base[:: 2**k, :: 2**k] for k in range(5)]
            reader = PyramidReader(levels)
            view = View(Window(101, 103, 300, 300), (64, 64), (side, side))
            read_pixels(reader, view, Padding())
            touched.append(reader.pixels_read)
        assert len(set(touched)) == 1
        assert touched[0] <= 4 * 66 * 66
