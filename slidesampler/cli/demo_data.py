"""``slidesampler demo-data``: synthetic slides with exact ground truth, to try things on."""

from __future__ import annotations

import contextlib
import enum
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from slidesampler.cli.options import JsonFlag
from slidesampler.cli.output import format_bytes, print_json, stderr, stdout

__all__ = ["EXAMPLES", "SlideCodec", "demo_data"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler demo-data demo\n"
    "  slidesampler demo-data demo --slides 1 --height 50000 --width 50000 --seed 7"
)

MANIFEST = "slides.kwcoco.json"


class SlideCodec(enum.StrEnum):
    """How the slides' tiles are stored."""

    DEFLATE = "deflate"
    NONE = "none"
    JPEG = "jpeg"


def demo_data(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The folder to write to; made when it is not there.", file_okay=False
        ),
    ],
    slides: Annotated[int, typer.Option(min=1, help="How many.")] = 2,
    height: Annotated[int, typer.Option(min=128, help="Pixels.")] = 6000,
    width: Annotated[int, typer.Option(min=128, help="Pixels.")] = 6000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same slides.")] = 0,
    codec: Annotated[
        SlideCodec, typer.Option(help="How tiles are stored; jpeg is lossy.")
    ] = SlideCodec.DEFLATE,
    tile: Annotated[int, typer.Option(min=16, help="Tile size, pixels: a multiple of 16.")] = 256,
    mpp: Annotated[float, typer.Option(min=0.1, max=2.0, help="Micrometres per pixel.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a manifest that is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write synthetic slides with ground truth.

    H&E-like tissue, and a kwcoco manifest with its tumours and nuclei as polygons. The polygons are the exact
    ground truth: the slides are painted from them. Memory does not grow with the height of a slide.
    """
    from slidesampler.testing import make_dataset

    target = out / MANIFEST
    if target.exists() and not force:
        raise typer.BadParameter(f"{target} is there already; --force replaces it", param_hint="OUT")
    if tile % 16:
        raise typer.BadParameter(f"{tile} is no multiple of 16", param_hint="--tile")
    with _progress(slides * height * width) as advance:
        path = make_dataset(
            out, slides, height, width, seed, tile=tile, codec=codec.value, mpp=mpp, advance=advance
        )
    files = sorted(out.glob("slide-*.tif"))[:slides]
    if json:
        print_json({"manifest": str(path), "slides": [str(file) for file in files]})
        return
    size = format_bytes(sum(file.stat().st_size for file in files))
    console = stdout()
    console.print(f"{path}: {slides} slides of {height} x {width} pixels, {size}")
    console.print(
        f"next: slidesampler build {shlex.quote(str(path))} --workdir {shlex.quote(str(out / 'cache'))}"
    )


@contextlib.contextmanager
def _progress(pixels: int) -> Iterator[Callable[[int], None] | None]:
    console = stderr()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console) as bar:
        task = bar.add_task("painting", total=pixels)
        yield lambda done: bar.advance(task, done)
