"""Where negatives lie: uniform over what is allowed, by the weights and maps that were given."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from slidesampler import Sampler
from slidesampler.errors import NegativesExhaustedError, SamplingError, TargetError
from slidesampler.foreground import ForegroundIndex, IndexColumns, TissueMask, index_image
from slidesampler.geometry import Window
from slidesampler.sampling.draw_record import DrawRecord, ExplainedSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.testing.source_contract import RectangleSampler, SourceContract


class PaintedSampler(RectangleSampler):
    """Images that are nothing but labels, of some groups, maybe with a tissue mask in blocks of 4 pixels."""

    def __init__(self, labels, tissue=None, groups=None):
        super().__init__(images=len(labels))
        self.labels, self.groups = labels, groups
        masks = [None if one is None else TissueMask(one, 4) for one in tissue or [None] * len(labels)]
        images = [
            index_image(lambda window, one=one: one[window.as_slices()], one.shape, 4, 255, mask)
            for one, mask in zip(labels, masks, strict=True)
        ]
        self.index = ForegroundIndex(IndexColumns.join(self.image_ids, images))

    @property
    def foreground(self):
        return self.index

    @property
    def _sizes(self):
        return np.array([one.shape for one in self.labels])

    def image_record(self, image_id):
        record = super().image_record(image_id)
        if self.groups:
            object.__setattr__(record, "group", self.groups[self._position(image_id)])
        return record

    def load_mask(self, image_id, window, size=None):
        raise AssertionError("the index knows")


def targets_of(source, n=None):
    return [source.target(0, index) for index in range(n or len(source))]


def check_chances(counts, chances):
    """Compare counts with chances by chi-square, and find nothing where there is no chance.

    A true share fails with a chance below exp(-10): B. Laurent and P. Massart, "Adaptive estimation of a
    quadratic functional by model selection", Annals of Statistics 28 (2000), lemma 1.
    """
    counts, chances = np.asarray(counts, float), np.asarray(chances, float)
    assert not counts[chances == 0].any()
    expected = chances / chances.sum() * counts.sum()
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    some = expected > 0
    statistic = ((counts - expected)[some] ** 2 / expected[some]).sum()
    freedom = some.sum() - 1
    assert statistic < freedom + 2 * (10 * freedom) ** 0.5 + 20


def place_chances(labels, tissue, extent, *, allow_border=False, allowed=0.0):
    """Tissue pixels that lead to each start of a window, by brute force; only where it is a negative."""
    chances = Counter()
    for y, x in zip(*np.nonzero(tissue), strict=True):
        place = [int(y) - extent // 2, int(x) - extent // 2]
        if not allow_border:
            place = [min(max(one, 0), length - extent) for one, length in zip(place, labels.shape, strict=True)]
        under = labels[max(place[0], 0) : place[0] + extent, max(place[1], 0) : place[1] + extent]
        if (under > 0).sum() <= allowed * under.size and under.size >= extent**2 / 2:
            chances[tuple(place)] += 1
    return chances


def painted():
    labels = np.zeros((64, 80), np.uint8)
    labels[5:20, 30:50] = 1
    labels[40:44, 3:60] = 2
    labels[50:64, 70:80] = 3
    return labels


@pytest.mark.parametrize(
    ("extent", "options"),
    [(9, {}), (8, {"allow_border": True}), (12, {"allowed": 0.25}), (9, {"tissue": True})],
)
def test_uniform_over_what_is_allowed(extent, options):
    """Every pixel of the tissue around which a window is a negative has the same chance."""
    labels, tissue = painted(), np.ones((64, 80), bool)
    blocks = None
    if options.pop("tissue", False):
        blocks = np.zeros((16, 20), bool)
        blocks[2:15, 3:11] = True
        tissue = np.kron(blocks, np.ones((4, 4), bool))
    chances = place_chances(labels, tissue, extent, **options)
    source = NegativeSource(
        PaintedSampler([labels], [blocks]),
        extent,
        n=2000,
        seed=11,
        max_foreground=options.pop("allowed", 0.0),
        **options,
    )
    found = Counter((target.window.y, target.window.x) for target in targets_of(source))
    assert found.keys() <= chances.keys()
    # In blocks of 6 by 6 places, and the places along the left border by themselves.
    cells, expected = Counter(), Counter()
    for total, part in ((cells, found), (expected, chances)):
        for (y, x), count in part.items():
            total[y // 6, x // 6, x == 0] += count
    check_chances([cells[key] for key in expected], [expected[key] for key in expected])


def test_middle_of_a_window():
    """Row ``y + h // 2`` and column ``x + w // 2`` of a window is the pixel that was drawn."""
    blocks = np.zeros((25, 25), bool)
    blocks[10, 7] = True
    for size in ((9, 14), (1, 1), (30, 31)):
        source = NegativeSource(PaintedSampler([np.zeros((100, 100), np.uint8)], [blocks]), size, n=400)
        windows = [target.window for target in targets_of(source)]
        middles = {(window.y + size[0] // 2, window.x + size[1] // 2) for window in windows}
        assert middles == {(y, x) for y in range(40, 44) for x in range(28, 32)}


def test_border():
    labels = np.zeros((60, 20), np.uint8)
    over = targets_of(NegativeSource(PaintedSampler([labels]), 32, n=500, allow_border=True, min_valid=0.25))
    assert min(target.window.y for target in over) < 0
    assert max(target.window.y1 for target in over) > 60
    within = targets_of(NegativeSource(PaintedSampler([labels]), 32, n=500, min_valid=0.25))
    assert all(0 <= target.window.y <= 28 and -12 <= target.window.x <= 0 for target in within)


def mostly_foreground():
    """99 % of 400 x 400 pixels are foreground; there is one hole of 40 x 40 pixels."""
    labels = np.ones((400, 400), np.uint8)
    labels[150:190, 230:270] = 0
    return labels


def test_slide_of_99_percent_foreground():
    source = NegativeSource(PaintedSampler([mostly_foreground()]), 8, n=40, seed=1, max_tries=10_000)
    found = [source.explain(0, index) for index in range(40)]
    hole = Window(150, 230, 40, 40)
    assert all(hole.contains(target.window) for target, _ in found)
    # A try is kept with a chance of 33 * 33 in 160,000: geometric, so mean and deviation are both about 147.
    mean = 160_000 / 33**2
    tries = np.mean([record.tries for _, record in found])
    assert abs(tries - mean) < 4 * mean / 40**0.5
    assert all(record.refused == {"foreground": record.tries - 1} for _, record in found if record.tries > 1)


def half_and_half():
    half = np.zeros((100, 200), np.uint8)
    half[:, :100] = 1
    return [half, np.zeros((100, 100), np.uint8), np.zeros((60, 50), np.uint8)]


def test_images_by_the_places_that_they_have():
    """Without weights windows are uniform over all images together, foreground or not."""
    images = half_and_half()
    counts = Counter(
        target.image_id for target in targets_of(NegativeSource(PaintedSampler(images), 10, n=2000, seed=2))
    )
    places = [sum(place_chances(one, one == one, 10).values()) for one in images]
    check_chances([counts[image_id] for image_id in (3, 10, 17)], places)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ("uniform", [1, 1, 1]),
        ("area", [20_000, 10_000, 3000]),
        ("sqrt_area", [20_000**0.5, 10_000**0.5, 3000**0.5]),
        ({3: 5, 10: 0, 17: 1}, [5, 0, 1]),
    ],
)
def test_given_weights_are_exact(weights, shares):
    """However much of an image is foreground, it has the share that was asked for."""
    source = NegativeSource(PaintedSampler(half_and_half()), 10, n=1500, seed=4, slide_weights=weights)
    counts = Counter(target.image_id for target in targets_of(source))
    check_chances([counts[image_id] for image_id in (3, 10, 17)], shares)
    asked = source.asked_shares()
    assert asked.kinds == {"negative": 1}
    total = sum(shares)
    assert asked.images == pytest.approx(
        {image_id: share / total for image_id, share in zip((3, 10, 17), shares, strict=True) if share}
    )


