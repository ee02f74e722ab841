"""Annotations of a window: relative coordinates, clipped polygons, visible shares."""

from __future__ import annotations

import kwimage
import numpy as np
import pytest
import shapely
from annotation_oracles import box, keypoints, make_shapes, polygon, rle, small_trees
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler import shape_index
from slidesampler.annotations import AnnotIndex, annots_in_window, polyclip
from slidesampler.errors import ManifestError
from slidesampler.geometry import Window
from slidesampler.models import NO_CATEGORY, ClassMap

CLASSES = ClassMap(("background", "a", "b"), {1: 1, 2: 2})
SQUARE = np.array([(2.0, 2.0), (12.0, 2.0), (12.0, 12.0), (2.0, 12.0)])


def clipped(annots, window, size=None, threshold=0.0):
    shapes = make_shapes(annots)
    return annots_in_window(shapes, AnnotIndex(shapes), CLASSES, window, size or window.shape, threshold)


def as_geometry(parts):
    return shapely.union_all([shapely.Polygon(part[0], part[1:]) for part in parts])


def star(rng, center, radius, n, roughness=0.3):
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    r = radius * (1 + roughness * rng.uniform(-1, 1, n))
    return np.stack([center[0] + r * np.cos(angle), center[1] + r * np.sin(angle)], axis=1)


def test_columns_are_relative_and_in_the_order_of_the_manifest():
    annots = clipped(
        [box(50, 50, 60, 60), polygon([SQUARE], category=2), box(-5, 3, 4, 8, category=None)],
        Window(1, 2, 20, 30),
    )
    assert annots.annot_ids.tolist() == [101, 102]
    assert annots.category_ids.tolist() == [2, NO_CATEGORY]
    assert annots.class_index.tolist() == [2, 255]
    assert annots.boxes_xyxy.tolist() == [[0, 1, 10, 11], [-7, 2, 2, 7]]
    np.testing.assert_array_equal(annots.polygons[0][0][0], SQUARE - (2, 1))
    assert annots.polygons[1] == ()
    assert [k.shape for k in annots.keypoints] == [(0, 3), (0, 3)]
    assert annots.visible.tolist() == [1.0, 2 / 9]


def test_coordinates_are_scaled_to_the_sample():
    annots = clipped([polygon([SQUARE]), keypoints((6, 10, 2))], Window(0, 2, 20, 40), size=(10, 80))
    assert annots.boxes_xyxy[0].tolist() == [0, 1, 20, 6]
    np.testing.assert_array_equal(annots.polygons[0][0][0], (SQUARE - (2, 0)) * (2, 0.5))
    assert annots.keypoints[1].tolist() == [[8, 5, 2]]


