"""Where the pixels and labels of each image come from, looked up once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slidesampler.cache import CacheStore
from slidesampler.errors import CacheMissError
from slidesampler.manifest import Manifest, check_size, naming_image
from slidesampler.models import ImageRecord, LabelSpec, Level
from slidesampler.readers import ReaderPool, ReaderSpec, spec_for_entry, spec_for_record

__all__ = ["ImageSource", "LabelReaders", "SourceTable"]


class ImageSource(NamedTuple):
    """What is known of an image before it is opened, and how to open it."""

    record: ImageRecord
    spec: ReaderSpec
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    channels: tuple[str, ...]
    has_valid: bool


class LabelReaders(NamedTuple):
    """How to open an image's label layer and instance layer; None where not built."""

    labels: ReaderSpec | None = None
    instances: ReaderSpec | None = None


class SourceTable:
    """Finds the source of an image in the cache, or in place where no backend is named, and remembers it.

    Safe to use from several threads: two that miss at once look the same thing up twice.

    Parameters
    ----------
    manifest : Manifest
    pool : ReaderPool
        Opens sources in place to learn their size.
    store : CacheStore or None
    backend : {"cog", "npy", "auto"} or None
    label_spec : LabelSpec
    codec, tile : str, int or None
        Which variant of the cache.
    """

    def __init__(
        self,
        manifest: Manifest,
        pool: ReaderPool,
        store: CacheStore | None,
        backend: str | None,
        label_spec: LabelSpec,
        codec: str | None,
        tile: int | None,
    ) -> None:
        self._manifest = manifest
        self._pool = pool
        self._store = store
        self._backend = backend
        self._label_spec = label_spec
        self._codec = codec
        self._tile = tile
        self._images: dict[int, ImageSource] = {}
        self._labels: dict[int, LabelReaders] = {}
        # How often something was forgotten: what was looked up before that is not remembered after it.
        self._forgotten = 0

    @property
    def has_cache(self) -> bool:
        """Whether there is a cache to look into."""
        return self._store is not None

    def get(self, image_id: int) -> ImageSource:
        """Return the source of an image.

        Raises
        ------
        TargetError
            If the manifest has no such image.
        ManifestError
            If its size in the manifest is not the size of the file.
        CacheMissError, StaleEntryError, CorruptEntryError, ReadError
            If it cannot be read.
        """
        source = self._images.get(image_id)
        if source is None:
            turn = self._forgotten
            record = self._manifest.record(image_id)
            source = self._in_place(record) if self._backend is None else self._cached(record)
            check_size(record, source.shape[:2])
            if turn == self._forgotten:
                self._images[image_id] = source
        return source

    def label_readers(self, source: ImageSource) -> LabelReaders:
        """Return how to open the label layers of an image."""
        found = self._labels.get(source.record.image_id)
        if found is None:
            turn = self._forgotten
            found = self._find_labels(source)
            if turn == self._forgotten:
                self._labels[source.record.image_id] = found
        return found

    def forget(self, image_id: int) -> None:
        """Forget an image: it is looked up anew when it is read next."""
        self._forgotten += 1
        source, labels = self._images.pop(image_id, None), self._labels.pop(image_id, None)
        for spec in (source and source.spec, *(labels or ())):
            if spec is not None:
                self._pool.discard(spec)

    def clear(self) -> None:
        """Forget everything."""
        self._forgotten += 1
        self._images.clear()
        self._labels.clear()

    def _in_place(self, record: ImageRecord) -> ImageSource:
        spec = spec_for_record(record)
        with naming_image(record), self._pool.lease(spec) as reader:
            return ImageSource(
                record,
                spec,
                reader.shape,
                reader.dtype,
                reader.levels,
                record.mpp or reader.mpp,
                record.channels or reader.channels,
                reader.has_valid,
            )

    def _cached(self, record: ImageRecord) -> ImageSource:
        assert self._backend is not None
        assert self._store is not None
        entry = self._store.find_image(record, self._backend, codec=self._codec, tile=self._tile)
        return ImageSource(
            record,
            spec_for_entry(entry),
            entry.shape,
            np.dtype(entry.dtype),
            entry.levels,
            record.mpp or entry.mpp,
            record.channels or entry.channels,
            entry.has_valid,
        )

    def _find_labels(self, source: ImageSource) -> LabelReaders:
        if self._store is None:
            return LabelReaders()
        try:
            entry = self._store.find_labels(self._manifest, source.record, source.shape[:2], self._label_spec)
        except CacheMissError:
            return LabelReaders()
        return LabelReaders(
            *(spec_for_entry(entry, role) if role in entry.files else None for role in LabelReaders._fields)
        )
