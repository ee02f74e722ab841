"""Where a window starts that is drawn around a place of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from slidesampler.geometry import start_from_center
from slidesampler.lazy import lazy_property
from slidesampler.rng import Draws
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.shape import WindowShape
from slidesampler.sampling.snap import held_start
from slidesampler.sampling.windows import WindowSource

__all__ = ["CenteredSource", "Frame", "pushed_inside", "start_around", "start_with_middle"]


class Frame(NamedTuple):
    """An image and the windows cut from it; pairs are ``(y, x)``, level-0 pixels."""

    image_id: int
    #: Of the image.
    lengths: tuple[int, int]
    #: Of a window.
    extents: tuple[int, int]
    #: Windows start at multiples of these; 1 where they start anywhere.
    steps: tuple[int, int]


class CenteredSource(WindowSource):
    """Base of sources that draw windows around places."""

    def __init__(
        self, sampler: SourceSampler, shape: WindowShape, image_ids: Iterable[int] | None = None
    ) -> None:
        super().__init__(sampler, shape, image_ids)
        if shape.snap is not None and shape.mpp is not None:
            # A resolution that a snap does not suit is found out now, not when a window of it is drawn.
            shape.steps(sampler, [one for one in self._ids if sampler.image_record(one).mpp is not None])

    @lazy_property
    def _ids(self) -> list[int]:
        return self._images.ids(self.sampler)

    @lazy_property
    def _facts(self) -> list[tuple[tuple[int, int] | None, tuple[float, float] | None]]:
        """Size and resolution of each image of ``_ids``, None where the manifest leaves them out."""
        facts = []
        for record in map(self.sampler.image_record, self._ids):
            known = record.height is not None and record.width is not None
            facts.append(((record.height, record.width) if known else None, record.mpp))
        return facts  # type: ignore[return-value]  # both or none, as ``known`` says

    @lazy_property
    def _frames(self) -> dict[int, Frame]:
        return {}

    @lazy_property
    def _measures(self) -> dict[tuple[float, float], tuple[tuple[int, int], tuple[int, int]]]:
        return {}

    def _frame(self, image: int) -> Frame:
        """Return the frame of the image at a position of ``_ids``.

        Found when a window of the image is drawn, once: what the manifest leaves out has to be read from the
        file, and most processes never see most images.
        """
        frame = self._frames.get(image)
        if frame is None:
            image_id, (lengths, mpp) = self._ids[image], self._facts[image]
            lengths = lengths or self.sampler.image_shape(image_id)[:2]
            frame = Frame(image_id, lengths, *self._measure(image_id, mpp))
            self._frames[image] = frame
        return frame

    def _measure(
        self, image_id: int, mpp: tuple[float, float] | None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the extents and the steps of an image's windows."""
        # They are the same wherever the resolution is, and everywhere where it does not matter.
        key = (0.0, 0.0) if self.shape.mpp is None else mpp
        found = None if key is None else self._measures.get(key)
        if found is None:
            height, width = self.shape.extents(self.sampler, [image_id])[0].tolist()
            step_y, step_x = self.shape.steps(self.sampler, [image_id])[0].tolist()
            found = (height, width), (step_y, step_x)
            if key is not None:
                self._measures[key] = found
        return found

    def _areas(self) -> list[int] | None:
        """Return the area of each image of ``_ids``; None where the manifest leaves a size out."""
        sizes = [lengths for lengths, _ in self._facts if lengths is not None]
        return [height * width for height, width in sizes] if len(sizes) == len(self._facts) else None


def start_around(
    draws: Draws,
    center: float,
    length: int,
    extent: int,
    jitter: int = 0,
    allow_border: bool = True,
    step: int = 1,
) -> int:
    """Return the first pixel, along one axis, of a window around a place.

    Parameters
    ----------
    draws : Draws
        Two numbers are taken, whatever the jitter, so that jitter along y does not change what x gets.
    center : float
        Level-0 pixels, in ``[0, length]``.
    length, extent : int
        Pixels of the image and of the window.
    jitter : int
        The window is moved by a whole number of pixels, uniform in ``[-jitter, jitter]`` cut to what keeps the
        pixel that holds the centre inside the window.
    allow_border : bool
        Whether the window may overhang the image. Where not, it is pushed back into it; where the image is
        shorter than the window, so that the image lies wholly inside the window.
    step : int
        Last of all it is moved to the nearest multiple of this that keeps the pixel inside the window; see
        :func:`slidesampler.sampling.snap.held_start`.

    Examples
    --------
    >>> [start_around(Draws(0), 70.5, 100, 32, allow_border=border) for border in (True, False)]
    [54, 54]
    >>> [start_around(Draws(0), 90.5, 100, 32, allow_border=border) for border in (True, False)]
    [74, 68]
    >>> start_around(Draws(0), 90.5, 100, 120, allow_border=False)
    0
    """
    # The pixel that holds the centre; a centre on the far edge is held by the last one.
    held = min(math.floor(center), length - 1)
    lowest = held - extent + 1
    start = min(max(start_from_center(center, extent), lowest), held)
    start = draws.between(max(start - jitter, lowest), min(start + jitter, held))
    start = start if allow_border else pushed_inside(start, length, extent)
    return held_start(start, held, length, extent, step, allow_border=allow_border)


def start_with_middle(pixel: int, length: int, extent: int, step: int = 1, *, allow_border: bool = True) -> int:
    """Return the first pixel, along one axis, of a window with a pixel in its middle: the ``extent // 2``-th.

    Parameters
    ----------
    pixel : int
        Of the image.
    length, extent : int
        Pixels of the image and of the window.
    step, allow_border
        As :func:`start_around` takes them; the pixel stays in the window, though not in its middle.

    Examples
    --------
    >>> [start_with_middle(90, 100, 32, allow_border=border) for border in (True, False)]
    [74, 68]
    >>> [start_with_middle(pixel, 100, 32, 16) for pixel in (23, 24, 39, 40)]
    [0, 16, 16, 32]
    """
    start = pixel - extent // 2
    if not allow_border:
        start = pushed_inside(start, length, extent)
    return held_start(start, pixel, length, extent, step, allow_border=allow_border)


def pushed_inside(start: int, length: int, extent: int) -> int:
    """Return the start of a window moved by as little as brings it into the image.

    Where the image is shorter than the window, the image comes to lie wholly inside the window.

    Parameters
    ----------
    start : int
        First pixel of the window.
    length, extent : int
        Pixels of the image and of the window.

    Examples
    --------
    >>> [pushed_inside(start, 100, 32) for start in (-5, 7, 90)]
    [0, 7, 68]
    >>> [pushed_inside(start, 100, 120) for start in (-50, -5, 7)]
    [-20, -5, 0]
    """
    slack = length - extent
    return min(max(start, min(slack, 0)), max(slack, 0))
