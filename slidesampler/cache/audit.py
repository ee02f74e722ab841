"""Every entry of a cache opened and summed, and what is wrong with it mended.

The audit trusts nothing: records are parsed, files summed from the first byte to the last and opened, sources
compared by content. It needs no manifest; label layers are compared with the one they were built from where
that is still there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from slidesampler.cache.catalog import catalog_debris, catalog_state, remove_catalog
from slidesampler.cache.entry_json import ENTRY_FILE, load_entry, recorded_stamps
from slidesampler.cache.fingerprint import hash_file
from slidesampler.cache.label_index import INDEX_ROLE, check_index
from slidesampler.cache.publish import LOCK_FILE, debris_of, discard_entry, entry_lock, remove_entry
from slidesampler.cache.rebuild import label_folder_now, rebuild_entry
from slidesampler.cache.store import CATALOGS, CacheStore, check_files, check_source
from slidesampler.cache.tables import check_tables, is_table
from slidesampler.errors import CacheError, CorruptEntryError, SlideSamplerError
from slidesampler.models import CacheEntry
from slidesampler.readers import open_reader, spec_for_entry
from slidesampler.readers.array import ARRAY_SCHEME

__all__ = ["AuditRow", "audit"]

Verdict = Literal["ok", "stale", "corrupt", "orphan", "newer"]
Done = Literal["", "rebuilt", "removed", "kept", "failed"]


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What an audit found, and did.

    Parameters
    ----------
    path : str
        Folder of the entry; the file or folder itself for debris.
    kind : {"image", "labels", "index", "debris"}
        *index*: the foreground indices of all images of a manifest, joined.
    name : str
        Of the image; empty where it cannot be known.
    status : {"ok", "stale", "corrupt", "orphan", "newer"}
        *stale*: the source was edited, or the manifest's annotations were. *corrupt*: files or record are
        damaged. *orphan*: an intact entry whose source is not there any more, remains of a build that was
        killed, or an index of entries that are others now, which is made again when it is needed. *newer*:
        written by a newer version of the package; never touched.
    reason : str
    size_bytes : int
        On disk.
    done : {"", "rebuilt", "removed", "kept", "failed"}
        What ``repair`` did about it; *kept* for an intact entry that may be the only copy left.
    done_reason : str
        Why it failed or was kept.
    """

    path: str
    kind: Literal["image", "labels", "index", "debris"]
    name: str
    status: Verdict
    reason: str
    size_bytes: int
    done: Done = ""
    done_reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready values."""
        return asdict(self)


def audit(
    workdir: str | os.PathLike[str],
    *,
    repair: bool = False,
    remove_orphans: bool = False,
    progress: Callable[[AuditRow], None] | None = None,
) -> list[AuditRow]:
    """Check every entry of a cache, and mend what is wrong where asked.

    Parameters
    ----------
    workdir : str or path
    repair : bool
        Build corrupt entries again from what their record says (remove those that cannot be), remove stale ones
        and the remains of killed builds. An intact entry whose source is not there, or a damaged one that
        cannot be built again because of that, may be the only copy left, and is kept.
    remove_orphans : bool
        With ``repair``, remove those too.
    progress : callable, optional
        Given each row as it is done.

    Returns
    -------
    list of AuditRow
        Sorted by path; what a running build holds is left out.

    Raises
    ------
    CacheError
        If the folder is not a cache, or one of a newer version of the package.
    """
    store = CacheStore(workdir)
    store.check_marker()
    rows = []
    # The indices last: they do not hold any more where an entry was removed or built again.
    for row in chain(
        (row for folder in list(store.entry_folders()) for row in _audit_folder(folder)),
        (row for folder in store.catalog_folders() for row in _audit_catalog(store, folder)),
    ):
        # The remains beside an entry were found first and are removed first: a rebuild would do it too.
        done = _repair(store, row, remove_orphans) if repair else row
        rows.append(done)
        if progress is not None:
            progress(done)
    return rows


def _audit_catalog(store: CacheStore, folder: Path) -> Iterator[AuditRow]:
    """Yield the row of a catalog; nothing where one is being made."""
    row = AuditRow(str(folder), "index", "", "ok", "", _size(folder))
    problem = catalog_state(folder, store.workdir, full=True)
    if not problem and not catalog_debris(folder):
        yield row
        return
    with entry_lock(folder, wait=False) as held:
        if not held:
            return
        problem = catalog_state(folder, store.workdir, full=True)
        remains = catalog_debris(folder)
    if problem:
        yield replace(row, status="corrupt" if problem.startswith("damaged") else "orphan", reason=problem)
    elif remains:
        yield replace(row, kind="debris", status="orphan", reason="no record names it: a build was killed")
    else:
        yield row


def _audit_folder(folder: Path) -> Iterator[AuditRow]:
    """Yield the remains in an entry's folder, then the entry; nothing where a build is working."""
    remains = debris_of(folder)
    if remains or not (folder / ENTRY_FILE).exists():
        with entry_lock(folder, wait=False) as held:
            if not held:
                return
            remains = debris_of(folder)
    for path in remains:
        yield AuditRow(str(path), "debris", "", "orphan", "no record names it: a build was killed", _size(path))
    if (folder / ENTRY_FILE).exists():
        yield _audit_entry(folder)
    elif not remains:
        yield AuditRow(str(folder), "debris", "", "orphan", "a folder without a record: a build was killed", 0)


