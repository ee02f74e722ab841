"""A window inside its image is one call of the compiled reader, with all its layers, and never half of one."""

from __future__ import annotations

import numpy as np
import pytest

from slidesampler import ReadError, Sampler, Target, Window, _native

pytestmark = pytest.mark.skipif(_native.tiles is None, reason="counts calls of the compiled reader")

WINDOW = Window(20, 30, 40, 50)


def manifest_of(*paths, **fields):
    return {
        "categories": [{"id": 1, "name": "tumour"}],
        "images": [{"id": i, "file_name": str(path), **fields} for i, path in enumerate(paths, start=1)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 60, 70]}],
    }


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(1, 256, (128, 160, 3), np.uint8)


@pytest.fixture
def read_calls(monkeypatch):
    """The number of jobs of each call."""
    jobs = []
    real = _native.tiles.read

    def read(given, threads):
        jobs.append(len(given))
        return real(given, threads)

    monkeypatch.setattr(_native.tiles, "read", read)
    return jobs


@pytest.mark.parametrize("backend", ["npy", "cog"])
def test_pixels_mask_and_valid_mask_are_one_call(tmp_path, pixels, read_calls, backend):
    valid = np.random.default_rng(1).random((128, 160)) < 0.5
    np.save(tmp_path / "slide.npy", pixels)
    np.save(tmp_path / "valid.npy", valid)
    manifest = manifest_of(
        tmp_path / "slide.npy", auxiliary=[{"file_name": str(tmp_path / "valid.npy"), "channels": "valid"}]
    )
    sampler = Sampler(manifest, workdir=tmp_path / "cache", backend=backend)
    assert not sampler.build().failed
    sampler.load_sample({"image_id": 1, "window": WINDOW})
    read_calls.clear()
    sample = sampler.load_sample({"image_id": 1, "window": WINDOW, "channels": [2, 0], "nodata": 0})
    assert read_calls == [3]
    rows, cols = WINDOW.as_slices()
    inside = valid[rows, cols]
    np.testing.assert_array_equal(sample.valid, inside)
    np.testing.assert_array_equal(sample.image, pixels[rows, cols][..., [2, 0]] * inside[..., None])
    mask = np.zeros((128, 160), np.uint8)
    mask[20:90, 10:70] = 1
    np.testing.assert_array_equal(sample.mask, np.where(inside, mask[rows, cols], 255))
    for array in (sample.image, sample.mask, sample.valid):
        assert array.flags.writeable


@pytest.mark.parametrize("wish", [{"dtype": "float32"}, {"size": (20, 25)}, {"pad": 50}])
def test_windows_that_need_more_than_a_copy_are_read_the_long_way(tmp_path, pixels, wish):
    np.save(tmp_path / "slide.npy", pixels)
    sampler = Sampler(manifest_of(tmp_path / "slide.npy"))
    target = {"image_id": 1, "window": WINDOW, **wish}
    sample, batch = sampler.load_sample(target), sampler.load_batch([target])
    np.testing.assert_array_equal(sample.image, batch.image[0])
    np.testing.assert_array_equal(sample.mask, batch.mask[0])
    if "size" in wish:
        blocks = pixels[20:60, 30:80].reshape(20, 2, 25, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(sample.image, blocks, atol=0.5)
    else:
        assert sample.image.dtype == wish.get("dtype", "uint8")


def test_a_file_that_became_smaller_gives_an_error_and_no_made_up_pixels(tmp_path, pixels):
    for name in ("one", "two"):
        np.save(tmp_path / f"{name}.npy", pixels)
    sampler = Sampler(manifest_of(tmp_path / "one.npy", tmp_path / "two.npy"), max_open=1)
    first, second = (Target(image_id=i, window=Window(100, 0, 20, 20)) for i in (1, 2))
    sampler.load_batch([first, second])
    np.save(tmp_path / "small.npy", pixels[:110])
    (tmp_path / "small.npy").replace(tmp_path / "one.npy")
    sampler.load_sample(second)  # the only file that stays open
    with pytest.raises(ReadError, match="is not inside level 0"):
        sampler.load_sample(first, with_mask=False)
    sampler.load_sample(second)
    with pytest.raises(ReadError, match="is not inside level 0"):
        sampler.load_batch([first], with_mask=False)


def test_what_fails_is_read_again_by_the_reader_that_says_why(tmp_path, pixels, monkeypatch, read_calls):
    """The compiled reader names a tile of a job; a reader names its file and the window."""
    np.save(tmp_path / "slide.npy", pixels)
    sampler = Sampler(manifest_of(tmp_path / "slide.npy"), workdir=tmp_path / "cache", backend="cog")
    assert not sampler.build(tile=128).failed
    target = Target(image_id=1, window=WINDOW)
    sampler.load_sample(target, with_mask=False)
    read_calls.clear()
    monkeypatch.setattr(
        _native.tiles, "read", lambda jobs, threads: (read_calls.append(1), (0, 0, 0, "bad"))[1]
    )
    with pytest.raises(ReadError, match=r"Window\(y=20.* of level 0 cannot be read: tile \(0, 0\): bad"):
        sampler.load_sample(target, with_mask=False)
    # The entry is looked up once more after that, as ever.
    assert len(read_calls) == 4
