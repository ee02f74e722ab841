"""``slidesampler manifest``: a manifest for a folder of slides and masks."""

from __future__ import annotations

import json

import kwcoco
import numpy as np
import pytest
import tifffile
import typer

from slidesampler.cli import manifest as command
from slidesampler.errors import ReadError
from slidesampler.manifest import Manifest


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    slides, masks = tmp_path / "slides", tmp_path / "masks"
    slides.mkdir()
    masks.mkdir()
    for name in ("one", "two"):
        tifffile.imwrite(slides / f"{name}.tif", rng.integers(0, 256, (70, 90, 3), np.uint8), photometric="rgb")
    mask = np.zeros((70, 90), np.uint8)
    mask[10:20, 30:50] = 2
    mask[40:, 60:] = 7
    tifffile.imwrite(masks / "one.tif", mask)
    return tmp_path


def test_slides_with_sizes_and_masks_with_categories(run, folder):
    output = folder / "slides.kwcoco.json"
    result = run("manifest", folder / "slides", "--masks", folder / "masks", "-o", output)
    assert result.exit_code == 0, result.output
    assert "2 slides, 1 with a mask of class_2, class_7" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("next: slidesampler build ")
    dataset = kwcoco.CocoDataset(str(output))
    images = {image["name"]: image for image in dataset.imgs.values()}
    assert [(images[n]["height"], images[n]["width"]) for n in ("one", "two")] == [(70, 90), (70, 90)]
    assert images["one"]["file_name"] == "slides/one.tif"
    assert {category["id"]: category["name"] for category in dataset.cats.values()} == {
        2: "class_2",
        7: "class_7",
    }
    # A slide without a mask is worth knowing, and no failure.
    assert result.stderr.startswith("warning: ")
    assert "two.tif" in result.stderr


def test_it_loads_and_builds(run, folder):
    output = folder / "slides.kwcoco.json"
    run("manifest", folder / "slides", "--masks", folder / "masks", "-o", output)
    manifest = Manifest.load(output)
    assert len(manifest) == 2
    manifest.check_files()
    result = run("build", output, "--workdir", folder / "cache", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"] == {"built": 4}


def test_names_of_mask_values(run, folder):
    output = folder / "m.json"
    names = ("--names", "2=tumour,7=stroma", "--names", "9=fat")
    assert run("manifest", folder / "slides", "--masks", folder / "masks", "-o", output, *names).exit_code == 0
    categories = json.loads(output.read_text())["categories"]
    assert {row["id"]: row["name"] for row in categories} == {2: "tumour", 7: "stroma", 9: "fat"}


@pytest.mark.parametrize("word", ["tumour", "=tumour", "1=", "x=y", "1=a,1=b"])
def test_names_that_are_none(word):
    with pytest.raises(typer.BadParameter):
        command.parse_names([word])


def test_a_file_that_is_no_image_is_left_out_and_the_code_is_1(run, folder):
    (folder / "slides" / "broken.tif").write_bytes(b"nothing")
    output = folder / "m.json"
    result = run("manifest", folder / "slides", "-o", output)
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "broken.tif" in result.stderr
    assert [image["name"] for image in json.loads(output.read_text())["images"]] == ["one", "two"]


def test_json(run, folder):
    (folder / "slides" / "broken.tif").write_bytes(b"nothing")
    result = run("manifest", folder / "slides", "-o", folder / "m.json", "--json")
    report = json.loads(result.stdout)
    assert (report["ok"], report["images"], report["masks"]) == (False, 2, 0)
    assert report["notes"][0]["level"] == "error"


def test_a_manifest_is_not_replaced_without_force(run, folder):
    output = folder / "m.json"
    output.write_text("mine")
    assert run("manifest", folder / "slides", "-o", output).exit_code == 2
    assert output.read_text() == "mine"
    assert run("manifest", folder / "slides", "-o", output, "--force").exit_code == 0
    assert len(json.loads(output.read_text())["images"]) == 2
    assert not list(folder.glob(".*partial"))


def test_a_folder_without_slides(run, tmp_path):
    result = run("manifest", tmp_path, "-o", tmp_path / "m.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("slidesampler: ")
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_mask_values_are_found_whatever_block_they_lie_in(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(command, "BLOCK_PX", 32)
    mask = np.zeros((100, 130), dtype)
    mask[0, 129], mask[99, 0], mask[99, 129], mask[50, 50] = 3, 4, 5, 200
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    assert command.mask_values(str(tmp_path / "mask.tif")) == np.unique(mask).astype(int).tolist()


def test_palette_masks_give_their_indices_not_their_colours(tmp_path):
    from PIL import Image

    image = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), mode="P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "mask.png")
    assert command.mask_values(str(tmp_path / "mask.png")) == [0, 1, 2]


def test_masks_of_several_channels_or_fractions_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(ReadError, match="3 channels"):
        command.mask_values(str(tmp_path / "rgb.tif"))
    tifffile.imwrite(tmp_path / "probability.tif", np.full((8, 8), 0.5, np.float32))
    with pytest.raises(ReadError, match="whole numbers"):
        command.mask_values(str(tmp_path / "probability.tif"))
