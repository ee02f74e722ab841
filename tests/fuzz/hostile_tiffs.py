"""Whole TIFFs with damaged directories, and damaged tables of tiles: hostile_tiffs.py [--seed N] [--seconds N].

A finding is an exception that is not the package's own or does not name the file, a file that takes longer than
five seconds, or memory that grows by more than half a gigabyte. It is printed, its file is left in the work
folder, and the exit code is 1. What ends the process ends it: the file that did is there, too, as last.tif.
"""

from __future__ import annotations

import argparse
import logging
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from make_seeds import pixels
from osgeo import gdal

from slidesampler.errors import SlideSamplerError
from slidesampler.geometry import Window
from slidesampler.readers import ReaderSpec, open_reader
from slidesampler.readers.cog import CogReader
from slidesampler.readers.gdal import GdalReader
from slidesampler.readers.tile_index import TileIndex
from slidesampler.readers.tile_survey import survey_tiles
from slidesampler.readers.tile_table import _HEAD, _LEVEL, load_table, write_table
from slidesampler.readers.tiled import TiledReader

SECONDS_A_FILE = 5
GROWTH_KB = 512 * 1024
SIDE = 128

BASES = {
    "deflate": ("COMPRESS=DEFLATE",),
    "jpeg": ("COMPRESS=JPEG", "PHOTOMETRIC=YCBCR"),
    "lzw": ("COMPRESS=LZW", "PREDICTOR=2", "ENDIANNESS=BIG"),
    "zstd": ("COMPRESS=ZSTD", "BIGTIFF=YES"),
    "plain": ("COMPRESS=NONE",),
}
#: Sizes, counts and offsets at the edges of what their types hold.
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    255,
    65535,
    2**16,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63,
    2**64 - 1,
)
#: Tags that the readers look at.
TAGS = (
    254,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    277,
    279,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    338,
    339,
    347,
    530,
    42113,
)


class Entry(NamedTuple):
    """Where the fields of a tag lie in the file, and struct's format of its count."""

    at: int
    code: int
    #: Of one of its values.
    size: int
    value_at: int
    count: int


class Directory(NamedTuple):
    """A directory: its entries, and the place of the offset of the next one."""

    at: int
    entries: tuple[Entry, ...]
    next_at: int


SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Tiff:
    """A TIFF whose directories can be written over."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = self.get(2, 2) == 43
        self.width = 8 if self.big else 4
        self.directories = tuple(self._parse())

    def get(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], "little" if self.order == "<" else "big")

    def put(self, at: int, size: int, value: int) -> None:
        value &= 256**size - 1
        self.data[at : at + size] = value.to_bytes(size, "little" if self.order == "<" else "big")

    def _parse(self) -> Iterator[Directory]:
        at = self.get(8 if self.big else 4, self.width)
        head, step = (8, 20) if self.big else (2, 12)
        while at:
            entries = []
            for start in range(at + head, at + head + step * self.get(at, head), step):
                size, count = SIZES[self.get(start + 2, 2)], self.get(start + 4, self.width)
                inline = size * count <= self.width
                value_at = start + 4 + self.width if inline else self.get(start + 4 + self.width, self.width)
                entries.append(Entry(start, self.get(start, 2), size, value_at, count))
            end = at + head + step * len(entries)
            yield Directory(at, tuple(entries), end)
            at = self.get(end, self.width)


def number(rng: np.random.Generator) -> int:
    if rng.random() < 0.7:
        return int(rng.choice(np.array(NUMBERS, object)))
    return int(rng.integers(0, 2 ** int(rng.integers(1, 40))))


def change_value(tiff: Tiff, entry: Entry, rng: np.random.Generator) -> None:
    which = int(rng.integers(min(entry.count, 50))) if entry.count else 0
    tiff.put(entry.value_at + which * entry.size, entry.size, number(rng))


def change_type(tiff: Tiff, entry: Entry, rng: np.random.Generator) -> None:
    tiff.put(entry.at + 2, 2, int(rng.integers(0, 20)))


def change_count(tiff: Tiff, entry: Entry, rng: np.random.Generator) -> None:
    tiff.put(
        entry.at + 4, tiff.width, number(rng) if rng.random() < 0.7 else entry.count + int(rng.integers(-2, 3))
    )


def change_place(tiff: Tiff, entry: Entry, rng: np.random.Generator) -> None:
    tiff.put(entry.at + 4 + tiff.width, tiff.width, number(rng))


def change_code(tiff: Tiff, entry: Entry, rng: np.random.Generator) -> None:
    tiff.put(entry.at, 2, 65000 if rng.random() < 0.5 else int(rng.choice(TAGS)))


CHANGES: tuple[Callable[[Tiff, Entry, np.random.Generator], None], ...] = (
    change_value,
    change_value,
    change_value,
    change_type,
    change_count,
    change_place,
    change_code,
)


def chain(tiff: Tiff, rng: np.random.Generator) -> None:
    """Lead from one directory to another, in circles too, or to nowhere; or lie about its length."""
    directory = tiff.directories[int(rng.integers(len(tiff.directories)))]
    if rng.random() < 0.3:
        tiff.put(directory.at, 8 if tiff.big else 2, number(rng))
        return
    target = (
        tiff.directories[int(rng.integers(len(tiff.directories)))].at if rng.random() < 0.6 else number(rng)
    )
    tiff.put(directory.next_at, tiff.width, target)


def mutate(base: bytes, rng: np.random.Generator) -> bytes:
    """Return a damaged copy."""
    tiff = Tiff(base)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 6]))):
        kind = rng.random()
        directory = tiff.directories[int(rng.integers(len(tiff.directories)))]
        if kind < 0.8:
            known = [entry for entry in directory.entries if entry.code in TAGS]
            entry = known[int(rng.integers(len(known)))]
            CHANGES[int(rng.integers(len(CHANGES)))](tiff, entry, rng)
        elif kind < 0.9:
            chain(tiff, rng)
        else:
            tiff.data[int(rng.integers(len(tiff.data)))] = int(rng.integers(256))
    if rng.random() < 0.1:
        del tiff.data[int(rng.integers(len(tiff.data))) :]
    return bytes(tiff.data)


def write_bases(folder: Path) -> dict[str, bytes]:
    """Return intact files with overviews, some with masks or alpha, the smallest that have all parts."""
    gdal.UseExceptions()
    gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", "YES")
    found = {}
    for name, options in BASES.items():
        path = folder / "base.tif"
        image = pixels(3, side=SIDE)
        creation = ["TILED=YES", "BLOCKXSIZE=32", "BLOCKYSIZE=32", "INTERLEAVE=PIXEL", *options]
        dataset = gdal.GetDriverByName("GTiff").Create(str(path), SIDE, SIDE, 3, gdal.GDT_Byte, creation)
        for band in range(3):
            dataset.GetRasterBand(band + 1).WriteArray(image[..., band])
        dataset.CreateMaskBand(gdal.GMF_PER_DATASET)
        dataset.GetRasterBand(1).GetMaskBand().WriteArray((image[..., 0] > 9) * np.uint8(255))
        del dataset
        dataset = gdal.OpenEx(str(path), gdal.OF_UPDATE)
        dataset.BuildOverviews("NEAREST", [2])
        del dataset
        found[name] = path.read_bytes()
        path.unlink()
    gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", None)
    return found


def use(reader) -> None:
    """Read corners of all levels, and what is valid there."""
    try:
        for number_, level in enumerate(reader.levels[:4]):
            height, width = min(level.height, 70), min(level.width, 70)
            for window in (
                Window(0, 0, height, width),
                Window(level.height - height, level.width - width, height, width),
            ):
                for read in (reader.read, reader.read_valid):
                    try:
                        read(window, number_)
                    except SlideSamplerError as error:
                        if reader.name not in str(error):
                            raise NamelessError(str(error)) from error
    finally:
        reader.close()


def use_index(path: str) -> None:
    index = TileIndex(path)
    for side in (SIDE, SIDE // 2):
        for mask in (False, True):
            if index.has(side, side, mask=mask):
                index.level(side, side, mask=mask)


WAYS: dict[str, Callable[[str], None]] = {
    "CogReader": lambda path: use(CogReader(path)),
    "GdalReader": lambda path: use(GdalReader(path)),
    "open_reader": lambda path: use(open_reader(ReaderSpec("auto", path))),
    "TileIndex": use_index,
}


def use_table(path: str, table: Path) -> None:
    use(TiledReader(path, load_table(table)))


def write_table_of(path: str, table: Path) -> bytes:
    reader = GdalReader(path)
    write_table(table, survey_tiles(reader, path, "gdal", owned=False))
    reader.close()
    return table.read_bytes()


def mutate_table(base: bytes, rng: np.random.Generator) -> bytes:
    """Return a damaged copy of a table of tiles whose check sum and length are as they should be."""
    data = bytearray(base)
    magic, length, _, images, masks, _ = _HEAD.unpack_from(data)
    start = _HEAD.size + length
    stop = start + (images + masks) * _LEVEL.size
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        kind = rng.random()
        if kind < 0.5:
            width = int(rng.choice([1, 4, 8]))
            at = start + int(rng.integers((stop - start) // width)) * width
            data[at : at + width] = (number(rng) % 256**width).to_bytes(width, "little")
        elif kind < 0.7:
            data[int(rng.integers(_HEAD.size, start))] = int(rng.choice(list(b'0123456789-.e"[]{},nt ')))
        elif kind < 0.95:
            at = stop + 8 * int(rng.integers((len(data) - stop) // 8))
            data[at : at + 8] = (number(rng) % 2**64).to_bytes(8, "little")
        else:
            images, masks = int(rng.integers(5)), int(rng.integers(5))
    if rng.random() < 0.1:
        del data[int(rng.integers(stop, len(data))) :]
    crc = zlib.crc32(data[_HEAD.size : _HEAD.size + length + (images + masks) * _LEVEL.size])
    _HEAD.pack_into(data, 0, magic, length, crc, images, masks, len(data))
    return bytes(data)


class NamelessError(Exception):
    """A message does not name the file."""


class TooLongError(Exception):
    """A file takes longer than it may."""


def too_long(signum: int, frame: object) -> None:
    raise TooLongError


def offences(path: Path, ways: dict[str, Callable[[str], None]] = WAYS) -> Iterator[str]:
    """Yield what each way to open a file does wrong."""
    for name, way in ways.items():
        signal.alarm(SECONDS_A_FILE)
        try:
            way(str(path))
        except SlideSamplerError as error:
            # Or that of the table of its tiles.
            if str(path.parent) not in str(error):
                yield f"{name}: a message that does not name the file: {error}"
        except Exception:
            yield f"{name}: {''.join(traceback.format_exc(limit=-4))}"
        finally:
            signal.alarm(0)


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(folder: Path, seed: int, count: int, seconds: float) -> int:
    """Print what is found, and return how many files that were."""
    signal.signal(signal.SIGALRM, too_long)
    # It tells of everything that it overlooks.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    rng = np.random.default_rng(seed)
    bases = write_bases(folder)
    path, table = folder / "last.tif", folder / "last.tiles"
    intact, tables = {}, {}
    for name, base in bases.items():
        path.write_bytes(base)
        assert not list(offences(path)), "an intact file"
        intact[name] = folder / f"{name}.tif"
        intact[name].write_bytes(base)
        tables[name] = write_table_of(str(intact[name]), table)
    start, tried, found = time.monotonic(), 0, 0
    peak = peak_kb()
    while tried < count if count else time.monotonic() - start < seconds:
        name = list(bases)[tried % len(bases)]
        path.write_bytes(mutate(bases[name], rng))
        table.write_bytes(mutate_table(tables[name], rng))
        wrong = [*offences(path), *offences(intact[name], {"TiledReader": lambda tiff: use_table(tiff, table)})]
        grown = peak_kb() - peak
        peak += grown
        if grown > GROWTH_KB:
            wrong.append(f"memory grew by {grown} KB")
        tried += 1
        if wrong:
            for last in (path, table):
                shutil.copy(last, folder / f"found-{seed}-{tried}{last.suffix}")
            sys.stdout.write(f"found-{seed}-{tried}\n" + "".join(f"  {text}\n" for text in wrong))
            found += 1
    sys.stdout.write(f"{tried} files, {found} with findings\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return int(run(given.work or Path(temporary), given.seed, given.count, given.seconds) > 0)


if __name__ == "__main__":
    sys.exit(main())
