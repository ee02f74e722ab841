"""Which reader opens what, and what is said when none does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from raster_files import noise, write_cog, write_pyramid, write_tiff

from slidesampler.errors import ReadError, SourceMissingError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.models import Asset, CacheEntry, ImageRecord, Level
from slidesampler.readers import (
    ReaderSpec,
    open_reader,
    register_array,
    spec_for_entry,
    spec_for_labels,
    spec_for_record,
    spec_for_valid,
    unregister_array,
)


def kind_of(path):
    reader = open_reader(ReaderSpec("auto", str(path)))
    reader.close()
    return type(reader).__name__


def test_auto_chooses_by_what_the_file_is(tmp_path, real_slide):
    assert kind_of(real_slide) == "OpenSlideReader"
    # A tiled TIFF of no vendor, which OpenSlide would open too, is GDAL's.
    assert kind_of(write_pyramid(tmp_path / "a.tif", noise(64, 64))) == "GdalReader"
    assert kind_of(write_cog(tmp_path / "b.tif", noise(64, 64))) == "GdalReader"
    np.save(tmp_path / "c.NPY.npy", noise(8, 8))
    assert kind_of(tmp_path / "c.NPY.npy") == "NpyReader"
    register_array("d", noise(8, 8))
    assert kind_of("array://d") == "ArrayReader"
    unregister_array("d")


def test_a_vendors_slide_of_any_name_is_openslides(tmp_path, real_slide):
    (tmp_path / "slide.tif").symlink_to(real_slide)
    assert kind_of(tmp_path / "slide.tif") == "OpenSlideReader"


def test_a_missing_file_is_named(tmp_path):
    for kind in ("auto", "cog", "openslide", "npy"):
        with pytest.raises(SourceMissingError, match=r"gone\.tif"):
            open_reader(ReaderSpec(kind, str(tmp_path / "gone.tif")))
    with pytest.raises(FileNotFoundError):
        open_reader(ReaderSpec("auto", str(tmp_path / "gone.npy")))


def test_a_missing_member_of_an_archive_is_gdals_to_tell():
    with pytest.raises(UnsupportedSourceError, match="GDAL cannot open it"):
        open_reader(ReaderSpec("auto", "/vsizip/no.zip/a.tif"))


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind must be one of auto, gdal"):
        ReaderSpec("tiff")


def test_names_and_mpp_of_the_spec_win(tmp_path, real_slide):
    names = ("a", "b", "c")
    path = write_cog(tmp_path / "a.tif", noise(64, 64))
    for kind, source in (("gdal", path), ("cog", path), ("openslide", real_slide)):
        reader = open_reader(ReaderSpec(kind, str(source), channels=names, mpp=(0.125, 0.5)))
        assert (reader.channels, reader.mpp) == (names, (0.125, 0.5))
        reader.close()
        with pytest.raises(ReadError, match="2 channel names"):
            open_reader(ReaderSpec(kind, str(source), channels=names[:2]))


def without(module):
    """The first lines of a script in which a package cannot be imported."""
    return (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from slidesampler.readers import ReaderSpec, open_reader\n"
        "from slidesampler.geometry import Window\n"
    )


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_without_openslide_gdal_reads_and_its_error_says_so(tmp_path, real_slide):
    (tmp_path / "a.svs").write_text("no image")
    said = run(
        without("openslide") + f"reader = open_reader(ReaderSpec('auto', {str(real_slide)!r}))\n"
        "print(type(reader).__name__, reader.shape)\n"
        "try: open_reader(ReaderSpec('openslide', 'a.svs'))\n"
        "except ImportError as error: print(error)\n"
        f"try: open_reader(ReaderSpec('auto', {str(tmp_path / 'a.svs')!r}))\n"
        "except OSError as error: print(error)\n"
    )
    assert "GdalReader (2967, 2220, 3)" in said
    assert said.count("pip install openslide-python openslide-bin") >= 2
    assert "GDAL cannot open it" in said


def test_without_gdal_openslide_and_npy_read(tmp_path, real_slide):
    np.save(tmp_path / "a.npy", noise(8, 8))
    path = write_tiff(tmp_path / "a.tif", noise(8, 8))
    said = run(
        without("osgeo") + f"print(type(open_reader(ReaderSpec('auto', {str(real_slide)!r}))).__name__)\n"
        f"print(type(open_reader(ReaderSpec('auto', {str(tmp_path / 'a.npy')!r}))).__name__)\n"
        f"try: open_reader(ReaderSpec('auto', {str(path)!r}))\n"
        "except OSError as error: print(type(error).__name__, error)\n"
        f"try: open_reader(ReaderSpec('cog', {str(path)!r}))\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    for text in ("OpenSlideReader", "NpyReader", "UnsupportedSourceError", "MissingDependencyError"):
        assert text in said
    assert "not a format of a vendor" in said
    assert said.count("gdal-config --version") == 2


def test_neither_is_imported_before_it_is_needed():
    said = run(
        "import sys, slidesampler.readers, slidesampler.readers.spec\n"
        "print([name for name in ('osgeo', 'openslide', 'torch') if name in sys.modules])"
    )
    assert said == "[]\n"


def entry(kind, backend, files, **changes):
    values = dict.fromkeys(CacheEntry.__dataclass_fields__)
    values |= {"kind": kind, "key": "k1", "folder": "/x", "files": files, "backend": backend}
    values |= {"levels": (Level(8, 8),), "channels": ("r", "g", "b"), "mpp": (0.5, 0.5)}
    return CacheEntry(**(values | changes))


def test_specs_of_entries(tmp_path):
    image = noise(64, 64)
    cog = str(write_cog(tmp_path / "image.tif", image))
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "level1.npy", image[::2, ::2])
    npy = {"image": str(tmp_path / "image.npy"), "level1": str(tmp_path / "level1.npy")}
    for spec in (
        spec_for_entry(entry("image", "cog", {"image": cog})),
        spec_for_entry(entry("image", "npy", npy)),
    ):
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert len({spec, spec}) == 1
        reader = open_reader(spec)
        assert (reader.channels, reader.mpp) == (("r", "g", "b"), (0.5, 0.5))
        np.testing.assert_array_equal(reader.read(Window(3, 4, 5, 6)), image[3:8, 4:10])
        reader.close()
    assert len(open_reader(spec_for_entry(entry("image", "npy", npy), "image")).levels) == 2
    assert spec_for_entry(entry("image", "cog", {"image": cog})) != spec_for_entry(
        entry("image", "cog", {"image": cog}, key="k2")
    )


def test_specs_of_label_layers(tmp_path):
    """Label layers are numbers: read as stored, under any palette, without channel names of the image."""
    labels = str(write_cog(tmp_path / "labels.tif", noise(64, 64, 1)))
    layer = entry("labels", "cog", {"labels": labels, "instances": "i.tif"}, channels=())
    assert spec_for_entry(layer) == ReaderSpec("cog", labels, token="k1", mpp=(0.5, 0.5))
    assert spec_for_entry(layer, "instances").path == "i.tif"
    with pytest.raises(ReadError, match="'image'"):
        spec_for_entry(layer, "image")


def test_specs_of_records(tmp_path):
    record = ImageRecord(1, "one", (Asset("a.svs", ("r", "g", "b")),), mpp=(0.5, 0.25))
    assert spec_for_record(record) == ReaderSpec("auto", "a.svs", channels=("r", "g", "b"), mpp=(0.5, 0.25))
    assert spec_for_labels(record) is None
    assert spec_for_valid(record) is None
    assets = (Asset("a.tif"), Asset("b.tif"))
    record = ImageRecord(1, "one", assets, labels=Asset("l.png"), valid=Asset("v.png"))
    spec = spec_for_record(record)
    assert [part.path for part in spec.parts] == ["a.tif", "b.tif"]
    assert spec.valid_path == "v.png"
    assert spec_for_labels(record) == ReaderSpec("auto", "l.png", raw=True)
    assert spec_for_valid(record) == ReaderSpec("auto", "v.png", raw=True)


@pytest.mark.parametrize(("environment", "megabytes", "shared"), [({}, 128, "NO"), ("set", 48, "YES")])
def test_settings_of_gdal_are_made_unless_the_user_made_them(environment, megabytes, shared):
    if environment == "set":
        environment = {"GDAL_CACHEMAX": "48", "VRT_SHARED_SOURCE": "YES"}
    clean = {
        key: value for key, value in os.environ.items() if key not in ("GDAL_CACHEMAX", "VRT_SHARED_SOURCE")
    }
    script = (
        "from osgeo import gdal\nimport slidesampler.readers.gdal\n"
        "print(gdal.GetCacheMax() >> 20, gdal.GetConfigOption('VRT_SHARED_SOURCE'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=clean | environment, check=True
    )
    assert done.stdout.split() == [str(megabytes), shared]
