"""``slidesampler bench``: which cache suits these slides on this disk."""

from __future__ import annotations

import contextlib
import enum
import json as json_module
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slidesampler.cli.options import Codec, ManifestFile, parse_ids, parse_size, workdir_option
from slidesampler.cli.output import format_bytes, format_seconds, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from slidesampler.measure import CacheBench, Spread, VariantMeasurement

__all__ = ["EXAMPLES", "BenchBackend", "BenchTile", "bench"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler bench slides.kwcoco.json --workdir cache\n"
    "  slidesampler bench slides.kwcoco.json --workdir cache --size 512 --images 5 --no-lossy\n"
    "  slidesampler bench slides.kwcoco.json --workdir cache --backend cog --codec zstd --codec deflate\n"
    "  slidesampler bench slides.kwcoco.json --workdir /mnt/nvme/cache --json bench.json"
)


class BenchBackend(enum.StrEnum):
    """Ways to keep slides."""

    IN_PLACE = "in-place"
    AUTO = "auto"
    NPY = "npy"
    COG = "cog"


class BenchTile(enum.StrEnum):
    """Tile sizes of a COG; an option's choices are words."""

    SMALL = "128"
    MEDIUM = "256"
    LARGE = "512"


def bench(
    manifest: ManifestFile,
    workdir: Annotated[
        Path,
        workdir_option(
            "Folder that the cache is meant for: its disk is measured. What is built there is removed."
        ),
    ],
    size: Annotated[
        str, typer.Option(help="Level-0 pixels of the windows: 256, or HEIGHT,WIDTH.", metavar="PIXELS")
    ] = "256",
    images: Annotated[
        int, typer.Option(min=1, help="Slides that are taken, spread evenly over the manifest.")
    ] = 3,
    only_images: Annotated[
        list[str] | None,
        typer.Option(help="Take these instead: ids, separated by commas; can be given again.", metavar="IDS"),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the part taken of each slide, the busiest, pixels; when not given 4096 for windows "
            "of up to 256 pixels, 8192 for larger ones.",
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Take slides whole, however large.")] = False,
    backend: Annotated[
        list[BenchBackend] | None,
        typer.Option(
            help="Measured; all when not given, can be given again. in-place: the slides where they lie, by "
            "whatever reads them; auto: the same by tables of their tiles, where they have such."
        ),
    ] = None,
    codec: Annotated[
        list[Codec] | None,
        typer.Option(help="Of cog; auto, none and jpeg when not given, can be given again."),
    ] = None,
    tile: Annotated[
        list[BenchTile] | None, typer.Option(help="Of cog; all when not given, can be given again.")
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy/--no-lossy", help="Measure codecs that add loss too.")] = True,
    mask: Annotated[bool, typer.Option("--mask/--no-mask", help="Read masks with the pixels.")] = False,
    windows: Annotated[int, typer.Option(min=1, help="Windows a round, at most.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Each variant is read so many times, in turns.")] = 3,
    threads: Annotated[
        str, typer.Option(help="How many are 'all'.", metavar="all|NUMBER", show_default=True)
    ] = "all",
    batch: Annotated[int, typer.Option(min=1, help="Windows a call.")] = 32,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1, help="After half of this no further variant is built, after all no further round begun."
        ),
    ] = 600.0,
    seed: Annotated[int, typer.Option(help="Same seed, same windows.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was built in the workdir.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="Write all figures; '-' is standard output instead of the table.", metavar="FILE"),
    ] = None,
) -> None:
    """Measure which cache suits your slides and your disk.

    Parts of a few slides are built in every variant, in a folder of the workdir that is removed at the end, and
    random windows are read from each: by one thread and by all, with the files dropped from the system's memory
    (cold) and in it (warm). Prints a table, and what to build with the reasons. A variant that does not work
    is a row that says why.
    """
    from slidesampler.manifest import Manifest
    from slidesampler.measure import BenchOptions, choose_variants, measure_caches

    ids = parse_ids(only_images)
    options = BenchOptions(
        window=parse_size(size),
        images=images,
        only_images=None if ids is None else tuple(ids),
        crop=crop,
        whole=whole,
        windows=windows,
        rounds=rounds,
        threads=_parse_threads(threads),
        batch=batch,
        seconds=seconds,
        with_mask=mask,
        seed=seed,
        keep=keep,
    )
    try:
        variants = choose_variants(
            [item.value for item in backend or ()],
            [item.value for item in codec or ()],
            [int(item.value) for item in tile or ()],
            lossy=lossy,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if json is not None and str(json) != "-" and not json.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {json.absolute().parent}", param_hint="--json")
    table = Manifest.load(manifest)
    with _progress() as progress:
        found = measure_caches(
            table,
            workdir,
            options,
            variants=variants,
            command=["slidesampler", "build", str(manifest)],
            progress=progress,
        )
    if json is not None and str(json) == "-":
        print_json(found.to_dict())
        return
    if json is not None:
        json.write_text(json_module.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    _print(found)


def _parse_threads(word: str) -> int | None:
    if word == "all":
        return None
    if not word.isdecimal() or not int(word):
        raise typer.BadParameter(f"{word!r} is neither 'all' nor a number of threads", param_hint="--threads")
    return int(word)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    console = stderr()
    if not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _print(found: CacheBench) -> None:
    _print_what_was_taken(found)
    _print_rows(found)
    for row in found:
        if row.status != "measured":
            stdout().print(f"{row.variant.name}: {row.status}: {row.reason}")
    _print_legend(found)
    _print_recommendation(found)


def _print_what_was_taken(found: CacheBench) -> None:
    console = stdout()
    height, width = found.window
    console.print(
        f"{height} x {width} windows of {len(found.parts)} of {found.images:,} slides "
        f"({sum(part.megapixels for part in found.parts):,.1f} of {found.megapixels:,.1f} megapixels):"
    )
    for part in found.parts:
        place = "all of it"
        if not part.whole:
            size = f"{part.image_height:,} x {part.image_width:,}"
            place = f"from row {part.y:,}, column {part.x:,} of {size}"
        console.print(f"  {part.name}: {part.height:,} x {part.width:,} pixels, {place}")
    masks = "with" if found.with_mask else "without"
    console.print(
        f"{found.windows} windows a round in calls of {found.batch}, {masks} masks; disk of {found.workdir}, "
        f"{format_bytes(found.free_bytes)} free\n"
    )


def _print_rows(found: CacheBench) -> None:
    columns = (
        "",
        "loss",
        "cache",
        "MiB/Gpx",
        "build Mpx/s",
        "cold, 1 thread",
        f"cold, {found.threads} threads",
        "warm, 1 thread",
        f"warm, {found.threads} threads",
    )
    best = found.recommendation.variant
    rows = [_cells(row, row.variant == best) for row in found.measured]
    print_table(columns, rows, right=columns[2:], styles={"lossy": "yellow"})


def _cells(row: VariantMeasurement, best: bool) -> tuple[str, ...]:
    in_place = row.variant.in_place
    return (
        f"{'>' if best else ' '} {row.variant.name}",
        "none" if row.variant.lossless else "lossy",
        "-" if in_place and not row.size_bytes else format_bytes(row.total_bytes),
        "-" if in_place and not row.size_bytes else f"{row.bytes_per_megapixel * 1000 / 2**20:,.0f}",
        _figure(row.build_megapixels_per_s),
        *(_figure(rate) for rate in (row.cold_one, row.cold_all, row.warm_one, row.warm_all)),
    )


def _figure(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    # Three figures are more than such measurements are worth.
    digits = 2 - math.floor(math.log10(spread.median)) if spread.median > 0 else 0
    text = f"{round(spread.median, digits):,.{min(max(digits, 0), 2)}f}"
    return text if spread.count == 1 else f"{text} ±{spread.half_range:.0%}"


def _print_legend(found: CacheBench) -> None:
    console = stdout()
    console.print(
        "\nWindows a second, median of the rounds, ± half the way from the slowest to the fastest. Cold: files "
        "dropped from memory before. Cache: of the whole manifest, by what the parts needed; without labels."
    )
    for note in found.notes:
        console.print(note)
    console.print(f"Took {format_seconds(found.seconds)}.")


def _print_recommendation(found: CacheBench) -> None:
    console = stdout()
    advice = found.recommendation
    console.print(f"\nRecommended: {'nothing' if advice.variant is None else advice.variant.name}")
    for reason in advice.reasons:
        console.print(f"  {reason}")
    if advice.command:
        console.print(f"\n  {advice.command}")
    for item in advice.alternatives:
        console.print(f"\n{item.when}: {item.text}")
        if item.command:
            console.print(f"\n  {item.command}")
