"""What a source's path says before anything is opened."""

from __future__ import annotations

import os
import re

from slidesampler.errors import ReadError, SourceMissingError, UnsupportedSourceError

__all__ = ["blame_file", "is_file_path", "require_file"]

#: ``DRIVER:...`` names of GDAL (``NETCDF:"a.nc":t``, ``GTIFF_DIR:2:a.tif``); a single letter is a drive.
_CONNECTION = re.compile(r"^[A-Za-z][A-Za-z0-9_]+:")


def is_file_path(path: str) -> bool:
    """Whether ``path`` is a plain file name, not a ``/vsi...`` or ``DRIVER:...`` name of GDAL's.

    Examples
    --------
    >>> is_file_path("a.tif"), is_file_path("/vsizip/a.zip/a.tif"), is_file_path("GTIFF_DIR:2:a.tif")
    (True, False, False)
    """
    return not path.startswith("/vsi") and not _CONNECTION.match(path) and "<VRTDataset" not in path


def require_file(path: str) -> None:
    """Raise SourceMissingError unless the file is there; names that are not of files pass."""
    if is_file_path(path) and not os.path.exists(path):  # noqa: PTH110
        raise SourceMissingError(
            f"{path} is not there; correct the path in the manifest, mount the disk it is on, or build the "
            "cache again if it was an entry of the cache"
        )


def blame_file(path: str) -> None:
    """Raise what is wrong with a file that no library opens, where that is plain to see; else do nothing.

    Raises
    ------
    ReadError
        If this user may not read it.
    UnsupportedSourceError
        If it is a folder, or empty.
    """
    if not is_file_path(path):
        return
    if os.path.isdir(path):  # noqa: PTH112
        raise UnsupportedSourceError(f"{path} is a folder; name a file in it")
    if not os.access(path, os.R_OK):
        raise ReadError(f"{path}: this user may not read it; ask whoever owns it for the right to")
    if not os.path.getsize(path):  # noqa: PTH202
        raise UnsupportedSourceError(f"{path} is empty; copy it again from where it came from")
