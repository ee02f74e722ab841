"""What a manifest says of images: files, channels, sizes, pixel sizes, groups, videos."""

import json
import zipfile
from pathlib import Path

import kwcoco
import numpy as np
import pytest
from manifest_samples import full, one_image

from slidesampler.errors import ManifestError, TargetError
from slidesampler.manifest import Manifest
from slidesampler.manifest.channels import KWCOCO_ALIASES, channel_names
from slidesampler.models import Asset


def record_of(image=None, /, **load):
    data = one_image(**(image or {}))
    return Manifest.load(data, bundle_dir="/bundle", **load).record(1)


def test_records_hold_what_the_manifest_says():
    manifest = Manifest.load(full(), bundle_dir="/bundle")
    assert manifest.image_ids.tolist() == [10, -7, 0]
    assert manifest.image_ids.dtype == np.int64
    first, second, third = manifest.records()
    assert (first.image_id, first.name, first.height, first.width) == (10, "a", 100, 80)
    assert first.assets == (Asset("/bundle/a.tif"),)
    assert (first.mpp, first.group, first.labels, first.valid) == ((0.25, 0.25), "p1", None, None)
    assert (first.video_id, first.frame_index) == (None, None)
    assert second.assets == (
        Asset("/bundle/multi/rgb.tif", ("r", "g", "b")),
        Asset("/bundle/multi/nir.tif", ("nir",)),
    )
    assert second.channels == ("r", "g", "b", "nir")
    assert (second.labels, second.valid) == (
        Asset("/bundle/multi/labels.png"),
        Asset("/bundle/multi/valid.png"),
    )
    assert (second.name, second.mpp, second.group) == ("multi", (1.0, 0.5), "12")
    assert (second.video_id, second.frame_index) == (1, 4)
    assert (third.height, third.width, third.mpp, third.group) == (None, None, None, None)


def test_an_image_may_have_a_file_of_its_own_and_more_channels_in_assets():
    data = one_image(
        file_name="own.tif",
        channels="rgb",
        auxiliary=[{"file_name": "old.tif", "channels": "old"}],
        assets=[{"file_name": "new.tif", "channels": "new"}],
    )
    record = Manifest.load(data, bundle_dir="/bundle").record(1)
    assert [asset.path for asset in record.assets] == ["/bundle/own.tif", "/bundle/old.tif", "/bundle/new.tif"]
    assert record.channels == ("r", "g", "b", "old", "new")


def test_size_comes_from_the_assets_where_the_image_does_not_say():
    image = {"file_name": None, "height": None, "width": None}
    image["assets"] = [{"file_name": "a.tif", "height": 7, "width": 9}]
    record = record_of(image)
    assert (record.height, record.width) == (7, 9)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.tif", "/bundle/a.tif"),
        ("sub/../b/a.tif", "/bundle/b/a.tif"),
        ("../a.tif", "/a.tif"),
        ("/abs/a.tif", "/abs/a.tif"),
        ("/vsicurl/https://host/a.tif", "/vsicurl/https://host/a.tif"),
        ("/vsizip/../x.zip/a.tif", "/vsizip/../x.zip/a.tif"),
        ('NETCDF:"a.nc":band', 'NETCDF:"a.nc":band'),
        ("GTIFF_DIR:2:a.tif", "GTIFF_DIR:2:a.tif"),
        ("array://slide", "array://slide"),
        ("s3://bucket/a.tif", "s3://bucket/a.tif"),
        ("t:1.tif", "/bundle/t:1.tif"),
        ("ü\udcff.tif", "/bundle/ü\udcff.tif"),
    ],
)
def test_names_are_relative_to_the_bundle_unless_they_are_no_path(name, path):
    assert record_of({"file_name": name}).assets[0].path == path


def test_a_file_that_looks_like_a_driver_is_a_file_where_it_exists(tmp_path):
    (tmp_path / "A1:he.tif").touch()
    data = one_image(file_name="A1:he.tif")
    assert Manifest.load(data, bundle_dir=tmp_path).record(1).assets[0].path == str(tmp_path / "A1:he.tif")


@pytest.mark.parametrize(
    ("root", "folder"), [("pixels", "/bundle/pixels"), ("/pixels", "/pixels"), ("", "/bundle")]
)
def test_img_root_is_joined_to_the_bundle(root, folder):
    data = {**one_image(), "img_root": root}
    manifest = Manifest.load(data, bundle_dir="/bundle")
    assert manifest.bundle_dir == folder
    assert manifest.record(1).assets[0].path == f"{folder}/a.tif"


