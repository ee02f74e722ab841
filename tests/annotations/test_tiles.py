"""Annotations cut into tiles and trimmed, held against GEOS and against counted pixels."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from annotation_oracles import box, keypoints, make_shapes, polygon, rle
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.annotations.tiles import tile_shape, trimmed_boxes


def star(rng, points, radius=40.0):
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    return 50 + (radius * rng.uniform(0.3, 1, points))[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def edges_of(rng, count):
    return np.concatenate([[0], np.sort(rng.choice(np.arange(1, 100), count - 1, replace=False)), [100]])


def check_tiles(geometry, found, ys, xs):
    boxes, areas = found
    expected = []
    for y0, y1 in zip(ys[:-1].tolist(), ys[1:].tolist(), strict=True):
        for x0, x1 in zip(xs[:-1].tolist(), xs[1:].tolist(), strict=True):
            part = geometry & shapely.box(x0, y0, x1, y1)
            if part.area > 1e-9:
                left, top, right, bottom = part.bounds
                expected.append((np.floor(top), np.floor(left), np.ceil(bottom), np.ceil(right), part.area))
    expected = np.array(expected).reshape(-1, 5)
    order = np.lexsort(boxes[:, 1::-1].T)
    wanted = np.lexsort(expected[:, 1::-1].T)
    np.testing.assert_allclose(areas[order], expected[wanted, 4], atol=1e-7)
    np.testing.assert_array_equal(boxes[order], expected[wanted, :4])


@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 7), columns=st.integers(1, 7), points=st.integers(3, 400)
)
def test_tiles_of_polygons_are_those_of_geos(seed, rows, columns, points):
    rng = np.random.default_rng(seed)
    ring = star(rng, points)
    ys, xs = edges_of(rng, rows), edges_of(rng, columns)
    geometry = shapely.make_valid(shapely.Polygon(ring))
    check_tiles(geometry, tile_shape(make_shapes([polygon([ring])]), 0, ys, xs), ys, xs)


def test_tiles_of_a_frame_leave_out_its_hole():
    ring, hole = [(0, 0), (90, 0), (90, 90), (0, 90)], [(10, 10), (80, 10), (80, 80), (10, 80)]
    edges = np.arange(0, 91, 10)
    boxes, areas = tile_shape(make_shapes([polygon([ring, hole])]), 0, edges, edges)
    assert len(boxes) == 32
    assert (areas == 100).all()


def test_tiles_of_several_parts():
    parts = [[[(0, 0), (10, 0), (10, 10), (0, 10)]], [[(35, 35), (45, 35), (45, 45), (35, 45)]]]
    edges = np.array([0, 20, 40, 60])
    boxes, areas = tile_shape(make_shapes([polygon(*parts)]), 0, edges, edges)
    assert boxes.tolist() == [
        [0, 0, 10, 10],
        [35, 35, 40, 40],
        [35, 40, 40, 45],
        [40, 35, 45, 40],
        [40, 40, 45, 45],
    ]
    assert areas.tolist() == [100, 25, 25, 25, 25]


def test_tiles_of_a_ring_that_crosses_itself_are_even_odd():
    # A pentagram winds twice around its middle, which is a hole.
    angles = np.arange(5) * 4 * np.pi / 5
    ring = 50 + 40 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    edges = np.array([0, 49, 51, 100])
    boxes, _ = tile_shape(make_shapes([polygon([ring])]), 0, edges, edges)
    assert [49, 49, 51, 51] not in boxes.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_tiles_of_boxes_and_masks_and_points(seed):
    rng = np.random.default_rng(seed)
    ys, xs = edges_of(rng, 5), edges_of(rng, 4)
    x0, y0, x1, y1 = 10.25, 20.5, 71.75, 93.0
    check_tiles(shapely.box(x0, y0, x1, y1), tile_shape(make_shapes([box(x0, y0, x1, y1)]), 0, ys, xs), ys, xs)
    mask = np.zeros((100, 100), np.uint8)
    mask[30:60, 20:80] = rng.random((30, 60)) < 0.1
    boxes, areas = tile_shape(make_shapes([rle(mask)]), 0, ys, xs)
    painted = np.zeros_like(mask)
    for (top, left, bottom, right), area in zip(boxes.tolist(), areas, strict=True):
        assert mask[top:bottom, left:right].sum() == area > 0
        painted[top:bottom, left:right] += 1
    assert (painted[mask > 0] == 1).all()
    points = rng.uniform(0, 100, (9, 2))
    boxes, areas = tile_shape(make_shapes([keypoints(*[(x, y, 2) for x, y in points], (1, 1, 0))]), 0, ys, xs)
    assert areas.sum() == 9
    for x, y in points:
        inside = [top <= y < bottom and left <= x < right for top, left, bottom, right in boxes.tolist()]
        assert sum(inside) == 1


def test_points_outside_the_lattice_are_in_no_tile():
    edges = np.array([0, 10])
    boxes, areas = tile_shape(make_shapes([keypoints((5, 5, 1), (-1, 5, 1), (5, 10, 1))]), 0, edges, edges)
    assert (boxes.tolist(), areas.tolist()) == ([[5, 5, 6, 6]], [1.0])


# Trimmed -------------------------------------------------------------------------------------------------


def lost(geometry, found):
    """Return the area that each side of a rectangle cuts off: above, left, below, right."""
    y0, x0, y1, x1 = found
    far = 10_000
    cuts = [
        shapely.box(-far, -far, far, y0),
        shapely.box(-far, -far, x0, far),
        shapely.box(-far, y1, far, far),
        shapely.box(x1, -far, far, far),
    ]
    return [(geometry & cut).area for cut in cuts]


def check_trimmed(geometry, found, share, tight):
    assert max(lost(geometry, found)) <= share * geometry.area + 1e-7
    if not tight:
        return
    y0, x0, y1, x1 = found
    for side, closer in enumerate(
        [(y0 + 1, x0, y1, x1), (y0, x0 + 1, y1, x1), (y0, x0, y1 - 1, x1), (y0, x0, y1, x1 - 1)]
    ):
        assert lost(geometry, closer)[side] > share * geometry.area - 1e-6


@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.49]),
    far=st.sampled_from([0, 10**5]),
)
def test_no_side_cuts_off_more_than_the_share_and_none_less(seed, share, far):
    rng = np.random.default_rng(seed)
    rings = [star(rng, int(rng.integers(3, 40)), rng.uniform(2, 45)) for _ in range(6)]
    shapes = make_shapes([polygon([ring + far]) for ring in rings])
    found = trimmed_boxes(shapes, np.arange(6), share)
    for ring, one in zip(rings, found.tolist(), strict=True):
        # Near the origin GEOS has all its digits.
        one = np.array(one) - far
        geometry = shapely.Polygon(ring)
        check_trimmed(
            geometry if geometry.is_valid else shapely.make_valid(geometry),
            one,
            share,
            geometry.is_valid and share > 0,
        )
        assert (one[2:] > one[:2]).all()


def test_holes_and_parts_count_as_they_should():
    frame = [[(0, 0), (100, 0), (100, 100), (0, 100)], [(20, 0.5), (99, 0.5), (99, 99.5), (20, 99.5)]]
    far_part = [[(200, 0), (210, 0), (210, 100), (200, 100)]]
    shapes = make_shapes([polygon(frame, far_part), box(0, 0, 1, 1)])
    geometry = shapely.Polygon(frame[0], [frame[1]]) | shapely.Polygon(far_part[0])
    for share in (0.05, 0.2, 0.4):
        check_trimmed(geometry, trimmed_boxes(shapes, np.array([0]), share)[0].tolist(), share, True)


@given(
    edges=st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.01, 90), st.floats(0.01, 90)),
    share=st.floats(0, 0.49),
)
def test_boxes_are_trimmed_exactly(edges, share):
    x, y, width, height = edges
    found = trimmed_boxes(make_shapes([box(x, y, x + width, y + height)]), np.array([0]), share)[0]
    check_trimmed(shapely.box(x, y, x + width, y + height), found.tolist(), share, False)
    assert (found[2:] > found[:2]).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_masks_lose_no_more_than_the_share(share):
    rng = np.random.default_rng(0)
    mask = (rng.random((60, 80)) < np.linspace(0, 1, 80)).astype(np.uint8)
    y0, x0, y1, x1 = trimmed_boxes(make_shapes([rle(mask)]), np.array([0]), share)[0].tolist()
    for part in (mask[:y0], mask[:, :x0], mask[y1:], mask[:, x1:]):
        assert part.sum() <= share * mask.sum()


def test_keypoints_and_tangles_are_not_trimmed():
    bow_tie = [(0, 0), (10, 10), (10, 0), (0, 10)]
    shapes = make_shapes([keypoints((1, 2, 2), (7, 9, 2)), polygon([bow_tie])])
    assert trimmed_boxes(shapes, np.array([0, 1]), 0.4).tolist() == [[2, 1, 10, 8], [0, 0, 10, 10]]
