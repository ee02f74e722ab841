"""Drawing the pixels of an image in proportion to a map of weights, at any resolution of the map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers import Reader
from slidesampler.rng import Draws
from slidesampler.sampling.choice import WeightedChoice
from slidesampler.sampling.map_files import MapRows

__all__ = ["MapAxis", "WeightMap", "changed"]

#: Map pixels in a row whose weights are summed: of each sum one number is kept.
BLOCK_PX = 256
#: A map is looked at in strips of about this many pixels.
STRIP_PIXELS = 1 << 22


class MapAxis(NamedTuple):
    """Which pixels of an image each row (or column) of a map stands for."""

    #: Pixels of the image.
    length: int
    #: Pixels of the map.
    pixels: int
    #: Pixels of the image in one of the map; 0 where the map is stretched over the image.
    whole: int

    @property
    def even(self) -> bool:
        """Whether each one stands for equally many."""
        return self.length == self.pixels * (self.whole or self.length // self.pixels)

    def bounds(self, at: int) -> tuple[int, int]:
        """Return the first pixel of the image, and the one after the last."""
        if not self.whole:
            return at * self.length // self.pixels, (at + 1) * self.length // self.pixels
        return at * self.whole, self.length if at == self.pixels - 1 else (at + 1) * self.whole

    def sizes(self) -> NDArray[np.float64]:
        """Return how many pixels of the image each of the map's stands for, float64 ``(pixels,)``."""
        edges = np.arange(self.pixels + 1)
        edges = edges * self.whole if self.whole else edges * self.length // self.pixels
        edges[-1] = self.length
        return np.diff(edges).astype(np.float64)


class WeightMap(NamedTuple):
    """One map, with the sums that make drawing from it fast: a number for 256 of its pixels."""

    rows: MapAxis
    columns: MapAxis
    #: Which block of a row, counted row by row; None where all weights are 0.
    blocks: WeightedChoice | None
    #: Pixels of the image that each column stands for; None where they are equally many.
    widths: NDArray[np.float64] | None
    #: Sum over the pixels of the image.
    total: float
    #: Whether some weights are unknown.
    gaps: bool

    @classmethod
    def of(cls, reader: Reader, lengths: tuple[int, int], what: str) -> WeightMap:
        """Read a map once.

        Parameters
        ----------
        reader : Reader
        lengths : (int, int)
            Height and width of the image.
        what : str
            What it is the map of, for messages.

        Raises
        ------
        SamplingError
            For a map of several channels, of another shape than the image, with more pixels than the image, or
            with a weight that is negative or infinite.
        """
        rows, columns = _axes(reader, lengths, what)
        heights, widths = rows.sizes(), columns.sizes()
        starts = np.arange(0, columns.pixels, BLOCK_PX)
        sums = np.empty((rows.pixels, len(starts)))
        step = max(1, STRIP_PIXELS // columns.pixels)
        gaps = False
        for y in range(0, rows.pixels, step):
            strip = Window(y, 0, min(step, rows.pixels - y), columns.pixels)
            weights, unknown = _weights(reader, strip, what)
            gaps |= unknown
            with np.errstate(over="ignore"):
                sums[y : y + step] = np.add.reduceat(weights * widths, starts, axis=1)
        with np.errstate(over="ignore"):
            sums *= heights[:, None]
            total = float(sums.sum())
        if not np.isfinite(total):
            raise SamplingError(f"{what}: the weights are too large to be summed; scale them down")
        blocks = WeightedChoice(sums.reshape(-1), "pixel of the map") if total > 0 else None
        return cls(rows, columns, blocks, None if columns.even else widths, total, gaps)

    def draw(self, draws: Draws, pixels: MapRows, what: str) -> tuple[int, int]:
        """Return a pixel ``(y, x)`` of the image, with a chance in proportion to its weight.

        Reads one block of the map.

        Raises
        ------
        SamplingError
            If the map is not what it was.
        """
        assert self.blocks is not None
        count = self.columns.pixels
        row, block = divmod(self.blocks.draw(draws), -(-count // BLOCK_PX))
        start = block * BLOCK_PX
        stop = min(start + BLOCK_PX, count)
        weights = pixels.read(row, start, stop).astype(np.float64)
        if self.gaps:
            weights[np.isnan(weights)] = 0.0
        if self.widths is not None:
            weights *= self.widths[start:stop]
        stops = weights.cumsum()
        total = stops.item(-1)
        if not total > 0:
            raise changed(what)
        # Rounding may put the draw at the end of all; the last pixel that weighs anything is meant then.
        found = stops.searchsorted(draws.uniform() * total, "right").item()
        if found == len(stops):
            found = stops.searchsorted(total).item()
        y, y1 = self.rows.bounds(row)
        x, x1 = self.columns.bounds(start + found)
        return draws.between(y, y1 - 1), draws.between(x, x1 - 1)


def changed(what: str) -> SamplingError:
    """Return the error that a map is not what it was."""
    return SamplingError(f"{what} was changed after the source was made; make the source again")


def _axes(reader: Reader, lengths: tuple[int, int], what: str) -> tuple[MapAxis, MapAxis]:
    (height, width), (rows, columns, channels) = lengths, reader.shape
    if channels != 1:
        raise SamplingError(f"{what} has {channels} channels; a map has one weight a pixel")
    if rows > height or columns > width:
        raise SamplingError(
            f"{what} has {rows} x {columns} pixels, more than the image ({height} x {width}); give one of at "
            "most its size"
        )
    # One scale explains both sides, to within a pixel of the map that was rounded away.
    least = max(height / (rows + 1), width / (columns + 1))
    most = min(height / max(rows - 1, 1e-9), width / max(columns - 1, 1e-9))
    if least >= most:
        raise SamplingError(
            f"{what} has {rows} x {columns} pixels, which is not the shape of the image ({height} x {width}); "
            "a map covers the whole image at one scale"
        )
    scale = Level.of((height, width), (rows, columns)).downsample
    whole = int(scale[0]) if scale[0] == scale[1] and scale[0].is_integer() else 0
    return MapAxis(height, rows, whole), MapAxis(width, columns, whole)


def _weights(reader: Reader, window: Window, what: str) -> tuple[NDArray[np.float64], bool]:
    """Return the weights of a window of a map, ``(h, w)``, and whether some are unknown: those are 0."""
    weights = reader.read(window)[..., 0].astype(np.float64)
    unknown = np.isnan(weights)
    if reader.has_valid:
        unknown |= ~reader.read_valid(window)
    gaps = bool(unknown.any())
    if gaps:
        weights[unknown] = 0.0
    if weights.min() < 0 or weights.max() == np.inf:
        y, x = np.argwhere((weights < 0) | (weights == np.inf))[0].tolist()
        raise SamplingError(
            f"{what} holds {weights[y, x]} at row {window.y + y}, column {window.x + x}; weights are finite "
            "and at least 0"
        )
    return weights, gaps