@pytest.mark.parametrize(
    "spec",
    ["r|g|b", "rgb", "B1.0:3", "b1|rgba", "B:1:11:2", "gray", "a.5", "x|B.2:4", "pan-sharp|nir", "a,b|c"],
)
def test_channel_specs_mean_what_kwcoco_says(spec):
    from delayed_image.channel_spec import ChannelSpec

    assert channel_names(spec, "channels") == tuple(ChannelSpec.coerce(spec).fuse().normalize().as_list())


def test_the_words_that_are_parsed_by_kwcoco_are_all_of_its_aliases():
    from delayed_image.channel_spec import FusedChannelSpec

    assert set(FusedChannelSpec._alias_lut) == KWCOCO_ALIASES


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (None, (0.5, 0.25)),
        (2, (2.0, 2.0)),
        ((1, 3.5), (1.0, 3.5)),
        ({1: 4}, (4.0, 4.0)),
        ({1: (5, 6)}, (5.0, 6.0)),
    ],
)
def test_mpp_can_be_overridden(argument, expected):
    assert record_of({"mpp": [0.5, 0.25]}, mpp=argument).mpp == expected


def test_mpp_by_image_leaves_the_others():
    manifest = Manifest.load(full(), mpp={0: 9})
    assert [record.mpp for record in manifest.records()] == [(0.25, 0.25), (1.0, 0.5), (9.0, 9.0)]


def test_frames_go_by_frame_index():
    manifest = Manifest.load(full())
    assert manifest.video_frames(1) == (0, -7)
    with pytest.raises(TargetError, match=r"no video 2; of its 1 the closest is 1"):
        manifest.video_frames(2)


def test_videos_need_no_table_and_no_frame_index():
    images = [{"id": i, "file_name": f"{i}.tif", "video_id": 2**63 - 1} for i in (3, 1, 2)]
    assert Manifest.load({"images": images}).video_frames(2**63 - 1) == (3, 1, 2)


def test_a_video_without_images_has_no_frames():
    assert Manifest.load({**one_image(), "videos": [{"id": 4, "name": "empty"}]}).video_frames(4) == ()


def test_unknown_images_name_the_closest():
    manifest = Manifest.load(full())
    with pytest.raises(TargetError, match=r"no image 11; of its 3 the closest are -7, 0, 10"):
        manifest.record(11)
    for wanted in ("10", 10.5, None, True, 2**64, [10]):
        with pytest.raises(TargetError, match="image"):
            manifest.record(wanted)
    assert np.int32(10) in manifest
    assert "10" not in manifest
    with pytest.raises(TargetError, match="no image at all"):
        Manifest.load({"images": []}).record(1)


def test_ids_may_be_any_64_bit_integers():
    ids = [2**63 - 1, -(2**63), 0, -1, 2**53 + 1, 2**53]
    data = {
        "images": [{"id": one, "file_name": f"{one}.tif"} for one in ids],
        "categories": [{"id": one, "name": f"c{one}"} for one in ids if one != -(2**63)],
        "annotations": [
            {"id": one, "image_id": one, "category_id": ids[0], "bbox": [0, 0, 1 + row, 1]}
            for row, one in enumerate(ids)
        ],
    }
    manifest = Manifest.load(data)
    for row, one in enumerate(ids):
        assert manifest.record(one).assets[0].path.endswith(f"/{one}.tif")
        assert manifest.locate_annot(one) == (one, 0)
        assert manifest.shapes_of(one).boxes_xyxy[0, 2] == 1 + row
    assert set(manifest.class_map.category_to_index) == set(ids) - {-(2**63)}


# Sources --------------------------------------------------------------------------------------------------


def written(folder: Path, name: str, data) -> Path:
    text = json.dumps(data).encode()
    path = folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data.kwcoco.json", text)
    else:
        path.write_bytes(text)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.kwcoco.json", "a.kwcoco.zip", "a.zip"])
def test_files_are_read_and_name_their_folder_as_bundle(tmp_path, name):
    path = written(tmp_path, name, full())
    manifest = Manifest.load(path)
    assert manifest == Manifest.load(str(path)) == Manifest.load(full(), bundle_dir=tmp_path)
    assert manifest.record(10).assets[0].path == str(tmp_path / "a.tif")


def test_a_dataset_of_kwcoco_is_read_like_its_file(tmp_path):
    path = written(tmp_path, "a.kwcoco.json", one_image({"bbox": [1, 2, 3, 4]}))
    assert Manifest.load(kwcoco.CocoDataset(str(path))) == Manifest.load(path)


@pytest.mark.filterwarnings('ignore:The "img_root" dataset member:FutureWarning')
@pytest.mark.parametrize("root", ["pixels", "sub/../pixels", "absolute"])
def test_img_root_of_a_dataset_of_kwcoco_is_joined_once(tmp_path, root):
    pixels = tmp_path / "pixels"
    root = str(pixels) if root == "absolute" else root
    data = {**one_image({"bbox": [1, 2, 3, 4]}), "img_root": root}
    path = written(tmp_path, "a.kwcoco.json", data)
    for dataset in (kwcoco.CocoDataset(str(path)), kwcoco.CocoDataset(data, bundle_dpath=str(tmp_path))):
        manifest = Manifest.load(dataset)
        assert manifest.record(1).assets[0].path == str(pixels / "a.tif")
        assert manifest == Manifest.load(path)


