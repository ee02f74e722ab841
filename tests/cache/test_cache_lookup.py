"""What a reader finds: the right entry, or an error that says why not and what to do."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from osgeo import gdal

from slidesampler.cache import CacheStore
from slidesampler.cache import store as store_module
from slidesampler.cache.entry_json import load_entry, parse_entry, serialize_entry
from slidesampler.cache.tables import is_table
from slidesampler.errors import CacheError, CacheMissError, CorruptEntryError, StaleEntryError
from slidesampler.models import LabelSpec


def command_in(error) -> list[str]:
    return shlex.split(str(error.value).splitlines()[-1])


def pixels_of(entry) -> np.ndarray:
    return np.load(entry.files["image"])


def test_found_entry_is_what_was_built(bundle):
    bundle.build()
    entry = bundle.find()
    np.testing.assert_array_equal(pixels_of(entry), bundle.pixels[1])
    assert (entry.kind, entry.backend, entry.shape, entry.dtype) == ("image", "npy", (60, 90, 3), "uint8")
    assert entry.lossless
    assert not entry.in_place
    assert entry.size_bytes == sum(Path(name).stat().st_size for name in entry.files.values())
    assert Path(entry.folder).parent.parent == bundle.workdir / "images"


def test_miss_says_the_command(bundle, tmp_path):
    store = CacheStore(tmp_path / "my work", manifest_path="a b.json")
    record = bundle.manifest.record(1)
    with pytest.raises(CacheMissError, match="image 1") as error:
        store.find_image(record, "cog", codec="deflate", tile=512)
    assert command_in(error) == [
        "slidesampler", "build", str(Path("a b.json").absolute()), "--workdir", str(tmp_path / "my work"),
        "--backend", "cog", "--codec", "deflate", "--tile", "512", "--only-images=1",
    ]  # fmt: skip
    assert isinstance(error.value, FileNotFoundError)
    # Looking up makes nothing.
    assert not (tmp_path / "my work").exists()


def test_lookup_looks_at_one_image_only(make_bundle, monkeypatch):
    bundle = make_bundle(3)
    bundle.build()
    for entry in list(bundle.store.entries()):
        if entry.source["record"]["image_id"] != 2:
            Path(entry.folder, "entry.json").write_text("garbage")
    loaded = []
    load = store_module.load_entry
    monkeypatch.setattr(store_module, "load_entry", lambda folder: loaded.append(folder) or load(folder))
    np.testing.assert_array_equal(pixels_of(bundle.find(2)), bundle.pixels[2])
    assert len(loaded) == 1


def test_latest_matching_variant_is_found(bundle):
    for options in (
        {"codec": "deflate"},
        {"codec": "zstd"},
        {"codec": "deflate", "tile": 128},
        {"codec": "lzw"},
    ):
        bundle.build("cog", labels=False, **options)
    assert bundle.find(backend="cog").codec == "lzw"
    assert bundle.find(backend="cog", codec="deflate").tile == 128
    assert bundle.find(backend="cog", codec="deflate", tile=256).tile == 256
    assert bundle.find(backend="cog", codec="zstd").codec == "zstd"
    assert bundle.find(backend="cog", tile=256, codec="auto").codec == "lzw"
    with pytest.raises(CacheMissError):
        bundle.find(backend="cog", codec="jpeg")
    with pytest.raises(CacheMissError):
        bundle.find(backend="cog", codec="lzw", tile=128)
    with pytest.raises(CacheMissError):
        bundle.find(backend="npy")
    bundle.build("cog", codec="zstd", force=True)
    assert bundle.find(backend="cog").codec == "zstd"


def test_npy_has_no_tiles_and_no_codec_to_choose(bundle):
    bundle.build()
    assert bundle.find(codec="none", tile=256) == bundle.find()


def test_equal_names_in_two_bundles_do_not_share(make_bundle):
    one, two = make_bundle(name="one", seed=1), make_bundle(name="two", seed=2)
    assert one.workdir == two.workdir
    one.build()
    with pytest.raises(CacheMissError):
        two.find()
    two.build()
    np.testing.assert_array_equal(pixels_of(one.find()), one.pixels[1])
    np.testing.assert_array_equal(pixels_of(two.find()), two.pixels[1])


def test_renamed_bundle_is_another(bundle):
    bundle.build()
    bundle.folder = bundle.folder.rename(bundle.folder.with_name("renamed"))
    with pytest.raises(CacheMissError):
        bundle.find()
    assert [row.status for row in bundle.build()] == ["built"]


# Stale sources ------------------------------------------------------------------------------------------------


def change_size(bundle, secret):
    with open(bundle.path(1), "ab") as file:
        file.write(b"x")


def change_time(bundle, secret):
    os.utime(bundle.path(1), ns=(0, bundle.path(1).stat().st_mtime_ns + 1))


def change_pixels(bundle, secret):
    bundle.write(1, bundle.pixels[1][::-1])


def change_in_secret(bundle, secret):
    def flip(data):
        data[-1] ^= 255

    secret(bundle.path(1), flip)


def add_mask(bundle, secret):
    (bundle.folder / "s1.tif.msk").write_bytes(b"")


@pytest.mark.parametrize("change", [change_size, change_time, change_pixels, change_in_secret, add_mask])
def test_edited_source_is_never_served(bundle, edit_in_secret, new_process, change):
    bundle.build()
    bundle.find()
    new_process()
    change(bundle, edit_in_secret)
    with pytest.raises(StaleEntryError, match=r"s1\.tif") as error:
        bundle.find()
    assert command_in(error)[:2] == ["slidesampler", "build"]
    report = bundle.build()
    assert report.rows[0].status in ("built", "failed")
    assert report.rows[0].reason.startswith("stale: ") or report.failed


@pytest.mark.parametrize("change", [change_pixels, change_in_secret])
def test_build_after_an_edit_replaces_the_entry(bundle, edit_in_secret, new_process, debris, change):
    bundle.build()
    folder = bundle.find().folder
    new_process()
    change(bundle, edit_in_secret)
    assert [row.status for row in bundle.build()] == ["built"]
    import tifffile

    np.testing.assert_array_equal(pixels_of(bundle.find()), tifffile.imread(bundle.path(1)))
    # In the same folder: entries of old versions of a slide do not pile up.
    assert bundle.find().folder == folder
    assert debris(bundle.workdir) == []


def test_content_is_compared_once_per_process_and_entry(bundle, monkeypatch, new_process):
    bundle.build()
    new_process()
    compared = []
    compare = store_module.compare_hashes
    monkeypatch.setattr(
        store_module, "compare_hashes", lambda *args, **kwargs: compared.append(1) or compare(*args, **kwargs)
    )
    for _ in range(3):
        bundle.find()
    assert len(compared) == 1
    bundle.build(force=True)
    bundle.find()
    bundle.find()
    assert len(compared) == 2


def test_valid_mask_is_part_of_the_source(bundle):
    import tifffile

    mask = bundle.folder / "valid.tif"
    tifffile.imwrite(mask, np.ones((60, 90), np.uint8))
    image = bundle.document["images"][0]
    image["assets"] = [
        {"file_name": image.pop("file_name"), "channels": "r|g|b"},
        {"file_name": "valid.tif", "channels": "valid"},
    ]
    image |= {"width": 90, "height": 60}
    assert bundle.build().ok
    tifffile.imwrite(mask, np.zeros((60, 90), np.uint8))
    with pytest.raises(StaleEntryError, match=r"valid\.tif"):
        bundle.find()


def test_slides_in_cold_storage_are_served_and_checked_when_they_return(bundle, new_process):
    bundle.build()
    away = bundle.folder.with_name("away")
    bundle.folder.rename(away)
    new_process()
    np.testing.assert_array_equal(pixels_of(bundle.find()), bundle.pixels[1])
    [row] = bundle.build()
    assert row.status == "reused"
    assert "is not there; the entry is kept" in row.reason
    away.rename(bundle.folder)
    assert bundle.find()
    bundle.write(1, bundle.pixels[1][:, ::-1])
    with pytest.raises(StaleEntryError):
        bundle.find()


def test_unreadable_source_is_served_by_size_and_time():
    # In a process that gives up root's rights: root may read everything. Not under tmp_path, which is root's.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        script = Path(__file__).with_name("unreadable_driver.py")
        result = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    finally:
        shutil.rmtree(folder)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["first"] == ["built"]
    assert found["served"] == [60, 90, 3]
    assert found["statuses"] == ["reused", "failed"]
    assert "Permission denied" in found["reason"]
    assert "s2.tif" in found["reason"]
    assert found["stale"] == "StaleEntryError"


# Damaged entries ----------------------------------------------------------------------------------------------


def truncate(entry):
    with open(entry.files["image"], "r+b") as file:
        file.truncate(100)


def empty(entry):
    Path(entry.files["image"]).write_bytes(b"")


def remove(entry):
    Path(entry.files["image"]).unlink()


def remove_generation(entry):
    shutil.rmtree(Path(entry.files["image"]).parent)


def replace_by_folder(entry):
    remove(entry)
    Path(entry.files["image"]).mkdir()


def record(text):
    def write(entry):
        Path(entry.folder, "entry.json").write_bytes(text)

    return write


def value(**changes):
    def write(entry):
        path = Path(entry.folder, "entry.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return write


DAMAGES = {
    "truncated": truncate,
    "empty": empty,
    "missing": remove,
    "no generation": remove_generation,
    "a folder": replace_by_folder,
    "empty record": record(b""),
    "half a record": record(b'{"format": 1, "kind": "ima'),
    "no object": record(b"[]"),
    "null": record(b"null"),
    "no text": record(b"\xff\xfe\x00"),
    "deep": record(b"[" * 100_000),
    "a huge number": record(b'{"format": 1e999}'),
    "no format": value(format=None),
    "true is no format": value(format=True),
    "older format": value(format=0),
    "shape": value(shape=[60, 90]),
    "shape of texts": value(shape=["60", "90", "3"]),
    "negative shape": value(shape=[-60, 90, 3]),
    "shape of floats": value(shape=[60.0, 90, 3]),
    "dtype": value(dtype="object"),
    "no dtype": value(dtype="uint9"),
    "dtype of fields": value(dtype="u1,u1"),
    "levels": value(levels=[]),
    "levels of nothing": value(levels=[[]]),
    "levels of another": value(levels=[[61, 90, 1, 1]]),
    "infinite level": value(levels=[[60, 90, float("inf"), 1]]),
    "files": value(files={}),
    "files are a list": value(files=["image.npy"]),
    "file is a number": value(files={"image": 1}),
    "file is absolute": value(files={"image": "/etc/passwd"}),
    "file is outside": value(files={"image": "../../../../etc/passwd"}),
    "file is not there": value(files={"image": "x"}),
    "file with a null": value(files={"image": "a\0b"}),
    "sizes": value(sizes_bytes={"image": -1}),
    "sizes of another": value(sizes_bytes={"labels": 1}),
    "no checksums": value(checksums={}),
    "backend": value(backend="zip"),
    "kind": value(kind=[]),
    "mpp": value(mpp=[1]),
    "mpp is nan": value(mpp=[float("nan"), 1]),
    "source": value(source={}),
    "source files": value(source={"record": {}, "files": 1}),
    "in place": value(in_place="yes"),
    "in place elsewhere": value(in_place=True, files={"image": "relative"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_an_error_and_the_next_build_mends_it(bundle, debris, damage):
    bundle.build()
    DAMAGES[damage](bundle.find())
    with pytest.raises(CorruptEntryError) as error:
        bundle.find()
    assert command_in(error)[-1] == "--only-images=1"
    [row] = bundle.build()
    assert row.status == "built"
    assert row.reason.startswith("corrupt: ")
    np.testing.assert_array_equal(pixels_of(bundle.find()), bundle.pixels[1])
    assert debris(bundle.workdir) == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\0b"])
def test_files_must_lie_in_the_entry(bundle, name):
    bundle.build()
    folder = Path(bundle.find().folder)
    values = json.loads((folder / "entry.json").read_text())
    values["files"]["image"] = name
    with pytest.raises(CorruptEntryError, match="is not in the entry's folder"):
        parse_entry(json.dumps(values).encode(), folder)


def test_newer_format_is_neither_read_nor_replaced(bundle):
    bundle.build()
    folder = Path(bundle.find().folder)
    value(format=2)(bundle.find())
    with pytest.raises(CacheError, match=r"format 2.*upgrade") as error:
        bundle.find()
    assert not isinstance(error.value, CorruptEntryError)
    written = (folder / "entry.json").read_bytes()
    [row] = bundle.build()
    assert row.status == "failed"
    assert "format 2" in row.reason
    assert (folder / "entry.json").read_bytes() == written


def test_newer_workdir_is_refused(bundle):
    bundle.build()
    (bundle.workdir / "slidesampler.json").write_text('{"format": 2}')
    with pytest.raises(CacheError, match=r"format 2.*upgrade"):
        bundle.build()
    (bundle.workdir / "slidesampler.json").write_text("")
    with pytest.raises(CacheError, match="is not a slidesampler cache"):
        bundle.build()


def test_damaged_variant_does_not_hide_others_that_are_asked_for(bundle):
    bundle.build("cog", codec="zstd")
    bundle.build("cog", codec="deflate")
    record(b"garbage")(bundle.find(backend="cog", codec="zstd"))
    assert bundle.find(backend="cog", codec="deflate").codec == "deflate"
    # Which was built last is written in the one that cannot be read.
    with pytest.raises(CorruptEntryError):
        bundle.find(backend="cog")


def test_record_survives_a_round_trip(bundle):
    bundle.annotate(1, [5, 5, 20, 20])
    bundle.build("cog", instances=True)
    for entry in bundle.store.entries():
        assert parse_entry(serialize_entry(entry).encode(), Path(entry.folder)) == entry
    assert len(list(bundle.store.entries())) == 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_a_record_is_read_or_refused(bundle, data):
    if not bundle.workdir.exists():
        bundle.build()
    [folder] = bundle.store.entry_folders()
    values = json.loads((folder / "entry.json").read_text())
    place, key = values, None
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON_VALUES)
    try:
        entry = parse_entry(json.dumps(values).encode(), folder)
    except CacheError:
        return
    store_module.check_source(entry)
    assert all(Path(name).is_relative_to(folder) for name in entry.files.values())


# Label layers -------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(make_bundle):
    bundle = make_bundle(2)
    bundle.annotate(1, [5, 5, 20, 20])
    bundle.annotate(2, [1, 1, 10, 10])
    bundle.build()
    return bundle


def find_labels(bundle, image_id=1, spec=None, shape=(60, 90), **options):
    manifest = bundle.manifest
    return bundle.store.find_labels(manifest, manifest.record(image_id), shape, spec or LabelSpec(), **options)


def test_labels_are_those_of_the_annotations(labelled):
    entry = find_labels(labelled)
    assert entry.kind == "labels"
    assert {role for role in entry.files if not is_table(role)} == {"labels", "index"}
    assert entry.extra["class_map"]["names"] == ["background", "tumour", "stroma"]
    assert entry.spec["label_spec"] == {
        "overlap": "last",
        "keypoint_radius_px": 0.0,
        "tissue": "auto",
    }
    expected = np.zeros((60, 90), np.uint8)
    expected[5:25, 5:25] = 1
    np.testing.assert_array_equal(gdal.Open(entry.files["labels"]).ReadAsArray(), expected)


def test_edited_annotations_are_another_layer(labelled):
    before = find_labels(labelled), find_labels(labelled, 2, shape=(61, 90))
    labelled.annotate(1, [40, 40, 5, 5])
    with pytest.raises(CacheMissError, match="no label layer of these annotations"):
        find_labels(labelled)
    # The other image's were not touched.
    assert find_labels(labelled, 2, shape=(61, 90)) == before[1]
    assert [row.status for row in labelled.build()] == ["reused", "built", "reused", "reused"]
    assert find_labels(labelled).folder != before[0].folder


def test_labels_of_another_spec_or_class_map_are_another_layer(labelled):
    with pytest.raises(CacheMissError) as error:
        find_labels(labelled, spec=LabelSpec(overlap="first"))
    command = command_in(error)
    assert command[command.index("--overlap") + 1] == "first"
    labelled.document["categories"][0]["name"] = "renamed"
    with pytest.raises(CacheMissError):
        find_labels(labelled)


def test_instances_must_have_been_asked_for(labelled):
    with pytest.raises(CacheMissError, match="instance layer") as error:
        find_labels(labelled, instances=True)
    assert "--instances" in command_in(error)
    [_, row, *_] = labelled.build(instances=True)
    assert (row.status, row.reason) == ("built", "an instance layer was asked for and the entry has none")
    files = find_labels(labelled, instances=True).files
    assert {role for role in files if not is_table(role)} == {"labels", "instances", "index"}
    # What has more than was asked for is used.
    assert find_labels(labelled)
    assert [row.status for row in labelled.build()] == ["reused"] * 4


def test_labels_of_an_edited_source_are_stale(labelled):
    labelled.write(1, labelled.pixels[1][::-1])
    with pytest.raises(StaleEntryError):
        find_labels(labelled)
    assert [row.status for row in labelled.build()] == ["built", "built", "reused", "reused"]
    assert find_labels(labelled)


def test_labels_of_another_size_are_stale(labelled):
    with pytest.raises(StaleEntryError, match="60 x 90 pixels, the image has 61 x 90"):
        find_labels(labelled, shape=(61, 90))


def test_damaged_labels(labelled):
    entry = find_labels(labelled)
    Path(entry.files["labels"]).write_bytes(b"")
    with pytest.raises(CorruptEntryError):
        find_labels(labelled)
    record(b"{")(entry)
    with pytest.raises(CorruptEntryError):
        find_labels(labelled)
    assert labelled.build().ok
    assert find_labels(labelled)


def test_entries_lists_what_can_be_read(labelled):
    assert [entry.kind for entry in labelled.store.entries()] == ["image", "image", "labels", "labels"]
    record(b"{")(labelled.find(1))
    assert len(list(labelled.store.entries())) == 3
    assert list(CacheStore(labelled.workdir / "nowhere").entries()) == []


def test_reader_that_races_a_rebuild_gets_the_new_entry(bundle, monkeypatch):
    bundle.build()
    old = bundle.find()
    bundle.build(force=True)
    new = bundle.find()
    assert old.files != new.files
    # The record was read just before the rebuild replaced it, the files are looked at just after.
    answers = iter([old])
    monkeypatch.setattr(store_module, "load_entry", lambda folder: next(answers, None) or load_entry(folder))
    assert bundle.find() == new
