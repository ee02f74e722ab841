"""Nuclei of a synthetic slide: polygons, made field by field."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.testing._anatomy import DECIMALS, NECROSIS, STROMA, TUMOUR, Anatomy
from slidesampler.testing._noise import cell_uniform, coarse_grid, coarse_noise, noise_at

__all__ = ["FIELD_PX", "Nuclei", "NucleiFields", "NucleusKind", "fibre_coordinates", "fibre_grid"]

#: Side of a field, pixels. Nuclei belong to the field of their lattice cell and are the same whoever asks.
FIELD_PX = 512
#: Vertices of a nucleus.
VERTICES = 14


@dataclass(frozen=True, slots=True)
class NucleusKind:
    """How one kind of nucleus is strewn and looks; lengths in pixels of a 0.5 micrometre slide."""

    number: int
    home: int
    spacing: float
    share: float
    radius: float
    spread: float
    stretch: float
    density: float
    cluster: float


#: What lives where. The tumour's nuclei are the annotated ones: large, dark, of many sizes.
KINDS = (
    NucleusKind(0, TUMOUR, 24.0, 0.93, 7.9, 0.20, 1.35, 1.02, 0.0),
    NucleusKind(1, STROMA, 44.0, 0.62, 5.0, 0.16, 3.4, 0.95, 0.0),
    NucleusKind(2, STROMA, 17.0, 0.85, 5.0, 0.08, 1.1, 1.45, 0.34),
    NucleusKind(3, NECROSIS, 22.0, 0.55, 2.4, 0.45, 1.3, 1.1, 0.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """Nuclei of one field, in painting order.

    Parameters
    ----------
    outlines : float64 (n, 14, 2)
        ``(x, y)`` in level-0 pixels.
    kinds : uint8 (n,)
        Position in the table of kinds; 0 is a tumour nucleus.
    densities : float32 (n,)
        How strongly it takes haematoxylin.
    luck : float32 (n, 2)
        Two numbers in [0, 1) for details.
    """

    outlines: NDArray[np.float64]
    kinds: NDArray[np.uint8]
    densities: NDArray[np.float32]
    luck: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.kinds)


def fibre_grid(anatomy: Anatomy, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(u, v)`` of :func:`fibre_coordinates` on the coarse grid of a window, to be upsampled."""
    ys = coarse_grid(window.y, window.height)[:, None]
    xs = coarse_grid(window.x, window.width)[None, :]
    return _bent(anatomy, ys, xs, lambda spacing, key: coarse_noise(window, spacing, key))


