"""Pixels that PositiveSource chooses, on the real sampler: polygons with holes, masks, slides without sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import shapely
from positive_samplers import BoxSampler, is_plausible, targets_of

from slidesampler import Sampler
from slidesampler.errors import SourceMissingError
from slidesampler.geometry import Window
from slidesampler.sampling.positive import PositiveSource

RING = [(20, 20), (120, 25), (110, 130), (15, 100)]
HOLE = [(40, 45), (95, 50), (90, 100), (45, 90)]
SECOND_HOLE = [(25, 30), (35, 30), (30, 40)]
COVER = [(60, 20), (70, 20), (70, 60), (60, 60)]
SPECK = [(200, 210), (209, 211), (203, 218)]


def polygon(exterior, *interiors):
    return {
        "exterior": [list(p) for p in exterior],
        "interiors": [[list(p) for p in ring] for ring in interiors],
    }


@pytest.fixture(scope="module")
def sampler():
    categories = [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}]
    annotations = [
        {"id": 1, "image_id": 4, "category_id": 1, "segmentation": polygon(RING, HOLE, SECOND_HOLE)},
        {"id": 2, "image_id": 9, "category_id": 1, "segmentation": polygon(SPECK)},
        # Over a part of the ring: what is covered is no tumour any more.
        {
            "id": 3,
            "image_id": 4,
            "category_id": 2,
            "segmentation": polygon(COVER),
        },
    ]
    for annotation in annotations:
        x, y = np.array(annotation["segmentation"]["exterior"]).T
        annotation["bbox"] = [int(x.min()), int(y.min()), int(np.ptp(x)), int(np.ptp(y))]
    images = [
        {"id": 4, "file_name": "array://positive-pixels-4"},
        {"id": 9, "file_name": "array://positive-pixels-9"},
    ]
    return Sampler(
        {"images": images, "categories": categories, "annotations": annotations},
        arrays={
            "positive-pixels-4": np.zeros((300, 260, 3), np.uint8),
            "positive-pixels-9": np.zeros((280, 300, 3), np.uint8),
        },
    )


def centers(source):
    """The pixel that each window of an odd size is centred on."""
    height, width = source.shape.size
    return [
        (target.image_id, target.window.y + height // 2, target.window.x + width // 2)
        for target in targets_of(source)
    ]


def test_holes_are_never_positive(sampler):
    drawn = centers(PositiveSource(sampler, 1, n=6000, choose="pixel", categories="tumour", image_ids=[4]))
    ring = shapely.Polygon(RING, [HOLE, SECOND_HOLE])
    holes = shapely.union_all([shapely.Polygon(HOLE), shapely.Polygon(SECOND_HOLE)])
    middles = shapely.points([(x + 0.5, y + 0.5) for _, y, x in drawn])
    # Within half a diagonal of an edge it is the rasteriser's choice; no further.
    assert shapely.dwithin(middles, ring, 0.71).all()
    assert not shapely.contains(holes.buffer(-0.71), middles).any()
    # The annotation's own centre is in the hole: annotations do go there.
    (annot,) = [t for t in targets_of(PositiveSource(sampler, 1)) if t.annot_id == 1]
    assert holes.contains(shapely.Point(annot.window.x + 0.5, annot.window.y + 0.5))


def test_every_pixel_of_the_class_has_the_same_chance(sampler):
    n = 40_000
    drawn = Counter(centers(PositiveSource(sampler, 3, n=n, seed=1, choose="pixel", categories="tumour")))
    pixels = set()
    for image_id in sampler.image_ids:
        mask = sampler.load_mask(image_id, Window(0, 0, *sampler.image_shape(image_id)[:2]))
        pixels |= {(image_id, y, x) for y, x in np.argwhere(mask == 1).tolist()}
    assert set(drawn) <= pixels
    assert is_plausible([drawn[pixel] for pixel in sorted(pixels)], [n / len(pixels)] * len(pixels))


def test_every_pixel_of_a_speck_turns_up():
    boxes = BoxSampler([(10, (50, 60, 53, 64)), (20, (51, 61, 52, 62))])
    drawn = Counter(centers(PositiveSource(boxes, 5, n=4000, choose="pixel", categories="tumour")))
    hole = (3, 61, 51)
    expected = {(3, y, x) for y in range(60, 64) for x in range(50, 53)} - {hole}
    assert set(drawn) == expected
    assert is_plausible(list(drawn.values()), [4000 / 11] * 11)


@pytest.mark.parametrize("size", [1, 2, 7, (64, 33)])
@pytest.mark.parametrize("allow_border", [False, True])
@pytest.mark.parametrize("scale", [{}, {"downsample": 2.3}])
def test_the_window_holds_a_pixel_of_its_class(sampler, size, allow_border, scale):
    source = PositiveSource(
        sampler,
        size,
        n=150,
        choose="pixel",
        class_weights="uniform",
        jitter_px=40,
        allow_border=allow_border,
        **scale,
    )
    for target in targets_of(source):
        assert (sampler.load_mask(target.image_id, target.window) == target.category_id).any()
        if not allow_border:
            image = Window(0, 0, *sampler.image_shape(target.image_id)[:2])
            assert image.contains(target.window)


def test_annotations_of_slides_whose_size_nobody_told_open_what_is_drawn_only(tmp_path):
    document = {
        "images": [{"id": 1, "file_name": "gone.tif"}, {"id": 2, "file_name": "array://positive-known"}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 20, 20]} for i in (1, 2)],
    }
    sampler = Sampler(document, bundle_dir=tmp_path, arrays={"positive-known": np.zeros((50, 60), np.uint8)})
    source = PositiveSource(sampler, 8, class_weights="uniform", n=40)
    places = [index for index in range(40) if _image(source, index) == 2]
    assert 8 < len(places) < 32
    with pytest.raises(SourceMissingError, match=r"gone\.tif"):
        PositiveSource(sampler, 8).target(0, 0)
    assert PositiveSource(sampler, 8).target(0, 1).window == Window(16, 16, 8, 8)


def _image(source, index):
    try:
        return source.target(0, index).image_id
    except SourceMissingError:
        return None
