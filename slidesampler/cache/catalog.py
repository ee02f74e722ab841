"""The catalog: the foreground indices of all images of a manifest in columns, quick to open.

::

    WORKDIR/index/<digits>/    catalog.json  .lock  <generation>/*.npy

The digits are those of the manifest, of the label spec and of the format. A catalog says nothing that the
entries do not say; it names the record of every entry that it was joined from, with its time and size, and is
made again when one of them is another now, or when anything of it is damaged. It appears as entries do:
complete, under another name first, and ``catalog.json`` last.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.entry_json import ENTRY_FILE
from slidesampler.cache.fingerprint import hash_file
from slidesampler.cache.key import FORMAT_VERSION, catalog_folder_name
from slidesampler.cache.publish import LOCK_FILE, entry_lock, remove_folder, sync, write_atomically
from slidesampler.errors import CacheError
from slidesampler.foreground import IndexColumns, map_arrays, write_arrays
from slidesampler.models import LabelSpec

__all__ = [
    "CATALOG_FILE",
    "Witnesses",
    "catalog_debris",
    "catalog_folder",
    "catalog_state",
    "open_catalog",
    "publish_catalog",
    "remove_catalog",
]

CATALOG_FILE = "catalog.json"
#: A record has a few kilobytes.
_LIMIT_BYTES = 1 << 20
#: How often a catalog is opened again because it was replaced under our hands.
_TRIES = 5


@dataclass(frozen=True, slots=True, eq=False)
class Witnesses:
    """Files that a catalog was made from, and what they were: it holds as long as they are.

    Parameters
    ----------
    names : tuple of str
        Relative to a folder that is known when they are looked at.
    stamps : int64 (n, 2)
        Time of modification in nanoseconds, and size in bytes; -1 where there is no such file.
    """

    names: tuple[str, ...]
    stamps: NDArray[np.int64]

    @classmethod
    def of_entries(cls, workdir: Path, folders: Iterable[Path]) -> Witnesses:
        """Return the records of some entries as witnesses."""
        names = tuple((folder / ENTRY_FILE).relative_to(workdir).as_posix() for folder in folders)
        return cls(names, _stamps(workdir, names))

    @classmethod
    def none(cls) -> Witnesses:
        """Return no witnesses, for a catalog that a signature alone vouches for."""
        return cls((), np.zeros((0, 2), np.int64))

    def hold(self, base: Path) -> bool:
        """Return whether the files are what they were."""
        return bool(np.array_equal(_stamps(base, self.names), self.stamps))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the witnesses as arrays."""
        text = "\0".join(self.names).encode("utf-8", "surrogateescape")
        return {"witness_names": np.frombuffer(text, np.uint8), "witness_stamps": self.stamps}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Witnesses:
        """Return the witnesses that :meth:`to_arrays` gave; ``ValueError`` or ``KeyError`` otherwise."""
        text = arrays["witness_names"].tobytes().decode("utf-8", "surrogateescape")
        names = tuple(text.split("\0")) if text else ()
        stamps = arrays["witness_stamps"]
        if stamps.dtype != np.int64 or stamps.shape != (len(names), 2):
            raise ValueError(f"{len(names)} files are named, with stamps {stamps.dtype} {stamps.shape}")
        return cls(names, stamps)


def _stamps(base: Path, names: Sequence[str]) -> NDArray[np.int64]:
    # Strings and os.stat: ten thousand Paths would take longer than their stats.
    root = os.fspath(base)
    values = []
    for name in names:
        try:
            stat = os.stat(f"{root}/{name}")  # noqa: PTH116
            values.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            values.append((-1, -1))
    return np.array(values, np.int64).reshape(-1, 2)


def catalog_folder(root: Path, digest: str, label_spec: LabelSpec, place: str = "") -> Path:
    """Return where the catalog of a manifest lies under ``root``.

    Parameters
    ----------
    root : Path
    digest : str
        Of the manifest.
    label_spec : LabelSpec
    place : str
        What it is made from, where several catalogs of a manifest may lie under one root.
    """
    return root / catalog_folder_name(digest, label_spec, place)


