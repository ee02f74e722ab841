"""The foreground index of a sampler: opened where it lies, joined from the cache, or made from the masks."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache import CacheStore
from slidesampler.cache.catalog import (
    CATALOG_FILE,
    Witnesses,
    catalog_folder,
    open_catalog,
    publish_catalog,
)
from slidesampler.cache.collect import workdir_catalog
from slidesampler.cache.fingerprint import source_assets, stamp_sources
from slidesampler.cache.label_index import INDEX_ROLE, check_index
from slidesampler.cache.publish import entry_lock
from slidesampler.errors import CacheError, CacheMissError, SamplingError, SlideSamplerError, SourceMissingError
from slidesampler.foreground import ForegroundIndex, ImageIndex, IndexColumns, image_tissue, index_image
from slidesampler.geometry import Window
from slidesampler.manifest import Manifest, naming_image
from slidesampler.manifest.snapshot import default_snapshot_dir
from slidesampler.models import CacheEntry, LabelSpec
from slidesampler.readers import Reader, ReaderPool, spec_for_record
from slidesampler.readers.array import ARRAY_SCHEME
from slidesampler.sources import SourceTable

__all__ = ["ForegroundFinder"]

#: From so many pixels on it is said that looking at all masks takes a while: about 10 ns a pixel.
SLOW_PIXELS = 3_000_000_000


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A place where a catalog may lie, and what must be true for it to hold."""

    folder: Path
    base: Path
    witnesses: Witnesses | None = None
    signature: str = ""

    def open(self) -> IndexColumns | None:
        return open_catalog(self.folder, self.base, self.signature)