def _audit_entry(folder: Path) -> AuditRow:
    kind: Literal["image", "labels"] = "labels" if folder.parent.name == "labels" else "image"
    row = AuditRow(str(folder), kind, "", "ok", "", _size(folder))
    try:
        entry = load_entry(folder)
    except (FileNotFoundError, CorruptEntryError) as error:
        return replace(row, status="corrupt", reason=str(error))
    except CacheError as error:
        return replace(row, status="newer", reason=str(error))
    row = replace(row, name=entry.source["record"]["name"])
    damage = _damage(entry)
    if damage:
        return replace(row, status="corrupt", reason=damage)
    state = check_source(entry, full=True)
    if entry.in_place and (state.status != "same" or (damage := _reading(entry))):
        # Its file is the source: edited or gone, there is nothing of ours to repair.
        return replace(row, status="stale", reason=f"used in place, but {state.detail or damage}")
    if state.status == "changed":
        return replace(row, status="stale", reason=state.detail)
    if state.status == "gone":
        if any(stamp.name.startswith(ARRAY_SCHEME) for stamp in recorded_stamps(entry)):
            return replace(row, reason="built from an array in memory, which is not here to be compared")
        return replace(row, status="orphan", reason=f"intact, but its source is gone: {state.detail}")
    if entry.kind == "labels":
        now = label_folder_now(entry)
        if now is not None and now != folder.name:
            return replace(row, status="stale", reason="the annotations in its manifest are others now")
    return row


def _damage(entry: CacheEntry) -> str:
    """Return what is wrong with the files of an entry in the cache; empty where they are whole."""
    try:
        check_files(entry)
        for role, digest in entry.checksums.items():
            if hash_file(Path(entry.files[role])) != digest:
                return f"{entry.files[role]} is not what was written: its sum differs"
        check_tables(entry)
    except OSError as error:
        return str(error)
    return "" if entry.in_place else _reading(entry)


def _reading(entry: CacheEntry) -> str:
    """Return what is wrong with opening an entry; empty where it opens as recorded."""
    for role in entry.files if entry.kind == "labels" else ("",):
        try:
            if role == INDEX_ROLE:
                check_index(entry)
            if role == INDEX_ROLE or is_table(role):
                continue
            with closing(open_reader(spec_for_entry(entry, role))) as reader:
                shape, levels = reader.shape, reader.levels
        except OSError as error:
            return f"cannot be opened: {error}"
        if shape != entry.shape or len(levels) != len(entry.levels):
            return f"is {shape} of {len(levels)} levels, {entry.shape} of {len(entry.levels)} are recorded"
    return ""


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder; what vanishes meanwhile counts as 0."""
    total = 0
    for item in (path, *path.rglob("*")) if path.is_dir() else (path,):
        try:
            if not item.is_dir() and item.name != LOCK_FILE:
                total += item.lstat().st_size
        except OSError:
            continue
    return total


def _repair(store: CacheStore, row: AuditRow, remove_orphans: bool) -> AuditRow:
    """Mend what a row says is wrong; returns the row with what was done."""
    if row.status in ("ok", "newer"):
        return row
    try:
        if Path(row.path).parent == store.workdir / CATALOGS:
            gone = remove_catalog(Path(row.path), store.workdir, full=True)
            return replace(row, done="removed" if gone else "kept")
        if row.kind == "debris":
            return _remove_debris(store, row)
        if row.status == "corrupt":
            return _rebuild_or_remove(store, row, remove_orphans)
        if row.status == "orphan" and not remove_orphans:
            return replace(row, done="kept", done_reason="it may be the only copy left")
        return _remove_entry(row)
    except (SlideSamplerError, OSError) as error:
        return replace(row, done="failed", done_reason=f"{type(error).__name__}: {error}")


def _remove_debris(store: CacheStore, row: AuditRow) -> AuditRow:
    path = Path(row.path)
    folder = path if path in set(store.entry_folders()) else path.parent
    with entry_lock(folder, wait=False) as held:
        if not held:
            return replace(row, done="kept", done_reason="a build is working here now")
        discard_entry(folder)
    return replace(row, done="removed")


def _remove_entry(row: AuditRow) -> AuditRow:
    with entry_lock(Path(row.path), wait=False) as held:
        if not held:
            return replace(row, done="kept", done_reason="a build is working here now")
        # It may have been built anew since it was looked at.
        again = _audit_entry(Path(row.path))
        if again.status != row.status:
            return replace(row, done="kept", done_reason=f"it is {again.status} now")
        remove_entry(Path(row.path))
    return replace(row, done="removed")


def _rebuild_or_remove(store: CacheStore, row: AuditRow, remove_orphans: bool) -> AuditRow:
    try:
        entry = load_entry(Path(row.path))
    except CacheError as error:
        # Nothing says what it was: the next build makes it again, if anybody still wants it.
        return replace(_remove_entry(row), done_reason=str(error))
    if check_source(entry, content=False).status == "gone":
        if remove_orphans:
            return _remove_entry(row)
        return replace(
            row, done="kept", done_reason="its source is gone: what is left of it may be all there is"
        )
    try:
        reason = rebuild_entry(store, entry)
    except CacheError as error:
        return replace(_remove_entry(row), done_reason=str(error))
    if reason is None:
        return replace(row, done="rebuilt")
    return replace(row, done="failed", done_reason=reason)
