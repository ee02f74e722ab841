"""Snapshots on disk, and pickles that point to them."""

import copy
import gc
import hashlib
import json
import multiprocessing
import pickle
import shutil
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from manifest_samples import full, one_image

from slidesampler import shape_index
from slidesampler.errors import ManifestError
from slidesampler.manifest import Manifest
from slidesampler.manifest.columns import flatten
from slidesampler.manifest.snapshot import default_snapshot_dir


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """No test writes into the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return tmp_path / "user_cache"


def many(count=4000):
    """A manifest large enough for its columns to be mapped."""
    data = one_image()
    data["annotations"] = [
        {"id": one, "image_id": 1, "segmentation": [[one, 0, one + 5, 0, one + 5, 5, one, 5 + one % 7]]}
        for one in range(count)
    ]
    return Manifest.load(data, bundle_dir="/bundle")


def assert_same(left: Manifest, right: Manifest):
    assert left == right
    assert hash(left) == hash(right)
    assert left.bundle_dir == right.bundle_dir
    assert left.class_map == right.class_map
    assert left.class_map.parents == right.class_map.parents
    assert left.category_names == right.category_names
    assert list(left.records()) == list(right.records())
    for name, column in left.shapes.columns().items():
        np.testing.assert_array_equal(column, right.shapes.columns()[name], strict=True)
    for image_id in left.image_ids.tolist():
        assert left.annots_digest(image_id) == right.annots_digest(image_id)


@pytest.mark.parametrize(
    "manifest", [Manifest.load(full()), many(), Manifest.load({"images": []})], ids=["full", "many", "empty"]
)
def test_what_is_saved_is_opened(tmp_path, manifest):
    manifest.save(tmp_path / "snapshot")
    opened = Manifest.open(tmp_path / "snapshot")
    assert_same(manifest, opened)
    assert not any(name.endswith("partial") for name in (one.name for one in tmp_path.iterdir()))


def mapped(path):
    """Whether a file is mapped into this process."""
    return str(path) in Path("/proc/self/maps").read_text()


def test_large_columns_are_mapped_and_read_only(tmp_path):
    manifest = many(20_000)
    manifest.save(tmp_path / "snapshot")
    before = len(list(Path("/proc/self/fd").iterdir()))
    shapes = Manifest.open(tmp_path / "snapshot").shapes
    assert mapped(tmp_path / "snapshot" / "shapes.vertices.npy")
    assert not mapped(tmp_path / "snapshot" / "images.sizes.npy")
    # Any number of manifests may be open.
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert type(shapes.vertices) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        shapes.vertices[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        shapes.kinds[0] = 0


def test_who_opens_a_snapshot_hashes_no_annotations(tmp_path, monkeypatch):
    manifest = Manifest.load(full())
    manifest.save(tmp_path / "snapshot")
    wanted = [manifest.annots_digest(one) for one in manifest.image_ids.tolist()]
    assert len(set(wanted)) > 1
    opened = Manifest.open(tmp_path / "snapshot")
    monkeypatch.setattr(hashlib, "blake2b", None)
    assert [opened.annots_digest(one) for one in opened.image_ids.tolist()] == wanted


def test_a_snapshot_of_before_is_replaced(tmp_path):
    manifest = many()
    folder = tmp_path / "snapshot"
    manifest.save(folder)
    record = json.loads((folder / "snapshot.json").read_text())
    record["format"] -= 1
    (folder / "image_digests.npy").unlink()
    (folder / "snapshot.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="its format is"):
        Manifest.open(folder)
    manifest.save(folder)
    assert_same(Manifest.open(folder), manifest)


def test_a_snapshot_is_no_json_of_the_manifest(tmp_path):
    manifest = many()
    manifest.save(tmp_path / "snapshot")
    assert (tmp_path / "snapshot" / "snapshot.json").stat().st_size < 5000
    assert {one.suffix for one in (tmp_path / "snapshot").iterdir()} == {".npy", ".json"}


def columns_of(folder):
    return sorted(folder.glob("*.npy"))


DAMAGES = {
    "removed": lambda path: path.unlink(),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "no npy": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * path.stat().st_size),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "another's": lambda path: np.save(path, np.zeros(3)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_found_and_rewritten(tmp_path, damage):
    manifest = many()
    folder = tmp_path / "snapshot"
    manifest.save(folder)
    names = [path.name for path in columns_of(folder) if path.stat().st_size > 128]
    assert {"shapes.vertices.npy", "shapes.kinds.npy", "images.names.data.npy"} <= set(names)
    for name in (*names[::9], "shapes.vertices.npy", "index.trees.npy"):
        DAMAGES[damage](folder / name)
        with pytest.raises(ManifestError, match=r"damaged|gone or incomplete"):
            Manifest.open(folder)
        manifest.save(folder)
        assert Manifest.open(folder) == manifest
    assert [one.name for one in tmp_path.iterdir()] == ["snapshot"]


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"{}", b"null", b'{"format": 9}', b'{"format": 2, "columns": {"x": 1}}']
)
def test_a_damaged_record_is_found_and_rewritten(tmp_path, record):
    manifest = Manifest.load(full())
    manifest.save(tmp_path / "snapshot")
    (tmp_path / "snapshot" / "snapshot.json").write_bytes(record)
    with pytest.raises(ManifestError, match="damaged"):
        Manifest.open(tmp_path / "snapshot")
    manifest.save(tmp_path / "snapshot")
    assert Manifest.open(tmp_path / "snapshot") == manifest


def test_an_older_snapshot_is_replaced_and_an_intact_one_left(tmp_path):
    folder = tmp_path / "snapshot"
    Manifest.load(full()).save(folder)
    manifest = many()
    manifest.save(folder)
    assert Manifest.open(folder) == manifest
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    manifest.save(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_snapshot_of_an_older_format_is_replaced(tmp_path):
    manifest, record = Manifest.load(full()), tmp_path / "snapshot" / "snapshot.json"
    manifest.save(tmp_path / "snapshot")
    told = json.loads(record.read_bytes())
    record.write_text(json.dumps({**told, "format": told["format"] - 1}))
    with pytest.raises(ManifestError, match="this version reads"):
        Manifest.open(tmp_path / "snapshot")
    manifest.save(tmp_path / "snapshot")
    assert json.loads(record.read_bytes()) == told


def test_the_digest_is_of_what_the_manifest_says_not_of_its_index(monkeypatch):
    before = many().digest
    monkeypatch.setattr(shape_index, "TOP_ANNOTS", 10)
    assert many().digest == before


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ManifestError, match="not replaced"):
        Manifest.load(full()).save(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match="not replaced"):
        Manifest.load(full()).save(tmp_path / "file")
    with pytest.raises(ManifestError, match="cannot be written"):
        Manifest.load(full()).save(tmp_path / "file" / "below")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "photo.jpg"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    manifest = many()
    folder = tmp_path / "snapshot"
    saved = []

    def full_disk(file, array, **options):
        if len(saved) == 7:
            raise OSError(28, "No space left on device")
        saved.append(array)

    monkeypatch.setattr("slidesampler.manifest.snapshot.np.save", full_disk)
    with pytest.raises(ManifestError, match="No space left"):
        manifest.save(folder)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_writers_leave_an_intact_snapshot(tmp_path):
    # Each keeps removing what the others have just written, and writing it again.
    folder = tmp_path / "snapshot"
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        jobs = [pool.submit(save_and_remove, folder) for _ in range(3)]
        digests = {job.result() for job in jobs}
    manifest = many(500)
    assert digests == {manifest.digest}
    assert Manifest.open(folder) == manifest
    assert [one.name for one in tmp_path.iterdir()] == ["snapshot"]


def save_and_remove(folder):
    manifest = many(500)
    for turn in range(12):
        manifest.save(folder)
        if turn % 3 == 0:
            shutil.rmtree(folder, ignore_errors=True)
    manifest.save(folder)
    return manifest.digest


# Pickles --------------------------------------------------------------------------------------------------


def describe(manifest):
    """What another process makes of a manifest."""
    return (
        manifest.digest,
        list(manifest.records()),
        manifest.class_map.names,
        [manifest.annots_digest(one) for one in manifest.image_ids.tolist()],
    )


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_pickles_are_read_in_another_process(tmp_path, method):
    manifests = [Manifest.load(full(), bundle_dir="/bundle"), many()]
    for manifest in manifests:
        manifest.snapshot_dir = str(tmp_path / "snapshots")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        for manifest in manifests:
            assert pool.submit(describe, manifest).result() == describe(manifest)


def test_pickles_are_small_whatever_the_size(tmp_path):
    sizes = []
    for count in (1, 20_000):
        manifest = many(count)
        manifest.snapshot_dir = str(tmp_path)
        sizes.append(len(pickle.dumps(manifest)))
    assert sizes[0] == sizes[1] < 1000


def test_snapshots_go_to_the_users_cache_by_default(cache_folder):
    manifest = Manifest.load(full())
    assert pickle.loads(pickle.dumps(manifest)) == manifest
    assert default_snapshot_dir() == str(cache_folder / "slidesampler" / "manifests")
    assert (cache_folder / "slidesampler" / "manifests" / manifest.digest / "snapshot.json").is_file()


def test_unpickling_twice_shares_the_columns(tmp_path):
    manifest = many()
    manifest.snapshot_dir = str(tmp_path)
    text = pickle.dumps(manifest)
    one, two = pickle.loads(text), pickle.loads(text)
    assert_same(one, manifest)
    assert one.shapes.vertices is two.shapes.vertices
    assert copy.deepcopy(one).shapes.vertices is one.shapes.vertices
    assert one.snapshot_dir == str(tmp_path)
    assert pickle.dumps(one) == text
    # The cache holds them no longer than the manifests do.
    columns = weakref.ref(one._columns)
    del one, two
    gc.collect()
    assert columns() is None


def test_a_snapshot_that_has_vanished_says_so(tmp_path):
    manifest = Manifest.load(full())
    manifest.snapshot_dir = str(tmp_path / "snapshots")
    text = pickle.dumps(manifest)
    shutil.rmtree(tmp_path / "snapshots")
    with pytest.raises(ManifestError, match=r"is gone or incomplete .*keep it while pickles are in use"):
        pickle.loads(text)
    # Pickling again writes it again.
    assert pickle.loads(pickle.dumps(manifest)) == manifest


@pytest.mark.parametrize("damage", ["removed", "cut off", "emptied", "no npy", "another's"])
@pytest.mark.parametrize("name", ["shapes.vertices.npy", "shapes.kinds.npy"])
def test_unpickling_finds_files_that_are_not_whole(tmp_path, damage, name):
    manifest = many(20_000)
    manifest.snapshot_dir = str(tmp_path)
    text = pickle.dumps(manifest)
    DAMAGES[damage](tmp_path / manifest.digest / name)
    with pytest.raises(ManifestError, match=r"is damaged|gone or incomplete"):
        pickle.loads(text)


def test_pickling_mends_what_was_damaged_before(tmp_path):
    manifest = many()
    manifest.save(tmp_path / manifest.digest)
    for damage in ("one bit", "cut off"):
        DAMAGES[damage](tmp_path / manifest.digest / "shapes.vertices.npy")
        again = many()
        again.snapshot_dir = str(tmp_path)
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(again)).shapes.vertices, manifest.shapes.vertices, strict=True
        )
        gc.collect()


def test_another_snapshot_in_its_place_is_not_taken(tmp_path):
    manifest, other = Manifest.load(full()), many()
    manifest.snapshot_dir = str(tmp_path)
    text = pickle.dumps(manifest)
    shutil.rmtree(tmp_path / manifest.digest)
    other.save(tmp_path / manifest.digest)
    with pytest.raises(ManifestError, match="the pickle was made of"):
        pickle.loads(text)


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    manifest = Manifest.load(full())
    manifest.snapshot_dir = str(tmp_path / "file")
    with pytest.raises(ManifestError, match="set snapshot_dir to a folder"):
        pickle.dumps(manifest)


def test_the_digest_is_the_same_in_every_process():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(digest_of_full).result() == digest_of_full()


def digest_of_full():
    return Manifest.load(full(), bundle_dir="/bundle").digest


def test_the_digest_covers_every_column(tmp_path):
    manifest = many()
    names = set(flatten(manifest._columns))
    manifest.save(tmp_path / "snapshot")
    assert {path.stem for path in columns_of(tmp_path / "snapshot")} == names
