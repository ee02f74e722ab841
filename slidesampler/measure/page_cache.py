"""The system's page cache: files are dropped from it, so that reading them is reading the disk.

No rights are needed: ``posix_fadvise`` drops the clean pages of single files. Pages that a process has mapped
stay, so readers are closed before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["can_drop", "drop_files", "share_in_memory"]

#: Bytes of a file that are looked for in the page cache.
_PROBES = 32
#: How often files are dropped, and the pause before the second time; what is left of them that is nothing.
_ATTEMPTS, _PAUSE_S, _GONE = 5, 0.01, 0.02


def can_drop() -> bool:
    """Whether this system lets a process drop files: Linux does, macOS and Windows do not."""
    return hasattr(os, "posix_fadvise")


def drop_files(paths: Sequence[str]) -> float | None:
    """Drop files from the page cache, after writing what of them is not on the disk yet.

    Pages that the system is just busy with stay: it is tried a few times.

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
    left: float | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S * 2**attempt)
        for path in paths:
            _drop(path)
        left = _share_of(paths, attempt / _ATTEMPTS)
        if left is None or left <= _GONE:
            break
    # To look for a page may fetch it.
    for path in paths:
        _drop(path)
    return left


def _share_of(paths: Sequence[str], phase: float) -> float | None:
    shares = [share_in_memory(path, phase) for path in paths]
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


def share_in_memory(path: str, phase: float = 0.0) -> float | None:
    """Return the share of a file that is in the page cache, by looking for some of its bytes.

    The pages of these may be there afterwards: who looks again takes another phase, 0 to 1, and so other bytes.
    None where that cannot be told: the system, or the file system, has no reads that do not wait.
    """
    flag = getattr(os, "RWF_NOWAIT", None)
    if flag is None or not can_drop():
        return None
    size = Path(path).stat().st_size
    offsets = sorted({int(size * (probe + phase) / _PROBES) for probe in range(_PROBES)}) if size else []
    found = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Or the system would begin to read what comes after it, too.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for offset in offsets:
            try:
                found += os.preadv(descriptor, [bytearray(1)], offset, flag)
            except BlockingIOError:
                continue
            except OSError:
                return None
    finally:
        os.close(descriptor)
    return found / len(offsets) if offsets else 0.0
