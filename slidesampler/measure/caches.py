"""``measure_caches``: build a bounded part of a data set in every variant, read windows from each, compare."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from slidesampler.cache.spec import TILES
from slidesampler.cache.tile_size import best_tile
from slidesampler.errors import SlideSamplerError
from slidesampler.machine import memory_bytes, usable_threads
from slidesampler.manifest import Manifest
from slidesampler.measure.building import build_variant, why_not_in_place
from slidesampler.measure.extent import Extent, extent_of, pick_parts
from slidesampler.measure.options import BenchOptions
from slidesampler.measure.page_cache import can_drop
from slidesampler.measure.recommend import recommend
from slidesampler.measure.results import (
    CacheBench,
    CacheVariant,
    MeasuredPart,
    VariantMeasurement,
)
from slidesampler.measure.rounds import (
    COLD_SHARE,
    Contender,
    run_round,
    source_contender,
)
from slidesampler.measure.scratch import check_room, free_bytes, scratch_folder
from slidesampler.measure.specimen import Specimen, copy_parts, part_bytes
from slidesampler.measure.variants import choose_variants
from slidesampler.measure.windows import random_places
from slidesampler.rng import Draws
from slidesampler.sampler import Sampler

__all__ = ["measure_caches"]

#: Levels of a pyramid add a third; a build has a scratch copy of the image beside the entry.
_PYRAMID = 4 / 3
#: Fewer windows a round than this, and the notes say so.
_FEW_WINDOWS = 32

ProgressCall = Callable[[str, int, int], None]


def _ignore(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


def measure_caches(
    manifest: Manifest,
    workdir: str | os.PathLike[str],
    options: BenchOptions | None = None,
    *,
    variants: Sequence[CacheVariant] | None = None,
    command: Sequence[str] = ("slidesampler", "build", "MANIFEST"),
    progress: ProgressCall = _ignore,
) -> CacheBench:
    """Measure ways to keep a data set, on its own images and the disk that the cache is for.

    Parts of a few images are built in every variant, in a folder inside the workdir that is removed at the end,
    and windows at random places are read from each, by one thread and by all, with the files dropped from the
    page cache and in it. A variant that cannot be built or read is a row with the reason.

    Parameters
    ----------
    manifest : Manifest
    workdir : str or path
        Folder of the cache; made for as long as is measured where it is not there.
    options : BenchOptions, optional
    variants : sequence of CacheVariant, optional
        See :func:`slidesampler.measure.choose_variants`, whose default is taken where None.
    command : sequence of str
        What the command that builds the recommendation begins with; ``--workdir`` is added.
    progress : callable
        Told what is being done, and how many steps of how many are.

    Returns
    -------
    CacheBench

    Raises
    ------
    ReadError
        If no image can be read.
    BuildError
        If the disk has no room for it, or cannot be written.
    TargetError
        If ``only_images`` names an image that the manifest has not got.
    """
    options = options or BenchOptions()
    variants = tuple(variants or choose_variants())
    return _Bench(manifest, Path(workdir).absolute(), options, variants, command, progress).run()


class _Bench:
    """One run: its options, and what it has found so far."""

    def __init__(
        self,
        manifest: Manifest,
        workdir: Path,
        options: BenchOptions,
        variants: tuple[CacheVariant, ...],
        command: Sequence[str],
        progress: ProgressCall,
    ) -> None:
        self._manifest, self._workdir, self._options = manifest, workdir, options
        self._variants, self._progress = variants, progress
        self._command = [*command, "--workdir", str(workdir)]
        self._begin = time.perf_counter()
        self._rows: dict[CacheVariant, VariantMeasurement] = {}
        self._notes: list[str] = []
        self._step = 0
        self._steps = 1

    def run(self) -> CacheBench:
        options = self._options
        self._steps = options.images + len(self._variants) * (1 + options.rounds)
        parts, skipped = pick_parts(
            self._manifest,
            options.images,
            options.only_images,
            options.sides,
            options.crop_side,
            lambda name: self._tell(f"looking at {name}", 0),
        )
        self._notes += skipped
        free = free_bytes(self._workdir)
        self._check_room(parts)
        extent = extent_of(self._manifest, parts)
        with scratch_folder(self._workdir, keep=options.keep) as scratch:
            if options.keep:
                self._notes.append(f"What was built is left in {scratch}.")
            specimen = self._specimen(parts, scratch)
            contenders = self._build(specimen, scratch, extent)
            windows = self._read(contenders, parts)
            for contender in contenders:
                contender.sampler.close()
        self._finish(contenders)
        rows = tuple(self._rows[variant] for variant in self._variants)
        self._note_what_to_know(rows, parts, windows)
        recommendation = recommend(
            rows,
            free_bytes=free,
            memory_bytes=memory_bytes(),
            source_bytes=extent.source_bytes,
            command=self._command,
            copy_sources=any(not why_not_in_place(self._manifest, part.image_id, "cog") for part in parts),
        )
        return CacheBench(
            rows,
            recommendation,
            parts,
            options.sides,
            windows,
            options.rounds,
            self._threads,
            options.batch,
            options.with_mask,
            len(self._manifest),
            extent.megapixels,
            str(self._workdir),
            free,
            memory_bytes(),
            time.perf_counter() - self._begin,
            tuple(self._notes),
        )

    @property
    def _threads(self) -> int:
        return self._options.threads or usable_threads()

    def _tell(self, what: str, steps: int = 1) -> None:
        self._progress(what, min(self._step, self._steps), self._steps)
        self._step += steps

    def _late(self, share: float) -> bool:
        limit = self._options.seconds
        return limit is not None and time.perf_counter() - self._begin > share * limit

    # Building ---------------------------------------------------------------------------------------------

    def _check_room(self, parts: Sequence[MeasuredPart]) -> None:
        pixels = sum(part_bytes(self._manifest, part) for part in parts)
        copies = 0 if all(part.whole for part in parts) else pixels
        built = sum(not variant.in_place for variant in self._variants)
        # What compression saves is not known yet.
        check_room(self._workdir, copies + _PYRAMID * pixels * (built + 1) if built else 0)

    def _specimen(self, parts: tuple[MeasuredPart, ...], scratch: Path) -> Specimen:
        if all(part.whole for part in parts):
            return Specimen(self._manifest, self._manifest, parts, False, {})
        folder = scratch / "parts"
        folder.mkdir()
        return copy_parts(
            self._manifest,
            parts,
            folder,
            with_mask=self._options.with_mask,
            advance=lambda name: self._tell(f"copying {name}"),
        )

    def _build(self, specimen: Specimen, scratch: Path, extent: Extent) -> list[Contender]:
        contenders = []
        mask = self._options.with_mask
        # What is likely to win first, for the case that time runs out.
        for variant in sorted(self._variants, key=self._rank):
            if variant.backend == "in-place":
                self._rows[variant] = VariantMeasurement(variant, "measured")
                contenders.append(source_contender(Sampler(self._manifest), specimen.parts))
                continue
            if self._late(0.5) and any(not contender.variant.in_place for contender in contenders):
                reason = "not built: half of the time that was given was over (--seconds)"
                self._rows[variant] = VariantMeasurement(variant, "skipped", reason)
                continue
            self._tell(f"building {variant.name}")
            try:
                contender, row = build_variant(variant, specimen, scratch, extent, with_mask=mask)
            except SlideSamplerError as error:
                self._rows[variant] = VariantMeasurement(variant, "failed", _first_line(error))
                continue
            contenders.append(contender)
            self._rows[variant] = row
        return contenders

    def _rank(self, variant: CacheVariant) -> int:
        suits = variant.backend != "cog" or variant.tile == best_tile(self._options.window, codec=variant.codec)
        return 0 if suits else 1

    # Reading ----------------------------------------------------------------------------------------------

    def _read(self, contenders: Sequence[Contender], parts: Sequence[MeasuredPart]) -> int:
        """Measure; return the windows of a round."""
        options = self._options
        block = max((variant.tile for variant in self._variants), default=0) or max(TILES)
        count = 0
        for number in range(options.rounds):
            if number and self._late(1.0):
                self._notes.append(f"Time was up after {number} of {options.rounds} rounds (--seconds).")
                break
            draws = Draws(options.seed, epoch=number, stream="bench")
            places = random_places(parts, options.sides, options.windows, block, draws)
            count = len(places)
            run_round(
                contenders,
                places,
                options.sides,
                threads=self._threads,
                batch=options.batch,
                with_mask=options.with_mask,
                draws=draws,
                advance=partial(self._tell_round, number),
            )
        return count

    def _tell_round(self, number: int, name: str) -> None:
        self._tell(f"round {number + 1}: reading {name}")

    def _finish(self, contenders: Sequence[Contender]) -> None:
        for contender in contenders:
            row = self._rows[contender.variant]
            if contender.failure:
                self._rows[contender.variant] = VariantMeasurement(
                    row.variant, "failed", f"cannot be read: {contender.failure}"
                )
                continue
            cold = contender.spread("cold_one"), contender.spread("cold_all")
            self._rows[contender.variant] = replace(
                row,
                left_in_memory=contender.left_in_memory if any(cold) else contender.stayed,
                cold_one=cold[0],
                cold_all=cold[1],
                warm_one=contender.spread("warm_one"),
                warm_all=contender.spread("warm_all"),
            )

    def _note_what_to_know(
        self, rows: Sequence[VariantMeasurement], parts: Sequence[MeasuredPart], windows: int
    ) -> None:
        measured = [row for row in rows if row.status == "measured"]
        if any(not part.whole for part in parts) and any(row.variant.codec for row in measured):
            self._notes.append(
                "Compressed sizes are those of the busiest part of each slide. Bare glass compresses better: "
                "the whole cache will rather be smaller."
            )
        if windows < min(_FEW_WINDOWS, self._options.windows):
            self._notes.append(
                f"Only {windows} windows fit into what was taken without sharing a tile, so figures are rough: "
                "more images or larger parts (--images, --crop) give better ones."
            )
        warm_only = [row.variant.name for row in measured if row.warm_all and not row.cold_all]
        if warm_only:
            self._notes.append(f"No cold figures for {', '.join(warm_only)}: {_why_not_cold(measured)}.")
        if self._options.with_mask and any(row.variant.in_place for row in measured):
            self._notes.append(
                "Masks of slides read where they lie are drawn from the annotations here, window by window; "
                "the others have label layers."
            )


def _why_not_cold(rows: Sequence[VariantMeasurement]) -> str:
    if not can_drop():
        return "this system cannot drop files from the page cache"
    if any((row.left_in_memory or 0.0) > COLD_SHARE for row in rows):
        return "their files stayed in memory when they were to be dropped (a file system in memory, perhaps)"
    return "they are not local files"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
