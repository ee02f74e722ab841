"""The files and the record of one entry, under the lock of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import tifffile

from slidesampler.cache.entry_json import class_map_to_dict, own_files, record_to_dict, recorded_stamps
from slidesampler.cache.fingerprint import (
    FileStamp,
    canonical_name,
    compare_stamps,
    source_assets,
    stamp_sources,
    with_hashes,
)
from slidesampler.cache.key import entry_key, label_spec_dict, spec_dict
from slidesampler.cache.publish import checksum_files, new_generation, publish_entry
from slidesampler.cache.spec import WrittenFiles
from slidesampler.cache.store import CacheStore
from slidesampler.cache.tables import with_tables
from slidesampler.cache.task import EntryTask
from slidesampler.errors import BuildError, CacheError, ReadError, SourceMissingError
from slidesampler.foreground import image_tissue
from slidesampler.manifest import check_size, naming_image
from slidesampler.models import CacheEntry
from slidesampler.readers import (
    ReaderSpec,
    open_reader,
    spec_for_entry,
    spec_for_labels,
    spec_for_record,
)
from slidesampler.readers.base import Reader
from slidesampler.readers.tile_table import TABLE_SUFFIX, write_table

__all__ = ["make_entry"]

#: tifffile's names of compressions that have another name here.
_TIFF_CODECS = {"adobe_deflate": "deflate", "lzma": "lzma"}


def make_entry(
    task: EntryTask, action: str, started: Callable[[int], None], advanced: Callable[[int], None]
) -> CacheEntry:
    """Make an entry and publish it; the lock of its folder must be held.

    Parameters
    ----------
    task : EntryTask
    action : str
        ``"in-place"`` to record the source as the entry, anything else to write files.
    started, advanced : callable
        Told of all level-0 pixels, and of those that are done as they are.

    Raises
    ------
    SlideSamplerError, OSError
        Whatever went wrong. The entry that was there before is still there, and nothing else is.
    """
    with naming_image(task.record), _open_source(task) as source:
        started(source.shape[0] * source.shape[1])
        if action == "in-place":
            return _record_in_place(task, source)
        return _write(task, source, advanced)


@contextmanager
def _open_source(task: EntryTask) -> Iterator[Reader]:
    """Open what an entry is made from: the source, or for a label layer the image as built, where it is.

    A label layer needs no more of an image than its size and its valid mask. The built image has both at hand,
    while a slide that OpenSlide reads says only pixel by pixel, decoded, which of them are valid.
    """
    with closing(_open_built(task) or open_reader(_source_spec(task))) as reader:
        check_size(task.record, reader.shape[:2])
        yield reader


def _source_spec(task: EntryTask) -> ReaderSpec:
    # The manifest's word for the resolution belongs to the manifest: another one may share this entry.
    return spec_for_record(replace(task.record, mpp=None))


def _open_built(task: EntryTask) -> Reader | None:
    entry = _built_image(task)
    # Of an image used in place without a table of its tiles its source says as much.
    if entry is None or (entry.in_place and not own_files(entry)):
        return None
    # Another process may be replacing the entry: then the source serves.
    with suppress(ReadError):
        return open_reader(spec_for_entry(entry))
    return None


def _built_image(task: EntryTask) -> CacheEntry | None:
    """Return an up-to-date entry of the image whose label layer is made; None for other tasks, or without."""
    if task.row.what != "labels":
        return None
    store = CacheStore(task.workdir)
    for backend in ("npy", "cog"):
        with suppress(CacheError):
            return store.find_image(task.record, backend)
    return None


def _stand_in(task: EntryTask) -> CacheEntry | None:
    """Return the built image of a slide in cold storage, which stands in for it when its labels are made."""
    paths = [Path(canonical_name(asset.path)) for asset in task.record.assets]
    if all(path.exists() or not path.is_absolute() for path in paths):
        return None
    return _built_image(task)


def _stamps_now(task: EntryTask) -> tuple[FileStamp, ...]:
    current = stamp_sources(source_assets(task.record, task.row.what))
    entry = _stand_in(task)
    if entry is None:
        return current
    # What is not there now was recorded when the image was built, and is compared when it comes back.
    recorded = {stamp.name: stamp for stamp in recorded_stamps(entry)}
    current = tuple(stamp for stamp in current if stamp.name not in recorded)
    return (*recorded.values(), *current)


def _write(task: EntryTask, source: Reader, advanced: Callable[[int], None]) -> CacheEntry:
    stamps = with_hashes(_stamps_now(task), full=task.spec.full_hash)
    with new_generation(Path(task.row.folder)) as generation:
        fill = _fill_image if task.labels is None else _fill_labels
        entry = fill(task, source, _entry(task, stamps, source), generation.partial, advanced)
        state = compare_stamps(stamps, _stamps_now(task))
        if state.status == "changed":
            raise BuildError(f"the source changed while it was read: {state.detail}; build it again")
        final = {role: str(generation.final / Path(name).name) for role, name in entry.files.items()}
        entry = replace(entry, files=final)
        publish_entry(entry, generation)
    return entry


def _fill_image(
    task: EntryTask, source: Reader, entry: CacheEntry, folder: Path, advanced: Callable[[int], None]
) -> CacheEntry:
    # Imported here, like the label writer below: GDAL comes with them.
    from slidesampler.cache.verify import verify_image
    from slidesampler.cache.write import write_image

    written = write_image(source, folder, task.spec, threads=task.threads, advance=advanced)
    if task.spec.stored_as == "cog":
        written = with_tables(folder, written)
    entry = _with_files(entry, folder, written)
    with closing(open_reader(spec_for_entry(entry))) as built:
        verify_image(source, built, lossless=entry.lossless, seed=0, levels=entry.levels)
    return entry


def _fill_labels(
    task: EntryTask, source: Reader, entry: CacheEntry, folder: Path, advanced: Callable[[int], None]
) -> CacheEntry:
    from slidesampler.cache.label_index import INDEX_ROLE, write_index
    from slidesampler.cache.verify import verify_labels
    from slidesampler.cache.write_labels import LabelSource, write_labels

    assert task.labels is not None
    shapes, class_map, label_spec = task.labels.shapes, task.labels.class_map, task.spec.label_spec
    size = source.shape[:2]
    spec = spec_for_labels(task.record)
    with ExitStack() as stack:
        base = None if spec is None else stack.enter_context(closing(open_reader(spec)))
        valid = source if source.has_valid else None
        written = write_labels(
            folder,
            size,
            shapes,
            class_map,
            label_spec,
            base=base,
            valid=valid,
            instances=task.spec.instances,
            threads=task.threads,
            advance=advanced,
        )
        rasters = written.files
        written = with_tables(folder, written)
        layer = LabelSource(size, shapes, class_map, label_spec, base=base, valid=valid)
        for role, name in rasters.items():
            with closing(open_reader(ReaderSpec("cog", str(folder / name)))) as built:
                verify_labels(layer, built, seed=0, instances=role == "instances")
        tissue = image_tissue(task.record, label_spec, size, partial(_open_colours, task))
        with closing(open_reader(ReaderSpec("cog", str(folder / written.files["labels"])))) as built:
            index = write_index(folder, built, class_map, tissue)
    return _with_files(entry, folder, replace(written, files={**written.files, INDEX_ROLE: index}))


@contextmanager
def _open_colours(task: EntryTask) -> Iterator[Reader]:
    """Open what tissue is found in: the source where it is there, so that it is the same whatever was built."""
    try:
        reader = open_reader(_source_spec(task))
    except SourceMissingError:
        built = _open_built(task)
        if built is None:
            raise
        reader = built
    with closing(reader):
        yield reader


def _with_files(entry: CacheEntry, folder: Path, written: WrittenFiles) -> CacheEntry:
    """Return the record with what the writer wrote, read back and summed."""
    files = {role: folder / name for role, name in written.files.items()}
    checksums, sizes = checksum_files(files)
    return replace(
        entry,
        files={role: str(path) for role, path in files.items()},
        shape=written.shape,
        dtype=written.dtype,
        levels=written.levels,
        tile=written.tile,
        codec=written.codec,
        quality=written.quality,
        lossless=written.lossless,
        has_valid=written.has_valid,
        checksums=checksums,
        sizes_bytes=sizes,
        extra={**entry.extra, **written.extra},
    )


def _record_in_place(task: EntryTask, source: Reader) -> CacheEntry:
    from slidesampler.cache.in_place import find_in_place

    stamps = with_hashes(_stamps_now(task), full=task.spec.full_hash)
    found = find_in_place(task.record, task.spec)
    path = canonical_name(task.record.assets[0].path)
    if found.cog:
        # As it will be read: a COG may call itself a slide of a vendor, too.
        with closing(open_reader(ReaderSpec("cog", path))) as reader:
            entry = _entry(task, stamps, reader)
    else:
        entry = _entry(task, stamps, source)
    tile, codec = _tiff_facts(path)
    entry = replace(
        entry,
        files={"image": path},
        sizes_bytes={"image": Path(path).stat().st_size},
        in_place=True,
        # OpenSlide cannot say that nothing is missing; the table can.
        has_valid=entry.has_valid if found.table is None else found.table.valid != "all",
        tile=tile,
        codec=codec,
        extra={"cog": found.cog},
    )
    if found.table is None:
        publish_entry(entry, None)
        return entry
    with new_generation(Path(task.row.folder)) as generation:
        name = f"image{TABLE_SUFFIX}"
        write_table(generation.partial / name, found.table)
        checksums, sizes = checksum_files({name: generation.partial / name})
        entry = replace(
            entry,
            files={**entry.files, name: str(generation.final / name)},
            checksums=checksums,
            sizes_bytes={**entry.sizes_bytes, **sizes},
        )
        publish_entry(entry, generation)
    return entry


def _tiff_facts(path: str) -> tuple[int, str]:
    """Return tile size and codec of a TIFF, the codec under our name where we have one."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        codec = page.compression.name.lower()
    return page.tilewidth, _TIFF_CODECS.get(codec, codec)


