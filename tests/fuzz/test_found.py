"""What fuzzing found in the decoder, each as small as it can be told."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from fuzz_input import JPEG, YCBCR, FuzzInput
from make_seeds import TILE, by_pillow, pixels, tiles_of
from test_corpus import level_of, needs_extension, read

from slidesampler.readers.tile_read import TileJob, read_jobs

pytestmark = needs_extension

WHOLE = (0, TILE, 0, TILE)


def asked(tile: bytes, **change: object) -> FuzzInput:
    return FuzzInput(JPEG, 1, 1, 1, 0, (TILE, TILE), WHOLE, b"", b"", tile)._replace(count=len(tile), **change)


@pytest.mark.parametrize("threads", [1, 2])
def test_tables_of_one_tile_never_serve_another(tmp_path, threads):
    """A tile without tables was decoded with those of the tile that happened to come before it."""
    options = ("COMPRESS=JPEG", "PHOTOMETRIC=YCBCR")
    with_tables = tiles_of(pixels(3), *options, "JPEGTABLESMODE=0")[0][0]
    without = tiles_of(pixels(3), *options, "JPEGTABLESMODE=1")[0][0]
    both = asked(without, samples=3, flags=YCBCR, other=with_tables, offset=len(with_tables))
    level = level_of(both, tmp_path / "a.tiles")
    boxes = np.array([[0, 0, 0, TILE, TILE, TILE], [0, 1, 0, 0, TILE, TILE]], np.int64)
    for order in (boxes, boxes[::-1].copy(), boxes[1:]):
        out = np.zeros((2, TILE, TILE, 3), np.uint8)
        failed = read_jobs([TileJob([level], order, (0, 1, 2), out)], threads)
        assert failed is not None
        assert failed[2].startswith("tile (0, 0): ")
    assert read_jobs([TileJob([level], boxes[:1], (0, 1, 2), np.zeros((2, TILE, TILE, 3), np.uint8))]) is None


def progressive(scans: int) -> bytes:
    """Return a grey JPEG of so many scans, of 12 bytes each, that say nothing: all coefficients are 0."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    # One code of one bit, for 0: no difference, or the end of a block.
    codes = bytes([1] + [0] * 15 + [0])
    blocks = bytes(TILE * TILE // 64 // 8)
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0] + [1] * 64)),
            segment(0xC2, struct.pack(">BHHB3B", 8, TILE, TILE, 1, 1, 0x11, 0)),
            segment(0xC4, b"\x00" + codes + b"\x10" + codes),
            segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + blocks,
            *[segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + blocks] * (scans - 1),
            b"\xff\xd9",
        ]
    )


def test_a_jpeg_of_very_many_scans_is_an_error(tmp_path):
    """Each goes over the whole tile: a file of some megabytes would take minutes. libtiff's limit, too."""
    some = asked(progressive(100))
    np.testing.assert_array_equal(read(level_of(some, tmp_path / "a.tiles"), some, 0, 1)[0], 128)
    many = asked(progressive(101))
    failed = read(level_of(many, tmp_path / "b.tiles"), many, 0, 1)
    assert failed == (0, 0, "tile (0, 0): a JPEG of more than 100 scans")


def first_scans(jpeg: bytes, count: int) -> bytes:
    """Return a progressive JPEG up to the end of its first scans; nothing marks it."""
    starts = [at for at in range(len(jpeg) - 1) if jpeg[at : at + 2] == b"\xff\xda"]
    # Tables of the next scan may lie between.
    tables = jpeg.find(b"\xff\xc4", starts[count - 1], starts[count])
    return jpeg[: tables if tables > 0 else starts[count]]


@pytest.mark.parametrize("scans", [1, 2, 5])
def test_a_part_of_a_progressive_jpeg_that_lacks_scans_is_what_the_whole_has_there(tmp_path, scans):
    """libjpeg smooths over what is missing, from several blocks around, and a part did not have them all."""
    slope = np.arange(TILE)[:, None, None] * 3 + np.arange(TILE)[:, None] * 2 + np.array([0, 20, 60])
    jpeg = by_pillow(slope.astype(np.uint8), progressive=True, subsampling=0)
    # It says that it ends there: nothing is amiss.
    whole = asked(first_scans(jpeg, scans) + b"\xff\xd9", samples=3, flags=YCBCR)
    level = level_of(whole, tmp_path / "a.tiles")
    expected = read(level, whole, 0, 1)[0]
    for y0, y1, x0, x1 in ((8, 21, 9, 13), (0, 8, 16, 24), (20, 32, 3, 32), (9, 20, 17, 30)):
        part = read(level, whole._replace(area=(y0, y1, x0, x1)), 0, 1)[0]
        np.testing.assert_array_equal(part, expected[y0:y1, x0:x1])


@pytest.mark.parametrize("scans", [1, 2, 5])
def test_a_progressive_jpeg_cut_short_between_scans_is_an_error(tmp_path, scans):
    """Its end is not marked: what lies behind it in memory must not stand in for that."""
    jpeg = by_pillow(pixels(3, side=TILE), progressive=True)
    cut = asked(first_scans(jpeg, scans), samples=3, flags=YCBCR)
    failed = read(level_of(cut, tmp_path / "a.tiles"), cut, 0, 1)
    assert isinstance(failed, tuple)
    assert failed[2].startswith("tile (0, 0): ")