def test_groups_have_the_same_share():
    sampler = PaintedSampler(half_and_half(), groups=["a", "b", "b"])
    source = NegativeSource(sampler, 10, n=1500, seed=4, balance_by="group")
    counts = Counter(target.image_id for target in targets_of(source))
    check_chances([counts[image_id] for image_id in (3, 10, 17)], [13_000, 10_000, 3000])


def test_chosen_image_is_named_when_it_is_exhausted():
    labels = np.zeros((100, 100), np.uint8)
    labels[::4, ::4] = 1
    images = [labels, np.zeros((100, 100), np.uint8)]
    fixed = NegativeSource(PaintedSampler(images), 16, n=100, slide_weights="uniform", max_tries=5)
    with pytest.raises(NegativesExhaustedError, match=r"on image 3: wanted 1, found 0 in 5 tries") as caught:
        targets_of(fixed)
    assert caught.value.refused == {"foreground": 5}
    anew = NegativeSource(PaintedSampler(images), 16, n=100, max_tries=50)
    assert {target.image_id for target in targets_of(anew)} == {10}
    assert anew.asked_shares().images == {}


# Maps --------------------------------------------------------------------------------------------------------


def test_hard_negatives_by_a_map():
    """Middles in proportion to the map, where the window is a negative, and never where the map is 0."""
    labels = np.zeros((120, 160), np.uint8)
    labels[:, 80:] = 1
    weights = np.zeros((30, 40))
    weights[5:25, 2:10], weights[5:25, 12:16], weights[:, 25:] = 1, 3, 0.5
    source = NegativeSource(PaintedSampler([labels]), 8, n=1500, seed=6, maps={3: weights})
    windows = [target.window for target in targets_of(source)]
    assert not any(labels[window.as_slices()].any() for window in windows)
    middles = np.array([(window.y + 4, window.x + 4) for window in windows]) // 4
    assert (weights[tuple(middles.T)] > 0).all()
    right = np.mean(middles[:, 1] >= 12)
    # 20 * 4 map pixels of weight 3 against 20 * 8 of weight 1.
    assert abs(right - 0.6) < 4 * (0.6 * 0.4 / 1500) ** 0.5
    assert source.explain(0, 0)[0] == source.target(0, 0)
    assert {target.kind for target in targets_of(source, 20)} == {"negative"}


