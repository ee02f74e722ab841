"""Images and label layers to the files of a cache entry: the door of the writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from slidesampler.cache.spec import BuildSpec, WrittenFiles
from slidesampler.cache.write_npy import write_npy
from slidesampler.errors import BuildError
from slidesampler.readers.base import Reader

__all__ = ["write_image"]

_DTYPES = tuple(map(np.dtype, (np.uint8, np.uint16, np.int16, np.float32)))


def _ignore(_pixels: int) -> None:
    """Nobody watches."""


def write_image(
    reader: Reader,
    folder: Path,
    spec: BuildSpec,
    *,
    threads: int = 1,
    advance: Callable[[int], None] = _ignore,
) -> WrittenFiles:
    """Write an image, its reduced levels and its valid mask into a folder.

    One pass over level 0, block by block; peak memory depends on the width of the image (a strip of at most 160
    MiB is held) and not on its height. Nothing is fsynced and nothing verified: that is for the caller.

    Parameters
    ----------
    reader : Reader
        The source; only its level 0 is read.
    folder : Path
        Exists, and holds nothing of the names ``image*`` and ``valid*``.
    spec : BuildSpec
        ``codec="auto"`` is resolved here where the caller has not.
    threads : int
        Threads that compress (cog).
    advance : callable
        Told of level-0 pixels as they are done; they add up to ``H * W``.

    Returns
    -------
    WrittenFiles

    Raises
    ------
    CodecError
        If the codec cannot hold these pixels, or this GDAL lacks it.
    BuildError
        If the dtype is not one of uint8, uint16, int16 and float32, or a file cannot be written (a full disk, a
        limit); the message has the reason.
    ReadError
        From the reader. Whatever is raised, no file of the image is left in the folder.
    MissingDependencyError
        For cog where GDAL is not installed.
    """
    spec = spec.resolved()
    if reader.dtype.newbyteorder("=") not in _DTYPES:
        raise BuildError(
            f"{reader.name}: pixels are {reader.dtype}; a cache holds {', '.join(d.name for d in _DTYPES)}; "
            "convert the image to one of these"
        )
    if spec.backend == "npy":
        return write_npy(reader, folder, advance=advance)
    # Imported here: npy caches are built without GDAL.
    from slidesampler.cache.write_cog import write_cog

    return write_cog(reader, folder, spec, threads=threads, advance=advance)
