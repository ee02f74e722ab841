"""Reads ``.npy`` images through memory maps, without letting the maps fill the memory.

Why maps: a window of 256 rows is one copy of a strided view, against 256 calls of ``pread``, which take three
times as long. What maps cost: every page that was ever touched counts as resident (with its neighbours, which
Linux maps along), until the whole file does. So what reads map in is booked, and when it comes to more than
:data:`MAPPED_BYTES` a process gives all of it back to the system (``madvise``); the pages stay in the page
cache, and touching them again costs little. All at once, since a window of a wide image lies in as many places
as it has rows: to find out which of them were used longest ago would cost more than to map them in again.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
from collections.abc import Mapping
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ReadError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.machine import memory_bytes
from slidesampler.models import Level
from slidesampler.readers.array import copy_pixels, pixel_view
from slidesampler.readers.base import NativePart, check_channels, check_window, decimation_indices, output_array
from slidesampler.readers.paths import require_file
from slidesampler.readers.raw import raw_part

__all__ = ["MAPPED_BYTES", "MappedPages", "NpyReader"]

#: Linux maps so much in around a page that is touched (its default for ``fault_around_bytes``).
FAULT_AROUND_BYTES = 2**16
#: Not every system has it; there the system alone decides what stays mapped in.
_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)


#: How much of its .npy files a process keeps mapped in, over all readers: an eighth of the memory, so that
#: slides that are read again and again stay there.
MAPPED_BYTES = max(memory_bytes() // 8, 256 * 2**20)


class MappedPages:
    """Knows how much of which maps was touched, and gives all of it back beyond a limit.

    Parameters
    ----------
    limit_bytes : int

    Attributes
    ----------
    booked_bytes : int
        At least what is mapped in of the maps that were touched since the last time all was given back.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        # In a child the lock may be held by a thread that is not here; its maps are dropped from the books.
        self._lock = threading.Lock()
        self._booked: dict[mmap.mmap, int] = {}
        self.booked_bytes = 0

    def touch(self, mapping: mmap.mmap, size_bytes: int) -> None:
        """Book that a read has mapped in so much of a map, or will have in a moment."""
        with self._lock:
            before = self._booked.get(mapping, 0)
            try:
                now = min(before + size_bytes, len(mapping))
            except ValueError:
                # Closed in the meantime: no page of it is left.
                now = 0
            self._booked[mapping] = now
            self.booked_bytes += now - before
            if self.booked_bytes > self.limit_bytes:
                self._give_back()

    def _give_back(self) -> None:
        if _DONTNEED is not None:
            for mapping in self._booked:
                # A map that was closed (ValueError) has no pages left.
                with contextlib.suppress(ValueError):
                    mapping.madvise(_DONTNEED)
        self._booked.clear()
        self.booked_bytes = 0

    def forget(self, mapping: mmap.mmap) -> None:
        """Strike a map that is about to be closed from the books."""
        with self._lock:
            self.booked_bytes -= self._booked.pop(mapping, 0)


_PAGES = MappedPages(MAPPED_BYTES)


