"""``slidesampler manifest``: a kwcoco manifest for a folder of slides."""

from __future__ import annotations

import secrets
import shlex
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slidesampler.cli.exits import ExitCode
from slidesampler.cli.options import JsonFlag
from slidesampler.cli.output import print_json, status, stderr, stdout
from slidesampler.errors import ReadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EXAMPLES", "manifest", "mask_values", "parse_names", "probe_size"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler manifest slides -o slides.kwcoco.json\n"
    "  slidesampler manifest slides --masks masks --names 1=tumour,2=stroma -o slides.kwcoco.json"
)

#: A mask is looked through in squares of this many pixels: whole tiles of any usual file, a few megabytes.
BLOCK_PX = 2048


def manifest(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Holds the slides, also in subfolders.", exists=True, file_okay=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.", dir_okay=False)],
    masks: Annotated[
        Path | None,
        typer.Option(help="Mask images with the slides' stems; 0 is background.", exists=True, file_okay=False),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(help="Category names of mask values; can be given again.", metavar="VALUE=NAME,..."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a manifest that is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a manifest for a folder of slides.

    A kwcoco file, with masks as the slides' label layers. File names in the manifest are relative to it, so
    folder and manifest can be moved together. A slide or mask that cannot be used is reported and left out; the
    exit code is then 1.
    """
    from slidesampler.manifest import manifest_from_folder

    called = parse_names(names)
    if output.exists() and not force:
        raise typer.BadParameter(f"{output} is there already; --force replaces it", param_hint="--output")
    with status("looking at slides"):
        made = manifest_from_folder(
            folder, masks, destination=output, probe=probe_size, values=mask_values, names=called
        )
    _write(made.dataset, output)
    images = list(made.dataset.dataset["images"])
    categories = [category["name"] for category in made.dataset.dataset["categories"]]
    masked = sum("assets" in image for image in images)
    console = stderr()
    for note in made.notes:
        console.print(f"{note.level}: {note.message}")
    if json:
        print_json(
            {
                "ok": not made.errors,
                "manifest": str(output),
                "images": len(images),
                "masks": masked,
                "categories": categories,
                "notes": [asdict(note) for note in made.notes],
            }
        )
    else:
        classes = f" of {', '.join(categories)}" if categories else ""
        stdout().print(f"{output}: {len(images)} slides, {masked} with a mask{classes}")
        stdout().print(f"next: slidesampler build {shlex.quote(str(output))} --workdir cache")
    if made.errors:
        raise typer.Exit(int(ExitCode.FAILED))


def parse_names(words: list[str] | None) -> dict[int, str]:
    """Return ``{1: "tumour", 2: "stroma"}`` for ``["1=tumour,2=stroma"]``.

    Raises
    ------
    typer.BadParameter
        For a word that is not of that form, or a value that is named twice.
    """
    named: dict[int, str] = {}
    for word in filter(None, ",".join(words or []).split(",")):
        value, equals, name = word.partition("=")
        if not equals or not name.strip() or not value.strip().lstrip("-").isdecimal():
            raise typer.BadParameter(f"{word!r} is not VALUE=NAME, as in 1=tumour", param_hint="--names")
        if int(value) in named:
            raise typer.BadParameter(f"{int(value)} is named twice", param_hint="--names")
        named[int(value)] = name.strip()
    return named


def probe_size(path: str) -> tuple[int, int]:
    """Return ``(height, width)`` of an image file, as it is read: orientation applied."""
    from slidesampler.readers import ReaderSpec, open_reader

    with closing(open_reader(ReaderSpec("auto", path))) as reader:
        return reader.shape[0], reader.shape[1]


def mask_values(path: str) -> list[int]:
    """Return the values in a mask file, ascending; read block by block, so its size does not matter.

    Raises
    ------
    ReadError
        If the file has several channels, or values that are not whole numbers.
    """
    from slidesampler.geometry import Window
    from slidesampler.readers import ReaderSpec, open_reader

    with closing(open_reader(ReaderSpec("auto", path, raw=True))) as reader:
        height, width, channels = reader.shape
        if channels != 1:
            raise ReadError(
                f"{path} has {channels} channels; a label mask has one, whose values are the categories"
            )
        found: set[int] = set()
        for block in Window(0, 0, height, width).blocks(BLOCK_PX):
            found.update(_whole_numbers(reader.read(block), path))
    return sorted(found)


def _whole_numbers(pixels: NDArray[Any], path: str) -> list[int]:
    import numpy as np

    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        # A table is many times quicker than sorting the pixels.
        present = np.zeros(1 << (8 * pixels.dtype.itemsize), dtype=bool)
        present[pixels] = True
        return [int(value) for value in np.flatnonzero(present)]
    values = np.unique(pixels)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise ReadError(f"{path} holds values that are not whole numbers; a label mask holds category ids")
    return [int(value) for value in values]


def _write(dataset: Any, output: Path) -> None:
    """Write a manifest, or leave the old one as it was."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            dataset.dump(file, newlines=True)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
