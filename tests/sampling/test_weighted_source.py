"""WeightedSource: how often each pixel is a centre, against the map."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from positive_samplers import BoxSampler, follows, is_plausible, targets_of

from slidesampler.errors import ReadError, SamplingError, SourceMissingError, TargetError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers import ArrayReader
from slidesampler.rng import Draws, rng_for
from slidesampler.sampling.map_files import ArrayRows, save_maps
from slidesampler.sampling.weight_maps import MapAxis, WeightMap
from slidesampler.sampling.weighted import WeightedSource
from slidesampler.testing.source_contract import RectangleSampler, SourceContract

N = 4000


def slides(*sizes, **options):
    return BoxSampler(*[[]] * len(sizes), sizes=list(sizes), **options)


def centers(source, epochs=(0,)):
    """The pixel that each window is centred on: half its extent from its start."""
    return [
        (
            target.image_id,
            target.window.y + target.window.height // 2,
            target.window.x + target.window.width // 2,
        )
        for target in targets_of(source, epochs)
    ]


def expected_weights(weights, height, width):
    """The weight of every pixel of an image, one by one, as the docs have it."""
    weights = np.nan_to_num(np.asarray(weights, float))
    down = Level.of((height, width), weights.shape).downsample
    full = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            if down[0] == down[1] == int(down[0]):
                row, column = y // int(down[0]), x // int(down[1])
            else:
                # Row i covers pixels i * H // h to (i + 1) * H // h.
                row = max(i for i in range(weights.shape[0]) if i * height // weights.shape[0] <= y)
                column = max(i for i in range(weights.shape[1]) if i * width // weights.shape[1] <= x)
            full[y, x] = weights[min(row, weights.shape[0] - 1), min(column, weights.shape[1] - 1)]
    return full


def matches(drawn, full):
    """Whether pixels were drawn in proportion to a full-size map; never where it is 0."""
    counts = np.zeros(full.shape)
    for _, y, x in drawn:
        counts[y, x] += 1
    there = full > 0
    assert counts[~there].sum() == 0
    return is_plausible(counts[there], full[there] / full.sum() * len(drawn))


# In proportion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((12, 20), (12, 20)),
        ((12, 20), (6, 10)),
        ((12, 20), (3, 5)),
        ((12, 20), (1, 1)),
        ((13, 21), (7, 11)),  # halved and rounded up: the last ones stand for one pixel
        ((13, 21), (6, 10)),  # halved and rounded down: the last ones stand for three
        ((13, 21), (8, 13)),  # stretched: no whole number explains it
        ((40, 9), (7, 2)),
        ((5, 300), (5, 300)),  # more than one block a row
        ((4, 700), (2, 350)),
        ((3, 601), (2, 401)),
    ],
)
def test_every_pixel_as_often_as_its_weight_says(size, shape):
    weights = rng_for(1, stream=f"{shape}").integers(0, 4, shape)
    weights[0, 0] = 3
    source = WeightedSource(slides(size), (5, 4), {3: weights}, n=8000, seed=4)
    assert matches(centers(source), expected_weights(weights, *size))


def test_zero_is_never_and_five_is_five_times_one():
    weights = np.zeros((4, 6))
    weights[1, 2], weights[3, 5] = 1, 5
    drawn = centers(WeightedSource(slides((40, 60)), 1, {3: weights}, n=N))
    assert follows([(y // 10, x // 10) for _, y, x in drawn], {(1, 2): 1, (3, 5): 5})


def test_a_lone_weight_in_a_long_row():
    for at in (0, 255, 256, 257, 511, 699):
        weights = np.zeros((2, 700), np.uint8)
        weights[1, at] = 7
        drawn = centers(WeightedSource(slides((2, 700)), 1, {3: weights}, n=50))
        assert set(drawn) == {(3, 1, at)}


class Lowest(Draws):
    def uniform(self):
        return 0.0


class Highest(Draws):
    def uniform(self):
        return 1 - 2.0**-53


@pytest.mark.parametrize(("draws", "expected"), [(Lowest(0), 260), (Highest(0), 290)])
def test_the_ends_of_what_can_be_drawn_weigh_something(draws, expected):
    weights = np.zeros((3, 300))
    weights[1, 260], weights[1, 290] = 0.1, 0.7
    one = WeightMap.of(ArrayReader(weights), weights.shape, "a map")
    assert one.draw(draws, ArrayRows(weights), "a map") == (1, expected)


def test_unknown_is_never():
    weights = np.full((3, 300), np.nan)
    weights[0, 7], weights[2, 290] = 1, 3
    weights[1] = 0
    drawn = centers(WeightedSource(slides((3, 300)), 3, {3: weights}, n=N))
    assert follows(drawn, {(3, 0, 7): 1, (3, 2, 290): 3})


def test_slides_by_the_sum_of_their_weights():
    sampler = slides((20, 30), (40, 30), (10, 10))
    maps = {3: np.ones((2, 3)), 10: np.full((4, 3), 0.25), 17: np.zeros((1, 1))}
    source = WeightedSource(sampler, 8, maps, n=N)
    assert follows((image for image, _, _ in centers(source)), {3: 600, 10: 300, 17: 0})
    # A map of another resolution says the same.
    finer = {**maps, 10: np.full((40, 30), 0.25)}
    assert follows((image for image, _, _ in centers(WeightedSource(sampler, 8, finer, n=N))), {3: 2, 10: 1})


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"slide_weights": "uniform"}, {3: 1, 10: 1}),
        ({"slide_weights": "area"}, {3: 1, 10: 2}),
        ({"slide_weights": {3: 1, 10: 4, 17: 9}}, {3: 1, 10: 4}),
        ({"balance_by": "group"}, {3: 1, 10: 1}),
    ],
)
def test_slides_by_other_weights(options, shares):
    sampler = slides((20, 30), (40, 30), (10, 10), groups=["a", "b", "b"])
    maps = {3: np.ones((2, 3)), 10: np.full((4, 3), 0.25), 17: np.zeros((1, 1))}
    source = WeightedSource(sampler, 8, maps, n=N, **options)
    assert follows((image for image, _, _ in centers(source)), shares)


def test_tissue_of_the_index():
    sampler = RectangleSampler(30)
    source = WeightedSource(sampler, 9, "tissue", n=N)
    areas = {}
    for image_id in sampler.image_ids:
        tissue, (height, width, _) = sampler.tissue_mask(image_id), sampler.image_shape(image_id)
        whole = np.ones((height, width), bool)
        areas[image_id] = whole if tissue is None else tissue.pixels(Window(0, 0, height, width))
    drawn = centers(source)
    assert all(areas[image_id][y, x] for image_id, y, x in drawn)
    assert follows((image_id for image_id, _, _ in drawn), {one: mask.sum() for one, mask in areas.items()})


# Windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, (7, 64), 300])
@pytest.mark.parametrize("scale", [{}, {"downsample": 1.7}, {"mpp": 0.8}])
def test_borders(size, scale):
    sampler = slides((90, 120))
    maps = {3: np.eye(3, 4)}
    over = WeightedSource(sampler, size, maps, n=200, **scale)
    within = WeightedSource(sampler, size, maps, n=200, allow_border=False, **scale)
    for free, pushed, (_, y, x) in zip(targets_of(over), targets_of(within), centers(over), strict=True):
        assert free.kind == pushed.kind == "weighted"
        assert y // 30 == x // 30
        assert pushed.window.shape == free.window.shape
        assert pushed.window.contains(Window(y, x, 1, 1))
        image = Window(0, 0, 90, 120)
        for start, stop, length in (
            (pushed.window.y, pushed.window.y1, image.height),
            (pushed.window.x, pushed.window.x1, image.width),
        ):
            assert (start >= 0 and stop <= length) or (start <= 0 and stop >= length)
        if image.contains(free.window):
            assert pushed.window == free.window


# Where maps come from -----------------------------------------------------------------------------------------

MANY = slides((33, 47), (90, 61), (20, 600))
MAPS = {
    3: rng_for(0, stream="a").random((33, 47)).astype(np.float32),
    10: rng_for(0, stream="b").integers(0, 3, (45, 31)).astype(np.uint8),
    17: rng_for(0, stream="c").random((10, 300)),
}


def test_array_and_file_say_the_same(tmp_path):
    expected = targets_of(WeightedSource(MANY, 16, MAPS, n=500, seed=9))
    name = save_maps(MAPS, tmp_path / "maps")
    assert targets_of(WeightedSource(MANY, 16, name, n=500, seed=9)) == expected
    paths = {image_id: tmp_path / "maps" / f"{image_id}.npy" for image_id in MAPS}
    assert targets_of(WeightedSource(MANY, 16, paths, n=500, seed=9)) == expected
    mixed = {**paths, 10: MAPS[10], 17: str(paths[17])}
    assert targets_of(WeightedSource(MANY, 16, mixed, n=500, seed=9)) == expected
    for image_id, weights in MAPS.items():
        tifffile.imwrite(tmp_path / f"{image_id}.tif", weights, compression="deflate")
        np.save(tmp_path / f"{image_id}-f.npy", np.asfortranarray(weights))
        np.save(tmp_path / f"{image_id}-c.npy", weights[..., None])
        np.save(tmp_path / f"{image_id}-b.npy", weights.astype(weights.dtype.newbyteorder(">")))
    for ending in (".tif", "-f.npy", "-c.npy", "-b.npy"):
        source = WeightedSource(MANY, 16, f"{tmp_path}/{{image_id}}{ending}", n=500, seed=9)
        assert targets_of(source) == expected
        assert targets_of(pickle.loads(pickle.dumps(source))) == expected


def test_relative_names_are_of_the_folder_where_the_source_was_made(tmp_path, monkeypatch):
    save_maps(MAPS, tmp_path / "maps")
    monkeypatch.chdir(tmp_path)
    sources = [
        WeightedSource(MANY, 16, maps, n=50)
        for maps in ("maps/{image_id}.npy", {image_id: f"maps/{image_id}.npy" for image_id in MAPS})
    ]
    states = [pickle.dumps(source) for source in sources]
    expected = targets_of(sources[0])
    monkeypatch.chdir("/")
    for state in states:
        assert targets_of(pickle.loads(state)) == expected


def test_bool_maps_and_pixels_marked_invalid(tmp_path):
    chosen = np.zeros((20, 30), bool)
    chosen[4, 5] = chosen[11, 20] = True
    # Of an image with alpha, what is transparent is not known.
    clear = np.zeros((20, 30, 2), np.uint8)
    clear[..., 0] = 50
    clear[4, 5, 1] = clear[11, 20, 1] = 255
    path = tmp_path / "alpha.tif"
    tifffile.imwrite(path, clear, photometric="minisblack", extrasamples=["unassalpha"])
    for given in (chosen, path):
        drawn = centers(WeightedSource(slides((20, 30)), 5, {3: given}, n=N))
        assert follows(drawn, {(3, 4, 5): 1, (3, 11, 20): 1})


def test_a_large_map_takes_little(tmp_path):
    path = tmp_path / "large.npy"
    large = np.lib.format.open_memmap(path, "w+", np.uint8, (6000, 5000))
    large[5123, 4321] = 2
    large[17] = 1
    large.flush()
    source = WeightedSource(slides((60_000, 50_000)), 64, {3: path}, n=2000)
    assert len(pickle.dumps(source)) < 4000
    rows = Counter(y // 10 for _, y, _ in centers(source))
    assert set(rows) <= {17, 5123}
    assert abs(rows[17] - 2000 * 5000 / 5002) < 5
    one, _ = source._looked_at[0]
    assert len(one.blocks) <= large.size / 250


def test_what_the_caller_does_with_the_array_later_changes_nothing():
    weights = np.ones((9, 12))
    source = WeightedSource(slides((90, 120)), 8, {3: weights}, n=100)
    expected = targets_of(source)
    weights[:] = 0
    assert targets_of(source) == expected
    assert targets_of(pickle.loads(pickle.dumps(source))) == expected


def test_a_file_that_was_changed_is_noticed_in_another_process(tmp_path):
    name = save_maps({3: np.ones((9, 12))}, tmp_path)
    source = WeightedSource(slides((90, 120)), 8, name, n=100)
    expected = targets_of(source)
    copy = pickle.loads(pickle.dumps(source))
    save_maps({3: np.eye(9, 12)}, tmp_path)
    for _ in range(2):
        with pytest.raises(SamplingError, match=r"map of image 3 \(.*3\.npy\) was changed after the source"):
            copy.target(0, 0)
    save_maps({3: np.ones((9, 12))}, tmp_path)
    assert targets_of(copy) == expected
    # This process knew the sums: it finds nothing where there has to be something, or a file that ends early.
    save_maps({3: np.zeros((9, 12))}, tmp_path)
    with pytest.raises(SamplingError, match="was changed"):
        source.target(0, 0)
    (tmp_path / "3.npy").write_bytes((tmp_path / "3.npy").read_bytes()[:150])
    with pytest.raises(ReadError, match="cut short"):
        targets_of(source)
    (tmp_path / "3.npy").unlink()
    with pytest.raises(SourceMissingError, match=r"3\.npy cannot be opened any more"):
        source.target(0, 0)


# What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 9), "9 x 9 pixels, which is not the shape of the image .90 x 120."),
        ((12, 9), "not the shape"),
        ((45, 55), "not the shape"),
        ((91, 120), "more than the image"),
        ((90, 121), "more than the image"),
    ],
)
def test_maps_of_another_shape(shape, message):
    with pytest.raises(SamplingError, match=f"the map of image 3 has .*{message}"):
        WeightedSource(slides((90, 120)), 8, {3: np.ones(shape)}, n=9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (9, 12), (12, 16), (12, 15), (89, 119), (90, 120)])
def test_shapes_that_rounding_explains(shape):
    assert len(WeightedSource(slides((90, 120)), 8, {3: np.ones(shape)}, n=9)) == 9


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "holds -1.0 at row 2, column 3; weights are finite"),
        (np.inf, "holds inf"),
        (-np.inf, "holds -inf"),
    ],
)
def test_weights_that_are_none(value, message):
    weights = np.ones((9, 12))
    weights[2, 3] = value
    with pytest.raises(SamplingError, match=message):
        WeightedSource(slides((90, 120)), 8, {3: weights}, n=9)


def test_sums_that_are_too_large():
    with pytest.raises(SamplingError, match="too large to be summed"):
        WeightedSource(slides((90, 120)), 8, {3: np.full((9, 12), 1e307)}, n=9)
    assert len(WeightedSource(slides((90, 120)), 8, {3: np.full((9, 12), 1e303)}, n=9)) == 9


@pytest.mark.parametrize(
    ("maps", "options", "error", "message"),
    [
        ({3: np.zeros((9, 12))}, {}, SamplingError, "every map is 0 everywhere"),
        ({}, {}, TargetError, "maps is empty"),
        ({4: np.ones((9, 12))}, {}, TargetError, "not in the manifest: 4"),
        ({3: np.ones((9, 12))}, {"image_ids": [3, 10]}, TargetError, "maps has none of image 10"),
        ("errors.npy", {}, TargetError, "names one file for all images; put {image_id}"),
        ("gone/{image_id}.npy", {}, SourceMissingError, r"gone/3\.npy"),
        ({3: "gone.tif"}, {}, SourceMissingError, r"gone\.tif"),
        (lambda image_id: np.ones((9, 12)), {}, TargetError, "got function"),
        ({3: lambda: 1}, {}, TargetError, r"maps\[3\] is a function"),
        ({3: np.ones((9, 12, 3))}, {}, TargetError, "must be an array of numbers"),
        ({3: np.ones((9, 12), complex)}, {}, TargetError, "complex128"),
        ({3: np.ones((0, 12))}, {}, TargetError, r"\(0, 12\)"),
        (np.ones((9, 12)), {}, TargetError, "got ndarray"),
        ({3: np.ones((9, 12))}, {"n": 0}, ValueError, "n must be at least 1"),
        ({3: np.ones((9, 12))}, {"seed": 0.5}, TypeError, "integer"),
        ({3: np.ones((9, 12))}, {"slide_weights": "big"}, TargetError, "slide_weights must be one of"),
    ],
)
def test_impossible_requests(maps, options, error, message):
    with pytest.raises(error, match=message):
        WeightedSource(slides((90, 120), (90, 120)), 8, maps, **{"n": 9, **options})


def test_colours_are_no_weights(tmp_path):
    tifffile.imwrite(tmp_path / "3.tif", np.ones((9, 12, 3), np.uint8), photometric="rgb")
    with pytest.raises(SamplingError, match="has 3 channels"):
        WeightedSource(slides((90, 120)), 8, {3: tmp_path / "3.tif"}, n=9)


@pytest.mark.parametrize("axis", [MapAxis(13, 7, 2), MapAxis(13, 6, 2), MapAxis(13, 5, 0), MapAxis(12, 4, 3)])
def test_rows_of_a_map_partition_the_image(axis):
    bounds = [axis.bounds(at) for at in range(axis.pixels)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == axis.length
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert axis.sizes().tolist() == [stop - start for start, stop in bounds]
    assert axis.even == (len(set(axis.sizes())) == 1)


# Promises of every source -------------------------------------------------------------------------------------


class TestWeightedTissue(SourceContract):
    def make_source(self, sampler):
        return WeightedSource(sampler, 64, "tissue", n=1000, seed=3, slide_weights="sqrt_area")


class TestWeightedArrays(SourceContract):
    def make_sampler(self):
        return RectangleSampler(200)

    def make_source(self, sampler):
        maps = {}
        for image_id in sampler.image_ids[::3]:
            height, width, _ = sampler.image_shape(image_id)
            maps[image_id] = rng_for(image_id).integers(0, 9, (-(-height // 64), -(-width // 64)), np.uint8)
        return WeightedSource(sampler, (32, 48), maps, n=10**6, mpp=1.25, allow_border=False)


class TestWeightedFiles(SourceContract):
    @pytest.fixture(autouse=True)
    def maps(self, tmp_path):
        self.names = f"{tmp_path}/{{image_id}}.npy"
        sampler = self.make_sampler()
        for image_id in sampler.image_ids:
            height, width, _ = sampler.image_shape(image_id)
            np.save(tmp_path / f"{image_id}.npy", rng_for(image_id).random((height // 20, width // 20)))

    def make_sampler(self):
        return RectangleSampler(60)

    def make_source(self, sampler):
        return WeightedSource(sampler, 64, self.names, n=1000, image_ids=sampler.image_ids[::-1])
