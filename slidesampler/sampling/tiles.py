"""Orders of the tiles of a grid, for people who think ``image = i // S, tile = i % S``.

Here each image has its own number of tiles ``S``, and nothing is listed: which image and which tile stand at an
index is computed from prefix sums over the images.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.lazy import lazy_property
from slidesampler.rng import Draws
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.windows import TablesMadeAnew, checked_index
from slidesampler.target import Target

__all__ = ["ImageMajorTiles", "RandomTilePerImage", "TileMajorOrder", "TileMajorTiles"]


class TileMajorOrder:
    """Tile 0 of every image, then tile 1 of every image that has one, and so on; images in their order.

    Both directions cost O(log n) for ``n`` images, however many tiles they have.

    Parameters
    ----------
    counts : sequence of int
        Tiles of each image, at least 0.

    Notes
    -----
    Tile ``t`` begins at index ``sum(min(S, t))``, which is linear in ``t`` between neighbours in the sorted
    list of all ``S``: prefix sums over it and a binary search find the tile. The images that have it are the
    first ones in the list sorted by falling ``S``; the one at a rank among them, *in the images' own order*, is
    found by walking down the bits of the image's position.

    *Source:* the wavelet matrix and its ``quantile`` query, F. Claude, G. Navarro and A. Ordóñez, "The wavelet
    matrix: An efficient wavelet tree for large alphabets", Information Systems 47, 2015.

    Examples
    --------
    >>> order = TileMajorOrder([1, 3, 2])
    >>> [order.locate(i) for i in range(len(order))]
    [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    >>> order.index_of(1, 2)
    5
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = [operator.index(count) for count in counts]
        if any(count < 0 for count in self._counts):
            raise TargetError(f"an image cannot have {min(self._counts)} tiles")
        n = len(self._counts)
        # Numbers of tiles that occur, ascending; images that have more; index behind the last of those tiles.
        sizes, images = np.unique(np.array(self._counts, np.int64), return_counts=True)
        self._sizes: list[int] = sizes.tolist()
        self._more: list[int] = (n - np.cumsum(images)).tolist()
        rounds = np.diff(sizes, prepend=0) * (n - np.cumsum(images) + images)
        self._ends: list[int] = np.cumsum(rounds).tolist()
        # Positions of images by falling S, in their own order where equal.
        by_size = np.argsort(-np.array(self._counts, np.int64), kind="stable")
        self._bits = [1 << bit for bit in reversed(range(max(n - 1, 0).bit_length()))]
        self._zeros = _wavelet_matrix(by_size, self._bits)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Return ``(image, tile)`` at an index in ``[0, len(self))``; the image is its position."""
        at = bisect_right(self._ends, index)
        done, before = (self._sizes[at - 1], self._ends[at - 1]) if at else (0, 0)
        images = self._more[at - 1] if at else len(self._counts)
        tile, rank = divmod(index - before, images)
        return self._image_at(images, rank), done + tile

    def index_of(self, image: int, tile: int) -> int:
        """Return the index of a tile of an image; the inverse of :meth:`locate`.

        Raises
        ------
        IndexError
            If the image has no such tile.
        """
        if not 0 <= tile < self._counts[image]:
            raise IndexError(f"tile {tile} was asked for; image {image} has {self._counts[image]}")
        at = bisect_right(self._sizes, tile)
        done, before = (self._sizes[at - 1], self._ends[at - 1]) if at else (0, 0)
        images = self._more[at - 1] if at else len(self._counts)
        return before + (tile - done) * images + self._rank_of(images, image)

    def _image_at(self, images: int, rank: int) -> int:
        """Return the position that has a rank among those of the ``images`` largest images."""
        first, stop, position = 0, images, 0
        for bit, zeros in zip(self._bits, self._zeros, strict=True):
            a, b = zeros.item(first), zeros.item(stop)
            if rank < b - a:
                first, stop = a, b
            else:
                rank -= b - a
                below = zeros.item(-1)
                first, stop, position = below + first - a, below + stop - b, position | bit
        return position

    def _rank_of(self, images: int, position: int) -> int:
        """Return how many of the ``images`` largest images have a smaller position."""
        first, stop, rank = 0, images, 0
        for bit, zeros in zip(self._bits, self._zeros, strict=True):
            a, b = zeros.item(first), zeros.item(stop)
            if position & bit:
                rank += b - a
                below = zeros.item(-1)
                first, stop = below + first - a, below + stop - b
            else:
                first, stop = a, b
        return rank


def _wavelet_matrix(values: NDArray[np.int64], bits: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return for each bit, the highest first, how many zeros stand before each place."""
    tables = []
    for bit in bits:
        one = (values & bit) != 0
        tables.append(np.append(0, np.cumsum(~one)))
        values = np.concatenate((values[~one], values[one]))
    return tables


class _Tiles(TablesMadeAnew, ABC):
    """Base of orders of the tiles of a grid."""

    def __init__(self, grid: GridSource) -> None:
        self.grid = grid

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images, in the grid's order; those without a tile included."""
        return self.grid.image_ids

    @abstractmethod
    def __len__(self) -> int:
        """Return how many targets an epoch has."""

    @abstractmethod
    def _find(self, epoch: int, index: int) -> tuple[int, int]:
        """Return position of the image and tile at an index that was checked."""

    def locate(self, index: int, epoch: int = 0) -> tuple[int, int]:
        """Return ``(image_id, tile)`` at an index of an epoch.

        Tiles of an image are counted from 0 in the grid's order, row by row.

        Raises
        ------
        IndexError
            If the index is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        """
        image, tile = self._find(operator.index(epoch), checked_index(index, len(self)))
        return self._ids[image], tile

    def target(self, epoch: int, index: int) -> Target:
        """Return the target at ``index`` of an epoch; see :meth:`TargetSource.target`.

        The grid's target, with ``index`` counted in this order.

        Raises
        ------
        IndexError
            If ``index`` is not in ``[0, len(self))``.
        TypeError
            If ``epoch`` or ``index`` is not a whole number.
        """
        epoch, index = operator.index(epoch), checked_index(index, len(self))
        image, tile = self._find(epoch, index)
        return self.grid.target(epoch, self._starts[image] + tile).with_fields(index=index)

    def _place(self, image_id: int, tile: int) -> int:
        """Return the position of an image that has a tile."""
        try:
            image = self._places[image_id]
        except KeyError:
            raise TargetError(f"the grid has no image {image_id}") from None
        if not 0 <= tile < self._counts[image]:
            raise IndexError(f"tile {tile} was asked for; image {image_id} has {self._counts[image]}")
        return image

    @lazy_property
    def _ids(self) -> tuple[int, ...]:
        return self.grid.image_ids

    @lazy_property
    def _places(self) -> dict[int, int]:
        return {image_id: place for place, image_id in enumerate(self._ids)}

    @lazy_property
    def _counts(self) -> tuple[int, ...]:
        return self.grid.tile_counts

    @lazy_property
    def _starts(self) -> list[int]:
        """Index of each image's first tile in the grid, and its length."""
        return [0, *accumulate(self._counts)]


class ImageMajorTiles(_Tiles):
    """All tiles of image 0, then all of image 1, and so on: ``image = i // S, tile = i % S`` where all have S.

    Parameters
    ----------
    grid : GridSource

    Notes
    -----
    The targets are the grid's own, in its own order; this adds :meth:`locate` and :meth:`index_of`.
    """

    def __len__(self) -> int:
        return len(self.grid)

    def _find(self, epoch: int, index: int) -> tuple[int, int]:  # noqa: ARG002  (the same in every epoch)
        image = bisect_right(self._starts, index) - 1
        return image, index - self._starts[image]

    def index_of(self, image_id: int, tile: int) -> int:
        """Return the index of a tile of an image; the inverse of ``locate``.

        Raises
        ------
        TargetError
            If the grid does not have the image.
        IndexError
            If the image has no such tile.
        """
        return self._starts[self._place(image_id, tile)] + tile


class TileMajorTiles(_Tiles):
    """Tile 0 of every image, then tile 1 of every image that has one, and so on; images in the grid's order.

    ``tile = i // n, image = i % n`` where all have the same number of tiles. Consecutive targets are of
    different images, and the first ``n`` of an epoch show every image once.

    Parameters
    ----------
    grid : GridSource

    See Also
    --------
    TileMajorOrder : the arithmetic, for numbers of tiles of your own.
    """

    def __len__(self) -> int:
        return len(self.grid)

    def _find(self, epoch: int, index: int) -> tuple[int, int]:  # noqa: ARG002  (the same in every epoch)
        return self._order.locate(index)

    def index_of(self, image_id: int, tile: int) -> int:
        """Return the index of a tile of an image; the inverse of ``locate``.

        Raises
        ------
        TargetError
            If the grid does not have the image.
        IndexError
            If the image has no such tile.
        """
        return self._order.index_of(self._place(image_id, tile), tile)

    @lazy_property
    def _order(self) -> TileMajorOrder:
        return TileMajorOrder(self._counts)


class RandomTilePerImage(_Tiles):
    """One tile of every image an epoch, drawn uniformly from its tiles, anew in every epoch.

    Images count the same whatever their size. They come in the grid's order; those without a tile (a restricted
    grid may leave none) are left out.

    Parameters
    ----------
    grid : GridSource
    seed : int
        Same seed, same tiles.
    """

    def __init__(self, grid: GridSource, seed: int = 0) -> None:
        super().__init__(grid)
        self.seed = operator.index(seed)
        self._length = sum(count > 0 for count in grid.tile_counts)

    def __len__(self) -> int:
        return self._length

    def _find(self, epoch: int, index: int) -> tuple[int, int]:
        image = self._used[index]
        return image, Draws(self.seed, epoch, index, "tile").below(self._counts[image])

    def index_of(self, image_id: int) -> int:
        """Return the index at which an image stands, in every epoch.

        Raises
        ------
        TargetError
            If the grid does not have the image.
        IndexError
            If the image has no tile.
        """
        return bisect_right(self._used, self._place(image_id, 0)) - 1

    @lazy_property
    def _used(self) -> list[int]:
        """Positions of the images that have a tile."""
        return [image for image, count in enumerate(self._counts) if count]
