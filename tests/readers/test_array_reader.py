"""Registered arrays, and the array reader."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from raster_files import noise

from slidesampler.errors import ReadError, SourceMissingError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers import (
    ArrayReader,
    ReaderSpec,
    open_reader,
    register_array,
    registered_array,
    unregister_array,
)


@pytest.fixture(autouse=True)
def _clean_registry():
    yield
    for name in ("a", "b"):
        unregister_array(name)


def test_registering_and_forgetting():
    image = noise(10, 12)
    assert register_array("a", image) == "array://a"
    assert registered_array("a") is image
    assert registered_array("array://a") is image
    unregister_array("a")
    unregister_array("a")
    with pytest.raises(SourceMissingError, match="array://a"):
        registered_array("a")


def test_an_open_reader_keeps_its_array():
    first, second = noise(10, 12), noise(10, 12, seed=1)
    register_array("a", first)
    reader = open_reader(ReaderSpec("auto", "array://a"))
    register_array("a", second)
    np.testing.assert_array_equal(reader.read(Window(0, 0, 10, 12)), first)
    again = open_reader(ReaderSpec("auto", "array://a"))
    np.testing.assert_array_equal(again.read(Window(0, 0, 10, 12)), second)


def test_the_error_names_what_is_registered_and_what_to_do():
    register_array("b", noise(4, 4))
    with pytest.raises(SourceMissingError) as caught:
        open_reader(ReaderSpec("array", "array://a"))
    for word in ("array://a", "b", "register_array", "worker_init_fn"):
        assert word in str(caught.value)


def test_another_process_has_not_got_it():
    register_array("a", noise(4, 4))
    script = (
        "from slidesampler.readers import ReaderSpec, open_reader\n"
        "try: open_reader(ReaderSpec('auto', 'array://a'))\n"
        "except FileNotFoundError as error: print('told:', error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "none at all" in done.stdout


def test_a_memmap_is_read_without_a_copy_of_it(tmp_path):
    image = noise(30, 40)
    np.save(tmp_path / "a.npy", image)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    register_array("a", mapped)
    assert registered_array("a") is mapped
    reader = open_reader(ReaderSpec("auto", "array://a"))
    pixels = reader.read(Window(3, 4, 5, 6))
    np.testing.assert_array_equal(pixels, image[3:8, 4:10])
    assert type(pixels) is np.ndarray


def test_foreign_order_and_strides():
    image = noise(30, 40, 2, "int16")
    odd = np.asfortranarray(image.astype(">i2"))[::-1][::-1]
    reader = ArrayReader(odd)
    assert reader.dtype == np.dtype("int16")
    assert reader.dtype.isnative
    np.testing.assert_array_equal(reader.read(Window(1, 2, 20, 30)), image[1:21, 2:32])


def test_bool_is_black_and_white_unless_raw():
    image = noise(9, 8, 1)[..., 0] > 50
    np.testing.assert_array_equal(ArrayReader(image).read(Window(0, 0, 9, 8))[..., 0], image * 255)
    np.testing.assert_array_equal(ArrayReader(image, raw=True).read(Window(0, 0, 9, 8))[..., 0], image)


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((0, 4)), np.zeros((2, 2), complex), [["a"]]])
def test_what_is_no_image_is_refused_at_the_door(bad):
    with pytest.raises(UnsupportedSourceError, match="array://a"):
        register_array("a", bad)


def test_names_and_mpp_are_passed_on():
    register_array("a", noise(4, 4))
    reader = open_reader(ReaderSpec("auto", "array://a", channels=("x", "y", "z"), mpp=(0.5, 0.25)))
    assert reader.channels == ("x", "y", "z")
    assert reader.mpp == (0.5, 0.25)
    with pytest.raises(ReadError, match="2 channel names"):
        open_reader(ReaderSpec("auto", "array://a", channels=("x", "y")))
