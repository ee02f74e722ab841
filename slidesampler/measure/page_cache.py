"""The system's page cache: files are dropped from it, so that reading them is reading the disk.

No rights are needed: ``posix_fadvise`` drops the clean pages of single files. Pages that a process has mapped
stay, so readers are closed before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["can_drop", "drop_files", "share_in_memory"]

#: Bytes of a file that are looked for in the page cache.
_PROBES = 16


def can_drop() -> bool:
    """Whether this system lets a process drop files: Linux does, macOS and Windows do not."""
    return hasattr(os, "posix_fadvise")


def drop_files(paths: Sequence[str]) -> float | None:
    """Drop files from the page cache, after writing what of them is not on the disk yet.

    Parameters
    ----------
    paths : sequence of str
        Local files.

    Returns
    -------
    float or None
        Share of their bytes that is still there, 0 to 1; None where the system does not tell. Small files that
        an open reader has mapped, as tables of tiles, stay whole.

    Raises
    ------
    OSError
        If a file cannot be opened.
    """
    for path in paths:
        _drop(path)
    shares = [share_in_memory(path) for path in paths]
    # To look for a page may fetch it, and the pages after it.
    for path in paths:
        _drop(path)
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    sizes = [Path(path).stat().st_size for path in paths]
    return sum(share * size for share, size in zip(known, sizes, strict=True)) / max(sum(sizes), 1)


def _drop(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def share_in_memory(path: str) -> float | None:
    """Return the share of a file that is in the page cache, by looking for sixteen of its bytes.

    None where that cannot be told: the system, or the file system, has no reads that do not wait.
    """
    flag = getattr(os, "RWF_NOWAIT", None)
    if flag is None or not hasattr(os, "preadv"):
        return None
    size = Path(path).stat().st_size
    offsets = sorted({size * probe // _PROBES for probe in range(_PROBES)}) if size else []
    found = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Backwards, so that what the system reads ahead is not what is looked for next.
        for offset in reversed(offsets):
            try:
                found += os.preadv(descriptor, [bytearray(1)], offset, flag)
            except BlockingIOError:
                continue
            except OSError:
                return None
    finally:
        os.close(descriptor)
    return found / len(offsets) if offsets else 0.0
