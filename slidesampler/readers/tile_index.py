"""Where the tiles of a TIFF lie and how they are stored: what the compiled reader needs instead of GDAL."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.errors import ReadError
from slidesampler.resample import cast_pixels

if TYPE_CHECKING:
    import tifffile

__all__ = ["TileIndex", "TileLayout", "TiledLevel"]

#: TIFF's numbers of the compressions that the compiled reader knows, and its own.
_CODECS = {1: 0, 8: 1, 32946: 1, 50000: 2, 5: 3, 7: 4}
_JPEG = 7
_YCBCR = 6
#: Photometric interpretations whose samples GDAL hands out as they are: grey of either sense, RGB.
_PLAIN = (0, 1, 2)
#: As libtiff has it.
_MAX_DIRECTORIES = 65535
#: Bits of NewSubfileType.
_REDUCED, _MASK = 1, 4
_TILE_OFFSETS, _TILE_BYTE_COUNTS = 324, 325
#: struct-like names of the TIFF types that offsets and byte counts have: SHORT, LONG, LONG8.
_WHOLE_NUMBERS = {3: "u2", 4: "u4", 16: "u8"}


class TiledLevel(NamedTuple):
    """One level of a tiled TIFF, ready for the compiled reader."""

    #: A ``_native.tiles.Level``.
    level: Any
    dtype: np.dtype[Any]
    #: Samples of a pixel, alpha included.
    samples: int
    #: ``(rows, columns)`` of tiles.
    grid: tuple[int, int]


class TileLayout(NamedTuple):
    """Where the tiles of a level lie and how they are stored: what ``_native.tiles.Level`` is made from."""

    #: Of each tile, row by row: any buffer of uint64.
    offsets: Any
    counts: Any
    #: JPEG tables that all tiles share; empty where each has its own.
    jpeg_tables: bytes
    height: int
    width: int
    tile_height: int
    tile_width: int
    samples: int
    itemsize: int
    codec: int
    predictor: int
    ycbcr: bool
    swapped: bool
    packed: bool
    #: One value, as bytes: that of tiles that were never written.
    empty: bytes
    #: numpy name.
    dtype: str

    @property
    def grid(self) -> tuple[int, int]:
        """``(rows, columns)`` of tiles."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)

    def open(self, file: Any) -> TiledLevel:
        """Return the level, read from a ``_native.tiles.File``.

        Raises
        ------
        ValueError, OverflowError, TypeError
            If no level can be like this.
        """
        assert _native.tiles is not None
        # The dtype is ours alone.
        level = _native.tiles.Level(file, *self[:-1])
        return TiledLevel(level, np.dtype(self.dtype), self.samples, self.grid)