def test_a_mapping_starts_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Manifest.load(one_image()).record(1).assets[0].path == str(tmp_path / "a.tif")


def test_bundles_with_equal_names_differ(tmp_path):
    manifests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        manifests.append(Manifest.load(written(tmp_path / name, "a.kwcoco.json", full())))
    one, two = manifests
    assert one.digest != two.digest
    assert one != two
    assert [record.assets for record in one.records()] != [record.assets for record in two.records()]
    # Annotations are the same, whatever lies where.
    assert one.annots_digest(10) == two.annots_digest(10)


def test_the_digest_notices_every_argument_and_field():
    digests = {
        Manifest.load(full(), bundle_dir="/x").digest,
        Manifest.load(full(), bundle_dir="/x", mpp=1).digest,
        Manifest.load(full(), bundle_dir="/x", class_map={"stroma": "background"}).digest,
    }
    for table, row, key, value in [
        ("images", 0, "name", "other"),
        ("images", 0, "width", 81),
        ("annotations", 0, "category_id", -5),
        ("annotations", 1, "bbox", [1, 2, 3, 5]),
        ("categories", 0, "name", "tumor"),
    ]:
        data = full()
        data[table][row][key] = value
        digests.add(Manifest.load(data, bundle_dir="/x").digest)
    assert len(digests) == 8
    assert Manifest.load(full(), bundle_dir="/x").digest in digests


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"II*\0 a tiff", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "no 'images' table"),
        (b'{"features": []}', "no 'images' table"),
        (b"null", "no 'images' table"),
        (b'{"images": {"1": {}}}', "must be a list"),
        (b'{"images": [5]}', r"images\[0\] must be an object"),
        (b'{"images": [], "annotations": "x"}', "must be a list"),
        (b'{"images": [], "img_root": 5}', "img_root must be a folder name"),
    ],
)
def test_what_is_no_manifest_says_so(tmp_path, content, problem):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=problem):
        Manifest.load(path)


def test_missing_files_folders_and_bad_zips_say_so(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        Manifest.load(tmp_path / "none.json")
    with pytest.raises(ManifestError, match=r"give the \.json inside"):
        Manifest.load(tmp_path)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", "{}")
        archive.writestr("b.json", "{}")
    with pytest.raises(ManifestError, match=r"exactly one \.json"):
        Manifest.load(tmp_path / "two.zip")
    path = written(tmp_path, "good.zip", full())
    damaged = bytearray(path.read_bytes())
    damaged[60:90] = bytes(30)
    path.write_bytes(damaged)
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest.load(path)
    for source in (5, None, [1], b"a.json"):
        with pytest.raises(ManifestError, match="a path, a mapping or"):
            Manifest.load(source)


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "field", "problem"),
    [
        ({"file_name": None}, "file_name", "say where its pixels are"),
        ({"file_name": None, "assets": [{"file_name": "l.png", "name": "labels"}]}, "file_name", "is missing"),
        ({"file_name": 5}, "file_name", "must be a string, found 5"),
        ({"file_name": "a\0.tif"}, "file_name", "null character"),
        ({"height": 0}, "height", "whole number of pixels"),
        ({"width": "50"}, "width", "must be a number, found '50'"),
        ({"width": 50.5}, "width", "whole number of pixels"),
        ({"width": float("nan")}, "width", "must be finite"),
        ({"mpp": 0}, "mpp", "more than 0"),
        ({"mpp": [1, 2, 3]}, "mpp", r"one number or \(y, x\)"),
        ({"mpp": float("inf")}, "mpp", "must be finite"),
        ({"mpp_x": 1}, "mpp_x", "give both"),
        ({"group": 1.5}, "group", "a string or an integer"),
        ({"name": 5}, "name", "must be a string"),
        ({"channels": "a|a"}, "channels", "a name of its own"),
        ({"channels": "B:0:1000000000"}, "channels", "too many channels"),
        ({"channels": 3}, "channels", "must be a channel spec"),
        ({"video_id": "v"}, "video_id", "must be an integer"),
        ({"frame_index": 1.5}, "frame_index", "must be an integer"),
        ({"assets": "x"}, "assets", "must be a list"),
        ({"assets": [3]}, "assets[0]", "must be an object"),
        ({"assets": [{"channels": "r"}]}, "assets[0].file_name", "is missing"),
        ({"assets": [{"file_name": "b.tif", "width": 51}]}, "assets[0].width", "is 51, but the image's is 50"),
        (
            {"auxiliary": [{"file_name": "b.tif", "warp_aux_to_img": {"scale": 2}}]},
            "auxiliary[0].warp_aux_to_img",
            "pixel on pixel",
        ),
        (
            {"auxiliary": [{"file_name": "b.tif", "warp_aux_to_img": "turn"}]},
            "auxiliary[0].warp_aux_to_img",
            "is no transform",
        ),
        ({"assets": [{"file_name": "l", "name": "labels"}] * 2}, "assets[1]", "second asset named 'labels'"),
    ],
)
def test_a_bad_image_is_named_with_its_field(image, field, problem):
    with pytest.raises(ManifestError, match=problem) as caught:
        record_of(image)
    assert (caught.value.image_id, caught.value.field) == (1, field)
    assert str(caught.value).startswith(f"image 1: {field}")


