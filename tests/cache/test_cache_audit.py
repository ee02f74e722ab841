"""What an audit calls each kind of entry, and what a repair does about it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal

from slidesampler.cache import audit
from slidesampler.cache.entry_json import load_entry
from slidesampler.cache.publish import entry_lock
from slidesampler.errors import CacheError, CacheMissError
from slidesampler.models import LabelSpec
from slidesampler.readers import register_array, unregister_array


def flip(path) -> None:
    """Change one bit of a file's last byte: only its sum can tell."""
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


@pytest.fixture
def built(make_bundle, tmp_path):
    """Two slides, the first with a label layer, built from a manifest that is a file."""
    bundle = make_bundle(2)
    bundle.annotate(1, [5, 5, 20, 20])
    path = bundle.folder / "slides.json"
    path.write_text(json.dumps(bundle.document))
    bundle.manifest_path = path
    assert bundle.build(labels=False).ok
    assert bundle.build(only_images=[1]).ok
    return bundle


def verdicts(rows) -> list:
    return [(row.kind, row.status) for row in rows]


def find_labels(bundle):
    manifest = bundle.manifest
    return bundle.store.find_labels(manifest, manifest.record(1), (60, 90), LabelSpec())


def test_intact_cache(built):
    rows = audit(built.workdir)
    assert verdicts(rows) == [("image", "ok"), ("image", "ok"), ("labels", "ok")]
    assert [row.name for row in rows] == ["s1", "s2", "s1"]
    on_disk = sum(path.stat().st_size for path in built.workdir.rglob("*") if path.is_file())
    assert sum(row.size_bytes for row in rows) == on_disk - len('{"format": 1}\n')
    assert json.loads(json.dumps([row.to_dict() for row in rows]))[0]["status"] == "ok"
    # Repairing what is whole changes nothing.
    before = sorted((path, path.stat().st_mtime_ns) for path in built.workdir.rglob("*"))
    assert [row.done for row in audit(built.workdir, repair=True)] == ["", "", ""]
    assert sorted((path, path.stat().st_mtime_ns) for path in built.workdir.rglob("*")) == before


def test_what_is_no_cache_is_not_touched(tmp_path):
    (tmp_path / "images" / "a" / "b").mkdir(parents=True)
    (tmp_path / "images" / "a" / "b" / "photo.jpg").write_bytes(b"dear")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CacheError, match="is not a slidesampler cache"):
            audit(folder, repair=True, remove_orphans=True)
    assert (tmp_path / "images" / "a" / "b" / "photo.jpg").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "level"])
def test_damaged_files_are_found_and_built_again(built, debris, damage):
    entry = built.find(1)
    if damage == "flip":
        flip(entry.files["image"])
    elif damage == "truncate":
        Path(entry.files["image"]).write_bytes(b"\x93NUMPY")
    elif damage == "missing":
        Path(entry.files["image"]).unlink()
    else:
        shutil.rmtree(Path(entry.files["image"]).parent)
    rows = audit(built.workdir)
    assert verdicts(rows) == [("image", "corrupt"), ("image", "ok"), ("labels", "ok")]
    assert rows[0].reason
    assert rows[0].done == ""
    assert [row.done for row in audit(built.workdir, repair=True)] == ["rebuilt", "", ""]
    assert {row.status for row in audit(built.workdir)} == {"ok"}
    np.testing.assert_array_equal(np.load(built.find(1).files["image"]), built.pixels[1])
    assert debris(built.workdir) == []


def test_bit_flip_in_a_cog(built):
    built.build("cog", codec="deflate", tile=128)
    entry = built.find(1, "cog")
    flip(entry.files["image"])
    # A lookup does not sum files.
    assert built.find(1, "cog") == entry
    [row] = [row for row in audit(built.workdir, repair=True) if row.status != "ok"]
    assert (row.path, row.status, row.done) == (entry.folder, "corrupt", "rebuilt")
    again = built.find(1, "cog")
    assert (again.codec, again.tile) == ("deflate", 128)
    assert np.array_equal(gdal.Open(again.files["image"]).ReadAsArray().transpose(1, 2, 0), built.pixels[1])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_entries_without_a_readable_record_are_removed(built, debris, text):
    folder = Path(built.find(1).folder)
    (folder / "entry.json").write_text(text)
    rows = audit(built.workdir, repair=True)
    assert (rows[0].status, rows[0].done) == ("corrupt", "removed")
    assert not folder.exists()
    with pytest.raises(CacheMissError):
        built.find(1)
    assert debris(built.workdir) == []
    assert built.build().ok


