"""``slidesampler sample``: choose windows, look at what was chosen, and write it down."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slidesampler.cli.labels import label_spec_of
from slidesampler.cli.options import (
    ImageIds,
    JsonFlag,
    LabelTissue,
    ManifestFile,
    OtherOptions,
    parse_ids,
    parse_options,
    parse_size,
    workdir_option,
)
from slidesampler.cli.output import print_json, stderr, stdout
from slidesampler.cli.sample_tables import print_summary

if TYPE_CHECKING:
    from slidesampler.sampler import Sampler
    from slidesampler.target import Target

__all__ = ["EXAMPLES", "sample"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler sample slides.kwcoco.json --workdir cache --source balanced --n 10000 --dry-run\n"
    "  slidesampler sample slides.kwcoco.json --workdir cache --source balanced --n 10000 --out windows.jsonl\n"
    "  slidesampler sample slides.kwcoco.json --source grid --size 512 --overlap 64 --geojson qupath\n"
    "  slidesampler sample slides.kwcoco.json --source rejection --n 500 -O size_threshold=1000 -O p=0.95"
)

#: Windows whose pixels are counted for the summary.
COUNTED = 2000


def sample(
    manifest: ManifestFile,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            "-s",
            help="balanced, positive, negative, grid, coverage, weighted, rejection, fixed ...",
        ),
    ] = "balanced",
    workdir: Annotated[
        Path | None,
        workdir_option("The cache's folder: label layers and the foreground index are read from it."),
    ] = None,
    tissue: LabelTissue = None,
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", min=1, help="Windows an epoch; of a grid at most so many are drawn."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same windows; 0 when not given.")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="The epoch that is drawn.")] = 0,
    size: Annotated[str, typer.Option(help="Output pixels: 256, or HEIGHT,WIDTH.", metavar="PIXELS")] = "256",
    downsample: Annotated[float | None, typer.Option(min=1.0, help="Level-0 pixels per output pixel.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per output pixel.")] = None,
    snap: Annotated[
        int | None,
        typer.Option(
            min=1, help="Windows start at multiples of this many output pixels, so that fewer tiles are read."
        ),
    ] = None,
    only_images: ImageIds = None,
    pos_fraction: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="balanced: share of positives.")
    ] = None,
    categories: Annotated[
        list[str] | None,
        typer.Option(help="positive: names, separated by commas; can be given again.", metavar="NAMES"),
    ] = None,
    max_foreground: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="negative: share of a window that may be foreground."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="grid: output pixels from window to window.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="grid: output pixels that neighbours share.")
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(help="rejection: the source that is wrapped; windows anywhere on tissue when not given."),
    ] = None,
    option: OtherOptions = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the summary; write nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the windows, a line of JSON each.", dir_okay=False)
    ] = None,
    geojson: Annotated[
        Path | None,
        typer.Option(help="Write them for QuPath, a file a slide.", metavar="FOLDER", file_okay=False),
    ] = None,
    kwcoco: Annotated[
        Path | None,
        typer.Option(help="Write a copy of the manifest with a box for each.", metavar="FILE", dir_okay=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Choose windows without reading pixels, and say what was chosen.

    Draws one epoch of a source, as training would get it, and prints how many windows of each kind, class and
    slide there are, how many tries they took, and how much of the slides they show. --out writes them for
    FixedSource.from_jsonl, --geojson for QuPath, --kwcoco as a manifest. The exit code is 2 for a source or
    option that there is not, 1 where a source runs out of windows.
    """
    from slidesampler.sampler import Sampler
    from slidesampler.sampling.asked import asked_shares
    from slidesampler.sampling.dry_runs import dry_run as draw
    from slidesampler.sampling.from_words import source_from_words, source_options
    from slidesampler.sampling.summary import summarize

    words: dict[str, Any] = {
        "source": source,
        "downsample": downsample,
        "mpp": mpp,
        "snap": snap,
        "image_ids": parse_ids(only_images),
        "pos_fraction": pos_fraction,
        "categories": ",".join(categories).split(",") if categories else None,
        "max_foreground": max_foreground,
        "stride": stride,
        "overlap": overlap,
        "of": of,
        "seed": seed,
        **parse_options(option),
    }
    taken = source_options(source)
    # Sources that have no such thing are not told: a grid has no number, a file of windows has no size.
    if source == "rejection" or "size" in taken:
        words.setdefault("size", parse_size(size))
    if source == "rejection" or "n" in taken:
        words.setdefault("n", n)
    _refuse_present([] if dry_run else [out, kwcoco, *_geojson_there(geojson)], force)
    sampler = Sampler(manifest, workdir, label_spec=label_spec_of(workdir, tissue))
    with warnings.catch_warnings(), _progress(n) as advance:
        # The summary says how often a rejection gave up.
        warnings.simplefilter("ignore", UserWarning)
        made = source_from_words(sampler, words)
        drawn = draw(made, epoch, n, advance=advance)
    targets = [target if target.window is not None else sampler.resolve(target) for target in drawn.targets]
    summary = summarize(
        targets,
        sampler,
        asked=asked_shares(made),
        records=drawn.records,
        count_at_most=COUNTED,
        seed=words["seed"] or 0,
        epoch=epoch,
    )
    written = [] if dry_run else _write(manifest, sampler, targets, words, epoch, out, geojson, kwcoco)
    if json:
        print_json(
            {
                "source": source,
                "windows_per_second": round(drawn.windows_per_second, 1),
                "written": written,
                **summary.to_dict(),
            }
        )
        return
    print_summary(summary, source, drawn.seconds)
    for path in written:
        stdout().print(f"wrote {path}")
    if not written and not dry_run:
        stderr().print("nothing was written: say where with --out, --geojson or --kwcoco")


def _geojson_there(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(folder.glob("*.geojson"))[:1]


def _refuse_present(paths: Sequence[Path | None], force: bool) -> None:
    for path in paths:
        if path is not None and path.exists() and not force:
            raise typer.BadParameter(f"{path} is there already; --force replaces it")


def _write(
    manifest: Path,
    sampler: Sampler,
    targets: list[Target],
    words: dict[str, Any],
    epoch: int,
    out: Path | None,
    geojson: Path | None,
    kwcoco: Path | None,
) -> list[str]:
    """Write what was asked for; return the paths."""
    from slidesampler.annotations.export import write_geojson
    from slidesampler.manifest.export import windows_to_kwcoco
    from slidesampler.sampling.target_file import write_jsonl

    written = []
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {key: value for key, value in words.items() if value is not None}
        write_jsonl(targets, out, about={**about, "epoch": epoch, "manifest": manifest.name})
        written.append(str(out))
    if geojson is not None:
        records = {image_id: sampler.image_record(image_id) for image_id in sampler.image_ids}
        files = write_geojson(targets, records, geojson, names=sampler.manifest.category_names)
        written += [str(file) for file in files]
    if kwcoco is not None:
        windows_to_kwcoco(manifest, targets, kwcoco)
        written.append(str(kwcoco))
    return written


@contextlib.contextmanager
def _progress(n: int | None) -> Iterator[Callable[[int], None] | None]:
    console = stderr()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("drawing", total=n)
        yield lambda done: bar.advance(task, done)
