"""Label layers against masks made pixel by pixel from the rule."""

import numpy as np
import pytest
from osgeo import gdal

from slidesampler.cache.write_labels import write_labels
from slidesampler.errors import BuildError, ManifestError, ReadError
from slidesampler.geometry import label_level_downsamples
from slidesampler.models import NO_CATEGORY, ClassMap, LabelSpec
from slidesampler.shapes import Shapes

CLASSES = ClassMap(("background", "tumour", "stroma"), {10: 1, 20: 2})
SIZE = (1111, 1345)


def levels_of(path):
    dataset = gdal.Open(str(path))
    band = dataset.GetRasterBand(1)
    return [
        band.ReadAsArray(),
        *(band.GetOverview(k).ReadAsArray() for k in range(band.GetOverviewCount())),
    ]


@pytest.fixture(scope="module")
def scene(tools):
    """Polygons with holes over each other, across the borders of blocks and of the image."""
    rng = np.random.default_rng(4)

    def star(cy, cx, radius, points=17):
        angle = np.sort(rng.random(points)) * 2 * np.pi
        reach = radius * (0.4 + 0.6 * rng.random(points))
        return np.stack([cx + reach * np.cos(angle), cy + reach * np.sin(angle)], 1)

    def hole(ring, share):
        centre = ring.mean(0)
        return centre + (ring - centre) * share

    annots = []
    for number, (cy, cx, radius, category) in enumerate(
        [
            (500, 600, 480, 10),
            (1000, 1000, 300, 20),
            (20, 1300, 200, 10),
            (1024, 1024, 90, NO_CATEGORY),
            (700, 300, 33, 20),
            (300, 300, 1.5, 20),
        ]
    ):
        ring = star(cy, cx, radius)
        annots.append((100 + number, category, [ring, hole(ring, 0.4)]))
    marked = [tools.inside(outer, SIZE) & ~tools.inside(inner, SIZE) for _, _, (outer, inner) in annots]
    return annots, marked