def test_an_identity_warp_is_welcome():
    asset = {"file_name": "b.tif", "warp_aux_to_img": {"type": "affine", "matrix": np.eye(3).tolist()}}
    assert len(record_of({"assets": [asset]}).assets) == 2


@pytest.mark.parametrize(
    "value", ["1", 1.0, None, True, 2**63, -(2**63) - 1, pytest.param(10**5000, id="huge"), [1], {}]
)
@pytest.mark.parametrize("table", ["images", "annotations", "categories", "videos"])
def test_ids_must_be_64_bit_integers(table, value):
    data = full()
    data[table][0]["id"] = value
    with pytest.raises(ManifestError, match=rf"{table}\[0\]: id must"):
        Manifest.load(data)


@pytest.mark.parametrize(
    ("table", "named"), [("images", "image 10"), ("annotations", "annotation 1"), ("categories", "category 3")]
)
def test_ids_must_not_be_there_twice(table, named):
    data = full()
    data[table].append({**data[table][0], "name": "again"})
    with pytest.raises(ManifestError, match=rf"{named}: id is that of") as caught:
        Manifest.load(data)
    assert caught.value.field == "id"


def test_videos_are_checked():
    data = full()
    data["videos"].append({"id": 1, "name": "again"})
    with pytest.raises(ManifestError, match="1 is there twice"):
        Manifest.load(data)
    data = full()
    data["images"][1]["video_id"] = 2
    with pytest.raises(ManifestError, match="video_id 2 is not in the videos table") as caught:
        Manifest.load(data)
    assert (caught.value.image_id, caught.value.field) == (-7, "video_id")
    data = full()
    data["images"][1]["frame_index"] = 2
    with pytest.raises(ManifestError, match="frame_index 2 is also that of image -7"):
        Manifest.load(data)
    data = full()
    del data["images"][1]["frame_index"]
    with pytest.raises(ManifestError, match="frame_index is missing, but other frames"):
        Manifest.load(data)


@pytest.mark.parametrize("mpp", [0, -1, "1", (1, 2, 3), {99: 1}, {"a": 1}, {1: 0}, float("nan"), {1: None}])
def test_a_bad_mpp_argument_says_so(mpp):
    with pytest.raises(ManifestError, match="mpp: "):
        record_of(mpp=mpp)


# Files ----------------------------------------------------------------------------------------------------


def test_missing_files_are_named(tmp_path):
    data = full()
    data["images"].append({"id": 4, "file_name": "array://in_memory"})
    manifest = Manifest.load(data, bundle_dir=tmp_path)
    with pytest.raises(
        ManifestError, match=r"image 10: file_name .*a\.tif does not exist \(the first of 6"
    ) as caught:
        manifest.check_files()
    assert (caught.value.image_id, caught.value.field) == (10, "file_name")
    (tmp_path / "multi").mkdir()
    for name in ("a.tif", "c.tif", "multi/rgb.tif", "multi/nir.tif", "multi/labels.png"):
        (tmp_path / name).touch()
    with pytest.raises(ManifestError, match=r"image -7: valid .*valid\.png does not exist; ") as caught:
        manifest.check_files()
    assert caught.value.field == "valid"
    (tmp_path / "multi/valid.png").touch()
    assert manifest.check_files() is None


def test_sizes_that_disagree_with_the_file_are_named(tmp_path):
    (tmp_path / "a.tif").touch()
    manifest = Manifest.load(one_image(), bundle_dir=tmp_path)
    assert manifest.check_files(lambda record: (40, 50)) is None
    with pytest.raises(ManifestError, match=r"image 1 .*: width is 50 .*, but .* has 51") as caught:
        manifest.check_files(lambda record: (40, 51))
    assert (caught.value.image_id, caught.value.field) == (1, "width")
    unsized = Manifest.load(one_image(height=None, width=None), bundle_dir=tmp_path)
    assert unsized.check_files(lambda record: (4, 5)) is None
