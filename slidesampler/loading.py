"""From a target to a sample: the window is resolved, its pixels are read, and its layers with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import CacheMissError, ReadError, TargetError
from slidesampler.geometry import Window
from slidesampler.layers import Layers
from slidesampler.manifest import Manifest
from slidesampler.models import Sample, relative_transform
from slidesampler.pixels import fitting_value, read_pixels, read_valid
from slidesampler.readers import NativePart, ReaderPool
from slidesampler.readers.base import native_part
from slidesampler.readers.tile_read import read_window
from slidesampler.resolve import ImageFacts, resolve_channels, resolve_target
from slidesampler.sequences import stack_samples
from slidesampler.sources import ImageSource, SourceTable
from slidesampler.target import Target
from slidesampler.viewport import View

__all__ = ["SampleLoader", "Wanted"]

Loaded = TypeVar("Loaded")


class Wanted(NamedTuple):
    """What is loaded besides pixels; see :meth:`slidesampler.Sampler.load_sample`."""

    annots: bool = True
    mask: bool = True
    instances: bool = False
    visible_threshold: float = 0.0


class SampleLoader:
    """Loads one sample at a time.

    Parameters
    ----------
    manifest : Manifest
    pool : ReaderPool
    sources : SourceTable
    layers : Layers
    """

    def __init__(self, manifest: Manifest, pool: ReaderPool, sources: SourceTable, layers: Layers) -> None:
        self.manifest = manifest
        self.pool = pool
        self.sources = sources
        self.layers = layers

    def resolve(self, target: Target) -> Target:
        """Return the target of one image with image, window, size and downsample filled in."""
        if is_sequence(target):
            raise TargetError("a sequence is resolved frame by frame: load_sample does it")
        image_id, box = target.image_id, None
        if target.annot_id is not None:
            owner, row = self.manifest.locate_annot(target.annot_id)
            if image_id is not None and image_id != owner:
                raise TargetError(f"annotation {target.annot_id} is on image {owner}, not on {image_id}")
            image_id = owner
            x0, y0, x1, y1 = self.manifest.shapes_of(owner).boxes_xyxy[row].tolist()
            box = (x0, y0, x1, y1)
        if image_id is None:
            raise TargetError("a target needs 'image_id', 'annot_id', 'video_id' or 'image_ids'")
        source = self.sources.get(image_id)
        return resolve_target(target, ImageFacts(image_id, *source.shape[:2], source.mpp, box))

    def load(self, target: Target | Mapping[str, Any], wanted: Wanted) -> Sample:
        """Return the pixels of a target with what is wanted besides."""
        target = Target.coerce(target)
        if is_sequence(target):
            frames = self.frames(target)
            samples = [self.load(frame, wanted) for frame in frames]
            ids = tuple(frame.image_id for frame in frames if frame.image_id is not None)
            return stack_samples(samples, ids, target.video_id)
        target = self.resolve(target)
        assert target.image_id is not None
        return self._retry_once(target.image_id, self._read, target, wanted)

    def frames(self, target: Target) -> list[Target]:
        """Return the targets of the frames of a sequence.

        Raises
        ------
        TargetError
            If it names an image or an annotation too.
        """
        ids = target.image_ids
        if ids is None:
            assert target.video_id is not None
            ids = self.manifest.video_frames(target.video_id)
        if target.image_id is not None or target.annot_id is not None:
            raise TargetError(
                "a sequence is named by 'image_ids' or 'video_id', not by 'image_id' or 'annot_id'"
            )
        return [target.with_fields(image_ids=None, video_id=None, image_id=image_id) for image_id in ids]

    def load_mask(self, image_id: int, window: Window, size: tuple[int, int] | None) -> NDArray[Any]:
        """Return the mask of a window without its pixels, ``(H, W)``."""
        target = self.resolve(Target.coerce({"image_id": image_id, "window": window, "size": size}))
        return self._retry_once(image_id, self._read_mask, target)

    def _read_mask(self, target: Target) -> NDArray[Any]:
        source, view = self.view(target)
        if self.sources.label_readers(source).labels is not None:
            return self.layers.mask(source, view, None)
        return self.layers.mask(source, view, self.layers.valid(source, view))

    def view(self, target: Target) -> tuple[ImageSource, View]:
        """Return where the pixels of a resolved target come from, and how it lies on the image."""
        assert target.image_id is not None
        assert target.window is not None
        assert target.size is not None
        source = self.sources.get(target.image_id)
        return source, View(target.window, target.size, source.shape[:2])

    def channels(self, target: Target, source: ImageSource) -> tuple[int, ...] | None:
        """Return which channels of the source a target asks for; None where all are, in their order."""
        if target.channels is None:
            return None
        where = f"image {source.record.image_id}"
        return resolve_channels(target.channels, source.channels, source.shape[2], where)

    def samples(self, target: Target, source: ImageSource, part: NativePart) -> tuple[int, ...]:
        """Return which samples of a file are the channels that a target asks for."""
        channels = self.channels(target, source)
        return part.samples if channels is None else tuple(part.samples[i] for i in channels)

    def read_pixels(
        self, target: Target, source: ImageSource, view: View
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return pixels ``(H, W, C)`` of a view, and which of them are valid, ``(H, W)``; nodata not set."""
        dtype = None if target.dtype is None else np.dtype(target.dtype)
        with self.pool.lease(source.spec) as reader:
            image = read_pixels(reader, view, target.padding, self.channels(target, source), dtype=dtype)
            return image, read_valid(reader, view)

    def _read(self, target: Target, wanted: Wanted) -> Sample:
        assert target.image_id is not None
        assert target.window is not None
        assert target.size is not None
        source = self.sources.get(target.image_id)
        found = self._read_at_once(target, source, wanted)
        if found is None or wanted.annots or wanted.instances:
            # Once: what it computes of the lattice serves pixels, mask and instances.
            view = View(target.window, target.size, source.shape[:2])
        if found is None:
            image, valid = self.read_pixels(target, source, view)
            mask = self.layers.mask(source, view, valid) if wanted.mask else None
        else:
            image, valid, mask = found
        if target.nodata is not None:
            set_nodata(target.nodata, image, valid)
        annots = self.layers.annots(source, view, wanted.visible_threshold) if wanted.annots else None
        instances = self.layers.instances(source, view, valid) if wanted.instances else None
        transform = relative_transform(target.window, target.size)
        return Sample(image, mask, valid, annots, target, transform, instances)

    def _read_at_once(
        self, target: Target, source: ImageSource, wanted: Wanted
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any] | None] | None:
        """Return image, valid mask and mask, read in one call of the compiled reader; None where it cannot.

        It can where the window lies inside the image at full resolution, as most do, and nothing has to be
        converted or drawn. What it fails to read is read again piece by piece, which says what is wrong.
        """
        if not is_plain(target, source):
            return None
        if target.dtype is not None and np.dtype(target.dtype) != source.dtype:
            return None
        labels = self._native_labels(source) if wanted.mask else None
        if wanted.mask and labels is None:
            return None
        with self.pool.lease(source.spec) as reader:
            pixels = native_part(reader)
            stored = native_part(reader, valid=True) if source.has_valid else None
            if pixels is None or reader.shape != source.shape or (stored is None) == source.has_valid:
                return None
        if target.channels is not None:
            pixels = pixels._replace(samples=self.samples(target, source, pixels))
        parts = [pixels]
        if labels is not None:
            parts.append(labels)
        if stored is not None:
            parts.append(stored)
        assert target.window is not None
        found = read_window(parts, target.window)
        if found is None:
            return None
        if stored is not None:
            valid = found[-1][..., 0] != 0
        else:
            valid = np.empty(target.size, np.bool_)
            valid.fill(True)
        return found[0], valid, None if labels is None else found[1][..., 0]

    def _native_labels(self, source: ImageSource) -> NativePart | None:
        """Return the label layer of an image as the compiled reader takes it; None where it has to be drawn."""
        spec = self.sources.label_readers(source).labels
        if spec is None:
            return None
        with self.pool.lease(spec) as reader:
            part = native_part(reader) if reader.shape[:2] == source.shape[:2] else None
        return part if part is not None and part.tiled.dtype == self.manifest.class_map.dtype else None

    def _retry_once(self, image_id: int, load: Callable[..., Loaded], *arguments: Any) -> Loaded:
        try:
            return load(*arguments)
        except (ReadError, FileNotFoundError) as error:
            if not self.may_be_outdated(error):
                raise
        # Whether another thread has looked again already makes no difference.
        self.sources.forget(image_id)
        return load(*arguments)

    def forget(self, target: Target) -> None:
        """Forget what was found in the cache for the image of a target."""
        image_id = target.image_id
        if target.annot_id is not None:
            image_id, _ = self.manifest.locate_annot(target.annot_id)
        if image_id is not None:
            self.sources.forget(image_id)

    def may_be_outdated(self, error: Exception) -> bool:
        """Whether to look into the cache again, once: a rebuild may have replaced the entry that was found."""
        return self.sources.has_cache and not isinstance(error, CacheMissError)


def is_sequence(target: Target) -> bool:
    """Whether a target names several images."""
    return target.image_ids is not None or target.video_id is not None


def is_plain(target: Target, source: ImageSource) -> bool:
    """Whether the window of a resolved target lies inside the image, at full resolution."""
    window = target.window
    assert window is not None
    return (
        target.size == (window.height, window.width)
        and window.y >= 0
        and window.x >= 0
        and window.y + window.height <= source.shape[0]
        and window.x + window.width <= source.shape[1]
    )


def set_nodata(nodata: float, image: NDArray[Any], valid: NDArray[np.bool_]) -> None:
    """Write a target's nodata value wherever pixels are not valid."""
    image[~valid] = fitting_value("nodata", np.asarray(nodata), image.dtype)
