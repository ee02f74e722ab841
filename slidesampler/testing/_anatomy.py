"""Where things are on a synthetic slide: tissue outlines, tumours with holes, necroses, artefacts.

Everything is a star-shaped curve, so that "does this fit in there" is a distance and needs no geometry
library. Sizes are in pixels; those that belong to biology scale with the slide's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window
from slidesampler.models import Part, Ring
from slidesampler.rng import rng_for
from slidesampler.testing._raster import inside_rings

__all__ = ["GLASS", "LUMEN", "NECROSIS", "STROMA", "TUMOUR", "Anatomy", "plan_anatomy"]

#: What a pixel of :meth:`Anatomy.classes` is made of.
GLASS, STROMA, TUMOUR, NECROSIS, LUMEN = range(5)

#: Resolution at which the sizes below are meant, micrometres per pixel.
REFERENCE_MPP = 0.5
#: Decimals of a vertex: short in JSON, yet so fine that no edge runs through a pixel centre by accident.
DECIMALS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The plan of a slide; everything painted or annotated follows from it and the seed.

    Parameters
    ----------
    height, width : int
        Pixels.
    scale : float
        Pixels per pixel of a 0.5 micrometre slide.
    seed : int
    tissue : tuple of Ring
        Outlines of the pieces of tissue; disjoint.
    tumours : tuple of tuple of Part
        One annotation each: a main part with holes, and satellites. Disjoint, inside the tissue.
    necroses : tuple of Ring
        Each is a hole of a tumour, filled with dead tissue. The other holes are lumens: empty.
    pen, fold : Ring or None
        A stroke of a marker on the glass, a fold of the tissue.
    layers : tuple of (Ring, int)
        Every ring and what it is filled with, in painting order; follows from the above.
    bounds : ndarray of float64, shape (layers, 4)
        Their boxes, xyxy.
    """

    height: int
    width: int
    scale: float
    seed: int
    tissue: tuple[Ring, ...]
    tumours: tuple[tuple[Part, ...], ...]
    necroses: tuple[Ring, ...]
    pen: Ring | None
    fold: Ring | None

    layers: tuple[tuple[Ring, int], ...] = field(init=False)
    bounds: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        parts = [part for tumour in self.tumours for part in tumour]
        layers = [(outline, STROMA) for outline in self.tissue]
        layers += [(part[0], TUMOUR) for part in parts]
        layers += [(hole, LUMEN) for part in parts for hole in part[1:]]
        layers += [(ring, NECROSIS) for ring in self.necroses]
        object.__setattr__(self, "layers", tuple(layers))
        bounds = [np.concatenate([ring.min(axis=0), ring.max(axis=0)]) for ring, _ in layers]
        object.__setattr__(self, "bounds", np.array(bounds))

    def classes(self, window: Window) -> NDArray[np.uint8]:
        """Return what each pixel is made of, uint8 ``(h, w)``, from ``GLASS`` to ``LUMEN``."""
        out = np.zeros(window.shape, np.uint8)
        for layer in self.touching(window):
            ring, kind = self.layers[layer]
            x0, y0, x1, y1 = (int(v) for v in self.bounds[layer])
            box = Window(y0, x0, y1 - y0 + 1, x1 - x0 + 1).intersect(window)
            assert box is not None
            part = out[box.shift(-window.y, -window.x).as_slices()]
            part[inside_rings([ring], box)] = kind
        return out

    def touching(self, window: Window) -> list[int]:
        """Return which layers have a box that shares area with the window, in painting order."""
        x0, y0, x1, y1 = self.bounds.T
        near = (x0 < window.x1) & (x1 > window.x) & (y0 < window.y1) & (y1 > window.y)
        return [int(layer) for layer in np.flatnonzero(near)]


