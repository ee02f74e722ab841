"""The indices of a manifest's images, collected from their entries into the catalog of the workdir."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from slidesampler.cache.catalog import Witnesses, catalog_folder, open_catalog, publish_catalog
from slidesampler.cache.entry_json import load_entry
from slidesampler.cache.label_index import INDEX_ROLE, check_index
from slidesampler.cache.publish import entry_lock
from slidesampler.cache.store import CATALOGS, CacheStore, check_files, check_source
from slidesampler.errors import CacheError
from slidesampler.foreground import ImageIndex, IndexColumns
from slidesampler.manifest import Manifest
from slidesampler.models import LabelSpec

__all__ = ["refresh_catalog", "workdir_catalog"]


def workdir_catalog(manifest: Manifest, store: CacheStore, label_spec: LabelSpec) -> Path:
    """Return the folder of the catalog of a manifest in a workdir."""
    return catalog_folder(store.workdir / CATALOGS, manifest.digest, label_spec)


def refresh_catalog(manifest: Manifest, store: CacheStore, label_spec: LabelSpec) -> bool:
    """Make the catalog of a manifest, unless it is there and holds; returns whether it is there.

    It is not where an image has no entry, or the disk does not take it: then whoever needs the index makes it.
    """
    folder = workdir_catalog(manifest, store, label_spec)
    if not len(manifest):
        return False
    with suppress(OSError):
        if open_catalog(folder, store.workdir) is not None:
            return True
        folders = [store.label_folder(manifest, record, label_spec) for record in manifest.records()]
        if not all((item / "entry.json").exists() for item in folders):
            return False
        with entry_lock(folder):
            # Another process may have made it while we waited.
            if open_catalog(folder, store.workdir) is None:
                witnesses = Witnesses.of_entries(store.workdir, folders)
                columns = IndexColumns.join(manifest.image_ids.tolist(), [_index_in(item) for item in folders])
                publish_catalog(folder, columns, witnesses)
        return True
    return False


def _index_in(folder: Path) -> ImageIndex:
    """Return the index in an entry; raises CacheError or FileNotFoundError where there is none that holds."""
    entry = load_entry(folder)
    if INDEX_ROLE not in entry.files:
        raise CacheError(f"{folder} has no foreground index; build it again")
    check_files(entry)
    state = check_source(entry, content=False)
    if state.status == "changed":
        raise CacheError(f"the source of {folder} was edited: {state.detail}; build it again")
    return check_index(entry)
