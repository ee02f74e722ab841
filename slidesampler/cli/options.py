"""Arguments and options that several commands have, declared once, and how their words are read."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "CacheFolder",
    "Codec",
    "ImageIds",
    "JsonFlag",
    "LabelTissue",
    "ManifestFile",
    "OtherOptions",
    "Tissue",
    "parse_ids",
    "parse_options",
    "parse_size",
    "workdir_option",
]


class Codec(enum.StrEnum):
    """Compression of a COG."""

    AUTO = "auto"
    ZSTD = "zstd"
    DEFLATE = "deflate"
    LZW = "lzw"
    JPEG = "jpeg"
    WEBP = "webp"
    NONE = "none"


class Tissue(enum.StrEnum):
    """Where an image counts as tissue."""

    AUTO = "auto"
    OTSU = "otsu"
    MASK = "mask"
    NONE = "none"


_WORKDIR_VARIABLE = "SLIDESAMPLER_WORKDIR"


def workdir_option(text: str, *, file_okay: bool = False) -> Any:
    """Return the declaration of ``--workdir``; ``text`` says what the command does with the folder."""
    return typer.Option(envvar=_WORKDIR_VARIABLE, help=text, file_okay=file_okay)


ManifestFile = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="A kwcoco file.", exists=True, dir_okay=False)
]
CacheFolder = Annotated[
    Path,
    typer.Argument(
        metavar="WORKDIR", envvar=_WORKDIR_VARIABLE, help="A cache folder that 'slidesampler build' made."
    ),
]
ImageIds = Annotated[
    list[str] | None,
    typer.Option(help="Image ids, separated by commas; can be given again.", metavar="IDS"),
]
LabelTissue = Annotated[
    Tissue | None,
    typer.Option(
        help="Where negatives are looked for, as for 'slidesampler build'. As the cache was built last when "
        "not given."
    ),
]
OtherOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-O",
        help="Any other option of the source by its name in the library; the value is JSON or a word.",
        metavar="NAME=VALUE",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def parse_ids(words: Iterable[str] | None) -> list[int] | None:
    """Return the ids of ``["3,7", "9"]``; None where none are given.

    Raises
    ------
    typer.BadParameter
        For a word that is no whole number.
    """
    if not words:
        return None
    ids = []
    for word in ",".join(words).split(","):
        try:
            ids.append(int(word))
        except ValueError:
            raise typer.BadParameter(
                f"{word!r} is no image id; give whole numbers separated by commas", param_hint="--only-images"
            ) from None
    return ids


def parse_size(word: str, option: str = "--size") -> int | tuple[int, int]:
    """Return output pixels: ``256`` for ``"256"``, ``(128, 256)`` for ``"128,256"`` or ``"128x256"``.

    Parameters
    ----------
    word : str
    option : str
        Named in the error.

    Raises
    ------
    typer.BadParameter
        For anything else.
    """
    parts = word.lower().replace("x", ",").split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(
            f"{word!r} is no size; give 256, or HEIGHT,WIDTH as in 128,256", param_hint=option
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def parse_options(words: Sequence[str] | None) -> dict[str, Any]:
    """Return ``{"p": 0.95, "edge": "pad"}`` for ``["p=0.95", "edge=pad"]``.

    Raises
    ------
    typer.BadParameter
        For a word without ``=``, or a name that is given twice.
    """
    options: dict[str, Any] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise typer.BadParameter(f"{word!r} is not NAME=VALUE, as in p=0.95", param_hint="--option")
        if name in options:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint="--option")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
