"""One pass over an image: every block read once, every level made from it on the way.

The image is cut into strips of its full width wherever they fit the budget, because files that are stored by
rows (PNG, JPEG, striped TIFF) can only be read downwards; the rows of a strip stay in GDAL's cache while it is
read piece by piece. The height of a strip is a multiple of the source's tile height, so that no tile is decoded
for two strips, and of 64, so that six levels come out of each strip by itself; what the deeper levels are made
from is then less than a four-thousandth of the image, and kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.block_source import BlockSource
from slidesampler.cache.pyramid import decimation_part, halve, halve_valid, thin
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers.base import Reader

__all__ = ["BLOCK_BYTES", "BlockPlan", "LevelSink", "has_whole_rows", "plan_blocks", "stream_image"]

#: Pixels of level 0 held at once, bytes. Peak memory of a build is two to three times this plus GDAL's cache.
BLOCK_BYTES = 160 * 2**20
#: Rows of a strip where the source does not ask for more: enough tiles for the threads to share.
_STRIP_ROWS = 512
#: Strips and blocks are multiples of this, so that six halvings never cross one.
_UNIT = 64
#: Columns that are asked of a source at once. OpenSlide makes a copy of them, and keeps their mask.
_CHUNK_COLUMNS = 1024


class LevelSink(Protocol):
    """Takes the levels of an image piece by piece; pieces never overlap and cover each level once."""

    def write_pixels(self, level: int, y: int, x: int, pixels: NDArray[Any]) -> None:
        """Take ``(h, w, C)`` pixels of a level at ``(y, x)`` of that level."""
        ...

    def start_valid(self) -> None:
        """Prepare for a mask: some pixel is invalid. Called at most once, before any ``write_valid``."""
        ...

    def write_valid(self, level: int, y: int, x: int, valid: NDArray[np.bool_]) -> None:
        """Take ``(h, w)`` of a level's mask at ``(y, x)`` of that level."""
        ...


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """How an image is cut.

    Parameters
    ----------
    height, width : int
        Pixels of a block, those at the lower and right edge excepted. ``width`` is the image's own where a
        strip fits the budget.
    chunk : int
        Columns that are asked of the reader at once.
    depth : int
        How often a block can be halved without its pieces depending on another block.
    """

    height: int
    width: int
    chunk: int
    depth: int


