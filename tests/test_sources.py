"""Errors about files of the manifest, as a person who reads windows in place meets them."""

import numpy as np
import pytest
import tifffile

from slidesampler import Sampler
from slidesampler.errors import ManifestError, SourceMissingError

SHAPE = (60, 80)


def sampler(path, **assets):
    image = {"id": 10, "file_name": str(path)}
    image["assets"] = [{"name": name, "file_name": str(file)} for name, file in assets.items()]
    return Sampler({"images": [image], "categories": [{"id": 5, "name": "tumour"}]})


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((*SHAPE, 3), np.uint8), photometric="rgb")
    return path


def test_a_missing_slide_is_named_with_its_image_and_field(tmp_path):
    gone = tmp_path / "gone.tif"
    with pytest.raises(SourceMissingError, match=rf"^image 10 \(gone\): file_name: {gone} is not there"):
        sampler(gone).load_sample({"image_id": 10})


@pytest.mark.parametrize("name", ["labels", "valid"])
def test_a_missing_asset_is_named_with_its_image_and_field(slide, name):
    gone = slide.with_name("gone.tif")
    with pytest.raises(SourceMissingError, match=rf"^image 10 \(a\): {name}: {gone} is not there"):
        sampler(slide, **{name: gone}).load_sample({"image_id": 10})


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (SHAPE, "the label raster holds 99"),
        ((30, 80), "labels: .* is 30 x 80 pixels, the image 60 x 80"),
        ((120, 80), "labels: .* is 120 x 80 pixels, the image 60 x 80"),
    ],
)
def test_a_wrong_label_raster_is_named_with_its_image(slide, shape, found):
    raster = slide.with_name("raster.tif")
    tifffile.imwrite(raster, np.full(shape, 99, np.uint8))
    with pytest.raises(ManifestError, match=rf"^image 10 \(a\): {found}") as caught:
        sampler(slide, labels=raster).load_sample({"image_id": 10, "window": (0, 0, 9, 9)})
    assert (caught.value.image_id, caught.value.field) == (10, "labels")
