"""Annotations -> columns, against shapely, kwimage and closed forms."""

from itertools import pairwise

import kwimage
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from kwimage.im_runlen import _rle_bytes_to_array
from manifest_samples import SQUARE, compressed, full, one_image

from slidesampler.errors import ManifestError, TargetError
from slidesampler.manifest import Manifest
from slidesampler.models import NO_CATEGORY
from slidesampler.shapes import ShapeKind, Shapes


def shapes_of(annotation, **image):
    return Manifest.load(one_image(annotation, **image)).shapes_of(1)


def rings(shapes, row=0):
    return [[ring.tolist() for ring in part] for part in shapes.parts(row)]


def test_every_kind_of_annotation_has_its_columns():
    manifest = Manifest.load(full())
    first = manifest.shapes_of(10)
    assert first.annot_ids.tolist() == [1, 2**62]
    assert first.category_ids.tolist() == [3, -5]
    assert first.kinds.tolist() == [ShapeKind.POLYGON, ShapeKind.POLYGON]
    # The square of 10 less a hole of 2; a triangle of half of 4 x 4 and a square of 10.
    assert first.areas.tolist() == [96.0, 108.0]
    assert first.boxes_xyxy.tolist() == [[10, 10, 20, 20], [0, 0, 60, 60]]
    assert rings(first) == [[SQUARE, [[12, 12], [14, 12], [14, 14], [12, 14]]]]
    assert rings(first, 1) == [
        [[[0, 0], [4, 0], [4, 4]]],
        [[[50, 50], [60, 50], [60, 60], [50, 60]]],
    ]
    second = manifest.shapes_of(-7)
    assert (second.kinds.tolist(), second.areas.tolist()) == ([ShapeKind.RLE], [6.0])
    # Pixels 61 to 63 and 121 to 123 down columns of 60: x 1, y 1 to 3 and x 2, y 1 to 3.
    assert second.boxes_xyxy.tolist() == [[1, 1, 3, 4]]
    assert second.runs(0).tolist() == [61, 64, 121, 124, 4200]
    assert second.rle_heights.tolist() == [60]
    third = manifest.shapes_of(0)
    assert third.kinds.tolist() == [ShapeKind.BOX, ShapeKind.KEYPOINTS, ShapeKind.KEYPOINTS]
    assert third.category_ids.tolist() == [NO_CATEGORY, 2**40, 3]
    assert third.boxes_xyxy.tolist() == [[1, 2, 4, 6], [3, 4, 7, 9], [1, 2, 5, 6]]
    assert third.areas.tolist() == [12.0, 0.0, 0.0]
    assert third.points(1).tolist() == [[3, 4, 2], [0, 0, 0], [7, 9, 1]]
    assert third.points(2).tolist() == [[1, 2, 1], [5, 6, 2]]
    assert [len(third.points(0)), len(third.runs(0)), third.parts(0)] == [0, 0, ()]


def test_annotations_are_found_by_id_and_sorted_by_image():
    manifest = Manifest.load(full())
    assert manifest.shapes.annot_ids.tolist() == [1, 2**62, 5, -2, 6, 7]
    places = {one: manifest.locate_annot(one) for one in (1, 2**62, 5, -2, 6, 7)}
    assert places == {1: (10, 0), 2**62: (10, 1), 5: (-7, 0), -2: (0, 0), 6: (0, 1), 7: (0, 2)}
    with pytest.raises(TargetError, match=r"no annotation 3; of its 6 the closest are 1, 5, 6"):
        manifest.locate_annot(3)
    with pytest.raises(TargetError, match="no image 3"):
        manifest.shapes_of(3)


@given(st.lists(st.integers(0, 5), max_size=12), st.permutations(range(6)))
def test_annotations_keep_their_order_within_an_image(images_of, order):
    data = {
        "images": [{"id": one, "file_name": "a"} for one in order],
        "annotations": [
            {"id": 100 - row, "image_id": image_id, "bbox": [row, 0, 1, 1]}
            for row, image_id in enumerate(images_of)
        ],
    }
    manifest = Manifest.load(data)
    for image_id in order:
        expected = [row for row, one in enumerate(images_of) if one == image_id]
        assert manifest.shapes_of(image_id).boxes_xyxy[:, 0].tolist() == expected
        for row, position in enumerate(expected):
            assert manifest.locate_annot(100 - position) == (image_id, row)


