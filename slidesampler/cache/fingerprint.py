"""What is recorded of a source, and whether the source is still the same.

Size and modification time are compared at every opening. Where the inode's change time differs too, which
nobody can set, or was so recent that a later change may not show in it, so is a hash of sampled blocks, once
per process: the first block, the last one and a few spread between them (the whole file where it is small).
That finds an edit that kept size and time, unless it lies wholly between the blocks; ``full_hash`` closes that
gap: the hash of the whole file is compared as well. Every audit compares all hashes there are.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.companions import companion_files, local_file
from slidesampler.errors import SourceMissingError
from slidesampler.models import Asset, ImageRecord
from slidesampler.readers.array import ARRAY_SCHEME, registered_array

__all__ = [
    "FileStamp",
    "SourceState",
    "array_digest",
    "canonical_name",
    "compare_hashes",
    "compare_stamps",
    "hash_file",
    "sampled_digest",
    "source_assets",
    "stamp_sources",
    "with_hashes",
]

#: Bytes of one sampled block.
SAMPLE_BYTES = 1 << 16
#: Sampled blocks of one file at most, and of all files of a source together (but never fewer than 2 of a file).
SAMPLE_BLOCKS = 16
SAMPLE_BLOCKS_TOTAL = 64
READ_BYTES = 1 << 22
#: File systems keep times to two seconds at worst: a change so soon after another may not show in them.
RECENT_NS = 3_000_000_000
#: Elsewhere it is the time of creation.
HAS_CHANGE_TIME = os.name == "posix"


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What is recorded of one file of a source.

    Parameters
    ----------
    name : str
        Resolved absolute path; the name as it is for ``array://``, ``/vsi...`` and ``DRIVER:...``.
    main : bool
        Whether the manifest names it, rather than it being a companion of one that is named.
    path : str
        The local file behind the name; empty where there is none (remote, in memory).
    size_bytes, mtime_ns, ctime_ns : int or None
        None where they cannot be known.
    sampled, full : str or None
        Hash of sampled blocks, and of the whole file or array where it was asked for.
    seen_ns : int or None
        When it was looked at; not compared.
    """

    name: str
    main: bool = True
    path: str = ""
    size_bytes: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    sampled: str | None = None
    full: str | None = None
    seen_ns: int | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the stamp as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileStamp:
        """Return the stamp that :meth:`to_dict` gave; ``ValueError`` for anything else."""
        if not isinstance(values, Mapping):
            raise ValueError(f"a recorded file is {values!r}")
        # Records of before do not say when.
        found: dict[str, Any] = {"seen_ns": None, **values}
        for name, kinds in _STAMP_KINDS.items():
            if type(found[name]) not in kinds:
                raise ValueError(f"{name} of a recorded file is {found[name]!r}")
        return cls(**{name: found[name] for name in _STAMP_KINDS})

    def surely_is(self, now: FileStamp) -> bool:
        """Whether nobody can have written to the file since this was recorded."""
        return (
            HAS_CHANGE_TIME
            and self.ctime_ns is not None
            and self.ctime_ns == now.ctime_ns
            and self.seen_ns is not None
            and self.seen_ns - self.ctime_ns > RECENT_NS
        )


_WHOLE, _TEXT = (int, type(None)), (str, type(None))
#: Types of the fields as JSON has them.
_STAMP_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "main": (bool,),
    "path": (str,),
    "size_bytes": _WHOLE,
    "mtime_ns": _WHOLE,
    "ctime_ns": _WHOLE,
    "sampled": _TEXT,
    "full": _TEXT,
    "seen_ns": _WHOLE,
}


class SourceState(NamedTuple):
    """Whether a source is what was recorded: ``same``, ``changed``, or ``gone`` (not there to be compared)."""

    status: Literal["same", "changed", "gone"]
    detail: str = ""


def canonical_name(name: str) -> str:
    """Return the name under which a source is known: the resolved absolute path of a plain file.

    Does not depend on whether the file exists, so that an entry is found after its slide went to cold storage.
    """
    plain = not name.startswith((ARRAY_SCHEME, "/vsi")) and os.path.isabs(name)  # noqa: PTH117
    return os.path.realpath(name) if plain else name


