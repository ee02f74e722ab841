"""Windows of many levels at once, by the compiled reader."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler import _native
from slidesampler.geometry import Window
from slidesampler.readers.base import NativePart
from slidesampler.readers.tile_index import TiledLevel

__all__ = ["TileJob", "read_jobs", "read_tiles", "read_window"]


class TileJob(NamedTuple):
    """Windows that fill one array."""

    #: All of one dtype and number of samples.
    levels: list[TiledLevel]
    #: ``(n, 6)``, C order: level, slot, y, x, height, width. In pixels of the level; a box may overhang its
    #: level, and what lies outside stays as it is in ``out``. All are of the height and width of ``out``.
    boxes: NDArray[np.int64]
    #: Samples of the file.
    channels: tuple[int, ...]
    #: ``(N, h, w, C)`` of the levels' dtype, any strides: a box fills ``out[slot]``.
    out: NDArray[Any]


def read_jobs(jobs: Sequence[TileJob], threads: int = 1) -> tuple[int, int, str] | None:
    """Fill the arrays of all jobs, which share the threads.

    A tile is read and decoded once, whatever number of boxes and jobs want of it; levels are the same where
    they are the same object.

    Parameters
    ----------
    jobs : sequence of TileJob
    threads : int

    Returns
    -------
    (int, int, str) or None
        Job and level of a tile that cannot be read, and what is wrong with which tile; the arrays may then
        hold anything. None where all is well.

    Raises
    ------
    ValueError
        If a job asks for what its levels or its array do not have.
    """
    assert _native.tiles is not None
    failed = _native.tiles.read(
        [([level.level for level in job.levels], job.boxes, _as_int32(job.channels), job.out) for job in jobs],
        threads,
    )
    if failed is None:
        return None
    job, level, tile, message = failed
    row, column = divmod(tile, jobs[job].levels[level].grid[1])
    return job, level, f"tile ({row}, {column}): {message}"


@lru_cache
def _as_int32(channels: tuple[int, ...]) -> NDArray[np.int32]:
    return np.array(channels, np.int32)


def read_tiles(
    levels: list[TiledLevel],
    which: NDArray[np.int64],
    windows: list[Window],
    channels: tuple[int, ...],
    out: NDArray[Any],
    threads: int = 1,
) -> tuple[int, str] | None:
    """Fill ``out`` with windows of levels, one after the other.

    Parameters
    ----------
    levels : list of TiledLevel
        All of one dtype and number of samples.
    which : int64 (n,)
        Level of each window.
    windows : list of Window
        In pixels of their level, all of one size; what lies outside the level is left as it is in ``out``.
    channels : tuple of int
        Samples of the file.
    out : ndarray (n, h, w, C), any strides
    threads : int

    Returns
    -------
    (int, str) or None
        Which level has a tile that cannot be read, and what is wrong with which tile; ``out`` may then hold
        anything. None where all is well.
    """
    boxes = np.empty((len(windows), 6), np.int64)
    boxes[:, 0] = which
    for slot, (row, window) in enumerate(zip(boxes, windows, strict=True)):
        row[1:] = slot, window.y, window.x, window.height, window.width
    failed = read_jobs([TileJob(levels, boxes, channels, out)], threads)
    return None if failed is None else failed[1:]


def read_window(parts: Sequence[NativePart], window: Window) -> list[NDArray[Any]] | None:
    """Return a window of several parts, each as a new array ``(h, w, C)``, read in one call.

    Parameters
    ----------
    parts : sequence of NativePart
    window : Window
        In pixels of their levels; lies inside all of them.

    Returns
    -------
    list of ndarray or None
        None where one of them cannot be read.
    """
    assert _native.tiles is not None
    height, width = window.height, window.width
    box = np.array((0, 0, window.y, window.x, height, width), np.int64)
    arrays, jobs = [], []
    for part in parts:
        if part.used is not None:
            part.used(window)
        array = np.empty((height, width, len(part.samples)), part.tiled.dtype)
        arrays.append(array)
        jobs.append(([part.tiled.level], box, _as_int32(part.samples), array[None]))
    return arrays if _native.tiles.read(jobs, 1) is None else None
