"""Finding slides and masks in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from slidesampler.errors import ManifestError

__all__ = ["MASK_SUFFIXES", "SLIDE_SUFFIXES", "find_masks", "find_slides"]

#: Endings of files that are taken for mask images.
MASK_SUFFIXES = (".bmp", ".jp2", ".npy", ".png", ".tif", ".tiff", ".vrt", ".webp")
#: Endings of files that are taken for slides, in any case: what OpenSlide and GDAL read, and npy.
SLIDE_SUFFIXES = tuple(
    sorted(
        {
            *MASK_SUFFIXES,
            ".bif",
            ".btf",
            ".dcm",
            ".j2k",
            ".jpeg",
            ".jpg",
            ".mrxs",
            ".ndpi",
            ".scn",
            ".svs",
            ".svslide",
            ".vms",
            ".vmu",
        }
    )
)


def find_slides(
    folder: Path, skip: Path | None = None, on_error: Callable[[OSError], None] | None = None
) -> list[Path]:
    """Return the slides in a folder and its subfolders, one path a slide, sorted.

    Left out are hidden files, the folder of data files beside an MRXS, the images that a VMS or VMU file
    names, and all but the largest ``.dcm`` of a folder: a DICOM slide is a folder of files, one a level, and
    the largest one is its full resolution.

    Parameters
    ----------
    folder : Path
    skip : Path, optional
        A folder inside that is not entered.
    on_error : callable, optional
        Told of every folder that cannot be listed; they are passed over.

    Raises
    ------
    ManifestError
        If there is no such folder.
    """
    return sorted(path for found in _walk(folder, skip, on_error) for path in _slides_of(found))


def find_masks(folder: Path, on_error: Callable[[OSError], None] | None = None) -> list[Path]:
    """Return the mask images in a folder and its subfolders, sorted; ``on_error`` as for :func:`find_slides`.

    Raises
    ------
    ManifestError
        If there is no such folder.
    """
    files = (path for found in _walk(folder, None, on_error) for path in found)
    return sorted(path for path in files if path.suffix.lower() in MASK_SUFFIXES)


def _walk(folder: Path, skip: Path | None, on_error: Callable[[OSError], None] | None) -> Iterator[list[Path]]:
    """Yield the files of every folder but the hidden ones; links may lead in circles."""
    if not folder.is_dir():
        raise ManifestError(f"{folder} is no folder; give the folder that holds the images")
    entered = set() if skip is None else {skip.resolve()}
    for at, subfolders, names in os.walk(folder, onerror=on_error, followlinks=True):
        here = Path(at)
        if here.resolve() in entered:
            subfolders.clear()
            continue
        entered.add(here.resolve())
        files = [here / name for name in names if not name.startswith(".")]
        data_of_mrxs = {path.stem for path in files if path.suffix.lower() == ".mrxs"}
        subfolders[:] = [one for one in subfolders if not one.startswith(".") and one not in data_of_mrxs]
        yield files


def _slides_of(files: list[Path]) -> list[Path]:
    slides = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    parts = {name for path in slides if path.suffix.lower() in (".vms", ".vmu") for name in _named_in(path)}
    slides = [path for path in slides if path.name not in parts]
    dicoms = [path for path in slides if path.suffix.lower() == ".dcm"]
    if not dicoms:
        return slides
    largest = max(dicoms, key=lambda path: (path.stat().st_size, path.name))
    return [path for path in slides if path == largest or path not in dicoms]


def _named_in(path: Path) -> set[str]:
    """Return the values of a VMS or VMU file, which is an ini file: among them the names of its images."""
    lines = path.read_text(encoding="latin-1").splitlines()
    return {line.partition("=")[2].strip() for line in lines if "=" in line}
