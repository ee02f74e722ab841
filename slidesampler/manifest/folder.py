"""A manifest for a folder of slides, and masks with the same stems."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from slidesampler.errors import ManifestError, SlideSamplerError
from slidesampler.manifest.discovery import SLIDE_SUFFIXES, find_masks, find_slides

if TYPE_CHECKING:
    import kwcoco

__all__ = ["FolderManifest", "FolderNote", "manifest_from_folder"]

#: A mask of more values than this is more likely a photograph or a probability map.
_MANY_VALUES = 64


@dataclass(frozen=True, slots=True)
class FolderNote:
    """Something about a folder that its owner should know.

    Parameters
    ----------
    level : {"error", "warning"}
        An error left the file out of the manifest.
    path : str
    message : str
        What was found and what to do.
    """

    level: Literal["error", "warning"]
    path: str
    message: str


class FolderManifest(NamedTuple):
    """A manifest made from a folder, and the notes taken on the way.

    Parameters
    ----------
    dataset : kwcoco.CocoDataset
        ``dataset.dump()`` writes it to its destination.
    notes : tuple of FolderNote
    """

    dataset: kwcoco.CocoDataset
    notes: tuple[FolderNote, ...]

    @property
    def errors(self) -> tuple[FolderNote, ...]:
        """The notes that left a file out."""
        return tuple(note for note in self.notes if note.level == "error")


def manifest_from_folder(
    folder: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    *,
    destination: str | os.PathLike[str] | None = None,
    probe: Callable[[str], tuple[int, int]] | None = None,
    values: Callable[[str], Sequence[int]] | None = None,
    names: Mapping[int, str] | None = None,
) -> FolderManifest:
    """Return a manifest of the slides in a folder and its subfolders.

    Slides are the files with an ending of ``discovery.SLIDE_SUFFIXES``, one image a file, of an MRXS or DICOM
    slide the one that opens it. A mask belongs to the slide with the same path below its folder, endings aside,
    else to the only slide of the same stem; it becomes the slide's ``labels`` asset. Its values are category
    ids, 0 is background.

    Parameters
    ----------
    folder, masks : path
        ``masks`` may lie inside ``folder``; no slide is looked for there then.
    destination : path, optional
        Where the manifest will be written, ``slides.kwcoco.json`` in ``folder`` where None; names are relative
        to its folder, or absolute where the two have only the root in common.
    probe : callable, optional
        Gives the ``(height, width)`` of an image file; sizes are left out of the manifest where None.
    values : callable, optional
        Gives the values in a mask file. Needed with ``masks``.
    names : mapping of int to str, optional
        Category names by mask value; ``"class_<value>"`` for those it does not have.

    Returns
    -------
    FolderManifest
        With a note for every file or folder that could not be read, every mask without a slide or of another
        size, and names that are there twice.

    Raises
    ------
    ManifestError
        If there is no slide, or the arguments contradict each other.
    """
    root = Path(folder).absolute()
    mask_root = None if masks is None else Path(masks).absolute()
    if mask_root is not None and mask_root.resolve() == root.resolve():
        raise ManifestError(f"slides and masks are both in {root}; put the masks in a folder of their own")
    if mask_root is not None and values is None:
        raise ManifestError(
            "masks were given, but nothing that says which values they hold: give values as well"
        )
    target = root / "slides.kwcoco.json" if destination is None else Path(destination).absolute()
    notes: list[FolderNote] = []

    def note_folder(error: OSError) -> None:
        problem = f"folder {error.filename} cannot be listed, so what is in it is left out: {error.strerror}"
        notes.append(FolderNote("error", str(error.filename), problem))

    slides = _probed(find_slides(root, mask_root, note_folder), probe, notes)
    if not slides:
        raise ManifestError(
            f"{root} holds no slide that can be read: "
            + (notes[0].message if notes else f"looked for files ending in {', '.join(SLIDE_SUFFIXES)}")
        )
    mask_of: dict[Path, Path] = {}
    present: set[int] = set()
    if mask_root is not None and values is not None:
        matched = _match(list(slides), root, find_masks(mask_root, note_folder), mask_root, notes)
        for slide, mask in matched.items():
            found = _mask_values(mask, slides[slide], probe, values, notes)
            if found is not None:
                mask_of[slide] = mask
                present |= found
    images = [
        _image(number, name, path, slides[path], mask_of.get(path), target.parent)
        for number, (path, name) in enumerate(_names(list(slides), root, notes).items(), start=1)
    ]
    return FolderManifest(_dataset(images, _categories(present, names or {}), target), tuple(notes))


def _probed(
    paths: Sequence[Path], probe: Callable[[str], tuple[int, int]] | None, notes: list[FolderNote]
) -> dict[Path, tuple[int, int] | None]:
    """Return the size of every slide that can be read, None where nobody asks."""
    sizes: dict[Path, tuple[int, int] | None] = {}
    for path in paths:
        try:
            sizes[path] = None if probe is None else probe(str(path))
        except (SlideSamplerError, OSError) as error:
            notes.append(FolderNote("error", str(path), f"{path} cannot be read, so it is left out: {error}"))
    return sizes


def _match(
    slides: Sequence[Path], root: Path, masks: Sequence[Path], mask_root: Path, notes: list[FolderNote]
) -> dict[Path, Path]:
    """Return the mask of every slide that has one."""
    by_place: dict[Path, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for slide in slides:
        by_place.setdefault(slide.relative_to(root).with_suffix(""), []).append(slide)
        by_stem.setdefault(slide.stem, []).append(slide)
    matched: dict[Path, Path] = {}
    for mask in masks:
        place = mask.relative_to(mask_root).with_suffix("")
        candidates = by_place.get(place) or by_stem.get(mask.stem, [])
        if len(candidates) != 1:
            problem = (
                f"fits {len(candidates)} slides, {candidates[0]} and {candidates[1]}: give it the path of one"
                if candidates
                else f"fits no slide: none is called {mask.stem!r}"
            )
            notes.append(FolderNote("error", str(mask), f"mask {mask} {problem}"))
        elif candidates[0] in matched:
            other = matched[candidates[0]]
            problem = f"is the second one for {candidates[0]}, {other} is used: keep one of them"
            notes.append(FolderNote("error", str(mask), f"mask {mask} {problem}"))
        else:
            matched[candidates[0]] = mask
    notes.extend(
        FolderNote("warning", str(slide), f"{slide} has no mask in {mask_root}")
        for slide in slides
        if slide not in matched
    )
    return matched


def _mask_values(
    mask: Path,
    slide_size: tuple[int, int] | None,
    probe: Callable[[str], tuple[int, int]] | None,
    values: Callable[[str], Sequence[int]],
    notes: list[FolderNote],
) -> set[int] | None:
    """Return the categories in a mask; None, and a note, where it cannot be used."""
    try:
        size = None if probe is None else probe(str(mask))
        found = {int(value) for value in values(str(mask))} - {0}
    except (SlideSamplerError, OSError) as error:
        notes.append(FolderNote("error", str(mask), f"mask {mask} cannot be read, so it is left out: {error}"))
        return None
    if size != slide_size and size is not None and slide_size is not None:
        problem = (
            f"is {size[0]} x {size[1]}, its slide {slide_size[0]} x {slide_size[1]} (height x width), "
            "so it is left out: masks must have the size of their slide"
        )
        notes.append(FolderNote("error", str(mask), f"mask {mask} {problem}"))
        return None
    if len(found) > _MANY_VALUES:
        problem = f"has {len(found)} different values, each of which becomes a category; is it a label mask?"
        notes.append(FolderNote("warning", str(mask), f"mask {mask} {problem}"))
    return found


def _names(slides: Sequence[Path], root: Path, notes: list[FolderNote]) -> dict[Path, str]:
    """Return a name of its own for every slide: its stem, or where several share one, its path."""
    times = Counter(path.stem for path in slides)
    for stem, count in times.items():
        if count > 1:
            first = next(path for path in slides if path.stem == stem)
            problem = f"{count} slides are called {stem!r}; their names in the manifest are their paths"
            notes.append(FolderNote("warning", str(first), problem))
    return {path: path.stem if times[path.stem] == 1 else path.relative_to(root).as_posix() for path in slides}


def _image(
    number: int,
    name: str,
    path: Path,
    size: tuple[int, int] | None,
    mask: Path | None,
    bundle: Path,
) -> dict[str, Any]:
    image: dict[str, Any] = {"id": number, "name": name, "file_name": _relative(path, bundle)}
    if size is not None:
        image["height"], image["width"] = (int(side) for side in size)
    if mask is not None:
        image["assets"] = [{"name": "labels", "channels": "labels", "file_name": _relative(mask, bundle)}]
    return image


def _relative(path: Path, bundle: Path) -> str:
    try:
        shared = os.path.commonpath([path, bundle])
    except ValueError:
        # Two drives of Windows have nothing in common.
        return str(path)
    return str(path) if shared == path.anchor else Path(os.path.relpath(path, bundle)).as_posix()


def _categories(present: set[int], names: Mapping[int, str]) -> list[dict[str, Any]]:
    values = sorted(present | {int(value) for value in names} - {0})
    called = {value: names.get(value, f"class_{value}") for value in values}
    twice = [name for name, times in Counter(called.values()).items() if times > 1]
    if twice:
        raise ManifestError(f"two mask values are both called {twice[0]!r}; give each a name of its own")
    return [{"id": value, "name": name} for value, name in called.items()]


def _dataset(
    images: list[dict[str, Any]], categories: list[dict[str, Any]], target: Path
) -> kwcoco.CocoDataset:
    # Imported here: it takes seconds, and nobody who loads a manifest needs it.
    import kwcoco

    dataset = kwcoco.CocoDataset(
        {"info": [], "categories": categories, "videos": [], "images": images, "annotations": []},
        bundle_dpath=str(target.parent),
    )
    dataset.fpath = str(target)
    return dataset
