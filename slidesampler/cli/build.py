"""``slidesampler build``: make a cache, or what is missing of it."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slidesampler.cli.exits import ExitCode
from slidesampler.cli.options import (
    Codec,
    ImageIds,
    JsonFlag,
    ManifestFile,
    Tissue,
    parse_ids,
    parse_size,
    workdir_option,
)
from slidesampler.cli.output import format_bytes, format_seconds, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from slidesampler.cache import BuildPlan, BuildReport, Progress
    from slidesampler.manifest import Manifest

__all__ = ["EXAMPLES", "Backend", "Overlap", "Tile", "build", "parse_tile"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler build slides.kwcoco.json --workdir cache --jobs 8\n"
    "  slidesampler build slides.kwcoco.json --workdir cache --backend auto\n"
    "  slidesampler build slides.kwcoco.json --workdir cache --backend npy --only-images 3,7\n"
    "  slidesampler build slides.kwcoco.json --workdir cache --codec jpeg --quality 90\n"
    "  slidesampler build slides.kwcoco.json --workdir cache --tile auto --window 512\n"
    "  slidesampler build slides.kwcoco.json --workdir cache --dry-run"
)


class Backend(enum.StrEnum):
    """Kinds of cache."""

    AUTO = "auto"
    COG = "cog"
    NPY = "npy"


class Tile(enum.StrEnum):
    """Tile sizes of a COG; an option's choices are words."""

    AUTO = "auto"
    SMALL = "128"
    MEDIUM = "256"
    LARGE = "512"


class Overlap(enum.StrEnum):
    """Which annotation wins where several lie over a pixel."""

    LAST = "last"
    FIRST = "first"
    SMALLEST = "smallest"
    LARGEST = "largest"
    CLASS = "class"


