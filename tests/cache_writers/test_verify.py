"""Verification lets good files pass and finds what is wrong with bad ones."""

from dataclasses import replace

import numpy as np
import pytest
from osgeo import gdal

from slidesampler.cache.codecs import cog_codecs
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.verify import verify_image, verify_labels
from slidesampler.cache.write import write_image
from slidesampler.cache.write_labels import LabelSource, write_labels
from slidesampler.errors import BuildError
from slidesampler.models import ClassMap, LabelSpec
from slidesampler.readers.cog import CogReader
from slidesampler.readers.npy import NpyReader

CLASSES = ClassMap(("background", "tumour"), {1: 1})


def open_built(folder, files):
    if files["image"].endswith(".tif"):
        return CogReader(str(folder / files["image"]))
    return NpyReader({role: str(folder / name) for role, name in files.items()})


def make(tools, dtype, masked):
    rng = np.random.default_rng(3)
    pixels = tools.random_pixels(rng, (700, 601, 3), dtype)
    valid = rng.random((700, 601)) < 0.8 if masked else None
    return pixels, valid


@pytest.mark.parametrize("backend", ["cog", "npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_what_was_written_well_passes(tools, tmp_path, backend, dtype, masked):
    pixels, valid = make(tools, dtype, masked)
    if np.dtype(dtype).kind == "f":
        pixels[::7, ::5] = np.nan
    source = tools.reader(pixels, valid)
    written = write_image(source, tmp_path, BuildSpec(backend=backend, tile=128))
    built = open_built(tmp_path, written.files)
    for seed in range(3):
        verify_image(source, built, lossless=True, seed=seed, levels=written.levels)
    built.close()
    # Every level was looked at, not the first alone.
    assert len(written.levels) >= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 1), (129, 127), (40, 3000)])
@pytest.mark.parametrize("backend", ["cog", "npy"])
def test_odd_sizes_pass(tools, tmp_path, size, backend):
    rng = np.random.default_rng(0)
    source = tools.reader(tools.random_pixels(rng, (*size, 1), np.uint8), rng.random(size) < 0.9)
    written = write_image(source, tmp_path, BuildSpec(backend=backend, tile=128))
    built = open_built(tmp_path, written.files)
    verify_image(source, built, lossless=True, seed=1, levels=written.levels)
    built.close()
    assert built.shape == source.shape


@pytest.mark.parametrize(
    ("level", "y", "x"), [(0, 0, 0), (0, -1, -1), (0, 0, -1), (0, -1, 0), (1, -1, -1), (2, -1, -1)]
)
def test_one_wrong_pixel_in_a_corner_is_found(tools, tmp_path, level, y, x):
    pixels, _ = make(tools, np.uint8, False)
    source = tools.reader(pixels)
    written = write_image(source, tmp_path, BuildSpec(backend="npy"))
    name = f"image.level{level}.npy" if level else "image.npy"
    array = np.load(tmp_path / name, mmap_mode="r+")
    array[y, x, 1] ^= 1
    array.flush()
    del array
    built = open_built(tmp_path, written.files)
    with pytest.raises(BuildError, match=rf"pixels of Window\(.*\) of level {level} differ.* in 1 of"):
        verify_image(source, built, lossless=True, seed=0)
    built.close()


def test_damage_anywhere_in_a_small_image_is_found(tools, tmp_path):
    pixels, _ = make(tools, np.uint8, False)
    source = tools.reader(pixels)
    written = write_image(source, tmp_path, BuildSpec(backend="npy"))
    array = np.load(tmp_path / "image.npy", mmap_mode="r+")
    # A strip that never reached the disk.
    array[300:450] = 0
    array.flush()
    del array
    built = open_built(tmp_path, written.files)
    with pytest.raises(BuildError, match="differ from the source"):
        verify_image(source, built, lossless=True, seed=0)
    built.close()


def test_a_wrong_mask_is_found(tools, tmp_path):
    pixels, valid = make(tools, np.uint8, True)
    written = write_image(tools.reader(pixels, valid), tmp_path, BuildSpec(tile=128))
    built = open_built(tmp_path, written.files)
    with pytest.raises(BuildError, match="valid mask of Window"):
        verify_image(tools.reader(pixels, ~valid), built, lossless=True, seed=0)
    with pytest.raises(BuildError, match="has a valid mask, its source memory has none"):
        verify_image(tools.reader(pixels), built, lossless=True, seed=0)
    built.close()


def test_a_missing_mask_is_found(tools, tmp_path):
    pixels, valid = make(tools, np.uint8, True)
    written = write_image(tools.reader(pixels), tmp_path, BuildSpec(tile=128))
    built = open_built(tmp_path, written.files)
    with pytest.raises(BuildError, match="has no valid mask"):
        verify_image(tools.reader(pixels, valid), built, lossless=True, seed=0)
    built.close()


