"""Long polygons: what a window looks at, and that it makes no difference."""

from __future__ import annotations

import numpy as np
import pytest
from annotation_oracles import make_shapes, polygon, ring_holds
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.annotations import AnnotIndex, label_block, outlines, paint, polygons
from slidesampler.annotations.outlines import Outlines
from slidesampler.geometry import Window
from slidesampler.models import ClassMap, LabelSpec

CLASSES = ClassMap(("background", "a"), {1: 1})


def circle(center, radius, n):
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)


def test_a_window_at_the_border_of_a_huge_outline_looks_at_few_of_its_edges(monkeypatch):
    shapes = make_shapes([polygon([circle((50_000, 50_000), 40_000, 100_000)])])
    index = AnnotIndex(shapes)
    looked_at = []
    original = Outlines.edges_across
    monkeypatch.setattr(
        Outlines, "edges_across", lambda *args: looked_at.append(original(*args)) or looked_at[-1]
    )
    ys, xs = np.arange(50_000, 50_064), np.arange(9_980, 10_044)
    mask = label_block(shapes, index, CLASSES, LabelSpec(), ys, xs)
    distance = np.hypot(ys[:, None] + 0.5 - 50_000, xs + 0.5 - 50_000)
    clear = np.abs(distance - 40_000) > 0.1
    np.testing.assert_array_equal(mask[clear], (distance < 40_000)[clear].astype(int))
    assert 0 < len(looked_at[0]) < 1000
    read = []
    ranges = outlines.ragged_arange
    monkeypatch.setattr(outlines, "ragged_arange", lambda *args: read.append(ranges(*args)) or read[-1])
    # Elsewhere one vertex in 64 is read, and next to none is handed on.
    assert len(index.outlines.near(shapes, 0, Window(50_000, 9_980, 64, 64)).xy) < 200
    assert len(read[0]) < 100_000 / 64 + 500


def test_short_polygons_have_no_outline():
    found = Outlines(make_shapes([polygon([circle((50, 50), 40, 256)]), polygon([circle((50, 50), 40, 257)])]))
    assert [row in found for row in range(2)] == [False, True]


def test_a_slice_of_shapes_has_the_outlines_of_its_rows():
    shapes = make_shapes([polygon([circle((c, 50), 40, n)]) for c, n in ((50, 300), (200, 20), (400, 500))])
    part = shapes.rows(1, 3)
    found = Outlines(part)
    assert [row in found for row in range(2)] == [False, True]
    near = found.near(part, 1, Window(0, 300, 100, 200))
    np.testing.assert_array_equal(near.xy, circle((400, 50), 40, 500))


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
    monkeypatch.setattr(outlines, "LONG_POLYGON", 0)
    monkeypatch.setattr(outlines, "STRETCH", 3)
    monkeypatch.setattr("slidesampler.annotations.rasterize.ALONE_VERTICES", 0)
    found, used = Outlines(shapes), []
    original = polygons._edges_across
    monkeypatch.setattr(
        polygons, "_edges_across", lambda r, yc, some: used.append(some is not None) or original(r, yc, some)
    )
    for y in range(0, 80, 7):
        paint(out[y : y + 7], shapes, rows, rows + 1, pixels[y : y + 7], pixels, outlines=found)
    assert used
    assert all(used)
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
        patch.setattr(outlines, "LONG_POLYGON", 0)
        patch.setattr(outlines, "STRETCH", 4)
        near = Outlines(shapes).near(shapes, 0, window)
    points = rng.uniform((window.x, window.y), (window.x1, window.y1), (5, 2))
    for number, ring in enumerate(ring for part in parts for ring in part):
        short = near.xy[near.ring == number]
        assert len(short) <= len(ring)
        for x, y in points:
            assert ring_holds(short.tolist() or [(0, 0)], x, y) == ring_holds(ring.tolist(), x, y)
