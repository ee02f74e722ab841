"""Tables of tiles beside the TIFFs of an entry; see :mod:`slidesampler.readers.tile_table`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from slidesampler.cache.fingerprint import hash_file
from slidesampler.cache.spec import WrittenFiles
from slidesampler.errors import CorruptEntryError, UnsupportedSourceError
from slidesampler.models import CacheEntry
from slidesampler.readers import ReaderSpec, open_reader
from slidesampler.readers.tile_survey import survey_tiles
from slidesampler.readers.tile_table import TABLE_SUFFIX, TileTable, load_table, write_table

__all__ = ["check_tables", "cog_table", "is_table", "with_tables"]


def cog_table(path: str, *, owned: bool) -> TileTable | None:
    """Return the table of tiles of a COG, pixels as stored; None where the compiled reader cannot read it."""
    with closing(open_reader(ReaderSpec("gdal", path, raw=True))) as reader:
        try:
            return survey_tiles(reader, path, "cog", owned=owned)
        except UnsupportedSourceError:
            return None


def is_table(role: str) -> bool:
    """Whether a file of an entry, by its role, is a table of tiles."""
    return role.endswith(TABLE_SUFFIX)


def with_tables(folder: Path, written: WrittenFiles) -> WrittenFiles:
    """Write the table of each TIFF of a folder, where the compiled reader can read it, and return all files.

    The role of a table is that of its TIFF with ``.tiles``, and so is its name.
    """
    files = dict(written.files)
    for role, name in written.files.items():
        table = cog_table(str(folder / name), owned=True)
        if table is not None:
            files[role + TABLE_SUFFIX] = f"{role}{TABLE_SUFFIX}"
            write_table(folder / files[role + TABLE_SUFFIX], table)
    return replace(written, files=files)


def check_tables(entry: CacheEntry) -> None:
    """Raise CorruptEntryError unless the tables of an entry are those that were written.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    for role, name in entry.files.items():
        if is_table(role):
            load_table(name)
            if hash_file(Path(name)) != entry.checksums[role]:
                raise CorruptEntryError(f"{name} is not what was written: its sum differs")
