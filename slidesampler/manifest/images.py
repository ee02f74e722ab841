"""Images, their assets and their videos -> columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slidesampler.errors import ManifestError
from slidesampler.manifest.channels import channel_names
from slidesampler.manifest.columns import (
    ROLE_IMAGE,
    ROLE_LABELS,
    ROLE_TISSUE,
    ROLE_VALID,
    ImageTable,
    Strings,
)
from slidesampler.manifest.fields import (
    FieldFault,
    int64,
    number,
    optional_string,
    path_string,
    plain,
    rows_of,
    short,
    whole_number,
)

__all__ = ["Mpp", "MppArgument", "read_images"]

#: Micrometres per pixel of both axes, or ``(y, x)``.
Mpp = float | tuple[float, float]
MppArgument = Mpp | Mapping[int, Mpp] | None

#: ``NETCDF:"x.nc":band``, ``s3://...``, ``array://NAME``, ``/vsicurl/...``: names that are no path of a file.
_NO_PATH = re.compile(r"/vsi|[A-Z][A-Z0-9_]+:|[A-Za-z][A-Za-z0-9+.\-]+://")
_ROLES = {"labels": ROLE_LABELS, "valid": ROLE_VALID, "tissue": ROLE_TISSUE}
_UNKNOWN = float("nan"), float("nan")


@dataclass(slots=True)
class _Rows:
    """Columns as they grow."""

    image_ids: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    mpp: list[tuple[float, float]] = field(default_factory=list)
    video_ids: list[int | None] = field(default_factory=list)
    frame_indexes: list[int | None] = field(default_factory=list)
    image_assets: list[int] = field(default_factory=lambda: [0])
    asset_roles: list[int] = field(default_factory=list)
    asset_paths: list[str] = field(default_factory=list)
    asset_channels: list[int] = field(default_factory=lambda: [0])
    channel_names: list[str] = field(default_factory=list)


def read_images(data: Mapping[str, Any], bundle_dir: str, mpp: MppArgument = None) -> ImageTable:
    """Return the images of a manifest as columns.

    Parameters
    ----------
    data : mapping
        The manifest.
    bundle_dir : str
        Absolute folder that relative names start from.
    mpp : float, (float, float) or mapping of int to either, optional
        Micrometres per pixel, ``(y, x)``, for all images or by image id; wins over the manifest's.

    Raises
    ------
    ManifestError
        Names the image and the field that is missing, of the wrong type, or contradicts another.
    """
    override = _mpp_argument(mpp)
    rows = _Rows()
    seen: dict[int, int] = {}
    for position, image in enumerate(rows_of(data, "images")):
        where, image_id = f"images[{position}]", None
        try:
            image_id = int64(image.get("id"), "id")
            where = f"image {image_id}"
            if image_id in seen:
                problem = f"is that of images[{seen[image_id]}] and of images[{position}]; give each its own"
                raise FieldFault("id", problem)
            seen[image_id] = position
            _add_image(rows, image, image_id, bundle_dir, override)
        except FieldFault as fault:
            message = f"{where}: {fault.field} {fault.problem}"
            raise ManifestError(message, image_id=image_id, field=fault.field) from None
    if isinstance(override, dict):
        strangers = [image_id for image_id in override if image_id not in seen]
        if strangers:
            raise ManifestError(f"mpp: no image has the id {short(strangers)}", field="mpp")
    return _table(rows)


def _add_image(
    rows: _Rows,
    image: Mapping[str, Any],
    image_id: int,
    bundle_dir: str,
    override: tuple[float, float] | dict[int, tuple[float, float]] | None,
) -> None:
    own = path_string(image.get("file_name"), "file_name")
    height, width = _size(image)
    roles: list[int] = []
    if own is not None:
        _add_asset(
            rows, ROLE_IMAGE, _resolve(own, bundle_dir), channel_names(image.get("channels"), "channels")
        )
        roles.append(ROLE_IMAGE)
    for where, asset in _assets_of(image):
        try:
            name = path_string(asset.get("file_name"), "file_name")
            if name is None:
                raise FieldFault("file_name", "is missing; every asset needs one")
            role = _role(asset)
            channels = channel_names(asset.get("channels"), "channels") if role == ROLE_IMAGE else ()
            # A tissue mask may be of any resolution.
            if role != ROLE_TISSUE:
                height, width = _check_asset_size(asset, height, width)
        except FieldFault as fault:
            raise FieldFault(f"{where}.{fault.field}", fault.problem) from None
        if role != ROLE_IMAGE and role in roles:
            raise FieldFault(where, f"is the second asset named {_role_name(role)!r}; an image has one at most")
        roles.append(role)
        _add_asset(rows, role, _resolve(name, bundle_dir), channels)
    if ROLE_IMAGE not in roles:
        raise FieldFault("file_name", "is missing, and so is an asset with channels; say where its pixels are")
    first = rows.asset_paths[rows.image_assets[-1] + roles.index(ROLE_IMAGE)]
    rows.image_ids.append(image_id)
    rows.names.append(optional_string(image.get("name"), "name") or _stem(first))
    rows.groups.append(_group(image))
    rows.sizes.append((height or -1, width or -1))
    rows.mpp.append(_mpp_of(image, image_id, override))
    rows.video_ids.append(_optional_id(image, "video_id"))
    rows.frame_indexes.append(_optional_id(image, "frame_index"))
    rows.image_assets.append(len(rows.asset_paths))


def _assets_of(image: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # kwcoco reads both tables, the older one first.
    for key in ("auxiliary", "assets"):
        table = image.get(key)
        if table is None:
            continue
        if not isinstance(table, (list, tuple)):
            raise FieldFault(key, f"must be a list of objects, found {short(table)}")
        for position, asset in enumerate(table):
            if not isinstance(asset, Mapping):
                raise FieldFault(f"{key}[{position}]", f"must be an object, found {short(asset)}")
            yield f"{key}[{position}]", asset


def _add_asset(rows: _Rows, role: int, path: str, channels: tuple[str, ...]) -> None:
    rows.asset_roles.append(role)
    rows.asset_paths.append(path)
    rows.channel_names.extend(channels)
    rows.asset_channels.append(len(rows.channel_names))


def _role(asset: Mapping[str, Any]) -> int:
    for key in ("name", "channels"):
        word = asset.get(key)
        if isinstance(word, str) and word in _ROLES:
            return _ROLES[word]
    return ROLE_IMAGE


def _role_name(role: int) -> str:
    return next(name for name, one in _ROLES.items() if one == role)


def _size(row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    def one(key: str) -> int | None:
        return None if row.get(key) is None else whole_number(row[key], key)

    return one("height"), one("width")


def _check_asset_size(
    asset: Mapping[str, Any], height: int | None, width: int | None
) -> tuple[int | None, int | None]:
    """Return the image's size, taken from the asset where the image does not say; they must be the same."""
    own = _size(asset)
    for key, found, expected in zip(("height", "width"), own, (height, width), strict=True):
        if found is not None and expected is not None and found != expected:
            raise FieldFault(key, f"is {found}, but the image's is {expected}; bring them to one size first")
    warp = asset.get("warp_aux_to_img")
    if warp is not None and not _is_identity(warp):
        raise FieldFault(
            "warp_aux_to_img",
            f"is {short(warp)}; assets must lie pixel on pixel, bring them to one grid first",
        )
    return height or own[0], width or own[1]


