"""Every window of a regular grid, for validation and inference, or those of a region or kind."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import Window
from slidesampler.lazy import lazy_property
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.categories import foreground_classes
from slidesampler.sampling.grid_axis import Edge, GridAxis, checked_edge, scaled_step
from slidesampler.sampling.grid_kept import KeptPositions
from slidesampler.sampling.grid_regions import IndexRegion, MaskRegion, Region
from slidesampler.sampling.grid_roi import Roi, parse_roi
from slidesampler.sampling.grid_rule import KINDS, Condition, GridFilter, TileRule, checked_share
from slidesampler.sampling.pairs import checked_pair
from slidesampler.sampling.shape import WindowShape, image_sizes
from slidesampler.sampling.windows import WindowSource, checked_index
from slidesampler.target import Target

__all__ = ["GridSource"]

#: Which positions are kept travels with a pickle where it takes no more bytes; else workers find out again.
PACKED_BYTES = 32 * 1024
#: Rows of grids whose windows' states are remembered; a byte a window.
MAX_ROWS = 4096

Where: TypeAlias = Literal["tissue"] | Mapping[int, NDArray[Any] | str | os.PathLike[str]]


class GridSource(WindowSource):
    """Windows that cover images row by row, all of them or those of a region.

    The order is image by image as ``image_ids`` has them, then row by row, then left to right. No list of
    windows is kept, window ``index`` is computed from ``index``: a grid over 10,000 slides costs a few numbers
    each, and one bit a position more where it is restricted. An image smaller than a window gets one window
    that overhangs it below and to the right.

    Each target has ``owned``, the rectangle that it alone stands for: neighbours are cut in the middle of what
    they share. The owned rectangles of a whole grid partition every image (with gaps, ``stride > size``, a
    window owns itself and the gaps are nobody's). A restricted grid has the same rectangles, less those of
    windows that are left out.

    Parameters
    ----------
    sampler : Sampler
    size : int or (int, int)
        Output pixels, ``(height, width)``.
    stride : int or (int, int), optional
        Output pixels from one window to the next; ``size`` where None, so that windows touch. A stride larger
        than the size leaves gaps.
    overlap : int or (int, int), optional
        Output pixels that neighbours share, less than ``size``; another way to say ``stride = size - overlap``.
    edge : {"shift", "pad", "even"}
        The last window of each row and column is tucked in at the edge (``"shift"``); or overhangs it
        (``"pad"``); or all are spread evenly, at most a stride apart (``"even"``).
    where : "tissue" or mapping of int to (ndarray or path), optional
        Keep windows on tissue, or where a mask is not 0: a 2-D array of bool or integers per image, of any
        resolution, stretched over the image; or the path of a ``.npy`` of such (then it is mapped, and nothing
        but the path travels to workers).
    roi : str, int, mapping or iterable of these, optional
        Keep windows in regions of interest, the union of what is given: words for categories whose annotations
        are the regions (whatever is painted over them), and polygons by image id, each ``(n, 2)`` of ``(x, y)``
        in level-0 pixels or a sequence of such rings, the exterior first, then holes. An image without region
        has no windows.
    min_inside : float
        Share, 0 to 1, of a window's part inside the image that must be in ``where``, and in ``roi``; where 0,
        one pixel is enough.
    min_tissue : float
        Share, 0 to 1, of a window's part inside the image that must be tissue.
    classify : TileRule or True, optional
        Tell positives, negatives and ignored windows apart, by the pixels of the mask; True is ``TileRule()``.
    only : str or iterable of str, optional
        Keep windows that are ``"positive"``, ``"negative"`` or ``"ignored"``, by ``classify``.
    image_ids : iterable of int, optional
        All images where None.
    downsample, mpp : float, optional
        Output pixel size, in level-0 pixels or in micrometres.
    how : Target or mapping, optional
        ``channels``, ``dtype``, ``nodata``, ``padding`` of every target.

    Raises
    ------
    TargetError
        For a stride below 1, an overlap of the whole window, an unknown edge or kind, a share outside 0 to 1, a
        mask or polygon that is none, an image without mask, or a word or image that the manifest has not.
    SamplingError
        If no window is kept.

    Notes
    -----
    The targets have ``kind="grid"``; with ``classify`` ``"grid-positive"``, ``"grid-negative"`` or
    ``"grid-ignored"``. The grid is the same in every epoch.

    What a window shares with tissue, masks, regions and classes is counted in level-0 pixels, exactly, whatever
    the scale of the windows; pixels are never read, labels only where they are like noise.
    """

    def __init__(
        self,
        sampler: SourceSampler,
        size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        *,
        overlap: int | tuple[int, int] | None = None,
        edge: Edge = "shift",
        where: Where | None = None,
        roi: Roi | None = None,
        min_inside: float = 0.0,
        min_tissue: float = 0.0,
        classify: TileRule | bool | None = None,
        only: str | Iterable[str] | None = None,
        image_ids: Iterable[int] | None = None,
        downsample: float | None = None,
        mpp: float | None = None,
        how: Target | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampler, WindowShape.of(size, downsample, mpp, how), image_ids)
        self.stride = _stride(self.shape.size, stride, overlap)
        self.edge = checked_edge(edge)
        conditions = _conditions(sampler, self._images.ids(sampler), where, roi, min_inside, min_tissue)
        rule = TileRule() if classify is True else (classify or None)
        states = None if only is None else _checked_states(only)
        if states is not None and rule is None:
            rule = TileRule()
        classes = () if rule is None else foreground_classes(sampler, rule.categories)
        self._filter = GridFilter(conditions, rule, classes, states)
        self._packed: bytes | None = None
        #: Rows of images that were asked for, and from the second time on the states of their windows.
        self._row_states: dict[tuple[int, int], bytes] = {}
        # Counted once: the length must not change, and what cannot be is found out here.
        self._length = self._stops[-1]

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_row_states": {}}
        if not self._filter.keeps_all and self._packed is None:
            # What only this process has cannot be asked again elsewhere.
            must = self._filter.in_memory
            state["_packed"] = self._kept.pack(None if must else PACKED_BYTES)
            if must:
                state["_filter"] = self._filter._replace(conditions=())
        return state

    def _draw(self, epoch: int, index: int) -> Target:  # noqa: ARG002  (the same in every epoch)
        image, row, column = self._position(index)
        table = self._table
        rows, columns = table.axes[image]
        window = Window(rows.start(row), columns.start(column), rows.extent, columns.extent)
        (y0, y1), (x0, x1) = rows.owned(row), columns.owned(column)
        image_id, kind = table.ids[image], "grid"
        if self._filter.rule is not None:
            kind = f"grid-{self._kind(image, row, column, window)}"
        target = self.shape.target(image_id, window, kind, index)
        return target.with_fields(owned=Window(y0, x0, y1 - y0, x1 - x0))

    def _kind(self, image: int, row: int, column: int, window: Window) -> str:
        rule, only = self._filter.rule, self._filter.only
        if only is not None and len(only) == 1:
            return KINDS[only[0]]
        assert rule is not None
        image_id, axes = self._table.ids[image], self._table.axes[image]
        # One window is cheaper than its row, a row cheaper than its windows: who comes again is told the row.
        known = self._row_states
        states = known.get((image, row))
        if states is None:
            if len(known) >= MAX_ROWS:
                known.clear()
            known[image, row] = b""
            return rule.kind_of_window(self.sampler, image_id, window, self._filter.classes)
        if not states:
            states = known[image, row] = bytes(
                self._filter.states(self.sampler, image_id, axes, (row, row + 1))[0]
            )
        return KINDS[states[column]]

    def _position(self, index: int) -> tuple[int, int, int]:
        """Return image (its position), row and column of a window's place in the full grid."""
        if not self._filter_keeps_all:
            return self._kept.locate(index)
        stops = self._stops
        image = bisect_right(stops, index)
        rank = index - stops[image - 1] if image else index
        return image, *divmod(rank, self._table.axes[image][1].windows)

    # What the grid looks like ------------------------------------------------------------------------------

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images, in the grid's order; those without a window included."""
        return tuple(self._table.ids)

    @property
    def tile_counts(self) -> tuple[int, ...]:
        """Number of windows of each image, in the order of ``image_ids``."""
        return tuple(np.diff(self._stops, prepend=0).tolist())

    def grid_shape(self, image_id: int) -> tuple[int, int]:
        """Return rows and columns of an image's full grid, whatever is kept of it.

        Raises
        ------
        TargetError
            If the grid does not have the image.
        """
        rows, columns = self._table.axes[self._place(image_id)]
        return rows.windows, columns.windows

    def locate(self, index: int) -> tuple[int, int, int]:
        """Return ``(image_id, row, column)``: the place of window ``index`` in its image's full grid.

        Raises
        ------
        IndexError
            If the index is not in ``[0, len(self))``.
        TypeError
            If it is not a whole number.
        """
        image, row, column = self._position(checked_index(index, self._length))
        return self._table.ids[image], row, column

    def index_of(self, image_id: int, row: int, column: int) -> int | None:
        """Return the index of the window at a place of an image's full grid; None where it is not kept.

        Raises
        ------
        TargetError
            If the grid does not have the image.
        IndexError
            If the image's grid does not have the place.
        """
        image = self._place(image_id)
        rows, columns = self._table.axes[image]
        if not (0 <= row < rows.windows and 0 <= column < columns.windows):
            raise IndexError(
                f"row {row}, column {column} were asked for; the grid of image {image_id} is "
                f"{rows.windows} x {columns.windows}"
            )
        if not self._filter_keeps_all:
            return self._kept.index_of(image, row, column)
        return (self._stops[image - 1] if image else 0) + row * columns.windows + column

    def kinds_of(self, image_id: int) -> NDArray[np.uint8]:
        """Return what every position of an image's full grid is: 0 ignored, 1 negative, 2 positive.

        For all windows of an image at once, hundreds of thousands in a second.

        Returns
        -------
        uint8, shape ``grid_shape(image_id)``

        Raises
        ------
        TargetError
            If the grid was made without ``classify``, or does not have the image.
        """
        if self._filter.rule is None:
            raise TargetError("this grid does not tell its windows apart; make it with classify=TileRule(...)")
        return self._filter.all_states(self.sampler, image_id, self._table.axes[self._place(image_id)])

    def _place(self, image_id: int) -> int:
        try:
            return self._table.places[image_id]
        except KeyError:
            raise TargetError(f"the grid has no image {image_id}") from None

    # Tables that are made again where needed ---------------------------------------------------------------

    @lazy_property
    def _table(self) -> _GridTable:
        ids = self._images.ids(self.sampler)
        lengths, extents = image_sizes(self.sampler, ids), self.shape.extents(self.sampler, ids)
        # The step scales with the window and never falls behind it: touching windows touch at any scale.
        (stride_y, stride_x), (height, width) = self.stride, self.shape.size
        axes = [
            (
                GridAxis.of(length_y, h, scaled_step(h, stride_y, height), self.edge),
                GridAxis.of(length_x, w, scaled_step(w, stride_x, width), self.edge),
            )
            for (length_y, length_x), (h, w) in zip(lengths.tolist(), extents.tolist(), strict=True)
        ]
        return _GridTable(ids, axes, {image_id: place for place, image_id in enumerate(ids)})

    @lazy_property
    def _filter_keeps_all(self) -> bool:
        return self._filter.keeps_all and self._packed is None

    @lazy_property
    def _kept(self) -> KeptPositions:
        table = self._table
        if self._packed is not None:
            return KeptPositions.unpack([(y.windows, x.windows) for y, x in table.axes], self._packed)
        return self._filter.kept(self.sampler, table.ids, table.axes)

    @lazy_property
    def _stops(self) -> list[int]:
        """Index after the last window of each image."""
        if not self._filter_keeps_all:
            return self._kept.image_stops()
        return list(accumulate(rows.windows * columns.windows for rows, columns in self._table.axes))


class _GridTable(NamedTuple):
    """Per image."""

    ids: list[int]
    #: Along y and x.
    axes: list[tuple[GridAxis, GridAxis]]
    places: dict[int, int]


def _stride(
    size: tuple[int, int], stride: int | tuple[int, int] | None, overlap: int | tuple[int, int] | None
) -> tuple[int, int]:
    if stride is not None and overlap is not None:
        raise TargetError("'stride' and 'overlap' both say the step of the grid; give one of them")
    if overlap is not None:
        shared = checked_pair("overlap", overlap, 0)
        if shared[0] >= size[0] or shared[1] >= size[1]:
            raise TargetError(f"overlap must be less than the size {size}, got {overlap!r}")
        return size[0] - shared[0], size[1] - shared[1]
    return size if stride is None else checked_pair("stride", stride, 1)


def _conditions(
    sampler: SourceSampler,
    image_ids: list[int],
    where: Where | None,
    roi: Roi | None,
    min_inside: float,
    min_tissue: float,
) -> tuple[Condition, ...]:
    inside = checked_share("min_inside", min_inside)
    if inside and where is None and roi is None:
        raise TargetError("min_inside says how much of a window is in 'where' or 'roi'; give one of them")
    found = []
    if where is not None:
        found.append(Condition("where", _where(sampler, image_ids, where), inside))
    if roi is not None:
        found.append(Condition("roi", parse_roi(sampler, roi), inside))
    if checked_share("min_tissue", min_tissue):
        found.append(Condition("min_tissue", IndexRegion((-1,)), min_tissue))
    return tuple(found)


def _where(sampler: SourceSampler, image_ids: list[int], where: Where) -> Region:
    if isinstance(where, str):
        if where != "tissue":
            raise TargetError(f"where must be 'tissue' or masks by image id, got {where!r}")
        return IndexRegion((-1,))
    region = MaskRegion(where)
    unknown = region.masks.keys() - set(sampler.image_ids)
    if unknown:
        raise TargetError(f"where has masks of images that are not in the manifest: {sorted(unknown)[:5]}")
    missing = [image_id for image_id in image_ids if image_id not in region.masks]
    if missing:
        raise TargetError(
            f"where has no mask of {len(missing)} of the {len(image_ids)} images, {missing[:5]} among them; "
            "give one each, or name the images that have one with image_ids="
        )
    return region


def _checked_states(only: str | Iterable[str]) -> tuple[int, ...]:
    words = [only] if isinstance(only, str) else list(only)
    if not words or any(word not in KINDS for word in words):
        raise TargetError(f"only must be one or several of {', '.join(KINDS[::-1])}, got {only!r}")
    return tuple(sorted({KINDS.index(word) for word in words}))
