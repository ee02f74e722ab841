"""Comparing a manifest with the files it names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from slidesampler.errors import ManifestError, SourceMissingError
from slidesampler.models import ImageRecord

__all__ = ["check_present", "check_size", "naming_image"]


def check_present(records: Iterable[ImageRecord]) -> None:
    """Raise ManifestError if a file is missing; names the first image and says how many are.

    Names that are no path (``/vsi...``, ``DRIVER:...``, ``array://...``) are not looked for.
    """
    missing = [
        (record, field, path) for record in records for field, path in _files_of(record) if not _is_there(path)
    ]
    if not missing:
        return
    record, field, path = missing[0]
    more = f" (the first of {len(missing)} missing files)" if len(missing) > 1 else ""
    raise ManifestError(
        f"image {record.image_id}: {field} {path} does not exist{more}; correct the manifest, "
        "or say with bundle_dir which folder its names start from",
        image_id=record.image_id,
        field=field,
    )


def _files_of(record: ImageRecord) -> list[tuple[str, str]]:
    files = [("file_name", asset.path) for asset in record.assets]
    if record.labels is not None:
        files.append(("labels", record.labels.path))
    if record.valid is not None:
        files.append(("valid", record.valid.path))
    if record.tissue is not None:
        files.append(("tissue", record.tissue.path))
    return files


def _is_there(path: str) -> bool:
    # What is no path was left as the manifest has it, so it is not absolute; GDAL's own file systems are.
    return path.startswith("/vsi") or not os.path.isabs(path) or os.path.exists(path)  # noqa: PTH110, PTH117


@contextmanager
def naming_image(record: ImageRecord) -> Iterator[None]:
    """Let errors about the files of an image name the image and the field of the manifest.

    A reader knows only the file that it was given.

    Raises
    ------
    SourceMissingError
        In place of one that names the file alone.
    ManifestError
        In place of one that names no image.

    Examples
    --------
    >>> from slidesampler.models import Asset
    >>> record = ImageRecord(7, "a", (Asset("/slides/a.tif"),))
    >>> with naming_image(record):
    ...     raise SourceMissingError("/slides/a.tif is not there")
    Traceback (most recent call last):
    slidesampler.errors.SourceMissingError: image 7 (a): file_name: /slides/a.tif is not there
    """
    try:
        yield
    except SourceMissingError as error:
        # The longest: /a/b is part of /a/b.tif.
        named = [(len(path), field) for field, path in _files_of(record) if path in str(error)]
        field = f"{max(named)[1]}: " if named else ""
        raise SourceMissingError(f"image {record.image_id} ({record.name}): {field}{error}") from error
    except ManifestError as error:
        if error.image_id is not None:
            raise
        raise ManifestError(
            f"image {record.image_id} ({record.name}): {error}", image_id=record.image_id, field=error.field
        ) from error


def check_size(record: ImageRecord, found: tuple[int, int]) -> None:
    """Raise ManifestError if a height or width of the manifest is not the file's.

    Parameters
    ----------
    record : ImageRecord
    found : (int, int)
        ``(height, width)`` of its image as the file has it.
    """
    for field, said, actual in zip(("height", "width"), (record.height, record.width), found, strict=True):
        if said is not None and said != actual:
            raise ManifestError(
                f"image {record.image_id} ({record.name}): {field} is {said} in the manifest, but "
                f"{record.assets[0].path} has {actual}; correct the manifest, or leave {field} out",
                image_id=record.image_id,
                field=field,
            )
