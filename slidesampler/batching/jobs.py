"""What the compiled reader is asked for: boxes of levels, gathered into as few jobs as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers import NativePart
from slidesampler.readers.tile_index import TiledLevel
from slidesampler.readers.tile_read import TileJob, read_jobs

__all__ = ["BatchJobs"]


_ALL = (slice(None), slice(None))


class _Job:
    """Boxes that fill one array from files of one dtype and number of samples."""

    def __init__(self, samples: tuple[int, ...], out: NDArray[Any]) -> None:
        self.samples = samples
        self.out = out
        self.levels: list[TiledLevel] = []
        self.owners: list[str] = []
        self._numbers: dict[int, int] = {}
        self._boxes: list[tuple[int, int, int, int, int, int]] = []

    def add(self, tiled: TiledLevel, windows: Sequence[Window], slots: Sequence[int], owner: str) -> None:
        number = self._numbers.get(id(tiled.level))
        if number is None:
            number = self._numbers[id(tiled.level)] = len(self.levels)
            self.levels.append(tiled)
            self.owners.append(owner)
        self._boxes += [
            (number, slot, window.y, window.x, window.height, window.width)
            for slot, window in zip(slots, windows, strict=True)
        ]

    def tile_job(self) -> TileJob:
        return TileJob(self.levels, np.array(self._boxes, np.int64), self.samples, self.out)


class _Copy(NamedTuple):
    """A part of what was read beside the output, and where it belongs."""

    beside: NDArray[Any]
    out: NDArray[Any]
    where: tuple[int, slice, slice]


class BatchJobs:
    """Gathers windows and reads them all at once."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[Any, ...], _Job] = {}
        #: Arrays of another dtype than the output's, by output and dtype: read there, then converted.
        self._beside: dict[tuple[int, np.dtype[Any]], NDArray[Any]] = {}
        self._copies: list[_Copy] = []

    def add(
        self,
        part: NativePart,
        windows: Sequence[Window],
        out: NDArray[Any],
        slots: Sequence[int],
        owner: str,
        *,
        samples: tuple[int, ...] | None = None,
        inside: tuple[slice, slice] = _ALL,
    ) -> None:
        """Enter windows of a level.

        Parameters
        ----------
        part : NativePart
        windows : sequence of Window
            Pixels of the level, of the size of the output; what of them lies outside is left as it is.
        out : ndarray (n, H, W, C)
            Numbers are converted where it is of another dtype; not 0 becomes True in a bool array.
        slots : sequence of int
            Their places in ``out``.
        owner : str
            What is read, for messages.
        samples : tuple of int, optional
            Of the file; the part's own where None.
        inside : (slice, slice)
            The rows and columns of the output that are inside; only matters where numbers are converted.
        """
        if part.used is not None:
            part.used(windows[0], len(windows))
        samples = part.samples if samples is None else samples
        tiled = part.tiled
        if tiled.dtype != out.dtype:
            beside = self._beside.get((id(out), tiled.dtype))
            if beside is None:
                beside = self._beside[id(out), tiled.dtype] = np.empty(out.shape, tiled.dtype)
            self._copies += [_Copy(beside, out, (slot, *inside)) for slot in slots]
            out = beside
        # The arrays are kept by the jobs, so that no id is given to a second one.
        key = (id(out), samples, tiled.samples, tiled.dtype)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(samples, out)
        job.add(tiled, windows, slots, owner)

    def run(self, threads: int) -> None:
        """Read everything.

        Raises
        ------
        ReadError
            If a tile cannot be read; the arrays then hold anything.
        """
        if not self._jobs:
            return
        jobs = list(self._jobs.values())
        failed = read_jobs([job.tile_job() for job in jobs], threads)
        if failed is not None:
            number, level, what = failed
            raise ReadError(f"{jobs[number].owners[level]}: {what}")
        for beside, out, where in self._copies:
            out[where] = beside[where]
