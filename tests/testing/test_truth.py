import json

import numpy as np
import pytest
import shapely

from slidesampler.geometry import Window
from slidesampler.testing import CLASS_NAMES, make_dataset, make_slide
from slidesampler.testing._anatomy import plan_anatomy
from slidesampler.testing._raster import inside_rings

# A coarse slide: structures are small in pixels, so all kinds fit.
HEIGHT, WIDTH, MPP, SEED = 800, 900, 1.0, 1


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("truth") / "slide.tif", HEIGHT, WIDTH, SEED, mpp=MPP)


def as_shapely(annot):
    return shapely.MultiPolygon([(part[0], list(part[1:])) for part in annot.parts])


def centres(window):
    return np.meshgrid(np.arange(window.x, window.x1) + 0.5, np.arange(window.y, window.y1) + 0.5)


def test_labels_are_what_shapely_says(truth):
    window = Window(0, 0, HEIGHT, WIDTH)
    expected = np.zeros(window.shape, np.int64)
    xs, ys = centres(window)
    for number, annot in enumerate(truth.annots, start=1):
        shape = as_shapely(annot)
        x0, y0, x1, y1 = (int(v) for v in shape.bounds)
        box = slice(max(0, y0), y1 + 2), slice(max(0, x0), x1 + 2)
        shapely.prepare(shape)
        expected[box][shapely.contains_xy(shape, xs[box], ys[box])] = number
    np.testing.assert_array_equal(truth.owners(window), expected)
    classes = np.array([0, *(annot.class_index for annot in truth.annots)])
    np.testing.assert_array_equal(truth.labels(window), classes[expected])
    assert set(np.unique(truth.labels(window))) == {0, 1, 2, 3}


def test_windows_agree_with_the_whole(truth):
    whole = truth.labels(Window(0, 0, HEIGHT, WIDTH))
    padded = np.pad(whole, 300, constant_values=255)
    rng = np.random.default_rng(1)
    for _ in range(40):
        y, x = rng.integers(-290, HEIGHT), rng.integers(-290, WIDTH)
        window = Window(y, x, rng.integers(1, 290), rng.integers(1, 290))
        expected = padded[window.shift(300, 300).as_slices()]
        np.testing.assert_array_equal(truth.labels(window), expected)


def test_polygons_are_sound(truth):
    frame = shapely.box(0, 0, WIDTH, HEIGHT)
    tumours = [as_shapely(a) for a in truth.annots if CLASS_NAMES[a.class_index] == "tumour"]
    for annot in truth.annots:
        shape = as_shapely(annot)
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert frame.contains(shape)
        np.testing.assert_allclose(annot.box_xyxy, shape.bounds)
    for number, shape in enumerate(tumours):
        assert all(not shape.intersects(other) for other in tumours[:number])
    assert any(len(part) > 2 for a in truth.annots for part in a.parts), "a tumour with several holes"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(128, 128), (300, 180), (400, 1600), (20_000, 15_000)])
def test_every_slide_has_a_tumour_with_a_hole(seed, shape):
    plan = plan_anatomy(*shape, seed=seed, mpp=0.5, artefacts=True)
    parts = [part for tumour in plan.tumours for part in tumour]
    assert any(len(part) > 1 for part in parts)
    frame = shapely.box(0, 0, shape[1], shape[0])
    tissue = shapely.union_all([shapely.Polygon(ring) for ring in plan.tissue])
    assert frame.contains(tissue)
    shapes = [shapely.Polygon(part[0], part[1:]) for part in parts]
    assert all(shape.is_valid and tissue.contains(shape) for shape in shapes)
    assert shapely.union_all(shapes).area == pytest.approx(sum(shape.area for shape in shapes)), "disjoint"


def test_necrosis_fills_a_hole_exactly(truth):
    dead = [annot for annot in truth.annots if CLASS_NAMES[annot.class_index] == "necrosis"]
    assert dead
    holes = [hole for annot in truth.annots for part in annot.parts for hole in part[1:]]
    for annot in dead:
        assert any(np.array_equal(hole, annot.parts[0][0]) for hole in holes)


def test_nuclei_are_dark_where_the_truth_says(truth):
    window = Window(0, 0, HEIGHT, WIDTH)
    green = truth.pixels(window)[..., 1].astype(float)
    labels = truth.labels(window)
    nucleus = labels == 3
    assert nucleus.sum() > 1000

    assert green[nucleus].mean() < green[labels == 1].mean() - 40
    # Shifted by a pixel any way the labels would lie less well on what is dark.
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    darkness = {shift: green[np.roll(nucleus, shift, (0, 1))].mean() for shift in shifts}
    assert min(darkness, key=darkness.get) == (0, 0)


def test_nuclei_are_limited(tmp_path, truth):
    every = [a for a in truth.annots if a.class_index == 3]
    for limit in (0, 37):
        made = make_slide(tmp_path / "a.tif", HEIGHT, WIDTH, SEED, mpp=MPP, max_nuclei=limit)
        assert sum(a.class_index == 3 for a in made.annots) == limit
    made = make_slide(tmp_path / "b.tif", HEIGHT, WIDTH, SEED, mpp=MPP, nuclei_per_mpx=20)
    assert sum(a.class_index == 3 for a in made.annots) == int(20 * HEIGHT * WIDTH / 1e6)
    assert len(every) > 300


def test_tie_rule_is_half_open():
    box = np.array([[2.5, 1.5], [5.5, 1.5], [5.5, 4.5], [2.5, 4.5]])
    inside = inside_rings([box], Window(0, 0, 8, 8))
    assert np.argwhere(inside).min(axis=0).tolist() == [1, 2]
    assert np.argwhere(inside).max(axis=0).tolist() == [3, 4]
    assert inside.sum() == 9


def test_dataset(tmp_path):
    path = make_dataset(tmp_path / "data", n_slides=2, height=300, width=400, seed=3, max_nuclei=50)
    manifest = json.loads(path.read_text())
    assert path.name == "slides.kwcoco.json"
    assert sorted(p.name for p in path.parent.iterdir()) == ["slide-01.tif", "slide-02.tif", path.name]
    assert [image["patient"] for image in manifest["images"]] == ["patient-01", "patient-02"]
    assert all((i["height"], i["width"], i["mpp"]) == (300, 400, 0.5) for i in manifest["images"])
    names = {c["id"]: (c["name"], c["supercategory"]) for c in manifest["categories"]}
    assert names == {1: ("tumour", "lesion"), 2: ("necrosis", "lesion"), 3: ("tumour_nucleus", "cell")}
    ids = [annot["id"] for annot in manifest["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for annot in manifest["annotations"]:
        shape = shapely.MultiPolygon([(p["exterior"], p["interiors"]) for p in annot["segmentation"]])
        x, y, width, height = annot["bbox"]
        np.testing.assert_allclose((x, y, x + width, y + height), shape.bounds, atol=1e-4)
    assert {a["image_id"] for a in manifest["annotations"]} == {1, 2}


def test_slides_of_a_dataset_differ(tmp_path):
    path = make_dataset(tmp_path, n_slides=2, height=300, width=300, max_nuclei=0)
    first, second = ((path.parent / f"slide-0{n}.tif").read_bytes() for n in (1, 2))
    assert first != second