def test_record_that_is_readable_but_does_not_say_how_it_was_built(built):
    folder = Path(built.find(1).folder)
    values = json.loads((folder / "entry.json").read_text())
    values["spec"] = {"backend": ["npy"]}
    (folder / "entry.json").write_text(json.dumps(values))
    flip(built.find(1).files["image"])
    rows = audit(built.workdir, repair=True)
    assert (rows[0].status, rows[0].done) == ("corrupt", "removed")
    assert "does not say enough" in rows[0].done_reason


def test_newer_entries_are_left_alone(built):
    folder = Path(built.find(1).folder)
    values = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**values, "format": 2, "files": "elsewhere"}))
    before = sorted(folder.rglob("*"))
    rows = audit(built.workdir, repair=True, remove_orphans=True)
    assert (rows[0].status, rows[0].done) == ("newer", "")
    assert sorted(folder.rglob("*")) == before


def test_stale_entries_are_removed(built, debris):
    built.write(1, built.pixels[1][::-1])
    rows = audit(built.workdir)
    assert verdicts(rows) == [("image", "stale"), ("image", "ok"), ("labels", "stale")]
    assert "s1.tif" in rows[0].reason
    assert [row.done for row in audit(built.workdir, repair=True)] == ["removed", "", "removed"]
    assert len(list(built.store.entries())) == 1
    assert debris(built.workdir) == []


def test_secret_edits_are_found_whatever_this_process_has_compared(built, edit_in_secret):
    assert built.find(1)

    def change(data):
        data[-1] ^= 1

    edit_in_secret(built.path(1), change)
    assert audit(built.workdir)[0].status == "stale"


def test_intact_entry_without_a_source_is_kept(built):
    built.path(2).unlink()
    rows = audit(built.workdir, repair=True)
    assert verdicts(rows)[1] == ("image", "orphan")
    assert (rows[1].done, rows[1].done_reason) == ("kept", "it may be the only copy left")
    np.testing.assert_array_equal(np.load(built.find(2).files["image"]), built.pixels[2])
    rows = audit(built.workdir, repair=True, remove_orphans=True)
    assert rows[1].done == "removed"
    with pytest.raises(CacheMissError):
        built.find(2)


def test_damaged_entry_without_a_source_is_kept(built):
    entry = built.find(2)
    flip(entry.files["image"])
    built.path(2).unlink()
    rows = audit(built.workdir, repair=True)
    assert (rows[1].status, rows[1].done) == ("corrupt", "kept")
    assert Path(entry.files["image"]).exists()
    assert audit(built.workdir, repair=True, remove_orphans=True)[1].done == "removed"


def test_damaged_entry_that_cannot_be_built_is_not_lost(built):
    entry = built.find(2)
    flip(entry.files["image"])
    built.path(2).write_bytes(b"no image any more")
    rows = audit(built.workdir, repair=True)
    assert (rows[1].status, rows[1].done) == ("corrupt", "failed")
    assert "UnsupportedSourceError" in rows[1].done_reason
    assert load_entry(Path(entry.folder)) == entry


def test_labels_are_built_again_from_the_manifest(built):
    entry = find_labels(built)
    before = gdal.Open(entry.files["labels"]).ReadAsArray()
    flip(entry.files["labels"])
    rows = audit(built.workdir, repair=True)
    assert (rows[2].kind, rows[2].status, rows[2].done) == ("labels", "corrupt", "rebuilt")
    again = find_labels(built)
    assert np.array_equal(gdal.Open(again.files["labels"]).ReadAsArray(), before)
    assert again.checksums == entry.checksums
    assert again.source["manifest"] == str(built.manifest_path)


