"""``snap``: sources keep their promises, and their windows start where they may."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from positive_samplers import BoxSampler, follows

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.sampler import Sampler
from slidesampler.sampling import (
    BalancedSource,
    CoverageSource,
    MixtureSource,
    NegativeSource,
    PositiveSource,
    RejectionSource,
    RestrictedSource,
    WeightedSource,
    inside_regions,
    source_from_words,
    split_by_region,
)
from slidesampler.testing import make_dataset
from slidesampler.testing.source_contract import RectangleSampler

SAMPLER = RectangleSampler(60)


def targets_of(source, epochs=(0,), n=None):
    return [source.target(epoch, index) for epoch in epochs for index in range(n or len(source))]


# Promises ----------------------------------------------------------------------------------------------------


def on_lattice(sampler, target, step, *, flush):
    """Whether a window starts at multiples along each axis, or ends where the image ends."""
    sizes = sampler.image_shape(target.image_id)[:2]
    window = target.window
    return all(
        start % step == 0 or (flush and start == length - extent)
        for start, extent, length in zip((window.y, window.x), window.shape, sizes, strict=True)
    )


@pytest.mark.parametrize(("snap", "scale"), [(64, None), (32, 1.5), (64, 2.0), (16, 2.5), (48, None)])
@pytest.mark.parametrize("choose", ["annotation", "pixel"])
@pytest.mark.parametrize("allow_border", [True, False])
@pytest.mark.parametrize("jitter_px", [0, 70])
def test_positives_hold_what_they_were_chosen_for(snap, scale, choose, allow_border, jitter_px):
    options = {"jitter_px": jitter_px, "choose": choose, "allow_border": allow_border, "downsample": scale}
    free = targets_of(PositiveSource(SAMPLER, 64, 300, 4, **options))
    found = targets_of(PositiveSource(SAMPLER, 64, 300, 4, snap=snap, **options))
    step, moved = snap * (scale or 1), 0
    for one, target in zip(free, found, strict=True):
        # The choice is the same, only the place is another.
        assert target.with_fields(window=None) == one.with_fields(window=None)
        window = target.window
        assert window.shape == one.window.shape
        assert on_lattice(SAMPLER, target, step, flush=not allow_border)
        assert max(abs(window.y - one.window.y), abs(window.x - one.window.x)) < max(step, window.height)
        height, width, _ = SAMPLER.image_shape(target.image_id)
        if not allow_border:
            assert Window(0, 0, height, width).contains(window)
        if choose == "pixel":
            index = SAMPLER.class_map.index_of(target.category_id)
            assert (SAMPLER.load_mask(target.image_id, window) == index).any()
        else:
            _, row = SAMPLER.locate_annot(target.annot_id)
            x0, y0, x1, y1 = SAMPLER.shapes_of(target.image_id).boxes_xyxy[row]
            cy, cx = min(int((y0 + y1) / 2), height - 1), min(int((x0 + x1) / 2), width - 1)
            assert window.contains(Window(cy, cx, 1, 1))
        moved += window != one.window
    assert moved > 200


@pytest.mark.parametrize("allow_border", [True, False])
@pytest.mark.parametrize(
    ("snap", "options"),
    [(64, {}), (16, {}), (32, {"downsample": 2.0}), (64, {"mpp": 0.75}), (64, {"min_distance_px": 9})],
)
def test_negatives_are_negatives_where_they_were_moved_to(snap, options, allow_border):
    source = NegativeSource(SAMPLER, 64, 300, snap=snap, allow_border=allow_border, min_valid=0.3, **options)
    step = snap * (options.get("downsample") or options.get("mpp", 0.5) / 0.5)
    for target in targets_of(source):
        assert on_lattice(SAMPLER, target, step, flush=not allow_border)
        reach = options.get("min_distance_px", 1) - 1
        mask = SAMPLER.load_mask(target.image_id, target.window)
        assert np.isin(mask, (0, 255)).all()
        assert (mask == 0).mean() >= 0.3
        if reach:
            arms = target.window.grow(reach, reach, 0, 0), target.window.grow(0, 0, reach, reach)
            assert all(np.isin(SAMPLER.load_mask(target.image_id, arm), (0, 255)).all() for arm in arms)
        if not allow_border:
            assert Window(0, 0, *SAMPLER.image_shape(target.image_id)[:2]).contains(target.window)


def test_negatives_that_only_a_free_window_could_be():
    # Background from column 20 to 52: a free window of 32 fits, one at a multiple of 32 does not.
    sampler = BoxSampler([(10, (0, 0, 20, 96)), (10, (52, 0, 96, 96))], sizes=[(96, 96)])
    assert {one.window.x for one in targets_of(NegativeSource(sampler, 32, 20))} == {20}
    with pytest.raises(SamplingError, match="1000 held foreground"):
        NegativeSource(sampler, 32, 20, snap=32).target(0, 0)


def test_a_negative_that_overhangs_by_more_than_half_is_not_called_impossible():
    # Background is in columns 0 to 7. Around column 0 a free window starts at -64, a snapped one at -120.
    sampler = BoxSampler([(10, (8, 0, 384, 384))], sizes=[(384, 384)])
    options = {"allow_border": True, "min_valid": 0.01, "max_tries": 5000}
    with pytest.raises(SamplingError, match="wherever a window lies"):
        NegativeSource(sampler, 128, 20, **options)
    assert {one.window.x for one in targets_of(NegativeSource(sampler, 128, 20, snap=120, **options))} == {-120}


def test_windows_at_the_far_edge_of_an_image():
    # 100 pixels, windows of 32: from 96 on no window at a multiple of 16 that lies inside holds a pixel.
    sampler = BoxSampler([(10, (97, 97, 99, 99)), (10, (60, 80, 62, 82))], sizes=[(100, 100)])
    inside = targets_of(PositiveSource(sampler, 32, snap=16, allow_border=False))
    assert [one.window for one in inside] == [Window(68, 68, 32, 32), Window(64, 48, 32, 32)]
    beyond = targets_of(PositiveSource(sampler, 32, snap=16))
    assert [one.window for one in beyond] == [Window(80, 80, 32, 32), Window(64, 48, 32, 32)]


def test_images_smaller_than_a_window():
    sampler = BoxSampler([(10, (3, 3, 9, 9))], sizes=[(20, 30)])
    for allow_border in (True, False):
        source = PositiveSource(sampler, 64, 200, snap=32, allow_border=allow_border, jitter_px=60)
        # Each holds the object; the image lies wholly in each, so that none overhangs more than it must.
        places = {(y, x) for y in (-32, 0) for x in (-32, 0)}
        assert {(one.window.y, one.window.x) for one in targets_of(source)} == places
    # Of 40 pixels only 0 is a start from -24 to 0.
    sampler = BoxSampler([(10, (30, 30, 39, 39))], sizes=[(40, 40)])
    source = PositiveSource(sampler, 64, 100, snap=32, allow_border=False, jitter_px=60)
    assert {one.window for one in targets_of(source)} == {Window(0, 0, 64, 64)}


@pytest.mark.parametrize("snap", [8, 24, 32])
@pytest.mark.parametrize("min_fraction", [1.0, 0.6])
def test_coverage_covers_with_snapped_windows(snap, min_fraction):
    source = CoverageSource(SAMPLER, 64, min_fraction=min_fraction, snap=snap)
    windows = {}
    for image_id, window in source.windows:
        windows.setdefault(image_id, []).append(window)
    assert all(on_lattice(SAMPLER, one, snap, flush=True) for one in targets_of(source))
    several = 0
    for annot_id in source.covered.tolist():
        image_id, row = SAMPLER.locate_annot(annot_id)
        height, width, _ = SAMPLER.image_shape(image_id)
        x0, y0, x1, y1 = SAMPLER.shapes_of(image_id).boxes_xyxy[row].astype(int)
        seen = np.zeros((height, width), np.bool_)
        best = 0
        for window in windows[image_id]:
            seen[window.as_slices()] = True
            part = window.intersect(Window(y0, x0, y1 - y0, x1 - x0))
            best = max(best, 0 if part is None else part.height * part.width)
        area = (y1 - y0) * (x1 - x0)
        assert seen[y0:y1, x0:x1].sum() >= min_fraction * area
        # Where a window on the lattice can hold the box, one does.
        fits = [
            any(start <= low and start + 64 >= high for start in {*range(0, length - 63, snap), length - 64})
            for low, high, length in ((y0, y1, height), (x0, x1, width))
        ]
        assert best >= min_fraction * area or not all(fits)
        several += not all(fits) and x1 - x0 <= 64 and y1 - y0 <= 64
    assert several >= 2
    report = source.report
    assert report.lower_bound <= report.windows_for_all == len(source)


def test_coverage_takes_the_place_in_whose_middle_an_object_lies():
    sampler = BoxSampler([(10, (200, 100, 210, 110)), (10, (250, 100, 260, 110))])
    # The second lies across column 256, where two windows of 64 meet; of its two halves one is with the first.
    source = CoverageSource(sampler, 64, snap=64)
    assert source.windows == ((3, Window(64, 192, 64, 64)), (3, Window(64, 256, 64, 64)))
    # At every 32 pixels one window holds it, and there are two or three that hold the first.
    source = CoverageSource(sampler, 64, snap=32)
    assert source.windows == ((3, Window(64, 224, 64, 64)), (3, Window(64, 160, 64, 64)))[::-1]


# What is chosen how often ------------------------------------------------------------------------------------


def cells(mask, extent, step):
    """Pixels of a mask that lead to each start of a window, brute force."""
    found = Counter()
    for pixel in zip(*np.nonzero(mask), strict=True):
        place = tuple(int(step * np.floor((one - extent // 2) / step + 0.5)) for one in pixel)
        found[place] += 1
    return found


@pytest.mark.parametrize(("extent", "step"), [(32, 32), (32, 16), (33, 12), (20, 7)])
def test_a_place_is_as_likely_as_its_cell_has_foreground(extent, step):
    boxes = [(10, (15, 22, 90, 70)), (20, (70, 60, 110, 99)), (10, (0, 90, 30, 100))]
    sampler = BoxSampler(boxes, sizes=[(100, 120)])
    source = PositiveSource(sampler, extent, 6000, 3, choose="pixel", snap=step)
    mask = sampler.load_mask(3, Window(0, 0, 100, 120))
    starts = [(one.window.y, one.window.x) for one in targets_of(source)]
    assert follows(starts, cells(mask > 0, extent, step))


@pytest.mark.parametrize(("extent", "step"), [(32, 32), (32, 12)])
def test_negative_places_are_as_likely_as_their_cell_has_tissue(extent, step):
    sampler = BoxSampler([(10, (15, 22, 60, 70))], sizes=[(130, 120)])
    source = NegativeSource(sampler, extent, 6000, 3, snap=step, allow_border=True, min_valid=0.3)
    chances = {}
    # All of it is tissue: there is no tissue mask.
    for (y, x), pixels in cells(np.ones((130, 120)), extent, step).items():
        mask = sampler.load_mask(3, Window(y, x, extent, extent))
        if np.isin(mask, (0, 255)).all() and (mask == 0).mean() >= 0.3:
            chances[y, x] = pixels
    assert len(chances) > 3
    assert follows([(one.window.y, one.window.x) for one in targets_of(source)], chances)


def test_jitter_comes_before_snapping():
    # Free starts are uniform on 25 numbers around 184; of each place those that are nearest to it.
    sampler = BoxSampler([(10, (199, 199, 201, 201))])
    source = PositiveSource(sampler, 32, 4000, jitter_px=12, snap=16)
    place = Counter(int(16 * np.floor(start / 16 + 0.5)) for start in range(184 - 12, 184 + 13))
    assert place == {176: 12, 192: 13}
    for axis in ("y", "x"):
        assert follows([getattr(one.window, axis) for one in targets_of(source)], place)


# Scales, words, errors ---------------------------------------------------------------------------------------


def test_a_pair_says_it_for_each_axis():
    windows = [one.window for one in targets_of(PositiveSource(SAMPLER, (64, 96), 200, snap=(1, 96)))]
    assert {one.x % 96 for one in windows} == {0}
    assert len({one.y % 96 for one in windows}) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snap": 0}, "snap must be whole pixels"),
        ({"snap": True}, "snap must be whole pixels"),
        ({"snap": "64"}, "snap must be whole pixels"),
        ({"snap": 65}, "snap=65 is more than the size of a window, 64 x 64"),
        ({"snap": 33, "downsample": 1.5}, "snap=33 at 1.5 level-0 pixels per output pixel is a step of 49.5"),
        ({"snap": 32, "mpp": 0.527}, "snap=32 at 1.054 level-0 pixels of image 3 per output pixel"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: PositiveSource(SAMPLER, 64, 10, **o),
        lambda **o: NegativeSource(SAMPLER, 64, 10, **o),
        lambda **o: BalancedSource(SAMPLER, 64, 10, **o),
        lambda **o: WeightedSource(SAMPLER, 64, "tissue", 10, **o),
        lambda **o: CoverageSource(SAMPLER, 64, **o),
    ],
)
def test_snaps_that_no_window_can_have(make, options, message):
    with pytest.raises(TargetError, match=message):
        make(**options)


@pytest.mark.parametrize("n", [None, 80])
def test_both_parts_of_a_balanced_source_are_snapped(n):
    drawn = targets_of(BalancedSource(SAMPLER, 64, n, snap=32))
    assert Counter(one.kind for one in drawn) == {"positive": len(drawn) // 2, "negative": len(drawn) // 2}
    assert all(on_lattice(SAMPLER, one, 32, flush=one.kind == "negative") for one in drawn)


def test_hard_negatives_are_snapped_too():
    maps = {one: np.ones(SAMPLER.image_shape(one)[:2]) for one in SAMPLER.image_ids[:5]}
    source = NegativeSource(SAMPLER, 64, 100, maps=maps, snap=32)
    assert all(on_lattice(SAMPLER, one, 32, flush=True) for one in targets_of(source))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"source": "positive", "n": 50}, lambda: PositiveSource(SAMPLER, 64, 50, snap=32)),
        ({"source": "negative", "n": 50}, lambda: NegativeSource(SAMPLER, 64, 50, snap=32)),
        ({"source": "balanced", "n": 50}, lambda: BalancedSource(SAMPLER, 64, 50, snap=32)),
        ({"source": "coverage"}, lambda: CoverageSource(SAMPLER, 64, snap=32)),
        (
            {"source": "rejection", "n": 50, "size_threshold": 50, "on_exhausted": "best"},
            lambda: RejectionSource(
                WeightedSource(SAMPLER, 64, "tissue", 50, snap=32), size_threshold=50, on_exhausted="best"
            ),
        ),
        (
            {"source": "balanced", "n": 50, "jitter_px": 40},
            lambda: BalancedSource.of(
                PositiveSource(SAMPLER, 64, 25, jitter_px=40, snap=32),
                NegativeSource(SAMPLER, 64, 25, snap=32),
                n=50,
            ),
        ),
    ],
)
def test_snap_by_words(words, expected):
    made = source_from_words(SAMPLER, {"size": 64, "snap": 32, **words})
    assert targets_of(made) == targets_of(expected())


def test_a_grid_says_it_by_its_stride():
    with pytest.raises(TargetError, match="no option of source 'grid' called 'snap'"):
        source_from_words(SAMPLER, {"source": "grid", "size": 64, "snap": 32})


def test_mixtures_are_as_their_parts():
    parts = [PositiveSource(SAMPLER, 64, 30, snap=32), WeightedSource(SAMPLER, 64, "tissue", 30)]
    mixed = targets_of(MixtureSource(parts, n=60))
    assert all(on_lattice(SAMPLER, one, 32, flush=False) for one in mixed if one.kind == "positive")


# Splits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_px", [None, 150])
def test_parts_of_a_split_stay_apart(block_px):
    guard, snap, size = 24, 32, 48
    ids = [one for one in SAMPLER.image_ids if min(SAMPLER.image_shape(one)[:2]) > 320]
    split = split_by_region(
        SAMPLER, {"a": 1, "b": 1}, 3, guard_px=guard, block_px=block_px, min_px=size + snap - 1, image_ids=ids
    )
    shown = {}
    for name, regions in split.items():
        inner = WeightedSource(SAMPLER, size, "tissue", 150, 1, snap=snap, allow_border=False, image_ids=ids)
        for target in targets_of(RestrictedSource(inner, regions)):
            assert on_lattice(SAMPLER, target, snap, flush=True)
            assert inside_regions(regions, target.image_id, target.window)
            shown.setdefault(name, []).append(target)
    pairs = 0
    for one in shown["a"]:
        grown = one.window.grow(*(guard,) * 4)
        for other in shown["b"]:
            if one.image_id == other.image_id:
                pairs += 1
                assert grown.intersect(other.window) is None
    assert pairs > 50


def test_a_region_in_which_no_snapped_window_fits():
    sampler = BoxSampler([(10, (0, 0, 400, 400))], sizes=[(400, 400)])
    regions = {3: (Window(10, 10, 80, 80),)}
    inner = WeightedSource(sampler, 64, "tissue", 10, snap=64)
    with pytest.raises(SamplingError, match="none of 500 windows"):
        RestrictedSource(inner, regions, max_tries=500).target(0, 0)


# Tiles that are read -----------------------------------------------------------------------------------------


def tiles_touched(window, tile):
    rows, columns = (
        (start + extent - 1) // tile - start // tile + 1
        for start, extent in ((window.y, window.height), (window.x, window.width))
    )
    return rows * columns


@pytest.mark.parametrize(("snap", "mean"), [(1, (1 + 63 / 64) ** 2), (16, (7 / 4) ** 2), (32, 2.25), (64, 1.0)])
def test_tiles_of_a_window(snap, mean):
    """Every start of one period: the closed form of the documentation."""
    windows = [Window(y, x, 64, 64) for y in range(0, 64, snap) for x in range(0, 64, snap)]
    assert np.mean([tiles_touched(one, 64) for one in windows]) == pytest.approx(mean)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snap")
    manifest = make_dataset(folder, n_slides=1, height=1200, width=1500, seed=2)
    sampler = Sampler(manifest, folder / "cache", "cog", tile=128)
    assert sampler.build(tile=128).ok
    return sampler


def test_windows_of_a_cache_read_fewer_tiles(slide):
    """On average as the closed form says, for windows drawn all over an image with a cache in tiles of 128."""
    means = {}
    for snap in (None, 64, 128):
        source = slide.weighted(128, "tissue", 400, snap=snap)
        means[snap] = np.mean([tiles_touched(one.window, 128) for one in targets_of(source)])
    assert means[None] == pytest.approx((1 + 127 / 128) ** 2, rel=0.03)
    assert means[64] == pytest.approx(2.25, rel=0.06)
    assert means[128] == 1


def test_a_target_is_a_plain_window(slide):
    target = slide.positive(size=128, n=10, snap=64).target(0, 3)
    assert set(target.to_mapping()) <= {"image_id", "window", "kind", "index", "annot_id", "category_id"}
    assert slide.load_sample(target).image.shape[:2] == (128, 128)
