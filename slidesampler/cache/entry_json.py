"""``entry.json``: the record of an entry, and the only thing that readers trust.

Every value is checked on the way in: the file may have been edited, truncated, or written by somebody else, and
file names in it must not lead out of the entry's folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from slidesampler.cache.fingerprint import FileStamp
from slidesampler.cache.key import FORMAT_VERSION
from slidesampler.errors import CacheError, CorruptEntryError
from slidesampler.models import Asset, CacheEntry, ClassMap, ImageRecord, LabelSpec, Level

__all__ = [
    "ENTRY_FILE",
    "class_map_from_dict",
    "class_map_to_dict",
    "label_spec_from_dict",
    "load_entry",
    "own_files",
    "parse_entry",
    "record_from_dict",
    "record_to_dict",
    "recorded_stamps",
    "serialize_entry",
]

ENTRY_FILE = "entry.json"
#: A record of a slide of ten thousand companion files has 3 MB.
LIMIT_BYTES = 1 << 26

T = TypeVar("T")


def serialize_entry(entry: CacheEntry) -> str:
    """Return the text of ``entry.json``; files are named relative to the entry's folder."""
    folder = Path(entry.folder)
    files = {
        role: Path(name).relative_to(folder).as_posix() if role in own_files(entry) else name
        for role, name in entry.files.items()
    }
    levels = [[level.height, level.width, *level.downsample] for level in entry.levels]
    values = {
        "format": FORMAT_VERSION,
        "kind": entry.kind,
        "key": entry.key,
        "files": files,
        "backend": entry.backend,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "levels": levels,
        "tile": entry.tile,
        "codec": entry.codec,
        "quality": entry.quality,
        "lossless": entry.lossless,
        "in_place": entry.in_place,
        "has_valid": entry.has_valid,
        "channels": list(entry.channels),
        "mpp": None if entry.mpp is None else list(entry.mpp),
        "source": dict(entry.source),
        "spec": dict(entry.spec),
        "checksums": dict(entry.checksums),
        "sizes_bytes": dict(entry.sizes_bytes),
        "created": entry.created,
        "extra": dict(entry.extra),
    }
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load_entry(folder: str | os.PathLike[str]) -> CacheEntry:
    """Read the record of an entry; its files are not looked at.

    Raises
    ------
    FileNotFoundError
        If there is no ``entry.json``.
    CorruptEntryError
        If it cannot be read or is not what this version writes.
    CacheError
        If a newer version of the package wrote it: not damaged, but not readable here.
    """
    path = os.path.join(folder, ENTRY_FILE)  # noqa: PTH118
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise CorruptEntryError(f"{path} cannot be read: {error}") from error
    if len(data) > LIMIT_BYTES:
        raise CorruptEntryError(f"{path} is too large for the record of an entry")
    return parse_entry(data, folder)


def parse_entry(data: bytes, folder: str | os.PathLike[str]) -> CacheEntry:
    """Return the entry that the text of ``entry.json`` describes; raises as :func:`load_entry` does."""
    path = os.path.join(folder, ENTRY_FILE)  # noqa: PTH118
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptEntryError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise CorruptEntryError(f"{path} holds a {type(values).__name__}, not an object")
    version = values.get("format")
    if type(version) is int and version > FORMAT_VERSION:
        raise CacheError(
            f"{path} has format {version}, this slidesampler reads format {FORMAT_VERSION}: it was written by "
            "a newer version; upgrade slidesampler, or use another workdir"
        )
    if type(version) is not int or version != FORMAT_VERSION:
        raise CorruptEntryError(f"{path}: format is {version!r}, not {FORMAT_VERSION}")
    try:
        return _entry(values, os.fspath(folder))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise CorruptEntryError(f"{path} is not a record of an entry: {what}") from None


def _entry(values: Mapping[str, Any], folder: str) -> CacheEntry:
    shape = tuple(_list(values, "shape", _positive))
    levels = tuple(_list(values, "levels", _level))
    if len(shape) != 3 or not levels or (levels[0].height, levels[0].width) != shape[:2]:
        raise ValueError(f"shape is {shape}, levels are {levels}")
    in_place = _get(values, "in_place", bool)
    files = {
        role: _file(name, folder, in_place and role == "image")
        for role, name in _strings(values, "files").items()
    }
    kind = _choice(values, "kind", ("image", "labels"))
    backend = _choice(values, "backend", ("cog", "npy"))
    roles = [kind if kind == "labels" else "image"]
    if backend == "npy":
        roles += [f"level{number}" for number in range(1, len(levels))]
    sizes = {role: _whole(size) for role, size in _get(values, "sizes_bytes", dict).items()}
    checksums = _strings(values, "checksums")
    # A source that is used in place has no checksum: its fingerprint is recorded.
    summed = set(files) - {"image"} if in_place else set(files)
    if not set(roles) <= set(files) == set(sizes) or set(checksums) != summed:
        raise ValueError(
            f"the files named are {sorted(files)}, sizes {sorted(sizes)}, sums {sorted(checksums)}"
        )
    mpp = None if values["mpp"] is None else _list(values, "mpp", _number)
    quality = None if values["quality"] is None else _whole(values["quality"])
    return CacheEntry(
        kind=kind,
        key=_get(values, "key", str),
        folder=folder,
        files=files,
        backend=backend,
        shape=(shape[0], shape[1], shape[2]),
        dtype=_dtype(_get(values, "dtype", str)),
        levels=levels,
        tile=_whole(values["tile"]),
        codec=_get(values, "codec", str),
        quality=quality,
        lossless=_get(values, "lossless", bool),
        in_place=in_place,
        has_valid=_get(values, "has_valid", bool),
        channels=tuple(_list(values, "channels", _text)),
        mpp=None if mpp is None else (mpp[0], mpp[1]) if len(mpp) == 2 else _fail("mpp", mpp),
        source=_source(values),
        spec=_get(values, "spec", dict),
        checksums=checksums,
        sizes_bytes=sizes,
        created=_get(values, "created", str),
        extra=_get(values, "extra", dict),
    )


