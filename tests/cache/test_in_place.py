"""Slides used where they lie: which are, that their pixels are those a cache would hold, and what it costs."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from aperio_files import halved, tissue, write_aperio
from osgeo import gdal

from slidesampler import _native
from slidesampler.cache import BuildSpec, CacheStore, audit, build, cog_check, in_place, plan_build
from slidesampler.cache import tables as tables_module
from slidesampler.cache.in_place import TOP_PX, find_in_place
from slidesampler.errors import CacheMissError, StaleEntryError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.manifest import Manifest
from slidesampler.models import Asset, ImageRecord
from slidesampler.readers import open_reader, spec_for_entry, spec_for_record
from slidesampler.readers.cog import CogReader
from slidesampler.readers.openslide import OpenSlideReader
from slidesampler.readers.tiled import TiledReader

needs_native = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")

#: Two rows and columns of tiles more than levels need, of no whole number of tiles.
SIZE = (700, 531)


def record_of(path) -> ImageRecord:
    return ImageRecord(1, Path(path).name, (Asset(str(path)),))


def manifest_of(path, **image):
    return Manifest.load({"images": [{"id": 1, "file_name": str(path), **image}]})


def build_one(path, workdir, backend="auto", *, labels=False, **options):
    manifest = manifest_of(path)
    store = CacheStore(workdir)
    report = build(manifest, BuildSpec(backend, labels=labels, **options), store)
    assert report.ok, [row.reason for row in report]
    return report, store, manifest.record(1)


def entry_of(path, workdir, backend="auto", **options):
    _, store, record = build_one(path, workdir, backend, **options)
    return store.find_image(record, backend)


def bytes_in(folder):
    return sum(item.lstat().st_size for item in Path(folder).rglob("*") if item.is_file())


def whole(reader, level=0):
    return reader.read(Window(0, 0, reader.levels[level].height, reader.levels[level].width), level)


def tiff(path, image, *options, levels=(2, 4), mask=None, nodata=None, alpha=None):
    """Write a tiled TIFF with overviews by GDAL's plain driver, which makes no COG."""
    codes = {
        "uint8": gdal.GDT_Byte,
        "uint16": gdal.GDT_UInt16,
        "int16": gdal.GDT_Int16,
        "float32": gdal.GDT_Float32,
    }
    count = image.shape[2] + (alpha is not None)
    tiled = {"TILED": "YES", "BLOCKXSIZE": "128", "BLOCKYSIZE": "128"} | dict(
        item.split("=") for item in options
    )
    if alpha is not None:
        tiled["ALPHA"] = "YES"
    dataset = gdal.GetDriverByName("GTiff").Create(
        str(path),
        image.shape[1],
        image.shape[0],
        count,
        codes[image.dtype.name],
        [f"{key}={value}" for key, value in tiled.items()],
    )
    for band, plane in enumerate([*np.moveaxis(image, -1, 0), *([] if alpha is None else [alpha])], 1):
        dataset.GetRasterBand(band).WriteArray(plane)
        if nodata is not None:
            dataset.GetRasterBand(band).SetNoDataValue(nodata)
    if mask is not None:
        gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", "YES")
        dataset.CreateMaskBand(gdal.GMF_PER_DATASET)
        gdal.SetConfigOption("GDAL_TIFF_INTERNAL_MASK", None)
        dataset.GetRasterBand(1).GetMaskBand().WriteArray(mask.astype(np.uint8) * 255)
    if levels:
        dataset.BuildOverviews("NEAREST", list(levels))
    del dataset
    return path


def aperio(path, **options):
    image = tissue(*SIZE)
    return write_aperio(path, image, (halved(image, 4), halved(image, 8)), **options)


def noise(channels=3, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(size=(*SIZE, channels)).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (*SIZE, channels)).astype(dtype)


def ome(path):
    """Levels as OME-TIFF has them, below the first directory; GDAL knows them or not, by its version."""
    image = noise()
    with tifffile.TiffWriter(path) as file:
        options = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib"}
        file.write(image, subifds=2, **options)
        file.write(image[::2, ::2], subfiletype=1, **options)
        file.write(image[::4, ::4], subfiletype=1, **options)
    return path


