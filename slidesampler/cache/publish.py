"""How files appear in the cache: all at once, and never half-written.

A build of an entry writes into ``<generation>.partial``, a folder that nobody reads. Finished, verified and
flushed to the disk it is renamed to ``<generation>``, and then ``entry.json`` is replaced by one that names its
files. A crash at any instruction leaves the old ``entry.json`` or the new one, both naming files that are
whole, and perhaps files that none names: debris, which the next build removes.

The old generation is removed as soon as the new record is in place. Whoever has its files open keeps reading
them (POSIX keeps a removed file until it is closed); whoever has read the old record but not yet opened the
files gets ``FileNotFoundError`` and must look the entry up again, once.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from slidesampler.cache.entry_json import ENTRY_FILE, load_entry, own_files, serialize_entry
from slidesampler.cache.fingerprint import hash_file
from slidesampler.errors import CacheError
from slidesampler.models import CacheEntry

__all__ = [
    "LOCK_FILE",
    "Generation",
    "checksum_files",
    "clean_entry",
    "debris_of",
    "discard_entry",
    "entry_lock",
    "new_generation",
    "publish_entry",
    "remove_entry",
    "remove_folder",
    "sync",
    "write_atomically",
]

LOCK_FILE = ".lock"
PARTIAL_SUFFIX = ".partial"
TEMPORARY_SUFFIX = ".tmp"
#: How often a lock is taken again because its folder was removed under our hands; each needs another process
#: that removes it just then.
LOCK_TRIES = 100


@contextmanager
def entry_lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of an entry's folder for the body of a ``with`` block; yields whether it is held.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    wait : bool
        Whether to wait for whoever holds the lock. If not, and somebody does, the body runs with False.

    Notes
    -----
    The lock is the kernel's (``flock``) and ends with the process that holds it, however it ends.
    """
    lock = _acquire(folder, wait)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def _acquire(folder: Path, wait: bool) -> FileLock | None:
    path = folder / LOCK_FILE
    for _ in range(LOCK_TRIES):
        lock = FileLock(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return None
        except FileNotFoundError:
            continue
        # Whoever removes an entry removes its lock with it: the lock of a file that has no name any more guards
        # nothing, since the next one makes a new file.
        if path.exists():
            return lock
        lock.release()
    raise CacheError(f"{folder} was removed again and again while it was being locked")


@dataclass(frozen=True, slots=True)
class Generation:
    """The files of one build of an entry.

    Parameters
    ----------
    partial : Path
        Where they are written.
    final : Path
        Where they will lie.
    """

    partial: Path
    final: Path


@contextmanager
def new_generation(folder: Path) -> Iterator[Generation]:
    """Make the folder of a new generation, and remove it again if the body of the ``with`` block raises.

    The lock of the entry must be held.
    """
    name = secrets.token_hex(4)
    generation = Generation(folder / f"{name}{PARTIAL_SUFFIX}", folder / name)
    generation.partial.mkdir()
    try:
        yield generation
    except BaseException:
        # Not left to the next cleaning: beside a record that cannot be read, that one removes nothing.
        shutil.rmtree(generation.partial, ignore_errors=True)
        if not _is_named(folder, name):
            shutil.rmtree(generation.final, ignore_errors=True)
        raise


def _is_named(folder: Path, generation: str) -> bool:
    try:
        return generation in _named_generations(folder)
    except CacheError:
        return False


def _named_generations(folder: Path) -> set[str]:
    """Return the generations that the record names; raises CacheError where it is one of a newer version."""
    try:
        entry = load_entry(folder)
    except FileNotFoundError:
        return set()
    return {Path(name).relative_to(folder).parts[0] for name in own_files(entry).values()}


def publish_entry(entry: CacheEntry, generation: Generation | None) -> None:
    """Make the files of a generation those of the entry. The lock of the entry must be held.

    Parameters
    ----------
    entry : CacheEntry
        Names its files where they will lie.
    generation : Generation or None
        None for an entry without files of its own.

    Raises
    ------
    OSError
        If the disk does not take it; readers then find what they found before.
    """
    folder = Path(entry.folder)
    if generation is not None:
        for item in generation.partial.iterdir():
            sync(item)
        sync(generation.partial)
        generation.partial.rename(generation.final)
        sync(folder)
    write_atomically(folder / ENTRY_FILE, serialize_entry(entry))
    # The folders themselves are new: their names in their parents must be on the disk too.
    sync(folder.parent)
    sync(folder.parent.parent)
    # The entry is published: an old generation that cannot be removed now is debris for the next build.
    with suppress(OSError):
        clean_entry(folder)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by one with this text, on the disk when this returns."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum_files(files: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, int]]:
    """Read files back and return ``(checksums, sizes)`` by role.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    checksums = {role: hash_file(path) for role, path in files.items()}
    return checksums, {role: path.stat().st_size for role, path in files.items()}


def debris_of(folder: Path) -> tuple[Path, ...]:
    """Return what lies in an entry's folder and no record names: remains of builds that were killed.

    While a build of the entry is running its files look the same, so only the holder of the lock may call them
    debris. Empty where the record cannot be read, since nobody knows then what it names.
    """
    try:
        named = _named_generations(folder)
        items = sorted(folder.iterdir())
    except (OSError, CacheError):
        # Among OSErrors: the folder was removed by another process meanwhile.
        return ()
    return tuple(item for item in items if item.name not in {ENTRY_FILE, LOCK_FILE, *named})


def clean_entry(folder: Path) -> None:
    """Remove the debris of an entry. The lock of the entry must be held."""
    for item in debris_of(folder):
        _remove(item)


def discard_entry(folder: Path) -> None:
    """Remove the debris of an entry, and its folder where it has no record.

    The lock of the entry must be held, and guards nothing any more when the folder is gone: this is the last
    thing its holder does.
    """
    clean_entry(folder)
    if not (folder / ENTRY_FILE).exists():
        remove_folder(folder)


def remove_entry(folder: Path) -> None:
    """Remove an entry with all its files. The lock of the entry must be held.

    The record goes first, so that nobody reads files that are being removed.
    """
    with suppress(FileNotFoundError):
        (folder / ENTRY_FILE).unlink()
    for item in list(folder.iterdir()):
        if item.name != LOCK_FILE:
            _remove(item)
    remove_folder(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that holds nothing but its lock, which guards nothing any more then."""
    (folder / LOCK_FILE).unlink(missing_ok=True)
    # Another process may have made a new lock in it already, and the folder above holds other variants.
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