def _source(values: Mapping[str, Any]) -> dict[str, Any]:
    source = _get(values, "source", dict)
    record_from_dict(_get(source, "record", dict))
    _list(source, "files", FileStamp.from_dict)
    return source


def _fail(name: str, value: Any) -> Any:
    raise ValueError(f"{name} is {value!r}")


def _get(values: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = values[name]
    return value if isinstance(value, kind) else _fail(name, value)


def _list(values: Mapping[str, Any], name: str, convert: Callable[[Any], T]) -> list[T]:
    return [convert(item) for item in _get(values, name, list)]


def _choice(values: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = _get(values, name, str)
    return value if value in choices else str(_fail(name, value))


def _strings(values: Mapping[str, Any], name: str) -> dict[str, str]:
    return {key: _text(value) for key, value in _get(values, name, dict).items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(_fail("a text", value))


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else int(_fail("a whole number", value))


def _positive(value: Any) -> int:
    return value if type(value) is int and 0 < value < 1 << 40 else int(_fail("a size", value))


def _number(value: Any) -> float:
    number = float(value) if type(value) in (int, float) else _fail("a number", value)
    return number if math.isfinite(number) and number > 0 else float(_fail("a number", value))


def _dtype(name: str) -> str:
    dtype = np.dtype(name)
    return dtype.name if dtype.kind in "uifb" else str(_fail("dtype", name))


def _level(value: Any) -> Level:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"a level is {value!r}")
    return Level(_positive(value[0]), _positive(value[1]), (_number(value[2]), _number(value[3])))


def _file(name: str, folder: str, in_place: bool) -> str:
    absolute, parts = name.startswith("/"), name.split("/")
    if in_place:
        return name if absolute else str(_fail("the file used in place", name))
    if not name or "\0" in name or absolute or ".." in parts:
        raise ValueError(f"the file {name!r} is not in the entry's folder")
    return os.path.join(folder, *parts)  # noqa: PTH118


def own_files(entry: CacheEntry) -> dict[str, str]:
    """Return the files of an entry, by role, that lie in its folder: all but a source that is used in place."""
    return {role: name for role, name in entry.files.items() if not (entry.in_place and role == "image")}


def recorded_stamps(entry: CacheEntry) -> tuple[FileStamp, ...]:
    """Return what the files of an entry's source were when it was built."""
    return tuple(FileStamp.from_dict(values) for values in entry.source["files"])


def record_to_dict(record: ImageRecord) -> dict[str, Any]:
    """Return what of a record is needed to build its entries again, as JSON-ready values."""

    def asset(item: Asset | None) -> dict[str, Any] | None:
        return None if item is None else {"path": item.path, "channels": list(item.channels)}

    return {
        "image_id": record.image_id,
        "name": record.name,
        "assets": [asset(item) for item in record.assets],
        "height": record.height,
        "width": record.width,
        "labels": asset(record.labels),
        "valid": asset(record.valid),
        "tissue": asset(record.tissue),
    }


def record_from_dict(values: Mapping[str, Any]) -> ImageRecord:
    """Return the record that :func:`record_to_dict` gave; ``KeyError`` or ``ValueError`` for anything else."""

    def asset(item: Any) -> Asset:
        if not isinstance(item, dict):
            raise ValueError(f"an asset is {item!r}")
        return Asset(_get(item, "path", str), tuple(_list(item, "channels", _text)))

    def optional(name: str, convert: Callable[[Any], T]) -> T | None:
        return None if values[name] is None else convert(values[name])

    image_id = values["image_id"]
    assets = tuple(_list(values, "assets", asset))
    if type(image_id) is not int or not assets:
        raise ValueError(f"the image has id {image_id!r} and {len(assets)} files")
    return ImageRecord(
        image_id=image_id,
        name=_get(values, "name", str),
        assets=assets,
        height=optional("height", _positive),
        width=optional("width", _positive),
        labels=optional("labels", asset),
        valid=optional("valid", asset),
        # Records of before there were tissue masks do not say.
        tissue=optional("tissue", asset) if "tissue" in values else None,
    )


def class_map_to_dict(class_map: ClassMap) -> dict[str, Any]:
    """Return a class map as JSON-ready values; ids are in lists, since JSON has no whole numbers as keys."""
    return {
        "names": list(class_map.names),
        "categories": [list(pair) for pair in sorted(class_map.category_to_index.items())],
        "ignore": class_map.ignore,
    }


def class_map_from_dict(values: Mapping[str, Any]) -> ClassMap:
    """Return the class map that :func:`class_map_to_dict` gave; ``KeyError`` or ``ValueError`` otherwise."""

    def pair(item: Any) -> tuple[int, int]:
        if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not int:
            raise ValueError(f"a category is {item!r}")
        return item[0], _whole(item[1])

    return ClassMap(tuple(_list(values, "names", _text)), dict(_list(values, "categories", pair)))


def label_spec_from_dict(values: Mapping[str, Any]) -> LabelSpec:
    """Return the label spec that ``key.label_spec_dict`` gave; ``KeyError`` or ``ValueError`` otherwise."""
    overlap: Any = _get(values, "overlap", str)
    tissue: Any = _get(values, "tissue", str) if "tissue" in values else "auto"
    radius = values["keypoint_radius_px"]
    if type(radius) not in (int, float):
        raise ValueError(f"keypoint_radius_px is {radius!r}")
    return LabelSpec(overlap, float(radius), tissue)