def _is_identity(warp: Any) -> bool:
    import kwimage

    try:
        matrix = np.asarray(kwimage.Affine.coerce(warp).matrix, np.float64)
    except Exception as error:  # its parser takes many forms and trips in as many ways
        raise FieldFault("warp_aux_to_img", f"is no transform: {short(warp)} ({error})") from error
    return matrix.shape == (3, 3) and bool(np.allclose(matrix, np.eye(3), rtol=0, atol=1e-9))


def _resolve(name: str, bundle_dir: str) -> str:
    """Return the absolute path of a source; a name that is no path is left alone."""
    if name.startswith("/vsi"):
        return name
    path = os.path.normpath(os.path.join(bundle_dir, name))  # noqa: PTH118
    # A file may be called "A1:overview.tif": what is there wins over what looks like a GDAL driver's prefix.
    if _NO_PATH.match(name) and not os.path.exists(path):  # noqa: PTH110
        return name
    return path


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0] or path  # noqa: PTH119, PTH122


def _group(image: Mapping[str, Any]) -> str | None:
    for key in ("group", "patient"):
        value = image.get(key)
        if value is not None and value != "":
            return value if isinstance(value, str) else str(_id_or_fault(value, key))
    return None


def _id_or_fault(value: object, key: str) -> int:
    try:
        return int64(value, key)
    except FieldFault:
        raise FieldFault(key, f"must be a string or an integer, found {short(value)}") from None


