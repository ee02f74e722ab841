"""How to open an image: a small value that is hashed, pickled, and sent to worker processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from slidesampler import _native
from slidesampler.errors import MissingDependencyError, ReadError, StaleEntryError, UnsupportedSourceError
from slidesampler.models import Asset, CacheEntry, ImageRecord
from slidesampler.readers.base import Reader
from slidesampler.readers.paths import blame_file, require_file
from slidesampler.readers.tile_table import TABLE_SUFFIX, load_table

__all__ = [
    "KINDS",
    "ReaderSpec",
    "open_reader",
    "spec_for_entry",
    "spec_for_labels",
    "spec_for_record",
    "spec_for_tissue",
    "spec_for_valid",
]

#: Kinds of readers, in the order of the table in :class:`ReaderSpec`.
KINDS = ("auto", "gdal", "openslide", "npy", "cog", "tiled", "array", "stack")


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """Says how to open an image; compared by value.

    Parameters
    ----------
    kind : str
        ``"auto"``: by what the file is; ``"gdal"``, ``"openslide"``, ``"npy"``, ``"cog"``, ``"array"``: that
        reader; ``"tiled"``: a TIFF by the table of its tiles; ``"stack"``: ``parts``.
    path : str
        The file, any name GDAL understands, or ``array://NAME``.
    files : tuple of (role, path)
        For images of several files: those of an npy entry (:class:`~slidesampler.readers.npy.NpyReader`); the
        table (``"tiles"``) of a TIFF.
    parts : tuple of ReaderSpec
        For ``"stack"``: the assets whose channels are put one after the other.
    channels : tuple of str
        Names of the channels, where the manifest gives them.
    token : str
        Anything that must make two specs different: the key of a cache entry.
    valid_path : str
        A file with the valid mask (non-zero = valid), of the size of the image. For any kind.
    raw : bool
        Whether values come as stored (palette indices, 0 and 1 of 1-bit images), as label rasters need.
    mpp : (float, float) or None
        Micrometres per pixel, ``(y, x)``, where it is known better than the file says.
    """

    kind: str
    path: str = ""
    files: tuple[tuple[str, str], ...] = ()
    parts: tuple[ReaderSpec, ...] = ()
    channels: tuple[str, ...] = ()
    token: str = ""
    valid_path: str = ""
    raw: bool = False
    mpp: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def __hash__(self) -> int:
        # Of what tells nearly all apart: a spec is hashed for every window that is read.
        return hash((self.kind, self.path, self.token))


def spec_for_record(record: ImageRecord) -> ReaderSpec:
    """Return how to read an image where its files lie. Nothing is opened.

    Several assets become the channels of one image, in the manifest's order.
    """
    valid = record.valid.path if record.valid is not None else ""
    if len(record.assets) == 1:
        asset = record.assets[0]
        return ReaderSpec("auto", asset.path, channels=asset.channels, valid_path=valid, mpp=record.mpp)
    parts = tuple(ReaderSpec("auto", asset.path, channels=asset.channels) for asset in record.assets)
    return ReaderSpec("stack", parts=parts, channels=record.channels, valid_path=valid, mpp=record.mpp)


def spec_for_labels(record: ImageRecord) -> ReaderSpec | None:
    """Return how to read the ``labels`` asset of an image, values as stored; None where it has none."""
    return _raw_spec(record.labels)


def spec_for_valid(record: ImageRecord) -> ReaderSpec | None:
    """Return how to read the ``valid`` asset of an image, values as stored; None where it has none."""
    return _raw_spec(record.valid)


def spec_for_tissue(record: ImageRecord) -> ReaderSpec | None:
    """Return how to read the ``tissue`` asset of an image, values as stored; None where it has none."""
    return _raw_spec(record.tissue)


def _raw_spec(asset: Asset | None) -> ReaderSpec | None:
    return None if asset is None else ReaderSpec("auto", asset.path, raw=True)


def spec_for_entry(entry: CacheEntry, role: str = "") -> ReaderSpec:
    """Return how to read a finished entry of the cache, or an existing TIFF that it points to.

    Parameters
    ----------
    entry : CacheEntry
    role : str
        Which raster of it; ``"image"`` of an image, ``"labels"`` of a label layer where empty.
    """
    if entry.kind == "image" and entry.backend == "npy" and role in ("", "image"):
        files = tuple(sorted(entry.files.items()))
        return ReaderSpec(
            "npy", entry.files["image"], files, channels=entry.channels, token=entry.key, mpp=entry.mpp
        )
    role = role or entry.kind
    if role not in entry.files:
        raise ReadError(f"entry {entry.key} of {entry.folder} has no {role!r}; it has {', '.join(entry.files)}")
    names = entry.channels if role == "image" else ()
    table = entry.files.get(role + TABLE_SUFFIX)
    kind, files = ("cog", ()) if table is None else ("tiled", (("tiles", table),))
    return ReaderSpec(kind, entry.files[role], files, channels=names, token=entry.key, mpp=entry.mpp)


def open_reader(spec: ReaderSpec) -> Reader:
    """Open an image; the reader belongs to this thread of this process and wants closing.

    ``"auto"`` opens ``array://NAME`` as an array, ``.npy`` as that, what OpenSlide knows as a vendor's format
    with OpenSlide, and everything else with GDAL.

    Raises
    ------
    SourceMissingError
        If the file is not there, or no array of that name is registered in this process.
    UnsupportedSourceError
        If it cannot be opened; the message holds what each library said.
    ReadError
        If its parts do not fit together.
    MissingDependencyError
        If the kind names a library that is not installed.
    """
    if spec.kind == "stack" or spec.valid_path:
        return _open_stack(spec)
    return _OPENERS[spec.kind](spec)


def _open_stack(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.stack import StackReader

    parts = spec.parts if spec.kind == "stack" else (replace(spec, valid_path=""),)
    if not parts:
        raise ReadError("a spec of kind 'stack' needs parts, and has none")
    opened: list[Reader] = []
    try:
        opened.extend(open_reader(part) for part in parts)
        mask = open_reader(ReaderSpec("auto", spec.valid_path, raw=True)) if spec.valid_path else None
    except Exception:
        for reader in opened:
            reader.close()
        raise
    return StackReader(opened, valid=mask, name=spec.path, channels=spec.channels, mpp=spec.mpp)


def _open_auto(spec: ReaderSpec) -> Reader:
    if spec.path.startswith("array://"):
        return _open_array(spec)
    require_file(spec.path)
    if spec.path.lower().endswith(".npy"):
        return _open_npy(spec)
    said = []
    if not spec.raw:
        # A label raster is never a vendor's slide.
        try:
            from slidesampler.readers.openslide import detect_vendor

            if detect_vendor(spec.path):
                return _open_openslide(spec)
            said.append("OpenSlide: not a format of a vendor that it knows")
        except MissingDependencyError as error:
            said.append(str(error))
    try:
        return _open_gdal(spec)
    except MissingDependencyError as error:
        said.append(str(error))
    except UnsupportedSourceError as error:
        said.insert(0, str(error))
    blame_file(spec.path)
    raise UnsupportedSourceError(
        f"{spec.path}: no reader opens it. {'; '.join(said)}. If it is an image, GDAL may lack the driver: a "
        "full set comes with: conda install -c conda-forge gdal libgdal-core; slides of vendors want: pip "
        "install openslide-python openslide-bin; or convert it to a tiled TIFF"
    )


def _open_gdal(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.gdal import GdalReader

    return GdalReader(spec.path, raw=spec.raw, channels=spec.channels, mpp=spec.mpp)


def _open_openslide(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.openslide import OpenSlideReader

    return OpenSlideReader(spec.path, channels=spec.channels, mpp=spec.mpp)


def _open_npy(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.npy import NpyReader

    files = dict(spec.files) or {"image": spec.path}
    return NpyReader(files, raw=spec.raw, channels=spec.channels, mpp=spec.mpp)


def _open_cog(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.cog import CogReader

    return CogReader(spec.path, channels=spec.channels, mpp=spec.mpp)


def _open_tiled(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.tiled import TiledReader

    table = load_table(dict(spec.files)["tiles"])
    if _native.tiles is not None:
        try:
            return TiledReader(spec.path, table, channels=spec.channels, mpp=spec.mpp)
        except StaleEntryError:
            # A file of the cache is read as it is, as it was before there were tables.
            if not table.owned:
                raise
    return open_reader(replace(spec, kind=table.reader, files=()))


def _open_array(spec: ReaderSpec) -> Reader:
    from slidesampler.readers.array import ArrayReader, registered_array

    return ArrayReader(
        registered_array(spec.path), spec.path, raw=spec.raw, channels=spec.channels, mpp=spec.mpp
    )


_OPENERS: dict[str, Callable[[ReaderSpec], Reader]] = {
    "auto": _open_auto,
    "gdal": _open_gdal,
    "openslide": _open_openslide,
    "npy": _open_npy,
    "cog": _open_cog,
    "tiled": _open_tiled,
    "array": _open_array,
}
