"""``CacheStore``: where entries lie and whether they may be served.

::

    WORKDIR/slidesampler.json                            marks the folder
    WORKDIR/images/<stem>-<digits>/<variant>/            entry.json  .lock  <generation>/...
    WORKDIR/labels/<stem>-<digits>/                      entry.json  .lock  <generation>/...
    WORKDIR/index/<digits>/                              catalog.json  .lock  <generation>/...

Finding an entry costs the same however many there are: its folder follows from the image alone, and holds one
folder a variant (backend, codec, tile).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from slidesampler.cache.catalog import remove_catalog
from slidesampler.cache.command import build_command
from slidesampler.cache.entry_json import ENTRY_FILE, load_entry, record_from_dict, recorded_stamps
from slidesampler.cache.fingerprint import (
    SourceState,
    compare_hashes,
    compare_stamps,
    source_assets,
    stamp_sources,
)
from slidesampler.cache.key import FORMAT_VERSION, image_folder_name, label_folder_name, variant_folder_name
from slidesampler.cache.publish import (
    Generation,
    debris_of,
    discard_entry,
    entry_lock,
    publish_entry,
    write_atomically,
)
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.variants import asked_for, stored_as, variants_in
from slidesampler.errors import CacheError, CacheMissError, CorruptEntryError, StaleEntryError
from slidesampler.models import CacheEntry, ClassMap, ImageRecord, LabelSpec

__all__ = ["CATALOGS", "MARKER_FILE", "AnnotationTable", "CacheStore", "check_files", "check_source"]

MARKER_FILE = "slidesampler.json"
#: Folder of the catalogs, see :mod:`slidesampler.cache.catalog`.
CATALOGS = "index"

#: Entries whose source's content was compared in this process already. A forked child knows what its parent
#: knew.
_COMPARED: set[tuple[str, str, str]] = set()


class AnnotationTable(Protocol):
    """What the store asks of a manifest to find label layers."""

    @property
    def class_map(self) -> ClassMap:
        """Categories <-> class indices."""
        ...

    def annots_digest(self, image_id: int) -> str:
        """Return the hash of an image's annotations."""
        ...


def check_files(entry: CacheEntry) -> None:
    """Raise CorruptEntryError unless the entry's files are there with their recorded sizes."""
    for role, name in entry.files.items():
        if entry.in_place and role == "image":
            # The file is the source: whether it is there, and what it was, its stamps say.
            continue
        try:
            size = os.stat(name).st_size  # noqa: PTH116
        except OSError as error:
            raise CorruptEntryError(f"{name} is recorded in {entry.folder}, but: {error.strerror}") from None
        if size != entry.sizes_bytes[role]:
            raise CorruptEntryError(f"{name} has {size} bytes, {entry.sizes_bytes[role]} are recorded")


def check_source(entry: CacheEntry, *, content: bool = True, full: bool = False) -> SourceState:
    """Return whether the source of an entry is what it was when the entry was built.

    Parameters
    ----------
    entry : CacheEntry
    content : bool
        Compare the sampled content too where somebody may have written to it, once per process and entry.
    full : bool
        Compare it in any case, and the hash of whole files where recorded.
    """
    recorded = recorded_stamps(entry)
    record = record_from_dict(entry.source["record"])
    current = stamp_sources(source_assets(record, entry.kind))
    state = compare_stamps(recorded, current)
    token = (entry.folder, entry.key, entry.created)
    if state.status == "changed" or not (content or full) or (token in _COMPARED and not full):
        return state
    content_state = compare_hashes(recorded, current, full=full)
    if content_state.status != "same":
        return content_state
    _COMPARED.add(token)
    return state


