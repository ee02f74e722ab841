"""Arrays that the caller already has in memory, read as if they were files.

The registry is of one process: an array is not sent to workers that are spawned (forked ones inherit it).
Register it in each of them, or save it as ``.npy``, which every process can map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidesampler.errors import ReadError, SourceMissingError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers.base import NativePart, check_channels, check_window, output_array

__all__ = [
    "ARRAY_SCHEME",
    "ArrayReader",
    "copy_pixels",
    "pixel_view",
    "register_array",
    "registered_array",
    "unregister_array",
]

#: How a manifest names a registered array.
ARRAY_SCHEME = "array://"

_REGISTRY: dict[str, NDArray[Any]] = {}


def register_array(name: str, array: ArrayLike) -> str:
    """Make an array readable under ``array://NAME`` in this process, and return that name.

    Parameters
    ----------
    name : str
        Without the ``array://``.
    array : array_like, shape (H, W) or (H, W, C)
        Any real dtype, memory-mapped or not; kept, not copied. A name that is taken is taken over: readers that
        are already open keep the array they have.

    Raises
    ------
    UnsupportedSourceError
        If the array is not an image.

    Examples
    --------
    >>> import numpy as np
    >>> register_array("slide", np.zeros((4, 6, 3), np.uint8))
    'array://slide'
    >>> unregister_array("slide")
    """
    name = name.removeprefix(ARRAY_SCHEME)
    kept = np.asanyarray(array)
    pixel_view(ARRAY_SCHEME + name, kept)
    _REGISTRY[name] = kept
    return ARRAY_SCHEME + name


def unregister_array(name: str) -> None:
    """Forget an array; readers that are open keep it. A name that is not registered is not an error."""
    _REGISTRY.pop(name.removeprefix(ARRAY_SCHEME), None)


def registered_array(name: str) -> NDArray[Any]:
    """Return the array registered under a name.

    Raises
    ------
    SourceMissingError
        If this process has none of that name.
    """
    name = name.removeprefix(ARRAY_SCHEME)
    try:
        return _REGISTRY[name]
    except KeyError:
        known = ", ".join(sorted(_REGISTRY)) or "none at all"
        raise SourceMissingError(
            f"array://{name} is not registered in this process (it has {known}). Arrays do not travel to "
            "spawned workers: call slidesampler.readers.register_array in each (worker_init_fn), or save it "
            "as .npy"
        ) from None


def pixel_view(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as ``(H, W, C)``, bool as uint8, without a copy.

    Raises
    ------
    UnsupportedSourceError
        If it has another number of axes, no pixels, or a dtype that is not of real numbers.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise UnsupportedSourceError(
            f"{name}: dtype {array.dtype} holds no pixels; use bool, integers or floats of at most 64 bits"
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise UnsupportedSourceError(f"{name}: an image is (H, W) or (H, W, C), not {array.shape}")
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    return array if array.ndim == 3 else array[..., None]


def copy_pixels(block: NDArray[Any], channels: tuple[int, ...] | None, out: NDArray[Any]) -> None:
    """Copy channels of a block into ``out``, in native byte order, without a temporary."""
    if channels is None:
        out[...] = block
    else:
        for i, channel in enumerate(channels):
            out[..., i] = block[..., channel]


class ArrayReader:
    """An array as a reader, of one level.

    Parameters
    ----------
    array : array_like, shape (H, W) or (H, W, C)
        Not copied. Byte order and memory order do not matter. Bool is shown as a 1-bit image is: False 0, True
        255.
    name : str
        For error messages.
    raw : bool
        Whether bool stays 0 and 1.
    channels : tuple of str
        Names.
    mpp : (float, float), optional
        Micrometres per pixel, ``(y, x)``.

    Examples
    --------
    >>> import numpy as np
    >>> from slidesampler.geometry import Window
    >>> ArrayReader(np.arange(6).reshape(2, 3)).read(Window(0, 1, 2, 2))[..., 0].tolist()
    [[1, 2], [4, 5]]
    """

    def __init__(
        self,
        array: ArrayLike,
        name: str = "array",
        *,
        raw: bool = False,
        channels: tuple[str, ...] = (),
        mpp: tuple[float, float] | None = None,
    ) -> None:
        self.name = name
        given = np.asanyarray(array)
        self._pixels: NDArray[Any] | None = pixel_view(name, given)
        self._stretch = given.dtype.kind == "b" and not raw
        self.dtype = self._pixels.dtype.newbyteorder("=")
        height, width, count = self._pixels.shape
        self.shape = (height, width, count)
        self.levels: tuple[Level, ...] = (Level(height, width),)
        self.mpp = mpp
        if len(channels) not in (0, count):
            raise ReadError(f"{name}: {len(channels)} channel names were given, but it has {count} channels")
        self.channels = channels
        self.has_valid = False

    def _open(self) -> NDArray[Any]:
        if self._pixels is None:
            raise ReadError(f"{self.name}: the reader is closed")
        return self._pixels

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return a copy of a window, ``(h, w, C)``, as :class:`.base.Reader` has it."""
        pixels = self._open()
        check_window(self.name, self.levels, window, level)
        if channels is not None:
            check_channels(self.name, self.shape[2], channels)
        count = self.shape[2] if channels is None else len(channels)
        out = output_array(out, (window.height, window.width, count), self.dtype, self.name)
        copy_pixels(pixels[window.y : window.y1, window.x : window.x1], channels, out)
        if self._stretch:
            out *= 255
        return out

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return True for every pixel: an array has no mask of its own."""
        self._open()
        check_window(self.name, self.levels, window, level)
        return np.ones(window.shape, dtype=bool)

    def native(self, level: int) -> NativePart | None:
        """Return the array for the compiled reader, as :class:`.base.NativeReader` has it."""
        assert level == 0
        # Imported here: nothing else of this module needs a reader of files.
        from slidesampler.readers.raw import raw_part

        pixels = self._open()
        return None if self._stretch else raw_part(pixels)

    def native_valid(self, level: int) -> NativePart | None:
        """Return None: an array has no mask of its own."""
        del level
        return None

    def close(self) -> None:
        """Let go of the array. Closing twice does nothing."""
        self._pixels = None