def _entry(task: EntryTask, stamps: tuple[FileStamp, ...], reader: Reader) -> CacheEntry:
    """Return the record as far as it follows from the task and its source; the rest the files decide."""
    folder = Path(task.row.folder)
    source: dict[str, Any] = {
        "record": record_to_dict(task.record),
        "files": [stamp.to_dict() for stamp in stamps],
    }
    extra: dict[str, Any] = {}
    spec: dict[str, Any] = {**spec_dict(task.spec), "full_hash": task.spec.full_hash}
    if task.labels is not None:
        source |= {"manifest": task.manifest_path, "annots_digest": task.labels.annots_digest}
        spec = {"instances": task.spec.instances, "label_spec": label_spec_dict(task.spec.label_spec)}
        extra["class_map"] = class_map_to_dict(task.labels.class_map)
    return CacheEntry(
        kind=task.row.what,
        key=entry_key(folder.relative_to(task.workdir).as_posix(), stamps),
        folder=str(folder),
        files={},
        backend="cog" if task.labels is not None else task.spec.stored_as,
        shape=reader.shape,
        dtype=reader.dtype.name,
        levels=reader.levels,
        tile=0,
        codec="none",
        quality=None,
        lossless=True,
        in_place=False,
        has_valid=reader.has_valid,
        channels=() if task.labels is not None else task.record.channels or reader.channels,
        mpp=reader.mpp,
        source=source,
        spec=spec,
        checksums={},
        sizes_bytes={},
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        extra=extra,
    )
