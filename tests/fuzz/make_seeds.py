"""Real tiles of every kind that the decoder knows, as inputs of the fuzzer: make_seeds.py FOLDER."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from fuzz_input import (
    COUNT_LIES,
    DEFLATE,
    JPEG,
    LZW,
    NONE,
    OFFSET_LIES,
    PACKED,
    SWAP,
    YCBCR,
    ZSTD,
    FuzzInput,
)
from numpy.typing import NDArray
from osgeo import gdal
from PIL import Image

gdal.UseExceptions()

_CODES = {
    "uint8": gdal.GDT_Byte,
    "uint16": gdal.GDT_UInt16,
    "float32": gdal.GDT_Float32,
    "float64": gdal.GDT_Float64,
}
_NAMES = {"NONE": NONE, "DEFLATE": DEFLATE, "ZSTD": ZSTD, "LZW": LZW}
TILE = 32


def pixels(samples: int, dtype: str = "uint8", side: int = 2 * TILE) -> NDArray[np.generic]:
    """Return waves with runs of equal values in them, (side, side, samples)."""
    y, x = np.mgrid[:side, :side]
    image = np.stack([np.sin(y / (5 + c)) * np.cos(x / (4 + c)) * 110 + 128 for c in range(samples)], -1)
    image[4:9] = image[4]
    image[12:20, 3:24] = 7
    return image.astype(dtype)


def tiles_of(image: NDArray[np.generic], *options: str) -> tuple[list[bytes], bytes, bool]:
    """Return the tiles that GDAL writes, the JPEG tables they share, and whether they are big-endian."""
    height, width, samples = image.shape
    path = "/vsimem/seed.tif"
    creation = ["TILED=YES", f"BLOCKXSIZE={TILE}", f"BLOCKYSIZE={TILE}", "INTERLEAVE=PIXEL", *options]
    dataset = gdal.GetDriverByName("GTiff").Create(
        path, width, height, samples, _CODES[image.dtype.name], creation
    )
    for band in range(samples):
        dataset.GetRasterBand(band + 1).WriteArray(image[..., band])
    del dataset
    file = gdal.VSIFOpenL(path, "rb")
    data = bytes(gdal.VSIFReadL(1, gdal.VSIStatL(path).size, file))
    gdal.VSIFCloseL(file)
    gdal.Unlink(path)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[0]
        found = [
            data[start : start + size]
            for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        return found, page.jpegtables or b"", tiff.byteorder == ">"


AREAS = ((0, TILE, 0, TILE), (8, 21, 3, 30), (31, 32, 0, 9), (0, 1, 31, 32))


def lossless() -> Iterator[FuzzInput]:
    for name, codec in _NAMES.items():
        for predictor, samples, dtype, order in (
            (1, 1, "uint8", "LITTLE"),
            (1, 3, "uint8", "BIG"),
            (2, 3, "uint8", "LITTLE"),
            (2, 3, "uint16", "LITTLE"),
            (2, 2, "uint16", "BIG"),
            (3, 1, "float32", "LITTLE"),
            (3, 2, "float64", "LITTLE"),
        ):
            if codec == NONE and predictor != 1:
                continue
            options = (f"COMPRESS={name}", f"PREDICTOR={predictor}", f"ENDIANNESS={order}")
            image = pixels(samples, dtype)
            tiles, tables, swap = tiles_of(image, *options[: 3 if codec != NONE else 1])
            for area, tile in zip(AREAS, tiles, strict=True):
                yield FuzzInput(
                    codec,
                    predictor,
                    samples,
                    image.dtype.itemsize,
                    SWAP * swap,
                    (TILE, TILE),
                    area,
                    tables,
                    b"",
                    tile,
                )
        tiles, _, _ = tiles_of(pixels(1) % 2, f"COMPRESS={name}", "NBITS=1")
        yield FuzzInput(codec, 1, 1, 1, PACKED, (TILE, TILE), AREAS[1], b"", tiles[1], tiles[0])


def by_pillow(image: NDArray[np.generic], mode: str | None = None, **options: object) -> bytes:
    """Return a JPEG of its own: progressive, of other samplings of chroma, with restarts."""
    stream = io.BytesIO()
    rows, columns, samples = image.shape
    mode = mode or {1: "L", 3: "RGB"}[samples]
    Image.frombytes(mode, (columns, rows), image.tobytes()).save(stream, "jpeg", **options)
    return stream.getvalue()


def jpegs() -> Iterator[FuzzInput]:
    for samples, options, flags in (
        (1, (), 0),
        (3, ("PHOTOMETRIC=RGB",), 0),
        (3, ("PHOTOMETRIC=YCBCR",), YCBCR),
        (3, ("PHOTOMETRIC=YCBCR", "JPEGTABLESMODE=0"), YCBCR),
    ):
        tiles, tables, _ = tiles_of(pixels(samples), "COMPRESS=JPEG", *options)
        for k, area in enumerate(AREAS):
            yield FuzzInput(JPEG, 1, samples, 1, flags, (TILE, TILE), area, tables, b"", tiles[k])
        # After another tile that brings tables of its own.
        whole = tiles_of(pixels(samples), "COMPRESS=JPEG", *options, "JPEGTABLESMODE=0", "JPEG_QUALITY=40")[0]
        yield FuzzInput(JPEG, 1, samples, 1, flags, (TILE, TILE), AREAS[1], tables, whole[0], tiles[1])
        yield FuzzInput(JPEG, 1, samples, 1, flags, (TILE, TILE), AREAS[1], b"", whole[0], tiles[1])
    image = pixels(3, side=TILE)
    for options in (
        {"progressive": True},
        {"progressive": True, "subsampling": 0},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:1:1"},
        {"quality": 30, "restart_marker_blocks": 1},
        {"restart_marker_blocks": 1, "subsampling": 0},
        {"restart_marker_blocks": 3, "subsampling": 0},
        {"restart_marker_rows": 1, "subsampling": "4:2:2"},
    ):
        for area in AREAS if "restart" in "".join(options) else AREAS[:2]:
            yield FuzzInput(JPEG, 1, 3, 1, YCBCR, (TILE, TILE), area, b"", b"", by_pillow(image, **options))
    inks = np.dstack([image, image[..., :1]])
    yield FuzzInput(JPEG, 1, 4, 1, 0, (TILE, TILE), AREAS[1], b"", b"", by_pillow(inks, mode="CMYK"))


def liars() -> Iterator[FuzzInput]:
    """Tables of tiles that say what is not so."""
    (tile, *_), _, _ = tiles_of(pixels(1), "COMPRESS=ZSTD")
    plain = FuzzInput(ZSTD, 1, 1, 1, 0, (TILE, TILE), AREAS[1], b"", b"", tile)
    for count in (0, 1, len(tile) - 1, len(tile) + 1, 2**29 + 1, 2**63, 2**64 - 1):
        yield plain._replace(flags=COUNT_LIES, count=count)
    for offset in (1, len(tile), 2**31, 2**63 - len(tile), 2**63, 2**64 - 1):
        yield plain._replace(flags=OFFSET_LIES, offset=offset)
        yield plain._replace(codec=NONE, flags=OFFSET_LIES, offset=offset)
    yield plain._replace(codec=NONE, flags=COUNT_LIES | OFFSET_LIES, count=TILE * TILE - 1, offset=0)


def lzw(codes: Iterable[int]) -> bytes:
    """Return codes of TIFF's LZW as bytes: of 9 bits, and of one more whenever the table grows into it."""
    bits, width, following = "", 9, 257
    for code in codes:
        bits += f"{code:0{width}b}"
        if code == 256:
            width, following = 9, 257
            continue
        following += 1
        if following + 1 >= 1 << width and width < 12:
            width += 1
    return int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")


