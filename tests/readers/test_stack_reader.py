"""Several assets as one image, and masks from files of their own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from raster_files import halve, noise, write_tiff

from slidesampler.errors import ReadError, SourceMissingError
from slidesampler.geometry import Window
from slidesampler.models import Asset, ImageRecord
from slidesampler.readers import ArrayReader, ReaderSpec, open_reader, spec_for_record
from slidesampler.readers.stack import StackReader


class Counting(ArrayReader):
    """Counts reads and closes."""

    reads = closes = 0

    def read(self, *args, **kwargs):
        self.reads += 1
        return super().read(*args, **kwargs)

    def close(self):
        self.closes += 1
        super().close()


def test_only_the_parts_asked_for_are_read():
    images = [noise(20, 30, 2), noise(20, 30, 3, seed=1), noise(20, 30, 1, seed=2)]
    parts = [Counting(image) for image in images]
    stack = StackReader(parts)
    joined = np.concatenate(images, axis=2)
    window = Window(2, 3, 10, 11)
    for channels, reads in (((5,), (0, 0, 1)), ((4, 0), (1, 1, 1)), ((2, 5, 3, 2), (1, 2, 2))):
        np.testing.assert_array_equal(
            stack.read(window, channels=channels), joined[window.as_slices()][..., list(channels)]
        )
        assert tuple(part.reads for part in parts) == reads


@pytest.mark.parametrize(
    ("dtypes", "joint"),
    [
        (("uint8", "uint8"), "uint8"),
        (("uint8", "uint16"), "uint16"),
        (("uint16", "int16"), "int32"),
        (("int16", "float32"), "float32"),
        (("uint8", "float64"), "float64"),
    ],
)
def test_dtypes_are_promoted(dtypes, joint):
    images = [noise(9, 8, 1, dtype) for dtype in dtypes]
    stack = StackReader([ArrayReader(image) for image in images])
    assert stack.dtype == np.dtype(joint)
    expected = np.concatenate([image.astype(joint) for image in images], axis=2)
    np.testing.assert_array_equal(stack.read(Window(0, 0, 9, 8)), expected)


def test_sizes_that_differ_are_an_error_that_names_both():
    parts = [Counting(noise(20, 30), "first.tif"), Counting(noise(20, 31), "second.tif")]
    with pytest.raises(ReadError) as caught:
        StackReader(parts)
    for word in ("first.tif", "second.tif", "20 x 30", "20 x 31"):
        assert word in str(caught.value)
    assert [part.closes for part in parts] == [1, 1]
    mask = Counting(noise(21, 30, 1), "mask.png")
    with pytest.raises(ReadError, match=r"valid mask.*mask\.png"):
        StackReader([ArrayReader(noise(20, 30))], valid=mask)
    assert mask.closes == 1


def test_a_part_that_cannot_be_opened_closes_the_others(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("slidesampler.readers.npy.NpyReader.close", lambda self: opened.append(self.name))
    np.save(tmp_path / "a.npy", noise(4, 4))
    parts = (ReaderSpec("auto", str(tmp_path / "a.npy")), ReaderSpec("auto", str(tmp_path / "b.npy")))
    with pytest.raises(SourceMissingError, match=r"b\.npy"):
        open_reader(ReaderSpec("stack", parts=parts))
    assert opened == [str(tmp_path / "a.npy")]


def test_a_stack_of_nothing_is_an_error():
    with pytest.raises(ReadError, match="parts"):
        open_reader(ReaderSpec("stack"))


def test_levels_are_those_that_all_have(tmp_path):
    image, other = noise(128, 64), noise(128, 64, seed=1)
    a = write_tiff(tmp_path / "a.tif", image, factors=(2, 4))
    b = write_tiff(tmp_path / "b.tif", other, factors=(4,))
    stack = open_reader(ReaderSpec("stack", parts=(ReaderSpec("gdal", str(a)), ReaderSpec("gdal", str(b)))))
    assert [(level.height, level.width) for level in stack.levels] == [(128, 64), (32, 16)]
    expected = np.concatenate([halve(halve(image)), halve(halve(other))], axis=2)
    np.testing.assert_array_equal(stack.read(Window(0, 0, 32, 16), 1), expected)
    stack.close()


def test_the_mask_of_a_level_is_decimated_from_level_0(tmp_path):
    valid = noise(130, 70, 1)[..., 0] > 120
    path = write_tiff(tmp_path / "a.tif", noise(130, 70), factors=(2, 4))
    Image.fromarray(valid).save(tmp_path / "valid.png")
    reader = open_reader(ReaderSpec("gdal", str(path), valid_path=str(tmp_path / "valid.png")))
    assert reader.has_valid
    for level, step in ((1, 2), (2, 4)):
        here = reader.levels[level]
        rows = np.minimum(np.arange(here.height) * step + step // 2, 129)
        cols = np.minimum(np.arange(here.width) * step + step // 2, 69)
        expected = valid[np.ix_(rows, cols)]
        np.testing.assert_array_equal(reader.read_valid(Window(0, 0, here.height, here.width), level), expected)
        np.testing.assert_array_equal(reader.read_valid(Window(3, 2, 9, 8), level), expected[3:12, 2:10])
    reader.close()


def test_a_palette_mask_counts_by_index_not_by_colour(tmp_path):
    """Index 0 shown white is still "not valid"; index 1 shown black is valid."""
    index = noise(12, 14, 1)[..., 0] % 2
    picture = Image.fromarray(index).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(tmp_path / "valid.png")
    np.save(tmp_path / "a.npy", noise(12, 14))
    spec = ReaderSpec("auto", str(tmp_path / "a.npy"), valid_path=str(tmp_path / "valid.png"))
    reader = open_reader(spec)
    np.testing.assert_array_equal(reader.read_valid(Window(0, 0, 12, 14)), index == 1)
    reader.close()


def test_names_and_mpp_of_a_record(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", noise(4, 5, 1))
    assets = tuple(Asset(str(tmp_path / f"{name}.npy"), (name,)) for name in ("a", "b"))
    mask = Asset(str(tmp_path / "a.npy"))
    reader = open_reader(spec_for_record(ImageRecord(1, "one", assets, mpp=(0.5, 0.25), valid=mask)))
    assert reader.channels == ("a", "b")
    assert reader.mpp == (0.5, 0.25)
    assert reader.shape == (4, 5, 2)
    reader.close()
    unnamed = (assets[0], Asset(assets[1].path))
    reader = open_reader(spec_for_record(ImageRecord(1, "one", unnamed)))
    assert reader.channels == ()
    reader.close()


def test_names_that_clash_say_nothing():
    parts = [ArrayReader(noise(4, 4, 1), channels=("gray",)) for _ in range(2)]
    assert StackReader(parts).channels == ()
    with pytest.raises(ReadError, match="3 channel names"):
        StackReader(parts, channels=("a", "b", "c"))
