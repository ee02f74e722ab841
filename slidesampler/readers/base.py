"""The reader protocol: the one way pixels come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.models import Level

if TYPE_CHECKING:
    from slidesampler.readers.tile_index import TiledLevel

__all__ = [
    "NativePart",
    "NativeReader",
    "Reader",
    "check_channels",
    "check_window",
    "decimate",
    "decimation_indices",
    "native_part",
    "output_array",
]


@runtime_checkable
class Reader(Protocol):
    """An open image that answers windows of any of its levels.

    A reader is used by one thread of one process at a time (the pool sees to that) and is never pickled.

    Attributes
    ----------
    name : str
        What is read, for error messages: a path.
    shape : (int, int, int)
        ``(H, W, C)`` of level 0; an alpha channel is not counted, it is the valid mask.
    dtype : numpy.dtype
    levels : tuple of Level
        Finest first; ``levels[0]`` is the full image.
    mpp : (float, float) or None
        Micrometres per level-0 pixel, ``(y, x)``, as the file says.
    channels : tuple of str
        Channel names where the file has them, else empty.
    has_valid : bool
        Whether some pixels may be invalid (an alpha channel, a mask band).
    """

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    channels: tuple[str, ...]
    has_valid: bool

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window that lies inside the level.

        Parameters
        ----------
        window : Window
            In pixels *of the level*; must lie wholly inside it.
        level : int
            Index into ``levels``.
        channels : tuple of int, optional
            Which channels, in this order; all where None.
        out : ndarray, shape (h, w, C), optional
            Filled and returned; any strides.

        Raises
        ------
        ReadError
            If the window is not inside the level, a channel does not exist, ``out`` does not fit, the reader is
            closed or was opened by another process, or the file cannot be read there.
        """
        ...

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of the window are valid, a new bool ``(h, w)``; the window lies inside the level.

        All True where ``has_valid`` is False. Raises as :meth:`read` does.
        """
        ...

    def close(self) -> None:
        """Release the file. Closing twice does nothing; reading after it raises ReadError."""
        ...


class NativePart(NamedTuple):
    """One level of a reader, or its valid mask, as the compiled reader takes it."""

    tiled: TiledLevel
    #: Which samples of the file are the channels.
    samples: tuple[int, ...]
    #: Told of a window, in pixels of the level, and of how many of its size there are, before they are read.
    used: Callable[..., None] | None = None


@runtime_checkable
class NativeReader(Protocol):
    """What a reader may have besides: batches are then read by the compiled reader, many windows in one call.

    What it gives stays good after the reader has been closed or lent to somebody else, in this process.
    """

    def native(self, level: int) -> NativePart | None:
        """Return where the pixels of a level lie; None where :meth:`Reader.read` has to be asked."""
        ...

    def native_valid(self, level: int) -> NativePart | None:
        """Return where its valid mask lies, not 0 where valid; None where the reader has to be asked."""
        ...


def native_part(reader: Reader, level: int = 0, *, valid: bool = False) -> NativePart | None:
    """Return a level, or its valid mask, for the compiled reader; None where the reader has none for it."""
    # Looked up by name: to ask for the protocol takes longer than to open the level.
    find = getattr(reader, "native_valid" if valid else "native", None)
    return None if find is None else find(level)


def check_window(name: str, levels: tuple[Level, ...], window: Window, level: int) -> None:
    """Raise ReadError unless ``window`` lies inside ``levels[level]``."""
    if not 0 <= level < len(levels):
        raise ReadError(f"{name}: level {level} was asked for; there are levels 0 to {len(levels) - 1}")
    height, width = levels[level].height, levels[level].width
    # Plain comparisons, not Window.contains: this runs on every read.
    if window.y < 0 or window.x < 0 or window.y + window.height > height or window.x + window.width > width:
        raise ReadError(
            f"{name}: {window} is not inside level {level} ({height} x {width} pixels); "
            "readers do not pad, Sampler.load_sample does"
        )


def check_channels(name: str, count: int, channels: tuple[int, ...]) -> None:
    """Raise ReadError unless ``channels`` is at least one index, each in ``range(count)``.

    Negative indices are refused: -1 has meant "the last one", "none" and "all" in too many libraries.
    """
    if not channels or min(channels) < 0 or max(channels) >= count:
        raise ReadError(f"{name}: channels {channels} were asked for; there are channels 0 to {count - 1}")


def output_array(
    out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any], name: str
) -> NDArray[Any]:
    """Return ``out`` after checking its shape and dtype, or a new array.

    Raises
    ------
    ReadError
        If ``out`` is not of that shape and dtype, or cannot be written to.
    """
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ReadError(f"{name}: out is {out.shape} {out.dtype}, but this read gives {shape} {dtype}")
    # GDAL fails here too, but cannot say why.
    if not out.flags.writeable:
        raise ReadError(f"{name}: out is read-only; pass an array that may be written to")
    return out


def decimation_indices(start: int, count: int, downsample: float, size: int) -> NDArray[np.int64]:
    """Return the level-0 pixel that stands for each pixel of a level, along one axis.

    Pixel ``j`` of a level with downsample ``d`` stands for level-0 pixel ``min(j * d + d // 2, size - 1)``: the
    one rule by which label and valid pyramids are reduced everywhere in the package.

    Parameters
    ----------
    start, count : int
        First pixel and number of pixels of the level.
    downsample : float
        Level-0 pixels per pixel of the level; not always whole in files of vendors.
    size : int
        Length of the axis at level 0.

    Returns
    -------
    ndarray of int64, shape (count,)
        Ascending.
    """
    index = np.arange(start, start + count, dtype=np.int64)
    if downsample == int(downsample):
        index = index * int(downsample) + int(downsample) // 2
    else:
        index = np.floor((index + 0.5) * downsample).astype(np.int64)
    return np.minimum(index, size - 1)


def decimate(
    read_rows: Callable[[Window], NDArray[np.bool_]],
    window: Window,
    level: Level,
    size: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return a window of a level of a mask that exists at level 0 only, by nearest decimation.

    Each row of the result costs one read of one row of level 0, so memory is bounded by the width of the
    window, not by its area at level 0.

    Parameters
    ----------
    read_rows : callable
        Takes a level-0 window and returns its mask ``(h, w)``.
    window : Window
        In pixels of the level.
    level : Level
        The level that is asked for.
    size : (int, int)
        ``(H, W)`` of level 0.
    """
    rows = decimation_indices(window.y, window.height, level.downsample[0], size[0])
    cols = decimation_indices(window.x, window.width, level.downsample[1], size[1])
    x0, x1 = int(cols[0]), int(cols[-1]) + 1
    mask = np.empty(window.shape, dtype=bool)
    for i, row in enumerate(rows):
        mask[i] = read_rows(Window(int(row), x0, 1, x1 - x0))[0, cols - x0]
    return mask
