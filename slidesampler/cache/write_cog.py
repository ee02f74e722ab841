"""An image as one cloud-optimised GeoTIFF: levels of exact means, and the valid mask inside where needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.codecs import check_codec
from slidesampler.cache.cog_layout import CogLayout, CogTarget
from slidesampler.cache.cog_target import open_cog
from slidesampler.cache.gdal_write import block_cache
from slidesampler.cache.halves import Halves
from slidesampler.cache.pyramid import image_levels
from slidesampler.cache.spec import BuildSpec, WrittenFiles
from slidesampler.cache.stream import has_whole_rows, stream_image
from slidesampler.readers.base import Reader

__all__ = ["write_cog"]

_RED_GREEN_BLUE = (("r", "red"), ("g", "green"), ("b", "blue"))


def write_cog(
    reader: Reader, folder: Path, spec: BuildSpec, *, threads: int, advance: Callable[[int], None]
) -> WrittenFiles:
    """Write an image as ``image.tif``.

    Parameters
    ----------
    reader : Reader
    folder : Path
        Exists; needs room for the COG and for scratch files, which are removed at the end, also of a failure:
        as much again, and with GDAL (see :func:`.cog_target.open_cog`) that of the image compressed without
        loss.
    spec : BuildSpec
        Resolved.
    threads : int
        Threads that decode, average and compress; the file is the same with any number of them.
    advance : callable
        Told of level-0 pixels: half of them while the image is read, half while the COG is put together.

    Raises
    ------
    CodecError
        If the codec cannot hold these pixels; before anything is read.
    BuildError
        If a file cannot be written.
    """
    height, width, channels = reader.shape
    check_codec(spec.codec, reader.dtype, channels)
    levels = image_levels(height, width, spec.tile)
    layout = CogLayout(
        folder / "image.tif",
        levels,
        channels,
        reader.dtype.newbyteorder("="),
        spec.tile,
        spec.codec,
        spec.quality,
        names=reader.channels,
        mpp=reader.mpp,
        rgb=_is_rgb(reader),
    )
    progress = Halves(height * width, advance)
    with block_cache(), open_cog(layout, threads=threads, whole_rows=has_whole_rows(reader)) as target:
        with target.blamed_for_reads():
            has_valid = stream_image(reader, levels, _CogSink(target), progress.first, threads=threads)
        target.finish(progress.second)
    progress.done()
    return WrittenFiles(
        files={"image": layout.path.name},
        shape=reader.shape,
        dtype=reader.dtype.name,
        levels=levels,
        tile=spec.tile,
        codec=spec.codec,
        quality=spec.quality,
        lossless=spec.lossless,
        has_valid=has_valid,
    )


def _is_rgb(reader: Reader) -> bool:
    """Whether viewers should show the first three channels as colours."""
    if reader.shape[2] not in (3, 4) or reader.dtype != np.uint8:
        return False
    names = [name.lower() for name in reader.channels[:3]]
    return not names or all(name in allowed for name, allowed in zip(names, _RED_GREEN_BLUE, strict=True))


class _CogSink:
    """Hands the pieces on; see :class:`slidesampler.cache.stream.LevelSink`."""

    def __init__(self, target: CogTarget) -> None:
        self.write_pixels: Callable[[int, int, int, NDArray[Any]], None] = target.write
        self.start_valid: Callable[[], None] = target.start_mask
        self.write_valid: Callable[[int, int, int, NDArray[np.bool_]], None] = target.write_mask
