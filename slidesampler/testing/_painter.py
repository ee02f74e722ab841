"""Pixels of a synthetic slide, painted from its polygons as light through stained tissue."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.rng import rng_for
from slidesampler.testing._anatomy import LUMEN, NECROSIS, STROMA, TUMOUR, Anatomy
from slidesampler.testing._noise import (
    TEXTURE_PX,
    band_texture,
    cell_uniform,
    noise_at,
    smooth_noise,
    upsampled,
)
from slidesampler.testing._nuclei import FIELD_PX, NucleiFields, fibre_grid
from slidesampler.testing._raster import inside_part

__all__ = ["Painter"]

#: Optical density per unit of stain in red, green and blue: close to the vectors of Ruifrok and Johnston
#: (2001), the eosin a little warmer, as slide scanners show it.
HAEMATOXYLIN = np.array([0.66, 0.80, 0.38], np.float32)
EOSIN = np.array([0.10, 0.72, 0.36], np.float32)
#: Ink of the marker.
INK = np.array([1.25, 0.42, 0.95], np.float32)
#: Sub-pixel bits of OpenCV's drawing functions.
SHIFT = 4

_F = NDArray[np.float32]


class Painter:
    """Paints any window of a slide.

    The slide is painted in squares of 512 pixels that stand at fixed places; a window is put together from
    those it touches. So pixels do not depend on how the slide is cut into windows, not even by the last bit
    of a vectorised loop's remainder.

    Parameters
    ----------
    anatomy : Anatomy
    fields : NucleiFields
    """

    def __init__(self, anatomy: Anatomy, fields: NucleiFields) -> None:
        self.anatomy = anatomy
        self.fields = fields
        seed = anatomy.seed
        # Three periods each way: lookups of a square then stay inside, which is OpenCV's fast case.
        self._fibre = np.tile(band_texture(seed, "fibre", (1.1, 16.0), (9.0, 60.0)), (3, 3))
        self._grain = band_texture(seed, "grain", (1.3, 1.3), (6.0, 6.0))  # as large as a square
        rng = rng_for(seed, stream="stain")
        gain_h, gain_e = rng.uniform(0.9, 1.15), rng.uniform(0.85, 1.2)
        glass = rng.uniform(240, 247, 3)
        # From haematoxylin, eosin and ink to the logarithm of red, green and blue, and that of the bare glass.
        self._absorption = [
            tuple(float(v) for v in row)
            for row in np.stack([-gain_h * HAEMATOXYLIN, -gain_e * EOSIN, -INK, np.log(glass)], axis=1).astype(
                np.float32
            )
        ]
        self._nothing = np.zeros((FIELD_PX, FIELD_PX), np.float32)
        self._margin = int(np.ceil(26 * anatomy.scale))

    def paint(self, window: Window) -> NDArray[np.uint8]:
        """Return the pixels of a window inside the slide, uint8 ``(h, w, 3)``."""
        out = np.empty((*window.shape, 3), np.uint8)
        for fy in range(window.y // FIELD_PX, -(-window.y1 // FIELD_PX)):
            for fx in range(window.x // FIELD_PX, -(-window.x1 // FIELD_PX)):
                square = Window(fy * FIELD_PX, fx * FIELD_PX, FIELD_PX, FIELD_PX)
                part = window.intersect(square)
                assert part is not None
                pixels = self._square(square)
                out[part.shift(-window.y, -window.x).as_slices()] = pixels[
                    part.shift(-square.y, -square.x).as_slices()
                ]
        return out

    def _square(self, square: Window) -> NDArray[np.uint8]:
        m = self._margin
        classes = self.anatomy.classes(square.grow(m, m, m, m))
        haem, eosin = self._tissue(square, classes) if classes.any() else (self._nothing, self._nothing)
        ink: _F | None = None
        if (fold := self._band(square, self.anatomy.fold, 3.0)) is not None:
            haem, eosin = haem * (1 + 1.1 * fold), eosin * (1 + 1.1 * fold)
        if (pen := self._band(square, self.anatomy.pen, 6.0)) is not None:
            ink = pen * (0.85 + 0.12 * self._noise(square, 60, 15))
        lamp = 0.006 * self._noise(square, 900, 7) + 0.0033 * self._grain
        # Lambert and Beer: densities add up, light is their exponential.
        channels = []
        for per_haem, per_eosin, per_ink, glass in self._absorption:
            density = cv2.scaleAdd(haem, per_haem, lamp + glass)
            density = cv2.scaleAdd(eosin, per_eosin, density)
            channels.append(cv2.exp(density if ink is None else cv2.scaleAdd(ink, per_ink, density)))
        pixels: NDArray[np.uint8] = cv2.convertScaleAbs(cv2.merge(channels))  # rounds and saturates
        return pixels

    def _tissue(self, square: Window, classes: NDArray[np.uint8]) -> tuple[_F, _F]:
        """Return how much haematoxylin and eosin the tissue holds, ``(h, w)`` each."""
        scale = self.anatomy.scale
        u, v = fibre_grid(self.anatomy, square)
        fibre = _wrapped(self._fibre, u, v)
        grain = self._grain
        mottle = 3 * self._noise(square, 15, 13)
        broad = self._noise(square, 400, 8)
        eosin, haem = np.zeros((2, *square.shape), np.float32)
        clear = self._nothing
        if (stroma := self._soft(classes, STROMA)) is not None:
            eosin += stroma * (0.50 + 0.13 * fibre + 0.05 * mottle + 0.16 * broad)
            haem += stroma * (0.05 + 0.02 * fibre)
            clear = np.maximum(self._clefts(square, mottle), self._fat(square)) * stroma
        if (tumour := self._soft(classes, TUMOUR)) is not None:
            eosin += tumour * (0.47 + 0.035 * grain + 0.06 * mottle + 0.10 * broad)
            haem += tumour * (0.24 + 0.05 * mottle + 0.08 * broad)
            if (lumen := self._soft(classes, LUMEN)) is not None:
                # Where a gland opens, cytoplasm is dense and the lumen holds a little secretion.
                eosin += 0.55 * tumour * _blurred(lumen, 4 * scale)
                eosin += lumen * np.maximum(0, 0.25 * broad + 0.05 * mottle)
        if (necrosis := self._soft(classes, NECROSIS)) is not None:
            eosin += necrosis * (0.74 + 0.10 * grain + 0.12 * mottle)
            haem += necrosis * (0.13 + 0.04 * grain)
        nuclei = self._nuclei(square)
        eosin *= (1 - clear) * (1 - 0.55 * np.minimum(nuclei * 1.6, 1))
        haem += nuclei * (1 + 0.16 * grain)
        haem *= 1 - clear
        return np.maximum(haem, 0), np.maximum(eosin, 0)

    def _noise(self, square: Window, spacing: float, key: int) -> _F:
        return smooth_noise(square, spacing * self.anatomy.scale, self.anatomy.seed * 64 + key)

    def _soft(self, classes: NDArray[np.uint8], kind: int) -> _F | None:
        """Return where a class is, 0 to 1 with a soft edge; None where it is not."""
        m = self._margin
        mask = (classes == kind).view(np.uint8) * np.uint8(255)
        if not mask.any():
            return None
        return np.asarray(_blurred(mask, 2.2 * self.anatomy.scale)[m:-m, m:-m] * np.float32(1 / 255))

    def _clefts(self, square: Window, mottle: _F) -> _F:
        """Return where stroma has torn: 0 to 1."""
        crack = np.abs(self._noise(square, 120, 9) + 0.35 * self._noise(square, 42, 10) + 0.012 * mottle)
        loose = np.clip((self._noise(square, 520, 11) + 0.02) * 0.28, 0, 0.09)
        return np.asarray(np.clip((loose - crack) * 22, 0, 0.97), np.float32)

    def _fat(self, square: Window) -> _F:
        """Return where stroma is the inside of a fat cell: 0 to 1; a membrane stays between two cells."""
        spacing = 96 * self.anatomy.scale
        ys = np.arange(np.floor(square.y / spacing) - 2, np.ceil(square.y1 / spacing) + 2, dtype=np.int64)
        xs = np.arange(np.floor(square.x / spacing) - 2, np.ceil(square.x1 / spacing) + 2, dtype=np.int64)
        iy, ix = (grid.ravel() for grid in np.meshgrid(ys, xs, indexing="ij"))
        key = self.anatomy.seed * 64 + 12
        cy = (iy + 0.5 + 0.6 * (cell_uniform(iy, ix, key) - 0.5)) * spacing
        cx = (ix + 0.5 + 0.6 * (cell_uniform(iy, ix, key + 1) - 0.5)) * spacing
        fat = noise_at(cy, cx, 1100 * self.anatomy.scale, key + 2) > 0.42
        near = (np.abs(cy - square.center[0]) < square.height / 2 + spacing) & (
            np.abs(cx - square.center[1]) < square.width / 2 + spacing
        )
        if not (fat & near).any():
            return self._nothing
        # At half resolution, with a margin for the blur.
        m = int(np.ceil(12 * self.anatomy.scale))
        half = square.height // 2 + 2 * m
        cy, cx = (cy - square.y) / 2 + m - 0.5, (cx - square.x) / 2 + m - 0.5
        nearest = np.full((half, half), np.float32(1e12), np.float32)
        second = nearest.copy()
        is_fat = np.zeros((half, half), np.bool_)
        # The two nearest points are never farther than this, since every cell holds one.
        reach = int(np.ceil(0.9 * spacing))
        for y, x, f in zip(cy, cx, fat, strict=True):
            rows = slice(max(0, int(y) - reach), max(0, min(half, int(y) + reach)))
            cols = slice(max(0, int(x) - reach), max(0, min(half, int(x) + reach)))
            dy = (np.arange(rows.start, rows.stop) - y).astype(np.float32)
            dx = (np.arange(cols.start, cols.stop) - x).astype(np.float32)
            distance = (dy * dy)[:, None] + (dx * dx)[None, :]
            closer = distance < nearest[rows, cols]
            np.minimum(second[rows, cols], np.maximum(distance, nearest[rows, cols]), out=second[rows, cols])
            np.minimum(nearest[rows, cols], distance, out=nearest[rows, cols])
            is_fat[rows, cols][closer] = f
        wall = 2 * (np.sqrt(second) - np.sqrt(nearest)) / np.float32(self.anatomy.scale)
        inside = np.where(is_fat, np.clip((wall - 4) / 3, 0, 1), 0).astype(np.float32)
        # Blurring and cutting high rounds the corners, where three cells meet.
        round_ = np.clip((_blurred(inside, 3.5 * self.anatomy.scale) - 0.6) * 5, 0, 1)
        fine = cv2.resize(round_, (2 * half, 2 * half), interpolation=cv2.INTER_LINEAR)
        return np.asarray(fine[2 * m : -2 * m, 2 * m : -2 * m])

    def _nuclei(self, square: Window) -> _F:
        """Return how much haematoxylin the nuclei hold, ``(h, w)``."""
        m = self._margin
        canvas = np.zeros((square.height + 2 * m, square.width + 2 * m), np.uint8)
        fy, fx = square.y // FIELD_PX, square.x // FIELD_PX
        offset = np.array([square.x - m, square.y - m]) + 0.5  # OpenCV's pixel centres are whole numbers
        for y in range(max(0, fy - 1), min(self.fields.shape[0], fy + 2)):
            for x in range(max(0, fx - 1), min(self.fields.shape[1], fx + 2)):
                nuclei = self.fields.field(y, x)
                low, high = nuclei.outlines.min(axis=1), nuclei.outlines.max(axis=1)
                # The rim and the blur reach 3 pixels beyond the outline.
                near = (high > (square.x - 3, square.y - 3)) & (low < (square.x1 + 3, square.y1 + 3))
                rows = np.flatnonzero(near.all(axis=1))
                points = np.rint((nuclei.outlines[rows] - offset) * (1 << SHIFT)).astype(np.int32)
                for polygon, row in zip(points, rows, strict=True):
                    _draw_nucleus(
                        canvas, polygon, float(nuclei.densities[row]), nuclei.kinds[row], nuclei.luck[row]
                    )
        # The optics: one pixel's worth of blur.
        return np.asarray(cv2.GaussianBlur(canvas, (3, 3), 0)[m:-m, m:-m] * np.float32(0.01))

    def _band(self, square: Window, ring: NDArray[np.float64] | None, sigma: float) -> _F | None:
        if ring is None:
            return None
        m = self._margin
        inside = inside_part((ring,), square.grow(m, m, m, m))
        if inside is None or not inside.any():
            return None
        return _blurred(inside.astype(np.float32), sigma)[m:-m, m:-m]


def _draw_nucleus(
    canvas: NDArray[np.uint8], polygon: NDArray[np.int32], density: float, kind: int, luck: NDArray[np.float32]
) -> None:
    level = density * 100
    # A vesicular nucleus is pale inside its membrane; the others are filled.
    pale = 0.62 if kind == 0 and luck[0] < 0.45 else 0.9
    cv2.fillPoly(canvas, [polygon], level * pale, cv2.LINE_AA, SHIFT)
    cv2.polylines(canvas, [polygon], True, level * 1.12, 1, cv2.LINE_AA, SHIFT)
    if kind == 0 and luck[1] < 0.6:
        middle = (polygon.mean(axis=0) * (0.75 + 0.25 * luck[1]) + polygon[3] * (0.25 - 0.25 * luck[1])).astype(
            int
        )
        reach = np.hypot(*(polygon[0] - polygon[7]).astype(float))
        cv2.circle(canvas, tuple(middle.tolist()), int(0.11 * reach), level * 1.45, -1, cv2.LINE_AA, SHIFT)


def _blurred(image: NDArray[Any], sigma: float) -> NDArray[Any]:
    """Return an image blurred twice by a box: close to a Gaussian of ``sigma`` pixels, and much faster."""
    # Two boxes of k pixels have the variance (k^2 - 1) / 6.
    side = 2 * round((np.sqrt(6 * sigma**2 + 1) - 1) / 2) + 1
    return np.asarray(cv2.blur(cv2.blur(image, (side, side)), (side, side)))


def _wrapped(texture: _F, u: NDArray[np.float64], v: NDArray[np.float64]) -> _F:
    """Return a periodic texture looked up at ``(u, v)``, which are given on the coarse grid."""
    # OpenCV's coordinates are 16-bit: whole periods are taken off first.
    u, v = (c - TEXTURE_PX * np.floor(c.min() / TEXTURE_PX) for c in (u, v))
    at_x, at_y = upsampled(u.astype(np.float32)), upsampled(v.astype(np.float32))
    return np.asarray(cv2.remap(texture, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))
