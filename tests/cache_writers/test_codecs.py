"""Which codecs there are, and what a spec may ask for."""

import pickle

import numpy as np
import pytest
from osgeo import gdal

from slidesampler.cache import codecs
from slidesampler.cache.codecs import auto_codec, check_codec, cog_codecs
from slidesampler.cache.spec import BuildSpec
from slidesampler.errors import CodecError


def test_the_codecs_are_those_that_gdal_writes(tmp_path):
    memory = gdal.GetDriverByName("MEM").Create("", 300, 300, 3)
    for codec in ("zstd", "deflate", "lzw", "jpeg", "webp", "none"):
        if codec in cog_codecs():
            copy = gdal.GetDriverByName("COG").CreateCopy(
                str(tmp_path / f"{codec}.tif"), memory, options=[f"COMPRESS={codec}"]
            )
            compression = copy.GetMetadataItem("COMPRESSION", "IMAGE_STRUCTURE")
            assert (compression or "none").lower().replace("ycbcr ", "") == codec
    assert {"deflate", "lzw", "none"} <= set(cog_codecs())


@pytest.fixture
def meagre_gdal(monkeypatch):
    """A GDAL that was built with next to nothing."""

    class Driver:
        def GetMetadataItem(self, _name):
            return (
                "<CreationOptionList><Option name='COMPRESS' type='string-select'><Value>NONE</Value>"
                "<Value>DEFLATE</Value></Option><Option name='X'><Value>ZSTD</Value></Option>"
                "</CreationOptionList>"
            )

    monkeypatch.setattr(codecs.gdal, "GetDriverByName", lambda _name: Driver())


def test_auto_adds_no_loss_whatever_gdal_has(meagre_gdal):
    assert cog_codecs() == ("deflate", "none")
    assert auto_codec() == "deflate"
    assert BuildSpec().resolved().codec == "deflate"


def test_a_codec_this_gdal_lacks_names_those_it_has(meagre_gdal):
    with pytest.raises(CodecError, match=r"zstd.*deflate, none"):
        check_codec("zstd", np.dtype(np.uint8), 3)


def test_auto_is_resolved_to_the_best_there_is():
    spec = BuildSpec().resolved()
    assert spec.codec == ("zstd" if "zstd" in cog_codecs() else "deflate")
    assert spec.lossless
    assert spec.resolved() == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_npy_resolves_to_no_codec_and_no_tile():
    spec = BuildSpec(backend="npy", tile=512).resolved()
    assert (spec.codec, spec.tile) == ("none", 0)
    assert spec == BuildSpec(backend="npy", codec="none", tile=128).resolved()
    assert spec.resolved() == spec


@pytest.mark.parametrize(
    ("codec", "quality", "lossless"),
    [
        ("jpeg", None, False),
        ("jpeg", 100, False),
        ("webp", None, False),
        ("webp", 99, False),
        ("webp", 100, True),
    ],
)
def test_which_qualities_lose(codec, quality, lossless):
    spec = BuildSpec(codec=codec, quality=quality).resolved()
    assert spec.lossless == lossless
    assert spec.quality == (quality or 90)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "jpeg2000"}, "jpeg2000.*auto, zstd, deflate"),
        ({"codec": "zstd", "quality": 80}, "quality 80.*zstd.*jpeg and webp"),
        ({"quality": 80}, "quality 80.*auto"),
        ({"codec": "jpeg", "quality": 0}, "1 to 100, got 0"),
        ({"codec": "jpeg", "quality": 101}, "1 to 100, got 101"),
        ({"backend": "npy", "codec": "zstd"}, "zstd.*npy.*cog"),
    ],
)
def test_specs_that_make_no_sense(options, words):
    with pytest.raises(CodecError, match=words):
        BuildSpec(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 100}, "128, 256, 512, got 100"),
        ({"tile": 0}, "got 0"),
        ({"backend": "zarr"}, "cog, npy.*got 'zarr'"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        BuildSpec(**options)
