from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import shapely

from slidesampler import NegativesExhaustedError, Sampler, SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.models import NO_CATEGORY
from slidesampler.sampling import NegativeSource
from slidesampler.testing.source_contract import RectangleSampler

HEIGHT, WIDTH = 300, 420

#: Exterior and holes of polygons whose edges pass no pixel centre: shapely and the pixel-centre rule agree.
FRAME = [(3.2, 3.2), (416.7, 3.2), (416.7, 296.7), (3.2, 296.7)]
FRAME_HOLE = [(9.1, 9.1), (410.3, 9.1), (410.3, 290.3), (9.1, 290.3)]
RING = [(60.1, 60.3), (220.4, 50.2), (230.3, 200.1), (70.7, 210.6)]
RING_HOLE = [(90.2, 90.3), (190.6, 85.3), (195.2, 175.7), (95.4, 180.1)]
POLYGONS = [
    # A thin frame along the edge: everything else lies inside its box.
    (FRAME, [FRAME_HOLE]),
    # A ring whose hole is large enough for windows.
    (RING, [RING_HOLE]),
    # Small things that a window may hide between its corners.
    ([(300.1, 100.2), (303.4, 100.7), (301.3, 103.9)], []),
    ([(350.2, 240.3), (351.4, 240.3), (351.4, 241.6), (350.2, 241.6)], []),
]


