"""The Sampler end to end: sources, caches, masks, annotations, threads, pickles."""

import json
import multiprocessing
import pickle
import threading

import numpy as np
import openslide
import PIL.Image
import pytest
import shapely
import tifffile

from slidesampler import Manifest, Sampler, Window, _native
from slidesampler.errors import (
    CacheMissError,
    ManifestError,
    ReadError,
    SourceMissingError,
    StaleEntryError,
    TargetError,
    UnknownKeyError,
)
from slidesampler.models import LabelSpec

HEIGHT, WIDTH = 701, 903
HOLED = {
    "exterior": [[100.3, 80.2], [620.7, 95.1], [580.4, 500.9], [140.2, 470.6]],
    "interiors": [[[250.1, 180.3], [400.6, 200.2], [380.7, 350.4], [260.9, 330.8]]],
}


def make_pixels(seed=0, height=HEIGHT, width=WIDTH, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def manifest_dict(paths, **image):
    return {
        "images": [
            {"id": 10 + i, "file_name": str(path), "width": WIDTH, "height": HEIGHT, "mpp": 0.5, **image}
            for i, path in enumerate(paths)
        ],
        "categories": [{"id": 5, "name": "tumour"}, {"id": 6, "name": "nucleus"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 5, "segmentation": HOLED, "bbox": [100, 80, 521, 421]},
            {"id": 2, "image_id": 10, "category_id": 6, "bbox": [150.5, 120.5, 60, 40]},
            {"id": 3, "image_id": 10, "category_id": None, "bbox": [700, 600, 50, 50]},
            {"id": 4, "image_id": 10, "category_id": 6, "keypoints": [800.2, 100.7, 2, 0, 0, 0], "bbox": None},
        ],
    }


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    pixels = make_pixels()
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="deflate")
    return path, pixels


@pytest.fixture(scope="module")
def cached(slide, tmp_path_factory):
    path, pixels = slide
    work = tmp_path_factory.mktemp("work")
    manifest = Manifest.load(manifest_dict([path]))
    samplers = {None: Sampler(manifest)}
    for backend in ("cog", "npy"):
        samplers[backend] = Sampler(manifest, work, backend)
        assert samplers[backend].build(instances=True).ok
    return samplers, pixels