HOLES = np.random.default_rng(7).integers(0, 2, SIZE).astype(bool)

#: Sources that are read where they lie.
IN_PLACE = {
    "aperio 4:4:4": lambda path: aperio(path.with_suffix(".svs"), subsampling=0),
    "aperio 4:2:2": lambda path: aperio(path.with_suffix(".svs"), subsampling=1),
    "aperio 4:2:0": lambda path: aperio(path.with_suffix(".svs"), subsampling=2),
    "aperio RGB": lambda path: aperio(path.with_suffix(".svs"), rgb=True),
    "aperio own tables": lambda path: aperio(path.with_suffix(".svs"), shared=False),
    "jpeg": lambda path: tiff(path, tissue(*SIZE), "COMPRESS=JPEG", "PHOTOMETRIC=YCBCR"),
    "grey jpeg": lambda path: tiff(path, tissue(*SIZE)[..., :1], "COMPRESS=JPEG"),
    "plain": lambda path: tiff(path, noise()),
    "deflate 16": lambda path: tiff(
        path, noise(4, "uint16"), "COMPRESS=DEFLATE", "PREDICTOR=2", "PHOTOMETRIC=MINISBLACK"
    ),
    "zstd signed": lambda path: tiff(path, noise(1, "int16"), "COMPRESS=ZSTD"),
    "lzw": lambda path: tiff(path, noise(), "COMPRESS=LZW"),
    "floats": lambda path: tiff(path, noise(2, "float32"), "COMPRESS=ZSTD", "PREDICTOR=3"),
    "big-endian": lambda path: tiff(path, noise(2, "uint16"), "COMPRESS=DEFLATE", "ENDIANNESS=BIG"),
    "mask": lambda path: tiff(path, noise(), "COMPRESS=DEFLATE", mask=HOLES),
    "alpha": lambda path: tiff(path, noise(), "COMPRESS=DEFLATE", "PHOTOMETRIC=RGB", alpha=HOLES * 200),
    "nodata": lambda path: tiff(path, noise(dtype="uint8") % 3, "COMPRESS=DEFLATE", nodata=2),
    "OME": ome,
    "no overviews": lambda path: tiff(path, noise(), "COMPRESS=DEFLATE", levels=()),
}


@needs_native
@pytest.mark.parametrize("kind", IN_PLACE)
def test_pixels_in_place_are_those_that_a_cache_holds(tmp_path, kind):
    path = IN_PLACE[kind](tmp_path / "slide.tif")
    entry = entry_of(path, tmp_path / "auto")
    npy = entry_of(path, tmp_path / "npy", "npy")
    assert entry.in_place
    assert entry.files["image"] == str(path)
    facts = ("shape", "dtype", "channels", "mpp", "has_valid", "lossless")
    assert [getattr(entry, name) for name in facts] == [getattr(npy, name) for name in facts]
    with (
        closing(open_reader(spec_for_entry(entry))) as found,
        closing(open_reader(spec_for_entry(npy))) as cached,
        closing(open_reader(spec_for_record(record_of(path)))) as source,
    ):
        assert isinstance(found, TiledReader)
        assert found.levels == entry.levels == source.levels
        assert (found.mpp, found.channels) == (source.mpp, source.channels)
        np.testing.assert_array_equal(whole(found), whole(cached))
        full = Window(0, 0, *entry.shape[:2])
        np.testing.assert_array_equal(found.read_valid(full), cached.read_valid(full))
        for number, level in enumerate(source.levels):
            np.testing.assert_array_equal(whole(found, number), whole(source, number))
            window = Window(0, 0, level.height, level.width)
            np.testing.assert_array_equal(found.read_valid(window, number), source.read_valid(window, number))


@needs_native
def test_a_real_slide_is_what_openslide_reads(tmp_path, real_slide):
    entry = entry_of(real_slide, tmp_path / "cache")
    assert entry.in_place
    with openslide.OpenSlide(real_slide) as slide, closing(open_reader(spec_for_entry(entry))) as reader:
        assert isinstance(reader, TiledReader)
        assert tuple((level.width, level.height) for level in reader.levels) == slide.level_dimensions
        assert tuple(level.downsample[0] for level in reader.levels) == slide.level_downsamples
        expected = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
        np.testing.assert_array_equal(whole(reader), expected[..., :3])
        assert (expected[..., 3] == 255).all()
        assert entry.mpp == (
            float(slide.properties["openslide.mpp-y"]),
            float(slide.properties["openslide.mpp-x"]),
        )
    assert bytes_in(tmp_path / "cache") < 10_000