# Polygons -------------------------------------------------------------------------------------------------

SQUARE_FLAT = [value for point in SQUARE for value in point]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"exterior": SQUARE},
        {"exterior": SQUARE, "interiors": []},
        {"exterior": SQUARE, "interiors": None},
        {"exterior": SQUARE_FLAT},
        {"exterior": np.array(SQUARE)},
        [{"exterior": SQUARE}],
        [SQUARE_FLAT],
        SQUARE_FLAT,
        SQUARE,
        [SQUARE],
        tuple(map(tuple, SQUARE)),
        np.array(SQUARE, np.float32),
        [np.array(SQUARE_FLAT)],
        [*SQUARE, SQUARE[0]],
        [[*SQUARE_FLAT, 10, 10]],
    ],
)
def test_polygons_come_in_many_forms(segmentation):
    shapes = shapes_of({"segmentation": segmentation})
    assert rings(shapes) == [[SQUARE]]
    assert (shapes.areas.tolist(), shapes.boxes_xyxy.tolist()) == ([100.0], [[10, 10, 20, 20]])


def test_polygons_of_kwimage_come_back(tmp_path):
    rng = np.random.RandomState(0)
    polygons = [kwimage.Polygon.random(n_holes=holes, rng=rng).scale(1000) for holes in (0, 1, 2)]
    several = kwimage.MultiPolygon(polygons)
    shapes = shapes_of({"segmentation": several.to_coco(style="new")})
    assert len(shapes.parts(0)) == 3
    for part, polygon in zip(shapes.parts(0), polygons, strict=True):
        expected = [polygon.data["exterior"], *polygon.data["interiors"]]
        assert len(part) == len(expected)
        for ring, coords in zip(part, expected, strict=True):
            points = np.asarray(coords.data)
            np.testing.assert_array_equal(ring, points[:-1] if (points[0] == points[-1]).all() else points)
    area = sum(
        shapely.Polygon(one.data["exterior"].data).area
        - sum(shapely.Polygon(hole.data).area for hole in one.data["interiors"])
        for one in polygons
    )
    assert shapes.areas[0] == pytest.approx(area)
    bounds = shapely.union_all(
        [shapely.box(*shapely.Polygon(one.data["exterior"].data).bounds) for one in polygons]
    )
    assert shapes.boxes_xyxy[0].tolist() == list(bounds.bounds)


@st.composite
def star_polygons(draw):
    """Simple polygons around a centre: radii at ascending angles."""
    count = draw(st.integers(3, 12))
    radii = draw(st.lists(st.floats(1, 50), min_size=count, max_size=count))
    centre = draw(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)))
    angles = np.arange(count) / count * 2 * np.pi
    return np.column_stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)])


