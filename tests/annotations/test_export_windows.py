"""Windows for QuPath and for kwcoco: read back by shapely, by kwcoco and by our own manifest."""

from __future__ import annotations

import json
import uuid

import jsonschema
import kwcoco
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from slidesampler import Manifest, Sampler
from slidesampler.annotations.export import geojson_feature, write_geojson
from slidesampler.errors import ManifestError, TargetError
from slidesampler.geometry import Window
from slidesampler.manifest.export import windows_to_kwcoco
from slidesampler.models import Asset, ImageRecord
from slidesampler.target import Target

#: What QuPath reads, by its own documentation of GeoJSON.
SCHEMA = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "id", "geometry", "properties"],
                "additionalProperties": False,
                "properties": {
                    "type": {"const": "Feature"},
                    "id": {"type": "string"},
                    "geometry": {
                        "type": "object",
                        "properties": {
                            "type": {"const": "Polygon"},
                            "coordinates": {
                                "type": "array",
                                "items": {
                                    "type": "array",
                                    "minItems": 4,
                                    "items": {
                                        "type": "array",
                                        "minItems": 2,
                                        "maxItems": 2,
                                        "items": {"type": "number"},
                                    },
                                },
                            },
                        },
                    },
                    "properties": {
                        "type": "object",
                        "required": ["objectType"],
                        "properties": {
                            "objectType": {"enum": ["annotation", "detection", "cell", "tile"]},
                            "name": {"type": "string"},
                            "isLocked": {"type": "boolean"},
                            "classification": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "color": {
                                        "type": "array",
                                        "minItems": 3,
                                        "maxItems": 3,
                                        "items": {"type": "integer", "minimum": 0, "maximum": 255},
                                    },
                                },
                            },
                            "measurements": {"type": "object", "additionalProperties": {"type": "number"}},
                            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                        },
                    },
                },
            },
        },
    },
}

windows = st.builds(
    Window, st.integers(-500, 500), st.integers(-500, 500), st.integers(1, 400), st.integers(1, 400)
)


def record(image_id, name):
    return ImageRecord(image_id, name, (Asset("a.tif"),), 100, 100)


def some_targets():
    return [
        Target(image_id=1, window=Window(-5, 7, 20, 30), kind="positive", category_id=10, annot_id=77, index=0),
        Target(
            image_id=1, window=Window(50, 60, 64, 64), kind="negative", index=1, downsample=2.0, size=(32, 32)
        ),
        Target(image_id=-2, window=Window(0, 0, 8, 8)),
        Target(image_id=1, window=Window(50, 60, 64, 64), kind="strange", index=3),
    ]


