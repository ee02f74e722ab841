"""Facts in the headers of TIFF, JPEG, PNG and WebP files that GDAL does not pass on.

Pure parsing of bytes; nothing is decoded. A header that makes no sense says nothing: whether the file can be
read at all is for GDAL to say.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.readers.orientation import UPRIGHT, Orientation

__all__ = ["HeaderFacts", "read_header"]

#: Takes an offset and a number of bytes; returns what is there, shorter at the end of the file.
ReadAt = Callable[[int, int], bytes]

_TAG_ORIENTATION, _TAG_COLORMAP = 274, 320
#: struct codes of the TIFF field types that are read: BYTE, SHORT, LONG, LONG8.
_FIELD_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the header says.

    Parameters
    ----------
    orientation : Orientation
    colormap : ndarray of uint8, shape (n, 3), or None
        RGB colours of a TIFF palette. GDAL (3.6 at least) rounds the 16-bit entries down to one less than the
        8-bit colour they were made from; here it is the high byte, which is what was meant.
    """

    orientation: Orientation = UPRIGHT
    colormap: NDArray[np.uint8] | None = None


def read_header(read_at: ReadAt, directory: int = 0, offset: int | None = None) -> HeaderFacts:
    """Return the facts in a file's header.

    Parameters
    ----------
    read_at : callable
        ``(offset, size) -> bytes``.
    directory : int
        Which directory (page) of a TIFF, from 0.
    offset : int, optional
        Where the directory of a TIFF begins, instead of its number.
    """
    magic = read_at(0, 16)
    try:
        if magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _facts(_read_ifd(read_at, 0, directory, offset))
        if magic[:3] == b"\xff\xd8\xff":
            return _facts(_in_exif(read_at, _find_jpeg_exif(read_at)))
        if magic[:8] == b"\x89PNG\r\n\x1a\n":
            return _facts(_in_exif(read_at, _find_png_exif(read_at)))
        if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
            return _facts(_in_exif(read_at, _find_webp_exif(read_at)))
    except struct.error:
        # The file ends in the middle of its header.
        return HeaderFacts()
    return HeaderFacts()


def _facts(tags: dict[int, tuple[int, ...]]) -> HeaderFacts:
    orientation = tags.get(_TAG_ORIENTATION, (1,))
    values = tags.get(_TAG_COLORMAP)
    colormap = None
    if values is not None and len(values) % 3 == 0:
        table: NDArray[Any] = np.asarray(values, dtype=np.uint16).reshape(3, -1).T
        # Old writers put 8-bit colours where 16-bit ones belong; libtiff's tools make the same guess.
        colormap = (table if table.max(initial=0) < 256 else table >> 8).astype(np.uint8)
    return HeaderFacts(Orientation.of(orientation[0] if orientation else 1), colormap)


def _unpack(read_at: ReadAt, offset: int, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, read_at(offset, struct.calcsize(layout)))


def _read_ifd(
    read_at: ReadAt, base: int, directory: int = 0, offset: int | None = None
) -> dict[int, tuple[int, ...]]:
    """Return the tags of interest in one directory of the TIFF that begins at ``base``.

    *Source:* TIFF 6.0 section 2, and the BigTIFF design
    (https://www.awaresystems.be/imaging/tiff/bigtiff.html).
    """
    order = "<" if read_at(base, 2) == b"II" else ">"
    (version,) = _unpack(read_at, base + 2, order + "H")
    if version == 43:
        first, pointer, count_layout, entry_layout, inline = base + 8, "Q", "Q", "HHQ", 8
    else:
        first, pointer, count_layout, entry_layout, inline = base + 4, "I", "H", "HHI", 4
    head = struct.calcsize(order + entry_layout)
    entry_size = head + inline
    (start,) = _unpack(read_at, first, order + pointer) if offset is None else (offset,)
    for _ in range(directory if offset is None else 0):
        (count,) = _unpack(read_at, base + start, order + count_layout)
        after = base + start + struct.calcsize(order + count_layout) + count * entry_size
        (start,) = _unpack(read_at, after, order + pointer)
    (count,) = _unpack(read_at, base + start, order + count_layout)
    table_at = base + start + struct.calcsize(order + count_layout)
    table = read_at(table_at, count * entry_size)
    tags = {}
    for position in range(0, len(table) - entry_size + 1, entry_size):
        tag, kind, length = struct.unpack_from(order + entry_layout, table, position)
        if tag not in (_TAG_ORIENTATION, _TAG_COLORMAP) or kind not in _FIELD_TYPES or length > 3 * 65536:
            continue
        layout = f"{order}{length}{_FIELD_TYPES[kind]}"
        value_at = table_at + position + head
        if struct.calcsize(layout) > inline:
            (value_offset,) = _unpack(read_at, value_at, order + pointer)
            value_at = base + value_offset
        tags[tag] = _unpack(read_at, value_at, layout)
    return tags


def _in_exif(read_at: ReadAt, offset: int | None) -> dict[int, tuple[int, ...]]:
    """Return the tags of an EXIF block: a small TIFF, sometimes after the six bytes of JPEG's marker."""
    if offset is None:
        return {}
    if read_at(offset, 6) == b"Exif\0\0":
        offset += 6
    return _read_ifd(read_at, offset) if read_at(offset, 4) in (b"II*\0", b"MM\0*") else {}


def _find_jpeg_exif(read_at: ReadAt) -> int | None:
    # Segments up to the start of the scan: marker, then a length that counts itself.
    offset = 2
    while True:
        marker, kind, length = _unpack(read_at, offset, ">BBH")
        if marker != 0xFF or kind in (0xDA, 0xD9):
            return None
        if kind == 0xFF:  # a fill byte before the marker
            offset += 1
            continue
        if kind == 0xE1 and read_at(offset + 4, 6) == b"Exif\0\0":
            return offset + 4
        offset += 2 + length


def _find_png_exif(read_at: ReadAt) -> int | None:
    # Some writers put eXIf after the pixels, so the search goes to the end.
    offset = 8
    while True:
        length, kind = _unpack(read_at, offset, ">I4s")
        if kind == b"eXIf":
            return offset + 8
        if kind == b"IEND":
            return None
        offset += 12 + length


def _find_webp_exif(read_at: ReadAt) -> int | None:
    offset = 12
    while True:
        head = read_at(offset, 8)
        if len(head) < 8:
            return None
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return offset + 8
        offset += 8 + length + length % 2
