"""``KeptPositions``: which positions of the grids of many images are kept, one bit each."""

from __future__ import annotations

import zlib
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeptPositions"]

#: Bits that are 1 in every byte.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.int64)


class KeptPositions:
    """A bit a position, and the number of kept positions up to each row of each grid.

    Finding the position of an index costs a binary search and one row of bits.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Rows and columns of the grid of each image.
    bits : uint8
        Row by row as :func:`numpy.packbits` has them, each row padded to whole bytes.

    Examples
    --------
    >>> kept = KeptPositions([(2, 3)], np.packbits([[0, 1, 1], [1, 0, 0]], axis=1).reshape(-1))
    >>> [kept.locate(i) for i in range(kept.total)], kept.index_of(0, 1, 0), kept.index_of(0, 0, 0)
    ([(0, 0, 1), (0, 0, 2), (0, 1, 0)], 2, None)
    """

    def __init__(self, shapes: list[tuple[int, int]], bits: NDArray[np.uint8]) -> None:
        rows = np.array([shape[0] for shape in shapes], np.int64)
        row_bytes = np.array([-(-shape[1] // 8) for shape in shapes], np.int64)
        self.bits = bits
        self._row_bytes: list[int] = row_bytes.tolist()
        self._first_rows: list[int] = np.append(0, np.cumsum(rows)).tolist()
        self._first_bytes: list[int] = np.append(0, np.cumsum(rows * row_bytes)).tolist()
        starts = np.append(0, np.cumsum(np.repeat(row_bytes, rows))[:-1])
        #: Kept positions up to and with each row, over all images.
        self._stops = np.cumsum(np.add.reduceat(_ONES[bits], starts))
        self.total = int(self._stops[-1])

    def image_stops(self) -> list[int]:
        """Return the number of kept positions up to and with each image."""
        stops: list[int] = self._stops[np.array(self._first_rows[1:]) - 1].tolist()
        return stops

    def locate(self, index: int) -> tuple[int, int, int]:
        """Return image (its position), row and column of kept position ``index``, in ``[0, total)``."""
        line = int(self._stops.searchsorted(index, "right"))
        image = bisect_right(self._first_rows, line) - 1
        row = line - self._first_rows[image]
        rank = index - int(self._stops[line - 1]) if line else index
        return image, row, int(self._row(image, row).nonzero()[0][rank])

    def index_of(self, image: int, row: int, column: int) -> int | None:
        """Return which kept position a position of an image's grid is; None where it is not kept."""
        bits = self._row(image, row)
        if not bits[column]:
            return None
        line = self._first_rows[image] + row
        return (int(self._stops[line - 1]) if line else 0) + int(np.count_nonzero(bits[:column]))

    def _row(self, image: int, row: int) -> NDArray[np.uint8]:
        start = self._first_bytes[image] + row * self._row_bytes[image]
        return np.unpackbits(self.bits[start : start + self._row_bytes[image]])

    def pack(self, limit: int | None = None) -> bytes | None:
        """Return the bits compressed; None where they take more than ``limit`` bytes."""
        # Bits compress a thousandfold at most.
        if limit is not None and len(self.bits) > 1000 * limit:
            return None
        packed = zlib.compress(self.bits.tobytes(), 6)
        return packed if limit is None or len(packed) <= limit else None

    @classmethod
    def unpack(cls, shapes: list[tuple[int, int]], packed: bytes) -> KeptPositions:
        """Return the positions that :meth:`pack` gave."""
        return cls(shapes, np.frombuffer(zlib.decompress(packed), np.uint8))
