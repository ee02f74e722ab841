"""Sample training windows, with masks, from gigapixel images.

A kwcoco manifest goes in, a cache is built once, and windows are answered at a cost that depends on the
window alone::

    sampler = slidesampler.Sampler("slides.kwcoco.json", workdir="cache", backend="cog")
    sample = sampler.load_sample({"image_id": 1, "cx": 2000, "cy": 900, "width": 256, "height": 256})
    sample.image, sample.mask, sample.valid, sample.annots

Everything here is imported when it is first used, so ``import slidesampler`` is quick and needs neither GDAL
nor OpenSlide nor torch; what needs them says so, with the command that installs them. Datasets for torch are in
:mod:`slidesampler.torch`, synthetic slides in :mod:`slidesampler.testing`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidesampler.batching import Batch
    from slidesampler.cache.spec import BuildSpec
    from slidesampler.errors import (
        BuildError,
        CacheError,
        CacheMissError,
        CodecError,
        CorruptEntryError,
        ManifestError,
        MissingDependencyError,
        NegativesExhaustedError,
        ReadError,
        SamplingError,
        SlideSamplerError,
        SourceMissingError,
        StaleEntryError,
        TargetError,
        UnknownKeyError,
        UnsupportedSourceError,
    )
    from slidesampler.geometry import Window
    from slidesampler.manifest import Manifest
    from slidesampler.models import Annots, CacheEntry, ClassMap, ImageRecord, LabelSpec, Sample
    from slidesampler.rng import rng_for
    from slidesampler.sampler import Sampler
    from slidesampler.sampling import (
        BalancedSource,
        CoverageSource,
        FixedSource,
        GridSource,
        ImageMajorTiles,
        MixtureSource,
        NegativeSource,
        PositiveSource,
        RandomTilePerImage,
        RejectionSource,
        RestrictedSource,
        SampleLog,
        TileMajorTiles,
        TileRule,
        WeightedSource,
        check_split,
        dataset_statistics,
        freeze,
        k_folds,
        read_log,
        save_maps,
        split_as_given,
        split_by_class,
        split_by_group,
        split_by_region,
    )
    from slidesampler.target import Padding, Target

__all__ = [
    "Annots",
    "BalancedSource",
    "Batch",
    "BuildError",
    "BuildSpec",
    "CacheEntry",
    "CacheError",
    "CacheMissError",
    "ClassMap",
    "CodecError",
    "CorruptEntryError",
    "CoverageSource",
    "FixedSource",
    "GridSource",
    "ImageMajorTiles",
    "ImageRecord",
    "LabelSpec",
    "Manifest",
    "ManifestError",
    "MissingDependencyError",
    "MixtureSource",
    "NegativeSource",
    "NegativesExhaustedError",
    "Padding",
    "PositiveSource",
    "RandomTilePerImage",
    "ReadError",
    "RejectionSource",
    "RestrictedSource",
    "Sample",
    "SampleLog",
    "Sampler",
    "SamplingError",
    "SlideSamplerError",
    "SourceMissingError",
    "StaleEntryError",
    "Target",
    "TargetError",
    "TileMajorTiles",
    "TileRule",
    "UnknownKeyError",
    "UnsupportedSourceError",
    "WeightedSource",
    "Window",
    "__version__",
    "check_split",
    "dataset_statistics",
    "freeze",
    "k_folds",
    "read_log",
    "rng_for",
    "save_maps",
    "split_as_given",
    "split_by_class",
    "split_by_group",
    "split_by_region",
]

__version__ = "0.1.0"

#: Home of every public name that is not an error class.
_HOMES = {
    "Annots": "slidesampler.models",
    "BalancedSource": "slidesampler.sampling",
    "Batch": "slidesampler.batching",
    "BuildSpec": "slidesampler.cache.spec",
    "CacheEntry": "slidesampler.models",
    "ClassMap": "slidesampler.models",
    "CoverageSource": "slidesampler.sampling",
    "FixedSource": "slidesampler.sampling",
    "GridSource": "slidesampler.sampling",
    "ImageMajorTiles": "slidesampler.sampling",
    "ImageRecord": "slidesampler.models",
    "LabelSpec": "slidesampler.models",
    "Manifest": "slidesampler.manifest",
    "MixtureSource": "slidesampler.sampling",
    "NegativeSource": "slidesampler.sampling",
    "Padding": "slidesampler.target",
    "PositiveSource": "slidesampler.sampling",
    "RandomTilePerImage": "slidesampler.sampling",
    "RejectionSource": "slidesampler.sampling",
    "RestrictedSource": "slidesampler.sampling",
    "Sample": "slidesampler.models",
    "SampleLog": "slidesampler.sampling",
    "Sampler": "slidesampler.sampler",
    "Target": "slidesampler.target",
    "TileMajorTiles": "slidesampler.sampling",
    "TileRule": "slidesampler.sampling",
    "WeightedSource": "slidesampler.sampling",
    "Window": "slidesampler.geometry",
    "check_split": "slidesampler.sampling",
    "dataset_statistics": "slidesampler.sampling",
    "freeze": "slidesampler.sampling",
    "k_folds": "slidesampler.sampling",
    "read_log": "slidesampler.sampling",
    "rng_for": "slidesampler.rng",
    "save_maps": "slidesampler.sampling",
    "split_as_given": "slidesampler.sampling",
    "split_by_class": "slidesampler.sampling",
    "split_by_group": "slidesampler.sampling",
    "split_by_region": "slidesampler.sampling",
}

#: Rooms that people reach as attributes, without an import statement of their own.
_ROOMS = ("doctor", "errors", "geometry", "testing", "torch")


def __getattr__(name: str) -> Any:
    """Import a public name, or a room, when it is first used (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"slidesampler.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'slidesampler' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "slidesampler.errors")), name)
    # The next use finds it without coming here.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names and rooms, imported or not."""
    return sorted({*globals(), *__all__, *_ROOMS})