def fibre_coordinates(
    anatomy: Anatomy, ys: NDArray[np.float64], xs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(u, v)``, where along and across the collagen fibres a point is: a bent, wavy frame.

    Parameters
    ----------
    anatomy : Anatomy
    ys, xs : ndarray of float64, shape (n,)
        Points, pixels.

    Returns
    -------
    (ndarray, ndarray) of float64, shape (n,)
        In pixels of a 0.5 micrometre slide.
    """
    return _bent(anatomy, ys, xs, lambda spacing, key: noise_at(ys, xs, spacing, key))


def _bent(
    anatomy: Anatomy,
    ys: NDArray[np.float64],
    xs: NDArray[np.float64],
    noise: Callable[[float, int], NDArray[np.float32]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scale, key = anatomy.scale, anatomy.seed * 64

    def bend(spacing: float, stream: int) -> NDArray[np.float32]:
        return noise(spacing * scale, key + stream) * np.float32(spacing * scale)

    origin = np.zeros(1, np.int64)
    angle = 2 * np.pi * float(cell_uniform(origin, origin, key + 1)[0])
    u = xs * np.cos(angle) + ys * np.sin(angle) + 0.3 * bend(700, 2)
    v = ys * np.cos(angle) - xs * np.sin(angle) + 0.9 * bend(1500, 3) + 0.28 * bend(260, 4)
    return u / scale, (v + 0.1 * bend(70, 5)) / scale


class NucleiFields:
    """The nuclei of every field of a slide, made when asked for; the latest ones are kept.

    Parameters
    ----------
    anatomy : Anatomy
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.shape = -(-anatomy.height // FIELD_PX), -(-anatomy.width // FIELD_PX)
        # Painting goes row by row and looks one field up and down: three rows are enough to make each once.
        # The floor keeps all fields of a small slide, which are needed for its annotations first.
        self.field = functools.lru_cache(maxsize=max(256, 3 * self.shape[1] + 8))(self._make)

    def _make(self, fy: int, fx: int) -> Nuclei:
        """Return the nuclei of one field."""
        margin = int(np.ceil(16 * self.anatomy.scale))
        around = Window(fy * FIELD_PX, fx * FIELD_PX, FIELD_PX, FIELD_PX).grow(margin, margin, margin, margin)
        classes = self.anatomy.classes(around)
        found = [self._strew(kind, around, margin, classes) for kind in KINDS if (classes == kind.home).any()]
        if not found:
            return Nuclei(
                np.zeros((0, VERTICES, 2)),
                np.zeros(0, np.uint8),
                np.zeros(0, np.float32),
                np.zeros((0, 2), np.float32),
            )
        return Nuclei(
            np.concatenate([n.outlines for n in found]),
            np.concatenate([n.kinds for n in found]),
            np.concatenate([n.densities for n in found]),
            np.concatenate([n.luck for n in found]),
        )

    def _strew(self, kind: NucleusKind, around: Window, margin: int, classes: NDArray[np.uint8]) -> Nuclei:
        anatomy, scale = self.anatomy, self.anatomy.scale
        spacing = kind.spacing * scale
        y0, x0 = around.y + margin, around.x + margin
        # Cells whose nominal centre (i + 0.5) * spacing is in the field; odd rows are shifted by half a cell
        # less than half to the side, so that the lattice does not show.
        rows = np.arange(np.ceil(y0 / spacing - 0.5), np.ceil((y0 + FIELD_PX) / spacing - 0.5), dtype=np.int64)
        cols = np.arange(np.ceil(x0 / spacing - 0.5), np.ceil((x0 + FIELD_PX) / spacing - 0.5), dtype=np.int64)
        iy, ix = (grid.ravel() for grid in np.meshgrid(rows, cols, indexing="ij"))

        def draw(stream: int) -> NDArray[np.float32]:
            return cell_uniform(iy, ix, anatomy.seed * 64 + 16 + kind.number * 12 + stream)

        some = draw(2) < kind.share
        iy, ix = iy[some], ix[some]
        cy = (iy + 0.5 + 0.62 * (draw(0) - 0.5)) * spacing
        cx = (ix + 0.5 + 0.62 * (draw(1) - 0.5) + 0.25 * (iy % 2 * 2 - 1)) * spacing
        size = (kind.radius * scale * np.exp(kind.spread * _normal(draw(3), draw(4)))).astype(np.float64)
        size = np.minimum(size, 13 * scale / np.sqrt(kind.stretch))
        some = self._at_home(kind, around, classes, cy, cx, size)
        if kind.cluster:
            # The edge of a cluster is ragged: every nucleus has a threshold of its own.
            crowd = noise_at(cy, cx, 150 * scale, anatomy.seed * 64 + 6)
            some &= crowd + 0.5 * (draw(9) - 0.5) > kind.cluster
        iy, ix, cy, cx, size = iy[some], ix[some], cy[some], cx[some], size[some]
        turn = np.pi * draw(5).astype(np.float64)
        if kind.stretch > 2:
            turn = self._fibre_angle(cy, cx) + 0.5 * (turn / np.pi - 0.5)
        stretch = 1 + (kind.stretch - 1) * draw(6).astype(np.float64)
        outlines = _ellipses(cy, cx, size, stretch, turn, np.stack([draw(7), draw(8)]))
        inside = ((outlines >= 0) & (outlines <= (anatomy.width, anatomy.height))).all(axis=(1, 2))
        density = kind.density * (0.8 + 0.4 * draw(9))
        luck = np.stack([draw(10), draw(11)], axis=1)
        return Nuclei(
            outlines[inside],
            np.full(int(inside.sum()), kind.number, np.uint8),
            density[inside].astype(np.float32),
            luck[inside],
        )

    def _at_home(
        self,
        kind: NucleusKind,
        around: Window,
        classes: NDArray[np.uint8],
        cy: NDArray[np.float64],
        cx: NDArray[np.float64],
        size: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Whether the middle and four points around it lie in the kind's own region."""
        home = np.ones(len(cy), np.bool_)
        for dy, dx in ((0, 0), (0.8, 0), (-0.8, 0), (0, 0.8), (0, -0.8)):
            row = np.clip(np.floor(cy + dy * size) - around.y, 0, around.height - 1).astype(np.int64)
            col = np.clip(np.floor(cx + dx * size) - around.x, 0, around.width - 1).astype(np.int64)
            home &= classes[row, col] == kind.home
        return home

    def _fibre_angle(self, cy: NDArray[np.float64], cx: NDArray[np.float64]) -> NDArray[np.float64]:
        here = fibre_coordinates(self.anatomy, cy, cx)[1]
        across_y = fibre_coordinates(self.anatomy, cy + 2, cx)[1] - here
        across_x = fibre_coordinates(self.anatomy, cy, cx + 2)[1] - here
        # Along the fibre v does not change: the direction is the gradient of v, turned by a right angle.
        return np.asarray(np.arctan2(-across_x, across_y))


def _normal(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return standard normal numbers from uniform ones (Box and Muller, 1958)."""
    return np.asarray(np.sqrt(-2 * np.log1p(-a.astype(np.float64))) * np.cos(2 * np.pi * b))


def _ellipses(
    cy: NDArray[np.float64],
    cx: NDArray[np.float64],
    size: NDArray[np.float64],
    stretch: NDArray[np.float64],
    turn: NDArray[np.float64],
    dents: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return outlines ``(n, 14, 2)``: ellipses of the same area whatever the stretch, slightly dented."""
    angle = np.arange(VERTICES) * (2 * np.pi / VERTICES)
    dent = (
        1
        + 0.07 * np.cos(2 * angle + 6.28 * dents[0][:, None])
        + 0.06 * np.cos(3 * angle + 6.28 * dents[1][:, None])
    )
    along = dent * np.cos(angle) * (size * np.sqrt(stretch))[:, None]
    across = dent * np.sin(angle) * (size / np.sqrt(stretch))[:, None]
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    xy = np.stack([cx[:, None] + along * cos - across * sin, cy[:, None] + along * sin + across * cos], axis=2)
    return np.round(xy, DECIMALS)