def polygon_truth():
    """Bool (HEIGHT, WIDTH): pixels whose centre shapely finds inside a polygon."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for exterior, holes in POLYGONS:
        inside |= shapely.contains_xy(shapely.Polygon(exterior, holes), xs, ys)
    return inside


def polygon_sampler():
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1 + i % 2,
            "segmentation": [{"exterior": exterior, "interiors": holes}],
            "bbox": [*np.min(exterior, axis=0), *np.ptp(exterior, axis=0)],
        }
        for i, (exterior, holes) in enumerate(POLYGONS)
    ]
    return array_sampler([(HEIGHT, WIDTH)], annotations, "polygons")


def array_sampler(sizes, annotations=(), name="negatives", valid=None, **options):
    """A sampler of black images in memory, ids 1, 2, 3 ..."""
    images = [
        {"id": i, "file_name": f"array://{name}{i}", "height": h, "width": w}
        for i, (h, w) in enumerate(sizes, start=1)
    ]
    arrays = {f"{name}{i}": np.zeros((h, w, 1), np.uint8) for i, (h, w) in enumerate(sizes, start=1)}
    if valid is not None:
        images[0]["assets"] = [
            {"file_name": images[0]["file_name"], "channels": "r"},
            {"file_name": f"array://{name}-valid", "channels": "valid"},
        ]
        del images[0]["file_name"]
        arrays[f"{name}-valid"] = valid
    manifest = {
        "images": images,
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}],
    }
    return Sampler(manifest, arrays=arrays, **options)


def box(image_id, x, y, w, h, category_id=1):
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h]}


def numbered(*annotations):
    return [{"id": 1 + i, **annotation} for i, annotation in enumerate(annotations)]


def windows_of(source, epochs=(0,)):
    return [source.target(epoch, index).window for epoch in epochs for index in range(len(source))]


def test_no_pixel_of_a_polygon_is_under_a_negative():
    truth = polygon_truth()
    found = windows_of(NegativeSource(polygon_sampler(), (24, 31), n=300, seed=5))
    for window in found:
        assert not truth[window.as_slices()].any()
    assert len(set(found)) > 250
    # Both between the frame and the rest, and inside the hole of the ring, though all lie within boxes.
    hole = Window(91, 97, 82, 92)
    assert any(hole.contains(window) for window in found)
    assert not all(hole.contains(window) for window in found)


def test_every_negative_place_has_the_same_chance():
    """Windows are uniform over all places that shapely calls free."""
    truth = polygon_truth()
    size = 24
    table = np.pad(truth.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    under = table[size:, size:] - table[:-size, size:] - table[size:, :-size] + table[:-size, :-size]
    free = under == 0
    drawn = np.zeros_like(free, dtype=int)
    n = 1500
    for window in windows_of(NegativeSource(polygon_sampler(), size, n=n, seed=5)):
        drawn[window.y, window.x] += 1
    assert not drawn[~free].any()
    # Eight by eight cells; the chance of a cell is the number of its free places.
    counts, chances = [], []
    for rows in np.array_split(np.arange(free.shape[0]), 8):
        for cols in np.array_split(np.arange(free.shape[1]), 8):
            counts.append(drawn[np.ix_(rows, cols)].sum())
            chances.append(free[np.ix_(rows, cols)].sum())
    counts, expected = np.array(counts), np.array(chances) / free.sum() * n
    several = expected > 5
    statistic = ((counts - expected)[several] ** 2 / expected[several]).sum()
    freedom = several.sum() - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("how", [{"downsample": 2}, {"downsample": 3.7}])
def test_reduced_windows_neither_lie_over_nor_show_foreground(how):
    truth = polygon_truth()
    sampler = polygon_sampler()
    source = NegativeSource(sampler, (9, 11), n=150, seed=2, **how)
    for index in range(len(source)):
        target = source.target(0, index)
        assert not truth[target.window.as_slices()].any()
        sample = sampler.load_sample(target)
        assert sample.mask.shape == (9, 11)
        assert not sample.mask.any()


def test_reduced_mask_that_reaches_over_the_edge_counts():
    """A mask read at reduced size may show ground beside the window; such a window is no negative."""

    class Reaching(RectangleSampler):
        def load_mask(self, image_id, window, size=None):
            mask = np.zeros(size or window.shape, np.uint8)
            if size is not None and window.x % 2:
                mask[0, -1] = 1
            return mask

    source = NegativeSource(Reaching(images=3), 16, n=40, downsample=2)
    assert all(window.x % 2 == 0 for window in windows_of(source))
    full = NegativeSource(Reaching(images=3), 16, n=40)
    assert any(window.x % 2 for window in windows_of(full))


def test_window_inside_a_huge_annotation_is_never_a_negative():
    sampler = array_sampler([(200, 200), (200, 40)], numbered(box(1, 0, 0, 200, 200)), "huge")
    source = NegativeSource(sampler, 16, n=100)
    assert {source.target(0, index).image_id for index in range(100)} == {2}


def scattered(n=25):
    """One 100 x 100 image with a pixel of foreground every four pixels: too scattered for a proof."""
    boxes = [box(1, 4 * x, 4 * y, 1, 1) for y in range(n) for x in range(n)]
    return array_sampler([(100, 100)], numbered(*boxes), "scattered")


def test_foreground_in_every_window():
    source = NegativeSource(scattered(), 16, n=3, max_tries=25)
    with pytest.raises(
        NegativesExhaustedError, match=r"wanted 1, found 0 in 25 tries .25 held foreground"
    ) as caught:
        source.target(4, 2)
    error = caught.value
    assert (error.wanted, error.found, error.tries, error.refused) == (1, 0, 25, {"foreground": 25})
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.tries, copy.refused) == (str(error), 25, {"foreground": 25})
    assert len(source) == 3


def exhaust(source):
    return source.target(4, 2)


def test_exhaustion_travels_from_a_worker():
    source = NegativeSource(scattered(), 16, n=3, max_tries=7)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        error = pool.submit(exhaust, source).exception()
    assert type(error) is NegativesExhaustedError
    assert (error.wanted, error.found, error.tries, error.refused) == (1, 0, 7, {"foreground": 7})
    assert "wanted 1, found 0 in 7 tries" in str(error)


def test_tries_are_bounded_and_all_used():
    """The record says how many windows were looked at; that many tries are enough, one less is not."""
    sampler = polygon_sampler()
    source = NegativeSource(sampler, 64, n=200, seed=3)
    records = [source.explain(0, index)[1] for index in range(200)]
    assert all(record.tries == 1 + sum(record.refused.values()) for record in records)
    hardest = max(range(200), key=lambda index: records[index].tries)
    tries = records[hardest].tries
    assert tries > 3
    enough = NegativeSource(sampler, 64, n=200, seed=3, max_tries=tries)
    assert enough.target(0, hardest) == source.target(0, hardest)
    with pytest.raises(NegativesExhaustedError, match=f"in {tries - 1} tries"):
        NegativeSource(sampler, 64, n=200, seed=3, max_tries=tries - 1).target(0, hardest)


def test_single_foreground_pixel_is_seen_wherever_it_lies():
    class OnePixel(RectangleSampler):
        """A 3000 x 3000 image with one pixel of foreground, so that masks are looked at in several blocks."""

        pixel = (1500, 1499)

        @property
        def _sizes(self):
            return np.array([(3000, 3000)])

        def load_mask(self, image_id, window, size=None):
            mask = np.zeros(size or window.shape, np.uint8)
            y, x = self.pixel[0] - window.y, self.pixel[1] - window.x
            if size is None and 0 <= y < window.height and 0 <= x < window.width:
                mask[y, x] = 2
            return mask

    sampler = OnePixel(images=1)
    pixel = Window(*sampler.pixel, 1, 1)
    for window in windows_of(NegativeSource(sampler, 1300, n=30)):
        assert window.intersect(pixel) is None
    with pytest.raises(NegativesExhaustedError):
        NegativeSource(sampler, 1600, n=1, max_tries=40).target(0, 0)


def test_ignored_pixels_are_neither_foreground_nor_background():
    annotations = numbered(box(1, 0, 0, 50, 100, category_id=None))
    sampler = array_sampler([(100, 100)], annotations, "ignored")
    half = windows_of(NegativeSource(sampler, 20, n=200, min_valid=0.5))
    assert {window.x >= 40 for window in half} == {True}
    assert any(window.x < 50 for window in half)
    strict = windows_of(NegativeSource(sampler, 20, n=200, min_valid=1))
    assert {window.x >= 50 for window in strict} == {True}
    anything = windows_of(NegativeSource(sampler, 20, n=200, min_valid=0))
    # The middle of a window is valid, so at least that is background.
    assert min(window.x for window in anything) in (40, 41)


def test_invalid_region_is_unknown():
    valid = np.zeros((100, 100), np.uint8)
    valid[:, 60:] = 255
    sampler = array_sampler([(100, 100)], (), "region", valid=valid)
    assert {w.x >= 60 for w in windows_of(NegativeSource(sampler, 20, n=50, min_valid=1))} == {True}


def test_images_by_area_and_places_inside_them():
    sampler = array_sampler([(100, 400), (100, 100), (50, 100)], (), "areas")
    n = 2000
    source = NegativeSource(sampler, 16, n=n, seed=8)
    targets = [source.target(0, index) for index in range(n)]
    counts = Counter(target.image_id for target in targets)
    expected = {1: n * 8 / 11, 2: n * 2 / 11, 3: n / 11}
    statistic = sum((counts[i] - e) ** 2 / e for i, e in expected.items())
    assert statistic < 2 + 4 * 4**0.5
    for target in targets:
        assert Window(0, 0, *sampler.image_shape(target.image_id)[:2]).contains(target.window)
    ys = Counter(target.window.y for target in targets if target.image_id == 1)
    assert set(ys) == set(range(85))


def test_image_smaller_than_the_window_lies_inside_it():
    sampler = array_sampler([(20, 200)], (), "thin")
    found = windows_of(NegativeSource(sampler, 32, n=300))
    assert {window.y for window in found} == set(range(-12, 1))
    assert {0 <= window.x <= 168 for window in found} == {True}


def test_windows_too_large_for_every_image():
    sampler = array_sampler([(20, 200), (10, 10)], (), "toolarge")
    with pytest.raises(SamplingError, match=r"64 x 64 output pixels .image 1: it is too small: 20 x 200.*50%"):
        NegativeSource(sampler, 64, n=1)
    assert len(NegativeSource(sampler, 64, n=1, min_valid=0.3)) == 1
    with pytest.raises(SamplingError, match="too small"):
        NegativeSource(sampler, 20, n=1, downsample=4)


def test_images_too_small_are_left_out():
    sampler = array_sampler([(30, 30), (200, 200)], (), "mixed")
    source = NegativeSource(sampler, 64, n=100)
    assert {source.target(0, index).image_id for index in range(100)} == {2}


def test_index_does_not_depend_on_n_and_seeds_differ():
    sampler = polygon_sampler()
    few, many = (windows_of(NegativeSource(sampler, 16, n=n, seed=1)) for n in (10, 30))
    assert many[:10] == few
    assert windows_of(NegativeSource(sampler, 16, n=10, seed=2)) != few


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 2.0}, TypeError, "integer"),
        ({"max_tries": 0}, ValueError, "max_tries must be at least 1, got 0"),
        ({"min_valid": 1.5}, ValueError, "min_valid.*got 1.5"),
        ({"min_valid": float("nan")}, ValueError, "min_valid"),
        ({"size": (8, 0)}, TargetError, "size"),
        ({"image_ids": [4]}, TargetError, "not in the manifest: 4"),
    ],
)
def test_impossible_requests(arguments, error, message):
    with pytest.raises(error, match=message):
        NegativeSource(RectangleSampler(images=9), **{"size": 8, "n": 1, **arguments})


def test_no_category_is_not_a_class():
    """The null category of the double and of the manifest are the same thing."""
    annotations = numbered(box(1, 0, 0, 5, 5, category_id=None))
    assert array_sampler([(9, 9)], annotations, "null").manifest.shapes.category_ids.tolist() == [NO_CATEGORY]
