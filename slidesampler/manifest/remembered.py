"""Manifests that were read before: the same file with the same options is mapped, not parsed.

Beside the snapshots stands a small record for every file and set of options, which says what the file was and
the digest of the columns that were made of it. The file is that one still if its size, its times and sampled
blocks are; where its times differ, or are so recent that a change might not show in them, if a hash of all of
it is. The columns were flushed to the disk before the record was written, and are not summed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from slidesampler.errors import ManifestError
from slidesampler.manifest.columns import Columns
from slidesampler.manifest.snapshot import PICKLED, default_snapshot_dir, open_shared, save_snapshot

__all__ = ["Reading", "begin_reading"]

#: Raised whenever the same manifest would give other columns.
_VERSION = 1
#: Smaller files are parsed in less than a tenth of a second, and leave nothing in the user's cache.
REMEMBER_FROM_BYTES = 1 << 20
#: Sampled blocks of a file, the first and the last among them.
SAMPLE_BYTES, SAMPLE_BLOCKS = 1 << 16, 16
#: File systems keep times to two seconds at worst: of a change so close to the record it may show nothing.
RECENT_NS = 3_000_000_000


@dataclass(frozen=True, slots=True)
class _State:
    """What a file is."""

    size: int
    mtime_ns: int
    ctime_ns: int
    seen_ns: int
    sampled: str = ""
    full: str = ""

    @classmethod
    def of(cls, file: BufferedReader) -> _State:
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, time.time_ns())

    @property
    def times(self) -> tuple[int, int, int]:
        return self.size, self.mtime_ns, self.ctime_ns

    @property
    def recent(self) -> bool:
        return max(self.mtime_ns, self.ctime_ns) > self.seen_ns - RECENT_NS


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a manifest's file.

    Parameters
    ----------
    path : str
    record : Path
        Where it stands what the file was.
    state : _State
        Of the file when the reading began.
    """

    path: str
    record: Path
    state: _State

    def recall(self) -> tuple[Columns, str] | None:
        """Return the columns that were made of this file before, and their digest; None if there are none."""
        try:
            told = json.loads(self.record.read_bytes())
            was, digest = _State(**told["state"]), str(told["digest"])
            names = told["present"], told["absent"]
            if not self._is(was) or not _as_recorded(*names):
                return None
            columns = open_shared(str(self._snapshot(digest)), digest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ManifestError):
            # Never written, of another version, cut off: it is made again.
            return None
        if was.times != self.state.times or was.recent:
            self._write(replace(self.state, sampled=was.sampled, full=was.full), digest, *names)
        return columns, digest

    def _is(self, was: _State) -> bool:
        if was.size != self.state.size:
            return False
        with open(self.path, "rb") as file:
            if was.times == self.state.times and not was.recent:
                return was.sampled == _sampled(file, was.size)
            return was.full == _full(file)

    def remember(self, columns: Columns, digest: str) -> Columns:
        """Save columns that were made of the file, and return them mapped.

        As they are where the file has changed meanwhile, or they cannot be saved.
        """
        try:
            with open(self.path, "rb") as file:
                sampled, full = _sampled(file, self.state.size), _full(file)
                if _State.of(file).times != self.state.times:
                    return columns
            folder, before = self._snapshot(digest), self._digest_before()
            save_snapshot(folder, columns, digest)
            _flush(folder)
            self._write(replace(self.state, sampled=sampled, full=full), digest, *_depended_on(columns))
            if before not in (None, digest):
                self._forget(str(before))
            return open_shared(str(folder), digest)
        except (OSError, ManifestError):
            return columns

    def _snapshot(self, digest: str) -> Path:
        return Path(default_snapshot_dir()) / digest

    def _digest_before(self) -> str | None:
        try:
            return str(json.loads(self.record.read_bytes())["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _forget(self, digest: str) -> None:
        """Remove the snapshot of what the file was before, unless a pickle may name it."""
        folder = self._snapshot(digest)
        if len(digest) == 40 and digest.isalnum() and not (folder / PICKLED).exists():
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, state: _State, digest: str, present: list[str], absent: list[str]) -> None:
        told = {"state": asdict(state), "digest": digest, "present": present, "absent": absent}
        partial = self.record.with_name(f"{self.record.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        with contextlib.suppress(OSError):
            self.record.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(told), encoding="utf-8")
            partial.replace(self.record)


def begin_reading(source: object, options: tuple[object, ...]) -> Reading | None:
    """Return the reading of a manifest that is a file worth remembering, else None.

    Parameters
    ----------
    source : object
        What was given as the manifest.
    options : tuple
        Everything else that its columns depend on.
    """
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = os.path.abspath(os.fspath(source))  # noqa: PTH100
    try:
        with open(path, "rb") as file:
            state = _State.of(file)
    except (OSError, ValueError):
        return None
    if state.size < REMEMBER_FROM_BYTES:
        return None
    everything = (_VERSION, path, os.path.expanduser("~"), *map(_plain, options))  # noqa: PTH111
    key = hashlib.blake2b(repr(everything).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Reading(path, Path(default_snapshot_dir()) / "read" / f"{key}.json", state)


def _plain(option: object) -> object:
    if isinstance(option, Mapping):
        return sorted(map(repr, option.items()))
    return os.path.abspath(os.fspath(option)) if isinstance(option, os.PathLike) else option  # noqa: PTH100


def _flush(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sampled(file: BufferedReader, size: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    step = max(size - SAMPLE_BYTES, 0) / (SAMPLE_BLOCKS - 1)
    for block in range(SAMPLE_BLOCKS):
        file.seek(round(block * step))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _full(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _depended_on(columns: Columns) -> tuple[list[str], list[str]]:
    """Return the files that have to be there, and not to be there, for the manifest to be read the same again.

    A name with a colon is a file's where there is such a file, and else a name for GDAL.
    """
    present: list[str] = []
    absent: list[str] = []
    paths = columns.images.asset_paths
    if not (paths.data == ord(":")).any():
        return present, absent
    base = columns.bundle_dir[0]
    for path in paths:
        if ":" not in path or path.startswith("/vsi"):
            continue
        if os.path.isabs(path):  # noqa: PTH117
            if os.path.exists(path):  # noqa: PTH110
                present.append(path)
        else:
            absent.append(os.path.normpath(os.path.join(base, path)))  # noqa: PTH118
    return present, absent


def _as_recorded(present: list[Any], absent: list[Any]) -> bool:
    return all(map(os.path.exists, present)) and not any(map(os.path.exists, absent))