def test_maps_say_which_images_are_meant():
    images = [np.zeros((50, 50), np.uint8), np.ones((50, 50), np.uint8), np.zeros((50, 50), np.uint8)]
    maps = {10: np.ones((5, 5)), 17: np.eye(5)}
    source = NegativeSource(PaintedSampler(images), 8, n=20, maps=maps)
    assert list(source.impossible) == [10]
    assert {target.image_id for target in targets_of(source)} == {17}
    with pytest.raises(TargetError, match="maps has none of image 3"):
        NegativeSource(PaintedSampler(images), 8, n=20, maps=maps, image_ids=[3, 17])
    with pytest.raises(TargetError, match="not in the manifest: 5"):
        NegativeSource(PaintedSampler(images), 8, n=20, maps={5: np.eye(5)})
    with pytest.raises(SamplingError, match="every map is 0"):
        NegativeSource(PaintedSampler(images), 8, n=20, maps={3: np.zeros((5, 5))})


def test_maps_that_only_know_foreground_are_exhausted():
    labels = np.zeros((100, 100), np.uint8)
    labels[:50] = 1
    weights = np.zeros((10, 10))
    weights[:5] = 1
    source = NegativeSource(PaintedSampler([labels]), 8, n=20, maps={3: weights}, max_tries=30)
    with pytest.raises(NegativesExhaustedError, match=r"in 30 tries .30 held foreground"):
        source.target(0, 0)


# Records and contracts ---------------------------------------------------------------------------------------


def test_records():
    source = NegativeSource(RectangleSampler(images=30), 64, n=50, min_distance_px=30, min_tissue=0.7)
    assert isinstance(source, ExplainedSource)
    seen = Counter()
    for index in range(50):
        target, record = source.explain(2, index)
        assert target == source.target(2, index)
        assert record.tries == 1 + sum(record.refused.values())
        assert not record.exhausted
        assert record == DrawRecord(record.tries, record.refused)
        seen.update(record.refused)
    assert set(seen) == {"foreground", "distance", "tissue"}
    with pytest.raises(IndexError, match="50"):
        source.explain(0, 50)
    with pytest.raises(TypeError):
        source.explain(0, 1.0)


def test_noise_like_labels_in_a_real_sampler():
    """Pixels of foreground too scattered for rectangles: the labels are read, and none is under a negative."""
    rng = np.random.default_rng(3)
    spots = [
        {"id": 1 + at, "image_id": 1, "category_id": 1, "bbox": [int(x), int(y), 1, 1]}
        for at, (y, x) in enumerate(rng.integers(0, 256, (5000, 2)))
    ]
    truth = np.zeros((256, 256), bool)
    for spot in spots:
        truth[spot["bbox"][1], spot["bbox"][0]] = True
    manifest = {
        "images": [{"id": 1, "file_name": "array://noisy-negatives"}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": spots,
    }
    sampler = Sampler(manifest, arrays={"noisy-negatives": np.zeros((256, 256), np.uint8)})
    assert sampler.foreground.count(0, [1], Window(1, 1, 9, 9)) is None
    for target in targets_of(NegativeSource(sampler, 7, n=40)):
        assert not truth[target.window.as_slices()].any()


class TestNegativeByEverything(SourceContract):
    def make_source(self, sampler):
        return NegativeSource(
            sampler,
            size=48,
            n=500,
            seed=3,
            min_distance_px=20,
            min_tissue=0.2,
            slide_weights="sqrt_area",
            negative_categories="stroma",
            allow_border=True,
            image_ids=sampler.image_ids[:9000],
        )


class TestNegativeByMaps(SourceContract):
    def make_source(self, sampler):
        maps = {}
        for image_id in sampler.image_ids[50:60]:
            height, width, _ = sampler.image_shape(image_id)
            maps[image_id] = np.ones((-(-height // 32), -(-width // 32)), np.uint8)
        return NegativeSource(sampler, size=32, n=100, seed=3, maps=maps)