def plan_anatomy(height: int, width: int, seed: int, mpp: float, artefacts: bool) -> Anatomy:
    """Return the plan of a slide of ``height`` x ``width`` pixels of ``mpp`` micrometres."""
    rng = rng_for(seed, stream="anatomy")
    scale = REFERENCE_MPP / mpp
    tissue = _tissue(rng, height, width, scale)
    tumours: list[tuple[Part, ...]] = []
    necroses: list[Ring] = []
    for outline in tissue:
        room = [outline]
        for number in range(int(rng.integers(2, 5))):
            main = _place(rng, room, scale, biggest=number == 0)
            if main is None:
                break
            room.append(main)
            holes, dead = _holes(rng, main, scale)
            parts: list[Part] = [(main, *holes)]
            for _ in range(int(rng.integers(0, 3))):
                satellite = _place(rng, room, scale, near=main)
                if satellite is not None:
                    room.append(satellite)
                    parts.append((satellite,))
            tumours.append(tuple(parts))
            necroses.extend(dead)
    plan = Anatomy(height, width, scale, seed, tissue, tuple(tumours), tuple(necroses), None, None)
    if not artefacts:
        return plan
    # Drawn from a stream of their own: the same slide with and without.
    rng = rng_for(seed, stream="artefacts")
    return replace(plan, pen=_pen(rng, plan), fold=_fold(rng, plan))