def expected_mask(scene, base=None, valid=None):
    """Class index and instance number of every pixel: the last wins, but one without category loses."""
    annots, marked = scene
    mask = np.zeros(SIZE, np.int64) if base is None else base.astype(np.int64)
    owner = np.zeros(SIZE, np.int64)
    order = sorted(enumerate(annots), key=lambda item: (item[1][1] != NO_CATEGORY, item[0]))
    for row, (_, category, _) in order:
        mask[marked[row]] = CLASSES.index_of(category)
        owner[marked[row]] = row + 1
    if valid is not None:
        mask[~valid] = CLASSES.ignore
        owner[~valid] = 0
    return mask, owner


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_base", [False, True])
def test_the_layer_is_the_mask_of_the_rule_at_every_level(tools, tmp_path, scene, masked, with_base):
    rng = np.random.default_rng(1)
    ids = np.zeros(SIZE, np.uint16)
    ids[900:, :77] = rng.choice([0, 10, 20], (211, 77))
    valid = np.ones(SIZE, bool)
    valid[:100, :200] = False
    valid[1090:, 1300:] = rng.random((21, 45)) < 0.5
    done = []
    written = write_labels(
        tmp_path,
        SIZE,
        tools.polygon_shapes(scene[0]),
        CLASSES,
        LabelSpec(),
        base=tools.reader(ids[:, :, None]) if with_base else None,
        valid=tools.reader(np.zeros((*SIZE, 1), np.uint8), valid) if masked else None,
        instances=True,
        advance=done.append,
    )
    base = np.select([ids == 10, ids == 20], [1, 2], 0) if with_base else None
    mask, owner = expected_mask(scene, base, valid if masked else None)
    assert written.files == {"labels": "labels.tif", "instances": "instances.tif"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instances.tif", "labels.tif"]
    assert sum(done) == SIZE[0] * SIZE[1]
    assert (written.shape, written.dtype, written.lossless) == ((*SIZE, 1), "uint8", True)
    for name, whole, dtype in (("labels.tif", mask, np.uint8), ("instances.tif", owner, np.uint32)):
        assert tools.complaints(tmp_path / name) == []
        found = levels_of(tmp_path / name)
        downsamples = label_level_downsamples(*SIZE)
        assert len(found) == len(downsamples) == len(written.levels)
        for level, downsample in zip(found, downsamples, strict=True):
            assert level.dtype == dtype
            np.testing.assert_array_equal(level, tools.decimated(whole, downsample), err_msg=name)


def test_many_classes_are_uint16(tools, tmp_path):
    names = ("background", *(f"class {i}" for i in range(1, 301)))
    classes = ClassMap(names, {i: i for i in range(1, 301)})
    annots = [(1, 300, [[(10, 10), (60, 10), (60, 40), (10, 40)]])]
    valid = np.ones((100, 100), bool)
    valid[0, 0] = False
    write_labels(
        tmp_path,
        (100, 100),
        tools.polygon_shapes(annots),
        classes,
        LabelSpec(),
        valid=tools.reader(np.zeros((100, 100, 1), np.uint8), valid),
    )
    (found,) = levels_of(tmp_path / "labels.tif")
    assert found.dtype == np.uint16
    assert found[0, 0] == 65535
    assert (found[10:40, 10:60] == 300).all()
    assert (found > 0).sum() == 30 * 50 + 1


@pytest.mark.parametrize("size", [(1, 1), (1, 1500), (700, 1), (513, 512)])
def test_nothing_annotated_is_background_at_any_size(tools, tmp_path, size):
    write_labels(tmp_path, size, Shapes.empty(), CLASSES, LabelSpec())
    assert tools.complaints(tmp_path / "labels.tif") == []
    found = levels_of(tmp_path / "labels.tif")
    downsamples = label_level_downsamples(*size)
    assert [level.shape for level in found] == [(-(-size[0] // d), -(-size[1] // d)) for d in downsamples]
    assert not any(level.any() for level in found)


def test_empty_tiles_take_no_room(tools, tmp_path):
    annots = [(1, 10, [[(5000, 5000), (5100, 5000), (5100, 5100), (5000, 5100)]])]
    write_labels(tmp_path, (9000, 9000), tools.polygon_shapes(annots), CLASSES, LabelSpec())
    dataset = gdal.Open(str(tmp_path / "labels.tif"))
    band = dataset.GetRasterBand(1)
    stored = [
        (y, x)
        for y in range(36)
        for x in range(36)
        if band.GetMetadataItem(f"BLOCK_OFFSET_{x}_{y}", "TIFF") is not None
    ]
    assert stored == [(19, 19)]
    assert tools.complaints(tmp_path / "labels.tif") == []
    assert (band.ReadAsArray() > 0).sum() == 100 * 100


def test_overlap_order_is_the_spec_s(tools, tmp_path):
    square = [(10, 10), (50, 10), (50, 50), (10, 50)]
    small = [(20, 20), (30, 20), (30, 30), (20, 30)]
    shapes = tools.polygon_shapes([(1, 20, [small]), (2, 10, [square])])
    found = {}
    for overlap in ("last", "first", "smallest", "class"):
        write_labels(tmp_path, (64, 64), shapes, CLASSES, LabelSpec(overlap=overlap))
        found[overlap] = int(levels_of(tmp_path / "labels.tif")[0][25, 25])
    assert found == {"last": 1, "first": 2, "smallest": 2, "class": 2}


def test_a_raster_of_another_size_is_refused(tools, tmp_path):
    small = tools.reader(np.zeros((99, 100, 1), np.uint8), np.zeros((99, 100), bool))
    for role in ("base", "valid"):
        with pytest.raises(BuildError, match=r"99 x 100 pixels, its image 100 x 100"):
            write_labels(tmp_path, (100, 100), Shapes.empty(), CLASSES, LabelSpec(), **{role: small})


def test_a_raster_of_colours_is_refused(tools, tmp_path):
    rgb = tools.reader(np.zeros((100, 100, 3), np.uint8))
    with pytest.raises(BuildError, match="3 channels"):
        write_labels(tmp_path, (100, 100), Shapes.empty(), CLASSES, LabelSpec(), base=rgb)


def test_a_category_that_is_unknown_leaves_nothing(tools, tmp_path):
    ids = np.zeros((2000, 100, 1), np.uint8)
    ids[1900, 50] = 33
    with pytest.raises(ManifestError, match="33"):
        write_labels(
            tmp_path, (2000, 100), Shapes.empty(), CLASSES, LabelSpec(), base=tools.reader(ids), instances=True
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_second_layer_removes_the_first(tmp_path, monkeypatch, writer_class):
    real = writer_class.finish

    def finish(self, advance):
        if (tmp_path / "labels.tif").is_file():
            raise ReadError("no more")
        real(self, advance)

    monkeypatch.setattr(writer_class, "finish", finish)
    with pytest.raises(ReadError, match="no more"):
        write_labels(tmp_path, (99, 99), Shapes.empty(), CLASSES, LabelSpec(), instances=True)
    assert list(tmp_path.iterdir()) == []


def test_base_and_valid_are_read_once_and_downwards(tools, tmp_path):
    ids = tools.reader(np.zeros((5000, 2900, 1), np.uint8))
    write_labels(tmp_path, (5000, 2900), Shapes.empty(), CLASSES, LabelSpec(), base=ids)
    read = np.zeros((5000, 2900), np.uint8)
    for window in ids.windows:
        read[window.as_slices()] += 1
    assert (read == 1).all()
    assert [w.y for w in ids.windows] == sorted(w.y for w in ids.windows)