def open_catalog(folder: Path, base: Path, signature: str = "") -> IndexColumns | None:
    """Return the columns of a catalog, memory-mapped; None where there is none that holds.

    Parameters
    ----------
    folder : Path
    base : Path
        What the names of its witnesses are relative to.
    signature : str
        Must be the one that it was published with.
    """
    for _ in range(_TRIES):
        try:
            record = _read_record(folder)
            arrays = map_arrays(folder / record["generation"], record["columns"])
            if record["signature"] != signature or not Witnesses.from_arrays(arrays).hold(base):
                return None
            return IndexColumns.from_arrays(arrays)
        except FileNotFoundError:
            # Replaced since its record was read, perhaps: look again.
            if not (folder / CATALOG_FILE).exists():
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError):
            return None
    return None


def _read_record(folder: Path) -> dict[str, Any]:
    """Return what a catalog says of itself; raises OSError, ValueError or TypeError where it cannot be one."""
    with open(folder / CATALOG_FILE, "rb") as file:
        data = file.read(_LIMIT_BYTES + 1)
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT_VERSION:
        raise ValueError("it is no record of a catalog")
    texts = ("generation", "signature")
    if not all(isinstance(record.get(name), str) for name in texts) or not isinstance(record["columns"], dict):
        raise ValueError("it does not name its columns")
    names = [record["generation"], *record["columns"]]
    if not all(name.replace("_", "").isalnum() for name in names):
        raise ValueError("it names files that are not its own")
    return record


def publish_catalog(folder: Path, columns: IndexColumns, witnesses: Witnesses, *, signature: str = "") -> None:
    """Make columns the catalog of a folder. The lock of the folder must be held.

    Raises
    ------
    OSError
        If the disk does not take it; readers then find what they found before.
    """
    _clean(folder)
    name = secrets.token_hex(4)
    partial, final = folder / f"{name}.partial", folder / name
    try:
        partial.mkdir()
        described = write_arrays(partial, {**columns.to_arrays(), **witnesses.to_arrays()})
        for item in partial.iterdir():
            sync(item)
        sync(partial)
        record = {
            "format": FORMAT_VERSION,
            "generation": name,
            "signature": signature,
            "columns": described,
            "checksums": {item: hash_file(partial / f"{item}.npy") for item in described},
        }
        partial.rename(final)
        sync(folder)
        write_atomically(folder / CATALOG_FILE, json.dumps(record) + "\n")
    except BaseException:
        for remains in (partial, final):
            if _named(folder) != remains.name:
                shutil.rmtree(remains, ignore_errors=True)
        raise
    # It is published: an old generation that cannot be removed now is debris for the next one.
    with suppress(OSError):
        _clean(folder)


def _named(folder: Path) -> str:
    """Return the generation that a catalog's record names; empty where nothing can be read."""
    try:
        generation = _read_record(folder)["generation"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(generation)


def catalog_debris(folder: Path) -> tuple[Path, ...]:
    """Return what lies in a catalog's folder and its record does not name."""
    kept = {CATALOG_FILE, LOCK_FILE, _named(folder)}
    try:
        return tuple(item for item in sorted(folder.iterdir()) if item.name not in kept)
    except OSError:
        return ()


def _clean(folder: Path) -> None:
    for item in catalog_debris(folder):
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink(missing_ok=True)


def catalog_state(folder: Path, base: Path, *, full: bool = False) -> str:
    """Return what is wrong with a catalog; empty where it holds.

    Parameters
    ----------
    folder, base : Path
        As in :func:`open_catalog`.
    full : bool
        Also read and sum every byte.
    """
    try:
        record = _read_record(folder)
        arrays = map_arrays(folder / record["generation"], record["columns"])
        if full:
            for name, digest in record["checksums"].items():
                if hash_file(folder / record["generation"] / f"{name}.npy") != digest:
                    return f"damaged: {name}.npy is not what was written"
        IndexColumns.from_arrays(arrays)
        holds = Witnesses.from_arrays(arrays).hold(base)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError) as error:
        return f"damaged: {type(error).__name__}: {error}"
    return "" if holds else "out of date: entries that it was made from are others now"


def remove_catalog(folder: Path, base: Path, *, full: bool = False) -> bool:
    """Remove a catalog that does not hold and what killed writers left; returns whether anything went.

    What a running writer holds is left alone.
    """
    with suppress(OSError, CacheError), entry_lock(folder, wait=False) as held:
        if held and catalog_state(folder, base, full=full):
            # The record first, so that nobody opens what is being removed.
            (folder / CATALOG_FILE).unlink(missing_ok=True)
            _clean(folder)
            remove_folder(folder)
            return True
        if held and catalog_debris(folder):
            _clean(folder)
            return True
    return False
