"""Where windows lie, and which part of a slide is taken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slidesampler.geometry import Window
from slidesampler.measure.extent import spread_evenly
from slidesampler.measure.parts import busiest_crop
from slidesampler.measure.results import MeasuredPart
from slidesampler.measure.windows import random_places, shuffled
from slidesampler.readers.array import ArrayReader
from slidesampler.rng import Draws


def part(height: int, width: int, number: int = 0) -> MeasuredPart:
    return MeasuredPart(number, "a", 0, 0, height, width, height, width)


def blocks(y: int, x: int, window: tuple[int, int], side: int) -> set[tuple[int, int]]:
    rows = {pixel // side for pixel in range(y, y + window[0])}
    columns = {pixel // side for pixel in range(x, x + window[1])}
    return set(itertools.product(rows, columns))


@pytest.mark.parametrize("window", [(64, 64), (64, 200), (1, 1)])
def test_no_two_windows_share_a_block_and_all_are_inside(window: tuple[int, int]) -> None:
    parts = [part(1000, 900), part(500, 500)]
    places = random_places(parts, window, 1000, 128, Draws(3))
    for number, of in enumerate(parts):
        mine = [place for place in places if place.part == number]
        assert mine
        assert all(0 <= p.y <= of.height - window[0] and 0 <= p.x <= of.width - window[1] for p in mine)
        touched = [block for p in mine for block in blocks(p.y, p.x, window, 128)]
        assert len(touched) == len(set(touched))


def test_parts_count_by_their_area_and_the_number_is_kept() -> None:
    places = random_places([part(4096, 4096), part(2048, 4096)], (64, 64), 60, 128, Draws(0))
    assert len(places) == 60
    share = sum(place.part == 0 for place in places) / 60
    assert 0.55 < share < 0.8
    again = random_places([part(4096, 4096), part(2048, 4096)], (64, 64), 60, 128, Draws(0))
    assert again == places
    assert random_places([part(4096, 4096)], (64, 64), 60, 128, Draws(1)) != places


def test_a_part_of_the_size_of_a_window_holds_one() -> None:
    assert [tuple(place) for place in random_places([part(70, 64)], (70, 64), 9, 128, Draws(0))] == [(0, 0, 0)]


def test_shuffled_is_a_permutation_and_each_place_is_reached() -> None:
    assert sorted(shuffled(range(20), Draws(1))) == list(range(20))
    firsts = {shuffled("abc", Draws(seed))[0] for seed in range(40)}
    assert firsts == set("abc")


@pytest.mark.parametrize(("count", "wanted"), [(1, 3), (10, 3), (5, 5), (100, 1), (7, 6)])
def test_images_are_spread_evenly(count: int, wanted: int) -> None:
    found = list(spread_evenly(count, wanted))
    assert sorted(found) == list(range(count))
    first = found[: min(wanted, count)]
    assert first == sorted(first)
    gaps = np.diff([-count / wanted / 2, *first, count + count / wanted / 2])
    assert gaps.max() <= 2 * count / min(wanted, count)


class TestCrop:
    def reader(self, height: int, width: int, busy: Window, dtype: str = "uint8") -> ArrayReader:
        pixels = np.full((height, width, 3), 200, dtype)
        rng = np.random.default_rng(0)
        pixels[busy.as_slices()] = rng.integers(0, 255, (*busy.shape, 3))
        return ArrayReader(pixels, "array://busy")

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_it_is_where_the_detail_is(self, dtype: str) -> None:
        busy = Window(1536, 1024, 512, 512)
        crop = busiest_crop(self.reader(3000, 2000, busy, dtype), 600)
        assert crop.shape == (600, 600)
        assert Window(0, 0, 3000, 2000).contains(crop)
        assert crop.contains(busy)
        assert (crop.y % 512, crop.x % 512) == (0, 0)

    def test_small_images_are_taken_whole(self) -> None:
        assert busiest_crop(self.reader(300, 200, Window(0, 0, 9, 9)), 600) == Window(0, 0, 300, 200)
        wide = busiest_crop(self.reader(300, 4000, Window(100, 3000, 90, 90)), 600)
        assert (wide.height, wide.y) == (300, 0)
        assert wide.x <= 3000
        assert wide.x1 >= 3090

    def test_of_blank_images_any_part_will_do(self) -> None:
        reader = ArrayReader(np.zeros((1000, 1000, 1), np.uint8), "array://blank")
        assert busiest_crop(reader, 600).shape == (600, 600)

    def test_what_is_no_number_does_not_decide(self) -> None:
        pixels = np.full((1200, 1200, 1), np.nan, np.float32)
        pixels[1024:1200, 1024:1200, 0] = np.random.default_rng(0).random((176, 176))
        crop = busiest_crop(ArrayReader(pixels, "array://nan"), 600)
        assert (crop.y, crop.x) == (512, 512)

    def test_an_image_without_a_pyramid_is_not_read_as_a_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("slidesampler.measure.parts._MAX_LEVEL_PX", 1000)
        busy = Window(1536, 1024, 512, 512)
        reader = self.reader(3000, 2000, busy)
        read = []
        plain = reader.read

        def spy(window, *arguments, **named):
            read.append(window)
            return plain(window, *arguments, **named)

        monkeypatch.setattr(reader, "read", spy)
        assert busiest_crop(reader, 600).contains(busy)
        assert sum(window.height * window.width for window in read) <= 144 * 64 * 64

    def test_a_crop_smaller_than_what_a_probe_stands_for_holds_the_probe(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slidesampler.measure.parts._MAX_LEVEL_PX", 1000)
        monkeypatch.setattr("slidesampler.measure.parts._GRID", 8)
        busy = Window(1536, 1024, 512, 512)
        crop = busiest_crop(self.reader(6000, 6000, busy), 100)
        shared = crop.intersect(busy)
        assert shared is not None
        assert shared.height * shared.width > 0.9 * 100 * 100

    def test_brute_force(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("slidesampler.measure.parts._GRID", 16)
        rng = np.random.default_rng(3)
        pixels = rng.integers(0, 256, (200, 330, 1), dtype=np.uint8) // rng.integers(1, 40, (200, 330, 1))
        crop = busiest_crop(ArrayReader(pixels.astype(np.uint8), "array://noise"), 48)
        plain = pixels[:, :, 0].astype(np.uint8).astype(float)
        detail = np.zeros_like(plain)
        detail[:-1] += abs(plain[1:] - plain[:-1])
        detail[:, :-1] += abs(plain[:, 1:] - plain[:, :-1])
        sums = {
            (y, x): detail[y : y + 48, x : x + 48].sum()
            for y in range(0, 200 - 47, 16)
            for x in range(0, 330 - 47, 16)
        }
        assert (crop.y, crop.x) == max(sums, key=sums.__getitem__)
