"""Grids restricted to masks, tissue and regions of interest, against rasters of every pixel."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.sampler import Sampler
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.grid_axis import GridAxis
from slidesampler.sampling.grid_counts import window_counts
from slidesampler.sampling.grid_kept import KeptPositions
from slidesampler.sampling.grid_regions import MaskRegion
from slidesampler.testing.source_contract import RectangleSampler


def stretched(mask, shape):
    """Return a mask at the resolution of an image: the mask's pixel under the centre of each pixel."""
    rows = ((np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]).astype(int)
    return np.asarray(mask)[np.ix_(rows, columns)] != 0


def expected_places(full, truth_of, share):
    """Return the places of a full grid's windows that hold enough of a raster."""
    kept = []
    for i in range(len(full)):
        image_id, row, column = full.locate(i)
        inside = truth_of(image_id)[full.target(0, i).window.as_slices()]
        if inside.any() and inside.mean() >= share - 1e-9:
            kept.append((image_id, row, column))
    return kept


def check_against_full(source, full, truth_of, share=0.0):
    """A restricted grid has the full grid's targets, those that hold enough, with the same owned rectangles."""
    places = expected_places(full, truth_of, share)
    assert [source.locate(i) for i in range(len(source))] == places
    for i, place in enumerate(places):
        number = full.index_of(*place)
        assert source.target(5, i) == full.target(0, number).with_fields(index=i)
    kept = set(places)
    for i in range(len(full)):
        place = full.locate(i)
        assert (source.index_of(*place) is not None) == (place in kept)
    assert sum(source.tile_counts) == len(source)


class BlankSampler(RectangleSampler):
    """Images of given sizes without annotations."""

    def __init__(self, *sizes):
        super().__init__(images=len(sizes))
        self.sizes = sizes

    def __getstate__(self):
        return {**super().__getstate__(), "sizes": self.sizes}

    @property
    def _sizes(self):
        return np.array(self.sizes)


# Counting ---------------------------------------------------------------------------------------------------


@st.composite
def grids_over_rasters(draw):
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    axes = [
        GridAxis.of(
            length,
            draw(st.integers(1, 20)),
            draw(st.integers(1, 25)),
            draw(st.sampled_from(["shift", "pad", "even"])),
        )
        for length in shape
    ]
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0, 0.02, 0.3, 0.9, 1]))
    return axes, np.random.default_rng(seed).random(shape) < density


@settings(max_examples=50)
@given(grids_over_rasters())
def test_window_counts_are_sums_of_pixels(case):
    axes, raster = case
    spans = [axis.spans(0, axis.windows) for axis in axes]
    whole = MaskRegion({0: raster}).rectangles(None, 0, raster.shape, (0, raster.shape[0]))
    by_pixel = [np.array([(y, x, 1, 1)]) for y, x in np.argwhere(raster)]
    expected = [[raster[a:b, c:d].sum() for c, d in spans[1]] for a, b in spans[0]]
    np.testing.assert_array_equal(window_counts(*spans, whole), expected)
    np.testing.assert_array_equal(window_counts(*spans, by_pixel), expected)


def test_window_counts_of_large_numbers_are_exact():
    side = 4_000_000
    whole = np.array([[0, side - 7]])
    odd = [np.array([[1, 1, side - 9, side - 8]]), np.array([[side - 8, 0, 1, side]])]
    assert window_counts(whole, whole, odd).tolist() == [[(side - 9) * (side - 8) + side - 7]]


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mask_shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_a_mask_of_any_resolution_is_looked_up_at_the_pixels_centre(shape, mask_shape, seed, data):
    mask = np.random.default_rng(seed).random(mask_shape) < 0.5
    first = data.draw(st.integers(0, shape[0] - 1))
    stop = data.draw(st.integers(first + 1, shape[0]))
    found = np.zeros(shape, int)
    for batch in MaskRegion({7: mask}).rectangles(None, 7, shape, (first, stop)):
        for y, x, height, width in batch:
            assert min(height, width) > 0
            found[y : y + height, x : x + width] += 1
    np.testing.assert_array_equal(found[first:stop], stretched(mask, shape)[first:stop])


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 20)), min_size=1, max_size=5), st.data())
def test_kept_positions_equal_a_list_of_them(shapes, data):
    seed, density = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from([0.05, 0.5, 1]))
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < density for shape in shapes]
    packed = np.concatenate([np.packbits(mask, axis=1).reshape(-1) for mask in masks])
    listed = [(i, *place) for i, mask in enumerate(masks) for place in np.argwhere(mask).tolist()]
    kept = KeptPositions(shapes, packed)
    for one in (kept, KeptPositions.unpack(shapes, kept.pack())):
        assert [one.locate(i) for i in range(one.total)] == listed
        assert one.image_stops() == np.cumsum([mask.sum() for mask in masks]).tolist()
        numbers = {place: i for i, place in enumerate(listed)}
        for i, mask in enumerate(masks):
            for row, column in np.ndindex(mask.shape):
                assert one.index_of(i, row, column) == numbers.get((i, row, column))
    assert kept.pack(limit=1) is None


