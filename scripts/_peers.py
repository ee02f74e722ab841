"""Other programs that read windows of slides, each behind the same two calls, for ``bench_read.py``.

A peer is opened on a file and then asked for batches: it gets the corners ``(y, x)`` of the windows and
returns ``(N, H, W, 3)``. Who can read into an array does so; everybody else's windows are copied into the
batch, since that is what a training loop would do next. Every one is used as its makers advise for speed, on
one thread unless its name says otherwise, with caches that are off or too small to remember the last window.

None of them is needed by the package. What is not installed is left out, and said.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, gdal_array

WINDOW = 256
#: Eight tiles of 256 x 256 x 3: enough for a window, too little to remember the last one.
CACHE_BYTES = 2 * 2**20
# Of every GDAL in the process: rasterio's wheel brings one of its own.
os.environ["GDAL_CACHEMAX"] = str(CACHE_BYTES // 2**20)
ALL = ("none", "zstd", "deflate", "jpeg")

Places = Sequence[tuple[int, int]]
Read = Callable[[Places], Any]


class Peer(NamedTuple):
    """A way to read windows: its name, the distributions it needs, codecs that it reads, how it is opened."""

    name: str
    needs: tuple[str, ...]
    codecs: tuple[str, ...]
    open: Callable[[str], Read]


def batch_of(places: Places) -> NDArray[np.uint8]:
    return np.empty((len(places), WINDOW, WINDOW, 3), np.uint8)


def copies_of(array: Any) -> Read:
    """Return what copies slices of an array into one batch."""

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            slot[:] = array[y : y + WINDOW, x : x + WINDOW]
        return out

    return read


def gdal_read(path: str) -> Read:
    dataset = gdal.Open(path)

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            gdal_array.DatasetReadAsArray(dataset, x, y, WINDOW, WINDOW, buf_obj=slot, interleave="pixel")
        return out

    return read


def rasterio_read(path: str) -> Read:
    import rasterio
    from rasterio.windows import Window

    with warnings.catch_warnings(action="ignore"):  # that the slide is nowhere on Earth
        dataset = rasterio.open(path)

    def read(places: Places) -> Any:
        out = np.empty((len(places), 3, WINDOW, WINDOW), np.uint8)
        for slot, (y, x) in zip(out, places, strict=True):
            dataset.read(window=Window(x, y, WINDOW, WINDOW), out=slot)
        return np.moveaxis(out, 1, 3)

    return read


def open_cucim(path: str) -> Any:
    from cucim import CuImage

    CuImage.cache("nocache")
    return CuImage(path)


def cucim_read(path: str) -> Read:
    image = open_cucim(path)

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            slot[:] = np.asarray(image.read_region((x, y), (WINDOW, WINDOW), 0))
        return out

    return read


def cucim_batched(workers: int) -> Callable[[str], Read]:
    def open_peer(path: str) -> Read:
        image = open_cucim(path)

        def read(places: Places) -> Any:
            batches = image.read_region(
                [(x, y) for y, x in places],
                (WINDOW, WINDOW),
                0,
                batch_size=len(places),
                num_workers=workers,
            )
            # The memory is cuCIM's and goes with the batch.
            return next(np.array(batch) for batch in batches)

        return read

    return open_peer


def openslide_read(path: str) -> Read:
    import openslide

    slide = openslide.OpenSlide(path)
    slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            slot[:] = np.asarray(slide.read_region((x, y), 0, (WINDOW, WINDOW)))[:, :, :3]
        return out

    return read


def tiffslide_read(path: str) -> Read:
    import tiffslide

    slide = tiffslide.TiffSlide(path)

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            slot[:] = slide.read_region((x, y), 0, (WINDOW, WINDOW), as_array=True)
        return out

    return read


def zarr_read(path: str) -> Read:
    import tifffile
    import zarr

    return copies_of(zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r"))


def tifffile_read(path: str) -> Read:
    """Tiles by hand: tifffile's tables and imagecodecs' decoders, without the layers of zarr."""
    import tifffile

    file = tifffile.TiffFile(path)
    page: Any = file.pages[0]
    side, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            rows = range(y // side, (y + WINDOW - 1) // side + 1)
            columns = range(x // side, (x + WINDOW - 1) // side + 1)
            which = [row * across + column for row in rows for column in columns]
            offsets = [page.dataoffsets[tile] for tile in which]
            counts = [page.databytecounts[tile] for tile in which]
            for data, tile in file.filehandle.read_segments(offsets, counts, which):
                pixels, (_, _, top, left, _), _ = page.decode(data, tile, jpegtables=page.jpegtables)
                y0, x0 = max(top, y), max(left, x)
                y1, x1 = min(top + side, y + WINDOW), min(left + side, x + WINDOW)
                part = pixels[0, y0 - top : y1 - top, x0 - left : x1 - left]
                slot[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out

    return read


def pyvips_read(path: str) -> Read:
    import pyvips

    pyvips.cache_set_max(0)
    region = pyvips.Region.new(pyvips.Image.new_from_file(path))

    def read(places: Places) -> Any:
        out = batch_of(places)
        for slot, (y, x) in zip(out, places, strict=True):
            pixels = region.fetch(x, y, WINDOW, WINDOW)
            slot[:] = np.frombuffer(pixels, np.uint8).reshape(WINDOW, WINDOW, 3)
        return out

    return read


def memmap_read(path: str) -> Read:
    """Bare limit for npy: copies of slices of a memory map, each an array of its own."""
    array = np.load(path, mmap_mode="r")
    return lambda places: [np.array(array[y : y + WINDOW, x : x + WINDOW]) for y, x in places]


def memmap_stacked(path: str) -> Read:
    """Bare limit for a batch from npy: the same slices, copied into one array."""
    return copies_of(np.load(path, mmap_mode="r"))


#: cuCIM ends the process where it meets a codec that it does not know on the CPU, so it is told here.
CUCIM_CODECS = ("none", "jpeg")
IMAGECODECS = ("tifffile", "imagecodecs")
TIFF_PEERS = (
    Peer("GDAL ReadRaster", (), ALL, gdal_read),
    Peer("cuCIM", ("cucim-cu12",), CUCIM_CODECS, cucim_read),
    Peer("cuCIM batched, 1 worker", ("cucim-cu12",), CUCIM_CODECS, cucim_batched(1)),
    Peer("cuCIM batched, 2 workers", ("cucim-cu12",), CUCIM_CODECS, cucim_batched(2)),
    Peer("openslide", ("openslide-python",), ALL, openslide_read),
    Peer("tiffslide", ("tiffslide", "imagecodecs"), ALL, tiffslide_read),
    Peer("tifffile, tile by tile", IMAGECODECS, ALL, tifffile_read),
    Peer("tifffile through zarr", (*IMAGECODECS, "zarr"), ALL, zarr_read),
    Peer("pyvips", ("pyvips",), ALL, pyvips_read),
    Peer("rasterio", ("rasterio",), ALL, rasterio_read),
)
NPY_PEERS = (
    Peer("memmap copy, one by one", (), ("none",), memmap_read),
    Peer("memmap copy, stacked", (), ("none",), memmap_stacked),
)


def missing(needs: Sequence[str]) -> list[str]:
    """Return which distributions of a list are not installed."""
    absent = []
    for name in needs:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    return absent


class NdsamplerFiles:
    """ndsampler over one image, on the very files that everybody reads."""

    needs = ("ndsampler",)

    def __init__(self, manifest: dict[str, Any], folder: Path) -> None:
        self.manifest = manifest
        self.folder = folder

    def peer(self, backend: str, codec: str, *, with_annots: bool) -> Peer:
        def open_peer(path: str) -> Read:
            return self._open(path, backend, codec, with_annots=with_annots)

        kind = "pixels + annotations" if with_annots else "pixels"
        return Peer(f"ndsampler, {kind}", self.needs, (codec,), open_peer)

    def _open(self, path: str, backend: str, codec: str, *, with_annots: bool) -> Read:
        import kwcoco
        import ndsampler

        one_image = {**self.manifest, "images": [{**self.manifest["images"][0], "file_name": path}]}
        workdir = self.folder / f"{backend}-{codec}"
        sampler = ndsampler.CocoSampler(
            kwcoco.CocoDataset(one_image), workdir=str(workdir), backend=backend, verbose=0
        )
        image_id = one_image["images"][0]["id"]
        # Its cache would hold a lossy copy of a COG that its own validator does not know. A link in the place
        # of that copy lets both read the very same file.
        for channel in sampler.frames._lookup_pathinfo(image_id)["channels"].values():  # noqa: SLF001
            cached = Path(channel["cache"])
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.unlink(missing_ok=True)
            cached.symlink_to(path)

        def read(places: Places) -> Any:
            half = WINDOW // 2
            # Both flags leave out what it warns of and will drop, which costs time.
            new = {"legacy_target": False, "legacy_annots": False}
            where = {"gid": image_id, "width": WINDOW, "height": WINDOW, **new}
            return [
                sampler.load_sample({**where, "cy": y + half, "cx": x + half}, with_annots=with_annots)["im"]
                for y, x in places
            ]

        return read