class TestGeojson:
    @given(window=windows)
    def test_the_outline_is_the_window(self, window):
        feature = geojson_feature(Target(image_id=1, window=window))
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid
        assert polygon.bounds == tuple(map(float, window.as_xyxy()))
        assert polygon.area == window.height * window.width

    def test_a_file_a_slide_that_qupath_reads(self, tmp_path):
        records = {1: record(1, "slide one"), 4: record(4, "empty"), -2: record(-2, "two")}
        files = write_geojson(some_targets(), records, tmp_path / "new", names={10: "tumour"})
        assert [file.name for file in files] == ["slide one.geojson", "two.geojson"]
        assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
            "slide one.geojson",
            "two.geojson",
        ]
        documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        for document in documents:
            jsonschema.validate(document, SCHEMA)
        positive, negative, strange = documents[0]["features"]
        assert positive["properties"] == {
            "objectType": "annotation",
            "name": "positive 0",
            "classification": {"name": "window-positive", "color": [213, 94, 0]},
            "isLocked": True,
            "measurements": {"index": 0},
            "metadata": {"category": "tumour", "annot_id": "77"},
        }
        assert negative["properties"]["measurements"] == {"index": 1, "downsample": 2.0}
        assert strange["properties"]["classification"] == {"name": "window-strange", "color": [128, 128, 128]}
        assert documents[1]["features"][0]["properties"]["name"] == "window"

    def test_ids_are_uuids_that_stay(self, tmp_path):
        ids = [geojson_feature(target)["id"] for target in some_targets()]
        assert ids == [geojson_feature(target)["id"] for target in some_targets()]
        assert len({uuid.UUID(one) for one in ids}) == 4

    def test_detections(self, tmp_path):
        feature = geojson_feature(some_targets()[0], object_type="detection")
        assert feature["properties"]["objectType"] == "detection"
        with pytest.raises(ValueError, match="object_type"):
            geojson_feature(some_targets()[0], object_type="cells")

    def test_slides_of_one_name_have_files_of_their_own(self, tmp_path):
        names = {1: "a/b", 2: "a_b", 3: "A_B", 4: "..", 5: "c", 6: "c-7", 7: "c"}
        records = {image_id: record(image_id, name) for image_id, name in names.items()}
        targets = [Target(image_id=image_id, window=Window(image_id, 0, 5, 5)) for image_id in names]
        files = write_geojson(targets, records, tmp_path)
        assert len({file.name.lower() for file in files}) == len(names)
        for image_id, file in zip(names, files, strict=True):
            assert file.parent == tmp_path
            (feature,) = json.loads(file.read_text())["features"]
            assert feature["geometry"]["coordinates"][0][0][1] == image_id

    @pytest.mark.parametrize(
        "bad",
        [Target(image_id=1), Target(window=Window(0, 0, 1, 1)), Target(image_id=9, window=Window(0, 0, 1, 1))],
    )
    def test_what_cannot_be_placed_writes_nothing(self, tmp_path, bad):
        with pytest.raises(TargetError, match=r"targets\[4\]"):
            write_geojson([*some_targets(), bad], {1: record(1, "a"), -2: record(-2, "b")}, tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestKwcoco:
    @pytest.fixture
    def manifest(self, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        np.save(folder / "a.npy", np.zeros((100, 120, 3), np.uint8))
        np.save(folder / "mask.npy", np.zeros((100, 120), np.uint8))
        data = {
            "info": [{"who": "me"}],
            "videos": [{"id": 8, "name": "film"}],
            "images": [
                {
                    "id": 1,
                    "name": "one",
                    "file_name": "a.npy",
                    "height": 100,
                    "width": 120,
                    "patient": "p",
                    "assets": [{"file_name": "mask.npy", "channels": "tissue"}],
                },
                {"id": -2, "name": "two", "file_name": "array://elsewhere", "height": 10, "width": 10},
            ],
            "categories": [{"id": 10, "name": "tumour"}],
            "annotations": [{"id": 77, "image_id": 1, "category_id": 10, "bbox": [1, 2, 3, 4]}],
        }
        path = folder / "slides.kwcoco.json"
        path.write_text(json.dumps(data))
        return path

    @pytest.mark.parametrize("where", ["data", "elsewhere"])
    def test_kwcoco_and_we_read_it(self, manifest, tmp_path, where):
        path = tmp_path / where / "windows.kwcoco.json"
        assert windows_to_kwcoco(manifest, some_targets(), path) == 4
        coco = kwcoco.CocoDataset(str(path))
        assert not coco.validate(missing=False)["errors"]
        names = [coco.cats[annot["category_id"]]["name"] for annot in coco.annots().objs]
        assert names == ["tumour", "window-positive", "window-negative", "window", "window-strange"]
        assert [annot["id"] for annot in coco.annots().objs] == [77, 78, 79, 80, 81]
        assert [annot["bbox"] for annot in coco.annots().objs[1:3]] == [[7, -5, 30, 20], [60, 50, 64, 64]]
        assert {category["id"] for category in coco.cats.values()} == {10, 11, 12, 13, 14}
        assert str(coco.get_image_fpath(1)) == str(manifest.parent / "a.npy")
        ours = Manifest.load(path)
        before = Manifest.load(manifest)
        assert [ours.record(i) for i in (1, -2)] == [before.record(i) for i in (1, -2)]
        assert ours.shapes_of(1).boxes_xyxy.tolist()[:2] == [[1, 2, 4, 6], [7, -5, 37, 15]]
        assert ours.class_map.parents["window-positive"] == "window"
        again = [Target.from_mapping(annot["target"]) for annot in coco.annots().objs[1:]]
        assert again == some_targets()

    def test_windows_can_be_switched_off(self, manifest, tmp_path):
        path = manifest.parent / "windows.kwcoco.json"
        windows_to_kwcoco(manifest, some_targets(), path)
        loaded = Manifest.load(path, class_map={"window": "background"})
        assert loaded.class_map.names == ("background", "tumour")

    def test_windows_alone(self, manifest, tmp_path):
        path = tmp_path / "windows.kwcoco.json"
        windows_to_kwcoco(manifest, some_targets(), path, keep_annotations=False)
        coco = kwcoco.CocoDataset(str(path))
        assert [annot["id"] for annot in coco.annots().objs] == [78, 79, 80, 81]
        assert [c["name"] for c in coco.cats.values()] == [
            "window-positive",
            "window-negative",
            "window",
            "window-strange",
        ]

    def test_a_second_export_adds_to_the_first(self, manifest):
        path = manifest.parent / "windows.kwcoco.json"
        windows_to_kwcoco(manifest, some_targets(), path)
        windows_to_kwcoco(path, some_targets(), path)
        coco = kwcoco.CocoDataset(str(path))
        assert [annot["id"] for annot in coco.annots().objs] == list(range(77, 86))
        assert len(coco.cats) == 5
        Manifest.load(path)

    def test_from_a_dataset_and_a_mapping(self, manifest, tmp_path):
        data = json.loads(manifest.read_text())
        text = json.dumps(data)
        for number, source in enumerate((kwcoco.CocoDataset(str(manifest)), data)):
            path = tmp_path / f"{number}.kwcoco.json"
            windows_to_kwcoco(source, some_targets(), path, bundle_dir=manifest.parent)
            assert Manifest.load(path).record(1) == Manifest.load(manifest).record(1)
        assert json.dumps(data) == text

    @pytest.mark.parametrize(
        "bad",
        [Target(image_id=1), Target(window=Window(0, 0, 1, 1)), Target(image_id=9, window=Window(0, 0, 1, 1))],
    )
    def test_what_cannot_be_placed_leaves_the_old_file(self, manifest, tmp_path, bad):
        path = tmp_path / "w.json"
        path.write_text("old")
        with pytest.raises(TargetError, match=r"targets\[4\]"):
            windows_to_kwcoco(manifest, [*some_targets(), bad], path)
        assert path.read_text() == "old"

    def test_a_bad_manifest_is_refused(self, tmp_path):
        with pytest.raises(ManifestError):
            windows_to_kwcoco({"images": [{"id": "x"}]}, [], tmp_path / "w.json")
        assert not (tmp_path / "w.json").exists()

    @pytest.mark.parametrize("keep", [True, False])
    def test_windows_of_a_copy_load(self, manifest, tmp_path, keep):
        path = tmp_path / "windows.kwcoco.json"
        windows_to_kwcoco(manifest, some_targets()[:2], path, keep_annotations=keep)
        sampler = Sampler(path)
        annot = kwcoco.CocoDataset(str(path)).annots().objs[int(keep)]
        assert sampler.load_sample(annot["target"], with_mask=False).window == Window(-5, 7, 20, 30)
