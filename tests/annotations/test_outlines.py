"""Long polygons: what a window looks at, and that it makes no difference."""

from __future__ import annotations

import numpy as np
import pytest
from annotation_oracles import make_shapes, polygon, ring_holds, small_trees
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.annotations import AnnotIndex, label_block, outlines, paint, polygons
from slidesampler.annotations.outlines import Outlines
from slidesampler.geometry import Window
from slidesampler.models import ClassMap, LabelSpec
from slidesampler.shape_index import index_shapes
from slidesampler.shapes import ShapeKind

CLASSES = ClassMap(("background", "a"), {1: 1})


def circle(center, radius, n):
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)


@pytest.fixture
def read(monkeypatch):
    """Vertices that the outlines have read, call by call."""
    counts = []
    original = outlines._sides
    monkeypatch.setattr(outlines, "_sides", lambda xy, *box: counts.append(len(xy)) or original(xy, *box))
    return counts


@pytest.mark.parametrize("vertices", [1000, 50_000, 1_000_000])
def test_a_window_at_the_border_of_a_huge_outline_looks_at_few_of_its_vertices(vertices, read, monkeypatch):
    shapes = make_shapes([circle_annotation((50_000, 50_000), 40_000, vertices)])
    index = AnnotIndex(shapes)
    ys, xs = np.arange(50_000, 50_064), np.arange(9_980, 10_044)
    edges = []
    original = polygons._edges_across
    monkeypatch.setattr(
        polygons, "_edges_across", lambda rings, yc: edges.append(len(rings.xy)) or original(rings, yc)
    )
    mask = label_block(shapes, index, CLASSES, LabelSpec(), ys, xs)
    distance = np.hypot(ys[:, None] + 0.5 - 50_000, xs + 0.5 - 50_000)
    clear = np.abs(distance - 40_000) > 0.1
    if vertices > 1000:
        np.testing.assert_array_equal(mask[clear], (distance < 40_000)[clear].astype(int))
    near = index.outlines.near(shapes, 0, 9_980, 50_000, 10_044, 50_064)
    # One vertex for every far piece of 64 edges, 64 such pieces, 64 pieces of pieces; few are handed on.
    assert read[0] == read[1] < 64 * 8
    in_sight = vertices * 64 / (2 * np.pi * 40_000)
    assert len(near.vertices) <= edges[0] + 2 < 1.1 * in_sight + 20


def circle_annotation(center, radius, n):
    ring = circle(center, radius, n)
    return {
        "kind": ShapeKind.POLYGON,
        "category": 1,
        "parts": [[ring]],
        "box": [*ring.min(0), *ring.max(0)],
        "area": np.pi * radius**2,
    }


def test_thousands_of_holes_elsewhere_are_not_read(read):
    corners = np.array([(0, 0), (4, 0), (4, 4), (0, 4)])
    holes = [corners + np.array((10 * x + 3, 10 * y + 3)) for y in range(100) for x in range(100)]
    shapes = make_shapes(
        [
            {
                **polygon([[(0, 0), (1000, 0), (1000, 1000), (0, 1000)]]),
                "parts": [[np.array([(0, 0), (1000, 0), (1000, 1000), (0, 1000)]), *holes]],
            }
        ]
    )
    index = AnnotIndex(shapes)
    ys, xs = np.arange(500, 530), np.arange(600, 640)
    mask = label_block(shapes, index, CLASSES, LabelSpec(), ys, xs)
    hole = _in_hole(ys)[:, None] & _in_hole(xs)
    np.testing.assert_array_equal(mask, (~hole).astype(int))
    assert read[0] < 1500


def _in_hole(pixels):
    return (pixels % 10 >= 3) & (pixels % 10 < 7)


def test_short_polygons_have_no_outline():
    index = AnnotIndex(
        make_shapes([polygon([circle((50, 50), 40, 256)]), polygon([circle((50, 50), 40, 257)])])
    )
    assert [row in index.outlines for row in range(2)] == [False, True]
    assert index.outlines.include(np.array([1, 0, 1])).tolist() == [True, False, True]


def test_a_slice_of_shapes_has_the_outlines_of_its_rows():
    shapes = make_shapes([polygon([circle((c, 50), 40, n)]) for c, n in ((50, 300), (200, 20), (400, 500))])
    part = shapes.rows(1, 3)
    packed = index_shapes(shapes, np.array([0, 1, 3]))
    for index in (AnnotIndex(part), AnnotIndex(part, packed, 1, 1)):
        assert [row in index.outlines for row in range(2)] == [False, True]
        near = index.outlines.near(part, 1, 300, 0, 500, 100)
        np.testing.assert_array_equal(shapes.vertices[near.vertices], circle((400, 50), 40, 500))


@pytest.mark.parametrize("seed", range(4))
def test_outlines_change_no_pixel(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    annots = [
        polygon(
            *[
                [rng.uniform(0, 80, (rng.integers(3, 40), 2)) for _ in range(rng.integers(1, 4))]
                for _ in range(2)
            ]
        )
        for _ in range(4)
    ]
    shapes, rows, pixels = make_shapes(annots), np.arange(4), np.arange(80)
    expected, out = np.zeros((80, 80), np.uint8), np.zeros((80, 80), np.uint8)
    paint(expected, shapes, rows, rows + 1, pixels, pixels)
    small_trees(monkeypatch)
    found, used = AnnotIndex(shapes).outlines, []
    original = Outlines.near
    monkeypatch.setattr(Outlines, "near", lambda *args: used.append(args) or original(*args))
    for y in range(0, 80, 7):
        paint(out[y : y + 7], shapes, rows, rows + 1, pixels[y : y + 7], pixels, outlines=found)
    assert len(used) > 4
    np.testing.assert_array_equal(out, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_shortened_rings_wind_around_every_point_of_the_window_as_before(seed):
    rng = np.random.default_rng(seed)
    parts = [
        [rng.uniform(0, 60, (rng.integers(3, 30), 2)) for _ in range(rng.integers(1, 4))] for _ in range(2)
    ]
    shapes = make_shapes([polygon(*parts)])
    window = Window(*rng.integers(5, 50, 2).tolist(), *rng.integers(1, 12, 2).tolist())
    with pytest.MonkeyPatch.context() as patch:
        small_trees(patch)
        near = AnnotIndex(shapes).outlines.near(shapes, 0, *window.as_xyxy())
    points = rng.uniform((window.x, window.y), (window.x1, window.y1), (5, 2))
    for number, ring in enumerate(ring for part in parts for ring in part):
        short = shapes.vertices[near.vertices[near.rings == number]]
        assert len(short) <= len(ring)
        for x, y in points:
            assert ring_holds(short.tolist() or [(0, 0)], x, y) == ring_holds(ring.tolist(), x, y)