def test_shape_dtype_and_levels_are_compared(tools, tmp_path):
    pixels, _ = make(tools, np.uint8, False)
    source = tools.reader(pixels)
    written = write_image(source, tmp_path, BuildSpec(tile=128))
    built = open_built(tmp_path, written.files)
    for other in (pixels[:-1], pixels[:, :, :2], pixels.astype(np.uint16)):
        with pytest.raises(BuildError, match=r"is \(700, 601, 3\) uint8"):
            verify_image(tools.reader(other), built, lossless=True, seed=0)
    with pytest.raises(BuildError, match="levels are"):
        verify_image(source, built, lossless=True, seed=0, levels=written.levels[:-1])
    wrong = (*written.levels[:-1], replace(written.levels[-1], width=75))
    with pytest.raises(BuildError, match="levels are"):
        verify_image(source, built, lossless=True, seed=0, levels=wrong)
    built.close()


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
@pytest.mark.parametrize("quality", [10, 90])
def test_loss_passes_and_a_mistake_does_not(tools, tmp_path, codec, quality):
    if codec not in cog_codecs():
        pytest.skip(f"this GDAL has no {codec}")
    # Noise is the worst case of a lossy codec; a slow wave makes its places differ.
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:600, :700]
    waves = np.stack([np.sin(y / 40), np.sin(x / 50), np.cos((x + y) / 60)], -1)
    pixels = (127 + 80 * waves + rng.integers(-40, 40, waves.shape)).astype(np.uint8)
    source = tools.reader(pixels)
    written = write_image(source, tmp_path, BuildSpec(codec=codec, quality=quality))
    built = open_built(tmp_path, written.files)
    verify_image(source, built, lossless=written.lossless, seed=0, levels=written.levels)
    for mistake in (pixels[:, :, ::-1], np.roll(pixels, 64, 0), np.zeros_like(pixels)):
        with pytest.raises(BuildError, match="grey levels"):
            verify_image(tools.reader(mistake), built, lossless=False, seed=0)
    with pytest.raises(BuildError, match="differ from the source"):
        verify_image(source, built, lossless=True, seed=0)
    built.close()


@pytest.fixture
def layer(tools, tmp_path):
    annots = [(1, 1, [[(50, 60), (1400, 90), (1100, 1390), (200, 900)]])]
    source = LabelSource((1400, 1500), tools.polygon_shapes(annots), CLASSES, LabelSpec())
    write_labels(tmp_path, (1400, 1500), tools.polygon_shapes(annots), CLASSES, LabelSpec(), instances=True)
    return source, tmp_path


def test_label_layers_pass(layer):
    source, folder = layer
    for name in ("labels", "instances"):
        built = CogReader(str(folder / f"{name}.tif"))
        for seed in range(3):
            verify_labels(source, built, seed=seed, instances=name == "instances")
        assert built.shape == (1400, 1500, 1)
        built.close()


def test_other_labels_are_found(tools, layer):
    _, folder = layer
    built = CogReader(str(folder / "labels.tif"))
    whole = [(1, 1, [[(0, 0), (1500, 0), (1500, 1400), (0, 1400)]])]
    shapes = tools.polygon_shapes(whole)
    with pytest.raises(BuildError, match=r"labels of Window\(.*\) of level 0 differ"):
        verify_labels(LabelSource((1400, 1500), shapes, CLASSES, LabelSpec()), built, seed=0)
    with pytest.raises(BuildError, match=r"is \(1400, 1500, 1\) uint8"):
        verify_labels(LabelSource((1400, 1400), shapes, CLASSES, LabelSpec()), built, seed=0)
    with pytest.raises(BuildError, match="uint32"):
        verify_labels(LabelSource((1400, 1500), shapes, CLASSES, LabelSpec()), built, seed=0, instances=True)
    built.close()


def test_a_wrong_level_of_labels_is_found(tools, layer):
    source, folder = layer
    # The same labels with levels as GDAL averages them.
    values = gdal.Open(str(folder / "labels.tif")).ReadAsArray() * 200
    memory = gdal.GetDriverByName("MEM").Create("", 1500, 1400, 1)
    memory.GetRasterBand(1).WriteArray(values // 200)
    copy = gdal.GetDriverByName("COG").CreateCopy(
        str(folder / "other.tif"), memory, options=["OVERVIEW_RESAMPLING=NEAREST", "BLOCKSIZE=512"]
    )
    copy = None  # noqa: F841 -- closes the file
    built = CogReader(str(folder / "other.tif"))
    assert [(level.height, level.width) for level in built.levels] == [(1400, 1500), (700, 750), (350, 375)]
    with pytest.raises(BuildError, match=r"of level [12] differ"):
        verify_labels(source, built, seed=0)
    built.close()
