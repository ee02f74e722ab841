"""JPEGs with restart markers: only the intervals near a window are decoded. OpenCV decodes the whole."""

from __future__ import annotations

import itertools
import struct

import cv2
import numpy as np
import pytest
from test_tile_read import JPEG, SAMPLINGS, one_tile, read, waves

from slidesampler import _native
from slidesampler.geometry import Window

pytestmark = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")

#: Pixels of an MCU, (height, width).
MCU = {"411": (8, 32), "420": (16, 16), "422": (8, 16), "440": (16, 8), "444": (8, 8)}


def encode(image, interval, sampling="420"):
    """Return a JPEG with so many MCUs between restarts, and its pixels."""
    options = [cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
    if image.ndim == 2:
        data = cv2.imencode(".jpg", image, options)[1]
        return data.tobytes(), cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)[..., None]
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1]
    return data.tobytes(), cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def busy(height, width, seed=0):
    """Return waves with noise, so that no two blocks are alike."""
    image = waves(height, width).astype(int)
    return np.clip(image + np.random.default_rng(seed).integers(-40, 40, image.shape), 0, 255).astype(np.uint8)


def restarts(data):
    """Return the places of the restart markers, found by walking over the bits byte by byte."""
    at = data.index(b"\xff\xda")
    return [i for i in range(at, len(data) - 1) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]


@pytest.mark.parametrize("interval", [1, 2, 3, 4, 5, 6, 9, 12, 18, 24, 30, 1000])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_any_cut_is_a_part_of_the_whole(tmp_path, sampling, interval):
    data, expected = encode(busy(48, 96), interval, sampling)
    _, level = one_tile(tmp_path / "a", data, 48, 96, 3, JPEG, ycbcr=True)
    for at in range(96):
        for window in (
            Window(at % 48, at, 48 - at % 48, 96 - at),
            Window(0, 0, at % 48 + 1, at + 1),
            Window(at % 41, at - at % 7, 7, 1 + at % 7),
            Window(at % 48, at, 1, 1),
        ):
            np.testing.assert_array_equal(read(level, window), expected[window.as_slices()])