@needs_native
def test_an_entry_in_place_has_kilobytes(tmp_path):
    path = aperio(tmp_path / "a.svs")
    report, _, _ = build_one(path, tmp_path / "cache")
    [row] = report
    entry = CacheStore(tmp_path / "cache").find_image(record_of(path), "auto")
    own = Path(entry.files["image.tiles"]).stat().st_size
    # 16 bytes a tile, and the JPEG tables of each level.
    tiles = sum(-(-level.height // 80) * -(-level.width // 80) for level in entry.levels)
    assert 16 * tiles < own < 16 * tiles + 4000
    assert row.status == "in-place"
    assert row.size_bytes == entry.size_bytes == own
    assert bytes_in(tmp_path / "cache") < own + 10_000


@needs_native
def test_opening_touches_neither_openslide_nor_gdal_nor_tifffile(tmp_path, monkeypatch):
    entry = entry_of(aperio(tmp_path / "a.svs"), tmp_path / "cache")

    def refuse(*_, **__):
        raise AssertionError("opened in another way")

    monkeypatch.setattr(openslide, "OpenSlide", refuse)
    monkeypatch.setattr(gdal, "OpenEx", refuse)
    monkeypatch.setattr(gdal, "Open", refuse)
    monkeypatch.setattr(tifffile, "TiffFile", refuse)
    with closing(open_reader(spec_for_entry(entry))) as reader:
        reader.read(Window(0, 0, 50, 60), 1)
        assert not reader.has_valid


@needs_native
def test_recording_a_slide_reads_a_few_tiles_of_it_and_labels_read_none(tmp_path, monkeypatch):
    """Counted in pixels that OpenSlide paints."""
    path = aperio(tmp_path / "a.svs")
    painted = []
    paint = OpenSlideReader._paint

    def count(self, window, level):
        painted.append(window.height * window.width)
        return paint(self, window, level)

    monkeypatch.setattr(OpenSlideReader, "_paint", count)
    build_one(path, tmp_path / "cache")
    assert sum(painted) <= 3 * 2 * 5 * 96 * 96
    painted.clear()
    [_, row] = build_one(path, tmp_path / "cache", labels=True)[0]
    assert (row.what, row.status) == ("labels", "built")
    # Looked at again for nothing: the image is there.
    assert painted == []


# What is converted --------------------------------------------------------------------------------------------


def oriented(path):
    tifffile.imwrite(path, noise(), tile=(128, 128), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    return path


def palette(path):
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), 300, 200, 1, gdal.GDT_Byte, ["TILED=YES"])
    table = gdal.ColorTable()
    table.SetColorEntry(1, (9, 80, 200, 255))
    dataset.GetRasterBand(1).SetColorTable(table)
    del dataset
    return path


def min_is_white(path):
    tifffile.imwrite(path, noise(1)[..., 0], tile=(128, 128), photometric="miniswhite")
    return path


def cmyk(path):
    tifffile.imwrite(path, noise(4), tile=(128, 128), photometric="separated")
    return path


def with_a_gap(path):
    """A slide one of whose tiles was never written, which OpenSlide paints from other levels."""
    aperio(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite((*tag.value[:3], 0, *tag.value[4:]))
    return path


CONVERTED = {
    "strips": (lambda path: tiff(path, noise(), "TILED=NO"), "tiles"),
    "planes": (lambda path: tiff(path, noise(), "INTERLEAVE=BAND"), "tiles"),
    "webp": (
        lambda path: tiff(path, noise()[:600, :140], "COMPRESS=WEBP", "WEBP_LOSSLESS=YES", levels=()),
        "tiles",
    ),
    "four bits": (lambda path: tiff(path, noise() % 16, "NBITS=4"), "presented"),
    "orientation": (oriented, "presented"),
    "palette": (palette, "presented"),
    "MinIsWhite": (min_is_white, "presented"),
    "CMYK": (cmyk, "CMYK"),
    "float nodata": (lambda path: tiff(path, noise(1, "float32"), nodata=0.5), "valid"),
    "large without overviews": (
        lambda path: tiff(path, np.zeros((TOP_PX + 1, 130, 1), np.uint8), levels=()),
        "smallest",
    ),
    "a level missing": (lambda path: tiff(path, noise(), levels=(8,)), "missing"),
    "small tiles": (lambda path: tiff(path, noise(), "BLOCKXSIZE=32", "BLOCKYSIZE=32"), "tiles are of"),
    "a tile left out": (lambda path: with_a_gap(path.with_suffix(".svs")), "leaves out"),
}


@needs_native
@pytest.mark.parametrize("kind", CONVERTED)
def test_what_would_differ_or_be_slow_is_converted(tmp_path, kind):
    write, reason = CONVERTED[kind]
    path = write(tmp_path / "slide.tif")
    [row] = plan_build(manifest_of(path), BuildSpec("auto", labels=False), CacheStore(tmp_path / "cache"))
    assert row.action == "build"
    assert row.reason.startswith("not in the cache; converted: ")
    assert reason in row.reason
    assert str(path) not in row.reason
    if kind != "large without overviews":
        entry = entry_of(path, tmp_path / "cache")
        npy = entry_of(path, tmp_path / "cache", "npy")
        assert not entry.in_place
        with (
            closing(open_reader(spec_for_entry(entry))) as found,
            closing(open_reader(spec_for_entry(npy))) as cached,
        ):
            np.testing.assert_array_equal(whole(found), whole(cached))


@needs_native
def test_a_slide_that_is_decoded_in_another_way_elsewhere_is_not_used_in_place(tmp_path, monkeypatch):
    path = aperio(tmp_path / "a.svs")
    read = OpenSlideReader.read
    monkeypatch.setattr(
        OpenSlideReader, "read", lambda self, window, level=0: read(self, window, level) ^ (level == 2)
    )
    with pytest.raises(UnsupportedSourceError, match="of level 2 is decoded in another way"):
        find_in_place(record_of(path), BuildSpec("auto").resolved())


@needs_native
def test_other_files_of_an_image_are_reasons(tmp_path):
    record = record_of(tiff(tmp_path / "a.tif", noise()))
    spec = BuildSpec("auto").resolved()
    assert find_in_place(record, spec).table is not None
    for other, reason in (
        (replace(record, assets=record.assets * 2), "several files"),
        (replace(record, valid=record.assets[0]), "valid mask"),
        (record_of(f"/vsizip/{tmp_path}/a.zip/a.tif"), "no local file"),
        (record_of(tmp_path / "missing.tif"), "no local file"),
    ):
        with pytest.raises(UnsupportedSourceError, match=reason):
            find_in_place(other, spec)
    with pytest.raises(UnsupportedSourceError, match="no valid COG"):
        find_in_place(record, BuildSpec("cog").resolved())
    with pytest.raises(UnsupportedSourceError, match="plain pixels"):
        find_in_place(record, BuildSpec("npy").resolved())


@needs_native
@pytest.mark.parametrize("kind", ["slide", "cog", "converted"])
def test_a_build_looks_at_a_source_once_and_again_when_it_was_changed(tmp_path, monkeypatch, kind):
    looks = []
    compare, valid_cog = in_place._compare, cog_check.valid_cog
    monkeypatch.setattr(in_place, "_compare", lambda *args: (looks.append("compare"), compare(*args)))
    monkeypatch.setattr(cog_check, "valid_cog", lambda path: (looks.append("cog"), valid_cog(path))[1])
    path = tmp_path / "a.tif"

    def write(seed):
        image = noise(seed=seed)
        if kind == "cog":
            source = gdal.Open(str(tiff(tmp_path / "source.tif", image, levels=())))
            gdal.GetDriverByName("COG").CreateCopy(str(path), source, options=["BLOCKSIZE=128"])
        else:
            tiff(path, image, "TILED=NO" if kind == "converted" else "TILED=YES")
        return image

    expected = {"slide": ["cog", "compare"], "cog": ["cog"], "converted": ["cog"]}[kind]
    for seed in range(2):
        looks.clear()
        image = write(seed)
        entry = entry_of(path, tmp_path / "cache")
        assert looks == expected
        assert entry.in_place == (kind != "converted")
        with closing(open_reader(spec_for_entry(entry))) as reader:
            np.testing.assert_array_equal(whole(reader), image)


@needs_native
@pytest.mark.parametrize("backend", ["auto", "cog"])
@pytest.mark.parametrize("as_cog", [False, True])
def test_a_file_that_is_cut_off_fails_when_it_is_built(tmp_path, backend, as_cog):
    """Of a COG the full image comes last: its directories and reduced levels are whole."""
    path = tmp_path / "a.tif"
    source = gdal.Open(str(tiff(tmp_path / "source.tif", noise(), levels=())))
    gdal.GetDriverByName("COG").CreateCopy(str(path), source, options=["BLOCKSIZE=128"])
    if not as_cog:
        # The directory is rewritten at the end, and then copied before the pixels again.
        gdal.Open(str(path), gdal.GA_Update).SetMetadataItem("a", "b")
        assert not cog_check.valid_cog(path)
        with tifffile.TiffFile(path, mode="r+b") as file:
            # None of the tiles that are compared.
            tag = file.pages[0].tags["TileOffsets"]
            tag.overwrite([tag.value[0], path.stat().st_size - 10, *tag.value[2:]])
    else:
        complete = path.read_bytes()
        path.write_bytes(complete[: len(complete) * 2 // 3])
    with pytest.raises(
        UnsupportedSourceError, match="cut off" if as_cog or backend == "auto" else "no valid COG"
    ):
        find_in_place(record_of(path), BuildSpec(backend).resolved())
    report = build(manifest_of(path), BuildSpec(backend, labels=False), CacheStore(tmp_path / "cache"))
    assert [row.status for row in report] == ["failed"]
    assert "damaged or incomplete" in report.failed[0].reason
    assert str(path) in report.failed[0].reason


def test_without_the_compiled_reader_auto_converts(tmp_path, monkeypatch):
    monkeypatch.setattr(_native, "tiles", None)
    path = tiff(tmp_path / "a.tif", noise())
    [row] = plan_build(manifest_of(path), BuildSpec("auto", labels=False), CacheStore(tmp_path / "cache"))
    assert row.action == "build"
    assert "compiled reader is not there" in row.reason


@needs_native
def test_what_was_recorded_is_read_without_the_compiled_reader_too(tmp_path, monkeypatch):
    path = aperio(tmp_path / "a.svs")
    entry = entry_of(path, tmp_path / "cache")
    with closing(open_reader(spec_for_entry(entry))) as tiled:
        expected = [whole(tiled, number) for number in range(3)]
    monkeypatch.setattr(_native, "tiles", None)
    with closing(open_reader(spec_for_entry(entry))) as reader:
        assert isinstance(reader, OpenSlideReader)
        assert (reader.levels, reader.mpp) == (entry.levels, entry.mpp)
        for number, pixels in enumerate(expected):
            np.testing.assert_array_equal(whole(reader, number), pixels)


# Which entry is found -----------------------------------------------------------------------------------------


@needs_native
def test_auto_and_cog_find_each_other_and_cog_converts(tmp_path):
    path = aperio(tmp_path / "a.svs")
    report, store, record = build_one(path, tmp_path / "cache")
    assert [row.status for row in report] == ["in-place"]
    assert store.find_image(record, "cog").in_place
    with pytest.raises(CacheMissError, match="--backend npy"):
        store.find_image(record, "npy")
    # Who asks for COGs gets them, in the same place; auto then takes what is there.
    [row] = build_one(path, tmp_path / "cache", "cog")[0]
    assert (row.status, row.reason) == (
        "built",
        "a COG was asked for and the entry is its source, used in place",
    )
    assert not store.find_image(record, "auto").in_place
    assert [row.status for row in build_one(path, tmp_path / "cache")[0]] == ["reused"]
    assert len(list(store.entry_folders())) == 1


@needs_native
def test_forced_auto_copies(tmp_path):
    path = aperio(tmp_path / "a.svs")
    build_one(path, tmp_path / "cache")
    store = CacheStore(tmp_path / "cache")
    report = build(manifest_of(path), BuildSpec("auto", labels=False), store, force=True)
    assert [row.status for row in report] == ["built"]


def test_missing_entries_name_the_command_of_auto(tmp_path):
    path = tiff(tmp_path / "a.tif", noise())
    with pytest.raises(CacheMissError, match="--backend auto --codec jpeg"):
        CacheStore(tmp_path / "cache").find_image(record_of(path), "auto", codec="jpeg")


@needs_native
def test_an_edited_or_lost_slide_is_stale(tmp_path):
    path = aperio(tmp_path / "a.svs")
    _, store, record = build_one(path, tmp_path / "cache")
    entry = store.find_image(record, "auto")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1000))
    with pytest.raises(StaleEntryError, match="was modified"):
        store.find_image(record, "auto")
    # Looked up before the edit, opened after it.
    with pytest.raises(StaleEntryError, match="changed since"):
        open_reader(spec_for_entry(entry))
    [row] = build_one(path, tmp_path / "cache")[0]
    assert row.status == "in-place"
    open_reader(spec_for_entry(store.find_image(record, "auto"))).close()
    path.unlink()
    with pytest.raises(StaleEntryError, match="is not there"):
        store.find_image(record, "auto")


# Tables of built entries --------------------------------------------------------------------------------------


@needs_native
def test_built_entries_have_tables_and_open_by_them(tmp_path):
    path = tiff(tmp_path / "a.tif", noise(), "TILED=NO")
    _, store, record = build_one(path, tmp_path / "cache", "cog", labels=True, instances=True)
    image = store.find_image(record, "cog")
    labels = store.find_labels(manifest_of(path), record, SIZE, BuildSpec().label_spec)
    assert "image.tiles" in image.files
    assert {"labels.tiles", "instances.tiles"} <= set(labels.files)
    for entry, role in ((image, ""), (labels, "labels"), (labels, "instances")):
        spec = spec_for_entry(entry, role)
        assert spec.kind == "tiled"
        with (
            closing(open_reader(spec)) as tiled,
            closing(open_reader(replace(spec, kind="cog", files=()))) as cog,
        ):
            assert isinstance(tiled, TiledReader)
            assert isinstance(cog, CogReader)
            facts = ("shape", "dtype", "levels", "channels", "mpp", "has_valid")
            assert [getattr(tiled, name) for name in facts] == [getattr(cog, name) for name in facts]
            for number in range(len(cog.levels)):
                np.testing.assert_array_equal(whole(tiled, number), whole(cog, number))


def test_entries_without_a_table_are_read_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_module, "cog_table", lambda path, owned: None)
    path = tiff(tmp_path / "a.tif", noise(), "TILED=NO")
    entry = entry_of(path, tmp_path / "cache", "cog")
    assert set(entry.files) == {"image"}
    with closing(open_reader(spec_for_entry(entry))) as reader:
        assert isinstance(reader, CogReader)


@needs_native
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_table_is_found_and_made_again(tmp_path, in_place, damage):
    path = tiff(tmp_path / "a.tif", noise(), *([] if in_place else ["TILED=NO"]))
    _, store, record = build_one(path, tmp_path / "cache")
    entry = store.find_image(record, "auto")
    assert entry.in_place == in_place
    table = Path(entry.files["image.tiles"])
    data = bytearray(table.read_bytes())
    if damage == "gone":
        table.unlink()
    else:
        data[-5] ^= 1
        table.write_bytes(data if damage == "flip" else data[:-8])
    assert [row.status for row in audit(tmp_path / "cache")] == ["corrupt"]
    [row] = audit(tmp_path / "cache", repair=True)
    assert (row.done, row.done_reason) == ("rebuilt", "")
    assert [row.status for row in audit(tmp_path / "cache")] == ["ok"]
    again = store.find_image(record, "auto")
    assert again.in_place == in_place
    with closing(open_reader(spec_for_entry(again))) as reader:
        assert isinstance(reader, TiledReader)
        np.testing.assert_array_equal(whole(reader), noise())
    assert list(Path(entry.folder).glob("*/*")) != []
    assert len([item for item in Path(entry.folder).iterdir() if item.is_dir()]) == 1
