import subprocess
import sys

import numpy as np
import pytest
import tifffile

from slidesampler.geometry import Window
from slidesampler.testing import make_slide
from slidesampler.testing import slides as slides_module

HEIGHT, WIDTH = 600, 1100


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("slide") / "slide.tif", HEIGHT, WIDTH, seed=5)


@pytest.fixture(scope="module")
def pixels(slide):
    return tifffile.imread(slide.path)


def test_file_is_a_tiled_tiff_of_the_right_size(slide, pixels):
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    with tifffile.TiffFile(slide.path) as file:
        page = file.pages.first
        assert (page.tilelength, page.tilewidth) == (256, 256)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert not file.is_bigtiff
    assert list(slide.path.parent.iterdir()) == [slide.path]


@pytest.mark.parametrize(("block", "tile"), [(1, 112), (256, 128), (700, 256), (5000, 512)])
def test_pixels_do_not_depend_on_block_or_tile(tmp_path, pixels, block, tile):
    made = make_slide(tmp_path / "other.tif", HEIGHT, WIDTH, seed=5, block=block, tile=tile)
    np.testing.assert_array_equal(tifffile.imread(made.path), pixels)


def test_pixels_of_any_window_are_those_of_the_file(slide, pixels):
    rng = np.random.default_rng(0)
    for _ in range(12):
        y, x = rng.integers(0, HEIGHT - 1), rng.integers(0, WIDTH - 1)
        window = Window(y, x, rng.integers(1, HEIGHT - y + 1), rng.integers(1, WIDTH - x + 1))
        np.testing.assert_array_equal(slide.pixels(window), pixels[window.as_slices()])


def test_the_seed_decides(tmp_path, slide, pixels):
    again = make_slide(tmp_path / "a.tif", HEIGHT, WIDTH, seed=5)
    assert again.path.read_bytes() == slide.path.read_bytes()
    assert len(again.annots) == len(slide.annots)
    other = make_slide(tmp_path / "b.tif", HEIGHT, WIDTH, seed=-(10**30))
    assert (tifffile.imread(other.path) != pixels).mean() > 0.2


@pytest.mark.parametrize("codec", ["none", "deflate"])
def test_lossless_codecs_hold_the_same_pixels(tmp_path, pixels, codec):
    made = make_slide(tmp_path / "slide.tif", HEIGHT, WIDTH, seed=5, codec=codec, tile=128)
    np.testing.assert_array_equal(tifffile.imread(made.path), pixels)


def test_jpeg_is_what_other_libraries_read(tmp_path, pixels):
    gdal = pytest.importorskip("osgeo.gdal")
    openslide = pytest.importorskip("openslide")
    made = make_slide(tmp_path / "slide.tif", HEIGHT, WIDTH, seed=5, codec="jpeg", quality=95)
    assert made.path.stat().st_size < pixels.size / 4
    gdal.UseExceptions()
    dataset = gdal.Open(str(made.path))
    assert dataset.GetMetadataItem("COMPRESSION", "IMAGE_STRUCTURE") == "YCbCr JPEG"
    by_gdal = dataset.ReadAsArray().transpose(1, 2, 0)
    with openslide.OpenSlide(made.path) as opened:
        by_openslide = np.asarray(opened.read_region((0, 0), 0, (WIDTH, HEIGHT)))[..., :3]
    for read in (by_gdal, by_openslide):
        assert np.abs(read.astype(int) - pixels).mean() < 4
        # Nothing is shifted: the errors are those of JPEG, the same at the last row and column.
        assert np.abs(read[-8:, -8:].astype(int) - pixels[-8:, -8:]).mean() < 4


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_resolution_tags_hold_the_mpp(tmp_path, mpp):
    openslide = pytest.importorskip("openslide")
    made = make_slide(tmp_path / "slide.tif", 200, 260, mpp=mpp)
    with openslide.OpenSlide(made.path) as opened:
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(mpp)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(mpp)


def test_squares_meet_without_a_seam(tmp_path):
    # Painted in squares of 512: neighbours across a border differ no more than neighbours beside it.
    made = make_slide(tmp_path / "slide.tif", 1100, 1300, seed=5, codec="none")
    pixels = made.pixels(Window(0, 0, 1100, 1300)).astype(int)
    for axis in (0, 1):
        step = np.abs(np.diff(pixels, axis=axis)).mean(axis=(1 - axis, 2))
        for border in (511, 1023):
            beside = step[[border - 2, border - 1, border + 1, border + 2]]
            assert step[border] < 1.2 * beside.mean()


def test_it_looks_like_haematoxylin_and_eosin(slide, pixels):
    labels = slide.labels(Window(0, 0, HEIGHT, WIDTH))
    corner = pixels[:8, :8].astype(int)
    assert corner.min() > 225
    red, green, blue = pixels[labels == 3].mean(axis=0)
    assert green < red < blue  # nuclei are purple
    assert pixels[labels == 3].mean() < pixels[labels == 1].mean() - 20
    red, green, blue = pixels[(labels == 0) & (pixels[..., 1] < 205)].mean(axis=0)
    assert green < blue < red  # stroma is pink


def test_artefacts_can_be_left_out(tmp_path, slide, pixels):
    clean = make_slide(tmp_path / "slide.tif", HEIGHT, WIDTH, seed=5, artefacts=False)
    changed = (tifffile.imread(clean.path) != pixels).any(axis=2).mean()
    assert 0.002 < changed < 0.2
    window = Window(0, 0, HEIGHT, WIDTH)
    np.testing.assert_array_equal(clean.labels(window), slide.labels(window))


def test_progress_adds_up_to_the_slide(tmp_path):
    seen = []
    make_slide(tmp_path / "slide.tif", 700, 300, block=256, advance=seen.append)
    assert sum(seen) == 700 * 300
    assert len(seen) == 3


def test_large_files_are_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(slides_module, "BIGTIFF_BYTES", 1000)
    made = make_slide(tmp_path / "slide.tif", 256, 256)
    with tifffile.TiffFile(made.path) as file:
        assert file.is_bigtiff


def test_a_failure_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "slide.tif"
    path.write_bytes(b"old")

    def fail(_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        make_slide(path, 700, 300, block=256, advance=fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


PEAK = """
import sys, tempfile, pathlib, tracemalloc
from slidesampler.testing import make_slide
with tempfile.TemporaryDirectory() as folder:
    make_slide(pathlib.Path(folder) / "warm.tif", 600, 512, codec="none")
    tracemalloc.start()
    make_slide(pathlib.Path(folder) / "a.tif", int(sys.argv[1]), 512, codec="none", max_nuclei=500)
    print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_height():
    def peak(height):
        out = subprocess.run(
            [sys.executable, "-c", PEAK, str(height)], capture_output=True, text=True, check=True
        )
        return int(out.stdout)

    low, high = peak(1024), peak(5120)
    # 6.3 MB of pixels more, of which a whole slide held in memory would show every byte.
    assert high < low + 3e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 100}, "at least 128"),
        ({"tile": 100}, "multiple of 16"),
        ({"codec": "zip"}, "codec"),
        ({"quality": 0}, "quality"),
        ({"mpp": 0.0}, "mpp"),
        ({"block": 0}, "block"),
        ({"max_nuclei": -1}, "negative"),
    ],
)
def test_bad_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_slide(tmp_path / "slide.tif", **{"height": 200, "width": 200, **change})
    assert list(tmp_path.iterdir()) == []
