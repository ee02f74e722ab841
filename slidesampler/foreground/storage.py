"""The index of one image as a file beside its label layer."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from slidesampler.errors import CorruptEntryError
from slidesampler.foreground.image_index import ImageIndex

__all__ = ["INDEX_FILE", "load_index", "save_index"]

#: Name of the file in the folder of a label layer.
INDEX_FILE = "index.npz"


def save_index(path: Path, index: ImageIndex) -> None:
    """Write the index of an image: a zip of ``.npy`` files, not compressed.

    Raises
    ------
    OSError
        If the disk does not take it.
    """
    with open(path, "wb") as file:
        np.savez(file, **index.to_arrays())  # type: ignore[arg-type]


def load_index(path: Path) -> ImageIndex:
    """Return the index that :func:`save_index` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CorruptEntryError
        If it is not one, or damaged so that it shows.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return ImageIndex.from_arrays(arrays)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise CorruptEntryError(
            f"{path} is no foreground index ({type(error).__name__}: {error}); build it again"
        ) from error