@given(st.lists(star_polygons(), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60)
def test_areas_and_bounds_are_shapelys(polygons, backwards):
    parts = [{"exterior": (one[::-1] if backwards else one).tolist()} for one in polygons]
    shapes = shapes_of({"segmentation": parts})
    expected = [shapely.Polygon(one) for one in polygons]
    assert shapes.areas[0] == pytest.approx(sum(one.area for one in expected), rel=1e-9)
    assert shapes.boxes_xyxy[0].tolist() == list(
        shapely.union_all([shapely.box(*one.bounds) for one in expected]).bounds
    )


def even_odd_area(ring):
    """Even-odd area of a ring by cutting the plane along all its edges (shapely)."""
    closed = np.vstack([ring, ring[:1]])
    cells = shapely.get_parts(shapely.polygonize([shapely.node(shapely.LineString(closed))]))

    def is_odd(point):
        crossings = 0
        for (x0, y0), (x1, y1) in pairwise(closed):
            if min(y0, y1) <= point.y < max(y0, y1):
                crossings += point.x < x0 + (point.y - y0) * (x1 - x0) / (y1 - y0)
        return crossings % 2 == 1

    return sum(cell.area for cell in cells if is_odd(cell.representative_point()))


@pytest.mark.parametrize(
    "ring",
    [
        # A bow tie, a bow tie on its side, and four lobes: their signed areas are zero.
        [[0, 0], [20, 20], [20, 0], [0, 20]],
        [[0, 0], [20, 20], [0, 20], [20, 0]],
        [[0, 0], [10, 0], [10, 20], [20, 20], [20, 10], [0, 10]],
    ],
)
def test_rings_that_cross_themselves_are_accepted(ring):
    shapes = shapes_of({"segmentation": ring})
    assert rings(shapes) == [[ring]]
    assert even_odd_area(np.array(ring, float)) > 0
    assert shapes.areas[0] == pytest.approx(even_odd_area(np.array(ring, float)), rel=1e-4)


def test_polygons_may_lie_outside_of_the_image():
    ring = [[-1000, -5], [3000, -5], [3000, 7000]]
    shapes = shapes_of({"segmentation": ring})
    assert shapes.boxes_xyxy.tolist() == [[-1000, -5, 3000, 7000]]
    assert shapes.areas.tolist() == [4000 * 7005 / 2]


def test_tiny_polygons_far_from_the_origin_have_an_area():
    far = 2.0**30
    shapes = shapes_of({"segmentation": [[far, far], [far + 2**-10, far], [far, far + 2**-10]]})
    assert shapes.areas.tolist() == [2.0**-21]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ({"exterior": []}, "the exterior has 0 distinct points"),
        ([[]], "has 0 distinct points"),
        ([1, 2, 3, 4], "has 2 distinct points"),
        ([[1, 2], [3, 4], [1, 2]], "has 2 distinct points"),
        ([[1, 2], [3, 4], [3, 4], [1, 2]], "has 2 distinct points"),
        ([[5, 5]] * 4, "has 1 distinct point;"),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], "has no area"),
        ([[0.1, 0.1], [0.2, 0.2], [0.7, 0.7], [0.3, 0.3]], "has no area"),
        # There and back again, round a corner.
        ([[0, 0], [10, 0], [10, 10], [10, 0]], "has no area"),
        ([[0, 0], [NAN, 1], [2, 2]], r"has the point \(nan, 1\)"),
        ([[0, 0], [INF, 1], [2, 0]], "coordinates must be finite"),
        ([[0, 0], [1e300, 1], [2, 0]], "within 2"),
        ({"exterior": SQUARE, "interiors": [[[1, 1], [2, 2]]]}, r"\(part 1\): hole 1 has 2 distinct"),
        ([{"exterior": SQUARE}, {"exterior": [[0, 0]]}], r"\(part 2\): the exterior has 1 distinct"),
        ([1, 2, 3, 4, 5], "of 5 numbers"),
        ([[1, 2], [3, 4, 5], [6, 7]], "pairs"),
        ([[1, 2], [3], [6, 7, 8]], "pairs"),
        ([[1, 2], 3, 4], "pairs|numbers"),
        ([[1, "2"], [3, 4], [5, 6]], "numbers for coordinates"),
        (["ab", "cd", "ef"], "must be a polygon|numbers"),
        ({"interiors": []}, "must be a polygon"),
        ({}, "must be a polygon"),
        (5, "must be a polygon"),
        (True, "must be a polygon"),
        ([None], "of 1 numbers"),
        ([None, None], "numbers for coordinates"),
        ([[[[1, 2]]]], "numbers for coordinates|pairs"),
        ({"exterior": None}, "must be a polygon"),
        ({"exterior": SQUARE, "interiors": 5}, "list of rings"),
        ({"exterior": [10**400, 0, 1, 1, 2, 0]}, "numbers for coordinates"),
        ([{"exterior": SQUARE}, 7], "must be a polygon"),
    ],
)
def test_bad_polygons_are_named(segmentation, problem):
    with pytest.raises(ManifestError, match=problem) as caught:
        shapes_of({"id": 77, "segmentation": segmentation})
    assert (caught.value.image_id, caught.value.annot_id) == (1, 77)
    assert caught.value.field.startswith("segmentation")
    assert str(caught.value).startswith("annotation 77 (image 1): segmentation")


def test_the_right_one_of_many_is_named():
    data = one_image()
    for one in range(20):
        data["annotations"].append(
            {"id": one, "image_id": 1, "segmentation": [{"exterior": SQUARE}] * (one % 3 + 1)}
        )
    data["annotations"][13]["segmentation"] = [
        {"exterior": SQUARE, "interiors": [SQUARE[:3]]},
        {"exterior": [*SQUARE, SQUARE[0]], "interiors": [SQUARE[:3], [[1, 1], [2, 2], [3, 3]]]},
    ]
    with pytest.raises(
        ManifestError, match=r"annotation 13 \(image 1\): segmentation \(part 2\): hole 2 has no area"
    ):
        Manifest.load(data)