def test_what_is_handed_out_is_not_the_manifest_itself():
    shapes = make_shapes([polygon([SQUARE]), keypoints((6, 10, 2))])
    before = shapes.vertices.copy(), shapes.keypoints.copy(), shapes.boxes_xyxy.copy()
    annots = annots_in_window(shapes, AnnotIndex(shapes), CLASSES, Window(0, 0, 20, 20), (20, 20))
    annots.polygons[0][0][0][:] = -1
    annots.keypoints[1][:] = -1
    annots.boxes_xyxy[:] = -1
    for now, then in zip((shapes.vertices, shapes.keypoints, shapes.boxes_xyxy), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("seed", range(15))
def test_clipped_polygons_and_shares_agree_with_geos(seed):
    rng = np.random.default_rng(seed)
    part = [star(rng, (30, 30), 25, 30), star(rng, (30, 30), 10, 10)]
    window = Window(*rng.integers(0, 40, 2).tolist(), *rng.integers(5, 30, 2).tolist())
    annots = clipped([polygon(part)], window)
    full = shapely.Polygon(part[0], [part[1]])
    inside = shapely.intersection(full, shapely.box(*window.as_xyxy()))
    if not inside.area:
        assert len(annots) == 0
        return
    assert annots.visible[0] == pytest.approx(inside.area / full.area, rel=1e-12)
    moved = shapely.transform(inside, lambda xy: xy - (window.x, window.y))
    assert as_geometry(annots.polygons[0]).symmetric_difference(moved).area < 1e-9
    for part in annots.polygons[0]:
        for ring in part:
            assert (ring >= 0).all()
            assert (ring <= (window.width, window.height)).all()
            assert ring[0].tolist() != ring[-1].tolist()


@pytest.mark.parametrize("seed", range(12))
def test_long_outlines_look_the_same_though_only_their_near_part_is_looked_at(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    part = [star(rng, (500, 500), 400, 900, 0.05), star(rng, (500, 500), 200, 500, 0.3)]
    annots = [polygon(part, [star(rng, (500, 500), 100, 300, 0.1)])]
    windows = [Window(*rng.integers(50, 900, 2).tolist(), *rng.integers(5, 200, 2).tolist()) for _ in range(12)]
    quick = [clipped(annots, window) for window in windows]
    monkeypatch.setattr(shape_index, "LONG_POLYGON", 10**9)
    assert any(len(some) for some in quick)
    for window, some in zip(windows, quick, strict=True):
        whole = clipped(annots, window)
        assert len(some) == len(whole)
        np.testing.assert_allclose(some.visible, whole.visible, rtol=1e-9)
        if len(some):
            a, b = as_geometry(some.polygons[0]), as_geometry(whole.polygons[0])
            assert a.symmetric_difference(b).area < 1e-6


def test_only_vertices_near_the_window_of_a_long_outline_reach_geos(monkeypatch):
    outline = polygon([star(np.random.default_rng(0), (10_000, 10_000), 9_000, 50_000, 0.0001)])
    seen = []
    original = shapely.linearrings
    monkeypatch.setattr(
        polyclip.shapely,
        "linearrings",
        lambda xy, indices: seen.append(len(xy)) or original(xy, indices=indices),
    )
    annots = clipped([outline], Window(10_000, 900, 256, 256))
    assert 0 < annots.visible[0] < 1
    assert seen[0] < 500


def test_a_window_inside_a_huge_annotation_shows_all_of_the_window():
    outline = star(np.random.default_rng(0), (10_000, 10_000), 9_000, 5_000, 0.1)
    annots = clipped([polygon([outline])], Window(10_000, 10_000, 100, 200))
    assert annots.visible[0] == pytest.approx(100 * 200 / shapely.Polygon(outline).area)
    assert as_geometry(annots.polygons[0]).equals(shapely.box(0, 0, 200, 100))


def test_holes_stay_holes_and_parts_stay_parts():
    hole = np.array([(4, 4), (10, 4), (10, 10), (4, 10)])
    annot = polygon([SQUARE, hole], [SQUARE + np.array((20, 0))])
    everything = clipped([annot], Window(0, 0, 40, 40))
    assert [len(part) for part in everything.polygons[0]] == [2, 1]
    left = clipped([annot], Window(0, 0, 40, 11))
    assert [len(part) for part in left.polygons[0]] == [2]
    assert left.visible[0] == pytest.approx((9 * 10 - 6 * 6) / (64 + 100))
    # Cut through the hole: a part that falls apart becomes two.
    row = clipped([annot], Window(6, 0, 2, 40))
    assert sorted(as_geometry([part]).bounds for part in row.polygons[0]) == [
        (2.0, 0.0, 4.0, 2.0),
        (10.0, 0.0, 12.0, 2.0),
        (22.0, 0.0, 32.0, 2.0),
    ]


def test_an_annotation_whose_box_alone_reaches_into_the_window_is_dropped():
    triangle = polygon([[(0, 0), (20, 0), (0, 20)]])
    mask = np.zeros((20, 20), bool)
    mask[:3] = mask[:, :3] = True
    window = Window(15, 15, 5, 5)
    assert len(clipped([triangle, rle(mask), keypoints((0, 0, 2), (18, 0, 2), (0, 18, 2))], window)) == 0
    # It touches the window's corner (10, 10) and no more.
    assert len(clipped([triangle], Window(10, 10, 5, 5))) == 0
    assert len(clipped([triangle], Window(9, 9, 5, 5))) == 1


def test_a_window_in_a_hole_shows_nothing():
    hole = np.array([(4, 4), (10, 4), (10, 10), (4, 10)])
    assert len(clipped([polygon([SQUARE, hole])], Window(5, 5, 3, 3))) == 0


BOW_TIE = [(0, 0), (10, 10), (10, 0), (0, 10)]


@pytest.mark.parametrize("length", [4, 400])
def test_rings_that_cross_themselves_are_read_even_odd(length):
    # The lobes of a bow tie wind in opposite directions: their signed areas cancel out.
    ring = np.array(
        [
            np.linspace(a, b, length // 4, endpoint=False)
            for a, b in zip(BOW_TIE, BOW_TIE[1:] + BOW_TIE[:1], strict=True)
        ]
    ).reshape(-1, 2)
    annot = polygon([ring])
    assert annot["area"] == pytest.approx(50)
    half = clipped([annot], Window(0, 0, 10, 5))
    assert half.visible[0] == pytest.approx(0.5)
    assert as_geometry(half.polygons[0]).equals(shapely.Polygon([(0, 0), (5, 5), (0, 10)]))


def test_a_bow_tie_whose_signed_area_is_nothing_is_visible():
    annot = {**polygon([BOW_TIE]), "area": 0.0}
    assert clipped([annot], Window(-5, -5, 30, 30)).visible.tolist() == [1.0]
    assert clipped([annot], Window(0, 0, 10, 5)).visible[0] == pytest.approx(0.5)


def test_a_pentagram_has_a_hole_in_the_middle():
    angle = np.arange(5) * 4 * np.pi / 5
    ring = np.stack([50 + 40 * np.sin(angle), 50 - 40 * np.cos(angle)], axis=1)
    valid = shapely.make_valid(shapely.Polygon(ring), method="linework")
    window = Window(20, 20, 60, 31)
    annots = clipped([polygon([ring])], window)
    inside = valid.intersection(shapely.box(*window.as_xyxy()))
    assert annots.visible[0] == pytest.approx(inside.area / valid.area)
    assert as_geometry(annots.polygons[0]).area == pytest.approx(inside.area)
    assert len(clipped([polygon([ring])], Window(48, 48, 4, 4))) == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_any_tangle_of_rings_gives_the_area_that_is_painted(seed, long):
    rng = np.random.default_rng(seed)
    part = [rng.uniform(0, 60, (rng.integers(3, 12), 2)) for _ in range(rng.integers(1, 4))]
    annot = polygon(part)
    window = Window(*rng.integers(-5, 50, 2).tolist(), *rng.integers(1, 40, 2).tolist())
    with pytest.MonkeyPatch.context() as patch:
        if long:
            small_trees(patch)
        annots = clipped([annot], window)
    rings = [shapely.make_valid(shapely.Polygon(ring), method="linework") for ring in part]
    full = shapely.difference(rings[0], shapely.union_all(rings[1:]))
    inside = shapely.intersection(full, shapely.box(*window.as_xyxy())).area
    if inside < 1e-9:
        assert annots.visible.sum() < 1e-6
    else:
        assert annots.visible[0] == pytest.approx(inside / full.area, rel=1e-6)
        shown = sum(shapely.Polygon(part[0], part[1:]).area for part in annots.polygons[0])
        assert shown == pytest.approx(inside, rel=1e-6)


def test_degenerate_polygons_are_never_visible():
    line = {
        **polygon([SQUARE]),
        "parts": [[np.array([(1.0, 1.0), (5.0, 5.0), (3.0, 3.0)])]],
        "area": 0.0,
        "box": [1, 1, 5, 5],
    }
    assert len(clipped([line], Window(0, 0, 10, 10))) == 0
    assert len(clipped([line], Window(0, 0, 3, 3))) == 0


def test_a_hole_of_two_points_takes_nothing_away():
    annot = polygon([SQUARE])
    annot["parts"][0].append(np.array([(4.0, 4.0), (6.0, 6.0)]))
    annots = clipped([annot], Window(0, 0, 12, 7))
    assert annots.visible.tolist() == [0.5]
    assert as_geometry(annots.polygons[0]).equals(shapely.box(2, 2, 7, 12))


@pytest.mark.parametrize("seed", range(6))
def test_shares_of_boxes_agree_with_kwimage(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 50, (30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.5, 30, (30, 2))], axis=1)
    window = Window(10, 12, 20, 25)
    shares = kwimage.Boxes(boxes, "ltrb").isect_area(kwimage.Boxes([window.as_xyxy()], "ltrb").astype(float))[
        :, 0
    ]
    shares = shares / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    annots = clipped([box(*b) for b in boxes], window)
    assert annots.annot_ids.tolist() == (100 + np.flatnonzero(shares > 0)).tolist()
    np.testing.assert_allclose(annots.visible, shares[shares > 0])


@pytest.mark.parametrize("seed", range(6))
def test_shares_of_run_length_masks_are_counted_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 50), bool)
    mask[5:35, 3:44] = rng.random((30, 41)) < 0.5
    y0, x0 = rng.integers(-5, 30, 2).tolist()
    window = Window(y0, x0, 15, 20)
    inside = mask[max(y0, 0) : window.y1, max(x0, 0) : window.x1].sum()
    annots = clipped([rle(mask)], window)
    assert annots.visible.tolist() == [pytest.approx(inside / mask.sum())]
    assert annots.polygons == ((),)
    assert clipped([rle(mask)], Window(-5, -5, 60, 60)).visible.tolist() == [1.0]


