"""``make_slide``: an H&E-like slide with exact ground truth, written by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.rng import rng_for
from slidesampler.testing._anatomy import TUMOUR, Anatomy, plan_anatomy
from slidesampler.testing._noise import cell_uniform
from slidesampler.testing._nuclei import FIELD_PX, NucleiFields
from slidesampler.testing._painter import Painter
from slidesampler.testing.truth import CLASS_NAMES, SlideTruth, TrueAnnot

__all__ = ["SlideCodec", "make_slide"]

#: How tiles are stored: losslessly unless JPEG is asked for.
SlideCodec = Literal["deflate", "none", "jpeg"]

#: A slide needs some room for a piece of tissue, a tumour in it, and a hole in that.
SMALLEST_PX = 128
#: Classic TIFF ends at 4 GiB; tags and offsets need some of that.
BIGTIFF_BYTES = 3 << 30


def make_slide(
    path: str | os.PathLike[str],
    height: int,
    width: int,
    seed: int = 0,
    *,
    tile: int = 256,
    codec: SlideCodec = "deflate",
    quality: int = 90,
    mpp: float = 0.5,
    block: int = 512,
    nuclei_per_mpx: float = 1000.0,
    max_nuclei: int = 20_000,
    artefacts: bool = True,
    advance: Callable[[int], None] | None = None,
) -> SlideTruth:
    """Write a synthetic H&E slide to a tiled TIFF and return what is on it.

    White glass with pieces of tissue: pink fibrous stroma with fibroblasts, lymphocytes, fat and clefts;
    tumours full of large dark nuclei, with lumens and necrosis as holes. Pixels are painted from the polygons
    that the truth holds and are a function of their place and the seed alone: ``tile``, ``block`` and ``codec``
    do not change them (JPEG is lossy, though).

    Parameters
    ----------
    path : path
        A ``.tif`` file, replaced once the new one is complete. Its resolution tags hold ``mpp``.
    height, width : int
        Pixels, at least 128.
    seed : int
        Any integer.
    tile : int
        Side of a tile in pixels, a multiple of 16.
    codec : {"deflate", "none", "jpeg"}
    quality : int
        Of JPEG, 1 to 100.
    mpp : float
        Micrometres per pixel, 0.1 to 2; cells and fibres are drawn to this scale.
    block : int
        Rows that are painted and held at a time, rounded up to whole tiles: memory is about
        ``3 * width * block`` bytes, whatever the height. Multiples of 512 are the fastest.
    nuclei_per_mpx, max_nuclei : float, int
        At most ``nuclei_per_mpx`` tumour nuclei a million pixels of slide are annotated, and never more than
        ``max_nuclei``, so that a manifest stays small however large the slide. Where that is not all of them,
        whole fields of 512 x 512 pixels are annotated, as pathologists do.
    artefacts : bool
        Whether there is a stroke of a marker and a fold of the tissue.
    advance : callable, optional
        Called with the number of pixels just painted.

    Returns
    -------
    SlideTruth

    Raises
    ------
    ValueError
        For a size, tile, codec, mpp or limit out of range.
    """
    _check(height, width, tile, codec, quality, mpp, block, nuclei_per_mpx, max_nuclei)
    key = int(rng_for(seed, stream="slide").integers(1 << 48))
    anatomy = plan_anatomy(height, width, key, mpp, artefacts)
    fields = NucleiFields(anatomy)
    painter = Painter(anatomy, fields)
    limit = int(min(max_nuclei, nuclei_per_mpx * height * width / 1e6))
    annots = [
        *(TrueAnnot(CLASS_NAMES.index("tumour"), parts) for parts in anatomy.tumours),
        *(TrueAnnot(CLASS_NAMES.index("necrosis"), ((ring,),)) for ring in anatomy.necroses),
        *(
            TrueAnnot(CLASS_NAMES.index("tumour_nucleus"), ((outline,),))
            for outline in _annotated_nuclei(anatomy, fields, limit)
        ),
    ]
    path = Path(path)
    _write(path, painter, tile, codec, quality, mpp, block, advance or (lambda _: None))
    boxes = np.array([annot.box_xyxy for annot in annots]).reshape(-1, 4)
    return SlideTruth(path, height, width, mpp, tuple(annots), painter, boxes)


def _check(
    height: int,
    width: int,
    tile: int,
    codec: str,
    quality: int,
    mpp: float,
    block: int,
    nuclei_per_mpx: float,
    max_nuclei: int,
) -> None:
    if min(height, width) < SMALLEST_PX:
        raise ValueError(f"a slide is at least {SMALLEST_PX} x {SMALLEST_PX} pixels, got {height} x {width}")
    if tile < 16 or tile % 16:
        raise ValueError(f"tile must be a positive multiple of 16 (TIFF asks for it), got {tile}")
    if codec not in get_args(SlideCodec):
        raise ValueError(f"codec must be one of {', '.join(get_args(SlideCodec))}, got {codec!r}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, got {quality}")
    if not 0.1 <= mpp <= 2:
        raise ValueError(f"mpp must be 0.1 to 2 micrometres per pixel, got {mpp}")
    if block < 1:
        raise ValueError(f"block must be at least 1 row, got {block}")
    if nuclei_per_mpx < 0 or max_nuclei < 0:
        raise ValueError(f"limits of nuclei must not be negative, got {nuclei_per_mpx} and {max_nuclei}")


def _annotated_nuclei(anatomy: Anatomy, fields: NucleiFields, limit: int) -> list[NDArray[np.float64]]:
    """Return outlines of at most ``limit`` tumour nuclei, in painting order."""
    rows, cols = fields.shape
    fy, fx = (grid.ravel() for grid in np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"))
    # In random order, so that the annotated fields lie anywhere, not all at the top.
    order = np.argsort(cell_uniform(fy, fx, anatomy.seed * 64 + 62), kind="stable")
    found: dict[tuple[int, int], NDArray[np.float64]] = {}
    total = 0
    for place in order.tolist():
        if total >= limit:
            break
        square = Window(int(fy[place]) * FIELD_PX, int(fx[place]) * FIELD_PX, FIELD_PX, FIELD_PX)
        if all(anatomy.layers[layer][1] != TUMOUR for layer in anatomy.touching(square)):
            continue
        nuclei = fields.field(int(fy[place]), int(fx[place]))
        outlines = nuclei.outlines[nuclei.kinds == 0][: limit - total]
        found[int(fy[place]), int(fx[place])] = outlines
        total += len(outlines)
    return [outline for field in sorted(found) for outline in found[field]]


def _write(
    path: Path,
    painter: Painter,
    tile: int,
    codec: SlideCodec,
    quality: int,
    mpp: float,
    block: int,
    advance: Callable[[int], None],
) -> None:
    height, width = painter.anatomy.height, painter.anatomy.width
    partial = path.with_name(path.name + ".partial")
    pixels = _tiles(painter, tile, block, advance)
    tiles = (_jpeg(p, quality) for p in pixels) if codec == "jpeg" else pixels
    try:
        with tifffile.TiffWriter(partial, bigtiff=height * width * 3 > BIGTIFF_BYTES) as writer:
            writer.write(
                tiles,
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                # tifffile has no JPEG encoder of its own: it is told that the tiles are compressed somehow,
                # takes them as they come, and the tags are set right afterwards.
                compression=None if codec == "none" else "zlib",
                compressionargs={"level": 1} if codec == "deflate" else None,
                predictor=codec == "deflate",
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                software="slidesampler",
                metadata=None,
                maxworkers=2,
            )
        if codec == "jpeg":
            with tifffile.TiffFile(partial, mode="r+") as file:
                tags = file.pages.first.tags
                tags["Compression"].overwrite(int(tifffile.COMPRESSION.JPEG))
                tags["PhotometricInterpretation"].overwrite(int(tifffile.PHOTOMETRIC.YCBCR))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _tiles(
    painter: Painter, tile: int, block: int, advance: Callable[[int], None]
) -> Iterator[NDArray[np.uint8]]:
    """Yield whole tiles, row by row; those at the right and bottom are painted beyond the edge."""
    height, width = painter.anatomy.height, painter.anatomy.width
    band_rows = -(-block // tile) * tile
    padded_height, padded_width = -(-height // tile) * tile, -(-width // tile) * tile
    for top in range(0, padded_height, band_rows):
        band = painter.paint(Window(top, 0, min(band_rows, padded_height - top), padded_width))
        # Before its last tile is taken: nobody asks an iterator for what comes after that.
        advance(min(band_rows, height - top) * width)
        for y in range(0, band.shape[0], tile):
            for x in range(0, padded_width, tile):
                yield np.ascontiguousarray(band[y : y + tile, x : x + tile])


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    # A JFIF stream holds its own tables, which TIFF allows for each tile; chroma is halved both ways, which is
    # what TIFF assumes where a file does not say.
    done, data = cv2.imencode(
        ".jpg",
        pixels[..., ::-1],
        [
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ],
    )
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {pixels.shape} tile as JPEG")
    return bytes(data)