# Run-length encodings -------------------------------------------------------------------------------------


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width).filter(any))
    return np.array(bits, np.uint8).reshape(height, width)


def encodings(mask):
    """A mask in every form there is, encoded by kwimage."""
    columns = kwimage.encode_run_length(mask, binary=True, order="F")
    rows = kwimage.encode_run_length(mask, binary=True, order="C")
    size, counts = list(mask.shape), columns["counts"].tolist()
    text = compressed(counts)
    return [
        {"size": size, "counts": counts},
        {"shape": size, "counts": columns["counts"], "order": "F", "binary": True},
        {"counts": counts},
        {"size": tuple(size), "counts": text},
        {"size": size, "counts": text.decode()},
        text.decode(),
        {"size": size, "counts": rows["counts"].tolist(), "order": "C"},
    ]


@given(st.lists(st.integers(0, 2**35), min_size=1, max_size=9))
def test_the_encoder_of_these_tests_is_read_back_by_kwimage(counts):
    with pytest.MonkeyPatch.context() as patch:
        # kwimage warns on first use that its compiled half is missing; the Python half is what is asked here.
        patch.setattr(kwimage._internal, "KWIMAGE_DISABLE_IMPORT_WARNINGS", True)
        assert _rle_bytes_to_array(compressed(counts), impl="python").tolist() == counts


def decoded(shapes, row, shape):
    """The pixels of an RLE's columns, one by one as the columns' documentation says."""
    ends = shapes.runs(row).tolist()
    out = np.zeros(shape, np.uint8)
    value, start = 0, 0
    for end in ends:
        for position in range(start, end):
            out[position % shapes.rle_heights[row], position // shapes.rle_heights[row]] = value
        value, start = 1 - value, end
    return out


@given(masks())
@settings(max_examples=80)
def test_rles_are_kwimages_masks(mask):
    height, width = mask.shape
    y, x = np.nonzero(mask)
    data = one_image(height=height, width=width)
    data["annotations"] = [
        {"id": row, "image_id": 1, "segmentation": one} for row, one in enumerate(encodings(mask))
    ]
    shapes = Manifest.load(data).shapes
    assert (shapes.kinds == ShapeKind.RLE).all()
    for row in range(len(shapes)):
        np.testing.assert_array_equal(decoded(shapes, row, mask.shape), mask)
        assert shapes.areas[row] == mask.sum()
        assert shapes.boxes_xyxy[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_row_major_rle_is_turned_strip_by_strip(monkeypatch):
    monkeypatch.setattr("slidesampler.manifest.rle._STRIP_PIXELS", 50)
    mask = (np.random.default_rng(0).random((23, 31)) < 0.5).astype(np.uint8)
    counts = kwimage.encode_run_length(mask, binary=True, order="C")["counts"].tolist()
    shapes = shapes_of(
        {"segmentation": {"size": [23, 31], "counts": counts, "order": "C"}}, height=23, width=31
    )
    np.testing.assert_array_equal(decoded(shapes, 0, mask.shape), mask)


def test_long_runs_of_a_large_slide_survive():
    # Five characters a run, and differences that are negative.
    counts = [10**9, 5, 10**9 - 5, 7, 8 * 10**9 - 7]
    for form in (counts, compressed(counts)):
        shapes = shapes_of(
            {"segmentation": {"size": [10**5, 10**5], "counts": form}}, height=10**5, width=10**5
        )
        assert shapes.runs(0).tolist() == np.cumsum(counts).tolist()
        assert shapes.boxes_xyxy.tolist() == [[10**4, 0, 2 * 10**4 + 1, 7]]


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ({"size": [50, 40], "counts": [0, 2000]}, "is 50 x 40, but the image is 40 x 50"),
        ({"size": [40, 50], "counts": [0, 1999]}, "adds up to 1999 pixels, but 40 x 50 are 2000"),
        ({"size": [40, 50], "counts": []}, "adds up to 0 pixels"),
        ({"size": [40, 50], "counts": ""}, "adds up to 0 pixels"),
        ({"size": [40, 50], "counts": [2000]}, "marks no pixel"),
        ({"size": [40, 50], "counts": [0, -1, 2001]}, "has a run of -1 pixels"),
        ({"size": [40, 50], "counts": [0, 2**62, 2**62, 2**62, 2**62, 2000]}, "has a run of"),
        ({"size": [40, 50], "counts": [0, 2**64]}, "list of integers"),
        ({"size": [40, 50], "counts": [0, 2000.0]}, "list of integers"),
        ({"size": [40, 50], "counts": ["0", 2000]}, "list of integers"),
        ({"size": [40, 50], "counts": None}, "list of integers"),
        ({"size": [40, 50], "counts": "PY~"}, "other characters"),
        ({"size": [40, 50], "counts": "Pé"}, "no compressed RLE"),
        ({"size": [40, 50], "counts": "0o"}, "ends within a number"),
        ({"size": [40, 50], "counts": "oooooooooooo0"}, "a number is too long"),
        ({"size": [40], "counts": [0, 2000]}, r"\[height, width\]"),
        ({"size": "40", "counts": [0, 2000]}, r"\[height, width\]"),
        ({"size": [40, "50"], "counts": [0, 2000]}, "must be a number"),
        ({"size": [40, 50], "counts": [0, 2000], "order": "K"}, "'C' or 'F'"),
        ({"size": [40, 50], "counts": [0, 2000], "binary": False}, "one class"),
    ],
)
def test_bad_rles_are_named(segmentation, problem):
    with pytest.raises(ManifestError, match=problem) as caught:
        shapes_of({"id": 77, "segmentation": segmentation})
    assert (caught.value.image_id, caught.value.annot_id) == (1, 77)
    assert caught.value.field.startswith("segmentation.")


