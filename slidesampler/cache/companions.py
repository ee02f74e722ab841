"""Which files belong to a source besides the one the manifest names.

A slide may be several files: MIRAX keeps its pixels in a folder beside the ``.mrxs``, Hamamatsu's ``.vms`` and
``.vmu`` name images beside them, a DICOM slide is a series of files in one folder, a VRT names its sources. An
edit of any of them is an edit of the slide, so all of them are in its identity.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

__all__ = ["companion_files", "local_file"]

#: A sidecar GDAL reads pixels, masks or the meaning of pixels from: appended to the name, or instead of the
#: suffix.
_SIDECARS_APPENDED = (".msk", ".aux.xml", ".hdr")
_SIDECARS_INSTEAD = (".hdr",)
#: The tag SeriesInstanceUID (0020,000E) with an explicit value representation, as DICOM PS3.5 section 7.1.2
#: lays it out, little-endian: group, element, "UI", 16-bit length.
_DICOM_SERIES = re.compile(rb"\x20\x00\x0e\x00UI(..)", re.DOTALL)
_DICOM_HEAD_BYTES = 1 << 16
#: A VRT or a key file of Hamamatsu is small; a larger file with that suffix is something else.
_TEXT_LIMIT_BYTES = 1 << 26


def companion_files(path: Path) -> tuple[Path, ...]:
    """Return the other files that a source consists of, sorted.

    Parameters
    ----------
    path : Path
        An existing local file.

    Raises
    ------
    OSError
        If the file or its folder cannot be read.
    """
    suffix, name = path.suffix.lower(), str(path)
    sidecars = [name + sidecar for sidecar in _SIDECARS_APPENDED]
    sidecars += [name.removesuffix(path.suffix) + sidecar for sidecar in _SIDECARS_INSTEAD]
    # Text until one is there: this is on the way to the first window of a slide.
    found = {Path(item) for item in sidecars if os.path.isfile(item)}  # noqa: PTH113
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        found |= {item for item in folder.rglob("*") if item.is_file()} if folder.is_dir() else set()
    elif suffix in (".vms", ".vmu"):
        found |= _named_in_ini(path)
    elif suffix == ".vrt":
        found |= _named_in_vrt(path)
    elif suffix in (".dcm", ".dicom"):
        found |= _same_series(path)
    found.discard(path)
    return tuple(sorted(item for item in found if item.is_file()))


def local_file(name: str) -> Path | None:
    """Return the existing local file that a source's name goes through, or None where there is none.

    Parameters
    ----------
    name : str
        A path, a GDAL ``/vsi...`` name (``/vsizip//data/a.zip/x.tif`` goes through ``/data/a.zip``), or a
        ``DRIVER:...`` name (``NETCDF:"/data/a.nc":band`` goes through ``/data/a.nc``).
    """
    if name.startswith("array://"):
        return None
    if name.startswith("/vsi"):
        rest = re.sub(r"^(/vsi[a-z0-9_]+/)+", "", name)
        rest = rest.replace("{", "").replace("}", "")
        candidates = [Path(rest), *Path(rest).parents]
        return next((item for item in candidates if item.is_file()), None)
    path = Path(name)
    if path.is_file():
        return path
    pieces = name.replace('"', "").split(":")
    for start in range(1, len(pieces)):
        for stop in range(len(pieces), start, -1):
            item = Path(":".join(pieces[start:stop]))
            if item.is_absolute() and item.is_file():
                return item
    return None


def _named_in_ini(path: Path) -> set[Path]:
    values = (line.partition("=")[2].strip() for line in _text(path).splitlines())
    return {path.with_name(value) for value in values if value and os.sep not in value}


def _named_in_vrt(path: Path) -> set[Path]:
    named = re.findall(r"<Source(?:Filename|Dataset)[^>]*>([^<]+)<", _text(path))
    # An absolute name replaces the folder when joined, a relative one starts from it.
    return {path.parent / name.strip() for name in named}


def _text(path: Path) -> str:
    if path.stat().st_size > _TEXT_LIMIT_BYTES:
        return ""
    return path.read_text("utf-8", errors="replace")


def _same_series(path: Path) -> set[Path]:
    """Files beside a DICOM file that belong to its series, and those that do not say which they belong to."""
    series = _series_of(path)
    beside = (item for item in path.parent.iterdir() if item.suffix.lower() in (".dcm", ".dicom"))
    return {item for item in beside if series is None or _series_of(item) in (series, None)}


def _series_of(path: Path) -> bytes | None:
    stat = path.stat()
    return _read_series(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_series(path: str, _size: int, _mtime_ns: int) -> bytes | None:
    # Size and time are there for the cache of results: an edited file is read again.
    with open(path, "rb") as file:
        head = file.read(_DICOM_HEAD_BYTES)
    match = _DICOM_SERIES.search(head)
    if match is None:
        return None
    length = int.from_bytes(match[1], "little")
    return head[match.end() : match.end() + length].rstrip(b"\0 ")
