"""Orientation and palettes from file headers, and the mapping of windows."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidesampler.geometry import Window
from slidesampler.readers.headers import read_header
from slidesampler.readers.orientation import UPRIGHT, Orientation


def header_of(data: bytes, **kwargs):
    return read_header(lambda offset, size: data[offset : offset + size], **kwargs)


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9), st.data())
def test_mapped_windows_equal_slices_of_the_turned_image(code, height, width, data):
    stored = np.arange(height * width).reshape(height, width)
    # The table of the TIFF 6.0 specification, by whole-array operations.
    shown = {
        1: stored,
        2: np.fliplr(stored),
        3: np.rot90(stored, 2),
        4: np.flipud(stored),
        5: stored.T,
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).T,
        8: np.rot90(stored, 1),
    }[code]
    y, x = data.draw(st.integers(0, shown.shape[0] - 1)), data.draw(st.integers(0, shown.shape[1] - 1))
    window = Window(
        y, x, data.draw(st.integers(1, shown.shape[0] - y)), data.draw(st.integers(1, shown.shape[1] - x))
    )
    orientation = Orientation.of(code)
    assert orientation.shape(height, width) == shown.shape
    out = np.empty(window.shape, stored.dtype)
    orientation.stored_view(out)[...] = stored[orientation.stored_window(window, *shown.shape).as_slices()]
    np.testing.assert_array_equal(out, shown[window.as_slices()])


@pytest.mark.parametrize("code", [0, 9, 77])
def test_unknown_orientations_are_upright(code):
    assert Orientation.of(code) == UPRIGHT


def exif_tiff(code: int, order: str, kind: str) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    number, layout = {"SHORT": (3, "HH"), "LONG": (4, "I")}[kind]
    value = struct.pack(order + layout, *((code, 0) if kind == "SHORT" else (code,)))
    entry = struct.pack(order + "HHI", 274, number, 1) + value
    return mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["SHORT", "LONG"])
def test_both_byte_orders_and_both_integer_types(order, kind):
    assert header_of(exif_tiff(6, order, kind)).orientation == Orientation.of(6)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + bytes(4)


def test_a_png_whose_exif_comes_after_the_pixels():
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13)) + png_chunk(b"IDAT", bytes(999))
    data += png_chunk(b"eXIf", exif_tiff(8, ">", "SHORT")) + png_chunk(b"IEND", b"")
    assert header_of(data).orientation == Orientation.of(8)


def test_a_jpeg_with_other_segments_and_fill_bytes_first():
    app0 = b"\xff\xe0" + struct.pack(">H", 16) + bytes(14)
    xmp = b"\xff\xff\xe1" + struct.pack(">H", 12) + b"http://ns\0"
    exif = b"Exif\0\0" + exif_tiff(3, "<", "SHORT")
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert header_of(b"\xff\xd8" + app0 + xmp + app1 + b"\xff\xda").orientation == Orientation.of(3)
    assert header_of(b"\xff\xd8" + app0 + b"\xff\xda" + app1).orientation == UPRIGHT


@given(st.sampled_from(["tiff", "tiff64", "jpeg", "png", "webp"]), st.binary(max_size=80))
def test_nonsense_says_nothing(kind, tail):
    start = {
        "tiff": b"II*\0",
        "tiff64": b"II+\0\x08\0\0\0",
        "jpeg": b"\xff\xd8\xff\xe1",
        "png": b"\x89PNG\r\n\x1a\n",
        "webp": b"RIFF\0\0\0\0WEBP",
    }[kind]
    facts = header_of(start + tail)
    assert facts.orientation in [Orientation.of(code) for code in range(1, 9)]


@pytest.mark.parametrize("cut", range(0, 400, 13))
def test_files_cut_short_say_nothing_or_the_truth(tmp_path, cut):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        Image.new("RGB", (9, 7)).save(tmp_path / name, exif=exif.tobytes())
        data = (tmp_path / name).read_bytes()
        assert header_of(data).orientation in (Orientation.of(6), UPRIGHT)
        assert header_of(data[:cut]).orientation in (Orientation.of(6), UPRIGHT)


def test_palettes_of_eight_bits_in_sixteen():
    def tiff(values):
        entry = struct.pack("<HHII", 320, 3, 12, 26)
        return b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + struct.pack("<12H", *values)

    colours = np.arange(12).reshape(4, 3) * 20
    planes = colours.T.ravel()
    for scale in (1, 256, 257):
        np.testing.assert_array_equal(header_of(tiff(planes * scale)).colormap, colours)