class ForegroundFinder:
    """Finds the foreground index of a manifest's images, or makes it.

    In this order: the catalog in the workdir; one in the user's cache folder; the indices of the label layers
    joined, and made from the masks where an image has no layer. What was made is kept as a catalog, in the
    workdir where every image has a layer there, else in the user's cache folder: as long as the sources are
    what they were, if all of them are files. Arrays in memory leave no trace.

    Parameters
    ----------
    manifest : Manifest
    pool : ReaderPool
    sources : SourceTable
    store : CacheStore or None
    label_spec : LabelSpec
    load_mask : callable
        ``load_mask(image_id, window)`` gives class indices.
    """

    def __init__(
        self,
        manifest: Manifest,
        pool: ReaderPool,
        sources: SourceTable,
        store: CacheStore | None,
        label_spec: LabelSpec,
        load_mask: Callable[[int, Window], NDArray[Any]],
    ) -> None:
        self._manifest = manifest
        self._pool = pool
        self._sources = sources
        self._store = store
        self._label_spec = label_spec
        self._load_mask = load_mask

    def find(self) -> ForegroundIndex:
        """Return the index, rows in the manifest's order.

        Raises
        ------
        SamplingError
            If the manifest has no images.
        SlideSamplerError
            If not one image can be looked at: why the first cannot. Where others can, only who asks for an
            image that cannot is told: a label layer that does not hold any more (the message ends with the
            command that builds it again), no layer and no source either, tissue that cannot be found.
        """
        if not len(self._manifest):
            raise SamplingError("the manifest has no images: there is nothing to choose windows from")
        found = self._open()
        if found is not None:
            return ForegroundIndex(found)
        missing: dict[int, Exception] = {}
        columns = self._make(missing)
        if len(missing) == len(self._manifest):
            raise next(iter(missing.values()))
        return ForegroundIndex(columns, missing)

    # Where it may lie -------------------------------------------------------------------------------------

    def _open(self) -> IndexColumns | None:
        for shelf in self._entry_shelves():
            found = shelf.open()
            if found is not None:
                return found
        if any((shelf.folder / CATALOG_FILE).exists() for shelf in self._entry_shelves()):
            # It is to be made again, where it lies.
            return None
        return self._source_shelf_open()

    def _source_shelf_open(self) -> IndexColumns | None:
        # All sources are looked at for this one: not before there is one.
        if not (self._source_folder() / CATALOG_FILE).exists():
            return None
        shelf = self._source_shelf()
        return None if shelf is None else shelf.open()

    def _entry_shelves(self, witnesses: Witnesses | None = None) -> tuple[_Shelf, ...]:
        """Return where a catalog joined from the entries of the workdir may lie, the workdir first."""
        if self._store is None:
            return ()
        base = self._store.workdir
        own = workdir_catalog(self._manifest, self._store, self._label_spec)
        copy = catalog_folder(self._user_root(), self._manifest.digest, self._label_spec, str(base))
        return _Shelf(own, base, witnesses), _Shelf(copy, base, witnesses)

    def _source_shelf(self) -> _Shelf | None:
        """Return where a catalog of the sources as they are now may lie; None where it cannot be kept."""
        signature = self._signature()
        if signature is None:
            return None
        return _Shelf(self._source_folder(), self._user_root(), Witnesses.none(), signature)

    def _source_folder(self) -> Path:
        return catalog_folder(self._user_root(), self._manifest.digest, self._label_spec)

    def _user_root(self) -> Path:
        return Path(self._manifest.snapshot_dir or default_snapshot_dir()) / "foreground"

    def _signature(self) -> str | None:
        """Return a hash of what all sources are now; None where one is no file that can be looked at."""
        digest = hashlib.blake2b(digest_size=16)
        for record in self._manifest.records():
            for stamp in stamp_sources(source_assets(record, "labels")):
                if stamp.size_bytes is None or stamp.name.startswith(ARRAY_SCHEME):
                    return None
                digest.update(f"{stamp.name}\0{stamp.size_bytes}\0{stamp.mtime_ns}\0".encode(errors="replace"))
        return digest.hexdigest()

    # Making -----------------------------------------------------------------------------------------------

    def _make(self, missing: dict[int, Exception]) -> IndexColumns:
        entries = self._entries(missing)
        shelves: Sequence[_Shelf | None]
        if self._store is not None and None not in entries.values():
            folders = [Path(entry.folder) for entry in entries.values() if entry is not None]
            shelves = self._entry_shelves(Witnesses.of_entries(self._store.workdir, folders))
        else:
            shelves = [self._source_shelf()]
        columns: IndexColumns | None = None
        for shelf in shelves:
            if shelf is None:
                continue
            with ExitStack() as stack:
                try:
                    stack.enter_context(entry_lock(shelf.folder))
                except OSError:
                    # It cannot be written there.
                    continue
                # Another process may have made it while we waited.
                found = shelf.open()
                if found is not None:
                    return found
                columns = columns or self._join(entries, missing)
                assert shelf.witnesses is not None
                if missing:
                    # Not kept: an image may be there the next time.
                    return columns
                with suppress(OSError):
                    publish_catalog(shelf.folder, columns, shelf.witnesses, signature=shelf.signature)
                    return shelf.open() or columns
        return columns or self._join(entries, missing)

    def _entries(self, missing: dict[int, Exception]) -> dict[int, CacheEntry | None]:
        """Return the label layer of every image that has one with an index, checked."""
        entries: dict[int, CacheEntry | None] = {}
        for record in self._manifest.records():
            entry = None
            if self._store is not None:
                try:
                    entry = self._store.find_labels(self._manifest, record, None, self._label_spec)
                except CacheMissError:
                    entry = None
                except CacheError as error:
                    missing[record.image_id] = error
            # Layers of before there was an index have none.
            entries[record.image_id] = entry if entry is not None and INDEX_ROLE in entry.files else None
        return entries

    def _join(self, entries: dict[int, CacheEntry | None], missing: dict[int, Exception]) -> IndexColumns:
        self._warn_of_slowness([image_id for image_id, entry in entries.items() if entry is None])
        images = []
        nothing = self._no_pixels()
        for image_id, entry in entries.items():
            image = nothing
            if image_id not in missing:
                try:
                    image = self._index_masks(image_id) if entry is None else check_index(entry)
                except SlideSamplerError as error:
                    missing[image_id] = error
            images.append(image)
        return IndexColumns.join(list(entries), images)

    def _warn_of_slowness(self, image_ids: Sequence[int]) -> None:
        sizes = [(record.height, record.width) for record in map(self._manifest.record, image_ids)]
        pixels = sum(height * width for height, width in sizes if height is not None and width is not None)
        if pixels > SLOW_PIXELS:
            warnings.warn(
                f"looking for the classes in the masks of {len(image_ids)} images, {pixels / 1e9:.0f} "
                "gigapixels: this may take minutes. 'slidesampler build' does it once, and sources are ready "
                "at once from then on",
                stacklevel=2,
            )

    def _no_pixels(self) -> ImageIndex:
        """Return the index that stands for an image that cannot be looked at."""
        classes = self._manifest.class_map

        def nothing(window: Window) -> NDArray[Any]:
            return np.full(window.shape, classes.ignore, classes.dtype)

        return index_image(nothing, (1, 1), len(classes.names), classes.ignore)

    def _index_masks(self, image_id: int) -> ImageIndex:
        """Return the index of an image without a label layer: the one that the layer would have."""
        source = self._sources.get(image_id)
        shape, classes = source.shape[:2], self._manifest.class_map
        with naming_image(source.record):
            tissue = image_tissue(source.record, self._label_spec, shape, partial(self._open_colours, image_id))
        read = partial(self._load_mask, image_id)
        return index_image(read, shape, len(classes.names), classes.ignore, tissue)

    @contextmanager
    def _open_colours(self, image_id: int) -> Iterator[Reader]:
        """Open what tissue is found in: the source where it is there, else what the sampler reads."""
        source = self._sources.get(image_id)
        with ExitStack() as stack:
            try:
                spec = spec_for_record(replace(source.record, mpp=None))
                reader = stack.enter_context(self._pool.lease(spec))
            except SourceMissingError:
                reader = stack.enter_context(self._pool.lease(source.spec))
            yield reader
