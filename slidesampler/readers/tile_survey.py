"""Makes the table of tiles of a TIFF that is open in another reader, which thereby is needed no more."""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from slidesampler import _native
from slidesampler.errors import ReadError, UnsupportedSourceError
from slidesampler.readers.base import Reader
from slidesampler.readers.tile_index import TileIndex, TileLayout
from slidesampler.readers.tile_table import TiffStamp, TileTable, Valid
from slidesampler.readers.tiled import TiledReader

__all__ = ["TileFacts", "TiledSource", "open_tiled", "survey_tiles"]


class TileFacts(NamedTuple):
    """What must be known of a TIFF besides its directories."""

    #: Which samples are the channels.
    samples: tuple[int, ...]
    #: How many samples a pixel has, alpha included.
    stored: int
    #: Which pixels are valid; see :class:`.tile_table.TileTable`.
    valid: Valid = "all"
    valid_value: int = 0
    #: Value of tiles that were never written; None where there must be none.
    empty: float | None = 0.0
    #: Whether every tiled page is a level.
    unmarked: bool = False


@runtime_checkable
class TiledSource(Protocol):
    """A reader that can say how its file is read tile by tile."""

    def tile_facts(self) -> TileFacts:
        """Return the facts; raises UnsupportedSourceError where pixels are not as stored."""
        ...


def open_tiled(reader: Reader, facts: TileFacts | None = None) -> TiledReader:
    """Open the file of a reader again, by its tiles: the same pixels, without the reader.

    Parameters
    ----------
    reader : Reader
        Has the file open under its name.
    facts : TileFacts, optional
        As the reader gives them where None.

    Raises
    ------
    UnsupportedSourceError
        As :func:`survey_tiles` does; also where the reader's name is no local file.
    """
    if not os.path.isfile(reader.name):  # noqa: PTH113 -- names of readers are no paths
        raise UnsupportedSourceError(f"{reader.name}: it is no local file")
    return TiledReader(reader.name, survey_tiles(reader, reader.name, "auto", owned=False, facts=facts))


def survey_tiles(
    reader: Reader, path: str, kind: str, *, owned: bool, facts: TileFacts | None = None
) -> TileTable:
    """Return the table of tiles of a file, with which :class:`.tiled.TiledReader` reads what ``reader`` does.

    Parameters
    ----------
    reader : Reader
        Has the file open.
    path : str
        The file.
    kind : str
        How it is opened where the compiled reader is not there; see :class:`.spec.ReaderSpec`.
    owned : bool
        Whether it is a file of the cache.
    facts : TileFacts, optional
        As the reader gives them where None.

    Raises
    ------
    UnsupportedSourceError
        If the compiled reader cannot read it, or would read something else; says why.
    """
    if _native.tiles is None:
        raise UnsupportedSourceError(f"{path}: the compiled reader is not there: {_native.missing_because}")
    if facts is None:
        if not isinstance(reader, TiledSource):
            raise UnsupportedSourceError(f"{path}: it is no tiled TIFF")
        facts = reader.tile_facts()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        stamp = TiffStamp.of(descriptor, owned=owned)
    finally:
        os.close(descriptor)
    try:
        index = TileIndex(path, facts.empty or 0.0, unmarked=facts.unmarked)
    except OSError as error:
        raise UnsupportedSourceError(str(error)) from error
    image = _layouts(reader, path, index, facts)
    if facts.valid == "sample" and reader.dtype.kind != "u":
        raise UnsupportedSourceError(f"{path}: its alpha channel is of {reader.dtype}")
    masks = _layouts(reader, path, index, facts, mask=True) if facts.valid == "masks" else ()
    return TileTable(
        stamp,
        owned,
        kind,
        reader.shape,
        reader.channels,
        reader.mpp,
        facts.samples,
        facts.valid,
        facts.valid_value,
        image,
        masks,
    )


def _layouts(
    reader: Reader, path: str, index: TileIndex, facts: TileFacts, *, mask: bool = False
) -> tuple[TileLayout, ...]:
    found = []
    what = "the mask of " if mask else ""
    for number, level in enumerate(reader.levels):
        if not index.has(level.height, level.width, mask=mask):
            raise UnsupportedSourceError(
                f"{path}: {what}level {number} ({level.height} x {level.width} pixels) is not stored in tiles "
                "that the compiled reader knows"
            )
        try:
            layout = index.layout(level.height, level.width, mask=mask)
        except ReadError as error:
            raise UnsupportedSourceError(str(error)) from error
        if not mask:
            _check_level(reader, path, number, layout, facts)
        found.append(layout)
    return tuple(found)


def _check_level(reader: Reader, path: str, number: int, layout: TileLayout, facts: TileFacts) -> None:
    """Raise UnsupportedSourceError where a level is not of the kind of the image."""
    if layout.dtype != reader.dtype.name or layout.samples != facts.stored:
        raise UnsupportedSourceError(
            f"{path}: level {number} is of {layout.samples} samples of {layout.dtype}, the image of "
            f"{facts.stored} samples of {reader.dtype}"
        )
    if facts.empty is None and not np.all(layout.counts):
        raise UnsupportedSourceError(f"{path}: level {number} leaves out tiles, which are painted from others")
