"""A manifest's columns on disk: one ``.npy`` a column, memory-mapped when opened.

The folder is written under another name and renamed when it is complete, so a reader never sees half of one;
``snapshot.json`` holds the digest, a checksum and, of every column, the dtype and shape that its file must
have. Nothing is synced to the disk here: what a power cut damages is found by the checksum, and written again
from the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ManifestError
from slidesampler.manifest.columns import Columns, checksum_of, flatten, frozen, unflatten
from slidesampler.mapping import open_npy

__all__ = ["PICKLED", "default_snapshot_dir", "is_intact", "open_shared", "open_snapshot", "save_snapshot"]

_FORMAT = 3
_RECORD = "snapshot.json"
#: Says that pickles may name a snapshot: it is not removed when its manifest has changed.
PICKLED = "pickled"
#: Smaller columns are read instead of mapped, which is quicker.
_MAP_FROM_BYTES = 1 << 14


def default_snapshot_dir() -> str:
    """Return the user's folder for snapshots that pickles point to: ``slidesampler/manifests`` in the cache.

    The cache is ``$XDG_CACHE_HOME``, or ``~/.cache`` where that is not set.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return str((Path(base) if base else Path.home() / ".cache") / "slidesampler" / "manifests")


def save_snapshot(folder: str | os.PathLike[str], columns: Columns, digest: str) -> None:
    """Write a snapshot, unless an intact one of the same digest is there.

    Any number of processes may do so at once: each writes a folder of its own, the first to rename it wins.

    Raises
    ------
    ManifestError
        If the folder holds something else than a snapshot, or cannot be written.
    """
    target = Path(folder).absolute()
    if is_intact(target, digest):
        return
    if target.exists() and not _is_ours(target):
        raise ManifestError(
            f"{target} is no folder of a manifest snapshot, so it is not replaced; give another"
        )
    partial = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        _write(partial, columns, digest)
        _move_into_place(partial, target, digest)
    except OSError as error:
        raise ManifestError(
            f"manifest snapshot {target} cannot be written: {error}; set snapshot_dir to a folder that can"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, columns: Columns, digest: str) -> None:
    checksum = checksum_of(columns, digest)
    record: dict[str, Any] = {"format": _FORMAT, "digest": digest, "checksum": checksum, "columns": {}}
    for name, array in flatten(columns).items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        record["columns"][name] = [array.dtype.str, list(array.shape)]
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def _move_into_place(partial: Path, target: Path, digest: str) -> None:
    """Rename ``partial`` to ``target``; a folder in the way is another writer's, or damaged and set aside."""
    for _ in range(100):
        try:
            # os.replace takes an empty folder's place, and fails where the folder holds something.
            os.replace(partial, target)  # noqa: PTH105
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        if is_intact(target, digest):
            return
        aside = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.damaged")
        # Another writer may have set it aside first.
        with contextlib.suppress(FileNotFoundError):
            os.replace(target, aside)  # noqa: PTH105
        shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"other processes keep replacing {target}")


def _is_ours(folder: Path) -> bool:
    """Return whether a folder is empty or holds a snapshot, whole or damaged, and nothing else."""
    if not folder.is_dir():
        return False
    return all(entry.name in (_RECORD, PICKLED) or entry.suffix == ".npy" for entry in folder.iterdir())


def is_intact(folder: str | os.PathLike[str], digest: str, *, verify: bool = True) -> bool:
    """Return whether a folder holds the snapshot of this digest: every byte of it, or (quicker) every file."""
    try:
        _, found = open_snapshot(folder, verify=verify)
    except ManifestError:
        return False
    return found == digest


def open_snapshot(folder: str | os.PathLike[str], *, verify: bool) -> tuple[Columns, str]:
    """Return the columns and the digest of a snapshot.

    Parameters
    ----------
    folder : path
    verify : bool
        Whether to read every column and compare the checksum. Missing and truncated files are found either way.

    Raises
    ------
    ManifestError
        If it is missing or damaged.
    """
    path = Path(folder)
    try:
        record = json.loads((path / _RECORD).read_bytes())
        if record["format"] != _FORMAT:
            raise ValueError(f"its format is {record['format']!r}, this version reads {_FORMAT}")
        columns = unflatten(
            Columns, {name: _read(path, name, *item) for name, item in record["columns"].items()}
        )
        digest, checksum = str(record["digest"]), str(record["checksum"])
    except FileNotFoundError as error:
        raise ManifestError(
            f"manifest snapshot {path} is gone or incomplete ({error}); a pickled manifest points to it, "
            "so keep it while pickles are in use, or load the manifest again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if verify and checksum_of(columns, digest) != checksum:
        raise _damaged(path, f"its columns are not those of digest {digest}")
    return frozen(columns), digest


def _damaged(path: Path, problem: str) -> ManifestError:
    return ManifestError(
        f"manifest snapshot {path} is damaged ({problem}); remove it and load the manifest again"
    )


def _read(folder: Path, name: str, dtype: str, shape: list[int]) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    array = open_npy(path, _MAP_FROM_BYTES)
    if array.dtype.str != dtype or list(array.shape) != shape:
        raise ValueError(f"{path.name} holds {array.dtype.str} {array.shape}, recorded was {dtype} {shape}")
    return array


# Two manifests unpickled in one process map the columns once; the mapping goes when the last manifest goes.
_OPENED: weakref.WeakValueDictionary[str, Columns] = weakref.WeakValueDictionary()
_OPENED_LOCK = threading.Lock()


def open_shared(folder: str, digest: str) -> Columns:
    """Return the columns of a snapshot that was verified when it was written, shared with all of this process.

    Raises
    ------
    ManifestError
        If the snapshot is missing, cut off, or another one.
    """
    with _OPENED_LOCK:
        columns = _OPENED.get(digest)
        if columns is None:
            # Only what is missing or cut off is looked for here.
            columns, found = open_snapshot(folder, verify=False)
            if found != digest:
                raise ManifestError(
                    f"manifest snapshot {folder} holds {found}, the pickle was made of {digest}; "
                    "load the manifest again"
                )
            _OPENED[digest] = columns
    return columns
