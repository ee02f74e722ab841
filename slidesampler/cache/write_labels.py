"""Label layers: the class index (on request also the annotation) of every pixel, as lossless COGs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.annotations import AnnotIndex, instance_block, label_block, map_category_raster
from slidesampler.cache.block_source import source_block
from slidesampler.cache.codecs import auto_codec
from slidesampler.cache.cog_layout import CogLayout, CogTarget
from slidesampler.cache.cog_target import open_cog
from slidesampler.cache.gdal_write import block_cache
from slidesampler.cache.halves import Halves
from slidesampler.cache.pyramid import decimation_part, levels_of, thin
from slidesampler.cache.spec import WrittenFiles
from slidesampler.cache.stream import BlockPlan, plan_blocks
from slidesampler.cache.write_failure import remove_files
from slidesampler.errors import BuildError
from slidesampler.geometry import Window, label_level_downsamples
from slidesampler.models import ClassMap, LabelSpec, Level
from slidesampler.readers.base import Reader
from slidesampler.shapes import Shapes

__all__ = ["LABEL_TILE", "LabelSource", "write_labels"]

#: Tile of a label layer, pixels: labels compress to next to nothing, so small windows decide.
LABEL_TILE = 256
#: Columns rasterised at once.
_BLOCK_COLUMNS = 1024
#: A strip of the base raster and of the valid mask, bytes: GDAL's cache must hold it while it is painted block
#: by block, or files that are stored by rows would be decoded again for every block.
_STRIP_BYTES = 64 * 2**20


class LabelSource:
    """The labels of one image, by block: annotations over a base raster, *ignore* where nothing is valid.

    Parameters
    ----------
    shape : (int, int)
        ``(H, W)``, level-0 pixels.
    shapes : Shapes
        Annotations of the image.
    class_map : ClassMap
    label_spec : LabelSpec
    base : Reader or None
        One channel of category ids, as they stand in the file.
    valid : Reader or None
        Its ``read_valid`` says which pixels are valid; its pixels are not read.

    Raises
    ------
    BuildError
        If ``base`` or ``valid`` is not of the image's size, or ``base`` has more than one channel.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        shapes: Shapes,
        class_map: ClassMap,
        label_spec: LabelSpec,
        *,
        base: Reader | None = None,
        valid: Reader | None = None,
    ) -> None:
        for role, reader in (("label raster", base), ("valid mask", valid)):
            if reader is not None and reader.shape[:2] != shape:
                raise BuildError(
                    f"{reader.name}: this {role} is {reader.shape[0]} x {reader.shape[1]} pixels, its image "
                    f"{shape[0]} x {shape[1]}; they must be of one size"
                )
        if base is not None and base.shape[2] != 1:
            raise BuildError(
                f"{base.name}: this label raster has {base.shape[2]} channels; "
                "one channel of category ids is needed"
            )
        self.shape, self.class_map = shape, class_map
        self._shapes, self._spec = shapes, label_spec
        self._index = AnnotIndex(shapes)
        self._base = base
        self._valid = valid if valid is not None and valid.has_valid else None

    def strips(
        self, *, instances: bool
    ) -> Iterator[tuple[Window, NDArray[Any] | None, NDArray[np.uint32] | None]]:
        """Yield ``(window, class indices, instance numbers)`` downwards until the image is covered.

        Windows have the image's full width unless it is far too wide. None stands for nothing but 0, and for
        instance numbers that were not asked for.
        """
        for strip in self._strips():
            labels = numbers = None
            for x in range(0, strip.width, _BLOCK_COLUMNS):
                window = Window(strip.y, strip.x + x, strip.height, min(_BLOCK_COLUMNS, strip.width - x))
                painted = self._paint(window, instances=instances)
                columns = slice(x, x + window.width)
                labels = _put(labels, strip, columns, painted[0])
                if painted[1] is not None:
                    numbers = _put(numbers, strip, columns, painted[1])
            yield strip, labels, numbers

    def labels(self, window: Window) -> NDArray[Any]:
        """Return the class index of every pixel of a window inside the image, ``(h, w)``."""
        return self._paint(window, instances=False)[0]

    def instances(self, window: Window) -> NDArray[np.uint32]:
        """Return 1 + the row of the annotation of every pixel of a window, 0 for none, ``(h, w)``."""
        ys, xs = np.arange(window.y, window.y1), np.arange(window.x, window.x1)
        valid = None if self._valid is None else self._valid.read_valid(window)
        return instance_block(self._shapes, self._index, self.class_map, self._spec, ys, xs, valid)

    @property
    def has_whole_rows(self) -> bool:
        """Whether :meth:`strips` yields windows of the image's full width."""
        return self._plan().width >= self.shape[1]

    def _strips(self) -> Iterator[Window]:
        height, width = self.shape
        plan = self._plan()
        for y in range(0, height, plan.height):
            for x in range(0, width, plan.width):
                yield Window(y, x, min(plan.height, height - y), min(plan.width, width - x))

    def _plan(self) -> BlockPlan:
        source = self._base if self._base is not None else self._valid
        itemsize = 1 if self._base is None else self._base.dtype.itemsize
        # One byte on top for the valid mask.
        block = None if source is None else source_block(source)
        return plan_blocks((*self.shape, 1), itemsize + 1, block, _STRIP_BYTES)

    def _paint(self, window: Window, *, instances: bool) -> tuple[NDArray[Any], NDArray[np.uint32] | None]:
        ys, xs = np.arange(window.y, window.y1), np.arange(window.x, window.x1)
        valid = None if self._valid is None else self._valid.read_valid(window)
        base = None
        if self._base is not None:
            base = map_category_raster(self._base.read(window)[:, :, 0], self.class_map)
        common = (self._shapes, self._index, self.class_map, self._spec, ys, xs)
        labels = label_block(*common, base, valid)
        return labels, instance_block(*common, valid) if instances else None


