"""Windows as annotations of a kwcoco manifest."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidesampler.errors import TargetError
from slidesampler.manifest.manifest import Manifest
from slidesampler.manifest.source import read_source
from slidesampler.target import Target

if TYPE_CHECKING:
    import kwcoco

__all__ = ["SUPERCATEGORY", "windows_to_kwcoco"]

#: Of the categories that windows get: ``class_map={"window": "background"}`` when the copy is loaded turns them
#: all off at once.
SUPERCATEGORY = "window"
#: ``array://NAME``, ``HDF5:file:layer``: names that a folder is not put in front of.
_NO_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+:")


def windows_to_kwcoco(
    source: str | os.PathLike[str] | Mapping[str, Any] | kwcoco.CocoDataset,
    targets: Iterable[Target],
    path: str | os.PathLike[str],
    *,
    keep_annotations: bool = True,
    bundle_dir: str | os.PathLike[str] | None = None,
) -> int:
    """Write a copy of a manifest with one more annotation for each window.

    The annotation is a ``bbox`` (level-0 pixels, not clipped to the image) of a category that is called after
    the window's kind, such as ``window-positive``, below the supercategory ``window``. It holds the target
    under ``"target"``, so that the window can be loaded again. Images, videos and all else are the manifest's
    own; file names are made absolute where the copy lies in another folder. What can be read with kwcoco,
    kwcoco's command line, and :meth:`slidesampler.Manifest.load`.

    Parameters
    ----------
    source : path, mapping or kwcoco.CocoDataset
        See :meth:`slidesampler.Manifest.load`.
    targets : iterable of Target
        With ``image_id`` and ``window``, as sources and :meth:`Sampler.resolve` give them.
    path : path
        Replaced once the new file is complete.
    keep_annotations : bool
        Whether the manifest's own annotations and categories stay. Ids of windows come after the largest of
        these in any case.
    bundle_dir : path, optional
        See :meth:`slidesampler.Manifest.load`.

    Returns
    -------
    int
        How many windows were written.

    Raises
    ------
    ManifestError
        If the manifest cannot be trusted.
    TargetError
        For a target without image or window, or of an image that the manifest has not.

    Notes
    -----
    To train on the copy, leave the windows out: ``Manifest.load(copy, class_map={"window": "background"})``
    would let them cover what they lie over, so the copy is for looking at. The windows themselves are better
    kept as ``windows.jsonl``, which :meth:`slidesampler.FixedSource.from_jsonl` reads.
    """
    data, base = read_source(source, bundle_dir)
    known = set(Manifest.load(source, bundle_dir=bundle_dir).image_ids.tolist())
    annotations = list(data.get("annotations") or [])
    categories = list(data.get("categories") or [])
    next_annot = 1 + max((int(row["id"]) for row in annotations), default=0)
    next_category = 1 + max((int(row["id"]) for row in categories), default=0)
    if not keep_annotations:
        annotations, categories = [], []
    ids = {row["name"]: int(row["id"]) for row in categories}
    count = 0
    for count, target in enumerate(targets, 1):
        image_id, window = target.image_id, target.window
        if image_id is None or window is None:
            raise TargetError(
                f"targets[{count - 1}] has no image_id or no window: {target.to_mapping()}; give what "
                "sampler.resolve makes of it"
            )
        if image_id not in known:
            raise TargetError(f"targets[{count - 1}] is of image {image_id}, which the manifest has not")
        name = f"{SUPERCATEGORY}-{target.kind}" if target.kind else SUPERCATEGORY
        if name not in ids:
            ids[name] = next_category
            categories.append({"id": next_category, "name": name, "supercategory": SUPERCATEGORY})
            next_category += 1
        annotations.append(
            {
                "id": next_annot,
                "image_id": image_id,
                "category_id": ids[name],
                "bbox": [window.x, window.y, window.width, window.height],
                # An annotation that is left behind must not be asked for.
                "target": (target if keep_annotations else target.with_fields(annot_id=None)).to_mapping(),
            }
        )
        next_annot += 1
    path = Path(path)
    copy = {key: value for key, value in data.items() if key != "img_root"}
    copy["categories"], copy["annotations"] = categories, annotations
    if path.parent.absolute() != Path(base) or "img_root" in data:
        copy["images"] = [_with_absolute_names(image, base) for image in data["images"]]
    _write(copy, path)
    return count


def _with_absolute_names(image: Mapping[str, Any], base: str) -> dict[str, Any]:
    out = dict(image)
    if out.get("file_name"):
        out["file_name"] = _absolute(out["file_name"], base)
    for table in ("auxiliary", "assets"):
        if out.get(table):
            out[table] = [_with_absolute_names(asset, base) for asset in out[table]]
    return out


def _absolute(name: str, base: str) -> str:
    path = Path(base, name)
    if name.startswith("/vsi") or (_NO_PATH.match(name) and not path.exists()):
        return name
    return str(path)


def _write(data: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