# Masks ------------------------------------------------------------------------------------------------------


@settings(max_examples=35)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=2),
    size=st.integers(1, 20),
    overlap=st.floats(0, 0.9),
    edge=st.sampled_from(["shift", "pad", "even"]),
    scale=st.sampled_from([1, 1.7, 3]),
    share=st.sampled_from([0, 0.1, 0.5, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_where_a_mask_is(sizes, size, overlap, edge, scale, share, seed):
    sampler = BlankSampler(*sizes)
    rng = np.random.default_rng(seed)
    masks = {
        image_id: rng.random(rng.integers(1, 30, 2)) < rng.choice([0.05, 0.6]) for image_id in sampler.image_ids
    }
    stride = max(1, round(size * (1 - overlap)))
    full = GridSource(sampler, size, stride, edge=edge, downsample=scale)
    truth = {i: stretched(masks[i], sampler.image_shape(i)[:2]) for i in sampler.image_ids}
    places = expected_places(full, truth.get, share)
    if not places:
        with pytest.raises(SamplingError, match="no window of the grid is kept"):
            GridSource(sampler, size, stride, edge=edge, downsample=scale, where=masks, min_inside=share)
        return
    source = GridSource(sampler, size, stride, edge=edge, downsample=scale, where=masks, min_inside=share)
    check_against_full(source, full, truth.get, share)


def test_masks_by_path_travel_as_paths(tmp_path):
    sampler = BlankSampler((300, 200), (200, 200))
    rng = np.random.default_rng(0)
    masks = {3: rng.random((75, 50)) < 0.02, 10: (rng.random((33, 17)) < 0.02).astype(np.uint8) * 255}
    paths = {}
    for image_id, mask in masks.items():
        paths[image_id] = tmp_path / f"{image_id}.npy"
        np.save(paths[image_id], mask)
    by_array = GridSource(sampler, 16, where=masks)
    by_path = GridSource(sampler, 16, where=paths)
    assert [by_path.locate(i) for i in range(len(by_path))] == [
        by_array.locate(i) for i in range(len(by_array))
    ]
    for source in (by_array, by_path):
        copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(source))))
        assert [copy.target(0, i) for i in range(len(copy))] == [
            source.target(0, i) for i in range(len(source))
        ]


def test_a_mask_in_memory_does_not_travel():
    sampler = BlankSampler((4000, 4000))
    mask = np.random.default_rng(0).random((4000, 4000)) < 1e-6
    source = GridSource(sampler, 32, 16, where={3: mask})
    assert len(pickle.dumps(source)) < 10_000
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source) > 0
    assert [copy.locate(i) for i in range(len(copy))] == [source.locate(i) for i in range(len(source))]


def test_many_kept_positions_are_found_again_in_a_worker(tmp_path):
    # 490,000 random bits cannot be packed: where they can be found again, they do not travel.
    mask = np.random.default_rng(0).random((700, 700)) < 0.5
    np.save(tmp_path / "mask.npy", mask)
    sampler = BlankSampler((2800, 2800))
    source = GridSource(sampler, 4, where={3: tmp_path / "mask.npy"})
    assert len(source) == mask.sum()
    assert len(pickle.dumps(source)) < 2000
    copy = pickle.loads(pickle.dumps(source))
    assert "_kept" not in vars(copy)
    places = [(3, *place) for place in np.argwhere(mask).tolist()]
    assert [copy.locate(i) for i in range(0, len(copy), 997)] == places[::997]
    # An array cannot be found again, so its bits do.
    copy = pickle.loads(pickle.dumps(GridSource(sampler, 4, where={3: mask})))
    assert [copy.locate(i) for i in range(0, len(copy), 997)] == places[::997]


# Tissue -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "share"),
    [({"where": "tissue"}, 0), ({"where": "tissue", "min_inside": 0.4}, 0.4), ({"min_tissue": 0.75}, 0.75)],
)
def test_tissue(options, share):
    sampler = RectangleSampler(images=4)
    truth = {}
    for image_id in sampler.image_ids:
        shape, mask = sampler.image_shape(image_id)[:2], sampler.tissue_mask(image_id)
        truth[image_id] = np.ones(shape, bool) if mask is None else mask.pixels(Window(0, 0, *shape))
    assert {sampler.tissue_mask(image_id) is None for image_id in sampler.image_ids} == {True, False}
    full = GridSource(sampler, (40, 56), overlap=(8, 24), edge="pad")
    source = GridSource(sampler, (40, 56), overlap=(8, 24), edge="pad", **options)
    assert 0 < len(source) < len(full)
    check_against_full(source, full, truth.get, share)