def write_labels(
    folder: Path,
    shape: tuple[int, int],
    shapes: Shapes,
    class_map: ClassMap,
    label_spec: LabelSpec,
    *,
    base: Reader | None = None,
    valid: Reader | None = None,
    instances: bool = False,
    threads: int = 1,
    advance: Callable[[int], None] = lambda _pixels: None,
) -> WrittenFiles:
    """Write the label layer of an image as ``labels.tif``, and ``instances.tif`` on request.

    Levels are those of :func:`slidesampler.geometry.label_level_downsamples`, by decimation. Tiles without a
    label are left out of the file (they read as 0) and cost next to nothing; memory is bounded by block.

    Parameters
    ----------
    folder : Path
        Exists, and holds nothing of the names ``labels*`` and ``instances*``.
    shape : (int, int)
        ``(H, W)`` of the image.
    shapes, class_map, label_spec, base, valid
        See :class:`LabelSource`.
    instances : bool
        Also write uint32 1 + position of the annotation in the image's list, 0 where there is none.
    threads : int
        Threads that compress.
    advance : callable
        Told of level-0 pixels as they are done; they add up to ``H * W``.

    Raises
    ------
    ManifestError
        If an annotation or the base raster has a category that the class map does not have.
    BuildError
        If sizes disagree or a file cannot be written. Whatever is raised, no file of the layer is left.
    """
    source = LabelSource(shape, shapes, class_map, label_spec, base=base, valid=valid)
    levels = levels_of(*shape, label_level_downsamples(*shape))
    codec = auto_codec()
    files = {"labels": "labels.tif"} | ({"instances": "instances.tif"} if instances else {})
    dtypes = {"labels": class_map.dtype, "instances": np.dtype(np.uint32)}
    progress = Halves(shape[0] * shape[1], advance)
    with block_cache(), ExitStack() as stack:
        stack.push(partial(_remove_after_failure, folder))
        layers = {
            role: stack.enter_context(
                open_cog(
                    CogLayout(folder / name, levels, 1, dtypes[role], LABEL_TILE, codec, sparse=True),
                    threads=threads,
                    whole_rows=source.has_whole_rows,
                )
            )
            for role, name in files.items()
        }
        with layers["labels"].blamed_for_reads():
            for window, labels, numbers in source.strips(instances=instances):
                for role, strip in (("labels", labels), ("instances", numbers)):
                    if strip is not None:
                        _write_levels(layers[role], levels, window, strip)
                progress.first(window.height * window.width)
        for number, layer in enumerate(layers.values()):
            layer.finish(partial(_part_done, progress, number, len(layers)))
    progress.done()
    return WrittenFiles(
        files=files,
        shape=(*shape, 1),
        dtype=class_map.dtype.name,
        levels=levels,
        tile=LABEL_TILE,
        codec=codec,
        quality=None,
        lossless=True,
        has_valid=False,
    )


def _part_done(progress: Halves, number: int, count: int, share: float) -> None:
    progress.second((number + share) / count)


def _remove_after_failure(folder: Path, kind: type[BaseException] | None, *_: object) -> None:
    """Remove the layer that was finished before another one failed."""
    if kind is not None:
        remove_files(folder, "labels*", "instances*")


def _put(
    strip: NDArray[Any] | None, window: Window, columns: slice, block: NDArray[Any]
) -> NDArray[Any] | None:
    """Copy a block to its columns of a strip, which is made when there is something to put into it."""
    if not block.any():
        return strip
    if strip is None:
        strip = np.zeros(window.shape, block.dtype)
    strip[:, columns] = block
    return strip


def _write_levels(target: CogTarget, levels: tuple[Level, ...], window: Window, strip: NDArray[Any]) -> None:
    """Write a strip of level 0 and the pixels of every other level that show one of its own."""
    height, width = levels[0].height, levels[0].width
    for number, level in enumerate(levels):
        downsample = int(level.downsample[0])
        y, rows = decimation_part(height, downsample, window.y, window.y1)
        x, columns = decimation_part(width, downsample, window.x, window.x1)
        if len(rows) and len(columns):
            target.write(number, y, x, thin(strip, rows, columns)[:, :, None])