class _NpyFile:
    """One ``.npy``: its header read at once, its map made at the first read."""

    def __init__(self, path: str) -> None:
        self.path = path
        require_file(path)
        try:
            with open(path, "rb") as file:
                shape, self._fortran, self._dtype = _read_header(file)
                self._offset = file.tell()
                size = os.fstat(file.fileno()).st_size
        except (ValueError, EOFError, OSError) as error:
            raise ReadError(f"{path}: not a readable .npy file: {error}") from error
        if self._dtype.hasobject:
            raise UnsupportedSourceError(f"{path}: holds Python objects, not pixels; save plain numbers")
        self._shape = tuple(int(n) for n in shape)
        self.stop = self._offset + self._dtype.itemsize * math.prod(self._shape)
        if size < self.stop:
            raise ReadError(
                f"{path}: cut short: its header promises {self.stop} bytes, but it has {size}; copy "
                "or build it again"
            )
        # Says at once what is wrong with the dtype or the shape.
        example = np.broadcast_to(np.zeros((), self._dtype), self._shape)
        self.is_bool = self._dtype.kind == "b"
        probe = pixel_view(path, example)
        self.shape = probe.shape
        self.dtype = probe.dtype.newbyteorder("=")
        self._mapping: mmap.mmap | None = None
        self._pixels: NDArray[Any] | None = None
        self._part: NativePart | None = None

    def pixels(self) -> NDArray[Any]:
        """Return the mapped ``(H, W, C)`` array, checking that the file still is as long as it was."""
        if self._mapping is None:
            try:
                with open(self.path, "rb") as file:
                    self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise ReadError(f"{self.path}: cannot be mapped: {error}") from error
        # Reading a page behind the end of the file would kill the process (SIGBUS).
        if self._mapping.size() < self.stop:
            raise ReadError(f"{self.path}: was cut short after it was opened; copy or build it again")
        if self._pixels is None:
            # Not np.ndarray(buffer=...), which does not hold the map: it could be unmapped under the array.
            plain = np.frombuffer(self._mapping, self._dtype, math.prod(self._shape), self._offset)
            plain = plain.reshape(self._shape, order="F" if self._fortran else "C")
            self._pixels = pixel_view(self.path, plain)
        return self._pixels

    def part(self) -> NativePart | None:
        """Return the pixels for the compiled reader."""
        pixels = self.pixels()
        if self._part is None:
            self._part = raw_part(pixels, partial(_book, self._mapping, pixels))
        return self._part

    def book(self, window: Window) -> None:
        """Book the part of the map that a window lies in."""
        assert self._pixels is not None
        _book(self._mapping, self._pixels, window)

    def close(self) -> None:
        self._pixels = self._part = None
        if self._mapping is not None:
            _PAGES.forget(self._mapping)
            # A view that somebody still holds keeps the map alive; it goes when the view does.
            with contextlib.suppress(BufferError):
                self._mapping.close()
            self._mapping = None


def _book(mapping: mmap.mmap | None, pixels: NDArray[Any], window: Window, count: int = 1) -> None:
    """Book the part of a map of pixels that a window lies in, or so many windows of its size."""
    assert mapping is not None
    step_y, step_x, step_c = pixels.strides
    if step_y >= step_x >= step_c:
        span = window.height * min(step_y, step_x * window.width + FAULT_AROUND_BYTES)
    else:
        # Of a Fortran array each column of each channel is a row.
        span = window.width * pixels.shape[2] * (step_y * window.height + FAULT_AROUND_BYTES)
    # Both ends of it lie somewhere in what is mapped in.
    _PAGES.touch(mapping, count * (span + 2 * FAULT_AROUND_BYTES))


