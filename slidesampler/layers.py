"""What lies over the pixels of a window: valid mask, labels, instances, annotations."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations import (
    AnnotIndex,
    annots_in_window,
    instance_block,
    label_block,
    map_category_raster,
)
from slidesampler.errors import ManifestError
from slidesampler.manifest import Manifest, naming_image
from slidesampler.models import Annots, LabelSpec
from slidesampler.pixels import read_labels, read_valid
from slidesampler.readers import ReaderPool, ReaderSpec, spec_for_labels
from slidesampler.shapes import Shapes
from slidesampler.sources import ImageSource, SourceTable
from slidesampler.viewport import View

__all__ = ["Layers"]

#: Images whose annotations are kept at hand: a few kilobytes each, views of the manifest's columns.
MAX_INDEXES = 64


class Layers:
    """Reads the layers of an image from its label layer, or makes them from the annotations.

    Parameters
    ----------
    manifest : Manifest
    pool : ReaderPool
    sources : SourceTable
    label_spec : LabelSpec
    """

    def __init__(
        self, manifest: Manifest, pool: ReaderPool, sources: SourceTable, label_spec: LabelSpec
    ) -> None:
        self._manifest = manifest
        self._class_map = manifest.class_map
        self._pool = pool
        self._sources = sources
        self._label_spec = label_spec
        # Holds no lock of ours: one held by another thread at a fork would stay locked in the child for ever.
        self._index = lru_cache(MAX_INDEXES)(self._make_index)

    def valid(self, source: ImageSource, view: View) -> NDArray[np.bool_]:
        """Return which output pixels are real, bool ``(H, W)``."""
        if not source.has_valid:
            return view.inside()
        with self._pool.lease(source.spec) as reader:
            return read_valid(reader, view)

    def mask(self, source: ImageSource, view: View, valid: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Return the mask from the label layer, or rasterised on the spot where there is none.

        Both give the same pixels: the layer was written by the function that rasterises here. ``valid`` is only
        needed without a layer, which holds *ignore* outside the valid region already.
        """
        stored = None if view.empty else self._sources.label_readers(source).labels
        if stored is not None and view.full:
            return self._read_stored(stored, view)
        mask = np.full(view.size, self._class_map.ignore, self._class_map.dtype)
        if view.empty:
            return mask
        if stored is not None:
            mask[view.rows, view.cols] = self._read_stored(stored, view)
            return mask
        shapes, index = self._index(source.record.image_id)
        inside = None if valid is None else valid[view.rows, view.cols]
        mask[view.rows, view.cols] = label_block(
            shapes, index, self._class_map, self._label_spec, view.ys, view.xs, self._base(source, view), inside
        )
        return mask

    def _read_stored(self, spec: ReaderSpec, view: View) -> NDArray[Any]:
        """Return the inside of a view from a layer that the cache holds."""
        with self._pool.lease(spec) as reader:
            return read_labels(reader, view)

    def _base(self, source: ImageSource, view: View) -> NDArray[Any] | None:
        """Return the class indices of the image's raster label asset for the inside of a view."""
        spec = spec_for_labels(source.record)
        if spec is None:
            return None
        with naming_image(source.record), self._pool.lease(spec) as reader:
            if reader.shape[:2] != source.shape[:2]:
                raise ManifestError(
                    f"labels: {reader.name} is {reader.shape[0]} x {reader.shape[1]} pixels, the image "
                    f"{source.shape[0]} x {source.shape[1]}; they must be of one size",
                    field="labels",
                )
            return map_category_raster(read_labels(reader, view, full=True), self._class_map)

    def instances(self, source: ImageSource, view: View, valid: NDArray[np.bool_]) -> NDArray[np.uint32]:
        """Return 1 + row of the annotation on top at each pixel, 0 where there is none."""
        instances = np.zeros(view.size, np.uint32)
        if view.empty:
            return instances
        stored = self._sources.label_readers(source).instances
        if stored is not None:
            instances[view.rows, view.cols] = self._read_stored(stored, view)
            return instances
        shapes, index = self._index(source.record.image_id)
        instances[view.rows, view.cols] = instance_block(
            shapes, index, self._class_map, self._label_spec, view.ys, view.xs, valid[view.rows, view.cols]
        )
        return instances

    def annots(self, source: ImageSource, view: View, visible_threshold: float) -> Annots:
        """Return the annotations that touch the window of a view."""
        shapes, index = self._index(source.record.image_id)
        if len(shapes) == 0:
            return Annots.empty()
        return annots_in_window(shapes, index, self._class_map, view.window, view.size, visible_threshold)

    def _make_index(self, image_id: int) -> tuple[Shapes, AnnotIndex]:
        row, first, last = self._manifest.annot_rows(image_id)
        shapes = self._manifest.shapes.rows(first, last)
        return shapes, AnnotIndex(shapes, self._manifest.shape_index, row, first)
