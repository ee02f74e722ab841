"""Polygons to pixels: the pixel-centre rule, ties, holes, and independence of the block."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import shapely
from annotation_oracles import box, make_shapes, polygon, raster
from hypothesis import given, settings
from hypothesis import strategies as st
from osgeo import gdal, ogr

from slidesampler.annotations import paint, polygons, rasterize
from slidesampler.shapes import ShapeKind

SQUARE = [(2, 2), (12, 2), (12, 12), (2, 12)]


def painted(annots, ys, xs, **options):
    """1 + position of the last annotation over each pixel."""
    shapes = make_shapes(annots)
    out = np.zeros((len(ys), len(xs)), dtype=np.int32)
    paint(out, shapes, np.arange(len(annots)), np.arange(1, len(annots) + 1), ys, xs, **options)
    return out


def star(rng, center, radius, n, roughness=0.3):
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    r = radius * (1 + roughness * rng.uniform(-1, 1, n))
    return np.stack([center[0] + r * np.cos(angle), center[1] + r * np.sin(angle)], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_float_polygons_with_holes_agree_with_geos_at_pixel_centres(seed):
    rng = np.random.default_rng(seed)
    exterior, hole = star(rng, (30, 25), 24, 40), star(rng, (30, 25), 10, 12)
    geometry = shapely.Polygon(exterior, [hole])
    ys, xs = np.arange(60), np.arange(61)
    expected = shapely.intersects_xy(geometry, *np.meshgrid(xs + 0.5, ys + 0.5))
    np.testing.assert_array_equal(painted([polygon([exterior, hole])], ys, xs) == 1, expected)


@pytest.mark.parametrize("seed", range(5))
def test_float_polygons_agree_with_gdal(seed):
    rng = np.random.default_rng(seed)
    part = [star(rng, (40, 40), 35, 60), star(rng, (40, 40), 12, 9)]
    layer_source = ogr.GetDriverByName("Memory").CreateDataSource("")
    layer = layer_source.CreateLayer("shapes", None, ogr.wkbPolygon)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometryDirectly(ogr.CreateGeometryFromWkt(shapely.Polygon(part[0], [part[1]]).wkt))
    layer.CreateFeature(feature)
    target = gdal.GetDriverByName("MEM").Create("", 80, 81, 1, gdal.GDT_Byte)
    target.SetGeoTransform((0, 1, 0, 0, 0, 1))
    gdal.RasterizeLayer(target, [1], layer, burn_values=[1])
    np.testing.assert_array_equal(painted([polygon(part)], np.arange(81), np.arange(80)), target.ReadAsArray())


lattice = st.tuples(st.integers(-4, 24), st.integers(-4, 24)).map(lambda p: (p[0] / 2, p[1] / 2))
lattice_ring = st.lists(lattice, min_size=3, max_size=8)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(lattice_ring, min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_rings_on_the_half_pixel_lattice_agree_with_exact_arithmetic(parts):
    # Vertices on pixel centres and corners, rings that cross themselves and each other, holes outside their
    # exterior, repeated vertices: every tie there is.
    annot = {
        "kind": ShapeKind.POLYGON,
        "category": 1,
        "parts": parts,
        "area": 1,
        "box": [f(v[i] for part in parts for ring in part for v in ring) for f in (min, max) for i in (0, 1)],
    }
    ys, xs = np.arange(10), np.arange(11)
    np.testing.assert_array_equal(painted([annot], ys, xs) == 1, raster(annot, ys, xs))


# Multiples of 1/64: dense enough for edges of every slope, and exact in GEOS's arithmetic.
half_pixels, fine = st.integers(1, 31).map(lambda v: v / 2), st.integers(1, 1023).map(lambda v: v / 64)
mesh_coordinate = st.one_of(half_pixels, fine)
mesh_point = st.tuples(mesh_coordinate, mesh_coordinate)


@settings(max_examples=60, deadline=None)
@given(st.lists(mesh_point, min_size=1, max_size=25))
def test_triangles_that_share_edges_paint_every_pixel_of_a_square_once(points):
    corners = [(0.0, 0.0), (16.0, 0.0), (16.0, 16.0), (0.0, 16.0)]
    mesh = shapely.delaunay_triangles(shapely.MultiPoint(corners + points))
    pixels = np.arange(16)
    times = np.zeros((16, 16), dtype=int)
    for triangle in shapely.get_parts(mesh):
        times += painted([polygon([np.array(triangle.exterior.coords)[:-1]])], pixels, pixels)
    np.testing.assert_array_equal(times, 1)


def test_an_edge_through_a_pixel_centre_gives_the_pixel_to_one_of_its_two_polygons():
    # The end points are mirror images at the centre, so the crossing is the centre but for rounding; each
    # polygon runs along the edge in its own direction.
    rng = np.random.default_rng(0)
    pixels = np.arange(8)
    for _ in range(300):
        center = rng.integers(1, 7, 2) + 0.5
        a = center + rng.uniform(-9, 9, 2)
        b = 2 * center - a
        aside = rng.uniform(1, 3) * np.array([a[1] - b[1], b[0] - a[0]])
        times = painted([polygon([[a, b, center + aside]])], pixels, pixels)
        times += painted([polygon([[b, a, center - aside]])], pixels, pixels)
        x, y = (center - 0.5).astype(int)
        assert times[y, x] == 1


@pytest.mark.parametrize("x0", [2.0, 2.25, 2.5, 2.75])
@pytest.mark.parametrize("x1", [6.0, 6.25, 6.5, 6.75])
def test_rectangles_are_half_open_at_pixel_centres(x0, x1):
    pixels = np.arange(9)
    centers = pixels + 0.5
    inside = (centers >= x0) & (centers < x1)
    expected = np.outer(inside, inside)
    ring = [(x0, x0), (x1, x0), (x1, x1), (x0, x1)]
    np.testing.assert_array_equal(painted([polygon([ring])], pixels, pixels) == 1, expected)
    np.testing.assert_array_equal(painted([polygon([ring[::-1]])], pixels, pixels) == 1, expected)
    np.testing.assert_array_equal(painted([box(x0, x0, x1, x1)], pixels, pixels) == 1, expected)


def test_a_block_inside_a_huge_annotation_is_all_foreground():
    huge = polygon([star(np.random.default_rng(0), (50_000, 50_000), 40_000, 500, 0.1)])
    out = painted([huge], np.arange(50_000, 50_064), np.arange(50_000, 50_032))
    assert (out == 1).all()


def test_a_hole_is_background_and_an_island_in_it_is_a_part_of_its_own():
    hole, island = [(4, 4), (10, 4), (10, 10), (4, 10)], [(6, 6), (8, 6), (8, 8), (6, 8)]
    out = painted([polygon([SQUARE, hole], [island])], np.arange(14), np.arange(14))
    expected = np.zeros((14, 14), int)
    expected[2:12, 2:12] = 1
    expected[4:10, 4:10] = 0
    expected[6:8, 6:8] = 1
    np.testing.assert_array_equal(out, expected)


def test_holes_that_overlap_and_leave_the_exterior_only_take_away():
    first, second = [(4, 4), (8, 4), (8, 8), (4, 8)], [(6, 6), (20, 6), (20, 9), (6, 9)]
    out = painted([polygon([SQUARE, first, second])], np.arange(14), np.arange(22))
    expected = np.zeros((14, 22), int)
    expected[2:12, 2:12] = 1
    expected[4:8, 4:8] = 0
    expected[6:9, 6:20] = 0
    np.testing.assert_array_equal(out, expected)


def test_parts_that_overlap_are_united():
    shifted = [(x + 4, y + 4) for x, y in SQUARE]
    out = painted([polygon([SQUARE], [shifted])], np.arange(18), np.arange(18))
    assert (out == 1).sum() == 100 + 100 - 36


def crowd(seed, n=40, size=64):
    """Polygons with and without holes, crossing themselves, boxes between them."""
    rng = np.random.default_rng(seed)
    annots = []
    for i in range(n):
        center = rng.uniform(-5, size + 5, 2)
        if i % 5 == 0:
            annots.append(box(*(center - 3), *(center + rng.uniform(0, 6, 2))))
        elif i % 3 == 0:
            annots.append(
                polygon([star(rng, center, 9, 9), star(rng, center, 3, 5)], [star(rng, center + 9, 3, 4)])
            )
        else:
            annots.append(polygon([rng.uniform(center - 6, center + 6, (rng.integers(3, 9), 2))]))
    return annots


cuts = st.lists(st.integers(0, 64), max_size=4).map(lambda inner: sorted({0, 64, *inner}))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), cuts, cuts)
def test_any_way_to_cut_a_region_into_blocks_gives_the_same_pixels(seed, rows, cols):
    annots = crowd(seed)
    pixels = np.arange(64)
    whole = painted(annots, pixels, pixels)
    for y0, y1 in pairwise(rows):
        for x0, x1 in pairwise(cols):
            block = painted(annots, pixels[y0:y1], pixels[x0:x1])
            np.testing.assert_array_equal(block, whole[y0:y1, x0:x1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.data())
def test_any_ascending_sample_of_pixels_is_the_full_raster_at_these_pixels(seed, data):
    annots = crowd(seed)
    pixels = np.arange(64)
    some = st.lists(st.integers(0, 63), min_size=1, max_size=30).map(lambda v: np.array(sorted(v)))
    ys, xs = data.draw(some), data.draw(some)
    np.testing.assert_array_equal(painted(annots, ys, xs), painted(annots, pixels, pixels)[np.ix_(ys, xs)])


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(polygons, "MAX_CROSSINGS", 8), (rasterize, "MAX_VERTICES", 10), (rasterize, "MAX_ANNOTS", 2)],
)
def test_bounded_memory_changes_no_pixel(monkeypatch, module, name, value):
    annots, pixels = crowd(1), np.arange(64)
    whole = painted(annots, pixels, pixels)
    monkeypatch.setattr(module, name, value)
    np.testing.assert_array_equal(painted(annots, pixels, pixels), whole)


def test_crossings_in_memory_are_bounded(monkeypatch):
    # A comb of 200 teeth crosses every one of 300 rows 400 times.
    teeth = [(x, 0.1 if x % 2 else 299.9) for x in range(400)]
    monkeypatch.setattr(polygons, "MAX_CROSSINGS", 5000)
    seen = []
    original = polygons._crossing_x
    monkeypatch.setattr(
        polygons, "_crossing_x", lambda edges, edge, yc: seen.append(len(edge)) or original(edges, edge, yc)
    )
    out = painted([polygon([teeth])], np.arange(300), np.arange(400))
    assert len(seen) > 10
    assert max(seen) <= 5000
    assert (out == 1).any()


def test_only_edges_at_the_rows_of_the_block_are_computed_with(monkeypatch):
    outline = star(np.random.default_rng(0), (10_000, 10_000), 9_000, 50_000, 0.0001)
    counted = []
    original = polygons._crossing_x
    monkeypatch.setattr(
        polygons,
        "_crossing_x",
        lambda edges, edge, yc: counted.append(len(edges.ring)) or original(edges, edge, yc),
    )
    painted([polygon([outline])], np.arange(10_000, 10_064), np.arange(1000, 1064))
    assert 0 < counted[0] < 1000


def test_pixels_under_no_annotation_and_strided_targets_are_kept():
    big = np.full((20, 40), 9, np.uint8)
    shapes = make_shapes([polygon([SQUARE])])
    paint(big[::2, 1::3], shapes, np.array([0]), np.array([4]), np.arange(10), np.arange(13))
    expected = np.full((20, 40), 9, np.uint8)
    expected[::2, 1::3][2:10, 2:12] = 4
    np.testing.assert_array_equal(big, expected)


def test_the_order_of_rows_decides_who_is_on_top():
    shapes = make_shapes([polygon([SQUARE]), polygon([[(x + 3, y) for x, y in SQUARE]])])
    for order in ([0, 1], [1, 0]):
        out = np.zeros((14, 18), np.uint8)
        paint(out, shapes, np.array(order), np.array(order) + 1, np.arange(14), np.arange(18))
        assert (out[2:12, 5:12] == order[-1] + 1).all()
        assert (out[2:12, 2:5] == 1).all()
        assert (out[2:12, 12:15] == 2).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_empty_block_is_nothing_to_do(shape):
    assert painted([polygon([SQUARE])], np.arange(shape[0]), np.arange(shape[1])).shape == shape