class CacheStore:
    """The entries under one workdir.

    Parameters
    ----------
    workdir : str or path
        Need not exist until something is built.
    manifest_path : str or path, optional
        Of the manifest that is built or read: recorded with label layers, and named in the commands that error
        messages give.
    label_spec : LabelSpec, optional
        What those commands are to build label layers with, where nothing else is said.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        manifest_path: str | os.PathLike[str] | None = None,
        label_spec: LabelSpec | None = None,
    ) -> None:
        self.workdir = Path(workdir).absolute()
        self.label_spec = label_spec or LabelSpec()
        self.manifest_path = None if manifest_path is None else str(Path(manifest_path).absolute())

    def __repr__(self) -> str:
        return f"CacheStore({str(self.workdir)!r})"

    # Places -----------------------------------------------------------------------------------------------

    def image_folder(self, record: ImageRecord, spec: BuildSpec) -> Path:
        """Return the folder of an image's entry; ``spec`` is resolved."""
        return self.workdir / "images" / image_folder_name(record) / variant_folder_name(spec)

    def label_folder(self, manifest: AnnotationTable, record: ImageRecord, label_spec: LabelSpec) -> Path:
        """Return the folder of an image's label layer."""
        digest = manifest.annots_digest(record.image_id)
        return self.workdir / "labels" / label_folder_name(record, digest, manifest.class_map, label_spec)

    def entry_folders(self) -> Iterator[Path]:
        """Yield every folder that is an entry or should be one, sorted, whatever is in it."""
        for pattern in ("images/*/*", "labels/*"):
            yield from sorted(item for item in self.workdir.glob(pattern) if item.is_dir())

    def catalog_folders(self) -> list[Path]:
        """Return every folder that is a catalog of foreground indices or should be one, sorted."""
        return sorted(item for item in self.workdir.glob(f"{CATALOGS}/*") if item.is_dir())

    def entries(self) -> Iterator[CacheEntry]:
        """Yield every entry whose record can be read, unchecked; :func:`slidesampler.cache.audit` checks."""
        for folder in self.entry_folders():
            try:
                yield load_entry(folder)
            except (FileNotFoundError, CacheError):
                continue

    def size_bytes(self, folder: str | os.PathLike[str]) -> int:
        """Return the bytes of an entry's files; 0 where there is none."""
        try:
            return load_entry(Path(folder)).size_bytes
        except (FileNotFoundError, CacheError):
            return 0

    # Looking up -------------------------------------------------------------------------------------------

    def find_image(
        self, record: ImageRecord, backend: str, *, codec: str | None = None, tile: int | None = None
    ) -> CacheEntry:
        """Return the entry to read an image from: of those that match, the one built last.

        Parameters
        ----------
        record : ImageRecord
        backend : {"cog", "npy", "auto"}
            cog and auto are found by each other: whatever was built for either is a TIFF read by its tiles.
        codec, tile : str, int, optional
            What was asked of the build (or what the files have, for a TIFF used in place). Any where None.

        Raises
        ------
        CacheMissError
            If there is none; the message ends with the command that builds it.
        StaleEntryError
            If the source was edited since; a source that is simply not there any more is no edit, and the entry
            is served.
        CorruptEntryError
            If the record cannot be read, or files are missing or have another size.
        CacheError
            If a newer version of the package wrote it.

        Notes
        -----
        A rebuild may replace the entry at any time: a reader that gets ``FileNotFoundError`` for one of its
        files looks it up again, once.
        """
        command = partial(self.build_command, record, backend, codec=codec, tile=tile)
        folder = os.path.join(self.workdir, "images", image_folder_name(record))  # noqa: PTH118
        codec = None if codec == "auto" or backend == "npy" else codec
        tile = None if backend == "npy" else tile
        found: list[CacheEntry] = []
        newer: CacheError | None = None
        for name in variants_in(folder, "npy" if backend == "npy" else "cog"):
            try:
                entry = load_entry(os.path.join(folder, name))  # noqa: PTH118
            except FileNotFoundError:
                continue
            except CorruptEntryError as error:
                # Which one was built last cannot be known any more.
                if asked_for(name, codec, tile):
                    raise CorruptEntryError(f"{error}; build it again:\n{command()}") from error
                continue
            except CacheError as error:
                newer = error
                continue
            if asked_for(name, codec, tile) or stored_as(entry, codec, tile):
                found.append(entry)
        if not found:
            raise newer or CacheMissError(
                f"image {record.image_id} ({record.name}) has no {backend} entry in {self.workdir}; build it:\n"
                f"{command()}"
            )
        return self._checked(max(found, key=lambda entry: (entry.created, entry.folder)), command)

    def find_labels(
        self,
        manifest: AnnotationTable,
        record: ImageRecord,
        shape: tuple[int, int] | None,
        label_spec: LabelSpec,
        *,
        instances: bool = False,
    ) -> CacheEntry:
        """Return the label layer of an image, made of these annotations in this way; all backends share it.

        Parameters
        ----------
        manifest : Manifest
        record : ImageRecord
        shape : (int, int) or None
            ``(H, W)`` of the image; compared with the layer's where it is known.
        label_spec : LabelSpec
        instances : bool
            Whether an instance layer must be there too.

        Raises
        ------
        CacheMissError, StaleEntryError, CorruptEntryError, CacheError
            As :meth:`find_image` does.
        """
        command = partial(self.build_command, record, "cog", instances=instances, label_spec=label_spec)
        folder = self.label_folder(manifest, record, label_spec)
        try:
            entry = load_entry(folder)
        except FileNotFoundError:
            entry = None
        except CorruptEntryError as error:
            raise CorruptEntryError(f"{error}; build it again:\n{command()}") from error
        if entry is None or (instances and "instances" not in entry.files):
            what = "instance layer" if instances else "label layer"
            raise CacheMissError(
                f"image {record.image_id} ({record.name}) has no {what} of these annotations in {self.workdir}"
                f"; build it:\n{command()}"
            )
        if shape is not None and entry.shape[:2] != shape:
            raise StaleEntryError(
                f"{folder} is of {entry.shape[0]} x {entry.shape[1]} pixels, the image has {shape[0]} x "
                f"{shape[1]}; build it again:\n{command()}"
            )
        return self._checked(entry, command)

    def _checked(self, entry: CacheEntry, command: Callable[[], str]) -> CacheEntry:
        try:
            check_files(entry)
        except CorruptEntryError as error:
            # A rebuild may have replaced the files between reading the record and looking at them.
            again = _reload(entry)
            if again is None or again == entry:
                raise CorruptEntryError(f"{error}; build it again:\n{command()}") from None
            entry = again
        state = check_source(entry)
        if state.status == "changed" or (state.status == "gone" and entry.in_place):
            name = entry.source["record"]["name"]
            raise StaleEntryError(
                f"the source of {name} is not what {entry.folder} was built from: {state.detail}; build it "
                f"again:\n{command()}"
            )
        return entry

    def build_command(
        self,
        record: ImageRecord,
        backend: str,
        *,
        codec: str | None = None,
        tile: int | None = None,
        instances: bool = False,
        label_spec: LabelSpec | None = None,
    ) -> str:
        """Return the shell command that builds an image into this cache."""
        return build_command(
            self.manifest_path or "MANIFEST",
            str(self.workdir),
            record.image_id,
            backend,
            codec=codec,
            tile=tile,
            instances=instances,
            label_spec=label_spec or self.label_spec,
        )

    # Writing ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the workdir, and mark it as one.

        Raises
        ------
        CacheError
            If a newer version of the package wrote it.
        OSError
            If it cannot be written.
        """
        if not (self.workdir / MARKER_FILE).exists():
            with entry_lock(self.workdir):
                if not (self.workdir / MARKER_FILE).exists():
                    for remains in self.workdir.glob(f"{MARKER_FILE}.*"):
                        remains.unlink()
                    write_atomically(self.workdir / MARKER_FILE, json.dumps({"format": FORMAT_VERSION}) + "\n")
        self.check_marker()

    def check_marker(self) -> None:
        """Raise CacheError unless the workdir is marked as one of a format that this version knows."""
        path = self.workdir / MARKER_FILE
        found: Any = None
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise CacheError(
                f"{self.workdir} is not a slidesampler cache: {path.name} cannot be read there ({error}); "
                f"check the path, or restore the file: it holds {json.dumps({'format': FORMAT_VERSION})}"
            ) from None
        version = found.get("format") if isinstance(found, dict) else None
        if type(version) is not int or version > FORMAT_VERSION:
            raise CacheError(
                f"{path} says format {version!r}, this slidesampler knows format {FORMAT_VERSION}; upgrade "
                "slidesampler, or use another workdir"
            )

    def lock(self, folder: Path, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the lock of an entry's folder; see :func:`slidesampler.cache.publish.entry_lock`."""
        return entry_lock(folder, wait=wait)

    def publish(self, entry: CacheEntry, generation: Generation | None) -> None:
        """Make an entry visible; see :func:`slidesampler.cache.publish.publish_entry`."""
        publish_entry(entry, generation)

    def sweep(self) -> None:
        """Remove what killed builds left anywhere in the cache, and indices of entries that are others now.

        What a running build holds is left alone.
        """
        for folder in self.entry_folders():
            if (folder / ENTRY_FILE).exists() and not debris_of(folder):
                continue
            with entry_lock(folder, wait=False) as held:
                if held:
                    discard_entry(folder)
        for folder in self.catalog_folders():
            remove_catalog(folder, self.workdir)
        for folder in self.workdir.glob("images/*"):
            # Of a build that was killed before it made anything: only an empty folder can be removed like this.
            with suppress(OSError):
                folder.rmdir()


def _reload(entry: CacheEntry) -> CacheEntry | None:
    try:
        again = load_entry(Path(entry.folder))
        check_files(again)
    except (FileNotFoundError, CacheError):
        return None
    return again
