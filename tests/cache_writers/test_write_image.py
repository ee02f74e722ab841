"""Finished files, read by other means than the package: GDAL, tifffile, numpy."""

from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from osgeo import gdal

from slidesampler import _native
from slidesampler.cache.codecs import cog_codecs
from slidesampler.cache.gdal_write import gdal as writer_gdal
from slidesampler.cache.halves import Halves
from slidesampler.cache.pyramid import image_levels
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.write import write_image
from slidesampler.errors import BuildError, CodecError, ReadError

DTYPES = [np.uint8, np.uint16, np.int16, np.float32]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def gdal_levels(path):
    """Every level of a TIFF as GDAL reads it: pixels (H, W, C) and the mask as bool (or None)."""
    dataset = gdal.Open(str(path))
    bands = [dataset.GetRasterBand(i + 1) for i in range(dataset.RasterCount)]
    masked = bands[0].GetMaskFlags() == gdal.GMF_PER_DATASET
    mask = bands[0].GetMaskBand()
    found = []
    for k in range(bands[0].GetOverviewCount() + 1):
        views = [band.GetOverview(k - 1) if k else band for band in bands]
        valid = (mask.GetOverview(k - 1) if k else mask).ReadAsArray() > 0 if masked else None
        found.append((np.stack([view.ReadAsArray() for view in views], -1), valid))
    return found


def npy_levels(folder, files):
    found, k = [], 0
    while (role := f"level{k}" if k else "image") in files:
        mask = f"valid.level{k}" if k else "valid"
        valid = np.load(folder / files[mask], mmap_mode="r") if mask in files else None
        found.append((np.load(folder / files[role], mmap_mode="r"), valid))
        k += 1
    return found


def check_levels(tools, found, pixels, valid, top):
    expected = tools.mean_levels(pixels, valid, len(image_levels(*pixels.shape[:2], top)))
    assert len(found) == len(expected)
    for k, ((got, got_valid), want) in enumerate(zip(found, expected, strict=True)):
        assert got.dtype == pixels.dtype
        np.testing.assert_array_equal(got, want, err_msg=f"level {k}")
        if valid is None or valid.all():
            assert got_valid is None
        else:
            np.testing.assert_array_equal(got_valid, tools.decimated(valid, 2**k), err_msg=f"level {k}")


def make_valid(rng, shape, kind):
    if kind == "none":
        return None
    valid = np.ones(shape, bool)
    if kind == "corner":
        valid[: shape[0] // 3 + 1, : shape[1] // 2 + 1] = False
    elif kind == "noise":
        valid = rng.random(shape) < 0.5
    return valid


LOSSLESS = [name for name in ("zstd", "deflate", "lzw", "none") if name in cog_codecs()]


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    channels=st.sampled_from([1, 2, 3, 4, 7]),
    dtype=st.sampled_from([*DTYPES, np.dtype(">u2"), np.dtype(">f4")]),
    mask=st.sampled_from(["none", "full", "corner", "noise"]),
    compiled=st.booleans(),
    codec=st.sampled_from(["auto", *LOSSLESS]),
    tile=st.sampled_from([128, 256, 512]),
    threads=st.sampled_from([1, 2]),
)
def test_a_cog_holds_the_image_exactly(
    tools, tmp_path_factory, height, width, channels, dtype, mask, codec, tile, threads, compiled
):
    folder = tmp_path_factory.mktemp("cog")
    rng = np.random.default_rng(height * 1000 + width)
    pixels = tools.random_pixels(rng, (height, width, channels), np.dtype(dtype).newbyteorder("="))
    valid = make_valid(rng, (height, width), mask)
    done = []
    spec = BuildSpec(codec=codec, tile=tile)
    reader = tools.reader(pixels.astype(dtype), valid)
    with nullcontext() if compiled else mock.patch.object(_native, "encode", None):
        written = write_image(reader, folder, spec, threads=threads, advance=done.append)

    path = folder / written.files["image"]
    assert names(folder) == ["image.tif"]
    assert tools.complaints(path) == []
    check_levels(tools, gdal_levels(path), pixels, valid, tile)
    assert written.shape == pixels.shape
    assert written.dtype == pixels.dtype.name
    assert written.lossless
    assert written.has_valid == (valid is not None and not valid.all())
    assert written.tile == tile
    assert written.codec == ("zstd" if codec == "auto" and "zstd" in LOSSLESS else codec)
    assert sum(done) == height * width
    assert min(done) > 0
    dataset = gdal.Open(str(path))
    colours = [dataset.GetRasterBand(i + 1).GetColorInterpretation() for i in range(channels)]
    assert gdal.GCI_AlphaBand not in colours


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    channels=st.sampled_from([1, 2, 3, 4, 7]),
    dtype=st.sampled_from([*DTYPES, np.dtype(">u2"), np.dtype(">f4")]),
    mask=st.sampled_from(["none", "full", "corner", "noise"]),
)
def test_npy_holds_the_image_exactly(tools, tmp_path_factory, height, width, channels, dtype, mask):
    folder = tmp_path_factory.mktemp("npy")
    rng = np.random.default_rng(height * 1000 + width)
    pixels = tools.random_pixels(rng, (height, width, channels), np.dtype(dtype).newbyteorder("="))
    valid = make_valid(rng, (height, width), mask)
    done = []
    reader = tools.reader(pixels.astype(dtype), valid)
    written = write_image(reader, folder, BuildSpec(backend="npy"), advance=done.append)

    assert names(folder) == sorted(written.files.values())
    check_levels(tools, npy_levels(folder, written.files), pixels, valid, 256)
    assert sum(done) == height * width
    assert (written.codec, written.tile, written.lossless) == ("none", 0, True)
    assert np.load(folder / "image.npy", mmap_mode="r").flags.c_contiguous


