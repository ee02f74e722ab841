"""Which sources can be read where they lie, so that nothing need be converted; and why others cannot.

Two kinds can. A valid COG whose pixels need no presentation is what a build would make, and is used in place
whatever reads it. Any other tiled TIFF (slides of Aperio, pyramids of other programs) is used in place for the
backend *auto*, where the compiled reader reads all of it and gives the pixels that the source's reader gives.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slidesampler.cache.fingerprint import canonical_name
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.tables import cog_table
from slidesampler.errors import MissingDependencyError, ReadError, SlideSamplerError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.models import ImageRecord, Level
from slidesampler.readers import open_reader, spec_for_record
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


class InPlace(NamedTuple):
    """How a source can be read where it lies."""

    #: Whether it is a valid COG.
    cog: bool
    #: None where the compiled reader cannot read it, which a COG need not mind.
    table: TileTable | None


def find_in_place(record: ImageRecord, spec: BuildSpec) -> InPlace:
    """Return how a source is read in place.

    The cost is that of opening it and of a few tiles a level, whatever its size.

    Raises
    ------
    UnsupportedSourceError
        If it has to be converted; the message says why.
    """
    path = _plain_file(record, spec)
    # Imported here: it needs GDAL.
    try:
        from slidesampler.cache.cog_check import valid_cog

        cog = valid_cog(path)
    except MissingDependencyError:
        cog = False
    if cog:
        return InPlace(True, cog_table(path, owned=False))
    if spec.backend != "auto":
        raise UnsupportedSourceError("it is no valid COG")
    try:
        # The manifest's word for resolution and channels belongs to the manifest.
        plain = replace(record, mpp=None, assets=(replace(record.assets[0], channels=()),))
        with closing(open_reader(spec_for_record(plain))) as reader:
            table = survey_tiles(reader, path, "auto", owned=False)
            _check_layout(table, reader)
            _compare(reader, path, table)
    except (SlideSamplerError, OSError) as error:
        raise UnsupportedSourceError(str(error).removeprefix(f"{path}: ")) from error
    return InPlace(False, table)


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