# Regions of interest ----------------------------------------------------------------------------------------

RING = [(20.3, 15.1), (150.7, 30.2), (140.2, 160.9), (60.5, 120.4), (10.1, 150.6)]
HOLE = [(60.2, 50.3), (110.4, 55.1), (100.8, 100.7), (65.9, 90.2)]
SQUARE = [(150, 150), (180, 150), (180, 190), (150, 190)]


def centres_in(polygons, shape):
    """Return which pixels have their centre in a shapely polygon."""
    ys, xs = np.mgrid[: shape[0], : shape[1]] + 0.5
    return shapely.contains_xy(shapely.union_all(polygons), xs, ys)


def as_shapely(polygon):
    return shapely.Polygon(polygon) if np.ndim(polygon[0]) == 1 else shapely.Polygon(polygon[0], polygon[1:])


@pytest.mark.parametrize(
    "polygons", [[RING], [[RING, HOLE]], [[RING, HOLE], SQUARE], [np.array(SQUARE), [np.array(HOLE)]]]
)
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_polygons(polygons, share):
    sampler = BlankSampler((200, 220), (90, 80))
    truth = {
        3: centres_in([as_shapely(polygon) for polygon in polygons], (200, 220)),
        10: np.zeros((90, 80), bool),
    }
    full = GridSource(sampler, 16, overlap=4)
    source = GridSource(sampler, 16, overlap=4, roi={3: polygons}, min_inside=share)
    check_against_full(source, full, truth.get, share)
    assert source.tile_counts[1] == 0
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.locate(i) for i in range(len(copy))] == [source.locate(i) for i in range(len(source))]