def test_blocks_narrower_than_the_image_end_where_they_belong(tools, tmp_path, monkeypatch):
    from slidesampler.cache import stream

    real = stream.plan_blocks
    monkeypatch.setattr(stream, "plan_blocks", lambda shape, size, block: real(shape, size, block, 30_000))
    rng = np.random.default_rng(0)
    pixels = tools.random_pixels(rng, (300, 411, 3), np.uint8)
    valid = make_valid(rng, (300, 411), "noise")
    for backend, top in (("npy", 256), ("cog", 128)):
        written = write_image(tools.reader(pixels, valid), tmp_path, BuildSpec(backend=backend, tile=128))
        found = npy_levels(tmp_path, written.files) if backend == "npy" else gdal_levels(tmp_path / "image.tif")
        check_levels(tools, found, pixels, valid, top)


@pytest.mark.parametrize("codec", [name for name in ("deflate", "none") if name in cog_codecs()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tifffile_reads_a_cog_too(tools, tmp_path, codec, dtype):
    pixels = tools.random_pixels(np.random.default_rng(2), (301, 260, 3), dtype)
    write_image(tools.reader(pixels), tmp_path, BuildSpec(codec=codec, tile=128))
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert [page.shape[:2] for page in file.pages] == [(301, 260), (151, 130), (76, 65)]
        for page, want in zip(file.pages, tools.mean_levels(pixels, None, 3), strict=True):
            if np.dtype(dtype).kind == "f" and codec != "none":
                # tifffile reads differences of floats only with an extra package.
                continue
            np.testing.assert_array_equal(page.asarray(), want)


def test_names_and_pixel_size_are_kept(tools, tmp_path):
    pixels = np.zeros((300, 300, 3), np.uint8)
    reader = tools.reader(pixels, channels=("dapi", "cy3", "cy5"), mpp=(0.5, 0.25))
    write_image(reader, tmp_path, BuildSpec())
    dataset = gdal.Open(str(tmp_path / "image.tif"))
    bands = [dataset.GetRasterBand(i + 1) for i in range(3)]
    assert [band.GetDescription() for band in bands] == ["dapi", "cy3", "cy5"]
    # Stains are not colours.
    assert bands[0].GetColorInterpretation() == gdal.GCI_GrayIndex
    assert float(dataset.GetMetadataItem("TIFFTAG_YRESOLUTION")) == 20_000
    assert float(dataset.GetMetadataItem("TIFFTAG_XRESOLUTION")) == 40_000
    assert dataset.GetMetadataItem("TIFFTAG_RESOLUTIONUNIT").startswith("3")


@pytest.mark.parametrize(
    ("channels", "colour"),
    [((), True), (("r", "g", "b"), True), (("Red", "Green", "Blue"), True), (("b", "g", "r"), False)],
)
def test_three_channels_are_colours_unless_named_otherwise(tools, tmp_path, channels, colour):
    write_image(tools.reader(np.zeros((30, 30, 3), np.uint8), channels=channels), tmp_path, BuildSpec())
    dataset = gdal.Open(str(tmp_path / "image.tif"))
    assert (dataset.GetRasterBand(1).GetColorInterpretation() == gdal.GCI_RedBand) == colour


@pytest.mark.parametrize("codec", ["auto", "deflate"])
@pytest.mark.parametrize("channels", [2, 4])
def test_a_last_channel_is_never_taken_for_alpha(tools, tmp_path, codec, channels):
    pixels = tools.random_pixels(np.random.default_rng(0), (300, 301, channels), np.uint8)
    write_image(tools.reader(pixels), tmp_path, BuildSpec(codec=codec))
    dataset = gdal.Open(str(tmp_path / "image.tif"))
    band = dataset.GetRasterBand(channels)
    assert band.GetColorInterpretation() == gdal.GCI_Undefined
    assert dataset.GetRasterBand(1).GetMaskFlags() == gdal.GMF_ALL_VALID
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        # 0 is "unspecified"; 1 and 2 are kinds of alpha. TIFF 6.0, tag 338.
        assert set(file.pages[0].extrasamples) == {0}


def smooth(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [127 + 100 * np.sin(y / (20 + 7 * k)) * np.cos(x / (25 + 5 * k)) for k in range(shape[2])]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize(("codec", "channels"), [("jpeg", 1), ("jpeg", 3), ("webp", 3)])
def test_lossy_codecs_lose_little_and_say_so(tools, tmp_path, codec, channels):
    if codec not in cog_codecs():
        pytest.skip(f"this GDAL has no {codec}")
    pixels = smooth((500, 430, channels))
    sizes = {}
    for quality in (20, None):
        written = write_image(tools.reader(pixels), tmp_path, BuildSpec(codec=codec, quality=quality))
        assert (written.codec, written.quality, written.lossless) == (codec, quality or 90, False)
        assert tools.complaints(tmp_path / "image.tif") == []
        for k, (found, _) in enumerate(gdal_levels(tmp_path / "image.tif")):
            want = tools.mean_levels(pixels, None, k + 1)[k]
            assert np.abs(found.astype(int) - want).mean() < 6
        sizes[quality] = (tmp_path / "image.tif").stat().st_size
    # The quality reaches GDAL.
    assert sizes[20] < 0.8 * sizes[None]


def test_the_quality_reaches_the_overviews(tools, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1024, 1024, 1), np.uint8)
    errors = []
    for quality in (10, 95):
        write_image(tools.reader(pixels), tmp_path, BuildSpec(codec="jpeg", quality=quality))
        found = gdal_levels(tmp_path / "image.tif")[1][0]
        errors.append(np.abs(found.astype(int) - tools.mean_levels(pixels, None, 2)[1]).mean())
    assert errors[0] > 3 * errors[1]


def test_webp_of_quality_100_is_lossless(tools, tmp_path):
    if "webp" not in cog_codecs():
        pytest.skip("this GDAL has no webp")
    pixels = tools.random_pixels(np.random.default_rng(1), (300, 299, 3), np.uint8)
    written = write_image(tools.reader(pixels), tmp_path, BuildSpec(codec="webp", quality=100, tile=128))
    assert written.lossless
    check_levels(tools, gdal_levels(tmp_path / "image.tif"), pixels, None, 128)


@pytest.mark.parametrize(
    ("codec", "dtype", "channels"),
    [
        ("jpeg", np.uint16, 3),
        ("jpeg", np.uint8, 4),
        ("jpeg", np.uint8, 2),
        ("webp", np.uint8, 1),
        ("webp", np.float32, 3),
    ],
)
def test_pixels_a_codec_cannot_hold_are_refused_before_reading(tools, tmp_path, codec, dtype, channels):
    reader = tools.reader(np.zeros((20, 20, channels), dtype))
    with pytest.raises(
        CodecError, match=rf"{codec}.*uint8.*{channels} channel.*{np.dtype(dtype).name}.*deflate"
    ):
        write_image(reader, tmp_path, BuildSpec(codec=codec))
    assert reader.windows == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("backend", ["cog", "npy"])
def test_other_dtypes_are_refused(tools, tmp_path, backend):
    with pytest.raises(BuildError, match=r"float64.*float32"):
        write_image(tools.reader(np.zeros((9, 9, 1))), tmp_path, BuildSpec(backend=backend))


class BreakingReader:
    """Fails at its second read."""

    def __init__(self, inner, error):
        self._inner, self._error, self._reads = inner, error, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def read(self, window, level=0, *, channels=None, out=None):
        self._reads += 1
        if self._reads == 2:
            raise self._error
        return self._inner.read(window, level, channels=channels, out=out)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["cog", "npy"])
@pytest.mark.parametrize("error", [ReadError("tile 7 is damaged"), KeyboardInterrupt("stop")])
def test_a_source_that_breaks_leaves_nothing(tools, tmp_path, backend, error, threads):
    pixels = np.zeros((3000, 50, 3), np.uint8)
    reader = BreakingReader(tools.reader(pixels), error)
    with pytest.raises(type(error), match=str(error)):
        write_image(reader, tmp_path, BuildSpec(backend=backend), threads=threads)
    assert names(tmp_path) == []


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_an_interrupt_in_the_progress_bar_ends_the_build(tools, tmp_path, share, writer_class):
    # 0.2 is in the reading pass, 0.8 while the COG is put together, with GDAL in its C code.
    pixels = tools.random_pixels(np.random.default_rng(0), (4000, 700, 1), np.uint8)
    done = 0

    def advance(count):
        nonlocal done
        done += count
        if done > share * 4000 * 700:
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_image(tools.reader(pixels), tmp_path, BuildSpec(), advance=advance)
    assert names(tmp_path) == []


def test_a_copy_that_fails_when_it_is_closed_is_removed(tools, tmp_path, monkeypatch, by_gdal):
    from slidesampler.cache import cog_scratch

    def close(dataset):
        name = dataset.GetDescription()
        cog_scratch.gdal.Dataset.__swig_destroy__(dataset)
        if name.endswith("image.tif"):
            assert (tmp_path / "image.tif").is_file()
            raise RuntimeError("No space left on device")

    monkeypatch.setattr(cog_scratch, "close_dataset", close)
    with pytest.raises(BuildError, match="No space left"):
        write_image(tools.reader(np.zeros((300, 300, 1), np.uint8)), tmp_path, BuildSpec())
    assert names(tmp_path) == []


@given(total=st.integers(1, 1000), parts=st.lists(st.integers(1, 300), max_size=5))
def test_progress_of_two_passes_adds_up_to_one(total, parts):
    told = []
    progress = Halves(total, told.append)
    left = total
    for part in parts:
        progress.first(min(part, left))
        left -= min(part, left)
        assert sum(told) == (total - left) // 2
    for share in (0.0, 0.4, 0.3, 1.0):
        progress.second(share)
    progress.done()
    assert sum(told) == total
    assert min(told) > 0


def test_progress_is_told_to_the_end_though_gdal_is_silent():
    told = []
    progress = Halves(7, told.append)
    progress.first(7)
    progress.done()
    assert sum(told) == 7


def test_the_block_cache_is_bounded_and_put_back(tools, tmp_path):
    before = writer_gdal.GetCacheMax()
    seen = []
    try:
        writer_gdal.SetCacheMax(77 * 2**20)
        pixels = np.zeros((100, 100, 1), np.uint8)
        write_image(
            tools.reader(pixels),
            tmp_path,
            BuildSpec(),
            advance=lambda _: seen.append(writer_gdal.GetCacheMax()),
        )
        assert set(seen) == {256 * 2**20}
        assert writer_gdal.GetCacheMax() == 77 * 2**20
        with pytest.raises(CodecError):
            write_image(tools.reader(np.zeros((9, 9, 7), np.uint8)), tmp_path, BuildSpec(codec="jpeg"))
        assert writer_gdal.GetCacheMax() == 77 * 2**20
    finally:
        writer_gdal.SetCacheMax(before)


@pytest.mark.parametrize("backend", ["cog", "npy"])
def test_a_real_slide_is_kept_pixel_for_pixel(tmp_path, real_slide, backend):
    openslide = pytest.importorskip("openslide")
    from slidesampler.readers.openslide import OpenSlideReader

    reader = OpenSlideReader(str(real_slide))
    written = write_image(reader, tmp_path, BuildSpec(backend=backend))
    reader.close()
    with openslide.OpenSlide(str(real_slide)) as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    found = npy_levels(tmp_path, written.files) if backend == "npy" else gdal_levels(tmp_path / "image.tif")
    assert (whole[:, :, 3] == 255).all()
    assert not written.has_valid
    np.testing.assert_array_equal(found[0][0], whole[:, :, :3])