class NpyReader:
    """A ``.npy`` image with, where they were written, its reduced levels and valid mask beside it.

    Parameters
    ----------
    files : mapping of str to str
        Role to path: ``"image"``, then ``"level1"``, ``"level2"`` ..., and for the mask ``"valid"``,
        ``"valid.level1"`` ... . Only ``"image"`` must be there. A level of the mask that is not there is
        decimated from the full mask.
    raw : bool
        Whether bool stays 0 and 1; else it is shown as 0 and 255.
    channels : tuple of str
        Names.
    mpp : (float, float), optional
        Micrometres per pixel, ``(y, x)``.

    Raises
    ------
    SourceMissingError
        If a file is not there.
    ReadError
        If a file is not a .npy, is cut short, or its levels do not belong together.
    UnsupportedSourceError
        If it holds anything but real numbers, or has not 2 or 3 axes.

    Notes
    -----
    Fortran order and foreign byte order are read too; the pixels come in native order. A disk that fails
    under a map ends the process (SIGBUS), as with every memory map.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        raw: bool = False,
        channels: tuple[str, ...] = (),
        mpp: tuple[float, float] | None = None,
    ) -> None:
        self.name = files["image"]
        names = [files["image"]]
        while (role := f"level{len(names)}") in files:
            names.append(files[role])
        self._images = [_NpyFile(path) for path in names]
        base = self._images[0]
        for other in self._images[1:]:
            if other.dtype != base.dtype or other.shape[2] != base.shape[2]:
                raise ReadError(
                    f"{other.path} ({other.shape[2]} x {other.dtype}) is no level of {base.path} "
                    f"({base.shape[2]} x {base.dtype}); build it again"
                )
        self._stretch = base.is_bool and not raw
        height, width, count = base.shape
        self.shape = (height, width, count)
        self.dtype = base.dtype
        self.levels = tuple(Level.of((height, width), file.shape[:2]) for file in self._images)
        self.mpp = mpp
        if len(channels) not in (0, count):
            raise ReadError(
                f"{self.name}: {len(channels)} channel names were given, but it has {count} channels"
            )
        self.channels = channels
        self._masks = self._open_masks(files)
        self.has_valid = bool(self._masks)
        self._closed = False

    def _open_masks(self, files: Mapping[str, str]) -> dict[int, _NpyFile]:
        if "valid" not in files:
            return {}
        roles = {0: "valid", **{k: f"valid.level{k}" for k in range(1, len(self.levels))}}
        masks = {k: _NpyFile(files[role]) for k, role in roles.items() if role in files}
        for k, mask in masks.items():
            size = (self.levels[k].height, self.levels[k].width)
            if mask.shape[:2] != size:
                raise ReadError(
                    f"{mask.path} is {mask.shape[:2]}, but {self.name} is {size} there; build it again"
                )
        return masks

    def _check(self, window: Window, level: int) -> None:
        self._check_open()
        check_window(self.name, self.levels, window, level)

    def _check_open(self) -> None:
        if self._closed:
            raise ReadError(f"{self.name}: the reader is closed")

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return a copy of a window, ``(h, w, C)``, as :class:`.base.Reader` has it."""
        self._check(window, level)
        if channels is not None:
            check_channels(self.name, self.shape[2], channels)
        count = self.shape[2] if channels is None else len(channels)
        out = output_array(out, (window.height, window.width, count), self.dtype, self.name)
        file = self._images[level]
        copy_pixels(file.pixels()[window.y : window.y1, window.x : window.x1], channels, out)
        file.book(window)
        if self._stretch:
            out *= 255
        return out

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of a window are valid, bool ``(h, w)``: the mask is not 0."""
        self._check(window, level)
        if not self._masks:
            return np.ones(window.shape, dtype=bool)
        mask = self._masks.get(level)
        if mask is not None:
            found: NDArray[np.bool_] = mask.pixels()[window.y : window.y1, window.x : window.x1, 0] != 0
            mask.book(window)
            return found
        here = self.levels[level]
        rows = decimation_indices(window.y, window.height, here.downsample[0], self.shape[0])
        cols = decimation_indices(window.x, window.width, here.downsample[1], self.shape[1])
        found = self._masks[0].pixels()[np.ix_(rows, cols)][..., 0] != 0
        y, x = int(rows[0]), int(cols[0])
        self._masks[0].book(Window(y, x, int(rows[-1]) - y + 1, int(cols[-1]) - x + 1))
        return found

    def native(self, level: int) -> NativePart | None:
        """Return the mapped pixels of a level, as :class:`.base.NativeReader` has it."""
        self._check_open()
        return None if self._stretch else self._images[level].part()

    def native_valid(self, level: int) -> NativePart | None:
        """Return the mapped mask of a level, as :class:`.base.NativeReader` has it."""
        self._check_open()
        mask = self._masks.get(level)
        return None if mask is None else mask.part()

    def close(self) -> None:
        """Unmap the files. Closing twice does nothing."""
        self._closed = True
        for file in (*self._images, *self._masks.values()):
            file.close()


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return ``(shape, fortran order, dtype)`` of a .npy, leaving the file at its first pixel.

    *Source:* numpy.lib.format. Version 3 differs from 2 only in the encoding of field names, which images
    have not.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version in ((2, 0), (3, 0)):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} of the .npy format is not known")