def _star(rng: np.random.Generator, n: int, roughness: float, decay: float) -> NDArray[np.float64]:
    """Return ``n`` points of a closed curve around the origin, radius at most 1."""
    angle = np.arange(n) * (2 * np.pi / n)
    harmonic = np.arange(1, max(2, min(n // 4, 300)))
    size = rng.standard_normal((2, len(harmonic))) * roughness / harmonic**decay
    turns = harmonic[:, None] * angle
    radius = np.exp(size[0] @ np.cos(turns) + size[1] @ np.sin(turns))
    radius /= radius.max()
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _vertex_count(radius: float, scale: float) -> int:
    return int(np.clip(2 * np.pi * radius / (14 * scale), 16, 1600))


def _tissue(rng: np.random.Generator, height: int, width: int, scale: float) -> tuple[Ring, ...]:
    long_side, short_side = max(height, width), min(height, width)
    pieces = int(np.clip(round(long_side / short_side), 1, 4))
    slot = long_side / pieces
    outlines = []
    for number in range(pieces):
        ring = _star(rng, _vertex_count(max(slot, short_side) / 2, scale), 0.22, 1.45)
        low, high = ring.min(axis=0), ring.max(axis=0)
        unit = (ring - (low + high) / 2) / (high - low)
        # Along the long side the pieces stand in a row; each fills most of its slot.
        along = (number + 0.5) * slot + rng.uniform(-0.03, 0.03) * slot
        across = short_side / 2 + rng.uniform(-0.03, 0.03) * short_side
        spans = rng.uniform(0.80, 0.90) * slot, rng.uniform(0.80, 0.90) * short_side
        if width >= height:
            ring = unit * spans + (along, across)
        else:
            ring = unit * spans[::-1] + (across, along)
        outlines.append(_rounded(ring))
    return tuple(outlines)


def _place(
    rng: np.random.Generator,
    room: list[Ring],
    scale: float,
    *,
    biggest: bool = False,
    near: Ring | None = None,
) -> Ring | None:
    """Return an outline inside ``room[0]`` that keeps clear of the others, or None where there is no room."""
    outline, others = room[0], room[1:]
    low, high = outline.min(axis=0), outline.max(axis=0)
    span = float((high - low).min())
    largest, smallest = (0.05 * span, 0.02 * span) if near is not None else (0.27 * span, 0.09 * span)
    gap = min(30 * scale, 0.02 * span)
    best: tuple[float, NDArray[np.float64]] | None = None
    for _ in range(48):
        if near is None:
            center = rng.uniform(low, high)
        else:
            middle = near.mean(axis=0)
            away = near[rng.integers(len(near))] - middle
            center = middle + away * (1 + (largest + gap) / np.hypot(*away))
        free = _clearance(center, outline, others) - gap
        if free > smallest and (best is None or free > best[0]):
            best = free, center
            if not biggest:
                break
    if best is None:
        return None
    radius = min(best[0], largest) * (0.95 if biggest else rng.uniform(0.75, 0.95))
    return _rounded(best[1] + radius * _star(rng, _vertex_count(radius, scale), 0.22, 1.3))


def _clearance(center: NDArray[np.float64], outline: Ring, others: list[Ring]) -> float:
    """Return how far a point is from the outline and the others; negative outside or inside one of them."""
    if not _inside(center, outline) or any(_inside(center, other) for other in others):
        return -1.0
    return _distance(center, [outline, *others])


def _inside(center: NDArray[np.float64], ring: Ring) -> bool:
    below = ring[:, 1] <= center[1]
    # Edges that cross the point's row: the ends lie on different sides of it.
    start = np.flatnonzero(below != np.concatenate([below[1:], below[:1]]))
    a, b = ring[start], ring[(start + 1) % len(ring)]
    crossing = a[:, 0] + (center[1] - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return bool(np.count_nonzero(crossing <= center[0]) % 2)


def _distance(center: NDArray[np.float64], rings: list[Ring]) -> float:
    # To the nearest vertex, less half an edge: never more than the distance to the curve.
    away = np.concatenate(rings) - center
    edge = max(float(np.hypot(*(ring[1] - ring[0]))) for ring in rings)
    return float(np.sqrt((away * away).sum(axis=1).min())) - edge / 2


def _holes(rng: np.random.Generator, main: Ring, scale: float) -> tuple[list[Ring], list[Ring]]:
    """Return the holes of a tumour, and those of them that are necrotic."""
    middle = main.mean(axis=0)
    free = _clearance(middle, main, [])
    largest = float(np.hypot(*(main - middle).T).max())
    holes: list[Ring] = []
    dead: list[Ring] = []
    if free > 180 * scale and rng.random() < 0.75:
        radius = free * rng.uniform(0.42, 0.6)
        dead.append(_rounded(middle + radius * _star(rng, _vertex_count(radius, scale), 0.2, 1.3)))
        holes.append(dead[0])
    wall = 22 * scale
    wanted = int(np.clip(largest**2 / (150 * scale) ** 2, 1, 60))
    for _ in range(wanted * 12):
        if len(holes) >= wanted:
            break
        # The first one is in the middle, where it fits whatever the size of the slide.
        center = middle if not holes else middle + rng.uniform(-1, 1, 2) * largest
        size = min(scale * float(rng.gamma(4.0, 11.0)) + 14 * scale, 0.25 * free)
        if _distance(center, [main, *holes]) < size + min(wall, 0.2 * free):
            continue
        if _clearance(center, main, holes) < 0:
            continue
        holes.append(_rounded(center + size * _star(rng, _vertex_count(size, scale / 3), 0.16, 1.2)))
    return holes, dead


def _stroke(points: NDArray[np.float64], half_width: NDArray[np.float64]) -> Ring:
    along = np.gradient(points, axis=0)
    normal = along[:, ::-1] * (1, -1) / np.hypot(*along.T)[:, None]
    side = normal * half_width[:, None]
    return _rounded(np.concatenate([points + side, (points - side)[::-1]]))


def _pen(rng: np.random.Generator, plan: Anatomy) -> Ring:
    """Return a marker's arc around part of the first piece of tissue, at its edge."""
    outline = plan.tissue[int(rng.integers(len(plan.tissue)))]
    middle = outline.mean(axis=0)
    reach = (outline.max(axis=0) - outline.min(axis=0)) / 2
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(0.5, 0.9), 60)
    wobble = 1.0 + 0.02 * np.sin(angle * 9) + np.linspace(0, rng.uniform(-0.08, 0.08), 60)
    points = middle + np.stack([np.cos(angle), np.sin(angle)], 1) * reach * 1.03 * wobble[:, None]
    half = 0.010 * min(plan.height, plan.width) * (1 + 0.15 * rng.standard_normal(60).cumsum() / 8)
    half[[0, -1]] *= 0.4
    return _stroke(points, np.abs(half) + 1)


def _fold(rng: np.random.Generator, plan: Anatomy) -> Ring:
    """Return a narrow band across part of a piece of tissue."""
    outline = plan.tissue[int(rng.integers(len(plan.tissue)))]
    low, high = outline.min(axis=0), outline.max(axis=0)
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.6, 0.6)
    t = np.linspace(-1, 1, 80)
    turned = angle + bend * t
    step = np.stack([np.cos(turned), np.sin(turned)], 1) * float((high - low).min()) * 0.28 / 40
    start = low + (high - low) * rng.uniform(0.3, 0.7, 2)
    points = start + step.cumsum(axis=0) - step.sum(axis=0) / 2
    half = 0.0045 * min(plan.height, plan.width) * (1 - t**2) * (1 + 0.3 * np.sin(t * 11 + angle))
    return _stroke(points, half + 0.5)


def _rounded(ring: NDArray[np.float64]) -> Ring:
    return np.round(ring, DECIMALS)
