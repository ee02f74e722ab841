"""Manifests made from folders of slides and masks."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from slidesampler.errors import ManifestError, ReadError
from slidesampler.manifest import Manifest, manifest_from_folder
from slidesampler.manifest.discovery import MASK_SUFFIXES, SLIDE_SUFFIXES, find_slides


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def images_of(dataset):
    return {image["name"]: image for image in dataset.dataset["images"]}


def files_of(dataset):
    return [image["file_name"] for image in dataset.dataset["images"]]


def write_array(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def probe(path):
    return np.load(path).shape[:2]


def values(path):
    return np.unique(np.load(path)).tolist()


@pytest.fixture
def arrays(tmp_path):
    """Two slides and their masks as npy files: (tmp_path/slides, tmp_path/masks)."""
    for name, size in (("a", (30, 40)), ("b", (20, 10))):
        write_array(tmp_path / "slides" / f"{name}.npy", np.zeros((*size, 3), np.uint8))
        mask = np.zeros(size, np.uint8)
        mask[3:5] = 2 if name == "a" else 7
        mask[0] = 2
        write_array(tmp_path / "masks" / f"{name}.npy", mask)
    return tmp_path / "slides", tmp_path / "masks"


def test_slides_and_masks_become_images_with_labels(tmp_path, arrays):
    slides, masks = arrays
    destination = tmp_path / "out" / "slides.kwcoco.json"
    made = manifest_from_folder(
        slides, masks, destination=destination, probe=probe, values=values, names={7: "tumour", 9: "rare"}
    )
    assert made.notes == made.errors == ()
    destination.parent.mkdir()
    made.dataset.dump()
    written = json.loads(destination.read_text())
    assert written["categories"] == [
        {"id": 2, "name": "class_2"},
        {"id": 7, "name": "tumour"},
        {"id": 9, "name": "rare"},
    ]
    assert [image["file_name"] for image in written["images"]] == ["../slides/a.npy", "../slides/b.npy"]
    manifest = Manifest.load(destination)
    assert manifest.check_files(lambda record: probe(record.assets[0].path)) is None
    first, second = manifest.records()
    assert (first.image_id, first.name, first.height, first.width) == (1, "a", 30, 40)
    assert first.labels is not None
    assert (first.labels.path, first.assets[0].path) == (str(masks / "a.npy"), str(slides / "a.npy"))
    assert (second.name, second.height, second.width) == ("b", 20, 10)
    assert manifest.class_map.names == ("background", "class_2", "tumour", "rare")
    # The dataset in memory says the same as its file.
    assert Manifest.load(made.dataset) == manifest


def test_the_dataset_is_valid_for_kwcoco(arrays):
    slides, masks = arrays
    made = manifest_from_folder(slides, masks, probe=probe, values=values)
    assert made.dataset.validate(missing=True, img_attrs="error")["errors"] == []
    assert Path(made.dataset.fpath) == slides / "slides.kwcoco.json"


def test_without_probe_the_files_are_not_opened(tmp_path):
    touch(tmp_path, "b.SVS", "sub/a.tiff", "notes.txt", ".hidden.tif", "._b.svs", ".cache/c.tif")
    made = manifest_from_folder(tmp_path)
    assert files_of(made.dataset) == ["b.SVS", "sub/a.tiff"]
    assert "height" not in made.dataset.dataset["images"][0]


@pytest.mark.parametrize("suffix", SLIDE_SUFFIXES)
def test_every_suffix_is_found_in_any_case(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    found = {path.stem for path in find_slides(tmp_path)}
    # Of the DICOM files in a folder, one stands for the slide.
    assert found == ({"b"} if suffix == ".dcm" else {"a", "b"})


def test_suffixes_are_sorted_and_masks_are_among_them():
    assert list(SLIDE_SUFFIXES) == sorted(SLIDE_SUFFIXES)
    assert set(MASK_SUFFIXES) < set(SLIDE_SUFFIXES)


def test_files_that_belong_to_a_slide_are_no_slides(tmp_path):
    touch(tmp_path, "one.mrxs", "one/Slidedat.ini", "one/Data0000.dat", "one/thumb.jpg", "other/real.jpg")
    touch(tmp_path, "h/slide(0,0).jpg", "h/slide(1,0).jpg", "h/map.jpg", "h/own.jpg")
    (tmp_path / "h/slide.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=slide(0,0).jpg\nImageFile(1,0)=slide(1,0).jpg\n"
        "MapFile = map.jpg\n"
    )
    touch(tmp_path, "dicom/0.dcm", "dicom/2.dcm")
    (tmp_path / "dicom/1.dcm").write_bytes(b"the largest")
    found = [path.relative_to(tmp_path).as_posix() for path in find_slides(tmp_path)]
    assert found == ["dicom/1.dcm", "h/own.jpg", "h/slide.vms", "one.mrxs", "other/real.jpg"]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "far", "a.tif")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/one").symlink_to(tmp_path / "far")
    (tmp_path / "near/two").symlink_to(tmp_path / "far")
    (tmp_path / "near/self").symlink_to(tmp_path / "near")
    assert len(find_slides(tmp_path / "near")) == 1


def test_names_are_absolute_where_only_the_root_is_shared(tmp_path, arrays):
    slides, _ = arrays
    made = manifest_from_folder(slides, destination=f"/{os.urandom(6).hex()}/out.kwcoco.json")
    assert files_of(made.dataset) == [str(slides / "a.npy"), str(slides / "b.npy")]


def test_slides_of_one_stem_are_named_by_their_path(tmp_path):
    touch(tmp_path, "x/a.tif", "y/a.tif", "y/b.tif")
    made = manifest_from_folder(tmp_path)
    assert list(images_of(made.dataset)) == ["x/a.tif", "y/a.tif", "b"]
    assert [(note.level, note.path) for note in made.notes] == [("warning", str(tmp_path / "x/a.tif"))]
    assert "2 slides are called 'a'" in made.notes[0].message


def labels_of(made):
    return {
        name: image["assets"][0]["file_name"]
        for name, image in images_of(made.dataset).items()
        if "assets" in image
    }


def test_masks_belong_to_the_slide_in_the_same_place_or_the_only_one_of_their_stem(tmp_path):
    slides, masks = tmp_path / "slides", tmp_path / "masks"
    touch(slides, "x/a.tif", "y/a.tif", "x/b.tif", "c.svs", "d.tif", "d.svs")
    touch(masks, "x/a.png", "y/a.png", "b.png", "sub/c.tif", "c.png", "d.png", "e.png")
    made = manifest_from_folder(slides, masks, values=lambda path: [0, 1], destination=tmp_path / "m.json")
    assert labels_of(made) == {
        "x/a.tif": "masks/x/a.png",
        "y/a.tif": "masks/y/a.png",
        "b": "masks/b.png",
        "c": "masks/c.png",
    }
    errors = {Path(note.path).relative_to(masks).as_posix(): note.message for note in made.errors}
    assert set(errors) == {"sub/c.tif", "d.png", "e.png"}
    assert "is the second one for" in errors["sub/c.tif"]
    assert "fits 2 slides" in errors["d.png"]
    assert "fits no slide: none is called 'e'" in errors["e.png"]
    without = {Path(note.path).name for note in made.notes if "has no mask" in note.message}
    assert without == {"d.tif", "d.svs"}
    assert made.dataset.dataset["categories"] == [{"id": 1, "name": "class_1"}]


def test_masks_inside_of_the_folder_are_no_slides(tmp_path):
    touch(tmp_path, "a.png", "masks/a.png")
    made = manifest_from_folder(tmp_path, tmp_path / "masks", values=lambda path: [5])
    assert files_of(made.dataset) == ["a.png"]
    assert labels_of(made) == {"a": "masks/a.png"}


def test_what_cannot_be_used_is_left_out_and_noted(arrays):
    slides, masks = arrays
    write_array(slides / "c.npy", np.zeros((5, 5)))
    write_array(masks / "c.npy", np.zeros((5, 6), np.uint8))
    write_array(slides / "d.npy", np.zeros((5, 5)))
    write_array(masks / "d.npy", np.arange(100, dtype=np.uint8).reshape(10, 10)[:5, :5])
    touch(slides, "broken.npy")
    touch(masks, "b.npy")

    def careful(path):
        try:
            return probe(path)
        except (ValueError, OSError) as error:
            raise ReadError(f"{path}: {error}") from error

    made = manifest_from_folder(slides, masks, probe=careful, values=values)
    assert list(images_of(made.dataset)) == ["a", "b", "c", "d"]
    assert list(labels_of(made)) == ["a", "d"]
    assert [(Path(note.path).parent.name, Path(note.path).stem) for note in made.errors] == [
        ("slides", "broken"),
        ("masks", "b"),
        ("masks", "c"),
    ]
    assert "is 5 x 6, its slide 5 x 5" in made.errors[2].message


def test_a_mask_of_many_values_is_suspicious(tmp_path):
    touch(tmp_path, "slides/a.tif", "masks/a.png")
    made = manifest_from_folder(tmp_path / "slides", tmp_path / "masks", values=lambda path: range(200))
    assert [note.level for note in made.notes] == ["warning"]
    assert "199 different values" in made.notes[0].message


def test_contradictions_say_so(tmp_path, arrays):
    slides, masks = arrays
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="is no folder"):
        manifest_from_folder(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"looked for files ending in .*\.svs"):
        manifest_from_folder(tmp_path / "empty")
    with pytest.raises(ManifestError, match="folder of their own"):
        manifest_from_folder(slides, slides, values=values)
    with pytest.raises(ManifestError, match="give values as well"):
        manifest_from_folder(slides, masks)
    with pytest.raises(ManifestError, match="is no folder"):
        manifest_from_folder(slides, tmp_path / "none", values=values)
    with pytest.raises(ManifestError, match="both called 'x'"):
        manifest_from_folder(slides, names={1: "x", 2: "x"})

    def unreadable(path):
        raise ReadError(f"{path}: no format")

    with pytest.raises(ManifestError, match=r"no slide that can be read: .*no format"):
        manifest_from_folder(slides, probe=unreadable)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.tif").touch()
    scandir = os.scandir

    def refuse(path):
        # Root may list everything.
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    made = manifest_from_folder(tmp_path)
    assert [image["name"] for image in made.dataset.dataset["images"]] == ["open"]
    (note,) = made.errors
    assert note.path == str(tmp_path / "closed")
    assert "Permission denied" in note.message
