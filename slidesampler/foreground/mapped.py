"""Arrays in a folder, one ``.npy`` each, memory-mapped when they are opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.mapping import open_npy

__all__ = ["map_arrays", "write_arrays"]

#: Smaller arrays are read instead of mapped, which is quicker.
_MAP_FROM_BYTES = 1 << 18


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    """Write arrays into a folder that exists, and return what :func:`map_arrays` wants to know of them.

    Raises
    ------
    OSError
        If the disk does not take them.
    """
    for name, array in arrays.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}


def map_arrays(folder: Path, described: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a folder, read-only; contents are not looked at, only that nothing is cut off.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    OSError, ValueError, TypeError
        If one is not what was described.
    """
    found = {}
    for name, (dtype, shape) in described.items():
        path = folder / f"{name}.npy"
        array = open_npy(path, _MAP_FROM_BYTES)
        if array.dtype.str != dtype or list(array.shape) != shape:
            raise ValueError(f"{path} holds {array.dtype.str} {array.shape}, recorded was {dtype} {shape}")
        found[name] = array
    return found
