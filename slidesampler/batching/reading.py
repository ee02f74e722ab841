"""Plans the reading of a batch, image by image, and carries it out.

Each image is looked up and its readers are borrowed once, and each window becomes a box of a level. Pixels,
masks and valid masks of all images are then one call, without the interpreter's lock. What the compiled reader
does not read (a window between two levels, a source in place, a mask that nobody has built) goes window by
window as :class:`~slidesampler.loading.SampleLoader` does it, on the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.batching.arrays import BatchArrays
from slidesampler.batching.jobs import BatchJobs
from slidesampler.geometry import Window
from slidesampler.loading import SampleLoader, is_plain, set_nodata
from slidesampler.pixels import exact_labels, exact_level, pad_outside
from slidesampler.readers import NativePart, Reader
from slidesampler.readers.base import native_part
from slidesampler.sources import ImageSource
from slidesampler.target import Target
from slidesampler.viewport import View

__all__ = ["read_batch"]


def read_batch(loader: SampleLoader, targets: Sequence[Target], arrays: BatchArrays, threads: int) -> None:
    """Fill the arrays with the windows of resolved targets."""
    reading = _Reading(loader, targets, arrays)
    slots_of: dict[int, list[int]] = {}
    for slot, target in enumerate(targets):
        assert target.image_id is not None
        slots_of.setdefault(target.image_id, []).append(slot)
    for image_id in sorted(slots_of):
        reading.plan_image(image_id, slots_of[image_id])
    reading.jobs.run(threads)
    _run_all(reading.reads, threads)
    _run_all(reading.paints, threads)
    for slot, target in enumerate(targets):
        if target.nodata is not None:
            set_nodata(target.nodata, arrays.image[slot], arrays.layers["valid"][slot])


def _run_all(tasks: list[Callable[[], None]], threads: int) -> None:
    if len(tasks) > 1 and threads > 1:
        with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
            # As a list: the first error is raised here.
            list(pool.map(lambda task: task(), tasks))
    else:
        for task in tasks:
            task()


class _Levels:
    """The levels of a borrowed reader that the compiled reader takes, each asked for once.

    None of them where the file has not the size ``(height, width)`` that the windows were planned for: a reader
    says so, while the compiled reader would leave out what is not there.
    """

    def __init__(self, reader: Reader, size: tuple[int, int]) -> None:
        self.reader = reader
        self._fits = reader.shape[:2] == size
        self._found: dict[tuple[int, bool], NativePart | None] = {}

    def part(self, level: int, *, valid: bool = False) -> NativePart | None:
        """Return a level, or its valid mask; None where the reader has to be asked window by window."""
        if not self._fits:
            return None
        if (level, valid) not in self._found:
            self._found[level, valid] = native_part(self.reader, level, valid=valid)
        return self._found[level, valid]


class _Reading:
    """What is to be done for a batch."""

    def __init__(self, loader: SampleLoader, targets: Sequence[Target], arrays: BatchArrays) -> None:
        self._loader = loader
        self._targets = targets
        self._windows = [target.window for target in targets if target.window is not None]
        self._arrays = arrays
        self._valid = arrays.layers["valid"]
        # With an axis of channels, as the jobs want them; made once, since a job is known by its array.
        self._planes = {name: layer[..., None] for name, layer in arrays.layers.items()}
        self.jobs = BatchJobs()
        #: Pixels that have to be read window by window.
        self.reads: list[Callable[[], None]] = []
        #: Layers that have to be made; they need to know what is valid.
        self.paints: list[Callable[[], None]] = []

    def plan_image(self, image_id: int, slots: list[int]) -> None:
        """Enter the windows of one image."""
        source = self._loader.sources.get(image_id)
        plain: list[int] = []
        others: list[int] = []
        for slot in slots:
            (plain if is_plain(self._targets[slot], source) else others).append(slot)
        views = self._views(others)
        with self._loader.pool.lease(source.spec) as reader:
            levels = _Levels(reader, source.shape[:2])
            bulk = self._plan_plain(levels, source, plain)
            if not bulk:
                views |= self._views(plain)
            for slot, view in views.items():
                if not self._plan_pixels(levels, source, slot, view):
                    self.reads.append(partial(self._read_pixels, source, slot, view))
        self._plan_layers(source, plain if bulk else [], views)

    def _plan_plain(self, levels: _Levels, source: ImageSource, slots: list[int]) -> bool:
        """Enter windows inside the image at full resolution, which most are; False where a reader is asked."""
        part = levels.part(0)
        valid = levels.part(0, valid=True) if source.has_valid else None
        if part is None or (source.has_valid and valid is None) or not self._fits(source):
            return False
        if valid is None:
            for slot in slots:
                self._valid[slot] = True
        else:
            self._add_plain(valid, slots, self._planes["valid"], levels.reader)
        wishes: dict[tuple[str | int, ...] | None, list[int]] = {}
        for slot in slots:
            wishes.setdefault(self._targets[slot].channels, []).append(slot)
        for some in wishes.values():
            samples = self._loader.samples(self._targets[some[0]], source, part)
            self._add_plain(part, some, self._arrays.image, levels.reader, samples)
        return True

    def _add_plain(
        self,
        part: NativePart,
        slots: list[int],
        out: NDArray[Any],
        reader: Reader,
        samples: tuple[int, ...] | None = None,
    ) -> None:
        if slots:
            windows = [self._windows[slot] for slot in slots]
            self.jobs.add(part, windows, out, slots, reader.name, samples=samples)

    def _fits(self, source: ImageSource) -> bool:
        """Whether the pixels can be converted to those of the batch without rounding."""
        image = self._arrays.image
        return source.dtype == image.dtype or bool(np.can_cast(source.dtype, image.dtype, "safe"))

    def _plan_pixels(self, levels: _Levels, source: ImageSource, slot: int, view: View) -> bool:
        """Enter the pixels of a window, and which are valid; False where its reader has to be asked."""
        target, image = self._targets[slot], self._arrays.image
        if not self._fits(source):
            return False
        if not view.full and (target.padding.mode != "constant" or not view.at_full_resolution):
            return False
        found = exact_level(levels.reader, view)
        part = None if found is None else levels.part(found[0])
        if found is None or part is None:
            return False
        if source.has_valid:
            valid = levels.part(0, valid=True)
            if valid is None or not view.at_full_resolution:
                return False
            self._valid[slot] = False
            if not view.empty:
                self._add(valid, view.window, self._planes["valid"], slot, levels.reader, view)
        else:
            self._valid[slot] = True if view.full else view.inside()
        if not view.full:
            pad_outside(image[slot], target.padding)
        if not view.empty:
            samples = self._loader.samples(target, source, part)
            self._add(part, found[1], image, slot, levels.reader, view, samples)
        return True

    def _add(
        self,
        part: NativePart,
        window: Window,
        out: NDArray[Any],
        slot: int,
        reader: Reader,
        view: View,
        samples: tuple[int, ...] | None = None,
    ) -> None:
        inside = view.rows, view.cols
        self.jobs.add(part, [window], out, [slot], reader.name, samples=samples, inside=inside)

    def _read_pixels(self, source: ImageSource, slot: int, view: View) -> None:
        image, valid = self._loader.read_pixels(self._targets[slot], source, view)
        self._arrays.image[slot] = image
        self._valid[slot] = valid

    def _plan_layers(self, source: ImageSource, plain: list[int], views: dict[int, View]) -> None:
        """Enter masks and instances where a label layer holds them; else they are painted later."""
        stored = self._loader.sources.label_readers(source)
        for name, paint, spec, outside in (
            ("mask", self._paint_mask, stored.labels, self._loader.manifest.class_map.ignore),
            ("instances", self._paint_instances, stored.instances, 0),
        ):
            out = self._planes.get(name)
            if out is None:
                continue
            left = plain
            to_paint = views
            if spec is not None:
                with self._loader.pool.lease(spec) as reader:
                    levels = _Levels(reader, source.shape[:2])
                    part = levels.part(0)
                    if part is not None and part.tiled.dtype == out.dtype:
                        self._add_plain(part, plain, out, reader)
                        left = []
                    to_paint = self._plan_stored(levels, out, outside, views)
            to_paint = to_paint | self._views(left)
            self.paints.extend(partial(paint, source, slot, view) for slot, view in to_paint.items())

    def _plan_stored(
        self, levels: _Levels, out: NDArray[Any], outside: int, views: dict[int, View]
    ) -> dict[int, View]:
        """Enter windows of a label layer; return those that have to be painted."""
        left = {}
        for slot, view in views.items():
            found = exact_labels(levels.reader, view)
            part = None if found is None else levels.part(found[0])
            if found is None or part is None or part.tiled.dtype != out.dtype:
                left[slot] = view
                continue
            if not view.full:
                out[slot] = outside
            if not view.empty:
                self._add(part, found[1], out, slot, levels.reader, view)
        return left

    def _views(self, slots: list[int]) -> dict[int, View]:
        return {slot: self._loader.view(self._targets[slot])[1] for slot in slots}

    def _paint_mask(self, source: ImageSource, slot: int, view: View) -> None:
        self._arrays.layers["mask"][slot] = self._loader.layers.mask(source, view, self._valid[slot])

    def _paint_instances(self, source: ImageSource, slot: int, view: View) -> None:
        made = self._loader.layers.instances(source, view, self._valid[slot])
        self._arrays.layers["instances"][slot] = made
