"""``dataset_statistics``: what there is to sample from, and what windows at random places would hold."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.foreground import ForegroundIndex
from slidesampler.geometry import Window, ceil_size
from slidesampler.models import NO_CATEGORY
from slidesampler.rng import rng_for
from slidesampler.sampling.advice import advise
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.judge import class_counts
from slidesampler.sampling.pairs import checked_pair
from slidesampler.sampling.seen import slot_grid
from slidesampler.sampling.survey_results import (
    ClassStatistics,
    DatasetStatistics,
    Estimate,
    ImageStatistics,
)
from slidesampler.sampling.windows import checked_count

__all__ = ["dataset_statistics"]

#: Windows that every image with tissue gets at least, and that are looked at where none without foreground was
#: among them.
MIN_DRAWS, SEARCH_DRAWS = 4, 200


def dataset_statistics(
    sampler: SourceSampler,
    size: int | tuple[int, int] = 256,
    *,
    downsample: float = 1.0,
    threshold: int = 1000,
    draws: int = 4000,
    seed: int = 0,
) -> DatasetStatistics:
    """Return what there is to sample from, and what windows at random places would hold.

    Everything but the estimates is counted, from the foreground index. The windows drawn for these lie around
    pixels of the tissue, each as likely, moved into the image where they overhang it.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Of the windows, ``(height, width)``, output pixels.
    downsample : float
        Level-0 pixels per output pixel.
    threshold : int
        Level-0 pixels of foreground that are enough; 1000 is PyTorch Connectomics' word.
    draws : int
        Windows in all, dealt out by tissue; every image with tissue gets at least four. About 0.1 ms each.
    seed : int
        Same seed, same windows.

    Raises
    ------
    TargetError, ValueError
        For a size, downsample or number below 1.
    """
    height, width = checked_pair("size", size, 1)
    if not downsample >= 1:
        raise ValueError(f"downsample must be at least 1 (full resolution), got {downsample!r}")
    extent = ceil_size(height * downsample), ceil_size(width * downsample)
    if operator.index(threshold) < 1:
        raise ValueError(f"threshold is a number of pixels, at least 1, got {threshold}")
    index = sampler.foreground
    drawn = _draw_all(sampler, index, extent, checked_count(draws), seed)
    tissue = index.pixels[:, index.tissue_slot]
    weights = tissue / max(int(tissue.sum()), 1)
    areas = index.sizes.prod(axis=1)
    total = max(int(areas.sum()), 1)
    foreground = index.pixels[:, 1 : index.n_classes].sum(axis=1)
    found = DatasetStatistics(
        size=extent,
        drawn=int(drawn.counts.sum()),
        classes=_classes(sampler, index, drawn, weights),
        images=_images(sampler, index, drawn, extent, seed),
        valid_share=int(index.pixels[:, 0].sum()) / total,
        tissue_share=int(tissue.sum()) / total,
        foreground_share=int(foreground.sum()) / total,
        any_foreground=_estimate(drawn, (drawn.foreground > 0), weights),
        enough_foreground=_estimate(drawn, (drawn.foreground >= threshold), weights),
        threshold=threshold,
        warnings=(),
    )
    return replace(found, warnings=advise(found))


class _Drawn(NamedTuple):
    """Random windows: image by image."""

    #: How many each image has, and the row of each window.
    counts: NDArray[np.int64]
    rows: NDArray[np.int64]
    #: Pixels of each class index, int64 ``(n, n_classes)``.
    classes: NDArray[np.int64]

    @property
    def foreground(self) -> NDArray[np.int64]:
        summed: NDArray[np.int64] = self.classes[:, 1:].sum(axis=1)
        return summed


def _draw_all(
    sampler: SourceSampler, index: ForegroundIndex, extent: tuple[int, int], draws: int, seed: int
) -> _Drawn:
    tissue = index.pixels[:, index.tissue_slot]
    share = tissue / max(int(tissue.sum()), 1)
    counts = np.where(tissue > 0, np.maximum(np.rint(draws * share), MIN_DRAWS), 0).astype(np.int64)
    classes = [
        found
        for row, count in enumerate(counts.tolist())
        for found in _draw_image(sampler, index, row, extent, count, seed)
    ]
    table = np.array(classes, np.int64).reshape(-1, index.n_classes)
    return _Drawn(counts, np.repeat(np.arange(len(counts)), counts), table)


def _draw_image(
    sampler: SourceSampler,
    index: ForegroundIndex,
    row: int,
    extent: tuple[int, int],
    count: int,
    seed: int,
    stream: str = "statistics",
) -> list[NDArray[np.int64]]:
    """Return the class counts of ``count`` windows of one image."""
    if not count:
        return []
    image_id = int(index.image_ids[row])
    tissue = int(index.pixels[row, index.tissue_slot])
    ranks = rng_for(seed, index=image_id, stream=stream).integers(tissue, size=count).tolist()
    out = []
    for rank in ranks:
        window = _around(index.place(row, index.tissue_slot, rank), extent, index.sizes[row].tolist())
        out.append(class_counts(sampler, image_id, window, index=index).counts)
    return out


def _around(place: tuple[int, int], extent: tuple[int, int], image: list[int]) -> Window:
    starts = []
    for at, length, limit in zip(place, extent, image, strict=True):
        slack = limit - length
        starts.append(min(max(at - length // 2, min(slack, 0)), max(slack, 0)))
    return Window(starts[0], starts[1], *extent)


def _estimate(drawn: _Drawn, hit: NDArray[np.bool_], weights: NDArray[np.float64]) -> Estimate:
    """Return the share of windows, every image weighted by its tissue.

    The error is that of simple random draws; dealing the draws out to images makes it smaller, if anything.
    """
    hits = np.bincount(drawn.rows, hit, minlength=len(drawn.counts))
    there = drawn.counts > 0
    if not there.any():
        return Estimate(0.0, 0.0)
    share = float((weights[there] * hits[there] / drawn.counts[there]).sum())
    n = 1 / float((weights[there] ** 2 / drawn.counts[there]).sum())
    share = min(max(share, 0.0), 1.0)
    return Estimate(share, math.sqrt(share * (1 - share) / n) or 1 / n)


def _classes(
    sampler: SourceSampler, index: ForegroundIndex, drawn: _Drawn, weights: NDArray[np.float64]
) -> tuple[ClassStatistics, ...]:
    names, shapes = sampler.class_map.names, sampler.manifest.shapes
    known = max(int(index.pixels[:, 0].sum()), 1)
    # Class index of every annotation, by its category.
    ids, where = np.unique(shapes.category_ids, return_inverse=True)
    codes = [-1 if one == NO_CATEGORY else sampler.class_map.index_of(one) for one in ids.tolist()]
    of_annot = np.array(codes, np.int64)[where] if len(ids) else np.zeros(0, np.int64)
    out = []
    for number in range(1, len(names)):
        areas = shapes.areas[of_annot == number]
        pixels = index.pixels[:, number]
        area = (float(areas.min()), float(np.median(areas)), float(areas.max())) if len(areas) else None
        out.append(
            ClassStatistics(
                class_index=number,
                name=names[number],
                annotations=len(areas),
                images=int((pixels > 0).sum()),
                pixels=int(pixels.sum()),
                pixel_share=int(pixels.sum()) / known,
                area_px=area,
                window_share=_estimate(drawn, drawn.classes[:, number] > 0, weights),
            )
        )
    return tuple(out)


def _images(
    sampler: SourceSampler, index: ForegroundIndex, drawn: _Drawn, extent: tuple[int, int], seed: int
) -> tuple[ImageStatistics, ...]:
    free = np.bincount(drawn.rows, drawn.foreground == 0, minlength=len(drawn.counts)).tolist()
    pixels = index.pixels
    out = []
    for row, (image_id, count) in enumerate(zip(index.image_ids.tolist(), drawn.counts.tolist(), strict=True)):
        height, width = index.sizes[row].tolist()
        area = max(height * width, 1)
        share, negatives = (free[row] / count, "yes") if count else (None, "yes")
        if not share:
            share, negatives = _search(sampler, index, row, extent, seed)
        out.append(
            ImageStatistics(
                image_id=image_id,
                name=sampler.image_record(image_id).name,
                height=height,
                width=width,
                annotations=len(sampler.manifest.shapes_of(image_id)),
                valid_share=int(pixels[row, 0]) / area,
                tissue_share=int(pixels[row, index.tissue_slot]) / area,
                foreground_share=int(pixels[row, 1 : index.n_classes].sum()) / area,
                free_share=share if count else None,
                tries=1 / share if share else None,
                negatives=negatives,
            )
        )
    return tuple(out)


def _search(
    sampler: SourceSampler, index: ForegroundIndex, row: int, extent: tuple[int, int], seed: int
) -> tuple[float, str]:
    """Return the share of windows without foreground where the first few had it all, and what that means."""
    if not _is_possible(index, row, extent):
        return 0.0, "impossible"
    count = SEARCH_DRAWS if index.pixels[row, index.tissue_slot] else 0
    found = _draw_image(sampler, index, row, extent, count, seed, "search")
    free = sum(not counts[1:].any() for counts in found)
    return (free / count, "yes") if free else (0.0, "none found")


def _is_possible(index: ForegroundIndex, row: int, extent: tuple[int, int]) -> bool:
    """Return whether there is room for a window without foreground; True where the index cannot tell.

    A window of ``h`` rows holds at least ``(h + 1) // cell - 1`` whole rows of cells, wherever it lies; all of
    these have to be free, in one block. Smaller windows need one cell that is not full.
    """
    cell = int(index.columns.cells[row])
    height, width = index.sizes[row].tolist()
    if not index.pixels[row, index.tissue_slot]:
        return False
    grid = sum(slot_grid(index, row, slot, cell) for slot in range(1, index.n_classes))
    if not isinstance(grid, np.ndarray):
        return True
    rows, columns = grid.shape
    deep, wide = (
        min(max((length + 1) // cell - 1, 0), cells, side // cell)
        for length, side, cells in zip(extent, (height, width), (rows, columns), strict=True)
    )
    if not deep or not wide:
        ys, xs = (np.minimum(np.arange(n + 1) * cell, side) for n, side in ((rows, height), (columns, width)))
        return bool((grid < np.outer(np.diff(ys), np.diff(xs))).any())
    taken = np.pad((grid > 0).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    blocks = taken[deep:, wide:] - taken[:-deep, wide:] - taken[deep:, :-wide] + taken[:-deep, :-wide]
    return bool((blocks == 0).any())
