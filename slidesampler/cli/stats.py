"""``slidesampler stats``: what there is to sample from, and what will not work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slidesampler.cli.labels import label_spec_of
from slidesampler.cli.options import JsonFlag, LabelTissue, ManifestFile, parse_size, workdir_option
from slidesampler.cli.output import print_json, print_table, stdout

if TYPE_CHECKING:
    from slidesampler.sampling.survey_results import DatasetStatistics

__all__ = ["EXAMPLES", "stats"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler stats slides.kwcoco.json --workdir cache\n"
    "  slidesampler stats slides.kwcoco.json --workdir cache --size 512 --downsample 4 --json"
)

#: Slides that are listed; --json has them all.
LISTED = 20


def stats(
    manifest: ManifestFile,
    workdir: Annotated[
        Path | None,
        workdir_option("The cache's folder: label layers and the foreground index are read from it."),
    ] = None,
    tissue: LabelTissue = None,
    size: Annotated[
        str,
        typer.Option(
            help="Output pixels of the windows that are thought of: 256, or HEIGHT,WIDTH.", metavar="PIXELS"
        ),
    ] = "256",
    downsample: Annotated[float, typer.Option(min=1.0, help="Level-0 pixels per output pixel.")] = 1.0,
    threshold: Annotated[
        int, typer.Option(min=1, help="Level-0 pixels of foreground that are enough in a window.")
    ] = 1000,
    draws: Annotated[int, typer.Option(min=1, help="Random windows that shares are estimated with.")] = 4000,
    seed: Annotated[int, typer.Option(help="Same seed, same estimates.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Say what there is to sample from, and what will not work.

    Classes, their objects and pixels; slides, their tissue and foreground; what windows at random places would
    hold, so how many of them rejection would refuse and how many tries a negative takes. Warns of classes that
    are too rare for rejection, of slides that have no negatives, and so on, and says what to use instead. No
    pixel is read.
    """
    from slidesampler.sampler import Sampler
    from slidesampler.sampling.survey import dataset_statistics

    found = dataset_statistics(
        Sampler(manifest, workdir, label_spec=label_spec_of(workdir, tissue)),
        parse_size(size),
        downsample=downsample,
        threshold=threshold,
        draws=draws,
        seed=seed,
    )
    if json:
        print_json(found.to_dict())
        return
    _print_whole(found)
    _print_classes(found)
    stdout().print()
    _print_images(found)
    for warning in found.warnings:
        stdout().print(f"\nwarning: {warning}")


def _print_whole(found: DatasetStatistics) -> None:
    console = stdout()
    pixels = sum(row.height * row.width for row in found.images)
    console.print(
        f"{len(found.images):,} slides, {pixels / 1e6:,.1f} megapixels: {found.valid_share:.1%} valid, "
        f"{found.tissue_share:.1%} tissue, {_share(found.foreground_share)} foreground"
    )
    height, width = found.size
    console.print(
        f"windows of {height} x {width} level-0 pixels at random places of the tissue, {found.drawn:,} of them:"
    )
    some, enough = found.any_foreground, found.enough_foreground
    console.print(f"  {some} hold foreground: negatives refuse so many")
    console.print(
        f"  {enough} hold at least {found.threshold:,} pixels of it: rejection with this threshold tests 1 in "
        f"{_tries(enough.share)} that it always keeps\n"
    )


def _print_classes(found: DatasetStatistics) -> None:
    rows = []
    for row in found.classes:
        smallest, median, largest = (f"{area:,.0f}" for area in row.area_px) if row.area_px else ("-",) * 3
        rows.append(
            (
                row.name,
                f"{row.annotations:,}",
                f"{row.images:,}",
                f"{row.pixels:,}",
                _share(row.pixel_share),
                smallest,
                median,
                largest,
                str(row.window_share),
            )
        )
    columns = (
        "class",
        "annotations",
        "slides",
        "pixels",
        "of pixels",
        "smallest px²",
        "median px²",
        "largest px²",
        "random windows with it",
    )
    print_table(columns, rows, right=columns[1:])


def _print_images(found: DatasetStatistics) -> None:
    rows = [
        (
            row.image_id,
            row.name,
            f"{row.height} x {row.width}",
            f"{row.annotations:,}",
            _share(row.valid_share),
            _share(row.tissue_share),
            _share(row.foreground_share),
            _negatives(row.negatives, row.tries),
        )
        for row in found.images[:LISTED]
    ]
    columns = (
        "image",
        "name",
        "pixels",
        "annotations",
        "valid",
        "tissue",
        "foreground",
        "tries for a negative",
    )
    print_table(columns, rows, right=("image", *columns[2:]))
    if len(found.images) > LISTED:
        stdout().print(f"... and {len(found.images) - LISTED:,} more slides; --json has them all")


def _negatives(negatives: str, tries: float | None) -> str:
    return negatives if tries is None else f"{tries:,.1f}"


def _tries(share: float) -> str:
    return f"{1 / share:,.1f}" if share else "none"


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else f"{share:.1g}"
