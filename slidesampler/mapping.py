"""Files mapped into memory that hold no file descriptor.

A mapping outlives the descriptor that it was made of, but Python's ``mmap`` keeps a copy of it (from 3.13 on it
can be told not to): a process that maps thousands of files would run out of them.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["map_file", "map_npy", "open_npy"]


def map_file(descriptor: int, size: int) -> NDArray[np.uint8]:
    """Return the first bytes of an open file, mapped and read-only; the file may be closed.

    Parameters
    ----------
    descriptor : int
    size : int
        At least 1, at most the length of the file.

    Returns
    -------
    ndarray of uint8, shape (size,)
        It and its views hold the mapping.

    Raises
    ------
    OSError
        If it cannot be mapped.
    """
    if sys.version_info >= (3, 13):
        found: Any = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ, trackfd=False)
        return np.frombuffer(found, np.uint8)
    if _CALLS is None:
        return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)
    return np.asarray(_Mapping(descriptor, size))


def map_npy(file: BinaryIO) -> NDArray[Any]:
    """Return the array in an open ``.npy`` file, mapped and read-only; the file may be closed.

    Raises
    ------
    OSError
        If it cannot be mapped.
    ValueError
        If it is no such file, holds objects, is cut off, or has bytes behind the array.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{file.name} is no .npy file of version 1")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject or size != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{file.name} has {size} bytes, which are not those of {dtype} {shape}")
    return map_file(file.fileno(), size)[start:].view(dtype).reshape(shape, order="F" if fortran_order else "C")


def open_npy(path: Path, map_from_bytes: int) -> NDArray[Any]:
    """Return the array in a ``.npy`` file, read-only: mapped, or read where the file is smaller than that.

    Raises
    ------
    OSError, ValueError
        As :func:`map_npy` does; also if there is no such file.
    """
    with path.open("rb") as file:
        large = os.fstat(file.fileno()).st_size >= map_from_bytes
        array: NDArray[Any] = map_npy(file) if large else np.lib.format.read_array(file, allow_pickle=False)
    array.setflags(write=False)
    return array


def _calls() -> tuple[Callable[..., int], Callable[..., int]] | None:
    """Return ``mmap`` and ``munmap`` of the C library; None where there are none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        map_, unmap = library.mmap, library.munmap
    except (AttributeError, OSError, TypeError):
        return None
    pointer, whole, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    map_.restype, map_.argtypes = pointer, (pointer, size, whole, whole, whole, ctypes.c_long)
    unmap.restype, unmap.argtypes = whole, (pointer, size)
    return map_, unmap


_CALLS = _calls()
_FAILED = ctypes.c_void_p(-1).value


class _Mapping:
    """The owner of a mapping, which numpy keeps as the base of arrays."""

    def __init__(self, descriptor: int, size: int) -> None:
        assert _CALLS is not None
        map_, self._unmap = _CALLS
        address = map_(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._place = address, size
        # https://numpy.org/doc/stable/reference/arrays.interface.html
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, True),
        }

    def __del__(self) -> None:
        if hasattr(self, "_place"):
            self._unmap(*self._place)
