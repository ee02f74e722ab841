"""``load_batch`` against ``load_sample``, which has oracles of its own, and against numpy."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler import Sampler, Target, Window, _native
from slidesampler.errors import ReadError, TargetError
from slidesampler.readers import tile_read

HEIGHT, WIDTH = 700, 900
RNG = np.random.default_rng(5)
SMOOTH = np.add.outer(np.arange(HEIGHT) % 256, np.arange(WIDTH) % 251)[..., None] + [0, 40, 90]
RGB = ((SMOOTH + RNG.integers(0, 20, SMOOTH.shape)) % 256).astype(np.uint8)
GRAY16 = RNG.integers(0, 2**16, (640, 600), dtype=np.uint16)
STRIPES = np.where(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) % 300 < 220, 255, 0)
ALPHA = np.dstack([RGB, STRIPES]).astype(np.uint8)
native = pytest.mark.skipif(_native.tiles is None, reason="the compiled core is not here")


def manifest(folder):
    """Three images: RGB, RGB with alpha, 16-bit grey; with overlapping annotations, also across the border."""
    tifffile.imwrite(folder / "rgb.tif", RGB, photometric="rgb", tile=(128, 128))
    tifffile.imwrite(
        folder / "alpha.tif", ALPHA, photometric="rgb", extrasamples=["unassalpha"], tile=(128, 128)
    )
    tifffile.imwrite(folder / "gray.tif", GRAY16, tile=(128, 128))
    boxes = [(-20, -30, 200, 150), (300, 250, 260, 260), (350, 300, 90, 90), (800, 600, 300, 300)]
    annots = [
        {"id": 10 * image + k, "image_id": image, "category_id": 1 + k % 2, "bbox": list(box)}
        for image in (1, 2, 3)
        for k, box in enumerate(boxes)
    ]
    return {
        "images": [
            {"id": i + 1, "file_name": str(folder / name), "video_id": 1 if i < 2 else None, "frame_index": i}
            for i, name in enumerate(("rgb.tif", "alpha.tif", "gray.tif"))
        ],
        "videos": [{"id": 1, "name": "both"}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annots,
    }


KINDS = ("npy", "none", "zstd", "jpeg", "in place", "no layers")


@pytest.fixture(scope="module")
def samplers(tmp_path_factory):
    """A sampler for each way of keeping the images."""
    folder = tmp_path_factory.mktemp("batches")
    data = manifest(folder)
    made = {"in place": Sampler(data)}
    for kind in KINDS[:4]:
        backend, codec = ("npy", "none") if kind == "npy" else ("cog", kind)
        sampler = Sampler(data, folder / "work", backend, codec=codec)
        # JPEG takes no 16-bit pixels.
        only = [1, 2] if kind == "jpeg" else None
        report = sampler.build(codec=codec, tile=128, instances=True, only_images=only)
        assert report.ok, report.failed
        made[kind] = sampler
    bare = Sampler(data, folder / "bare", "npy")
    assert bare.build(labels=False).ok
    made["no layers"] = bare
    return made


def assert_same(batch, samples, *, annots=False):
    assert len(batch) == len(samples)
    for got, expected in zip(batch, samples, strict=True):
        assert got.image.dtype == expected.image.dtype
        np.testing.assert_array_equal(got.image, expected.image)
        np.testing.assert_array_equal(got.valid, expected.valid)
        np.testing.assert_array_equal(got.rel_to_abs, expected.rel_to_abs)
        assert got.target == expected.target
        for layer in ("mask", "instances"):
            one, other = getattr(got, layer), getattr(expected, layer)
            assert (one is None) == (other is None)
            if other is not None:
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
        if annots:
            assert got.annots.boxes_xyxy.tolist() == expected.annots.boxes_xyxy.tolist()
        else:
            assert got.annots is None


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_load_sample_one_by_one(samplers, kind, channels_first):
    sampler = samplers[kind]
    rng = np.random.default_rng(len(kind))
    targets = [
        {"image_id": int(rng.integers(1, 3)), "window": (*map(int, rng.integers(-120, 800, 2)), 100, 130)}
        for _ in range(25)
    ]
    # Wholly outside, and one twice.
    targets += [{"image_id": 1, "window": (2000, 40, 100, 130)}, targets[3]]
    batch = sampler.load_batch(
        targets, threads=2, with_annots=True, with_instances=True, channels_first=channels_first
    )
    assert batch.image.shape == ((27, 3, 100, 130) if channels_first else (27, 100, 130, 3))
    assert batch.image.flags.c_contiguous
    assert_same(batch, [sampler.load_sample(t, with_instances=True) for t in targets], annots=True)


def test_pixels_are_those_of_the_source(samplers):
    targets = [
        {"image_id": 1, "window": (y, x, 64, 96)} for y, x in [(0, 0), (636, 804), (333, 127), (100, 400)]
    ]
    expected = np.stack([RGB[y : y + 64, x : x + 96] for y, x in [(0, 0), (636, 804), (333, 127), (100, 400)]])
    for kind in ("npy", "none", "zstd", "in place"):
        batch = samplers[kind].load_batch(targets)
        np.testing.assert_array_equal(batch.image, expected)
        assert batch.valid.all()


WAYS = (
    {},
    {"padding": 7},
    {"padding": (1, 2, 3)},
    {"padding": "reflect"},
    {"padding": "edge"},
    {"dtype": "float32"},
    {"dtype": "float32", "padding": -1},
    {"dtype": "int16", "padding": (-5, 3, 2)},
    {"dtype": "uint16"},
    {"dtype": "int8"},
    {"nodata": 9},
    {"channels": (2, 0, 1)},
    {"channels": (1, 1, 2)},
)
SCALES = ({}, {"downsample": 2}, {"downsample": 4}, {"downsample": 3.3}, {"size": (40, 50)})


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_every_way_of_asking_equals_load_sample(samplers, data):
    sampler = samplers[data.draw(st.sampled_from(KINDS))]
    scale = data.draw(st.sampled_from(SCALES))
    step = 8 if scale.get("downsample") in (2, 4) and data.draw(st.booleans()) else 1
    targets = []
    for _ in range(data.draw(st.integers(1, 5))):
        y, x = data.draw(st.integers(-30, 700)) // step * step, data.draw(st.integers(-30, 900)) // step * step
        way = data.draw(st.sampled_from([w for w in WAYS if "dtype" not in w]))
        targets.append({"image_id": data.draw(st.sampled_from([1, 2])), "window": (y, x, 80, 96)} | scale | way)
    kind = data.draw(st.sampled_from([w for w in WAYS if "dtype" in w or not w]))
    targets = [target | kind for target in targets]
    try:
        expected = [sampler.load_sample(t, False, with_instances=True) for t in targets]
    except TargetError:
        with pytest.raises(TargetError):
            sampler.load_batch(targets, with_instances=True)
        return
    batch = sampler.load_batch(targets, with_instances=True, channels_first=data.draw(st.booleans()))
    assert_same(batch, expected)


@pytest.mark.parametrize("kind", ["npy", "zstd", "in place"])
def test_images_of_one_kind_may_mix_and_others_not(samplers, kind):
    sampler = samplers[kind]
    mixed = [{"image_id": i, "window": (0, 0, 50, 50)} for i in (1, 3)]
    with pytest.raises(TargetError, match="channels"):
        sampler.load_batch(mixed)
    one = [target | {"channels": 0} for target in mixed]
    with pytest.raises(TargetError, match=r"dtypes.*uint16.*say the 'dtype'"):
        sampler.load_batch(one)
    same = [target | {"dtype": "float32"} for target in one]
    assert_same(sampler.load_batch(same), [sampler.load_sample(t, False) for t in same])
    with pytest.raises(TargetError, match="sizes"):
        sampler.load_batch([mixed[0], {"image_id": 1, "window": (0, 0, 50, 51)}])
    with pytest.raises(TargetError, match="at least one"):
        sampler.load_batch([])
    with pytest.raises(ValueError, match="threads"):
        sampler.load_batch(mixed[:1], threads=0)


def test_any_sizes_as_batches_of_those_alike(samplers):
    for kind in ("npy", "jpeg", "in place"):
        sampler = samplers[kind]
        targets = [
            {"image_id": 1 + k % 2, "window": (9 * k, 5 * k, 20 + 2 * (k % 3), 30), "downsample": 1 + k % 2}
            for k in range(12)
        ]
        got = sampler.load_batches(targets, with_annots=True, channels_first=True)
        assert len(got) == 6
        assert sorted(place for places, _ in got for place in places) == list(range(12))
        for places, batch in got:
            assert list(places) == sorted(places)
            assert batch.image.flags.c_contiguous
            assert batch.image.shape[:2] == (2, 3)
            assert_same(batch, [sampler.load_sample(targets[place]) for place in places], annots=True)
        assert sampler.load_batches([]) == []


@pytest.mark.parametrize("kind", ["npy", "zstd", "in place"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_sequences(samplers, kind, channels_first):
    sampler = samplers[kind]
    targets = [{"video_id": 1, "window": (y, 30, 40, 50)} for y in (0, 80, 680)]
    targets.append({"image_ids": [2, 1], "window": (5, 5, 40, 50)})
    batch = sampler.load_batch(targets, with_annots=True, channels_first=channels_first)
    assert batch.image.shape == ((4, 2, 3, 40, 50) if channels_first else (4, 2, 40, 50, 3))
    assert batch.mask.shape == batch.valid.shape == (4, 2, 40, 50)
    for got, target in zip(batch, targets, strict=True):
        expected = sampler.load_sample(target)
        np.testing.assert_array_equal(got.image, expected.image)
        np.testing.assert_array_equal(got.mask, expected.mask)
        assert got.target == expected.target
        assert [len(a) for a in got.annots] == [len(a) for a in expected.annots]
    (places, alike), (others, single) = sampler.load_batches(
        [*targets, {"image_id": 1, "window": (0, 0, 8, 8)}]
    )
    assert (places, others) == ((0, 1, 2, 3), (4,))
    np.testing.assert_array_equal(alike[3].image, sampler.load_sample(targets[3]).image)
    assert single.image.shape == (1, 8, 8, 3)
    with pytest.raises(TargetError, match="not both"):
        sampler.load_batch([targets[0], {"image_id": 1, "window": (0, 0, 40, 50)}])
    with pytest.raises(TargetError, match="numbers of frames"):
        sampler.load_batch([targets[0], {"image_ids": [1], "window": (0, 0, 40, 50)}])


class TestOut:
    TARGETS = tuple({"image_id": 1, "window": (y, 50, 48, 64)} for y in (0, 300, 690))

    @pytest.mark.parametrize("channels_first", [False, True])
    @pytest.mark.parametrize("kind", ["npy", "zstd", "in place", "no layers"])
    def test_memory_that_the_caller_gave_is_filled(self, samplers, kind, channels_first):
        sampler = samplers[kind]
        expected = sampler.load_batch(self.TARGETS, channels_first=channels_first)
        shape = (3, 3, 48, 64) if channels_first else (3, 48, 64, 3)
        image = np.full(shape, 99, np.uint8)
        mask = torch.full((3, 48, 64), 77, dtype=torch.uint8)
        batch = sampler.load_batch(self.TARGETS, {"image": image, "mask": mask}, channels_first=channels_first)
        assert batch.image is image
        np.testing.assert_array_equal(image, expected.image)
        np.testing.assert_array_equal(mask.numpy(), expected.mask)
        np.testing.assert_array_equal(batch.valid, expected.valid)

    def test_an_earlier_batch_is_used_again(self, samplers):
        sampler = samplers["zstd"]
        first = sampler.load_batch(self.TARGETS)
        other = [{"image_id": 2, "window": (y, 500, 48, 64)} for y in (9, 8, 7)]
        second = sampler.load_batch(other, first)
        assert second.image is first.image
        assert_same(second, [sampler.load_sample(t, False) for t in other])

    def test_a_part_of_a_larger_array(self, samplers):
        ring = np.zeros((4, 3, 50, 70, 3), np.uint8)
        samplers["jpeg"].load_batch(self.TARGETS, {"image": ring[2, :, 1:49, 3:67]})
        np.testing.assert_array_equal(ring[2, :, 1:49, 3:67], samplers["jpeg"].load_batch(self.TARGETS).image)
        ring[2, :, 1:49, 3:67] = 0
        assert not ring.any()

    @pytest.mark.parametrize(
        ("out", "match"),
        [
            ({"image": np.zeros((3, 48, 64, 4), np.uint8)}, r"'image'.*\(3, 48, 64, 3\) uint8"),
            ({"image": np.zeros((3, 48, 64, 3), np.int8)}, "int8"),
            ({"mask": np.zeros((2, 48, 64), np.uint8)}, "'mask'"),
            ({"valid": np.zeros((3, 48, 64), np.uint8)}, "'valid'.*bool"),
            ({"image": [1, 2]}, "array or a CPU tensor, got list"),
            ({"image": np.broadcast_to(np.uint8(0), (3, 48, 64, 3))}, "read-only"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, samplers, out, match):
        with pytest.raises(TargetError, match=match):
            samplers["npy"].load_batch(self.TARGETS, out)


class TestOneCall:
    """What a batch costs, counted."""

    @native
    def test_a_tile_that_windows_share_is_decoded_once(self, samplers, monkeypatch):
        sampler = samplers["zstd"]
        # Twelve windows inside the same 128-pixel tile, and one over four tiles, the first among them.
        targets = [{"image_id": 1, "window": (390 + k, 400 + k, 40, 40)} for k in range(12)]
        targets.append({"image_id": 1, "window": (364, 364, 40, 40)})
        files = []

        def opened(path):
            files.append(file(path))
            return files[-1]

        file = _native.tiles.File
        monkeypatch.setattr(_native.tiles, "File", opened)
        sampler.close()
        sampler.load_batch(targets, threads=2)
        # Four tiles of the image, and the one of its label layer (256 pixels) that holds all of them.
        assert sorted(file.tiles_read for file in files) == [1, 4]

    @native
    def test_pixels_masks_and_valid_masks_of_all_images_are_one_call(self, samplers, monkeypatch):
        calls = []

        def noting(jobs, threads):
            calls.append(len(jobs))
            return tile_read.read_jobs(jobs, threads)

        monkeypatch.setattr("slidesampler.batching.jobs.read_jobs", noting)
        for kind in ("npy", "none", "zstd", "jpeg"):
            calls.clear()
            targets = [{"image_id": 1 + k % 2, "window": (7 * k, 9 * k, 60, 60)} for k in range(16)]
            samplers[kind].load_batch(targets, with_instances=True)
            assert len(calls) == 1, kind

    @native
    def test_no_reader_is_asked_window_by_window(self, samplers, monkeypatch):
        from slidesampler.readers.npy import NpyReader

        sampler = samplers["npy"]
        monkeypatch.setattr(NpyReader, "read", None)
        targets = [{"image_id": 1, "window": (7 * k, 9 * k, 60, 60)} for k in range(16)]
        image = sampler.load_batch(targets).image
        np.testing.assert_array_equal(image[3], RGB[21:81, 27:87])


class TestFailures:
    def test_a_damaged_tile_names_the_file_and_the_tile(self, tmp_path):
        data = manifest(tmp_path)
        sampler = Sampler(data, tmp_path / "w", "cog", codec="zstd")
        assert sampler.build(codec="zstd", tile=128).ok
        targets = [{"image_id": i, "window": (200, 200, 60, 60)} for i in (1, 2)]
        before = sampler.load_batch(targets).image
        source = sampler._sources.get(2)
        path = source.spec.path
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            tile = 1 * -(-WIDTH // 128) + 1
            offset, count = page.dataoffsets[tile], page.databytecounts[tile]
        stat = Path(path).stat()
        with open(path, "r+b") as file:
            file.seek(offset)
            kept = file.read(count)
            file.seek(offset)
            file.write(b"\xa5" * count)
        # Nobody looks at the times of a file between two reads.
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(ReadError) as caught:
            sampler.load_batch(targets)
        assert path in str(caught.value)
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(kept)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        np.testing.assert_array_equal(sampler.load_batch(targets).image, before)

    def test_a_rebuild_under_a_batch_is_found(self, tmp_path):
        data = manifest(tmp_path)
        sampler = Sampler(data, tmp_path / "w", "npy")
        assert sampler.build().ok
        targets = [{"image_id": i, "window": (200, 200, 60, 60)} for i in (1, 2)]
        before = sampler.load_batch(targets)
        assert Sampler(data, tmp_path / "w", "npy").build(force=True).ok
        sampler.close()
        after = sampler.load_batch(targets)
        np.testing.assert_array_equal(after.image, before.image)
        np.testing.assert_array_equal(after.mask, before.mask)

    def test_a_target_that_is_none(self, samplers):
        with pytest.raises(TargetError, match="a target is a mapping"):
            samplers["npy"].load_batch([{"image_id": 1}, 3])


@pytest.mark.parametrize("kind", ["npy", "zstd", "jpeg", "in place"])
def test_threads_and_forks_read_the_same(samplers, kind):
    sampler = samplers[kind]
    targets = [Target(image_id=1 + k % 2, window=Window(11 * k, 17 * k, 90, 90)) for k in range(24)]
    expected = sampler.load_batch(targets, threads=1).image
    wrong = []

    def check(threads):
        images = [sampler.load_batch(targets, threads=threads).image for _ in range(5)]
        wrong.extend(threads for image in images if not np.array_equal(image, expected))

    runners = [threading.Thread(target=check, args=(1 + k % 3,)) for k in range(6)]
    for runner in runners:
        runner.start()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.array_equal(sampler.load_batch(targets, threads=2).image, expected) else 2
        finally:
            os._exit(code)
    for runner in runners:
        runner.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert wrong == []


def test_a_sampler_that_has_read_batches_pickles_small(samplers):
    sampler = samplers["jpeg"]
    sampler.load_batch([{"image_id": 1, "window": (0, 0, 60, 60)}])
    copy = pickle.loads(pickle.dumps(sampler))
    np.testing.assert_array_equal(
        copy.load_batch([{"image_id": 1, "window": (5, 5, 60, 60)}]).image,
        sampler.load_batch([{"image_id": 1, "window": (5, 5, 60, 60)}]).image,
    )
