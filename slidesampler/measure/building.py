"""One variant of the parts, built: something to read, and the row of its size and speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slidesampler.cache import BuildReport, BuildSpec, CacheStore, build
from slidesampler.cache.in_place import find_in_place
from slidesampler.errors import BuildError, UnsupportedSourceError
from slidesampler.manifest import Manifest
from slidesampler.measure.extent import Extent
from slidesampler.measure.results import CacheVariant, Spread, VariantMeasurement
from slidesampler.measure.rounds import Contender, cached_contender
from slidesampler.measure.specimen import Specimen
from slidesampler.sampler import Sampler

__all__ = ["build_variant", "why_not_in_place"]


def build_variant(
    variant: CacheVariant, specimen: Specimen, scratch: Path, extent: Extent, *, with_mask: bool
) -> tuple[Contender, VariantMeasurement]:
    """Build a variant of the parts, or record the user's images where they lie.

    Parameters
    ----------
    variant : CacheVariant
        Any but sources in place without a record.
    specimen : Specimen
    scratch : Path
        Its folder ``cache`` is shared by all variants, and so are label layers, made with the first.
    extent : Extent
    with_mask : bool
        Whether label layers are built. Not those of images where they lie: for whole slides that takes long.

    Raises
    ------
    SlideSamplerError
        If it cannot be built, or a source would be converted that is to stay where it lies.
    """
    if variant.backend == "auto":
        return _record_in_place(variant, specimen, scratch, extent)
    store = CacheStore(scratch / "cache")
    ids = [part.image_id for part in specimen.parts]
    # Forced: a source that is a COG would be used where it lies.
    force = not specimen.copied
    spec = variant.build_spec(labels=False)
    report = build(specimen.manifest, spec, store, only_images=ids, force=force)
    if report.failed:
        raise BuildError(report.failed[0].reason)
    if with_mask:
        labels = build(specimen.manifest, variant.build_spec(labels=True), store, only_images=ids)
        if labels.failed:
            raise BuildError(f"{labels.failed[0].reason} (--no-mask measures without masks)")
    sampler = Sampler(
        specimen.manifest,
        store.workdir,
        variant.backend,
        codec=variant.codec or None,
        tile=variant.tile or None,
    )
    contender = cached_contender(variant, sampler, store, specimen.parts)
    return contender, _row(variant, specimen, report, extent)


def _record_in_place(
    variant: CacheVariant, specimen: Specimen, scratch: Path, extent: Extent
) -> tuple[Contender, VariantMeasurement]:
    for part in specimen.parts:
        if reason := why_not_in_place(specimen.source, part.image_id, "auto"):
            raise BuildError(f"{part.name} would be converted: {reason}")
    # A workdir of its own: the entry of a source used in place stands where that of a COG would.
    store = CacheStore(scratch / "in-place")
    ids = [part.image_id for part in specimen.parts]
    report = build(specimen.source, variant.build_spec(labels=False), store, only_images=ids)
    if report.failed:
        raise BuildError(report.failed[0].reason)
    sampler = Sampler(specimen.source, store.workdir, "cog")
    contender = cached_contender(variant, sampler, store, specimen.parts)
    # To look at a slide takes as long whatever its size: that is no speed.
    return contender, replace(_row(variant, specimen, report, extent), build_megapixels_per_s=None)


def why_not_in_place(manifest: Manifest, image_id: int, backend: str) -> str:
    """Return why a backend would convert a source; empty where it reads it where it lies."""
    try:
        find_in_place(manifest.record(image_id), BuildSpec(backend))
    except UnsupportedSourceError as error:
        return str(error)
    return ""


def _row(variant: CacheVariant, specimen: Specimen, report: BuildReport, extent: Extent) -> VariantMeasurement:
    built = [row for row in report if row.what == "image"]
    megapixels = sum(part.megapixels for part in specimen.parts)
    size = sum(row.size_bytes for row in built)
    speeds = [row.megapixels / (row.seconds + specimen.read_seconds.get(row.image_id, 0.0)) for row in built]
    return VariantMeasurement(
        variant,
        "measured",
        size_bytes=size,
        bytes_per_megapixel=size / megapixels,
        total_bytes=size / megapixels * extent.megapixels,
        build_megapixels_per_s=Spread.of(speeds),
    )
