"""``ReaderContract``: what every reader must do, as a test class to inherit.

::

    class TestMyReader(ReaderContract):
        def make(self, folder):
            image = np.random.default_rng(0).integers(0, 256, (301, 203, 3), dtype=np.uint8)
            save_somehow(folder / "image.xyz", image)
            return ReaderCase(MyReader(folder / "image.xyz"), image)

The truth comes from the arrays in the case, never from the reader.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers import Reader, ReaderSpec, open_reader

__all__ = ["ReaderCase", "ReaderContract", "random_windows"]

#: How many random windows a test reads, and how large they are at most, pixels.
WINDOWS = 24
LARGEST = 300


@dataclass(frozen=True, slots=True, eq=False)
class ReaderCase:
    """An open reader and what it must answer.

    Parameters
    ----------
    reader : Reader
        Open; the suite closes it.
    image : ndarray, shape (H, W, C)
        Level 0, in the dtype the reader must have.
    valid : ndarray of bool, shape (H, W), or None
        Which pixels are valid; all where None.
    spec : ReaderSpec, optional
        How to open the same image again; tests that need it are skipped where it is None.
    levels : tuple of ndarray
        Pixels of levels 1, 2 ..., as many as are known from elsewhere.
    """

    reader: Reader
    image: NDArray[Any]
    valid: NDArray[np.bool_] | None = None
    spec: ReaderSpec | None = None
    levels: tuple[NDArray[Any], ...] = ()


def random_windows(height: int, width: int, count: int, seed: int = 0) -> Iterator[Window]:
    """Yield windows of any place and of sizes up to :data:`LARGEST` inside an image, the same for a seed."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        h, w = rng.integers(1, min(height - y, LARGEST) + 1), rng.integers(1, min(width - x, LARGEST) + 1)
        yield Window(y, x, int(h), int(w))