def source_assets(record: ImageRecord, what: str) -> tuple[Asset, ...]:
    """Return the assets that an entry is built from; ``what`` is ``"image"`` or ``"labels"``."""
    extra = (record.valid,) if what == "image" else (record.valid, record.labels, record.tissue)
    return record.assets + tuple(asset for asset in extra if asset is not None)


def stamp_sources(assets: Sequence[Asset]) -> tuple[FileStamp, ...]:
    """Return the stamps of all files of some assets, without sampled hashes; reads no pixels of files.

    A file that is not there, or that this process may not look at, and an array that is not registered in this
    process get a stamp without size.
    """
    stamps: list[FileStamp] = []
    for asset in assets:
        name = canonical_name(asset.path)
        if name.startswith(ARRAY_SCHEME):
            stamps.append(_stamp_array(name))
            continue
        try:
            path = local_file(name)
            others = () if path is None else companion_files(path)
        except OSError:
            # Its folder cannot be listed: what cannot be looked at cannot be compared either.
            path, others = None, ()
        if path is None:
            stamps.append(FileStamp(name))
            continue
        stamps.append(_stamp(name, path, main=True))
        stamps += [_stamp(str(other), other, main=False) for other in others]
    return tuple(stamps)


def _stamp_array(name: str) -> FileStamp:
    try:
        array = registered_array(name)
    except SourceMissingError:
        return FileStamp(name)
    return FileStamp(name, size_bytes=array.nbytes, full=array_digest(array))


def _stamp(name: str, path: Path, *, main: bool) -> FileStamp:
    try:
        stat = path.stat()
    except OSError:
        return FileStamp(name, main)
    times = stat.st_mtime_ns, stat.st_ctime_ns
    return FileStamp(name, main, str(path), stat.st_size, *times, seen_ns=time.time_ns())


def compare_stamps(recorded: Iterable[FileStamp], current: Iterable[FileStamp]) -> SourceState:
    """Compare what was recorded with :func:`stamp_sources` of now: sizes, times, which files there are.

    A source of several files of which one is named by the manifest and gone is ``gone``, whatever became of its
    companions; a companion that is gone or new while its main file is there is a change.
    """
    before = {stamp.name: stamp for stamp in recorded}
    now = {stamp.name: stamp for stamp in current}
    gone = [name for name, stamp in before.items() if stamp.main and _is_gone(stamp, now.get(name))]
    changes = [
        _difference(before[name], now[name])
        for name in before
        if name in now and before[name] != now[name] and name not in gone
    ]
    if not gone:
        changes += [f"{name} is not there any more" for name in before if name not in now]
        changes += [f"{name} is new" for name in now if name not in before]
    found = "; ".join(change for change in changes if change)
    if found:
        return SourceState("changed", found)
    if gone:
        return SourceState("gone", f"{', '.join(gone)} is not there")
    return SourceState("same")


def _is_gone(before: FileStamp, now: FileStamp | None) -> bool:
    # A remote source has no size, neither then nor now: there is nothing to compare, which is not "gone".
    return before.size_bytes is not None and now is not None and now.size_bytes is None


def _difference(before: FileStamp, now: FileStamp) -> str:
    if now.size_bytes is None or before.size_bytes is None:
        return ""
    if before.size_bytes != now.size_bytes:
        return f"{before.name} has {now.size_bytes} bytes, had {before.size_bytes}"
    if before.mtime_ns != now.mtime_ns:
        return f"{before.name} was modified {_utc(now.mtime_ns)}, had been {_utc(before.mtime_ns)}"
    if before.name.startswith(ARRAY_SCHEME) and before.full != now.full:
        return f"{before.name} holds other values (or another shape or dtype) than the array that was built"
    return ""


def _utc(time_ns: int | None) -> str:
    if time_ns is None:
        return "at an unknown time"
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="microseconds")
    except (OverflowError, OSError, ValueError):
        return f"{time_ns} ns after 1970"


