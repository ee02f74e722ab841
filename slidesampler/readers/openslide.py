"""Reads slides of scanner vendors through OpenSlide."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import MissingDependencyError, ReadError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers.base import check_channels, check_window, output_array
from slidesampler.readers.forking import FORK_GATE, check_process
from slidesampler.readers.paths import require_file
from slidesampler.readers.tile_survey import TileFacts

try:
    import openslide
except ImportError as error:
    raise MissingDependencyError(
        f"OpenSlide is needed here and cannot be imported: {error}. Run: "
        "pip install openslide-python openslide-bin"
    ) from error

__all__ = ["CACHE_BYTES", "OpenSlideReader", "detect_vendor"]

#: Decoded tiles kept by OpenSlide in this process, over all slides. A cache for each handle, OpenSlide's
#: default, grows with the number of slides that are open.
CACHE_BYTES = 64 * 2**20
#: A window of more pixels than this is read in bands of rows, so that the RGBA copy that OpenSlide makes stays
#: small beside the result.
BAND_PIXELS = 16 * 2**20
#: The mask of a window of at most this many pixels is kept until the next read: whoever reads pixels asks for
#: their mask next, and OpenSlide would have to paint them again.
KEPT_MASK_PIXELS = 4 * 2**20

#: What OpenSlide calls a tiled TIFF of no vendor; GDAL knows more about those.
GENERIC = "generic-tiff"

_CACHES: dict[int, Any] = {}
_CACHES_LOCK = threading.Lock()


def _reset_after_fork() -> None:
    global _CACHES_LOCK
    _CACHES_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def _shared_cache() -> Any:
    # By process: what a child inherits is never touched, not even to free it.
    with _CACHES_LOCK:
        pid = os.getpid()
        if pid not in _CACHES:
            _CACHES[pid] = openslide.OpenSlideCache(CACHE_BYTES)
        return _CACHES[pid]


def detect_vendor(path: str) -> str | None:
    """Return OpenSlide's name of the vendor's format, or None where it is none or ``generic-tiff``."""
    with FORK_GATE:
        vendor = openslide.OpenSlide.detect_format(path)
    return None if vendor in (None, GENERIC) else str(vendor)


class OpenSlideReader:
    """A slide as OpenSlide paints it: r, g, b of uint8.

    Parameters
    ----------
    path : str
    channels : tuple of str
        Names of the three channels, where the caller has others.
    mpp : (float, float), optional
        Micrometres per pixel, ``(y, x)``, where the slide is wrong or silent.

    Raises
    ------
    SourceMissingError
        If there is no such file.
    UnsupportedSourceError
        If OpenSlide cannot open it.

    Notes
    -----
    ``has_valid`` is always True: slides may leave out what was not scanned, anywhere, and OpenSlide tells so
    only by the alpha it paints there. A pixel is valid where that alpha is above 0. Where it is 0 the pixel
    has the colour that the slide gives as its background, else white. Where it is between (the rim of a
    scanned field), the colour is the unmultiplied one, as openslide-python gives it.

    OpenSlide wants the corner of a window in level-0 pixels. For a level whose downsample is not whole that
    corner is rounded, so such a window may be painted a fraction of a level pixel off, as ``read_region``
    itself would.
    """

    def __init__(
        self, path: str, *, channels: tuple[str, ...] = (), mpp: tuple[float, float] | None = None
    ) -> None:
        self.name = path
        self._pid = os.getpid()
        require_file(path)
        try:
            with FORK_GATE:
                self._slide: Any = openslide.OpenSlide(path)
                self._slide.set_cache(_shared_cache())
        except openslide.OpenSlideError as error:
            raise UnsupportedSourceError(f"{path}: OpenSlide cannot open it: {error}") from error
        base_width, base_height = self._slide.dimensions
        self.shape = (base_height, base_width, 3)
        self.dtype = np.dtype(np.uint8)
        self.levels = tuple(
            Level.of((base_height, base_width), (h, w)) for w, h in self._slide.level_dimensions
        )
        self._downsamples = tuple(self._slide.level_downsamples)
        properties = self._slide.properties
        self.mpp = mpp or _mpp(properties)
        self.channels = channels or ("r", "g", "b")
        if len(self.channels) != 3:
            raise ReadError(f"{path}: {len(self.channels)} channel names were given, but it has 3 channels")
        self.has_valid = True
        self._background = _background(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
        self._last: tuple[Window, int, NDArray[np.bool_]] | None = None

    def _open(self) -> Any:
        if self._slide is None:
            raise ReadError(f"{self.name}: the reader is closed")
        check_process(self.name, self._pid)
        return self._slide

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window inside a level, as :class:`.base.Reader` has it."""
        self._open()
        check_window(self.name, self.levels, window, level)
        if channels is not None:
            check_channels(self.name, 3, channels)
        wanted = (0, 1, 2) if channels is None else channels
        out = output_array(out, (window.height, window.width, len(wanted)), self.dtype, self.name)
        keep = window.height * window.width <= KEPT_MASK_PIXELS
        valid = np.empty(window.shape, dtype=bool) if keep else None
        for band in _bands(window):
            rows = slice(band.y - window.y, band.y1 - window.y)
            rgba = self._paint(band, level)
            for i, channel in enumerate(wanted):
                out[rows, :, i] = rgba[..., channel]
            real = rgba[..., 3] != 0
            if not real.all():
                out[rows][~real] = self._background[list(wanted)]
            if valid is not None:
                valid[rows] = real
        self._last = None if valid is None else (window, level, valid)
        return out

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return where the slide has pixels, bool ``(h, w)``: alpha above 0."""
        self._open()
        check_window(self.name, self.levels, window, level)
        if self._last is not None and self._last[:2] == (window, level):
            return self._last[2].copy()
        valid = np.empty(window.shape, dtype=bool)
        for band in _bands(window):
            valid[band.y - window.y : band.y1 - window.y] = self._paint(band, level)[..., 3] != 0
        return valid

    def tile_facts(self) -> TileFacts:
        """Return what must be known besides its directories to read the file tile by tile.

        Raises
        ------
        UnsupportedSourceError
            If OpenSlide does more than to decode tiles: for every vendor but Aperio, whose levels are the tiled
            pages of the file.
        """
        vendor = self._open().properties.get(openslide.PROPERTY_NAME_VENDOR)
        if vendor != "aperio":
            raise UnsupportedSourceError(f"{self.name}: slides of the vendor {vendor!r} are put together")
        return TileFacts((0, 1, 2), 3, empty=None, unmarked=True)

    def _paint(self, window: Window, level: int) -> NDArray[np.uint8]:
        downsample = self._downsamples[level]
        corner = round(window.x * downsample), round(window.y * downsample)
        try:
            with FORK_GATE:
                image = self._slide.read_region(corner, level, (window.width, window.height))
        except openslide.OpenSlideError as error:
            raise ReadError(
                f"{self.name}: {window} of level {level} cannot be read: {error}. The file is damaged or "
                "incomplete; copy it again from where it came from"
            ) from error
        return np.asarray(image)

    def close(self) -> None:
        """Release the slide. Closing twice does nothing."""
        slide, self._slide, self._last = self._slide, None, None
        # In a forked child the handle is the parent's: it is left alone.
        if slide is not None and self._pid == os.getpid():
            with FORK_GATE:
                slide.close()


def _bands(window: Window) -> list[Window]:
    """Return the window cut into bands of rows of at most :data:`BAND_PIXELS`."""
    rows = max(1, BAND_PIXELS // window.width)
    return [
        Window(y, window.x, min(rows, window.y1 - y), window.width) for y in range(window.y, window.y1, rows)
    ]


def _mpp(properties: Any) -> tuple[float, float] | None:
    try:
        size = (
            float(properties[openslide.PROPERTY_NAME_MPP_Y]),
            float(properties[openslide.PROPERTY_NAME_MPP_X]),
        )
    except (KeyError, ValueError):
        return None
    return size if min(size) > 0 and max(size) < float("inf") else None


def _background(colour: str | None) -> NDArray[np.uint8]:
    """Return r, g, b of a property such as ``"FFFFFF"``; white where there is none."""
    return np.frombuffer(bytes.fromhex(colour), np.uint8)[:3] if colour else np.full(3, 255, np.uint8)