@settings(max_examples=20)
@given(
    corners=st.lists(st.tuples(*[st.integers(0, 30)] * 4), min_size=1, max_size=5),
    size=st.integers(2, 12),
    share=st.sampled_from([0, 0.3, 1]),
)
def test_areas_of_boxes_are_shapelys(corners, size, share):
    boxes = [shapely.box(x, y, x + w + 1, y + h + 1) for y, x, h, w in corners]
    sampler = BlankSampler((40, 40))
    union = shapely.union_all(boxes)
    full = GridSource(sampler, size, max(1, size // 2))
    kept = []
    for i in range(len(full)):
        window = full.target(0, i).window.intersect(Window(0, 0, 40, 40))
        area = shapely.intersection(union, shapely.box(*window.as_xyxy())).area
        if area > 0 and area >= share * window.height * window.width - 1e-6:
            kept.append(full.locate(i))
    polygons = {3: [np.array(box.exterior.coords) for box in boxes]}
    if not kept:
        with pytest.raises(SamplingError):
            GridSource(sampler, size, max(1, size // 2), roi=polygons, min_inside=share)
        return
    source = GridSource(sampler, size, max(1, size // 2), roi=polygons, min_inside=share)
    assert [source.locate(i) for i in range(len(source))] == kept


def test_counts_are_close_to_shapelys_areas():
    # Pixels stand for the area around their centres: what they are off by is along the outline.
    polygon = shapely.Polygon(RING, [HOLE])
    sampler = BlankSampler((200, 220))
    spans = [GridAxis.of(length, 20, 13, "pad").spans(0, 14) for length in (200, 220)]
    spans = [span[span[:, 0] < length] for span, length in zip(spans, (200, 220), strict=True)]
    region = GridSource(sampler, 8, roi={3: [[RING, HOLE]]})._filter.conditions[0].region
    counts = window_counts(*spans, region.rectangles(sampler, 3, (200, 220), (0, 200)))
    for i, (y0, y1) in enumerate(spans[0]):
        for j, (x0, x1) in enumerate(spans[1]):
            tile = shapely.box(x0, y0, x1, y1)
            outline = polygon.boundary.intersection(tile).length
            assert abs(counts[i, j] - polygon.intersection(tile).area) <= outline + 1e-6


@pytest.fixture(scope="module")
def annotated():
    """A real sampler: regions as polygons with holes, RLE and boxes, with other things painted over them."""
    rle = np.zeros((120, 150), bool)
    rle[70:110, 5:45] = np.random.default_rng(0).random((40, 40)) < 0.7
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, rle.T.reshape(-1).astype(int), 2])))
    counts = ([] if not rle.T.reshape(-1)[0] else [0]) + runs.tolist()
    part = {"exterior": [(10, 8), (90, 12), (70, 60), (15, 55)], "interiors": [[(30, 20), (30, 40), (60, 40)]]}
    manifest = {
        "images": [
            {"id": 1, "file_name": "array://roi", "height": 120, "width": 150},
            {"id": 2, "file_name": "array://bare", "height": 60, "width": 60},
        ],
        "categories": [
            {"id": 1, "name": "region"},
            {"id": 2, "name": "cell"},
            {"id": 3, "name": "core", "supercategory": "region"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [part], "bbox": [10, 8, 80, 52]},
            {"id": 2, "image_id": 1, "category_id": 3, "segmentation": {"size": [120, 150], "counts": counts}},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [100.4, 80.3, 30.2, 20.4]},
            {"id": 4, "image_id": 1, "category_id": 2, "bbox": [0, 0, 150, 100]},
        ],
    }
    arrays = {"roi": np.zeros((120, 150), np.uint8), "bare": np.zeros((60, 60), np.uint8)}
    polygon = shapely.Polygon(part["exterior"], part["interiors"])
    boxed = centres_in([shapely.box(100.4, 80.3, 130.6, 100.7)], (120, 150))
    truth = {"region": centres_in([polygon], (120, 150)) | boxed, "core": rle}
    return Sampler(manifest, arrays=arrays), truth


@pytest.mark.parametrize("share", [0, 0.6])
@pytest.mark.parametrize(
    ("roi", "names"),
    [
        ("region", ("region", "core")),
        (1, ("region",)),
        ("core", ("core",)),
        ([1, "core"], ("region", "core")),
        (["core", {1: [[(100, 10), (140, 10), (140, 30)]]}], ("core", "triangle")),
    ],
)
def test_annotations_are_regions_whatever_is_painted_over_them(annotated, roi, names, share):
    sampler, truth = annotated
    triangle = centres_in([shapely.Polygon([(100, 10), (140, 10), (140, 30)])], (120, 150))
    expected = np.logical_or.reduce([{**truth, "triangle": triangle}[name] for name in names])
    rasters = {1: expected, 2: np.zeros((60, 60), bool)}
    source = GridSource(sampler, 10, 7, edge="even", roi=roi, min_inside=share)
    check_against_full(source, GridSource(sampler, 10, 7, edge="even"), rasters.get, share)
    # Regions are geometry: no label is looked at.
    assert "foreground" not in vars(sampler)


def test_conditions_are_met_together(annotated):
    sampler, truth = annotated
    mask = np.zeros((2, 2), bool)
    mask[0] = True
    source = GridSource(sampler, 10, roi=1, where={1: mask, 2: mask}, min_inside=0.5)
    full = GridSource(sampler, 10)
    image = expected_places(full, {1: truth["region"], 2: np.zeros((60, 60), bool)}.get, 0.5)
    upper = expected_places(full, {1: stretched(mask, (120, 150)), 2: stretched(mask, (60, 60))}.get, 0.5)
    assert {source.locate(i) for i in range(len(source))} == set(image) & set(upper)


# Refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "glass"}, "'tissue' or masks"),
        ({"where": {3: np.ones((4, 4), bool)}}, "no mask of 1 of the 2 images, \\[10\\]"),
        ({"where": {3: np.ones(4, bool), 10: np.ones((4, 4), bool)}}, "image 3 must be a 2-D array.*\\(4,\\)"),
        ({"where": {3: np.ones((4, 4)), 10: np.ones((4, 4), bool)}}, "float64"),
        ({"where": {3: np.ones((0, 4), bool), 10: np.ones((4, 4), bool)}}, "at least one pixel"),
        ({"where": dict.fromkeys((3, 10, 4), np.ones((4, 4), bool))}, "not in the manifest: \\[4\\]"),
        ({"roi": {4: [SQUARE]}}, "not in the manifest: \\[4\\]"),
        ({"roi": {3: [SQUARE[:2]]}}, "at least three finite points"),
        ({"roi": {3: [[(0, 0), (1, np.nan), (1, 1)]]}}, "image 3"),
        ({"roi": {3: [5]}}, "at least three"),
        ({"roi": {3: [[]]}}, "at least three"),
        ({"roi": []}, "roi is empty"),
        ({"roi": "tumor"}, "did you mean 'tumour'"),
        ({"roi": 99}, "no category id 99"),
        ({"min_inside": 0.5}, "give one of them"),
        ({"where": "tissue", "min_inside": 1.5}, "min_inside is a share, 0 to 1, got 1.5"),
        ({"min_tissue": -0.1}, "min_tissue is a share"),
    ],
)
def test_impossible_regions(options, message):
    with pytest.raises(TargetError, match=message):
        GridSource(BlankSampler((64, 64), (64, 64)), 32, **options)


def test_nothing_kept_says_what_left_how_much():
    sampler = BlankSampler((64, 64), (64, 64))
    half = np.array([[True, False]])
    with pytest.raises(SamplingError, match="of 8 on 2 images where left 4, roi left 0; ask for less"):
        GridSource(sampler, 32, where={3: half, 10: half}, roi={3: [[(40, 0), (60, 0), (60, 60)]]})