class ReaderContract(ABC):
    """Every promise of :class:`slidesampler.readers.Reader`; inherit it and write :meth:`make`."""

    @abstractmethod
    def make(self, folder: Path) -> ReaderCase:
        """Write an image into an empty folder and open it; at least 8 x 8 pixels."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> Iterator[ReaderCase]:
        """Make the case before each test, and close its reader after."""
        case = self.make(tmp_path)
        yield case
        case.reader.close()

    def test_is_a_reader(self, case: ReaderCase) -> None:
        """It has every attribute and method of the protocol."""
        assert isinstance(case.reader, Reader)
        assert case.reader.name
        assert isinstance(case.reader.has_valid, bool)

    def test_states_shape_and_dtype(self, case: ReaderCase) -> None:
        """Shape, dtype and level 0 are those of the image; names, where given, are one a channel."""
        reader = case.reader
        assert reader.shape == case.image.shape
        assert all(type(n) is int for n in reader.shape)
        assert reader.dtype == case.image.dtype
        assert reader.dtype.isnative
        assert (reader.levels[0].height, reader.levels[0].width) == case.image.shape[:2]
        assert len(reader.channels) in (0, reader.shape[2])
        assert reader.mpp is None or (len(reader.mpp) == 2 and min(reader.mpp) > 0)

    def test_levels_go_from_fine_to_coarse(self, case: ReaderCase) -> None:
        """Level 0 has downsample 1, and each next level is smaller and has a larger one."""
        levels = case.reader.levels
        assert levels[0].downsample == (1.0, 1.0)
        for fine, coarse in itertools.pairwise(levels):
            assert coarse.height <= fine.height
            assert coarse.width <= fine.width
            assert max(coarse.downsample) > max(fine.downsample)
            assert abs(coarse.height * coarse.downsample[0] - levels[0].height) < max(coarse.downsample) + 1
            assert abs(coarse.width * coarse.downsample[1] - levels[0].width) < max(coarse.downsample) + 1

    def test_windows_equal_slices(self, case: ReaderCase) -> None:
        """A window is a slice of the image."""
        height, width, _ = case.image.shape
        for window in random_windows(height, width, WINDOWS):
            pixels = case.reader.read(window)
            assert pixels.dtype == case.image.dtype
            np.testing.assert_array_equal(pixels, case.image[window.as_slices()])

    def test_whole_image(self, case: ReaderCase) -> None:
        """The window of the whole image is the image."""
        whole = Window(0, 0, *case.image.shape[:2])
        np.testing.assert_array_equal(case.reader.read(whole), case.image)

    def test_single_pixels(self, case: ReaderCase) -> None:
        """One pixel can be read, at the corners too."""
        height, width = case.image.shape[:2]
        for y, x in (
            (0, 0),
            (0, width - 1),
            (height - 1, 0),
            (height - 1, width - 1),
            (height // 2, width // 3),
        ):
            np.testing.assert_array_equal(case.reader.read(Window(y, x, 1, 1))[0, 0], case.image[y, x])

    def test_every_level_can_be_read(self, case: ReaderCase) -> None:
        """Each level is read up to its last row and column, and is what is known of it."""
        for k, level in enumerate(case.reader.levels):
            whole = case.reader.read(Window(0, 0, level.height, level.width), k)
            assert whole.shape == (level.height, level.width, case.image.shape[2])
            corner = Window(level.height - 1, level.width - 1, 1, 1)
            np.testing.assert_array_equal(case.reader.read(corner, k), whole[-1:, -1:])
            if 0 < k <= len(case.levels):
                np.testing.assert_array_equal(whole, case.levels[k - 1])
                for window in random_windows(level.height, level.width, 6, seed=k):
                    expected = case.levels[k - 1][window.as_slices()]
                    np.testing.assert_array_equal(case.reader.read(window, k), expected)

    def test_channels_are_selected_and_reordered(self, case: ReaderCase) -> None:
        """Channels come as asked: fewer, in another order, one of them twice."""
        count = case.image.shape[2]
        window = Window(1, 2, 5, 4)
        for wanted in ((0,), (count - 1,), tuple(reversed(range(count))), (count - 1, 0, count - 1)):
            pixels = case.reader.read(window, channels=wanted)
            np.testing.assert_array_equal(pixels, case.image[window.as_slices()][..., list(wanted)])

    @pytest.mark.parametrize("wanted", [(), (-1,), (10_000,)])
    def test_unknown_channels_are_refused(self, case: ReaderCase, wanted: tuple[int, ...]) -> None:
        """No channel, a negative one, and one that is not there, are errors."""
        with pytest.raises(ReadError):
            case.reader.read(Window(0, 0, 2, 2), channels=wanted)

    @pytest.mark.parametrize("layout", ["packed", "inner", "flipped", "turned", "planar", "every-other"])
    def test_out_of_any_strides_is_filled(self, case: ReaderCase, layout: str) -> None:
        """``out`` is filled, whatever its strides, and nothing beside it is touched."""
        window = Window(2, 1, 6, 5)
        count = case.image.shape[2]
        for channels in (None, (count - 1,)):
            expected = case.image[window.as_slices()][..., slice(None) if channels is None else list(channels)]
            around, out = _LAYOUTS[layout](expected.shape, case.image.dtype)
            inside, marked = _LAYOUTS[layout](expected.shape, np.dtype(np.bool_))
            marked[...] = True
            before = around.copy()
            assert case.reader.read(window, channels=channels, out=out) is out
            np.testing.assert_array_equal(out, expected)
            np.testing.assert_array_equal(around[~inside], before[~inside])

    def test_out_that_does_not_fit_is_refused(self, case: ReaderCase) -> None:
        """``out`` of another shape or dtype, or read-only, is an error."""
        window = Window(0, 0, 4, 3)
        shape = (4, 3, case.image.shape[2])
        locked = np.zeros(shape, case.image.dtype)
        locked.flags.writeable = False
        for out in (
            np.zeros((3, 4, shape[2]), case.image.dtype),
            np.zeros(shape[:2], case.image.dtype),
            np.zeros(shape, np.complex128),
            locked,
        ):
            with pytest.raises(ReadError):
                case.reader.read(window, out=out)
        assert not locked.any()

    def test_windows_outside_are_refused(self, case: ReaderCase) -> None:
        """A window that is not wholly inside its level is an error that names the image."""
        for k, level in enumerate(case.reader.levels):
            height, width = level.height, level.width
            for window in (
                Window(-1, 0, 2, 2),
                Window(0, -1, 2, 2),
                Window(0, 0, height + 1, 1),
                Window(0, 0, 1, width + 1),
                Window(height, 0, 1, 1),
                Window(0, width, 1, 1),
            ):
                for read in (case.reader.read, case.reader.read_valid):
                    with pytest.raises(ReadError) as caught:
                        read(window, k)
                    assert case.reader.name in str(caught.value)
        for missing in (-1, len(case.reader.levels)):
            with pytest.raises(ReadError):
                case.reader.read(Window(0, 0, 1, 1), missing)

    def test_valid_equals_slices(self, case: ReaderCase) -> None:
        """The mask of a window is a slice of the mask of the image."""
        height, width = case.image.shape[:2]
        expected = np.ones((height, width), dtype=bool) if case.valid is None else case.valid
        if not expected.all():
            assert case.reader.has_valid
        windows = [*random_windows(height, width, WINDOWS, seed=1), Window(0, 0, height, width)]
        for window in windows:
            valid = case.reader.read_valid(window)
            assert valid.dtype == np.bool_
            np.testing.assert_array_equal(valid, expected[window.as_slices()])

    def test_valid_of_every_level_has_its_shape(self, case: ReaderCase) -> None:
        """Each level has a mask, and where the whole image is valid so is each level."""
        for k, level in enumerate(case.reader.levels):
            valid = case.reader.read_valid(Window(0, 0, level.height, level.width), k)
            assert valid.shape == (level.height, level.width)
            assert valid.dtype == np.bool_
            assert valid.all() or (case.valid is not None and not case.valid.all())

    def test_results_belong_to_the_caller(self, case: ReaderCase) -> None:
        """Writing into what was read changes nothing that is read later."""
        window = Window(0, 0, 4, 4)
        first = case.reader.read(window)
        mask = case.reader.read_valid(window)
        kept, kept_mask = first.copy(), mask.copy()
        first[...] = first + 1
        mask[...] = ~mask
        np.testing.assert_array_equal(case.reader.read(window), kept)
        np.testing.assert_array_equal(case.reader.read_valid(window), kept_mask)

    def test_a_closed_reader_reads_nothing(self, case: ReaderCase) -> None:
        """Reading after close is an error, closing twice is not."""
        case.reader.read(Window(0, 0, 1, 1))
        case.reader.close()
        case.reader.close()
        for read in (case.reader.read, case.reader.read_valid):
            with pytest.raises(ReadError, match="closed"):
                read(Window(0, 0, 1, 1))

    def test_a_refused_read_does_no_harm(self, case: ReaderCase) -> None:
        """After an error the next read is right."""
        with pytest.raises(ReadError):
            case.reader.read(Window(-5, 0, 1, 1))
        np.testing.assert_array_equal(case.reader.read(Window(0, 0, 3, 3)), case.image[:3, :3])

    def test_spec_pickles_and_opens_again(self, case: ReaderCase) -> None:
        """A spec is hashable, survives pickling, and opens the same image."""
        spec = _spec_of(case)
        again = pickle.loads(pickle.dumps(spec))  # noqa: S301 - its own bytes
        assert again == spec
        assert hash(again) == hash(spec)
        reader = open_reader(again)
        try:
            assert (reader.shape, reader.dtype, reader.levels) == (
                case.reader.shape,
                case.reader.dtype,
                case.reader.levels,
            )
            np.testing.assert_array_equal(reader.read(Window(1, 1, 5, 5)), case.image[1:6, 1:6])
        finally:
            reader.close()

    def test_readers_in_two_threads_do_not_disturb_each_other(self, case: ReaderCase) -> None:
        """A reader a thread, all of one file, read at once: each window is right."""
        spec = _spec_of(case)
        height, width, _ = case.image.shape
        wrong: list[object] = []

        def work(seed: int) -> None:
            reader = open_reader(spec)
            try:
                wrong.extend(
                    window
                    for window in random_windows(height, width, WINDOWS, seed)
                    if not np.array_equal(reader.read(window), case.image[window.as_slices()])
                )
            except Exception as error:  # carried to the thread that asserts
                wrong.append(error)
            finally:
                reader.close()

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def _spec_of(case: ReaderCase) -> ReaderSpec:
    if case.spec is None:
        pytest.skip("this reader is not opened from a spec")
    return case.spec


Shape = tuple[int, ...]
Arrays = tuple[NDArray[Any], NDArray[Any]]


def _packed(shape: Shape, dtype: np.dtype[Any]) -> Arrays:
    around = np.zeros(shape, dtype)
    return around, around


def _inner(shape: Shape, dtype: np.dtype[Any]) -> Arrays:
    around = np.zeros((shape[0] + 3, shape[1] + 4, shape[2] + 2), dtype)
    return around, around[1:-2, 2:-2, 1:-1]


def _flipped(shape: Shape, dtype: np.dtype[Any]) -> Arrays:
    around = np.zeros(shape, dtype)
    return around, around[::-1, ::-1]


def _turned(shape: Shape, dtype: np.dtype[Any]) -> Arrays:
    around = np.zeros((shape[1], shape[0], shape[2]), dtype)
    return around, around.swapaxes(0, 1)


def _planar(shape: Shape, dtype: np.dtype[Any]) -> Arrays:
    around = np.zeros((shape[2], shape[0], shape[1]), dtype)
    return around, np.moveaxis(around, 0, -1)


def _every_other(shape: Shape, dtype: np.dtype[Any]) -> Arrays:
    around = np.zeros((2 * shape[0], 3 * shape[1], 2 * shape[2]), dtype)
    return around, around[::2, 1::3, ::2]


#: Name of a layout -> function of (shape, dtype) that gives an array and the part of it to be filled.
_LAYOUTS: dict[str, Callable[[Shape, np.dtype[Any]], Arrays]] = {
    "packed": _packed,
    "inner": _inner,
    "flipped": _flipped,
    "turned": _turned,
    "planar": _planar,
    "every-other": _every_other,
}
