"""What variants are built from: a few images of a manifest as they are, or copies of parts of them.

A part is copied once, as plain pixels, and every variant is built from the copy: the time of reading it from
the slide is taken then, and belongs to the time of every build.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.write_failure import write_failure
from slidesampler.geometry import Window
from slidesampler.manifest import Manifest
from slidesampler.measure.parts import busiest_crop
from slidesampler.measure.results import MeasuredPart
from slidesampler.readers import open_reader, spec_for_record
from slidesampler.readers.base import Reader
from slidesampler.sampler import Sampler

__all__ = ["Specimen", "choose_part", "copy_parts", "part_bytes"]

#: Rows of a part that are read at once.
_STRIP = 512
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Specimen:
    """What is built, and how its pixels relate to the user's images.

    Parameters
    ----------
    source : Manifest
        The user's.
    manifest : Manifest
        What is built: the same where images are taken whole.
    parts : tuple of MeasuredPart
    copied : bool
        Whether the images of ``manifest`` are copies of the parts.
    read_seconds : mapping of int to float
        By image id: how long it took to read the part from its slide; empty for images taken whole, which a
        build reads itself.
    """

    source: Manifest
    manifest: Manifest
    parts: tuple[MeasuredPart, ...]
    copied: bool
    read_seconds: dict[int, float]


def choose_part(manifest: Manifest, image_id: int, side: int | None) -> MeasuredPart:
    """Return the part of an image that is measured; the whole image where ``side`` is None.

    Raises
    ------
    ReadError
        If the image cannot be read.
    """
    record = manifest.record(image_id)
    with closing(open_reader(spec_for_record(record))) as reader:
        height, width, _ = reader.shape
        crop = Window(0, 0, height, width) if side is None else busiest_crop(reader, side)
    return MeasuredPart(image_id, record.name, crop.y, crop.x, *crop.shape, height, width)


def part_bytes(manifest: Manifest, part: MeasuredPart) -> int:
    """Return the bytes of a part's plain pixels."""
    with closing(open_reader(spec_for_record(manifest.record(part.image_id)))) as reader:
        return part.height * part.width * reader.shape[2] * reader.dtype.itemsize


def copy_parts(
    manifest: Manifest,
    parts: Sequence[MeasuredPart],
    folder: Path,
    *,
    with_mask: bool,
    advance: Callable[[str], None],
) -> Specimen:
    """Copy parts of images, their masks and what of them is valid.

    Parameters
    ----------
    manifest : Manifest
    parts : sequence of MeasuredPart
    folder : Path
        Exists, and is empty.
    with_mask : bool
        Whether the masks are drawn too: they become raster label layers of the copies.
    advance : callable
        Told the name of each part before it is copied.

    Raises
    ------
    BuildError
        If a copy cannot be written.
    ReadError
        If an image cannot be read.
    """
    images, seconds = [], {}
    classes = range(1, len(manifest.class_map.names))
    # No cache is read here: masks are drawn from the annotations.
    with closing(Sampler(manifest)) as sampler:
        for part in parts:
            advance(part.name)
            record = manifest.record(part.image_id)
            with closing(open_reader(spec_for_record(record))) as reader:
                image, seconds[part.image_id] = _copy(reader, part, folder)
            if with_mask:
                mask = sampler.load_mask(part.image_id, Window(part.y, part.x, part.height, part.width))
                # What is under no class counts as background here: it makes no difference to a reader.
                mask[mask == manifest.class_map.ignore] = 0
                name = _write_npy(folder / f"{part.image_id}.labels.npy", [mask], mask.shape, mask.dtype)
                image["auxiliary"].append({"file_name": name, "name": "labels"})
            images.append(image)
    categories = [{"id": index, "name": f"class {index}"} for index in classes]
    copies = Manifest.load({"images": images, "categories": categories}, bundle_dir=folder)
    return Specimen(manifest, copies, tuple(parts), True, seconds)


def _copy(reader: Reader, part: MeasuredPart, folder: Path) -> tuple[dict[str, Any], float]:
    """Copy pixels and valid mask; return the image's row in a manifest, and the seconds that reading took."""
    seconds, valid = 0.0, []
    window = Window(part.y, part.x, part.height, part.width)
    path = folder / f"{part.image_id}.npy"

    def read() -> Iterator[NDArray[Any]]:
        nonlocal seconds
        for y in range(window.y, window.y1, _STRIP):
            strip = Window(y, window.x, min(_STRIP, window.y1 - y), window.width)
            begin = time.perf_counter()
            pixels = reader.read(strip)
            if reader.has_valid:
                valid.append(reader.read_valid(strip))
            seconds += time.perf_counter() - begin
            yield pixels

    name = _write_npy(path, read(), (*window.shape, reader.shape[2]), reader.dtype)
    image: dict[str, Any] = {"id": part.image_id, "name": part.name, "file_name": name, "auxiliary": []}
    # What the channels are decides how JPEG and WebP store them.
    if all(_PLAIN_NAME.fullmatch(channel) for channel in reader.channels):
        image["channels"] = "|".join(reader.channels) or None
    if valid and not all(strip.all() for strip in valid):
        masks = [strip.astype(np.uint8) for strip in valid]
        name = _write_npy(folder / f"{part.image_id}.valid.npy", masks, window.shape, np.dtype(np.uint8))
        image["auxiliary"].append({"file_name": name, "name": "valid"})
    return image, seconds


def _write_npy(path: Path, strips: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Write an array that comes in strips; return the file's name.

    Not through a memory map: a disk that is full would end the process.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for strip in strips:
                file.write(np.ascontiguousarray(strip).data)
    except OSError as error:
        if error.errno is None:  # of the reader
            raise
        raise write_failure(path, error) from error
    return path.name
