"""Where a manifest comes from: a file, a zip with one file in it, a mapping, a ``kwcoco.CocoDataset``."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slidesampler.errors import ManifestError
from slidesampler.manifest.fields import short

__all__ = ["collector_paused", "read_source"]


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector.

    Millions of small lists are made while a manifest is parsed and none of them is garbage; looking for some
    again and again takes longer than the parsing itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_source(
    source: str | os.PathLike[str] | Mapping[str, Any] | Any, bundle_dir: str | os.PathLike[str] | None
) -> tuple[Mapping[str, Any], str]:
    """Return a manifest's JSON object and the absolute folder that its relative paths start from.

    Parameters
    ----------
    source : path, mapping or kwcoco.CocoDataset
        A zip must hold exactly one ``.json``.
    bundle_dir : path, optional
        Wins over the folder of the file, the dataset's own bundle, and the working folder (for a mapping).

    Raises
    ------
    ManifestError
        If the file is missing, unreadable or not JSON, or is no object with an ``images`` table.
    """
    folder: str | os.PathLike[str]
    if isinstance(source, (str, os.PathLike)):
        data = _parse(_read_bytes(Path(source)), os.fspath(source))
        folder = Path(source).parent
    elif isinstance(source, Mapping):
        data, folder = source, ""
    elif _is_coco_dataset(source):
        data, folder = source.dataset, os.fspath(source.bundle_dpath or "")
    else:
        raise ManifestError(
            f"a manifest is a path, a mapping or a kwcoco.CocoDataset, got {type(source).__name__}"
        )
    if not isinstance(data, Mapping) or "images" not in data:
        raise ManifestError(
            f"{_name(source)} has no 'images' table, so it is no kwcoco manifest; found {_outline(data)}",
            field="images",
        )
    base = os.path.abspath(os.fspath(folder if bundle_dir is None else bundle_dir))  # noqa: PTH100
    root = data.get("img_root")
    if root is None or root == "" or root == []:
        return data, base
    if not isinstance(root, str) or "\0" in root:
        raise ManifestError(f"img_root must be a folder name, found {short(root)}", field="img_root")
    root = os.path.expanduser(root)  # noqa: PTH111
    if _is_coco_dataset(source) and bundle_dir is None and f"/{folder}".endswith(f"/{root}"):
        # kwcoco has joined it already; it does so for datasets made in memory, not for those read from a file.
        return data, base
    return data, os.path.normpath(os.path.join(base, root))  # noqa: PTH118


def _is_coco_dataset(source: object) -> bool:
    """Return whether ``source`` is a kwcoco dataset, without importing kwcoco for people who do not use it."""
    kwcoco = sys.modules.get("kwcoco")
    return kwcoco is not None and isinstance(source, kwcoco.CocoDataset)


def _name(source: object) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the manifest"


def _outline(data: object) -> str:
    if isinstance(data, Mapping):
        return f"the keys {short(sorted(map(str, data)))}"
    return f"a {type(data).__name__}"


def _read_bytes(path: Path) -> bytes:
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        hint = "; give the .json inside the folder" if path.is_dir() else ""
        raise ManifestError(f"manifest {path} cannot be read: {error}{hint}") from error


def _read_zip(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/")]
            jsons = [
                name for name in members if name.lower().endswith(".json") and not name.startswith("__MACOSX/")
            ]
            chosen = jsons or members
            if len(chosen) != 1:
                raise ManifestError(f"{path} must hold exactly one .json, found {short(chosen)}")
            return archive.read(chosen[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is how zipfile says that a member is encrypted.
        raise ManifestError(f"zip {path} cannot be read: {error}") from error


def _parse(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ManifestError(f"{name} is nested too deeply to be a kwcoco manifest") from None
    except ValueError as error:
        raise ManifestError(
            f"{name} is not JSON: {error}; a manifest is a kwcoco .json, or a .zip with one"
        ) from error
