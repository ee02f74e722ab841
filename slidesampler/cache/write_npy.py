"""An image as plain ``.npy`` files: level 0, reduced levels beside it, and the valid masks where needed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from slidesampler.cache.pyramid import image_levels
from slidesampler.cache.spec import WrittenFiles
from slidesampler.cache.stream import stream_image
from slidesampler.cache.write_failure import remove_files, write_failure
from slidesampler.models import Level
from slidesampler.readers.base import Reader

__all__ = ["NPY_TOP_PX", "write_npy"]

#: An npy pyramid is halved until its longer side is at most this many pixels.
NPY_TOP_PX = 256


def write_npy(reader: Reader, folder: Path, *, advance: Callable[[int], None]) -> WrittenFiles:
    """Write an image as ``image.npy`` ``(H, W, C)``, ``image.level1.npy`` ... and, when needed, its masks.

    ``valid.npy`` ``(H, W)`` bool and ``valid.level1.npy`` ... are there only when some pixel is invalid.
    Pixels are written with ordinary file writes: pages of a memory map count as the process's own memory
    until they reach the disk. The files need 4/3 of the raw pixels.

    Raises
    ------
    BuildError
        If a file cannot be written. Nothing is left behind, whatever was raised.
    """
    height, width, _ = reader.shape
    levels = image_levels(height, width, NPY_TOP_PX)
    sink = _NpySink(folder, reader, levels)
    try:
        has_valid = stream_image(reader, levels, sink, advance)
        sink.close()
    except BaseException:
        sink.abandon()
        remove_files(folder, "image*.npy", "valid*.npy")
        raise
    return WrittenFiles(
        files=sink.files,
        shape=reader.shape,
        dtype=reader.dtype.name,
        levels=levels,
        tile=0,
        codec="none",
        quality=None,
        lossless=True,
        has_valid=has_valid,
    )


class _NpyFile:
    """A ``.npy`` file that is filled by rectangles, each written once."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        self._shape = shape
        self._row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        self._pixel_bytes = self._row_bytes // shape[1]
        try:
            self._file = open(path, "wb")  # noqa: SIM115 -- open for as long as the build
            header = io.BytesIO()
            description = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            npy_format.write_array_header_1_0(header, description)
            self._file.write(header.getvalue())
            self._offset = self._file.tell()
        except OSError as error:
            raise write_failure(path, error) from error

    def write(self, y: int, x: int, pixels: NDArray[Any]) -> None:
        pixels = np.ascontiguousarray(pixels)
        first = self._offset + y * self._row_bytes + x * self._pixel_bytes
        try:
            if pixels.shape[1] == self._shape[1]:
                self._file.seek(first)
                self._file.write(pixels.reshape(-1).view(np.uint8).data)
                return
            for number, row in enumerate(pixels):
                self._file.seek(first + number * self._row_bytes)
                self._file.write(row.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise write_failure(self.path, error) from error

    def abandon(self) -> None:
        """Let go of a file that will be removed; what cannot be flushed to it does not matter any more."""
        try:
            self._file.close()
        except OSError:
            # The first close gave up its buffer with this error; the second one releases the descriptor.
            self._file.close()


class _NpySink:
    """The files of all levels; see :class:`slidesampler.cache.stream.LevelSink`."""

    def __init__(self, folder: Path, reader: Reader, levels: tuple[Level, ...]) -> None:
        self._folder, self._levels = folder, levels
        self.files: dict[str, str] = {}
        self._pixels: list[_NpyFile] = []
        self._valid: list[_NpyFile] = []
        # Byte order of the machine, whatever the source's: np.load maps it without a conversion.
        self._dtype, self._channels = reader.dtype.newbyteorder("="), reader.shape[2]
        self._open_levels()

    def _open_levels(self) -> None:
        for number, level in enumerate(self._levels):
            shape = (level.height, level.width, self._channels)
            role, name = (f"level{number}", f"image.level{number}.npy") if number else ("image", "image.npy")
            self._pixels.append(_NpyFile(self._folder / name, shape, self._dtype))
            self.files[role] = name

    def write_pixels(self, level: int, y: int, x: int, pixels: NDArray[Any]) -> None:
        self._pixels[level].write(y, x, pixels)

    def start_valid(self) -> None:
        for number, level in enumerate(self._levels):
            role = f"valid.level{number}" if number else "valid"
            path = self._folder / f"{role}.npy"
            self._valid.append(_NpyFile(path, (level.height, level.width), np.dtype(np.bool_)))
            self.files[role] = path.name

    def write_valid(self, level: int, y: int, x: int, valid: NDArray[np.bool_]) -> None:
        self._valid[level].write(y, x, valid)

    def close(self) -> None:
        for file in (*self._pixels, *self._valid):
            file.close()

    def abandon(self) -> None:
        for file in (*self._pixels, *self._valid):
            file.abandon()
