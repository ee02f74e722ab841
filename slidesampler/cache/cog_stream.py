"""A COG by the compiled encoder: each level's tiles are compressed as they come, then put behind one header.

The smallest overview comes first in a COG and is known last, so the tiles of each level wait in a file of their
own. They are copied as they are, by the system itself where it can; scratch files and COG are on the disk
together for as long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.cache.cog_layout import CogLayout
from slidesampler.cache.level_spool import Compression, LevelSpool
from slidesampler.cache.spec import DEFAULT_QUALITY
from slidesampler.cache.tiff_header import Tag, TiffPage, ascii_tag, cog_header, longs, rationals, shorts
from slidesampler.cache.write_failure import remove_files, write_failure
from slidesampler.models import Level

__all__ = ["ENCODED", "CogStream"]

#: Codecs of the compiled encoder: its number, TIFF's number, and the level that GDAL takes when asked as
#: ``codecs.cog_options`` asks; of JPEG the level is its quality.
_CODECS = {"none": (0, 1, 0), "deflate": (1, 8, 6), "zstd": (2, 50000, 1), "jpeg": (3, 7, 0)}
ENCODED = tuple(_CODECS)
_DEFLATE = _CODECS["deflate"]
#: Codecs under which neighbours are subtracted; see ``codecs``.
_PREDICTED = ("deflate", "zstd")

_MINISBLACK, _RGB, _TRANSPARENCY, _YCBCR = 1, 2, 4, 6
_REDUCED, _MASK = 1, 4
_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}
_UNDEFINED = 7


class _Part(NamedTuple):
    """A page of the file, and what holds its tiles."""

    level: int
    page: TiffPage
    spool: LevelSpool


class CogStream:
    """A COG in the making; see :class:`slidesampler.cache.cog_layout.CogTarget`.

    Pieces have the full width of their level.

    Parameters
    ----------
    layout : CogLayout
        Of a codec of :data:`ENCODED`.
    threads : int
        Threads that compress.

    Raises
    ------
    BuildError
        From every method, if a file cannot be written.
    """

    def __init__(self, layout: CogLayout, threads: int = 1) -> None:
        self._layout, self._threads = layout, threads
        codec, self._compression_tag, level = _CODECS[layout.codec]
        if layout.codec == "jpeg":
            level = layout.quality or DEFAULT_QUALITY["jpeg"]
        self._compression = Compression(codec, level, layout.codec in _PREDICTED)
        self._masks: list[LevelSpool] = []
        self._spools: list[LevelSpool] = []
        self._finished = False
        tile = (layout.tile, layout.tile)
        try:
            for number, found in enumerate(layout.levels):
                path = layout.path.with_suffix(f".{number}.scratch")
                size = (found.height, found.width)
                self._spools.append(
                    LevelSpool(path, size, tile, self._compression, sparse=layout.sparse, threads=threads)
                )
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> CogStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        for spool in (*self._spools, *self._masks):
            spool.discard()
        if not self._finished:
            remove_files(self._layout.path.parent, self._layout.path.name)

    def start_mask(self) -> None:
        """Add a mask to all levels."""
        # A mask has a bit a pixel: tiles and rows are counted in bytes.
        tile = (self._layout.tile, self._layout.tile // 8)
        compression = Compression(_DEFLATE[0], _DEFLATE[2], predict=False)
        for number, level in enumerate(self._layout.levels):
            path = self._layout.path.with_suffix(f".{number}.mask.scratch")
            size = (level.height, -(-level.width // 8))
            self._masks.append(LevelSpool(path, size, tile, compression, threads=self._threads))

    def write(self, level: int, y: int, x: int, pixels: NDArray[Any]) -> None:
        """Take ``(h, W, C)`` rows of a level, from row ``y`` on."""
        assert x == 0
        self._spools[level].write(y, pixels.astype(self._layout.dtype, copy=False))

    def write_mask(self, level: int, y: int, x: int, valid: NDArray[np.bool_]) -> None:
        """Take ``(h, W)`` rows of the mask of a level, from row ``y`` on."""
        assert x == 0
        self._masks[level].write(y, np.packbits(valid, axis=1)[:, :, None])

    @contextmanager
    def blamed_for_reads(self) -> Iterator[None]:
        """Run code that reads a source: nothing is written there."""
        yield

    def finish(self, advance: Callable[[float], None]) -> None:
        """Put the header and the tiles of all levels together."""
        for spool in (*self._spools, *self._masks):
            spool.complete()
        parts = self._parts()
        # The smallest level first, each with its mask after it.
        order = sorted(range(len(parts)), key=lambda number: -parts[number].level)
        header, starts = cog_header([part.page for part in parts], order)
        total, done = sum(part.spool.stored_bytes for part in parts), 0

        def copied(count: int) -> None:
            nonlocal done
            done += count
            advance(done / total)

        path = self._layout.path
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                _write_all(file, header)
                for number in order:
                    parts[number].spool.append_to(file, starts[number], copied)
            finally:
                os.close(file)
        except OSError as error:
            raise write_failure(path, error) from error
        self._finished = True

    def _parts(self) -> list[_Part]:
        """Return the pages in the order that GDAL gives to their directories."""
        images, masks = [], []
        for number, level in enumerate(self._layout.levels):
            tags = self._image_tags(level, reduced=number > 0)
            images.append(_Part(number, TiffPage(tags, self._spools[number].sizes), self._spools[number]))
            if self._masks:
                tags = self._mask_tags(level, reduced=number > 0)
                masks.append(_Part(number, TiffPage(tags, self._masks[number].sizes), self._masks[number]))
        return [*images[:1], *masks[:1], *images[1:], *masks[1:]]

    def _image_tags(self, level: Level, *, reduced: bool) -> dict[int, Tag]:
        layout = self._layout
        bits = 8 * layout.dtype.itemsize
        channels = layout.channels
        photometric, colours = self._photometric()
        tags = {254: longs(_REDUCED)} if reduced else {}
        tags |= self._size_tags(level) | {
            258: shorts(*[bits] * channels),
            259: shorts(self._compression_tag),
            262: shorts(photometric),
            277: shorts(channels),
            339: shorts(*[_SAMPLE_FORMATS[layout.dtype.kind]] * channels),
        }
        if self._compression.predict:
            tags[317] = shorts(2)
        if channels > colours:
            # Told, not guessed: none is alpha.
            tags[338] = shorts(*[0] * (channels - colours))
        if layout.codec == "jpeg":
            assert _native.encode is not None
            tables = _native.encode.jpeg_tables(channels, self._compression.level)
            tags[347] = Tag(_UNDEFINED, len(tables), tables)
            if photometric == _YCBCR:
                tags[530] = shorts(2, 2)
                tags[532] = rationals(0, 255, 128, 255, 128, 255)
        return tags if reduced else tags | self._description_tags(photometric)

    def _photometric(self) -> tuple[int, int]:
        """Return TIFF's number of the kind of colours, and how many channels these take."""
        channels = self._layout.channels
        if self._layout.dtype == np.uint8 and channels in (3, 4):
            return (_YCBCR if self._layout.codec == "jpeg" else _RGB), 3
        return _MINISBLACK, 1

    def _description_tags(self, photometric: int) -> dict[int, Tag]:
        layout = self._layout
        tags = {}
        if layout.mpp is not None:
            # Pixels per centimetre, as every slide format has it.
            tags[282] = rationals(10_000 / layout.mpp[1])
            tags[283] = rationals(10_000 / layout.mpp[0])
            tags[296] = shorts(3)
        items = []
        for number in range(layout.channels):
            if number < len(layout.names):
                items.append(_metadata_item("DESCRIPTION", number, layout.names[number]))
            if photometric != _MINISBLACK and not layout.rgb:
                # Where the numbers are no colours though they come by three.
                items.append(_metadata_item("COLORINTERP", number, "Undefined" if number else "Gray"))
        if items:
            tags[42112] = ascii_tag("\n".join(["<GDALMetadata>", *items, "</GDALMetadata>"]))
        return tags

    def _size_tags(self, level: Level) -> dict[int, Tag]:
        return {
            256: longs(level.width),
            257: longs(level.height),
            284: shorts(1),
            322: shorts(self._layout.tile),
            323: shorts(self._layout.tile),
        }

    def _mask_tags(self, level: Level, *, reduced: bool) -> dict[int, Tag]:
        return self._size_tags(level) | {
            254: longs(_MASK | _REDUCED if reduced else _MASK),
            258: shorts(1),
            259: shorts(_DEFLATE[1]),
            262: shorts(_TRANSPARENCY),
            277: shorts(1),
            317: shorts(1),
            339: shorts(1),
        }


def _metadata_item(name: str, sample: int, text: str) -> str:
    # Escaped twice, which is how GDAL writes and reads it.
    text = escape(escape(text, {'"': "&quot;"}), {'"': "&quot;"})
    return f'  <Item name="{name}" sample="{sample}" role="{name.lower()}">{text}</Item>'


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        offset += os.pwrite(file, view[offset:], offset)
