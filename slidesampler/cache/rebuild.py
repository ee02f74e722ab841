"""An entry built again from nothing but its own record."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from slidesampler.cache.entry_json import class_map_from_dict, label_spec_from_dict, record_from_dict
from slidesampler.cache.key import label_folder_name
from slidesampler.cache.plan import PlanRow
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.store import CacheStore
from slidesampler.cache.task import EntryTask, LabelInputs, compact_shapes
from slidesampler.cache.work import build_entry
from slidesampler.errors import CacheError, SlideSamplerError
from slidesampler.machine import usable_threads
from slidesampler.manifest import Manifest
from slidesampler.models import CacheEntry, ImageRecord, LabelSpec

__all__ = ["label_folder_now", "rebuild_entry"]


def rebuild_entry(store: CacheStore, entry: CacheEntry) -> str | None:
    """Build an entry again, in its own folder, as its record says; returns None, or the reason of a failure.

    An image needs its source alone. A label layer needs its manifest too, with the same annotations.

    Raises
    ------
    CacheError
        If the record does not say enough, or the manifest is not there or says something else now.
    """
    record = record_from_dict(entry.source["record"])
    try:
        task = _image_task(store, entry, record) if entry.kind == "image" else _label_task(store, entry, record)
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{entry.folder}: the record does not say enough to build it again "
            f"({type(error).__name__}: {error}); build it with its manifest"
        ) from error
    row = build_entry(task)
    return row.reason if row.status == "failed" else None


def _task(
    store: CacheStore, entry: CacheEntry, record: ImageRecord, spec: BuildSpec, labels: LabelInputs | None
) -> EntryTask:
    what: Any = entry.kind
    row = PlanRow(record.image_id, record.name, what, "rebuild", "corrupt", record.assets[0].path, entry.folder)
    manifest = entry.source.get("manifest")
    threads = usable_threads()
    # Forced: the damage may be one that only the sums show. An image used in place would be copied,
    # and its sums are looked at anyway.
    forced = not entry.in_place
    return EntryTask(row, record, spec, str(store.workdir), forced, threads, labels, manifest)


def _image_task(store: CacheStore, entry: CacheEntry, record: ImageRecord) -> EntryTask:
    spec = BuildSpec(
        **{name: entry.spec[name] for name in ("backend", "codec", "quality", "tile", "full_hash")}
    )
    return _task(store, entry, record, spec.resolved(), None)


def _label_task(store: CacheStore, entry: CacheEntry, record: ImageRecord) -> EntryTask:
    manifest = _manifest(entry)
    if manifest is None:
        raise CacheError(
            f"{entry.folder}: its manifest is not there, or was never a file; build it with a manifest"
        )
    if label_folder_now(entry) != Path(entry.folder).name:
        raise CacheError(f"{entry.folder}: the annotations in its manifest are others now; build it with that")
    shapes = compact_shapes(manifest.shapes_of(record.image_id))
    digest = manifest.annots_digest(record.image_id)
    labels = LabelInputs(shapes, class_map_from_dict(entry.extra["class_map"]), digest)
    spec = replace(BuildSpec(), instances=entry.spec["instances"] is True, label_spec=_label_spec(entry))
    return _task(store, entry, record, spec.resolved(), labels)


def _label_spec(entry: CacheEntry) -> LabelSpec:
    return label_spec_from_dict(entry.spec["label_spec"])


def label_folder_now(entry: CacheEntry) -> str | None:
    """Return the name of the folder that a label layer would get from its manifest as it is now.

    None where the manifest is not there, was never a file, or has no such image, and where the record does not
    say enough.
    """
    manifest = _manifest(entry)
    if manifest is None:
        return None
    try:
        record = record_from_dict(entry.source["record"])
        digest = manifest.annots_digest(record.image_id)
        return label_folder_name(
            record, digest, class_map_from_dict(entry.extra["class_map"]), _label_spec(entry)
        )
    except (SlideSamplerError, KeyError, TypeError, ValueError):
        return None


def _manifest(entry: CacheEntry) -> Manifest | None:
    path = entry.source.get("manifest")
    if not isinstance(path, str):
        return None
    try:
        stat = Path(path).stat()
        return _load(path, stat.st_size, stat.st_mtime_ns)
    except (SlideSamplerError, OSError, ValueError):
        return None


@lru_cache(maxsize=4)
def _load(path: str, _size: int, _mtime_ns: int) -> Manifest:
    # Size and time are there for the cache of results: an edited manifest is loaded again.
    return Manifest.load(path)
