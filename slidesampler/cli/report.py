"""``slidesampler report``: a page that shows what was sampled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slidesampler.cli.exits import ExitCode
from slidesampler.cli.labels import label_spec_of
from slidesampler.cli.options import (
    JsonFlag,
    LabelTissue,
    ManifestFile,
    OtherOptions,
    Tissue,
    parse_options,
    parse_size,
    workdir_option,
)
from slidesampler.cli.output import print_json, status, stderr, stdout

if TYPE_CHECKING:
    from slidesampler.sampler import Sampler
    from slidesampler.sampling.statistics import AskedShares, SampleSummary
    from slidesampler.target import Target

__all__ = ["EXAMPLES", "report"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler report slides.kwcoco.json --workdir cache --source balanced --n 10000 --out report\n"
    "  slidesampler report slides.kwcoco.json --workdir cache --windows windows.jsonl --out report\n"
    "  slidesampler report slides.kwcoco.json --workdir cache --log runs/7/log --out report\n"
    "  slidesampler report slides.kwcoco.json --workdir cache --log runs/7/log --source balanced --out report"
)

#: Windows whose pixels are counted.
COUNTED = 2000
#: Windows of each kind that the contact sheets choose from, of a log.
KEPT = 200


@dataclass(frozen=True, slots=True)
class _Read:
    """Windows that were read or drawn."""

    summary: SampleSummary
    targets: Sequence[Target]
    notes: tuple[str, ...] = ()


def report(
    manifest: ManifestFile,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write to; made when it is not there.", file_okay=False),
    ],
    log: Annotated[
        Path | None,
        typer.Option(help="What was served: the folder of a SampleLog, or one of its files.", exists=True),
    ] = None,
    windows: Annotated[
        Path | None,
        typer.Option(help="A file that 'slidesampler sample --out' wrote.", exists=True, dir_okay=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "-s",
            help="Draw from this source, as 'slidesampler sample' does; with --log: what was asked for.",
        ),
    ] = None,
    workdir: Annotated[
        Path | None,
        workdir_option(
            "The cache's folder: thumbnails, label layers and the foreground index are read from it."
        ),
    ] = None,
    tissue: LabelTissue = None,
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="source: windows an epoch.")] = None,
    seed: Annotated[int, typer.Option(help="source: same seed, same windows.")] = 0,
    epoch: Annotated[
        int | None,
        typer.Option(min=0, help="The epoch that is drawn, 0 when not given; of a log, the one shown."),
    ] = None,
    size: Annotated[
        str, typer.Option(help="source: output pixels, 256 or HEIGHT,WIDTH.", metavar="PIXELS")
    ] = "256",
    option: OtherOptions = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "What was sampled",
    max_slides: Annotated[
        int, typer.Option(min=0, help="Slides whose maps are drawn; the table has all of them.")
    ] = 12,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show what was sampled, as one HTML page.

    What was served beside what was asked for, by kind, class and slide; tries and rejections; where on the
    slides the windows are; some of them; and weights for the next run. The page needs no other file and no
    network; its figures lie beside it as PNG files. The exit code is 1 where a slide or window could not be
    read and is missing from the pictures.
    """
    from slidesampler.report import write_report
    from slidesampler.report.html_report import REPORT_NAME

    if (log is not None) + (windows is not None) + (source is not None and log is None) != 1:
        raise typer.BadParameter("give one of --log, --windows and --source (--log may have a --source, too)")
    if (out / REPORT_NAME).exists() and not force:
        raise typer.BadParameter(
            f"{out / REPORT_NAME} is there already; --force replaces it", param_hint="--out"
        )
    words = None if source is None else _words(source, n, seed, size, option)
    sampler = _open(manifest, workdir, tissue)
    with status("choosing windows" if log is None and windows is None else "reading windows"):
        if log is not None:
            read = _from_log(sampler, log, epoch, words)
        elif windows is not None:
            read = _from_file(sampler, windows)
        else:
            assert words is not None
            read = _from_source(sampler, words, epoch or 0, n)
    with status("drawing"):
        files = write_report(
            sampler,
            read.summary,
            read.targets,
            out,
            title=title,
            origin=_origin(manifest, log, windows, source),
            max_slides=max_slides,
            notes=read.notes,
        )
    for line in files.failed:
        stderr().print(f"failed: {line}")
    if json:
        paths = {"report": str(files.page), "figures": [str(path) for path in files.figures]}
        print_json({"ok": not files.failed, **paths, "failed": list(files.failed), **read.summary.to_dict()})
    else:
        count = len(files.figures)
        stdout().print(f"{files.page}: {read.summary.windows} windows, {count} figures beside it")
    if files.failed:
        raise typer.Exit(int(ExitCode.FAILED))