def test_keypoints_are_counted_labelled_ones_only_and_handed_out_all():
    annot = keypoints((2, 2, 2), (8, 8, 1), (30, 30, 2), (3, 3, 0), (10, 5, 2))
    annots = clipped([annot], Window(1, 1, 9, 9))
    # (10, 5) lies on the window's right border, which is not in the window.
    assert annots.visible.tolist() == [0.5]
    np.testing.assert_array_equal(annots.keypoints[0], annot["points"] - (1, 1, 0))


def test_keypoints_of_a_polygon_are_carried_along():
    annot = {**polygon([SQUARE]), "points": np.array([(5.0, 6.0, 2.0)])}
    annots = clipped([annot], Window(0, 4, 20, 20))
    assert annots.visible.tolist() == [0.8]
    assert annots.keypoints[0].tolist() == [[1, 6, 2]]


def test_the_visible_threshold_drops_what_is_below_it():
    annots = [box(0, 0, 10, 10), box(0, 6, 10, 16), box(0, 8, 10, 18), box(5, 9, 6, 10)]
    window = Window(0, 0, 10, 40)
    assert clipped(annots, window).visible.tolist() == pytest.approx([1, 0.4, 0.2, 1])
    assert clipped(annots, window, threshold=0.4).annot_ids.tolist() == [100, 101, 103]
    assert clipped(annots, window, threshold=1.0).annot_ids.tolist() == [100, 103]


def test_a_window_without_annotations_has_empty_columns():
    annots = clipped([box(0, 0, 3, 3)], Window(50, 50, 5, 5))
    assert len(annots) == 0
    assert annots.boxes_xyxy.shape == (0, 4)
    assert annots.polygons == annots.keypoints == ()
    assert (
        len(annots_in_window(make_shapes([]), AnnotIndex(make_shapes([])), CLASSES, Window(0, 0, 1, 1), (1, 1)))
        == 0
    )


def test_an_unknown_category_is_an_error():
    with pytest.raises(ManifestError, match="annotation 100"):
        clipped([box(0, 0, 3, 3, category=5)], Window(0, 0, 3, 3))