def _optional_id(image: Mapping[str, Any], key: str) -> int | None:
    return None if image.get(key) is None else int64(image[key], key)


def _mpp_of(
    image: Mapping[str, Any],
    image_id: int,
    override: tuple[float, float] | dict[int, tuple[float, float]] | None,
) -> tuple[float, float]:
    if isinstance(override, tuple):
        return override
    if override is not None and image_id in override:
        return override[image_id]
    if image.get("mpp") is not None:
        return _pair(image["mpp"], "mpp")
    sides = {key: image[key] for key in ("mpp_y", "mpp_x") if image.get(key) is not None}
    if not sides:
        return _UNKNOWN
    if len(sides) == 1:
        raise FieldFault(next(iter(sides)), "is there alone; give both mpp_x and mpp_y, or mpp for both")
    return _positive(sides["mpp_y"], "mpp_y"), _positive(sides["mpp_x"], "mpp_x")


def _pair(value: object, key: str) -> tuple[float, float]:
    value = plain(value)
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise FieldFault(key, f"must be one number or (y, x), found {short(value)}")
        return _positive(value[0], key), _positive(value[1], key)
    both = _positive(value, key)
    return both, both


def _positive(value: object, key: str) -> float:
    found = number(value, key)
    if found <= 0:
        raise FieldFault(key, f"must be more than 0 micrometres per pixel, found {found!r}")
    return found


def _mpp_argument(mpp: object) -> tuple[float, float] | dict[int, tuple[float, float]] | None:
    if mpp is None:
        return None
    try:
        if isinstance(mpp, Mapping):
            return {int64(key, "image id"): _pair(value, f"of image {key}") for key, value in mpp.items()}
        return _pair(mpp, "argument")
    except FieldFault as fault:
        raise ManifestError(f"mpp: {fault.field} {fault.problem}", field="mpp") from None


def _table(rows: _Rows) -> ImageTable:
    image_ids = np.array(rows.image_ids, np.int64)
    order = np.argsort(image_ids, kind="stable").astype(np.int64)
    return ImageTable(
        image_ids=image_ids,
        sorted_ids=image_ids[order],
        id_order=order,
        names=Strings.pack(rows.names),
        groups=Strings.pack(group or "" for group in rows.groups),
        has_group=np.array([group is not None for group in rows.groups], np.uint8),
        sizes=np.array(rows.sizes, np.int64).reshape(-1, 2),
        mpp=np.array(rows.mpp, np.float64).reshape(-1, 2),
        video_ids=np.array([video or 0 for video in rows.video_ids], np.int64),
        has_video=np.array([video is not None for video in rows.video_ids], np.uint8),
        frame_indexes=np.array([index or 0 for index in rows.frame_indexes], np.int64),
        has_frame=np.array([index is not None for index in rows.frame_indexes], np.uint8),
        image_assets=np.array(rows.image_assets, np.int64),
        asset_roles=np.array(rows.asset_roles, np.uint8),
        asset_paths=Strings.pack(rows.asset_paths),
        asset_channels=np.array(rows.asset_channels, np.int64),
        channel_names=Strings.pack(rows.channel_names),
    )
