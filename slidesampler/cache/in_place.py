"""Which sources can be read where they lie, so that nothing need be converted; and why others cannot.

Two kinds can. A valid COG whose pixels need no presentation is what a build would make, and is used in place
whatever reads it. Any other tiled TIFF (slides of Aperio, pyramids of other programs) is used in place for the
backend *auto*, where the compiled reader reads all of it and gives the pixels that the source's reader gives.
"""

from __future__ import annotations

from contextlib import closing
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slidesampler import _native
from slidesampler.cache.fingerprint import FileStamp, canonical_name, stamp_sources
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.tables import cog_table
from slidesampler.errors import MissingDependencyError, ReadError, SlideSamplerError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.models import ImageRecord, Level
from slidesampler.readers import ReaderSpec, open_reader
from slidesampler.readers.array import ARRAY_SCHEME
from slidesampler.readers.base import Reader
from slidesampler.readers.tile_survey import survey_tiles
from slidesampler.readers.tile_table import TileTable
from slidesampler.readers.tiled import TiledReader

__all__ = ["TOP_PX", "InPlace", "find_in_place"]

#: Dtypes of the cache.
_DTYPES = tuple(map(np.dtype, (np.uint8, np.uint16, np.int16, np.float32)))
#: Sides of tiles, pixels: smaller ones cost more calls than pixels, larger ones more pixels than are needed.
_TILE_PX = (64, 1024)
#: A level is at most this much coarser than the one before, or a window that lies between them costs too much.
_MAX_STEP = 4.5
#: The longer side of the smallest level is at most this: what a window of the whole image costs.
TOP_PX = 4096
#: Side of the windows that are compared with the source's own reader.
_SIDE = 96
#: Sources that are remembered. The table of a large one has megabytes.
_REMEMBERED = 16


class InPlace(NamedTuple):
    """How a source can be read where it lies."""

    #: Whether it is a valid COG.
    cog: bool
    #: None where the compiled reader cannot read it, which a COG need not mind.
    table: TileTable | None


class _Question(NamedTuple):
    """All that the answer follows from."""

    #: As the manifest has it, and resolved.
    name: str
    path: str
    backend: str
    stamps: tuple[FileStamp, ...]
    #: Whether the compiled reader is there.
    compiled: bool


def find_in_place(record: ImageRecord, spec: BuildSpec) -> InPlace:
    """Return how a source is read in place.

    The cost is that of opening it and of a few tiles a level, whatever its size. A build asks when it plans,
    again under the lock of the entry, and when it records the source: the last few answers are remembered, for
    as long as the source's files are what they were.

    Raises
    ------
    UnsupportedSourceError
        If it has to be converted; the message says why.
    """
    path = _plain_file(record, spec)
    stamps = stamp_sources(record.assets)
    found = _look(_Question(record.assets[0].path, path, spec.backend, stamps, _native.tiles is not None))
    if isinstance(found, str):
        raise UnsupportedSourceError(found)
    return found


@lru_cache(maxsize=_REMEMBERED)
def _look(asked: _Question) -> InPlace | str:
    """Return what :func:`find_in_place` does; a message where the source has to be converted."""
    path = asked.path
    cog = _is_cog(path)
    if not cog and asked.backend != "auto":
        return "it is no valid COG"
    try:
        table = cog_table(path, owned=False) if cog else _table(asked)
        if table is not None:
            _check_complete(table)
    except (SlideSamplerError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")
    return InPlace(cog, table)


def _is_cog(path: str) -> bool:
    # Imported here: it needs GDAL.
    try:
        from slidesampler.cache.cog_check import valid_cog
    except MissingDependencyError:
        return False
    return valid_cog(path)


def _table(asked: _Question) -> TileTable:
    """Return the table of a tiled TIFF that its own reader reads the same way; raises ReadError otherwise."""
    # Without the manifest's word for resolution and channels, which belongs to the manifest.
    with closing(open_reader(ReaderSpec("auto", asked.name))) as reader:
        table = survey_tiles(reader, asked.path, "auto", owned=False)
        _check_layout(table, reader)
        _compare(reader, asked.path, table)
    return table


def _plain_file(record: ImageRecord, spec: BuildSpec) -> str:
    """Return the path of the one local file that an image is; raises UnsupportedSourceError otherwise."""
    if spec.stored_as != "cog":
        raise UnsupportedSourceError("npy holds plain pixels")
    if len(record.assets) != 1:
        raise UnsupportedSourceError("its channels are in several files")
    if record.valid is not None:
        raise UnsupportedSourceError("its valid mask is in a file of its own")
    path = record.assets[0].path
    if path.startswith((ARRAY_SCHEME, "/vsi")) or not Path(path).is_file():
        raise UnsupportedSourceError("it is no local file")
    return canonical_name(path)


def _check_complete(table: TileTable) -> None:
    """Raise UnsupportedSourceError where a tile lies past the end of the file."""
    size = np.uint64(table.stamp.size_bytes)
    for item in (*table.image, *table.masks):
        offsets, counts = np.asarray(item.offsets), np.asarray(item.counts)
        # Not offset + count, which may be more than 64 bits hold.
        if np.any((counts > size) | (offsets > size - np.minimum(counts, size))):
            raise UnsupportedSourceError(
                f"it is cut off: tiles of its level of {item.height} x {item.width} pixels lie past its end"
            )


def _check_layout(table: TileTable, reader: Reader) -> None:
    """Raise UnsupportedSourceError unless windows at any downsample cost what they should."""
    if reader.dtype not in _DTYPES:
        raise UnsupportedSourceError(f"its pixels are {reader.dtype}")
    low, high = _TILE_PX
    for item in table.image:
        if not low <= min(item.tile_height, item.tile_width) <= max(item.tile_height, item.tile_width) <= high:
            raise UnsupportedSourceError(f"its tiles are of {item.tile_height} x {item.tile_width} pixels")
    for fine, coarse in pairwise(reader.levels):
        if max(fine.height / coarse.height, fine.width / coarse.width) > _MAX_STEP:
            raise UnsupportedSourceError(
                f"between its levels of {_size(fine)} and {_size(coarse)} one is missing"
            )
    if max(reader.levels[-1].height, reader.levels[-1].width) > TOP_PX:
        raise UnsupportedSourceError(
            f"its smallest level is of {_size(reader.levels[-1])} pixels, one of at most {TOP_PX} is missing"
        )


def _size(level: Level) -> str:
    return f"{level.height} x {level.width}"


def _compare(reader: Reader, path: str, table: TileTable) -> None:
    """Raise ReadError unless a few windows of each level are what the source's own reader gives."""
    with closing(TiledReader(path, table)) as tiled:
        for number, level in enumerate(reader.levels):
            for window in _windows(level, number):
                same = np.array_equal(tiled.read(window, number), reader.read(window, number), equal_nan=True)
                if not same or np.any(tiled.read_valid(window, number) != reader.read_valid(window, number)):
                    raise ReadError(f"{path}: {window} of level {number} is decoded in another way elsewhere")


def _windows(level: Level, number: int) -> list[Window]:
    height, width = min(_SIDE, level.height), min(_SIDE, level.width)
    corner = Window(0, 0, height, width)
    if number:
        # Elsewhere OpenSlide may paint windows of reduced levels a fraction of a pixel off.
        return [corner]
    y, x = level.height - height, level.width - width
    return [corner, Window(y // 2, x // 2, height, width), Window(y, x, height, width)]