class TileIndex:
    """Finds the tiles of the level of a TIFF that has a given size, where the compiled reader can read it.

    Parameters
    ----------
    path : str
        A local file.
    empty : float
        Value of tiles that were never written: the file's nodata value, else 0.
    unmarked : bool
        Whether every tiled page is a level, as Aperio has it; else those that the file marks as reductions.

    Notes
    -----
    The tables of tiles are read when a level is first asked for. A level is read through one file that is open
    as long as the index is; reads name their place in it, so threads and forked processes may share it.
    """

    def __init__(self, path: str, empty: float = 0.0, *, unmarked: bool = False) -> None:
        # Imported here: who has the tables of tiles beside the file opens it without.
        import tifffile

        assert _native.tiles is not None
        self._file = _native.tiles.File(path)
        self._path = path
        self._empty = empty
        self._unmarked = unmarked
        self._levels: dict[tuple[int, int, bool], TiledLevel] = {}
        try:
            with tifffile.TiffFile(path, _multifile=False) as tiff:
                self._byteorder = tiff.byteorder
                self._swapped = tiff.byteorder != ("<" if sys.byteorder == "little" else ">")
                self._pages = _directories(tiff)
        except Exception as error:
            # Of a damaged file tifffile raises whatever its damage leads to.
            raise ReadError(f"{path}: its directories cannot be read: {error!r}") from error

    def has(self, height: int, width: int, *, mask: bool = False) -> bool:
        """Whether there is a level (or a mask) of that size, one only, that is read here as GDAL reads it."""
        return self._page(height, width, mask) is not None

    def level(self, height: int, width: int, *, mask: bool = False) -> TiledLevel:
        """Return the level of that size, or its mask: one channel of uint8, 0 where a pixel is not valid.

        Raises
        ------
        ReadError
            If there is none (see :meth:`has`), or its table of tiles is damaged.
        """
        found = self._levels.get((height, width, mask))
        if found is None:
            layout = self.layout(height, width, mask=mask)
            try:
                found = layout.open(self._file)
            except (ValueError, OverflowError, TypeError) as error:
                raise ReadError(f"{self._path}: the level of {height} x {width} pixels: {error}") from error
            self._levels[height, width, mask] = found
        return found

    def layout(self, height: int, width: int, *, mask: bool = False) -> TileLayout:
        """Return what :meth:`level` is made from; raises as it does."""
        page = self._page(height, width, mask)
        if page is None:
            raise ReadError(f"{self._path}: no tiles of a level of {height} x {width} pixels")
        return self._layout(page, mask)

    def _page(self, height: int, width: int, mask: bool) -> tifffile.TiffPage | None:
        try:
            return self._find(height, width, mask)
        except (TypeError, ValueError):
            # A tag with text, or several numbers, where one is expected: GDAL is asked.
            return None

    def _find(self, height: int, width: int, mask: bool) -> tifffile.TiffPage | None:
        found = [
            page
            for number, page in enumerate(self._pages)
            if (page.imagelength, page.imagewidth) == (height, width)
            and bool(int(page.subfiletype) & _MASK) == mask
            # The full image comes first; of the others only those that say so are levels of it.
            and (mask or number == 0 or self._is_level(page))
        ]
        if len(found) != 1 or min(found[0].tilelength, found[0].tilewidth) < 1:
            return None
        suits = _readable_mask(found[0]) if mask else _readable(found[0], self._swapped)
        return found[0] if suits else None

    def _is_level(self, page: tifffile.TiffPage) -> bool:
        return bool(page.is_tiled if self._unmarked else int(page.subfiletype) & _REDUCED)

    def _layout(self, page: tifffile.TiffPage, mask: bool) -> TileLayout:
        dtype = np.dtype(np.uint8) if mask else np.dtype(page.dtype)
        # As GDAL does: what the dtype cannot hold is its nearest value.
        empty = cast_pixels(np.array([0.0 if mask else self._empty]), dtype)
        offsets, counts = self._tables(page)
        return TileLayout(
            offsets,
            counts,
            page.jpegtables or b"",
            page.imagelength,
            page.imagewidth,
            page.tilelength,
            page.tilewidth,
            page.samplesperpixel,
            dtype.itemsize,
            _CODECS[int(page.compression)],
            int(page.predictor),
            not mask and int(page.photometric) == _YCBCR,
            self._swapped,
            mask and page.bitspersample == 1,
            empty.tobytes(),
            dtype.name,
        )

    def _tables(self, page: tifffile.TiffPage) -> list[NDArray[np.uint64]]:
        """Return offsets and byte counts of the tiles."""
        tags = [page.tags.get(code) for code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS)]
        found = [0 if tag is None or int(tag.dtype) not in _WHOLE_NUMBERS else int(tag.count) for tag in tags]
        rows, columns = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
        if found != [rows * columns] * 2:
            raise ReadError(
                f"{self._path}: the table of tiles has {found[0]} offsets and {found[1]} sizes, there are "
                f"{rows} x {columns} tiles"
            )
        return [self._table(tag) for tag in tags]

    def _table(self, tag: tifffile.TiffTag) -> NDArray[np.uint64]:
        # That all of it lies in the file is seen to by tifffile.
        dtype = np.dtype(self._byteorder + _WHOLE_NUMBERS[int(tag.dtype)])
        # Read as it lies there: as a tuple of Python's numbers a large table takes a hundred times as long.
        data = os.pread(self._file.fileno(), int(tag.count) * dtype.itemsize, tag.valueoffset)
        return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype).astype(np.uint64)


def _directories(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return the directories of a file, to where they end or, as libtiff does, lead back to one before.

    Those that the first one has below it, where OME-TIFF keeps reduced levels, come last.
    """
    import tifffile

    found: dict[int, tifffile.TiffPage | tifffile.TiffFrame] = {}

    def follow(pages: Iterable[tifffile.TiffPage | tifffile.TiffFrame]) -> None:
        for page in pages:
            if page.offset in found or len(found) == _MAX_DIRECTORIES:
                break
            found[page.offset] = page

    follow(tiff.pages)
    first = next(iter(found.values()), None)
    if isinstance(first, tifffile.TiffPage) and first.subifds:
        follow(first.pages or ())
    return [page for page in found.values() if isinstance(page, tifffile.TiffPage)]


def _readable(page: tifffile.TiffPage, swapped: bool) -> bool:
    """Whether the compiled reader gives the pixels that GDAL gives."""
    if not page.is_tiled or int(page.compression) not in _CODECS or page.dtype is None:
        return False
    bits = page.bitspersample
    plain = (
        page.dtype.kind in "uif"
        # Floats of 16 bits come out of GDAL as of 32.
        and bits in ((32, 64) if page.dtype.kind == "f" else (8, 16, 32, 64))
        and bits == page.dtype.itemsize * 8
        and int(page.planarconfig) == 1
        and int(page.fillorder) == 1
        and page.imagedepth == 1
        and page.tiledepth == 1
    )
    if int(page.compression) == _JPEG:
        shown = int(page.photometric) in (*_PLAIN, _YCBCR)
        return plain and shown and bits == 8 and page.samplesperpixel in (1, 3) and int(page.predictor) == 1
    # Palettes, CMYK, CIELAB and YCbCr that is no JPEG come out of GDAL as something else than they are stored.
    if int(page.photometric) not in _PLAIN or (int(page.predictor) == 3 and swapped):
        # Programs disagree on the byte order under the floating-point predictor: GDAL is asked.
        return False
    return plain and int(page.predictor) in (1, 2, 3)


def _readable_mask(page: tifffile.TiffPage) -> bool:
    return (
        page.is_tiled
        and int(page.compression) in _CODECS
        and int(page.compression) != _JPEG
        and page.bitspersample in (1, 8)
        and page.samplesperpixel == 1
        and int(page.fillorder) == 1
        and int(page.predictor) == 1
    )
