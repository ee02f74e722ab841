"""Names and keys of entries: which folder holds what, and what makes two entries different.

The *folder* of an image depends on where its files are, so that an entry is found again when the source was
edited (and can be called stale rather than missing) or moved to cold storage. The *key* recorded in
``entry.json`` also holds what the files were: size, time and sampled content, the options, and the version of
the format.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from slidesampler.cache.fingerprint import FileStamp, canonical_name, source_assets
from slidesampler.cache.spec import BuildSpec
from slidesampler.models import ClassMap, ImageRecord, LabelSpec

__all__ = [
    "FORMAT_VERSION",
    "catalog_folder_name",
    "entry_key",
    "image_folder_name",
    "label_folder_name",
    "label_spec_dict",
    "spec_dict",
    "variant_folder_name",
]

#: Of everything under a workdir. Entries of another version lie in other folders and are never read.
FORMAT_VERSION = 1
#: Of catalogs of foreground indices.
CATALOG_VERSION = 1
#: Longest readable part of a folder's name.
STEM_LENGTH = 48


def _hash(value: Any, digits: int) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:digits]


def _stem(record: ImageRecord) -> str:
    """Return a readable, portable name for folders: the stem of the first file."""
    stem = PurePosixPath(record.assets[0].path.replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:STEM_LENGTH].strip("._-") or "image"


def image_folder_name(record: ImageRecord) -> str:
    """Return ``<stem>-<16 digits>``: the same for every record of the same files, and for no other."""
    names = [canonical_name(asset.path) for asset in record.assets]
    valid = record.valid and canonical_name(record.valid.path)
    return f"{_stem(record)}-{_hash([names, valid], 16)}"


def spec_dict(spec: BuildSpec) -> dict[str, Any]:
    """Return the options of a resolved spec that decide the files of an image, as JSON-ready values."""
    return {"backend": spec.backend, "codec": spec.codec, "quality": spec.quality, "tile": spec.tile}


def label_spec_dict(spec: LabelSpec) -> dict[str, Any]:
    """Return a label spec as JSON-ready values."""
    return asdict(spec)


def variant_folder_name(spec: BuildSpec) -> str:
    """Return ``<backend>-<codec>[-qNN]-<tile>-<8 digits>`` of a resolved spec.

    The backend is the one that entries are stored as: what was built in place or converted for *auto* is found
    where a COG is looked for, and a COG that is there already is taken by *auto*.
    """
    quality = "" if spec.quality is None else f"-q{spec.quality}"
    digits = _hash([{**spec_dict(spec), "backend": spec.stored_as}, FORMAT_VERSION], 8)
    return f"{spec.stored_as}-{spec.codec}{quality}-{spec.tile}-{digits}"


def label_folder_name(
    record: ImageRecord, annots_digest: str, class_map: ClassMap, label_spec: LabelSpec
) -> str:
    """Return ``<stem>-<16 digits>`` of a label layer.

    Different for other files, other annotations of this image (those of other images do not matter), another
    class map or another label spec.
    """
    names = [canonical_name(asset.path) for asset in source_assets(record, "labels")]
    roles = [record.valid is not None, record.labels is not None]
    if record.tissue is not None:
        roles.append(True)
    classes = [list(class_map.names), sorted(class_map.category_to_index.items())]
    spec = label_spec_dict(label_spec)
    if spec["tissue"] == "auto":
        # Layers of before there were tissue masks keep their folder, and are built again in it.
        del spec["tissue"]
    value = [names, roles, annots_digest, classes, spec, FORMAT_VERSION]
    return f"{_stem(record)}-{_hash(value, 16)}"


def catalog_folder_name(digest: str, label_spec: LabelSpec, place: str = "") -> str:
    """Return 32 hexadecimal digits: others for another manifest, label spec or version.

    Parameters
    ----------
    digest : str
        Of the manifest.
    label_spec : LabelSpec
    place : str
        What else must make two of them different.
    """
    return _hash([digest, label_spec_dict(label_spec), place, CATALOG_VERSION, FORMAT_VERSION], 32)


def entry_key(folder: str, stamps: Iterable[FileStamp]) -> str:
    """Return the key of an entry: 32 hexadecimal digits.

    Parameters
    ----------
    folder : str
        The entry's folder relative to the workdir, which holds the identity of the source by name and the spec.
    stamps : iterable of FileStamp
        What the files were. The inode's change time is left out: it changes with a rename of a parent, a
        link, a change of mode.
    """
    files = [[s.name, s.size_bytes, s.mtime_ns, s.sampled, s.full] for s in stamps]
    return _hash([folder, files, FORMAT_VERSION], 32)
