"""Slides as Aperio writes them: tiled JPEG, levels that no tag marks, photographs between them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

DESCRIPTION = "Aperio Image Library v11.2.1\r\n{width}x{height} [0,0 {width}x{height}] (240x240) JPEG/RGB Q=70"
#: Segments of a JPEG that several tiles can share: DQT and DHT.
_TABLES = (0xDB, 0xC4)
_COMPRESSION, _PHOTOMETRIC, _JPEG_TABLES, _SUBSAMPLING = 259, 262, 347, 530


def tissue(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with a little noise: what JPEG is made for."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / (17 + 3 * c)) * np.cos(x / (13 + 5 * c)) * 80 + 140 + 15 * c for c in range(3)]
    rough = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, -1) + rough, 0, 255).astype(np.uint8)


def halved(image: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Means of ``times`` x ``times`` pixels, a last odd row or column left out, as scanners do."""
    height, width = image.shape[0] // times, image.shape[1] // times
    cells = image[: height * times, : width * times].reshape(height, times, width, times, 3)
    return cells.mean(axis=(1, 3)).astype(np.uint8)


def encode_tiles(
    image: NDArray[np.uint8], side: int, *, subsampling: int, rgb: bool, shared: bool
) -> tuple[list[bytes], bytes]:
    """Return the JPEGs of the tiles row by row, and the tables that they share."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    tiles, tables = [], b""
    for y in range(0, height, side):
        for x in range(0, width, side):
            file = io.BytesIO()
            picture = Image.fromarray(padded[y : y + side, x : x + side])
            picture.save(file, "JPEG", quality=80, subsampling=0 if rgb else subsampling, keep_rgb=rgb)
            data = file.getvalue()
            if shared:
                tables, data = split_tables(data)
            tiles.append(data)
    return tiles, tables


def split_tables(data: bytes) -> tuple[bytes, bytes]:
    """Return the quantisation and Huffman tables of a JPEG, and the JPEG without them."""
    tables, rest, at = [b"\xff\xd8"], [b"\xff\xd8"], 2
    while data[at + 1] != 0xDA:
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        (tables if data[at + 1] in _TABLES else rest).append(data[at:stop])
        at = stop
    return b"".join([*tables, b"\xff\xd9"]), b"".join([*rest, data[at:]])


def write_aperio(
    path: Path,
    image: NDArray[np.uint8],
    levels: tuple[NDArray[np.uint8], ...] = (),
    *,
    side: int = 80,
    subsampling: int = 1,
    rgb: bool = False,
    shared: bool = True,
    mpp: float | None = 0.499,
) -> Path:
    """Write a slide: full image, thumbnail, reduced levels, label and macro photograph.

    Parameters
    ----------
    path : Path
    image : uint8 (H, W, 3)
    levels : tuple of uint8 arrays
        The reduced levels.
    side : int
        Of the tiles.
    subsampling : int
        Of the colours, as Pillow counts: 0 none, 1 in x, 2 in x and y.
    rgb : bool
        Whether RGB is stored instead of YCbCr.
    shared : bool
        Whether the tiles share their tables.
    mpp : float or None
        Written into the description.
    """
    text = DESCRIPTION.format(height=image.shape[0], width=image.shape[1])
    described = text + (f"|AppMag = 20|MPP = {mpp}" if mpp else "")
    plain: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": False}
    with tifffile.TiffWriter(path) as tiff:

        def write_level(pixels: NDArray[np.uint8]) -> None:
            tiles, tables = encode_tiles(pixels, side, subsampling=subsampling, rgb=rgb, shared=shared)
            tags = [(_SUBSAMPLING, "H", 2, ((1, 1), (2, 1), (2, 2))[0 if rgb else subsampling], True)]
            tags += [(_JPEG_TABLES, 7, len(tables), tables, True)] if tables else []
            tiff.write(
                iter(tiles),
                shape=pixels.shape,
                dtype=pixels.dtype,
                tile=(side, side),
                compression="zlib",
                description=described,
                extratags=tags,
                **plain,
            )

        write_level(image)
        tiff.write(image[::4, ::4], rowsperstrip=16, description=text, **plain)
        for level in levels:
            write_level(level)
        tiff.write(tissue(40, 30, 1), subfiletype=1, description="Aperio\r\nlabel 30x40", **plain)
        tiff.write(tissue(43, 130, 2), subfiletype=9, description="Aperio\r\nmacro 130x43", **plain)
    # tifffile writes no JPEGs without a package of codecs: it was told that these are something else.
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            if page.is_tiled:
                page.tags[_COMPRESSION].overwrite(7)
                page.tags[_PHOTOMETRIC].overwrite(2 if rgb else 6)
    return path
