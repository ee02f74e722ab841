"""Annotations of one image: which touch a window, what they look like in it, and which pixels they mark."""

from __future__ import annotations

from slidesampler.annotations.clip import annots_in_window
from slidesampler.annotations.index import AnnotIndex
from slidesampler.annotations.labels import instance_block, label_block, map_category_raster, paint_order
from slidesampler.annotations.rasterize import paint

__all__ = [
    "AnnotIndex",
    "annots_in_window",
    "instance_block",
    "label_block",
    "map_category_raster",
    "paint",
    "paint_order",
]