def test_an_rle_without_size_needs_the_images():
    with pytest.raises(ManifestError, match=r"segmentation\.size is missing"):
        shapes_of({"segmentation": {"counts": [0, 2000]}}, height=None)


def test_a_damaged_rle_among_good_ones_is_named():
    data = one_image(height=4, width=4)
    good = compressed([3, 4, 9]).decode()
    for one in range(9):
        data["annotations"].append({"id": one, "image_id": 1, "segmentation": {"size": [4, 4], "counts": good}})
    for bad, problem in (("3ooo", "within a number"), ("3\x7f", "other characters"), ("34", "adds up")):
        data["annotations"][6]["segmentation"]["counts"] = bad
        with pytest.raises(ManifestError, match=rf"annotation 6 .*{problem}"):
            Manifest.load(data)


# Boxes and keypoints --------------------------------------------------------------------------------------


def test_the_first_shape_of_an_annotation_counts():
    everything = {"segmentation": SQUARE, "bbox": [1, 1, 2, 2], "keypoints": [30, 30, 2]}
    shapes = shapes_of(everything)
    assert (shapes.kinds.tolist(), shapes.boxes_xyxy.tolist()) == ([ShapeKind.POLYGON], [[10, 10, 20, 20]])
    # Its keypoints are kept all the same.
    assert shapes.points(0).tolist() == [[30, 30, 2]]
    for empty in (None, []):
        shapes = shapes_of({**everything, "segmentation": empty})
        assert (shapes.kinds.tolist(), shapes.boxes_xyxy.tolist()) == ([ShapeKind.BOX], [[1, 1, 3, 3]])
        shapes = shapes_of({**everything, "segmentation": empty, "bbox": empty})
        assert (shapes.kinds.tolist(), shapes.boxes_xyxy.tolist()) == (
            [ShapeKind.KEYPOINTS],
            [[30, 30, 30, 30]],
        )