def _words(source: str, n: int | None, seed: int, size: str, option: Sequence[str] | None) -> dict[str, Any]:
    """Return the description of a source; what it has not is not told to it."""
    from slidesampler.sampling.from_words import source_options

    taken = source_options(source)
    words: dict[str, Any] = {"source": source}
    given = {"seed": seed, "size": parse_size(size), "n": n}
    words |= {name: value for name, value in given.items() if source == "rejection" or name in taken}
    return {**words, **parse_options(option)}


def _open(manifest: Path, workdir: Path | None, tissue: Tissue | None = None) -> Sampler:
    """Return a sampler that reads the cache where it has every image, else the slides where they lie."""
    from slidesampler.cache import CacheStore
    from slidesampler.errors import CacheError
    from slidesampler.sampler import Sampler

    label_spec = label_spec_of(workdir, tissue)
    plain = Sampler(manifest, workdir, label_spec=label_spec)
    if workdir is None:
        return plain
    built = (entry.backend for entry in CacheStore(workdir).entries() if entry.kind == "image")
    backend = next(built, None)
    if backend is None:
        return plain
    cached = Sampler(plain.manifest, workdir, backend, label_spec=label_spec)
    try:
        for image_id in cached.image_ids:
            cached.image_shape(image_id)
    except CacheError:
        return plain
    return cached


def _from_source(sampler: Sampler, words: Mapping[str, Any], epoch: int, n: int | None) -> _Read:
    from slidesampler.sampling.asked import asked_shares
    from slidesampler.sampling.dry_runs import dry_run
    from slidesampler.sampling.from_words import source_from_words
    from slidesampler.sampling.summary import summarize

    with warnings.catch_warnings():
        # The page says how often a rejection gave up.
        warnings.simplefilter("ignore", UserWarning)
        made = source_from_words(sampler, words)
        drawn = dry_run(made, epoch, n)
    summary = summarize(
        drawn.targets,
        sampler,
        asked=asked_shares(made),
        records=drawn.records,
        count_at_most=COUNTED,
        seed=words.get("seed"),
        epoch=epoch,
    )
    return _Read(summary, drawn.targets)


def _from_file(sampler: Sampler, path: Path) -> _Read:
    from slidesampler.sampling.summary import summarize
    from slidesampler.sampling.target_file import TargetFile

    file = TargetFile(path)
    targets = [file[at] for at in range(len(file))]
    about = {key: value for key, value in file.about.items() if key not in ("epoch", "manifest")}
    asked, notes = _asked(sampler, about) if "source" in about else (None, ())
    summary = summarize(
        targets,
        sampler,
        asked=asked,
        count_at_most=COUNTED,
        seed=file.about.get("seed"),
        epoch=file.about.get("epoch"),
    )
    return _Read(summary, targets, notes)


def _from_log(sampler: Sampler, folder: Path, epoch: int | None, words: Mapping[str, Any] | None) -> _Read:
    import numpy as np

    from slidesampler.sampling.log_columns import read_log
    from slidesampler.sampling.summary import summarize

    columns = read_log(folder)
    if epoch is not None:
        columns = columns.epoch(epoch)
    asked, notes = (None, ()) if words is None else _asked(sampler, words)
    summary = summarize(columns, sampler, asked=asked, count_at_most=COUNTED)
    if columns.torn:
        # The name without its folder: a page that is sent to others says nothing of this machine.
        first = f"line {columns.torn[0].line} of {Path(columns.torn[0].path).name}"
        notes = (*notes, f"{len(columns.torn)} lines of the log could not be read; the first is {first}.")
    kept = np.zeros(len(columns), np.bool_)
    for kind in range(len(columns.kind_names)):
        rows = np.flatnonzero(columns.kinds == kind)
        kept[rows[np.linspace(0, len(rows) - 1, min(KEPT, len(rows))).astype(np.int64)]] = True
    return _Read(summary, list(columns.rows(kept).targets()), notes)


def _asked(sampler: Sampler, words: Mapping[str, Any]) -> tuple[AskedShares | None, tuple[str, ...]]:
    """Return what a source asks for; a sentence instead where it cannot be made any more."""
    from slidesampler.errors import SlideSamplerError
    from slidesampler.sampling.asked import asked_shares
    from slidesampler.sampling.from_words import source_from_words

    try:
        return asked_shares(source_from_words(sampler, words)), ()
    except SlideSamplerError as error:
        return None, (f"What was asked for is not known, the source cannot be made: {error}",)


def _origin(manifest: Path, log: Path | None, windows: Path | None, source: str | None) -> str:
    """Return where the windows come from, in names that say nothing of this machine's folders."""
    if log is not None:
        return f"Slides of {manifest.name}; windows of the log {log.name}."
    if windows is not None:
        return f"Slides of {manifest.name}; windows of {windows.name}."
    return f"Slides of {manifest.name}; windows of source {source}."