def build(
    manifest: ManifestFile,
    workdir: Annotated[Path, workdir_option("The cache's folder; made when it is not there.")],
    backend: Annotated[
        Backend,
        typer.Option(
            help="cog: compressed and tiled; npy: plain arrays to map into memory; auto: slides where they "
            "lie where their tiles can be read there, else cog."
        ),
    ] = Backend.COG,
    codec: Annotated[
        Codec,
        typer.Option(help="Compression of cog. auto never adds loss; jpeg and webp do. npy has none."),
    ] = Codec.AUTO,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of jpeg and webp; 90 when not given.")
    ] = None,
    tile: Annotated[
        Tile, typer.Option(help="Tile size of cog, pixels. auto: what suits windows of --window.")
    ] = Tile.MEDIUM,
    window: Annotated[
        str | None,
        typer.Option(
            help="For --tile auto: output pixels of the windows that are intended, 256 or HEIGHT,WIDTH.",
            metavar="PIXELS",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Images built at the same time.")] = 1,
    only_images: ImageIds = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Write label layers, and where the classes are.")
    ] = True,
    instances: Annotated[
        bool, typer.Option("--instances/--no-instances", help="Write instance layers beside them.")
    ] = False,
    overlap: Annotated[
        Overlap, typer.Option(help="Which annotation wins where several lie over a pixel.")
    ] = Overlap.LAST,
    tissue: Annotated[
        Tissue,
        typer.Option(
            help="Where negatives are looked for. otsu: found from the colours; mask: the manifest's 'tissue' "
            "asset; none: everywhere; auto: the mask where there is one, else everywhere."
        ),
    ] = Tissue.AUTO,
    full_hash: Annotated[
        bool,
        typer.Option("--full-hash", help="Remember a hash of each whole source, so that any edit is found."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and why; do nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build what is there again, and copy COGs that could stay in place.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Build the cache that windows are read from.

    One entry an image, and its label layer with an index of where the classes are. What is there and up to date
    is left alone, so an interrupted build is taken up where it stopped. An image that cannot be built is
    reported and does not stop the others; the exit code is then 1.
    """
    # Imported here, as in every command: --help must not wait for numpy.
    from slidesampler.cache import BuildSpec, CacheStore, plan_build
    from slidesampler.cache import build as build_cache
    from slidesampler.manifest import Manifest
    from slidesampler.models import LabelSpec

    ids = parse_ids(only_images)
    spec = BuildSpec(
        backend=backend.value,
        codec=codec.value,
        quality=quality,
        tile=parse_tile(tile, window, codec),
        labels=labels,
        instances=instances,
        label_spec=LabelSpec(overlap=overlap.value, tissue=tissue.value),
        full_hash=full_hash,
    )
    table = Manifest.load(manifest)
    store = CacheStore(workdir, manifest_path=str(manifest))
    if dry_run:
        plan = plan_build(table, spec, store, only_images=ids, force=force)
        print_json(plan.to_dict()) if json else _print_plan(plan)
        return
    with _progress(table) as progress:
        report = build_cache(table, spec, store, jobs=jobs, only_images=ids, force=force, progress=progress)
    print_json(report.to_dict()) if json else _print_report(report)
    _print_failures(report)
    if not report.ok:
        raise typer.Exit(int(ExitCode.FAILED))


def parse_tile(tile: Tile, window: str | None, codec: Codec) -> int:
    """Return the tile size that is asked for; that of ``"auto"`` follows from the window and the codec.

    Raises
    ------
    typer.BadParameter
        If a window is missing for ``"auto"``, is no size, or is given beside a tile size.
    """
    from slidesampler.cache.tile_size import resolve_tile

    if tile is Tile.AUTO and window is None:
        raise typer.BadParameter(
            "auto follows from the size of the windows: give it too, as in --tile auto --window 256",
            param_hint="--tile",
        )
    if tile is not Tile.AUTO and window is not None:
        raise typer.BadParameter(f"is for --tile auto, and --tile is {tile.value}", param_hint="--window")
    size = None if window is None else parse_size(window, "--window")
    return resolve_tile("auto" if tile is Tile.AUTO else int(tile.value), size, codec=codec.value)


@contextlib.contextmanager
def _progress(manifest: Manifest) -> Iterator[Progress | None]:
    console = stderr()
    if not console.is_terminal:
        yield None
        return
    from slidesampler.cli.progress import BuildBar

    with BuildBar(console, manifest) as bar:
        yield bar


def _print_plan(plan: BuildPlan) -> None:
    print_table(
        ("image", "name", "what", "action", "reason"),
        ((row.image_id, row.name, row.what, row.action, row.reason) for row in plan),
        right=("image",),
    )
    counts = ", ".join(f"{count} {action}" for action, count in sorted(plan.counts.items()))
    codec = "" if plan.spec.backend == "npy" else f", codec {plan.spec.codec}, tile {plan.spec.tile}"
    stdout().print(f"\n{counts or 'nothing to do'} (backend {plan.spec.backend}{codec}) in {plan.workdir}")


def _print_report(report: BuildReport) -> None:
    statuses = ("built", "reused", "in-place", "failed")
    rows = []
    for what in ("image", "labels"):
        mine = [row for row in report if row.what == what]
        if not mine:
            continue
        counts = [sum(row.status == status for row in mine) for status in statuses]
        megapixels = sum(row.megapixels for row in mine if row.status == "built")
        seconds = sum(row.seconds for row in mine if row.status == "built")
        size = format_bytes(sum(row.size_bytes for row in mine))
        rows.append(
            (what, *counts, f"{megapixels:.1f}", f"{megapixels / seconds:.1f}" if seconds else "-", size)
        )
    columns = ("", *statuses, "megapixels", "MP/s a job", "size")
    print_table(columns, rows, right=columns[1:])
    stdout().print(f"\n{report.backend} cache in {report.workdir}, {format_seconds(report.seconds)}")


def _print_failures(report: BuildReport) -> None:
    console = stderr()
    for row in report.failed:
        path = "" if row.path in row.reason else f"{row.path}: "
        console.print(f"failed: image {row.image_id} {row.name} ({row.what}): {path}{row.reason}")
