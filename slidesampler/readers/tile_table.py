"""Tile tables: all that the compiled reader must know of a TIFF, in a file beside it.

With its table a TIFF is opened without GDAL and without parsing its directories. What lies where in a table::

    b"sstiles1", length of the header, CRC-32 of header and levels, number of levels, length of the file
    header       JSON: what the image is
    levels       a record each, see _LEVEL: how it is stored, where in this file its arrays are; then the masks
    arrays       offsets and sizes of tiles, uint64, each starting at a multiple of 8; JPEG tables

A table is of one file and serves no other: it holds the size of the TIFF, and its modification time or a hash
of its first bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import zlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from slidesampler.errors import CorruptEntryError, SourceMissingError
from slidesampler.mapping import map_file
from slidesampler.readers.tile_index import TileLayout

__all__ = ["TABLE_SUFFIX", "TiffStamp", "TileTable", "load_table", "write_table"]

#: Of the names of table files.
TABLE_SUFFIX = ".tiles"

_MAGIC = b"sstiles1"
#: Magic, length of the header, CRC-32, levels and masks, length of the file.
_HEAD = struct.Struct("<8sIIIIQ")
#: Places of offsets, counts and JPEG tables among the arrays, length of the tables, height, width; tile height,
#: tile width, samples, itemsize, codec, predictor; ycbcr, swapped, packed; the empty value; the dtype.
_LEVEL = struct.Struct("<6Q6I3?5x8s8s")
#: Smaller tables are read instead of mapped, which is quicker.
_MAP_FROM_BYTES = 1 << 14
#: How much of a TIFF is in its stamp: of a COG its directories.
_STAMP_BYTES = 4096
_DTYPES = {
    f"{kind}{bits}".encode().ljust(8, b"\0"): (f"{kind}{bits}", bits // 8)
    for kind in ("uint", "int", "float")
    for bits in (8, 16, 32, 64)
}
_VALID = ("all", "sample", "masks", "nodata")
Valid = Literal["all", "sample", "masks", "nodata"]


class TiffStamp(NamedTuple):
    """What a TIFF was when its table was made."""

    size_bytes: int
    #: Modification time of a file used in place; 0 for one of the cache, which may be copied elsewhere.
    mtime_ns: int
    #: Hash of the first bytes of a file of the cache; empty for others.
    head: str

    @classmethod
    def of(cls, descriptor: int, *, owned: bool) -> TiffStamp:
        """Return the stamp of an open file."""
        stat = os.fstat(descriptor)
        if not owned:
            return cls(stat.st_size, stat.st_mtime_ns, "")
        head = hashlib.blake2b(os.pread(descriptor, _STAMP_BYTES, 0), digest_size=16)
        return cls(stat.st_size, 0, head.hexdigest())


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """What a TIFF is and where its tiles lie.

    Parameters
    ----------
    stamp : TiffStamp
    owned : bool
        Whether the file is one of the cache.
    reader : str
        The kind of reader (see :class:`.spec.ReaderSpec`) that reads the same pixels without the table.
    shape : (int, int, int)
        ``(H, W, C)``.
    channels : tuple of str
    mpp : (float, float) or None
        Micrometres per pixel, ``(y, x)``.
    samples : tuple of int
        Which samples of the file are the channels.
    valid : {"all", "sample", "masks", "nodata"}
        Which pixels are valid: all; those whose sample ``valid_value`` is not 0; those in the mask pages; those
        of which some channel is not ``valid_value``.
    valid_value : int
    image, masks : tuple of TileLayout
        Of each level, finest first; no masks unless ``valid`` says so.
    """

    stamp: TiffStamp
    owned: bool
    reader: str
    shape: tuple[int, int, int]
    channels: tuple[str, ...]
    mpp: tuple[float, float] | None
    samples: tuple[int, ...]
    valid: Valid
    valid_value: int
    image: tuple[TileLayout, ...]
    masks: tuple[TileLayout, ...] = ()

    @property
    def dtype(self) -> str:
        """Of the pixels: a numpy name."""
        return self.image[0].dtype

    def is_of(self, descriptor: int) -> bool:
        """Whether an open file is the one that the table was made of."""
        return TiffStamp.of(descriptor, owned=self.owned) == self.stamp


def write_table(path: str | os.PathLike[str], table: TileTable) -> None:
    """Write a table into a folder that nobody reads yet.

    Raises
    ------
    OSError
        If the disk does not take it.
    """
    arrays: list[bytes] = []
    at = 0

    def place(data: bytes) -> int:
        nonlocal at
        start = at
        arrays.append(data + bytes(-len(data) % 8))
        at += len(arrays[-1])
        return start

    levels = b"".join(
        _LEVEL.pack(
            place(np.asarray(item.offsets, np.uint64).tobytes()),
            place(np.asarray(item.counts, np.uint64).tobytes()),
            place(item.jpeg_tables),
            len(item.jpeg_tables),
            *item[3:-2],
            item.empty,
            item.dtype.encode(),
        )
        for item in (*table.image, *table.masks)
    )
    header = {
        "byteorder": sys.byteorder,
        "stamp": table.stamp,
        "owned": table.owned,
        "reader": table.reader,
        "shape": table.shape,
        "channels": table.channels,
        "mpp": table.mpp,
        "samples": table.samples,
        "valid": [table.valid, table.valid_value],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_HEAD.size + len(text)) % 8)
    crc = zlib.crc32(levels, zlib.crc32(text))
    total = _HEAD.size + len(text) + len(levels) + at
    counts = len(table.image), len(table.masks)
    with open(path, "wb") as file:
        file.write(_HEAD.pack(_MAGIC, len(text), crc, *counts, total))
        file.writelines((text, levels, *arrays))


def load_table(path: str | os.PathLike[str]) -> TileTable:
    """Return the table in a file; its arrays stay in the file, which is mapped.

    The header is checked, and that nothing is cut off; what the arrays hold is checked tile by tile as they are
    read, and by the sum that the record of the entry has.

    Raises
    ------
    SourceMissingError
        If there is no such file.
    CorruptEntryError
        If it is not a table, or damaged so that it shows.
    """
    try:
        data = _contents(path)
        return _table(data)
    except FileNotFoundError:
        raise SourceMissingError(
            f"{path} is not there, but the record of its entry names it; build the cache again"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise CorruptEntryError(f"{path} is no table of tiles ({what}); build the cache again") from error


def _contents(path: str | os.PathLike[str]) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size >= _MAP_FROM_BYTES:
            return map_file(descriptor, size).data
        return memoryview(os.read(descriptor, size))
    finally:
        os.close(descriptor)


def _table(data: memoryview) -> TileTable:
    magic, length, crc, images, masks, total = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it begins as another file does")
    start = _HEAD.size + length
    stop = start + (images + masks) * _LEVEL.size
    if total != len(data) or stop > total:
        raise ValueError(f"it has {len(data)} bytes, it says {total}")
    head, arrays = bytes(data[:stop]), data[stop:]
    if zlib.crc32(head[_HEAD.size :]) != crc:
        raise ValueError("its header is damaged")
    header = json.loads(head[_HEAD.size : start])
    if header["byteorder"] != sys.byteorder:
        raise ValueError("it was made on a machine of the other byte order")
    # Not iter_unpack: it exports the view for as long as it lives, and a garbage collection that comes upon
    # both in the traceback of an error ends the process.
    layouts = tuple(
        _layout(_LEVEL.unpack_from(head, place), arrays) for place in range(start, stop, _LEVEL.size)
    )
    size_bytes, mtime_ns, stamp = header["stamp"]
    height, width, count = header["shape"]
    valid, value = header["valid"]
    table = TileTable(
        TiffStamp(_whole(size_bytes), _whole(mtime_ns), _text(stamp)),
        header["owned"] is True,
        _text(header["reader"]),
        (_whole(height), _whole(width), _whole(count)),
        tuple(map(_text, header["channels"])),
        _mpp(header["mpp"]),
        tuple(map(_whole, header["samples"])),
        valid,
        _whole(value),
        layouts[:images],
        layouts[images:],
    )
    _check(table)
    return table


def _layout(record: tuple[Any, ...], arrays: memoryview) -> TileLayout:
    offsets, counts, tables, length, *numbers, empty, name = record
    height, width, tile_height, tile_width, _, itemsize, *_ = numbers
    dtype, size = _DTYPES[name]
    if not (height and width and tile_height and tile_width) or itemsize != size:
        raise ValueError(f"a level of {height} x {width} pixels of {itemsize} bytes")
    table_bytes = 8 * -(-height // tile_height) * -(-width // tile_width)
    last = max(offsets + table_bytes, counts + table_bytes, tables + length)
    if last > len(arrays) or offsets % 8 or counts % 8:
        raise ValueError("an array is not where it says")
    return TileLayout._make(
        (
            arrays[offsets : offsets + table_bytes],
            arrays[counts : counts + table_bytes],
            bytes(arrays[tables : tables + length]),
            *numbers,
            empty[:size],
            dtype,
        )
    )


def _check(table: TileTable) -> None:
    """Raise ValueError where what the header says of image, levels and masks does not agree."""
    if table.valid not in _VALID:
        raise ValueError(f"{table.valid!r} is none of {', '.join(_VALID)}")
    levels = [(item.height, item.width) for item in table.image]
    if not levels or levels[0] != table.shape[:2] or len(table.samples) != table.shape[2]:
        raise ValueError(f"the image is {table.shape}, its levels {levels}, its samples {table.samples}")
    kinds = {(item.samples, item.dtype) for item in table.image}
    used = (*table.samples, *([table.valid_value] if table.valid == "sample" else []))
    if len(kinds) != 1 or not all(0 <= sample < table.image[0].samples for sample in used):
        raise ValueError(f"the samples are {used}, the levels have {sorted(kinds)}")
    masks = [(item.height, item.width) for item in table.masks]
    if masks != (levels if table.valid == "masks" else []):
        raise ValueError(f"the masks are {masks}, the levels {levels}")
    if any((item.samples, item.dtype) != (1, "uint8") for item in table.masks):
        raise ValueError("a mask is not of one uint8")
    if len(table.channels) not in (0, table.shape[2]):
        raise ValueError(f"{len(table.channels)} names of {table.shape[2]} channels")


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _mpp(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    y, x = (float(number) for number in value)
    if not (0 < y < float("inf") and 0 < x < float("inf")):
        raise ValueError(f"{value!r} is no size of a pixel")
    return y, x