@pytest.mark.parametrize("manifest", ["gone", "garbage", "edited"])
def test_labels_that_cannot_be_built_again_are_removed(built, debris, manifest):
    flip(find_labels(built).files["labels"])
    if manifest == "gone":
        built.manifest_path.unlink()
    elif manifest == "garbage":
        built.manifest_path.write_text("{")
    else:
        built.annotate(1, [40, 40, 5, 5])
        built.manifest_path.write_text(json.dumps(built.document))
    rows = audit(built.workdir, repair=True)
    assert (rows[2].status, rows[2].done) == ("corrupt", "removed")
    assert debris(built.workdir) == []


def test_labels_of_edited_annotations_are_stale(built):
    built.annotate(1, [40, 40, 5, 5])
    built.manifest_path.write_text(json.dumps(built.document))
    assert built.build(only_images=[1]).ok
    rows = audit(built.workdir, repair=True)
    assert sorted(verdicts(rows)) == [("image", "ok")] * 2 + [("labels", "ok"), ("labels", "stale")]
    assert {row.status: row.done for row in rows} == {"ok": "", "stale": "removed"}
    assert find_labels(built)


def test_labels_whose_manifest_is_gone_are_ok(built):
    built.manifest_path.unlink()
    assert {row.status for row in audit(built.workdir)} == {"ok"}


def test_debris_is_an_orphan_and_removed(built, debris):
    folder = Path(built.find(1).folder)
    other = built.workdir / "images" / "x-0123456789abcdef" / "npy-none-0-01234567"
    for place in (folder, other):
        (place / "0badf00d.partial").mkdir(parents=True)
        (place / "0badf00d.partial" / "image.npy").write_bytes(b"12345")
    (built.workdir / "labels" / "y-0123456789abcdef").mkdir()
    rows = audit(built.workdir)
    assert {(row.path, row.size_bytes) for row in rows if row.kind == "debris"} == {
        (str(folder / "0badf00d.partial"), 5),
        (str(other / "0badf00d.partial"), 5),
        (str(built.workdir / "labels" / "y-0123456789abcdef"), 0),
    }
    assert {row.status for row in rows if row.kind == "debris"} == {"orphan"}
    assert [row.done for row in audit(built.workdir, repair=True) if row.kind == "debris"] == ["removed"] * 3
    assert debris(built.workdir) == []
    assert verdicts(audit(built.workdir)) == [("image", "ok"), ("image", "ok"), ("labels", "ok")]


def test_what_a_running_build_holds_is_left_out(built):
    folder = built.workdir / "images" / "x-0123456789abcdef" / "npy-none-0-01234567"
    (folder / "0badf00d.partial").mkdir(parents=True)
    with entry_lock(folder):
        rows = audit(built.workdir, repair=True)
        assert len(rows) == 3
        assert (folder / "0badf00d.partial").exists()
    assert [row.done for row in audit(built.workdir, repair=True) if row.kind == "debris"] == ["removed"]


def test_arrays_of_other_processes_are_ok(built):
    built.document["images"].append({"id": 3, "file_name": "array://audited"})
    register_array("audited", np.zeros((20, 20, 3), np.uint8))
    try:
        built.build(only_images=[3], labels=False)
    finally:
        unregister_array("audited")
    [row] = [row for row in audit(built.workdir, repair=True) if "audited" in row.path]
    assert row.status == "ok"
    assert "array in memory" in row.reason


def test_cog_in_place(make_bundle):
    bundle = make_bundle()
    memory = gdal.GetDriverByName("MEM").Create("", 600, 700, 3, gdal.GDT_Byte)
    gdal.GetDriverByName("COG").CreateCopy(str(bundle.path(1)), memory, options=["BLOCKSIZE=256"])
    assert [row.status for row in bundle.build("cog")] == ["in-place"]
    assert verdicts(audit(bundle.workdir)) == [("image", "ok")]
    data = bundle.path(1).read_bytes()
    bundle.path(1).unlink()
    assert verdicts(audit(bundle.workdir)) == [("image", "stale")]
    bundle.path(1).write_bytes(data)
    rows = audit(bundle.workdir, repair=True)
    assert (rows[0].status, rows[0].done) == ("stale", "removed")
    # The record went, the user's file did not.
    assert bundle.path(1).read_bytes() == data


def test_progress_is_given_each_row(built):
    seen = []
    assert audit(built.workdir, progress=seen.append) == seen
