"""The measuring room: which cache suits a data set, told from its own images on its own disk.

:func:`measure_caches` builds a bounded part of a data set in every variant and reads windows from each;
:func:`recommend` says what to build, from the figures alone.
"""

from __future__ import annotations

from slidesampler.measure.caches import measure_caches
from slidesampler.measure.options import BenchOptions
from slidesampler.measure.recommend import expected_rate, recommend
from slidesampler.measure.results import (
    Alternative,
    CacheBench,
    CacheVariant,
    MeasuredPart,
    Recommendation,
    Spread,
    VariantMeasurement,
)
from slidesampler.measure.variants import choose_variants

__all__ = [
    "Alternative",
    "BenchOptions",
    "CacheBench",
    "CacheVariant",
    "MeasuredPart",
    "Recommendation",
    "Spread",
    "VariantMeasurement",
    "choose_variants",
    "expected_rate",
    "measure_caches",
    "recommend",
]
