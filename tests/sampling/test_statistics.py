"""Statistics of a dataset and of a choice of windows, against brute force on the masks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler import Sampler
from slidesampler.errors import SamplingError, TargetError
from slidesampler.foreground import ForegroundIndex, IndexColumns, TissueMask, index_image
from slidesampler.geometry import Window
from slidesampler.sampling import FixedSource, GridSource, NegativeSource, PositiveSource
from slidesampler.sampling.asked import asked_shares, given_shares
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.draw_record import DrawRecord
from slidesampler.sampling.dry_runs import dry_run
from slidesampler.sampling.log import SampleLog
from slidesampler.sampling.log_columns import read_log
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.sampling.seen import cover_image, seen_share, slot_grid
from slidesampler.sampling.statistics import AskedShares
from slidesampler.sampling.summary import suggest_weights, summarize
from slidesampler.sampling.survey import dataset_statistics
from slidesampler.target import Target
from slidesampler.testing.source_contract import RectangleSampler

SIZES = {1: (300, 420), 2: (250, 130), 7: (64, 64)}


def manifest_of(annotations, categories=("tumour", "stroma", "necrosis"), sizes=SIZES):
    return {
        "images": [
            {"id": image_id, "name": f"slide-{image_id}", "file_name": f"array://stats-{height}x{width}"}
            for image_id, (height, width) in sizes.items()
        ],
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(categories, 1)],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category, "bbox": box}
            for number, (image_id, category, box) in enumerate(annotations, 1)
        ],
    }


def sampler_of(annotations, categories=("tumour", "stroma", "necrosis"), sizes=SIZES):
    arrays = {f"stats-{h}x{w}": np.zeros((h, w, 3), np.uint8) for h, w in sizes.values()}
    return Sampler(manifest_of(annotations, categories, sizes), arrays=arrays)


@pytest.fixture
def sampler():
    return sampler_of(
        [
            (1, 10, [30, 40, 100, 80]),
            (1, 20, [60, 60, 20, 20]),
            (1, 10, [300, 200, 50, 5]),
            (2, 20, [0, 0, 40, 250]),
        ]
    )


def masks_of(sampler):
    return {
        image_id: sampler.load_mask(image_id, Window(0, 0, *sampler.image_shape(image_id)[:2]))
        for image_id in sampler.image_ids
    }


class TestDataset:
    def test_counts_are_those_of_the_masks(self, sampler):
        found = dataset_statistics(sampler, 64)
        masks = masks_of(sampler)
        everything = np.concatenate([mask.ravel() for mask in masks.values()])
        assert [row.name for row in found.classes] == ["tumour", "stroma", "necrosis"]
        assert [row.annotations for row in found.classes] == [2, 2, 0]
        for row in found.classes:
            assert row.pixels == (everything == row.class_index).sum()
            assert row.pixel_share == row.pixels / everything.size
            assert row.images == sum((mask == row.class_index).any() for mask in masks.values())
        assert [row.area_px for row in found.classes] == [(250, 4125, 8000), (400, 5200, 10000), None]
        assert found.foreground_share == (everything > 0).mean()
        for row in found.images:
            mask = masks[row.image_id]
            assert (row.height, row.width) == mask.shape
            assert row.foreground_share == (mask > 0).mean()
            assert (row.valid_share, row.tissue_share) == (1, 1)
        assert [row.annotations for row in found.images] == [3, 1, 0]

    def test_estimates_are_what_all_windows_hold(self, sampler):
        """Every window that can be drawn, weighted by the pixels that it is drawn for."""
        size, n = 48, 8000
        masks, shares, enough, classes = masks_of(sampler), [], [], []
        free = {}
        for image_id, mask in masks.items():
            height, width = mask.shape
            # By summed areas, at the corner of the window around each pixel, pushed into the image.
            ys, xs = (np.clip(np.arange(n) - size // 2, 0, n - size) for n in (height, width))
            held = []
            for number in (1, 2):
                area = np.pad((mask == number).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
                rows = area[ys + size] - area[ys]
                held.append(rows[:, xs + size] - rows[:, xs])
            shares.append((sum(held) > 0).ravel())
            enough.append((sum(held) >= 500).ravel())
            classes.append([(one > 0).ravel() for one in held])
            free[image_id] = 1 - shares[-1].mean()
        found = dataset_statistics(sampler, size, threshold=500, draws=n)
        for estimate, hits in (
            (found.any_foreground, shares),
            (found.enough_foreground, enough),
            (found.classes[0].window_share, [one[0] for one in classes]),
            (found.classes[1].window_share, [one[1] for one in classes]),
        ):
            truth = np.concatenate(hits).mean()
            assert estimate.error == pytest.approx(math.sqrt(truth * (1 - truth) / n), rel=0.1)
            assert abs(estimate.share - truth) < 4.5 * estimate.error
        assert found.classes[2].window_share.share == 0
        assert found.classes[2].window_share.error == pytest.approx(1 / n, rel=0.01)
        assert found.drawn == pytest.approx(n, abs=3)
        for row in found.images:
            count = n * row.height * row.width / sum(h * w for h, w in SIZES.values())
            truth = free[row.image_id]
            assert abs(row.free_share - truth) < 4.5 * math.sqrt(truth * (1 - truth) / count) + 1e-9
            assert row.tries == pytest.approx(1 / row.free_share)
            assert row.negatives == "yes"

    def test_the_same_seed_gives_the_same(self, sampler):
        one, again = (dataset_statistics(sampler, 64, draws=200, seed=3) for _ in range(2))
        assert one == again
        assert dataset_statistics(sampler, 64, draws=200, seed=4) != one

    def test_downsample_makes_windows_larger(self, sampler):
        found = dataset_statistics(sampler, (10, 20), downsample=2.5, draws=10)
        assert found.size == (25, 50)

    def test_many_images_without_their_masks(self):
        rectangles = RectangleSampler(60)
        found = dataset_statistics(rectangles, 100, draws=6000)
        assert len(found.images) == 60
        # A source of negatives proposes the same windows, so it takes as many tries as the estimate says.
        source = NegativeSource(rectangles, 100, n=3000, min_valid=0)
        proposals = sum(source.explain(0, index)[1].tries for index in range(3000))
        free, taken = 1 - found.any_foreground.share, 3000 / proposals
        spread = math.hypot(found.any_foreground.error, math.sqrt(free * (1 - free) / proposals))
        assert abs(free - taken) < 4.5 * spread

    @pytest.mark.parametrize(
        "bad", [{"size": 0}, {"size": (8, -1)}, {"downsample": 0.5}, {"draws": 0}, {"threshold": 0}]
    )
    def test_nonsense_is_refused(self, sampler, bad):
        with pytest.raises((ValueError, TargetError)):
            dataset_statistics(sampler, **{"size": 8, **bad})


class TestAdvice:
    def warnings(self, sampler, size=64, **options):
        return " | ".join(dataset_statistics(sampler, size, **options).warnings)

    def test_a_plain_dataset_has_nothing_to_warn_of(self):
        sampler = sampler_of([(1, 10, [30, 40, 100, 80]), (2, 10, [0, 0, 60, 60])], ("tumour",))
        assert self.warnings(sampler, 32) == ""

    def test_a_class_at_a_thousandth_of_the_pixels(self):
        sizes = {1: (1000, 1000)}
        sampler = sampler_of([(1, 10, [10, 10, 600, 600]), (1, 20, [700, 700, 40, 25])], sizes=sizes)
        said = self.warnings(sampler, 64)
        assert "class 'stroma' is 0.001 of the pixels" in said
        for word in ("RejectionSource", "class_weights", "BalancedSource", "CoverageSource"):
            assert word in said
        assert "class 'tumour' is" not in said
        # A hundredth of the pixels, in one heap: it is the random windows that miss it.
        heap = sampler_of([(1, 10, [0, 0, 100, 100])], ("tumour",), sizes)
        assert "class 'tumour'" not in self.warnings(heap, 256)
        assert "class 'tumour'" in self.warnings(heap, 8)

    def test_classes_without_annotations_or_pixels(self, sampler):
        assert "1 class (necrosis) without annotations" in self.warnings(sampler)
        covered = sampler_of([(1, 10, [5, 5, 20, 20]), (1, 20, [0, 0, 50, 50])], ("tumour", "stroma"))
        assert "1 class (tumour) without a pixel" in self.warnings(covered)

    def test_slides_on_which_negatives_are_impossible(self):
        full = sampler_of([(1, 10, [0, 0, 420, 300]), (2, 10, [0, 0, 60, 60])], ("tumour",))
        found = dataset_statistics(full, 32)
        assert [row.negatives for row in found.images] == ["impossible", "yes", "yes"]
        assert (found.images[0].free_share, found.images[0].tries) == (0, None)
        said = self.warnings(full, 32)
        assert "1 image (slide-1) without room for a window of 32 x 32" in said
        assert "max_foreground" in said

    def test_slides_where_negatives_are_rare(self):
        # One free place of 40 x 40 pixels in a slide of 800 x 800: about one in 8000 windows of 32 fits in.
        boxes = [[0, 0, 800, 300], [0, 300, 300, 40], [340, 300, 460, 40], [0, 340, 800, 460]]
        sampler = sampler_of([(1, 10, box) for box in boxes], ("tumour",), {1: (800, 800)})
        assert "NegativeSource may run out of tries" in self.warnings(sampler, 32, draws=50)
        assert dataset_statistics(sampler, 32, draws=50).images[0].negatives == "none found"

    def test_small_slides_and_slides_without_tissue(self, sampler):
        assert "1 image (slide-7) smaller than a window of 100 x 100" in self.warnings(sampler, 100)

    @pytest.mark.parametrize("size", [(20, 20), (64, 64), (127, 127), (128, 200), (200, 129), (700, 700)])
    def test_what_is_said_to_be_impossible_is(self, size):
        """On random rectangles: no free window where it says so, by looking at them all."""
        rectangles = RectangleSampler(97, seed=5)
        found = dataset_statistics(rectangles, size, draws=1)
        seen = set()
        for row in found.images:
            seen.add(row.negatives)
            if row.negatives != "impossible":
                continue
            mask = rectangles.load_mask(row.image_id, Window(0, 0, row.height, row.width))
            taken = np.pad((mask != 0).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
            h, w = min(size[0], row.height), min(size[1], row.width)
            inside = taken[h:, w:] - taken[:-h, w:] - taken[h:, :-w] + taken[:-h, :-w]
            assert (inside > 0).all()
        if size == (700, 700):
            assert "impossible" in seen
        assert "yes" in seen or size == (700, 700)


def image_with_tissue(height, width, tissue, downsample):
    labels = np.zeros((height, width), np.uint8)
    mask = TissueMask(tissue, downsample)
    image = index_image(lambda window: labels[window.as_slices()], labels.shape, 2, 255, mask)
    return ForegroundIndex(IndexColumns.join([1], [image])), mask.pixels(Window(0, 0, height, width))


windows_of = st.lists(
    st.tuples(st.integers(-60, 400), st.integers(-60, 400), st.integers(1, 300), st.integers(1, 300)),
    min_size=1,
    max_size=12,
)


class TestSeen:
    @given(windows=windows_of, height=st.integers(1, 400), width=st.integers(1, 400))
    def test_coverage_is_counted_pixel_by_pixel(self, windows, height, width):
        tissue = np.zeros((-(-height // 16), -(-width // 16)), np.bool_)
        tissue[::2, : 1 + tissue.shape[1] // 2] = True
        index, mask = image_with_tissue(height, width, tissue, 16)
        counts = np.zeros((height, width), np.int64)
        for y, x, h, w in windows:
            counts[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] += 1
        found = cover_image(index, 0, np.array(windows, np.int64))
        cell = found.cell_px
        rate = counts[mask].mean()
        for row in range(found.seen.shape[0]):
            for column in range(found.seen.shape[1]):
                part = slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell)
                assert found.seen[row, column] == pytest.approx(counts[part].mean(), rel=1e-5)
                assert found.interest[row, column] == pytest.approx(mask[part].mean(), rel=1e-5)
        # The grid knows the mean of a cell, not where in it the tissue is.
        grid = slot_grid(index, 0, index.tissue_slot, cell)
        assert found.expected.max() == pytest.approx((found.seen * grid).sum() / grid.sum(), rel=1e-4, abs=1e-6)
        assert ((found.expected > 0) == ((found.interest > 0) & (found.expected.max() > 0))).all()
        if mask.all():
            assert found.expected.max() == pytest.approx(rate, rel=1e-4)

    def test_windows_on_all_of_it_are_even(self):
        index, _ = image_with_tissue(640, 640, np.ones((10, 10), np.bool_), 64)
        rng = np.random.default_rng(0)
        starts = rng.integers(-128, 640, (20_000, 2))
        windows = np.concatenate([starts, np.full((20_000, 2), 128)], axis=1)
        found = cover_image(index, 0, windows)
        assert found.under == found.over == ()
        # And the spread over the cells is what the formula behind the judgement says.
        rate = 20_000 / 768**2
        m, big = 64, 128
        spread = math.sqrt(rate * (m**2 * (big - m / 3)) ** 2) / m**2
        assert found.seen.mean() == pytest.approx(rate * 128**2, rel=0.02)
        assert found.seen.std() == pytest.approx(spread, rel=0.35)

    def test_what_was_left_out_and_what_was_seen_too_often(self):
        index, _ = image_with_tissue(640, 640, np.ones((10, 10), np.bool_), 64)
        everywhere = [(y, x, 64, 64) for y in range(0, 640, 64) for x in range(0, 640, 64)]
        kept = [box for box in everywhere if not (box[0] < 192 and box[1] < 128)]
        windows = kept * 60 + [(512, 512, 64, 64)] * 600 + [(576, 576, 64, 64)] * 600
        found = cover_image(index, 0, np.array(windows))
        assert [region.window for region in found.under] == [Window(0, 0, 192, 128)]
        assert found.under[0].cells == 6
        assert found.under[0].seen == 0
        assert [region.window for region in found.over] == [Window(512, 512, 128, 128)]
        assert found.over[0].cells == 2
        assert found.over[0].seen == 660
        assert found.over[0].expected == pytest.approx(len(windows) / 100)

    def test_few_windows_are_no_proof(self):
        index, _ = image_with_tissue(640, 640, np.ones((10, 10), np.bool_), 64)
        found = cover_image(index, 0, np.array([(0, 0, 64, 64), (320, 320, 64, 64)]))
        assert found.under == ()

    @given(windows=windows_of)
    def test_the_share_that_was_seen(self, windows):
        index, mask = image_with_tissue(400, 300, np.ones((25, 19), np.bool_), 16)
        seen = np.zeros((400, 300), np.bool_)
        for y, x, h, w in windows:
            # Corners are rounded to a quarter of a cell of 64 pixels.
            y0, y1, x0, x1 = ((edge + 8) // 16 * 16 for edge in (y, y + h, x, x + w))
            seen[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
        assert seen_share(index, 0, np.array(windows, np.int64)) == pytest.approx(seen[mask].mean(), abs=1e-9)


shares = st.integers(0, 10_000).map(lambda n: n / 10_000)


class TestSummary:
    def test_shares_and_counts(self, sampler):
        targets = [
            Target(image_id=1, window=Window(0, 0, 100, 200), kind="positive", category_id=10, index=0),
            Target(image_id=1, window=Window(250, 400, 100, 100), kind="positive", category_id=20),
            Target(image_id=2, window=Window(0, 0, 50, 60), kind="positive", category_id=10),
            Target(image_id=2, window=Window(0, 0, 50, 60), kind="negative"),
            {"image_id": 1, "cx": 60, "cy": 60, "width": 64, "height": 64, "downsample": 2},
        ]
        found = summarize(targets, sampler, seed=5, epoch=2)
        assert (found.windows, found.counted, found.duplicates) == (5, 5, 1)
        assert (found.seed, found.epochs) == (5, (2,))
        assert [(row.kind, row.windows, row.served, row.asked) for row in found.kinds] == [
            ("positive", 3, 0.6, None),
            ("", 1, 0.2, None),
            ("negative", 1, 0.2, None),
        ]
        # As served: the fifth at half the resolution, what overhangs left out.
        masks = [sampler.load_mask(t.image_id, t.window) for t in targets[:4]]
        masks.append(sampler.load_mask(1, Window(28, 28, 64, 64), (32, 32)))
        known = sum((mask != 255).sum() for mask in masks)
        whole = np.concatenate([mask.ravel() for mask in masks_of(sampler).values()])
        for row in found.classes:
            assert row.pixels == sum((mask == row.class_index).sum() for mask in masks)
            assert row.windows_with == sum((mask == row.class_index).any() for mask in masks)
            assert row.pixel_share == pytest.approx(row.pixels / known)
            assert row.dataset_share == pytest.approx((whole == row.class_index).mean())
        assert [(row.windows, row.served) for row in found.classes] == [(2, 2 / 3), (1, 1 / 3), (0, 0)]
        assert [row.suggested_weight for row in found.classes] == pytest.approx([1 / 3, 2 / 3, 0])
        first, second, third = found.images
        assert (first.windows, second.windows, third.windows) == (3, 2, 0)
        assert first.kinds == {"positive": 2, "": 1}
        assert first.classes == {1: 1, 2: 1}
        assert (third.coverage, third.seen_share) == (None, 0)
        areas = np.array([h * w for h, w in SIZES.values()])
        assert [row.tissue_share for row in found.images] == pytest.approx(areas / areas.sum())
        # The third image was never served: as heavy as may be, ten times the lightest.
        ratios = areas / areas.sum() / np.array([0.6, 0.4, 1e-9])
        ratios = np.minimum(ratios, 10 * ratios.min())
        assert [row.suggested_weight for row in found.images] == pytest.approx(ratios / ratios.sum())

    def test_a_log_and_its_targets_say_the_same(self, sampler, tmp_path):
        source = PositiveSource(sampler, size=40, n=60, seed=1, jitter_px=10)
        with (
            SampleLog(tmp_path / "plain") as plain,
            SampleLog(tmp_path / "counted", count_classes=True) as counted,
        ):
            for index in range(60):
                sample = sampler.load_sample(source.target(3, index))
                plain.write(sample, epoch=3)
                counted.write(sample, epoch=3)
        direct = summarize(dry_run(source, 3).targets, sampler, epoch=3)
        for name in ("plain", "counted"):
            assert summarize(read_log(tmp_path / name), sampler).to_dict() == direct.to_dict()

    def test_tries_and_refusals_are_added_up(self, sampler, tmp_path):
        source = BalancedSource(sampler, 40, n=200, pos_fraction=0.25)
        run = dry_run(source)
        found = summarize(run.targets, sampler, records=run.records, asked=asked_shares(source))
        by_kind = {row.kind: row for row in found.tries}
        negatives = [r for t, r in zip(run.targets, run.records, strict=True) if t.kind == "negative"]
        assert by_kind["negative"].windows == len(negatives) == 150
        assert by_kind["negative"].tries == sum(record.tries for record in negatives)
        assert by_kind["negative"].refused == {"foreground": sum(r.tries - 1 for r in negatives)}
        assert by_kind["negative"].mean_tries == by_kind["negative"].tries / 150
        assert {row.kind: row.asked for row in found.kinds} == {"negative": 0.75, "positive": 0.25}
        # A log that holds them says the same.
        with SampleLog(tmp_path) as log:
            for target, record in zip(run.targets, run.records, strict=True):
                log.write(target, tries=record.tries, refused=record.refused)
        logged = {row.kind: row for row in summarize(read_log(tmp_path), sampler).tries}
        assert logged == by_kind

    def test_what_gave_up_is_counted(self, sampler):
        targets = [Target(image_id=1, window=Window(0, 0, 9, 9), kind="a")] * 3
        records = [DrawRecord(3, {"size": 2}), None, DrawRecord(4, {"size": 3, "valid": 1}, exhausted=True)]
        (row,) = summarize(targets, sampler, records=records).tries
        assert (row.windows, row.tries, row.refused, row.exhausted) == (2, 7, {"size": 5, "valid": 1}, 1)

    def test_many_windows_are_counted_in_part(self, sampler):
        targets = list(dry_run(GridSource(sampler, 16)).targets)
        whole, part = (summarize(targets, sampler, count_at_most=n) for n in (10_000, 50))
        assert (whole.counted, part.counted) == (len(targets), 50)
        assert part.classes[0].pixel_share == pytest.approx(whole.classes[0].pixel_share, abs=0.15)
        none = summarize(targets, sampler, count_at_most=0)
        assert (none.counted, none.classes[0].pixels, none.classes[0].pixel_share) == (0, None, None)

    def test_a_grid_sees_everything_once(self, sampler):
        found = summarize(dry_run(GridSource(sampler, 64, edge="pad")).targets, sampler)
        for row in found.images:
            assert row.seen_share == 1
            assert row.coverage.seen.min() == row.coverage.seen.max() == 1
            assert row.coverage.under == row.coverage.over == ()

    def test_what_was_asked_and_never_served_is_there(self, sampler):
        asked = AskedShares({"positive": 0.5, "negative": 0.5}, {1: 0.2, 3: 0.8}, {1: 0.5, 7: 0.5})
        targets = [Target(image_id=1, window=Window(0, 0, 9, 9), kind="positive", category_id=10)]
        found = summarize(targets, sampler, asked=asked)
        assert [(row.kind, row.windows, row.asked) for row in found.kinds] == [
            ("positive", 1, 0.5),
            ("negative", 0, 0.5),
        ]
        assert [row.asked for row in found.classes] == [0.2, 0, 0.8]
        # Necrosis is nowhere: no weight would bring it.
        assert [row.suggested_weight for row in found.classes] == [1, 0, 0]
        assert [row.asked for row in found.images] == [0.5, 0, 0.5]
        assert [row.suggested_weight for row in found.images] == pytest.approx([1 / 11, 0, 10 / 11])

    def test_nothing_is_no_summary(self, sampler):
        with pytest.raises(SamplingError, match="no windows"):
            summarize([], sampler)

    def test_an_unknown_image(self, sampler):
        with pytest.raises(TargetError, match="99"):
            summarize([Target(image_id=99, window=Window(0, 0, 1, 1))], sampler)

    @given(
        wanted=st.lists(shares, min_size=1, max_size=6),
        served=st.lists(shares, min_size=6, max_size=6),
    )
    def test_weights_sum_to_one_and_stay_within_ten(self, wanted, served):
        weights = suggest_weights(np.array(wanted), np.array(served[: len(wanted)]))
        if not any(wanted):
            assert not weights.any()
            return
        assert weights.sum() == pytest.approx(1)
        kept = weights[weights > 0]
        assert kept.max() <= kept.min() * 10.0001
        assert ((weights > 0) == (np.array(wanted) > 0)).all()


class TestAsked:
    def test_mixtures_say_what_their_parts_say(self, sampler):
        positive = PositiveSource(sampler, 32, n=30)
        negative = NegativeSource(sampler, 32, n=30)
        rejected = RejectionSource(positive, size_threshold=10)
        inner = BalancedSource.of(rejected, negative, pos_fraction=0.5, n=30)
        source = MixtureSource([inner, negative, GridSource(sampler, 32)], [0.5, 0.5, 0], n=30)
        assert asked_shares(source).kinds == pytest.approx({"positive": 0.25, "negative": 0.75})
        assert asked_shares(GridSource(sampler, 32)) == AskedShares()
        unknown = MixtureSource([inner, GridSource(sampler, 32)], [0.5, 0.5], n=30)
        assert asked_shares(unknown) == AskedShares()

    def test_a_source_may_say_it_itself(self, sampler):
        class Telling(FixedSource):
            def asked_shares(self):
                return AskedShares({"mine": 1.0}, {1: 0.5, 2: 0.5}, {1: 1.0})

        telling = Telling([{"image_id": 1}] * 8)
        negative = NegativeSource(sampler, 32, n=30)
        found = asked_shares(MixtureSource([telling, negative], [1, 3], n=20))
        assert found.kinds == {"mine": 0.25, "negative": 0.75}
        assert found.classes == {1: 0.5, 2: 0.5}
        assert found.images == {}

    def test_given_shares_are_counted(self, sampler):
        targets = [
            Target(image_id=1, kind="a", category_id=10),
            Target(image_id=1, kind="a", category_id=20),
            Target(image_id=2, kind="b"),
            Target(image_ids=(1, 7)),
        ]
        found = given_shares(targets, sampler)
        assert found.kinds == {"a": 0.4, "b": 0.2, "": 0.4}
        assert found.classes == {1: 0.5, 2: 0.5}
        assert found.images == {1: 0.6, 2: 0.2, 7: 0.2}


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "uniform"},
        {"class_weights": {"tumour": 3, "stroma": 1}, "slide_weights": "sqrt_area"},
        {"choose": "pixel"},
    ],
)
def test_positives_have_the_shares_that_they_say_were_asked_for(options):
    sampler = RectangleSampler(images=20)
    n = 20_000
    source = PositiveSource(sampler, 32, n, seed=1, **options)
    asked = asked_shares(source)
    targets = [source.target(0, index) for index in range(n)]
    classes = Counter(sampler.class_map.index_of(target.category_id) for target in targets)
    images = Counter(target.image_id for target in targets)
    for shares, counts in ((asked.classes, classes), (asked.images, images)):
        assert sum(shares.values()) == pytest.approx(1)
        assert set(counts) <= {key for key, share in shares.items() if share}
        for key, share in shares.items():
            assert abs(counts[key] / n - share) <= 4.5 * math.sqrt(share * (1 - share) / n)