def truth_mask():
    """Label raster by shapely at pixel centres, painted in the manifest's order."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[shapely.contains_xy(shapely.Polygon(HOLED["exterior"], HOLED["interiors"]), x, y)] = 1
    mask[shapely.contains_xy(shapely.box(150.5 - 1e-9, 120.5 - 1e-9, 210.5 - 1e-9, 160.5 - 1e-9), x, y)] = 2
    box = mask[600:650, 700:750]
    box[box == 0] = 255  # nobody named it
    mask[100, 800] = 2
    return mask


def random_targets(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        cy, cx = rng.uniform(-200, HEIGHT + 200), rng.uniform(-200, WIDTH + 200)
        height, width = rng.uniform(1, 300, 2)
        yield {"image_id": 10, "cy": cy, "cx": cx, "height": height, "width": width}


@pytest.mark.parametrize("backend", [None, "cog", "npy"])
class TestEveryBackend:
    def test_windows_are_numpys(self, cached, backend):
        samplers, pixels = cached
        far = 600
        padded = np.pad(pixels, ((far, far), (far, far), (0, 0)))
        mask = np.pad(truth_mask(), far, constant_values=255)
        inside = np.pad(np.ones((HEIGHT, WIDTH), bool), far)
        for target in random_targets(60):
            sample = samplers[backend].load_sample(target)
            rows, cols = sample.window.shift(far, far).as_slices()
            np.testing.assert_array_equal(sample.image, padded[rows, cols])
            np.testing.assert_array_equal(sample.mask, mask[rows, cols])
            np.testing.assert_array_equal(sample.valid, inside[rows, cols])

    def test_size_is_what_was_asked_for(self, cached, backend):
        sample = cached[0][backend].load_sample(
            {"image_id": 10, "cx": 300.3, "cy": 200.9, "width": 64.000003, "height": 63.2}
        )
        assert sample.image.shape == (64, 64, 3)
        assert sample.mask.shape == sample.valid.shape == (64, 64)

    def test_wholly_outside_is_all_padding_with_true_coordinates(self, cached, backend):
        sample = cached[0][backend].load_sample(
            {"image_id": 10, "window": (-500, 2000, 30, 40), "padding": [1, 2, 3]}
        )
        assert sample.window == Window(-500, 2000, 30, 40)
        assert (sample.image == (1, 2, 3)).all()
        assert (sample.mask == 255).all()
        assert not sample.valid.any()
        assert len(sample.annots) == 0
        np.testing.assert_array_equal(sample.rel_to_abs @ [0, 0, 1], [2000, -500, 1])

    @pytest.mark.parametrize("mode", ["reflect", "edge", "symmetric"])
    def test_padding_is_numpys(self, cached, backend, mode):
        samplers, pixels = cached
        padded = np.pad(pixels, ((50, 50), (50, 50), (0, 0)), mode)
        sample = samplers[backend].load_sample(
            {"image_id": 10, "window": (-50, -50, HEIGHT + 100, WIDTH + 100), "padding": mode}
        )
        np.testing.assert_array_equal(sample.image, padded)
        assert sample.valid.sum() == HEIGHT * WIDTH
        assert (sample.mask[~sample.valid] == 255).all()

    def test_channels_dtype_nodata(self, cached, backend):
        samplers, pixels = cached
        sample = samplers[backend].load_sample(
            {
                "image_id": 10,
                "window": (-4, 0, 8, 8),
                "channels": [2, 0],
                "dtype": "float32",
                "nodata": np.nan,
            }
        )
        assert sample.image.dtype == np.float32
        assert np.isnan(sample.image[:4]).all()
        np.testing.assert_array_equal(sample.image[4:], pixels[:4, :8, [2, 0]])

    def test_a_constant_need_only_fit_the_dtype_asked_for(self, cached, backend):
        samplers, pixels = cached
        target = {"image_id": 10, "window": (-4, 0, 8, 8), "padding": (-1, np.nan, 1000.5)}
        sample = samplers[backend].load_sample({**target, "dtype": "float32"})
        np.testing.assert_array_equal(
            sample.image[:4], np.broadcast_to(np.float32([-1, np.nan, 1000.5]), (4, 8, 3))
        )
        np.testing.assert_array_equal(sample.image[4:], pixels[:4, :8])
        with pytest.raises(TargetError, match=r"padding=-1, nan, 1000\.5 does not fit uint8"):
            samplers[backend].load_sample(target)
        with pytest.raises(TargetError, match="nodata=300 does not fit uint8"):
            samplers[backend].load_sample({"image_id": 10, "window": (-4, 0, 8, 8), "nodata": 300})

    def test_mpp_and_downsample_agree(self, cached, backend):
        sampler = cached[0][backend]
        where = {"image_id": 10, "cx": 400, "cy": 300, "size": (50, 60)}
        by_mpp = sampler.load_sample({**where, "mpp": 1.0})
        by_downsample = sampler.load_sample({**where, "downsample": 2})
        assert by_mpp.window == by_downsample.window == Window(250, 340, 100, 120)
        np.testing.assert_array_equal(by_mpp.image, by_downsample.image)

    def test_reduced_pixels_are_area_means(self, cached, backend):
        samplers, pixels = cached
        # Aligned to the pyramid; between its pixels an overview holds a blend, which test_pixels looks at.
        for y, x, n, factor in [(0, 0, 20, 4), (6, 28, 15, 2), (104, 64, 9, 8)]:
            size = n * factor
            sample = samplers[backend].load_sample(
                {"image_id": 10, "window": (y, x, size, size), "downsample": factor}
            )
            region = pixels[y : y + size, x : x + size].astype(float)
            mean = region.reshape(n, factor, n, factor, 3).mean((1, 3))
            # A pyramid rounds once a level.
            assert np.abs(sample.image - mean).max() <= 1.51

    def test_annotations(self, cached, backend):
        sample = cached[0][backend].load_sample({"image_id": 10, "window": (110, 140, 60, 80)})
        annots = sample.annots
        assert annots.annot_ids.tolist() == [1, 2]
        assert annots.class_index.tolist() == [1, 2]
        np.testing.assert_allclose(annots.boxes_xyxy[1], [10.5, 10.5, 70.5, 50.5])
        whole = shapely.Polygon(HOLED["exterior"], HOLED["interiors"])
        seen = whole.intersection(shapely.box(140, 110, 220, 170)).area / whole.area
        np.testing.assert_allclose(annots.visible, [seen, 1.0])
        rings = annots.polygons[0][0]
        clipped = shapely.Polygon(rings[0], rings[1:])
        np.testing.assert_allclose(clipped.area, seen * whole.area)

    def test_visible_threshold_leaves_the_mask_alone(self, cached, backend):
        sampler = cached[0][backend]
        target = {"image_id": 10, "window": (110, 140, 60, 80)}
        sample = sampler.load_sample(target, visible_threshold=0.5)
        assert sample.annots.annot_ids.tolist() == [2]
        np.testing.assert_array_equal(sample.mask, sampler.load_sample(target).mask)

    def test_annotation_targets(self, cached, backend):
        sampler = cached[0][backend]
        assert sampler.load_sample({"aid": 2}).window == Window(120, 150, 41, 61)
        assert sampler.load_sample({"annot_id": 2, "window_dims": (32, 32)}).window == Window(124, 164, 32, 32)
        assert sampler.resolve({"annot_id": 2}).image_id == 10

    def test_instances(self, cached, backend):
        sample = cached[0][backend].load_sample(
            {"image_id": 10, "window": (0, 0, HEIGHT, WIDTH)}, with_instances=True
        )
        values, counts = np.unique(sample.instances, return_counts=True)
        assert values.tolist() == [0, 1, 2, 3, 4]
        assert counts[2:].tolist() == [60 * 40, 50 * 50, 1]

    def test_the_resolved_target_loads_the_same(self, cached, backend):
        sampler = cached[0][backend]
        for target in random_targets(10, seed=4):
            sample = sampler.load_sample({**target, "downsample": 2.5})
            again = sampler.load_sample(sample.target)
            assert again.target == sample.target
            np.testing.assert_array_equal(again.image, sample.image)
            np.testing.assert_array_equal(again.mask, sample.mask)

    def test_load_mask_is_the_samples_mask(self, cached, backend):
        sampler = cached[0][backend]
        sample = sampler.load_sample({"image_id": 10, "window": (-20, 90, 300, 200), "size": (75, 50)})
        np.testing.assert_array_equal(sampler.load_mask(10, Window(-20, 90, 300, 200), (75, 50)), sample.mask)

    def test_layers_can_be_left_out(self, cached, backend):
        sample = cached[0][backend].load_sample({"image_id": 10, "window": (0, 0, 4, 4)}, False, False)
        assert sample.mask is None
        assert sample.annots is None
        assert sample.instances is None


class TestMasksAgree:
    """A mask is the same from a label layer and made on the spot, at every scale."""

    @pytest.mark.parametrize("overlap", ["last", "first", "smallest", "largest", "class"])
    def test_layer_and_no_layer(self, slide, tmp_path, overlap):
        manifest = Manifest.load(manifest_dict([slide[0]]))
        spec = LabelSpec(overlap=overlap, keypoint_radius_px=3.5)
        layered = Sampler(manifest, tmp_path, "npy", label_spec=spec)
        assert layered.build(instances=True).ok
        assert list(tmp_path.glob("labels/*/*/labels.tif"))
        loose = Sampler(manifest, label_spec=spec)
        rng = np.random.default_rng(1)
        for target in random_targets(40, seed=2):
            how = {"downsample": float(rng.choice([1, 1.3, 2, 3.7, 4, 9]))}
            a = layered.load_sample({**target, **how}, with_instances=True)
            b = loose.load_sample({**target, **how}, with_instances=True)
            np.testing.assert_array_equal(a.mask, b.mask)
            np.testing.assert_array_equal(a.instances, b.instances)

    def test_a_changed_annotation_is_never_served_stale(self, slide, tmp_path):
        document = manifest_dict([slide[0]])
        assert Sampler(document, tmp_path, "npy").build().ok
        document["annotations"][1]["bbox"] = [10, 10, 5, 5]
        mask = Sampler(document, tmp_path, "npy").load_mask(10, Window(0, 0, 20, 20))
        assert (mask == 2).sum() == 25

    def test_alpha_becomes_valid_and_ignore(self, tmp_path):
        pixels = make_pixels(3, channels=4)
        alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
        alpha[50:600, 80:800] = 255
        pixels[..., 3] = alpha
        path = tmp_path / "alpha.tif"
        tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", extrasamples=["unassalpha"])
        manifest = Manifest.load(manifest_dict([path]))
        samplers = [Sampler(manifest)]
        for backend in ("cog", "npy"):
            samplers.append(Sampler(manifest, tmp_path / "work", backend))
            assert samplers[-1].build().ok
        for target in random_targets(25, seed=8):
            for downsample in (1, 2, 4):
                samples = [s.load_sample({**target, "downsample": downsample}) for s in samplers]
                for sample in samples:
                    assert sample.image.shape[2] == 3
                    assert (sample.mask[~sample.valid] == 255).all()
                    np.testing.assert_array_equal(sample.valid, samples[0].valid)
                    np.testing.assert_array_equal(sample.mask, samples[0].mask)
        whole = samplers[1].load_sample({"image_id": 10})
        np.testing.assert_array_equal(whole.valid, alpha > 0)
        np.testing.assert_array_equal(whole.image[alpha > 0], pixels[alpha > 0][:, :3])

    def test_raster_labels_and_valid_assets(self, tmp_path):
        pixels = make_pixels(5)
        raster = np.zeros((HEIGHT, WIDTH), np.uint8)
        raster[100:300, 100:300] = 5
        raster[200:400, 200:400] = 6
        valid = np.full((HEIGHT, WIDTH), 255, np.uint8)
        valid[:150] = 0
        for name, array in (("image", pixels), ("labels", raster), ("valid", valid)):
            tifffile.imwrite(tmp_path / f"{name}.tif", array, tile=(128, 128), compression="deflate")
        document = manifest_dict([tmp_path / "image.tif"])
        document["annotations"] = document["annotations"][1:2]
        document["images"][0]["auxiliary"] = [
            {"file_name": "labels.tif", "channels": "labels"},
            {"file_name": "valid.tif", "channels": "valid"},
        ]
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[raster == 5] = 1
        expected[raster == 6] = 2
        expected[120:160, 150:210] = 2  # the annotation, over the raster
        expected[120, 150:210] = 2
        expected[:150] = 255
        manifest = Manifest.load(document, bundle_dir=tmp_path)
        loose = Sampler(manifest)
        layered = Sampler(manifest, tmp_path / "work", "cog")
        assert layered.build().ok
        for sampler in (loose, layered):
            sample = sampler.load_sample({"image_id": 10})
            np.testing.assert_array_equal(sample.valid, valid > 0)
            np.testing.assert_array_equal(sample.mask, expected)
        for target in random_targets(20, seed=9):
            a, b = (s.load_sample({**target, "downsample": 2}).mask for s in (loose, layered))
            np.testing.assert_array_equal(a, b)

    def test_a_palette_mask_holds_category_ids_not_colours(self, tmp_path):
        raster = np.zeros((60, 80), np.uint8)
        raster[10:30, 20:50] = 5
        image = PIL.Image.fromarray(raster, mode="P")
        image.putpalette([v for i in range(256) for v in (255 - i, i, 7)])
        image.save(tmp_path / "labels.png")
        document = {
            "images": [
                {
                    "id": 1,
                    "file_name": "array://palette",
                    "auxiliary": [{"file_name": str(tmp_path / "labels.png"), "channels": "labels"}],
                }
            ],
            "categories": [{"id": 5, "name": "tumour"}],
        }
        arrays = {"palette": make_pixels(0, 60, 80)}
        layered = Sampler(document, tmp_path / "work", "npy", arrays=arrays)
        assert layered.build().ok
        for sampler in (Sampler(document, arrays=arrays), layered):
            np.testing.assert_array_equal(sampler.load_mask(1, Window(0, 0, 60, 80)), raster == 5)


class TestAuto:
    def test_slides_are_read_where_they_lie_and_nothing_is_copied(self, slide, tmp_path):
        path, pixels = slide
        sampler = Sampler(manifest_dict([path]), tmp_path / "work", "auto")
        report = sampler.build()
        assert report.ok
        kept = sum(f.stat().st_size for f in (tmp_path / "work" / "images").rglob("*") if f.is_file())
        if _native.tiles is not None:
            assert kept < path.stat().st_size // 10
        window = Window(100, 200, 300, 256)
        targets = [{"image_id": 10, "window": window}, {"image_id": 10, "window": (-20, 800, 300, 256)}]
        batch = sampler.load_batch(targets)
        np.testing.assert_array_equal(batch.image[0], pixels[100:400, 200:456])
        np.testing.assert_array_equal(batch.mask[0], truth_mask()[100:400, 200:456])
        plain = Sampler(manifest_dict([path]))
        for got, target in zip(batch, targets, strict=True):
            expected = plain.load_sample(target)
            np.testing.assert_array_equal(got.image, expected.image)
            np.testing.assert_array_equal(got.mask, expected.mask)
        # An edited slide is never served from what is known of the old one.
        tifffile.imwrite(tmp_path / "b.tif", pixels, tile=(128, 128), photometric="rgb")
        edited = Sampler(manifest_dict([tmp_path / "b.tif"]), tmp_path / "work", "auto")
        assert edited.build().ok
        edited.load_sample(targets[0])
        edited.close()
        other = np.flip(pixels, 0)
        tifffile.imwrite(tmp_path / "b.tif", other, tile=(128, 128), photometric="rgb", compression="deflate")
        with pytest.raises(StaleEntryError):
            edited.load_sample(targets[0])

    def test_the_tile_size_that_suits_the_windows_is_an_entry_like_any_other(self, slide, tmp_path):
        sampler = Sampler(manifest_dict([slide[0]]), tmp_path, "cog")
        assert [row.status for row in sampler.build(tile="auto", window=64, labels=False)] == ["built"]
        again = sampler.plan(tile=128, labels=False)
        assert [row.action for row in again] == ["reuse"]
        with pytest.raises(ValueError, match="window"):
            sampler.build(tile="auto")
        with pytest.raises(ValueError, match="auto"):
            sampler.plan(tile=256, window=64)


class TestRealSlide:
    @pytest.mark.parametrize("backend", [None, "cog", "npy"])
    def test_equals_openslide(self, real_slide, tmp_path, backend):
        manifest = {"images": [{"id": 1, "file_name": str(real_slide)}]}
        sampler = Sampler(manifest, tmp_path, backend)
        if backend:
            assert sampler.build().ok
        with openslide.OpenSlide(str(real_slide)) as reference:
            width, height = reference.dimensions
            assert sampler.image_shape(1) == (height, width, 3)
            assert sampler.image_mpp(1) == (0.499, 0.499)
            rng = np.random.default_rng(0)
            for _ in range(40):
                h, w = rng.integers(1, 700, 2)
                y, x = rng.integers(0, height - h), rng.integers(0, width - w)
                expected = np.asarray(reference.read_region((x, y), 0, (w, h)))[..., :3]
                got = sampler.load_sample({"image_id": 1, "window": (y, x, h, w)})
                np.testing.assert_array_equal(got.image, expected)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    arrays = {f"f{i}": make_pixels(i, 40, 50, 1) for i in range(3)}
    document = {
        "videos": [{"id": 4, "name": "v"}],
        "images": [
            {"id": i, "file_name": f"array://f{i}", "video_id": 4, "frame_index": 2 - i} for i in range(3)
        ],
        "annotations": [],
    }
    return Sampler(document, arrays=arrays, bundle_dir=folder), arrays


class TestSequences:
    def test_a_video_is_stacked_in_frame_order(self, frames):
        sampler, arrays = frames
        sample = sampler.load_sample({"vidid": 4, "window": (5, 6, 7, 8)})
        expected = np.stack([arrays[f"f{i}"][5:12, 6:14] for i in (2, 1, 0)])
        np.testing.assert_array_equal(sample.image, expected)
        assert sample.mask.shape == sample.valid.shape == (3, 7, 8)
        assert sample.target.image_ids == (2, 1, 0)
        assert len(sample.annots) == 3

    def test_chosen_frames(self, frames):
        sampler, arrays = frames
        sample = sampler.load_sample({"gids": [0, 2], "cx": 10, "cy": 10, "width": 4, "height": 4})
        np.testing.assert_array_equal(sample.image[1], arrays["f2"][8:12, 8:12])

    def test_layers_can_be_left_out(self, frames):
        sample = frames[0].load_sample({"vidid": 4, "window": (5, 6, 7, 8)}, False, False)
        assert (sample.mask, sample.annots, sample.instances) == (None, None, None)

    def test_a_video_without_frames(self):
        sampler = Sampler({"videos": [{"id": 3, "name": "v"}], "images": []})
        with pytest.raises(TargetError, match="video 3 has no frames"):
            sampler.load_sample({"video_id": 3})

    def test_frames_of_several_dtypes_are_not_promoted(self):
        arrays = {"d0": np.zeros((4, 4), np.uint8), "d1": np.zeros((4, 4), np.uint16)}
        document = {"images": [{"id": i, "file_name": f"array://d{i}"} for i in range(2)]}
        sampler = Sampler(document, arrays=arrays)
        with pytest.raises(TargetError, match="equal dtypes, got uint16, uint8"):
            sampler.load_sample({"image_ids": [0, 1]})
        assert sampler.load_sample({"image_ids": [0, 1], "dtype": "uint16"}).image.shape == (2, 4, 4, 1)

    def test_frames_of_several_windows_are_refused(self):
        arrays = {f"w{i}": make_pixels(i, 40, 40) for i in range(2)}
        document = {"images": [{"id": i, "file_name": f"array://w{i}", "mpp": 0.5 + i} for i in range(2)]}
        with pytest.raises(TargetError, match="equal windows"):
            Sampler(document, arrays=arrays).load_sample(
                {"image_ids": [0, 1], "cx": 9, "cy": 9, "size": (4, 4), "mpp": 3.0}
            )

    def test_unequal_frames_are_refused(self):
        arrays = {"u0": make_pixels(0, 20, 20), "u1": make_pixels(0, 20, 21)}
        document = {"images": [{"id": i, "file_name": f"array://u{i}"} for i in range(2)]}
        with pytest.raises(TargetError, match="equal shapes"):
            Sampler(document, arrays=arrays).load_sample({"image_ids": [0, 1]})


class TestErrors:
    def test_no_cache_entry_is_the_command(self, slide, tmp_path):
        sampler = Sampler(manifest_dict([slide[0]]), tmp_path, "cog")
        with pytest.raises(CacheMissError, match=r"slidesampler build .* --backend cog"):
            sampler.load_sample({"image_id": 10})
        assert list(tmp_path.iterdir()) == []  # a read never builds

    def test_an_edited_source_is_never_served_stale(self, tmp_path):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, make_pixels(1), tile=(128, 128))
        manifest = manifest_dict([path])
        assert Sampler(manifest, tmp_path / "work", "npy").build().ok
        tifffile.imwrite(path, make_pixels(2), tile=(128, 128))
        edited = Sampler(manifest, tmp_path / "work", "npy")
        with pytest.raises((StaleEntryError, CacheMissError), match="slidesampler build"):
            edited.load_sample({"image_id": 10})
        assert edited.build().ok
        sample = edited.load_sample({"image_id": 10, "window": (0, 0, 99, 99)})
        np.testing.assert_array_equal(sample.image, make_pixels(2)[:99, :99])

    def test_missing_source(self, tmp_path):
        with pytest.raises((SourceMissingError, ManifestError), match=r"gone\.tif"):
            Sampler(manifest_dict([tmp_path / "gone.tif"])).load_sample({"image_id": 10})

    def test_size_that_disagrees_with_the_file(self, slide):
        sampler = Sampler(manifest_dict([slide[0]], height=HEIGHT + 1))
        with pytest.raises(ManifestError, match=f"height is {HEIGHT + 1} in the manifest") as caught:
            sampler.load_sample({"image_id": 10})
        assert (caught.value.image_id, caught.value.field) == (10, "height")

    @pytest.mark.parametrize(
        ("target", "error"),
        [
            ({}, "needs 'image_id'"),
            ({"image_id": 99}, "99"),
            ({"annot_id": 77}, "77"),
            ({"annot_id": 2, "image_id": 11}, "is on image 10"),
            ({"image_id": 10, "image_ids": [10]}, "sequence"),
            ({"image_id": 10, "window": (0, 0, 2, 2), "channels": ["q"]}, "no channel 'q'"),
            ({"image_id": 10, "window": (0, 0, 2, 2), "nodata": 0.5}, "nodata"),
        ],
    )
    def test_targets_that_name_nothing(self, cached, target, error):
        with pytest.raises(TargetError, match=error):
            cached[0][None].load_sample(target)

    def test_a_name_given_to_another_array_is_refused(self):
        document = {"images": [{"id": 1, "file_name": "array://taken"}]}
        first, second = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
        old = Sampler(document, arrays={"taken": first})
        assert Sampler(document, arrays={"taken": first[:, :]}).load_sample({"image_id": 1}).image.max() == 0
        new = Sampler(document, arrays={"taken": second})
        assert new.load_sample({"image_id": 1}).image.min() == 1
        with pytest.raises(ReadError, match="registered again"):
            old.load_sample({"image_id": 1})

    @pytest.mark.parametrize("size", [(0, 3), (2.5, 3)])
    def test_masks_of_no_size(self, cached, size):
        with pytest.raises(TargetError, match="size"):
            cached[0][None].load_mask(10, Window(0, 0, 4, 4), size)

    def test_misspelt_key(self, cached):
        with pytest.raises(UnknownKeyError, match="did you mean 'downsample'"):
            cached[0][None].load_sample({"image_id": 10, "downsampel": 2})

    def test_bad_arguments(self, slide, tmp_path):
        document = manifest_dict([slide[0]])
        with pytest.raises(ValueError, match="backend must be"):
            Sampler(document, tmp_path, "zarr")
        with pytest.raises(ValueError, match="workdir="):
            Sampler(document, backend="cog")
        with pytest.raises(ValueError, match="no cache"):
            Sampler(document).build()
        with pytest.raises(ValueError, match=r"Manifest\.load"):
            Sampler(Manifest.load(document), mpp=1.0)


def read_all(sampler, targets):
    return [sampler.load_sample(target).image.tobytes() for target in targets]


def read_in_child(sampler, targets, queue):
    try:
        queue.put(read_all(sampler, targets))
    except BaseException as error:
        queue.put(error)
        raise


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    folder = tmp_path_factory.mktemp("five")
    paths = []
    for i in range(5):
        paths.append(folder / f"{i}.tif")
        tifffile.imwrite(paths[-1], make_pixels(100 + i), tile=(128, 128), compression="deflate")
    document = manifest_dict(paths)
    (folder / "m.kwcoco.json").write_text(json.dumps(document))
    sampler = Sampler(folder / "m.kwcoco.json", folder / "work", "cog")
    assert sampler.build().ok
    rng = np.random.default_rng(0)
    targets = [
        {"image_id": int(10 + rng.integers(5)), "cx": cx, "cy": cy, "width": 200, "height": 150}
        for cy, cx in rng.uniform(-50, 900, (500, 2))
    ]
    return sampler, targets, read_all(sampler, targets)


class TestConcurrency:
    def test_eight_threads(self, five):
        sampler, targets, expected = five
        wrong = []

        def work(seed):
            order = np.random.default_rng(seed).permutation(len(targets))
            wrong.extend(i for i in order if sampler.load_sample(targets[i]).image.tobytes() != expected[i])

        errors = []

        def guarded(seed):
            try:
                work(seed)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert wrong == []

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_processes_after_the_parent_has_read(self, five, method):
        sampler, targets, expected = five
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        children = [
            context.Process(target=read_in_child, args=(sampler, targets[:60], queue)) for _ in range(4)
        ]
        for child in children:
            child.start()
        results = [queue.get(timeout=120) for _ in children]
        for child in children:
            child.join()
        assert all(result == expected[:60] for result in results)
        assert read_all(sampler, targets[:20]) == expected[:20]

    def test_a_pickle_is_small_and_works(self, five):
        sampler, targets, expected = five
        blob = pickle.dumps(sampler)
        assert len(blob) < 10_000
        assert read_all(pickle.loads(blob), targets[:5]) == expected[:5]

    def test_a_pickle_of_a_large_manifest_is_no_larger(self):
        document = {
            "images": [{"id": i, "file_name": f"{i}.tif", "width": 9, "height": 9} for i in range(2000)],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [
                {"id": i, "image_id": i % 2000, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in range(20000)
            ],
        }
        blob = pickle.dumps(Sampler(document))
        assert len(blob) < 10_000
        copy = pickle.loads(blob)
        assert len(copy.manifest) == 2000
        assert copy.manifest.locate_annot(19999) == (1999, 9)

    def test_a_rebuild_under_a_reader_is_found(self, tmp_path, slide):
        manifest = Manifest.load(manifest_dict([slide[0]]))
        reader = Sampler(manifest, tmp_path, "npy", max_open=1)
        assert reader.build().ok
        target = {"image_id": 10, "window": (0, 0, 50, 50)}
        before = reader.load_sample(target).image
        assert Sampler(manifest, tmp_path, "npy").build(force=True).ok
        reader.close()  # no handle left: the file it would open is gone
        np.testing.assert_array_equal(reader.load_sample(target).image, before)

    def test_a_rebuild_that_another_thread_has_noticed_is_found(self, tmp_path, slide, monkeypatch):
        manifest = Manifest.load(manifest_dict([slide[0]]))
        sampler = Sampler(manifest, tmp_path, "npy")
        assert sampler.build().ok
        target = {"image_id": 10, "window": (0, 0, 50, 50)}
        before = sampler.load_sample(target).image
        load, calls = sampler._loader._read, []

        def overtaken(*args):
            calls.append(args)
            if len(calls) > 1:
                return load(*args)
            # Between this thread's lookup and its read: a rebuild, and another thread that reads after it.
            assert Sampler(manifest, tmp_path, "npy").build(force=True).ok
            sampler.close()
            sampler.load_sample(target)
            raise ReadError("the file of the old entry is gone")

        monkeypatch.setattr(sampler._loader, "_read", overtaken)
        np.testing.assert_array_equal(sampler.load_sample(target).image, before)
