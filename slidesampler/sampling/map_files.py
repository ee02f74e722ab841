"""The maps of weights that a user gives: arrays, files, or one name for the files of all images."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidesampler.errors import ReadError, SourceMissingError, TargetError
from slidesampler.geometry import Window
from slidesampler.readers import ArrayReader, Reader, ReaderPool, ReaderSpec, open_reader
from slidesampler.readers.paths import is_file_path

__all__ = ["ArrayRows", "GivenMaps", "MapRows", "NpyRows", "ReaderRows", "WeightMaps", "map_rows", "save_maps"]

#: An array or the name of a file for each image id; or the name of all files, with ``{image_id}`` in it.
WeightMaps: TypeAlias = Mapping[int, ArrayLike | str | os.PathLike[str]] | str

#: What stands for the id of an image in the name of all files.
PLACEHOLDER = "{image_id}"


def save_maps(maps: Mapping[int, ArrayLike], folder: str | os.PathLike[str]) -> str:
    """Write maps as ``.npy`` files, ``FOLDER/IMAGE_ID.npy``, and return the name that stands for them all.

    Workers map the files into memory together; arrays given to a source travel to each of them.

    Parameters
    ----------
    maps : mapping of int to array_like (h, w)
    folder : path
        Made where it is not there; files in it are written over.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     name = save_maps({7: [[0, 1], [2, 0]]}, folder)
    ...     np.load(name.format(image_id=7)).tolist()
    [[0, 1], [2, 0]]
    """
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    for image_id, array in maps.items():
        np.save(place / f"{image_id}.npy", np.asarray(array))
    return str(place / f"{PLACEHOLDER}.npy")


class GivenMaps:
    """The map of each image, as a user gave it; opened when it is looked at.

    Arrays are copied, and travel in pickles as they are. Names are kept compressed.

    Parameters
    ----------
    maps : mapping of int to array or path, or str
        See :class:`slidesampler.WeightedSource`.
    image_ids : iterable of int
        The images that are chosen from, in order.

    Raises
    ------
    TargetError
        For an image without a map, a name without ``{image_id}``, or what is neither an array nor a path.
    """

    def __init__(self, maps: WeightMaps, image_ids: Iterable[int]) -> None:
        self._template = ""
        self._names = b""
        self._arrays: dict[int, NDArray[Any]] = {}
        if isinstance(maps, str):
            if PLACEHOLDER not in maps:
                raise TargetError(
                    f"maps={maps!r} names one file for all images; put {PLACEHOLDER} where their ids are, or "
                    "give a mapping of image id to map"
                )
            self._template = _full_name(maps)
            return
        names = []
        for at, image_id in enumerate(image_ids):
            if image_id not in maps:
                raise TargetError(
                    f"maps has none of image {image_id}; give it one, or leave it out of image_ids"
                )
            one = maps[image_id]
            if isinstance(one, str | os.PathLike):
                names.append(_full_name(os.fspath(one)))
            else:
                names.append("")
                self._arrays[at] = _map_array(image_id, one)
        self._names = zlib.compress("\n".join(names).encode(), 9)

    def names(self, image_ids: list[int]) -> list[str]:
        """Return the name of each map, empty for arrays."""
        if self._template:
            return [self._template.replace(PLACEHOLDER, str(image_id)) for image_id in image_ids]
        return zlib.decompress(self._names).decode().split("\n")

    def array(self, at: int) -> NDArray[Any] | None:
        """Return the array that was given for the image at a position, if one was."""
        return self._arrays.get(at)

    def open(self, at: int, name: str) -> Reader:
        """Open the map of the image at a position; it wants closing."""
        if not name:
            return ArrayReader(self._arrays[at], "an array", raw=True)
        return open_reader(ReaderSpec("auto", name, raw=True))


class MapRows(Protocol):
    """The pixels of a map, a part of a row at a time."""

    def read(self, row: int, start: int, stop: int) -> NDArray[Any]:
        """Return pixels ``start`` to ``stop`` of a row, ``(stop - start,)``; NaN where unknown."""
        ...


class ArrayRows:
    """The pixels of an array ``(h, w)``."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def read(self, row: int, start: int, stop: int) -> NDArray[Any]:
        """Return a part of a row; see :class:`MapRows`."""
        return self._array[row, start:stop]


class NpyRows:
    """The pixels of a ``.npy`` file in C order, read where they lie.

    The file is opened for each part, which costs less than any way to keep thousands of them open.

    Parameters
    ----------
    path : str
    mapped : numpy.memmap, shape (h, w)
        The file, as ``numpy.load`` maps it; let go of.
    """

    def __init__(self, path: str, mapped: np.memmap[Any, Any]) -> None:
        self._path = path
        self._dtype = mapped.dtype
        self._offset = int(mapped.offset)
        self._width = int(mapped.shape[1])

    def read(self, row: int, start: int, stop: int) -> NDArray[Any]:
        """Return a part of a row; see :class:`MapRows`.

        Raises
        ------
        SourceMissingError, ReadError
            If the file is gone, or was cut short.
        """
        item = self._dtype.itemsize
        length = (stop - start) * item
        try:
            file = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise SourceMissingError(f"{self._path} cannot be opened any more: {error}") from error
        try:
            data = os.pread(file, length, self._offset + (row * self._width + start) * item)
        finally:
            os.close(file)
        if len(data) != length:
            raise ReadError(f"{self._path} was cut short after it was opened; write it again")
        return np.frombuffer(data, self._dtype)


class ReaderRows:
    """The pixels of any image that can be read."""

    def __init__(self, pool: ReaderPool, key: int) -> None:
        self._pool = pool
        self._key = key

    def read(self, row: int, start: int, stop: int) -> NDArray[Any]:
        """Return a part of a row; see :class:`MapRows`."""
        window = Window(row, start, 1, stop - start)
        with self._pool.lease(self._key) as reader:
            pixels = reader.read(window)[0, :, 0]
            if reader.has_valid:
                pixels = np.where(reader.read_valid(window)[0], pixels, np.nan)
        return pixels


def map_rows(maps: GivenMaps, at: int, name: str, pool: ReaderPool) -> MapRows:
    """Return the pixels of the map of the image at a position, which was read once without complaint."""
    array = maps.array(at)
    if array is not None:
        return ArrayRows(array)
    if name.lower().endswith(".npy") and is_file_path(name):
        mapped = np.load(name, mmap_mode="r")
        if mapped.ndim == 2 and mapped.flags.c_contiguous:
            return NpyRows(name, mapped)
    return ReaderRows(pool, at)


def _map_array(image_id: int, given: ArrayLike) -> NDArray[Any]:
    if callable(given):
        raise TargetError(
            f"maps[{image_id}] is a function; give an array or the path of a file, which every worker can read"
        )
    # A copy: what the caller does with the array later must not change what is drawn.
    array = np.array(given)
    if array.ndim != 2 or array.dtype.kind not in "buif" or array.dtype.itemsize > 8 or not array.size:
        raise TargetError(
            f"maps[{image_id}] must be an array of numbers (h, w) or the path of a file; got "
            f"{array.dtype} {array.shape}"
        )
    return array


def _full_name(name: str) -> str:
    # Workers may start in another folder.
    return str(Path(name).absolute()) if is_file_path(name) else name
