"""Batches: many windows as stacked arrays, read in one call."""

from __future__ import annotations

from slidesampler.batching.batch import Batch
from slidesampler.batching.loader import BatchLoader

__all__ = ["Batch", "BatchLoader"]
