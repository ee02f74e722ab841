"""What writers do when the disk says no."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from slidesampler.errors import BuildError

__all__ = ["remove_files", "write_failure"]

#: Longest reason that is repeated whole: GDAL may say the same of each of ten thousand tiles.
_REASON_CHARACTERS = 600


def write_failure(path: str | os.PathLike[str], reason: OSError | str) -> BuildError:
    """Return the error that says that a file could not be written, why, and how much room its disk has."""
    text = (reason.strerror or str(reason)) if isinstance(reason, OSError) else reason
    if len(text) > _REASON_CHARACTERS:
        text = text[:_REASON_CHARACTERS] + " ..."
    action = "make room on that disk" if os.strerror(errno.ENOSPC) in text else "check that disk and its limits"
    try:
        free = f" ({shutil.disk_usage(Path(path).parent).free / 1e9:.2f} GB free)"
    except OSError:
        free = ""
    return BuildError(f"{os.fspath(path)} could not be written: {text}; {action}{free}")


def remove_files(folder: Path, *patterns: str) -> None:
    """Remove the files of a folder that match any of the glob patterns."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