@pytest.mark.parametrize("width", [*range(33, 50), 65])
@pytest.mark.parametrize("sampling", ["411", "420", "422"])
def test_a_tile_that_ends_shortly_after_a_cell(tmp_path, sampling, width):
    """A decoder does not smooth chroma of one or two columns at all: a cell of so few must not come alone."""
    height = 21
    across = -(-width // MCU[sampling][1])
    for interval in {1, across}:
        data, expected = encode(busy(height, width, width), interval, sampling)
        _, level = one_tile(tmp_path / "a", data, height, width, 3, JPEG, ycbcr=True)
        for x, y in itertools.product(range(24, width), (0, 3, 16, 18, 20)):
            window = Window(y, x, height - y, width - x)
            np.testing.assert_array_equal(read(level, window), expected[window.as_slices()])


@pytest.mark.parametrize("factors", [0x11, 0x22, 0x41])
@pytest.mark.parametrize("interval", [1, 2, 3, 6, 12])
def test_grey_tiles(tmp_path, interval, factors):
    """Of one component an MCU is a block, whatever sampling factors it says it has (T.81, A.2.2)."""
    data, expected = encode(busy(40, 96)[..., 0], interval)
    at = data.index(b"\xff\xc0") + 11
    assert data[at] == 0x11
    data = data[:at] + bytes([factors]) + data[at + 1 :]
    _, level = one_tile(tmp_path / "a", data, 40, 96, 1, JPEG)
    for y, x in itertools.product(range(0, 40, 3), range(0, 96, 5)):
        window = Window(y, x, 40 - y, 96 - x)
        np.testing.assert_array_equal(read(level, window), expected[window.as_slices()])
        window = Window(y, x, 1, 1)
        np.testing.assert_array_equal(read(level, window), expected[window.as_slices()])


@pytest.mark.parametrize(
    ("sampling", "interval"), [("420", 2), ("420", 6), ("420", 12), ("444", 3), ("422", 1)]
)
def test_what_is_not_near_is_not_parsed(tmp_path, sampling, interval):
    """Of each interval in turn the bits are replaced: windows on it fail or change, those beside it do not."""
    height, width = 64, 96
    data, expected = encode(busy(height, width), interval, sampling)
    block_height, block_width = MCU[sampling]
    across = width // block_width
    marks = restarts(data)
    start = data.index(b"\xff\xda") + 2 + struct.unpack(">H", data[data.index(b"\xff\xda") + 2 :][:2])[0]
    ends = [*marks, data.rindex(b"\xff\xd9")]
    starts = [start, *(mark + 2 for mark in marks)]
    assert len(starts) == across * (height // block_height) // interval
    spared = 0
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        broken = data[:first] + b"\x00" * (last - first) + data[last:]
        _, level = one_tile(tmp_path / f"{number}", broken, height, width, 3, JPEG, ycbcr=True)
        units = range(number * interval, (number + 1) * interval)
        top, bottom = units[0] // across * block_height, (units[-1] // across + 1) * block_height
        left, right = units[0] % across * block_width, (units[-1] % across + 1) * block_width
        for y, x in itertools.product(range(0, height, 8), range(0, width, 8)):
            window = Window(y, x, 8, 8)
            found, wanted = read(level, window), expected[window.as_slices()]
            if top <= y < bottom and left <= x < right:
                assert isinstance(found, str) or not np.array_equal(found, wanted)
            elif not (
                top - block_height < y + 8
                and y < bottom + block_height
                and left - block_width < x + 8
                and x < right + block_width
            ):
                np.testing.assert_array_equal(found, wanted)
                spared += 1
    assert spared >= 48


def test_markers_that_lie_never_give_wrong_pixels(tmp_path):
    """Missing, doubled, swapped or other markers: an error, or what is there without the damage."""
    data, expected = encode(busy(64, 96), 2)
    marks = restarts(data)
    assert len(marks) == 11
    cases = []
    for number, mark in enumerate(marks):
        cases.append(data[:mark] + data[mark + 2 :])
        cases.append(data[:mark] + data[mark : mark + 2] + data[mark:])
        cases.extend(data[: mark + 1] + bytes([code]) + data[mark + 2 :] for code in (0x00, 0xD9, 0xFF, 0xC4))
        cases.append(data[: mark + 1] + bytes([0xD0 + (number + 3) % 8]) + data[mark + 2 :])
        cases.append(data[:mark])
        cases.append(data[: mark + 1])
    for factor in (0, 1, 3, 4, 7, 24, 25, 65535):
        at = data.index(b"\xff\xdd")
        cases.append(data[: at + 4] + struct.pack(">H", factor) + data[at + 6 :])
    windows = [Window(0, 0, 64, 96), Window(40, 40, 8, 8), Window(0, 64, 64, 32), Window(17, 0, 14, 96)]
    errors = 0
    for number, case in enumerate(cases):
        _, level = one_tile(tmp_path / f"{number}", case, 64, 96, 3, JPEG, ycbcr=True)
        for window in windows:
            found = read(level, window)
            if isinstance(found, str):
                errors += 1
            else:
                np.testing.assert_array_equal(found, expected[window.as_slices()], f"case {number}, {window}")
    assert errors > 2 * len(cases)


def test_comments_and_application_data_are_no_bits(tmp_path):
    data, expected = encode(busy(64, 96), 2)
    more = b"".join(
        bytes([0xFF, code]) + struct.pack(">H", 40_002) + b"\xff\xd0" * 20_000 for code in (0xE0, 0xEE, 0xFE)
    )
    data = data[:2] + more + data[2:]
    _, level = one_tile(tmp_path / "a", data, 64, 96, 3, JPEG, ycbcr=True)
    window = Window(40, 50, 20, 30)
    np.testing.assert_array_equal(read(level, window), expected[window.as_slices()])