def compare_hashes(
    recorded: Iterable[FileStamp], current: Iterable[FileStamp], *, full: bool = False
) -> SourceState:
    """Compare the recorded hashes with the files of now.

    Parameters
    ----------
    recorded, current : iterable of FileStamp
        Of a source whose stamps have just been found to be the same, as far as its files are there.
    full : bool
        Compare every hash that was recorded, also of files that cannot have been written to since.

    Notes
    -----
    Files that this process may look at but not read are as good as gone: they cannot be compared.
    """
    present = {stamp.name: stamp for stamp in current if stamp.path}
    changed, unread = [], []
    for stamp in recorded:
        now = present.get(stamp.name)
        if not stamp.path or now is None or (stamp.surely_is(now) and not full):
            continue
        try:
            if _hashes_differ(stamp, full or stamp.ctime_ns != now.ctime_ns):
                changed.append(stamp.name)
        except OSError as error:
            unread.append(f"{stamp.name} cannot be read ({error.strerror})")
    if changed:
        return SourceState(
            "changed", f"{', '.join(changed)} has other content, though size and time are the same"
        )
    return SourceState("gone", "; ".join(unread)) if unread else SourceState("same")


def _hashes_differ(stamp: FileStamp, full: bool) -> bool:
    if stamp.sampled is not None and sampled_digest(Path(stamp.path), _blocks_of(stamp)) != stamp.sampled:
        return True
    return full and stamp.full is not None and hash_file(Path(stamp.path)) != stamp.full


def with_hashes(stamps: Sequence[FileStamp], *, full: bool = False) -> tuple[FileStamp, ...]:
    """Return the stamps with the hash of sampled blocks, and of whole files where ``full``.

    Stamps that have a hash already, as those of a record have, are kept as they are.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    blocks = min(SAMPLE_BLOCKS, max(2, SAMPLE_BLOCKS_TOTAL // max(len(stamps), 1)))
    return tuple(
        replace(
            stamp,
            sampled=sampled_digest(Path(stamp.path), blocks),
            full=hash_file(Path(stamp.path)) if full else None,
        )
        if stamp.path and stamp.sampled is None
        else stamp
        for stamp in stamps
    )


def _blocks_of(stamp: FileStamp) -> int:
    """Return how many blocks a recorded hash is of; 2 where it is none of ours, which never compares equal."""
    match = re.match(r"(\d{1,4})-", stamp.sampled or "")
    return max(2, int(match[1])) if match else 2


def sampled_digest(path: Path, blocks: int = SAMPLE_BLOCKS) -> str:
    """Return the hash of sampled blocks of a file.

    ``blocks`` blocks of 64 KiB whose starts are evenly spaced from the first byte to the last block; the whole
    file where they would cover it.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size};".encode())
        if size <= blocks * SAMPLE_BYTES:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
        else:
            for block in range(blocks):
                file.seek(block * (size - SAMPLE_BYTES) // (blocks - 1))
                digest.update(file.read(SAMPLE_BYTES))
    # How many blocks depends on how many files the source had, so the hash says it.
    return f"{blocks}-blake2b:{digest.hexdigest()}"


def hash_file(path: Path) -> str:
    """Return the hash of a whole file, ``"blake2b:"`` and 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return f"blake2b:{digest.hexdigest()}"


#: Per id of an array that is alive: a weak reference to it, its sampled rows, and the hash of all of it.
_ARRAY_DIGESTS: dict[int, tuple[weakref.ref[NDArray[Any]], str, str]] = {}


def array_digest(array: NDArray[Any]) -> str:
    """Return the hash of an array's dtype, shape and all its bytes in row-major order.

    Remembered for as long as the array lives. A sample of its rows is compared before the remembered hash is
    given, so an array that was refilled in place is noticed, one in which a few values were poked may not be.
    """
    sample = _hash_rows(array, np.unique(np.linspace(0, max(len(array) - 1, 0), 16).astype(int)))
    known = _ARRAY_DIGESTS.get(id(array))
    if known is not None and known[0]() is array and known[1] == sample:
        return known[2]
    digest = _hash_rows(array, range(len(array)))
    key = id(array)
    reference = weakref.ref(array, lambda _: _ARRAY_DIGESTS.pop(key, None))
    _ARRAY_DIGESTS[key] = (reference, sample, digest)
    return digest


def _hash_rows(array: NDArray[Any], rows: Iterable[int]) -> str:
    digest = hashlib.blake2b(f"{array.dtype.str},{array.shape};".encode(), digest_size=16)
    for row in rows:
        digest.update(np.ascontiguousarray(array[row]).tobytes())
    return f"blake2b:{digest.hexdigest()}"