@pytest.mark.parametrize(
    ("annotation", "field", "problem"),
    [
        ({"bbox": [1, 2, 0, 4]}, "bbox", r"above 0, found \[1, 2, 0, 4\]"),
        ({"bbox": [1, 2, 3, -4]}, "bbox", "above 0"),
        ({"bbox": [1, NAN, 3, 4]}, "bbox", "must be finite"),
        ({"bbox": [INF, 2, 3, 4]}, "bbox", "must be finite"),
        ({"bbox": [1e9, 2, 1e-9, 4]}, "bbox", "above 0"),
        ({"bbox": [1, 2, INF, 4]}, "bbox", "must be finite"),
        ({"bbox": [1e12, 2, 1e12, 4]}, "bbox", "must be finite"),
        ({"bbox": [1, 2, 3]}, "bbox", r"\[x, y, width, height\]"),
        ({"bbox": {"x": 1}}, "bbox", r"\[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox", "four numbers"),
        ({"bbox": [1, 2, 3, None]}, "bbox", "four numbers"),
        ({"bbox": [1, 2, 0, 4], "segmentation": SQUARE}, "bbox", "above 0"),
        ({"keypoints": [1, 2]}, "keypoints", "found 2 numbers"),
        ({"keypoints": [1, 2, 0]}, "keypoints", "no labelled point"),
        ({"keypoints": [1, NAN, 2]}, "keypoints", "must be finite"),
        ({"keypoints": [1, "2", 2]}, "keypoints", "must be numbers"),
        ({"keypoints": "abc"}, "keypoints", "must be a list"),
        ({"keypoints": [{"x": 1}]}, "keypoints[0]", "with 'xy'"),
        ({"keypoints": [{"xy": [1, 2]}, 3]}, "keypoints[1]", "with 'xy'"),
        ({"keypoints": [{"xy": [1, 2], "visible": "yes"}]}, "keypoints", "must be numbers"),
        ({}, "segmentation", "give it a shape"),
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, "category_id", "9 is that of no category"),
        ({"bbox": [1, 2, 3, 4], "category_id": "a"}, "category_id", "must be an integer"),
        ({"bbox": [1, 2, 3, 4], "category_id": True}, "category_id", "must be an integer"),
    ],
)
def test_a_bad_annotation_is_named_with_its_field(annotation, field, problem):
    with pytest.raises(ManifestError, match=problem) as caught:
        shapes_of({"id": -3, **annotation})
    assert (caught.value.image_id, caught.value.annot_id, caught.value.field) == (1, -3, field)


@pytest.mark.parametrize(("image_id", "problem"), [(2, "2 is that of no image"), (None, "must be an integer")])
def test_an_annotation_of_no_image_is_named(image_id, problem):
    with pytest.raises(ManifestError, match=rf"annotation 5: image_id .*{problem}") as caught:
        shapes_of({"id": 5, "image_id": image_id, "bbox": [1, 2, 3, 4]})
    assert (caught.value.annot_id, caught.value.field) == (5, "image_id")


# Digests --------------------------------------------------------------------------------------------------


def test_the_digest_of_an_images_annotations_ignores_the_others():
    before = {one: Manifest.load(full()).annots_digest(one) for one in (10, -7, 0)}
    data = full()
    data["annotations"][0]["segmentation"]["exterior"] = [[10, 10], [20, 10], [20, 21]]
    data["annotations"].insert(0, {"id": 99, "image_id": 10, "bbox": [0, 0, 1, 1]})
    manifest = Manifest.load(data)
    assert manifest.annots_digest(10) != before[10]
    assert manifest.annots_digest(-7) == before[-7]
    assert manifest.annots_digest(0) == before[0]
    data["images"].reverse()
    assert Manifest.load(data).annots_digest(-7) == before[-7]


def test_the_digest_of_an_images_annotations_notices_every_column():
    digests = set()
    for key, value in [
        ("id", 7),
        ("category_id", None),
        ("segmentation", [*SQUARE[:3], [10, 21]]),
        ("segmentation", [{"exterior": SQUARE}, {"exterior": SQUARE}]),
        ("segmentation", [{"exterior": SQUARE, "interiors": [SQUARE]}]),
        ("keypoints", [1, 2, 1]),
        ("segmentation", {"size": [40, 50], "counts": [5, 5, 1990]}),
        ("segmentation", {"size": [40, 50], "counts": [5, 6, 1989]}),
        ("segmentation", None),
    ]:
        data = one_image({"segmentation": SQUARE, "bbox": [10, 10, 10, 10], key: value})
        digests.add(Manifest.load(data).annots_digest(1))
    assert len(digests) == 9


def test_columns_are_complete_and_read_only():
    shapes = Manifest.load(full()).shapes
    empty = Shapes.empty().columns()
    for name, column in shapes.columns().items():
        assert (column.dtype, column.ndim) == (empty[name].dtype, empty[name].ndim), name
        with pytest.raises(ValueError, match="read-only"):
            column[...] = 0
    nothing = Manifest.load(one_image()).shapes
    for name, column in nothing.columns().items():
        np.testing.assert_array_equal(column, empty[name], strict=True)