def misfits() -> Iterator[FuzzInput]:
    """Tiles that are whole, but not what their level says, and such that end early."""
    whole = [*lossless(), *jpegs()]
    for number, seed in enumerate(whole):
        height, width = seed.tile
        yield seed._replace(data=seed.data[: len(seed.data) * (number % 7 + 1) // 8])
        # JPEGs of this height are taken for such of another; of other codecs there is too much or too little.
        yield seed._replace(
            tile=(height + number % 3 - 1, width + number % 5 - 2), area=(0, height - 1, 0, width - 2)
        )
        yield seed._replace(samples=seed.samples % 3 + 1, flags=seed.flags & ~YCBCR)
        if seed.codec == JPEG:
            yield seed._replace(tables=seed.data)
    plain = FuzzInput(LZW, 1, 1, 1, 0, (8, 8), (0, 8, 0, 8), b"", b"", b"")
    # Strings that grow by one each: the last one is longer than what the tile has left.
    yield plain._replace(data=lzw([256, 7, *range(258, 270)]))
    # More codes than the table has room for.
    yield plain._replace(tile=(64, 128), area=(0, 64, 0, 128), data=lzw([256, *(k % 251 for k in range(5000))]))


def all_seeds() -> list[bytes]:
    return [seed.pack() for seed in (*lossless(), *jpegs(), *liars(), *misfits())]


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    seeds = all_seeds()
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number:03}").write_bytes(seed)
    sys.stdout.write(f"{len(seeds)} seeds in {folder}\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    sys.exit(main(Path(sys.argv[1])))
