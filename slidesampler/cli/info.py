"""``slidesampler info``: what is in a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slidesampler.cli.options import CacheFolder, JsonFlag
from slidesampler.cli.output import format_bytes, print_json, print_table, stdout

if TYPE_CHECKING:
    from slidesampler.models import CacheEntry

__all__ = ["EXAMPLES", "info"]

EXAMPLES = "\b\nExamples:\n  slidesampler info cache\n  slidesampler info cache --json"

_COLUMNS = (
    "name",
    "kind",
    "backend",
    "codec",
    "tile",
    "height",
    "width",
    "bands",
    "dtype",
    "levels",
    "size",
    "built",
)


def info(
    workdir: CacheFolder,
    json: JsonFlag = False,
) -> None:
    """List what is in a cache.

    Every image and label layer, with its codec, pixels and size. Only the records are read; 'slidesampler
    check' looks at the files.
    """
    from slidesampler.cache import CacheStore

    store = CacheStore(workdir)
    store.check_marker()
    entries = sorted(store.entries(), key=lambda entry: (_name(entry), entry.kind, entry.folder))
    if json:
        print_json(
            {
                "workdir": str(store.workdir),
                "size_bytes": sum(entry.size_bytes for entry in entries),
                "entries": [_to_dict(entry) for entry in entries],
            }
        )
        return
    print_table(_COLUMNS, map(_row, entries), right=("tile", "height", "width", "bands", "levels", "size"))
    total = format_bytes(sum(entry.size_bytes for entry in entries))
    plural = "y" if len(entries) == 1 else "ies"
    stdout().print(f"\n{len(entries)} entr{plural}, {total} in {store.workdir}")


def _name(entry: CacheEntry) -> str:
    return str(entry.source["record"]["name"])


def _row(entry: CacheEntry) -> tuple[object, ...]:
    codec = entry.codec if entry.quality is None else f"{entry.codec} q{entry.quality}"
    if not entry.lossless:
        codec += " (lossy)"
    height, width, channels = entry.shape
    return (
        _name(entry),
        entry.kind,
        entry.backend,
        codec,
        entry.tile or "-",
        height,
        width,
        channels,
        entry.dtype,
        len(entry.levels),
        "in place" if entry.in_place else format_bytes(entry.size_bytes),
        entry.created[:19].replace("T", " "),
    )


def _to_dict(entry: CacheEntry) -> dict[str, Any]:
    return {
        "name": _name(entry),
        "kind": entry.kind,
        "backend": entry.backend,
        "codec": entry.codec,
        "quality": entry.quality,
        "lossless": entry.lossless,
        "tile": entry.tile,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "levels": [[level.height, level.width] for level in entry.levels],
        "has_valid": entry.has_valid,
        "in_place": entry.in_place,
        "size_bytes": entry.size_bytes,
        "created": entry.created,
        "key": entry.key,
        "folder": entry.folder,
        "files": dict(entry.files),
    }
