"""Windows as QuPath annotations: GeoJSON, one file a slide."""

from __future__ import annotations

import json
import os
import re
import secrets
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from slidesampler.errors import TargetError
from slidesampler.geometry import Window
from slidesampler.models import ImageRecord
from slidesampler.target import Target

__all__ = ["KIND_COLORS", "geojson_feature", "write_geojson"]

#: Red, green, blue, 0 to 255, of the kinds of windows that sources make; any other kind is grey.
KIND_COLORS: Mapping[str, tuple[int, int, int]] = {
    "positive": (213, 94, 0),
    "negative": (0, 114, 178),
    "grid": (0, 158, 115),
    "coverage": (204, 121, 167),
    "weighted": (230, 159, 0),
}
OTHER_COLOR = (128, 128, 128)
ObjectType = Literal["annotation", "detection", "tile"]


def write_geojson(
    targets: Iterable[Target],
    records: Mapping[int, ImageRecord],
    folder: str | os.PathLike[str],
    *,
    names: Mapping[int, str] | None = None,
    object_type: ObjectType = "annotation",
) -> list[Path]:
    """Write the windows of each slide into a file that QuPath opens.

    In QuPath: open the slide and drag the file onto it. Files are called after the slides, as in
    ``slide-01.geojson``; where two slides have the same name, the image id is added. Each is replaced once the
    new one is complete.

    Parameters
    ----------
    targets : iterable of Target
        With ``image_id`` and ``window``, as sources and :meth:`Sampler.resolve` give them.
    records : mapping of int to ImageRecord
        By image id; slides without windows get no file.
    folder : path
        Made where it does not exist.
    names : mapping of int to str, optional
        Category names by id: a window that was chosen for one says so.
    object_type : {"annotation", "detection", "tile"}
        What QuPath makes of them: annotations can be edited; detections and tiles are quicker where there are
        very many.

    Returns
    -------
    list of Path
        In the order of ``records``.

    Raises
    ------
    TargetError
        For a target without image or window, or of an image that ``records`` has not.
    ValueError
        For another object type.
    """
    by_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in records}
    for number, target in enumerate(targets):
        if target.image_id is None or target.window is None:
            raise TargetError(
                f"targets[{number}] has no image_id or no window: {target.to_mapping()}; give what "
                "sampler.resolve makes of it"
            )
        if target.image_id not in by_image:
            raise TargetError(f"targets[{number}] is of image {target.image_id}, which has no record")
        by_image[target.image_id].append(geojson_feature(target, names=names, object_type=object_type))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder / f"{stem}.geojson", by_image[image_id])
        for image_id, stem in _stems(records).items()
        if by_image[image_id]
    ]


def geojson_feature(
    target: Target, *, names: Mapping[int, str] | None = None, object_type: ObjectType = "annotation"
) -> dict[str, Any]:
    """Return a window as a GeoJSON feature as QuPath writes them.

    A polygon of five points (the last is the first) in level-0 pixels ``x, y``, from the top left corner over
    the top right one. The classification is the target's kind; the id follows from what the window is, so that
    the same window has the same id in every export.

    *Source:* the QuPath documentation, "Exporting annotations"; ``measurements`` as an object of numbers, as
    QuPath writes them from 0.4 on.

    Examples
    --------
    >>> feature = geojson_feature(Target(image_id=1, window=Window(10, 20, 4, 8), kind="positive", index=3))
    >>> feature["geometry"]["coordinates"]
    [[[20, 10], [28, 10], [28, 14], [20, 14], [20, 10]]]
    >>> feature["properties"]["classification"], feature["properties"]["name"]
    ({'name': 'window-positive', 'color': [213, 94, 0]}, 'positive 3')
    """
    if object_type not in get_args(ObjectType):
        raise ValueError(f"object_type must be one of {', '.join(get_args(ObjectType))}, got {object_type!r}")
    window = target.window
    if window is None:
        raise TargetError(f"a target without window has no outline: {target.to_mapping()}")
    kind = target.kind or "window"
    measurements: dict[str, float] = {}
    if target.index is not None:
        measurements["index"] = target.index
    if target.downsample is not None:
        measurements["downsample"] = target.downsample
    # QuPath keeps these as words beside an object.
    metadata = {}
    category = target.category_id
    if category is not None:
        metadata["category"] = (names or {}).get(category, str(category))
    if target.annot_id is not None:
        metadata["annot_id"] = str(target.annot_id)
    properties: dict[str, Any] = {
        "objectType": object_type,
        "name": kind if target.index is None else f"{kind} {target.index}",
        "classification": {
            "name": f"window-{kind}" if kind != "window" else kind,
            "color": list(KIND_COLORS.get(kind, OTHER_COLOR)),
        },
        # A window that is moved by accident is no longer the one that was trained on.
        "isLocked": True,
        "measurements": measurements,
    }
    if metadata:
        properties["metadata"] = metadata
    text = json.dumps(target.to_mapping(), sort_keys=True)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, text)),
        "geometry": {"type": "Polygon", "coordinates": [_ring(window)]},
        "properties": properties,
    }


def _ring(window: Window) -> list[list[int]]:
    x0, y0, x1, y1 = window.as_xyxy()
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _stems(records: Mapping[int, ImageRecord]) -> dict[int, str]:
    """Return a file name for each image, no two the same, also where case does not count."""
    plain = {
        image_id: re.sub(r"[^\w.+@ -]", "_", record.name).strip(". ") or f"image-{image_id}"
        for image_id, record in records.items()
    }
    counts: dict[str, int] = {}
    for stem in plain.values():
        counts[stem.lower()] = counts.get(stem.lower(), 0) + 1
    taken: set[str] = set()
    out = {}
    for image_id, stem in plain.items():
        name = stem if counts[stem.lower()] == 1 else f"{stem}-{image_id}"
        while name.lower() in taken:
            name += "-"
        taken.add(name.lower())
        out[image_id] = name
    return out


def _write(path: Path, features: list[dict[str, Any]]) -> Path:
    text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
