"""What a loaded manifest is made of: numpy columns, and strings packed into them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from slidesampler.shape_index import ShapeIndex
from slidesampler.shapes import Shapes

__all__ = [
    "ROLE_IMAGE",
    "ROLE_LABELS",
    "ROLE_TISSUE",
    "ROLE_VALID",
    "ClassTable",
    "Columns",
    "ImageTable",
    "Strings",
    "VideoTable",
    "checksum_of",
    "digest_of",
    "flatten",
    "frozen",
    "unflatten",
]

#: What an asset is for.
ROLE_IMAGE, ROLE_LABELS, ROLE_VALID, ROLE_TISSUE = 0, 1, 2, 3

#: First line of every digest: a change of the columns' meaning changes all of them.
_FORMAT = b"slidesampler manifest columns 1\n"

Table = TypeVar("Table")


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """A column of strings.

    Parameters
    ----------
    data : uint8 (bytes,)
        UTF-8, one after the other; lone surrogates (file names that are no UTF-8) are kept.
    offsets : int64 (n + 1,)
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    @classmethod
    def pack(cls, values: Iterable[str]) -> Strings:
        """Return the column of these strings."""
        encoded = [value.encode("utf-8", "surrogatepass") for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    """Columns of ``n`` images in the manifest's order, and of their ``a`` assets.

    Parameters
    ----------
    image_ids : int64 (n,)
    sorted_ids, id_order : int64 (n,)
        The ids ascending, and the row each stands in.
    names, groups : Strings (n,)
        A group is empty where ``has_group`` is 0.
    has_group : uint8 (n,)
    sizes : int64 (n, 2)
        ``(height, width)`` in pixels; -1 where the manifest does not say.
    mpp : float64 (n, 2)
        ``(y, x)``; NaN where unknown.
    video_ids, frame_indexes : int64 (n,)
        0 where ``has_video``, ``has_frame`` (uint8) are 0.
    image_assets : int64 (n + 1,)
    asset_roles : uint8 (a,)
        ``ROLE_IMAGE``, ``ROLE_LABELS``, ``ROLE_VALID`` or ``ROLE_TISSUE``.
    asset_paths : Strings (a,)
        Absolute, or a name that is no file.
    asset_channels : int64 (a + 1,)
        Into ``channel_names``.
    channel_names : Strings
    """

    image_ids: NDArray[np.int64]
    sorted_ids: NDArray[np.int64]
    id_order: NDArray[np.int64]
    names: Strings
    groups: Strings
    has_group: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    mpp: NDArray[np.float64]
    video_ids: NDArray[np.int64]
    has_video: NDArray[np.uint8]
    frame_indexes: NDArray[np.int64]
    has_frame: NDArray[np.uint8]
    image_assets: NDArray[np.int64]
    asset_roles: NDArray[np.uint8]
    asset_paths: Strings
    asset_channels: NDArray[np.int64]
    channel_names: Strings


@dataclass(frozen=True, slots=True, eq=False)
class VideoTable:
    """Frames of every video: ``frames[offsets[i]:offsets[i + 1]]`` are the image ids of ``video_ids[i]``.

    Parameters
    ----------
    video_ids : int64 (v,)
        Ascending.
    offsets : int64 (v + 1,)
    frames : int64
        Image ids in the order of their frame index.
    """

    video_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    frames: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ClassTable:
    """A :class:`~slidesampler.models.ClassMap` as columns, and the names of the categories.

    Parameters
    ----------
    names : Strings
        Of the class indices.
    category_ids, category_index : int64 (c,)
        In the manifest's order.
    category_names : Strings (c,)
    child_names, parent_names : Strings
        Categories that have a supercategory, and that supercategory.
    """

    names: Strings
    category_ids: NDArray[np.int64]
    category_index: NDArray[np.int64]
    category_names: Strings
    child_names: Strings
    parent_names: Strings


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Columns:
    """Everything a manifest says.

    Parameters
    ----------
    bundle_dir : Strings (1,)
        Absolute folder that relative file names started from.
    images, videos, classes
        The tables above.
    shapes : Shapes
        Annotations sorted by the row of their image, then as the manifest has them.
    image_annots : int64 (n + 1,)
        Rows of ``shapes`` that belong to each image.
    sorted_annot_ids, annot_order : int64 (annots,)
        The ids ascending, and the row each stands in.
    image_digests : uint8 (n, 16)
        Of the annotations of each image, see :mod:`~slidesampler.manifest.digests`; follow from the shapes.
    index : ShapeIndex
        Where the shapes lie; it follows from them.
    """

    bundle_dir: Strings
    images: ImageTable
    videos: VideoTable
    classes: ClassTable
    shapes: Shapes
    image_annots: NDArray[np.int64]
    sorted_annot_ids: NDArray[np.int64]
    annot_order: NDArray[np.int64]
    image_digests: NDArray[np.uint8]
    index: ShapeIndex


def flatten(table: Any, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return every array of a table of tables by its dotted name; ``unflatten`` is the inverse."""
    columns: dict[str, NDArray[Any]] = {}
    for item in fields(table):
        value = getattr(table, item.name)
        name = f"{prefix}{item.name}"
        columns.update(flatten(value, f"{name}.") if is_dataclass(value) else {name: value})
    return columns


def unflatten(kind: type[Table], columns: Mapping[str, NDArray[Any]], prefix: str = "") -> Table:
    """Return the table of a kind from the arrays that ``flatten`` gave.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for item in fields(kind):  # type: ignore[arg-type]
        name, hint = f"{prefix}{item.name}", hints[item.name]
        if isinstance(hint, type) and is_dataclass(hint):
            values[item.name] = unflatten(hint, columns, f"{name}.")
        else:
            values[item.name] = columns[name]
    return kind(**values)


def frozen(columns: Columns) -> Columns:
    """Return the same columns, marked read-only: every caller of a manifest shares them."""
    for array in flatten(columns).values():
        array.setflags(write=False)
    return columns


def digest_of(columns: Columns) -> str:
    """Return the digest of what the manifest says, the same in every process: 40 hex digits."""
    table = flatten(columns)
    said = {name: array for name, array in table.items() if not name.startswith(("image_digests", "index."))}
    return _hash(said, _FORMAT)


def checksum_of(columns: Columns, digest: str) -> str:
    """Return the checksum of every column and their digest: 40 hex digits."""
    return _hash(flatten(columns), digest.encode())


def _hash(table: Mapping[str, NDArray[Any]], first: bytes) -> str:
    digest = hashlib.blake2b(first, digest_size=20)
    for name, array in sorted(table.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