def plan_blocks(
    shape: tuple[int, int, int], itemsize: int, block: tuple[int, int] | None, budget_bytes: int = BLOCK_BYTES
) -> BlockPlan:
    """Return how to cut an image so that a block is at most ``budget_bytes`` and no tile is decoded twice.

    Parameters
    ----------
    shape : (int, int, int)
        ``(H, W, C)``.
    itemsize : int
        Bytes of one number.
    block : (int, int) or None
        Rows and columns of the source's tiles (or of its strips: then the columns are the image's).
    budget_bytes : int
        At least one block of 64 x 64 is taken whatever it needs.

    Examples
    --------
    >>> plan_blocks((30_000, 30_000, 3), 1, (240, 240))
    BlockPlan(height=960, width=30000, chunk=1200, depth=6)
    """
    _, width, channels = shape
    pixel_bytes = channels * itemsize
    fitting = budget_bytes // (width * pixel_bytes)
    chunk = _CHUNK_COLUMNS
    # Unless told: tiles, if there are any, are most likely of a power of two.
    unit = min(_STRIP_ROWS, max(_UNIT, _power_of_two(fitting)))
    if block is not None:
        chunk = width if block[1] >= width else -(-chunk // block[1]) * block[1]
        unit = math.lcm(block[0], _UNIT)
    if unit > fitting or unit > 4 * _STRIP_ROWS:
        # Not a multiple of the tile: some tiles are decoded for two strips.
        unit = _UNIT
    if unit <= fitting:
        rows = min(fitting // unit, max(1, _STRIP_ROWS // unit)) * unit
        return BlockPlan(rows, width, min(chunk, width), _halvings(rows))
    # Not even 64 full rows: square blocks, of a power of two so that tiles of one fit.
    side = max(_UNIT, _power_of_two(math.isqrt(budget_bytes // pixel_bytes)))
    return BlockPlan(side, side, min(chunk, side), _halvings(side))


def _power_of_two(value: int) -> int:
    return 1 << max(0, value.bit_length() - 1)


def _halvings(value: int) -> int:
    return (value & -value).bit_length() - 1


def has_whole_rows(reader: Reader) -> bool:
    """Whether :func:`stream_image` hands out pieces of the full width of their level."""
    return plan_blocks(reader.shape, reader.dtype.itemsize, None).width >= reader.shape[1]


def stream_image(
    reader: Reader,
    levels: tuple[Level, ...],
    sink: LevelSink,
    advance: Callable[[int], None],
    *,
    threads: int = 1,
) -> bool:
    """Read an image once and hand every level, and its valid mask if it needs one, to a sink.

    Parameters
    ----------
    reader : Reader
    levels : tuple of Level
        From :func:`slidesampler.cache.pyramid.image_levels`.
    sink : LevelSink
    advance : callable
        Told the number of level-0 pixels of each finished block.
    threads : int
        Threads that decode and average; with more than one the source is read while the sink is at work, where
        its reader cannot be read by several.

    Returns
    -------
    bool
        Whether any pixel is invalid, and so a mask was written. A reader that *may* have invalid pixels and has
        none gives no mask.
    """
    with BlockSource(reader, threads) as source:
        plan = plan_blocks(reader.shape, reader.dtype.itemsize, source.block_shape)
        run = _Run(reader, levels, sink, plan, threads)
        for window, pixels, valid in source.blocks(run.windows(), plan.chunk):
            run.take(window, pixels, valid)
            advance(window.height * window.width)
        run.finish()
    return run.masked


class _Run:
    """The state of one pass: whether there is a mask yet, and the level that the deepest ones are made from."""

    def __init__(
        self, reader: Reader, levels: tuple[Level, ...], sink: LevelSink, plan: BlockPlan, threads: int
    ) -> None:
        self._reader, self._levels, self._sink, self._plan = reader, levels, sink, plan
        self._threads = threads
        self._depth = min(plan.depth, len(levels) - 1)
        self.masked = False
        self._kept: NDArray[Any] | None = None
        self._kept_valid: NDArray[np.bool_] | None = None
        if self._depth < len(levels) - 1:
            kept = levels[self._depth]
            self._kept = np.empty((kept.height, kept.width, reader.shape[2]), reader.dtype.newbyteorder("="))
            self._kept_valid = np.ones((kept.height, kept.width), np.bool_)

    def windows(self) -> list[Window]:
        height, width, _ = self._reader.shape
        return [
            Window(y, x, min(self._plan.height, height - y), min(self._plan.width, width - x))
            for y in range(0, height, self._plan.height)
            for x in range(0, width, self._plan.width)
        ]

    def take(self, window: Window, pixels: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        if valid is not None and not self.masked:
            self._start_mask(window)
        if self.masked:
            self._write_mask(window, valid)
        self._sink.write_pixels(0, window.y, window.x, pixels)
        for level in range(1, self._depth + 1):
            if valid is None:
                pixels = halve(pixels, self._threads)
            else:
                pixels, valid = halve_valid(pixels, valid, self._threads)
            self._sink.write_pixels(level, window.y >> level, window.x >> level, pixels)
        if self._kept is not None and self._kept_valid is not None:
            y, x = window.y >> self._depth, window.x >> self._depth
            area = (slice(y, y + pixels.shape[0]), slice(x, x + pixels.shape[1]))
            self._kept[area] = pixels
            if valid is not None:
                self._kept_valid[area] = valid

    def finish(self) -> None:
        if self._kept is None or self._kept_valid is None:
            return
        pixels, valid = self._kept, self._kept_valid
        for level in range(self._depth + 1, len(self._levels)):
            pixels, valid = halve_valid(pixels, valid, self._threads)
            self._sink.write_pixels(level, 0, 0, pixels)

    def _start_mask(self, current: Window) -> None:
        """Begin the mask at the first block that needs one, and mark all blocks before it valid."""
        self._sink.start_valid()
        self.masked = True
        for window in self.windows():
            if window == current:
                return
            self._write_mask(window, None)

    def _write_mask(self, window: Window, valid: NDArray[np.bool_] | None) -> None:
        height, width, _ = self._reader.shape
        for number, level in enumerate(self._levels):
            downsample = int(level.downsample[0])
            y, rows = decimation_part(height, downsample, window.y, window.y1)
            x, columns = decimation_part(width, downsample, window.x, window.x1)
            if not (len(rows) and len(columns)):
                continue
            if valid is None:
                part = np.ones((len(rows), len(columns)), np.bool_)
            else:
                part = thin(valid, rows, columns)
            self._sink.write_valid(number, y, x, part)
