"""Manifests that are files are parsed once: what is mapped instead, and when it is not."""

import gc
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from manifest_samples import full, one_image

from slidesampler.errors import ManifestError
from slidesampler.manifest import Manifest, remembered
from slidesampler.manifest import manifest as manifest_module
from slidesampler.manifest.columns import flatten


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    monkeypatch.setattr(remembered, "REMEMBER_FROM_BYTES", 0)
    return tmp_path / "user_cache" / "slidesampler" / "manifests"


@pytest.fixture
def parsed(monkeypatch):
    """What was parsed, call by call."""
    calls = []
    original = manifest_module.read_source
    monkeypatch.setattr(manifest_module, "read_source", lambda *args: calls.append(args[0]) or original(*args))
    return calls


@pytest.fixture
def path(tmp_path):
    """A manifest's file, of times long past."""
    return write(tmp_path / "manifest.json", full())


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def edited(text):
    """The same with another digit in the first coordinate."""
    at = text.index(b"segmentation")
    digit = next(i for i in range(at, len(text)) if text[i : i + 1].isdigit())
    return text[:digit] + (b"2" if text[digit : digit + 1] == b"1" else b"1") + text[digit + 1 :]


@pytest.fixture
def long_ago(monkeypatch):
    """Files are as old as if they had been written before the test."""
    monkeypatch.setattr(remembered, "RECENT_NS", -(10**15))


def same(left, right):
    assert left == right
    assert list(left.records()) == list(right.records())
    for name, column in flatten(left._columns).items():
        np.testing.assert_array_equal(column, flatten(right._columns)[name], strict=True)


@pytest.mark.usefixtures("long_ago")
def test_the_second_load_parses_nothing(path, parsed):
    first, second = Manifest.load(path), Manifest.load(str(path))
    assert len(parsed) == 1
    same(first, second)
    same(second, Manifest.load(full(), bundle_dir=path.parent))
    assert second.category_names == first.category_names
    assert second.class_map == first.class_map


def test_a_file_written_a_moment_ago_is_hashed_whole(path, parsed, monkeypatch):
    hashed = []
    original = remembered._full
    monkeypatch.setattr(remembered, "_full", lambda file: hashed.append(file) or original(file))
    Manifest.load(path)
    Manifest.load(path)
    assert (len(parsed), len(hashed)) == (1, 2)
    # From then on it is known to have been the same for a while.
    monkeypatch.setattr(remembered, "RECENT_NS", 0)
    Manifest.load(path)
    Manifest.load(path)
    assert (len(parsed), len(hashed)) == (1, 2)


def test_an_edit_that_keeps_size_and_times_is_found(path, parsed, monkeypatch):
    # Between the sampled blocks, and as if the clock of the file system had not moved.
    monkeypatch.setattr(remembered, "SAMPLE_BYTES", 4)
    now = path.stat()
    monkeypatch.setattr(remembered.os, "fstat", lambda _: now)
    first = Manifest.load(path)
    path.write_bytes(edited(path.read_bytes()))
    assert Manifest.load(path).digest != first.digest
    assert len(parsed) == 2


@pytest.mark.usefixtures("long_ago")
def test_an_edit_with_the_old_time_put_back_is_found(path, parsed):
    first, before = Manifest.load(path), path.stat()
    path.write_bytes(edited(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Manifest.load(path).digest != first.digest
    assert len(parsed) == 2


@pytest.mark.usefixtures("long_ago")
def test_a_touched_or_copied_back_file_is_not_parsed_again(path, parsed):
    first = Manifest.load(path)
    os.utime(path)
    same(Manifest.load(path), first)
    path.write_bytes(path.read_bytes())
    same(Manifest.load(path), first)
    assert len(parsed) == 1


@pytest.mark.usefixtures("long_ago")
def test_other_arguments_are_another_reading(path, parsed):
    plain = Manifest.load(path)
    names = list(plain.category_names.values())
    variants = [
        {"mpp": 0.5},
        {"mpp": (0.5, 0.25)},
        {"mpp": dict.fromkeys(plain.image_ids.tolist(), 0.75)},
        {"bundle_dir": "/elsewhere"},
        {"class_map": {names[0]: "ignore"}},
    ]
    digests = [Manifest.load(path, **one).digest for one in variants]
    assert len({plain.digest, *digests}) == len(variants) + 1
    assert [Manifest.load(path, **one).digest for one in variants] == digests
    assert len(parsed) == len(variants) + 1


def test_small_files_mappings_and_reuse_false_leave_nothing(path, parsed, cache_folder, monkeypatch):
    Manifest.load(path, reuse=False)
    Manifest.load(full())
    monkeypatch.setattr(remembered, "REMEMBER_FROM_BYTES", path.stat().st_size + 1)
    Manifest.load(path)
    assert not cache_folder.exists()


@pytest.mark.usefixtures("long_ago")
def test_reuse_false_takes_nothing(path, parsed):
    Manifest.load(path)
    Manifest.load(path, reuse=False)
    assert len(parsed) == 2


@pytest.mark.usefixtures("long_ago")
def test_a_changed_manifest_leaves_no_snapshot_behind_unless_a_pickle_names_it(tmp_path, path, cache_folder):
    snapshots = lambda: {one.name for one in cache_folder.iterdir()} - {"read"}  # noqa: E731
    first = Manifest.load(path)
    write(path, one_image())
    second = Manifest.load(path)
    assert snapshots() == {second.digest}
    assert [one.suffix for one in (cache_folder / "read").iterdir()] == [".json"]
    # What was mapped before is still there.
    assert len(list(first.records())) == len(first)
    text = pickle.dumps(second)
    write(path, full())
    third = Manifest.load(path)
    assert snapshots() == {second.digest, third.digest}
    assert pickle.loads(text) == second
    # Pickled after its snapshot has gone, it is written again.
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"state": {"size": 1}, "digest": 3}', b'{"state": 3}']
)
def test_a_damaged_record_is_made_again(path, parsed, cache_folder, text):
    first = Manifest.load(path)
    (record,) = (cache_folder / "read").iterdir()
    record.write_bytes(text)
    same(Manifest.load(path), first)
    same(Manifest.load(path), first)
    assert len(parsed) == 2


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize("name", ["shapes.vertices.npy", "index.trees.npy", "snapshot.json", None])
def test_a_snapshot_that_is_gone_or_cut_off_is_made_again(path, parsed, cache_folder, name):
    digest = Manifest.load(path).digest
    gc.collect()
    if name is None:
        shutil.rmtree(cache_folder / digest)
    else:
        file = cache_folder / digest / name
        file.write_bytes(file.read_bytes()[:-9])
    same(Manifest.load(path), Manifest.load(full(), bundle_dir=path.parent))
    gc.collect()
    Manifest.load(path)
    assert parsed.count(path) == 2


def test_a_cache_folder_that_cannot_be_written_is_no_error(path, parsed, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    same(Manifest.load(path), Manifest.load(path))
    assert len(parsed) == 2


@pytest.mark.usefixtures("long_ago")
def test_a_file_that_now_has_the_name_of_a_driver_is_found(tmp_path, parsed):
    data = {"images": [{"id": 1, "file_name": "A1:overview.tif"}]}
    path = write(tmp_path / "manifest.json", data)
    assert Manifest.load(path).record(1).assets[0].path == "A1:overview.tif"
    assert Manifest.load(path).record(1).assets[0].path == "A1:overview.tif"
    there = tmp_path / "A1:overview.tif"
    there.touch()
    assert Manifest.load(path).record(1).assets[0].path == str(there)
    assert Manifest.load(path).record(1).assets[0].path == str(there)
    there.unlink()
    assert Manifest.load(path).record(1).assets[0].path == "A1:overview.tif"
    assert len(parsed) == 3


@pytest.mark.usefixtures("long_ago")
def test_a_manifest_that_cannot_be_read_is_not_remembered(tmp_path, cache_folder):
    path = write(tmp_path / "manifest.json", {"images": [{"id": 1}]})
    for _ in range(2):
        with pytest.raises(ManifestError, match="file_name"):
            Manifest.load(path)
    assert not cache_folder.exists()


# What a worker costs ----------------------------------------------------------------------------------------


def nuclei(count, images=50):
    data = one_image()
    data["images"] = [
        {"id": one, "file_name": f"{one}.tif", "height": 9000, "width": 9000} for one in range(images)
    ]
    ring = [0, 0, 9, 0, 9, 9, 5, 12, 0, 9]
    data["annotations"] = [
        {"id": one, "image_id": one % images, "segmentation": [[one % 97 + value for value in ring]]}
        for one in range(count)
    ]
    return data


def owned_bytes(manifest):
    """Bytes of columns that are not in mapped files."""
    return sum(array.nbytes for array in flatten(manifest._columns).values() if not _mapped(array))


def _mapped(array):
    """Whether its memory is of a mapping: neither numpy's own nor that of bytes."""
    while isinstance(array, np.ndarray):
        array = array.base
    return not isinstance(array, bytes | bytearray | None)


@pytest.mark.usefixtures("long_ago")
def test_what_is_not_mapped_does_not_grow_with_the_annotations(tmp_path):
    owned = []
    for count in (3000, 30_000):
        path = write(tmp_path / f"{count}.json", nuclei(count))
        Manifest.load(path)
        gc.collect()
        manifest = Manifest.load(path)
        owned.append(owned_bytes(manifest))
        everything = sum(array.nbytes for array in flatten(manifest._columns).values())
    assert owned[1] <= owned[0] < 60_000
    assert everything > 5_000_000


def uss_growth(*texts):
    """Bytes of its own that a process gets by unpickling manifests and asking for every image, one by one."""
    process, growth, kept = psutil.Process(), [], []
    for text in texts:
        before = process.memory_full_info().uss
        kept.append(pickle.loads(text))
        for image_id in kept[-1].image_ids.tolist():
            kept[-1].annot_rows(image_id)
        growth.append(process.memory_full_info().uss - before)
    return growth


def test_a_spawned_worker_maps_the_columns(tmp_path):
    manifests = [Manifest.load(nuclei(count)) for count in (50, 30_000)]
    for manifest in manifests:
        manifest.snapshot_dir = str(tmp_path)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        growth = pool.submit(uss_growth, *map(pickle.dumps, manifests)).result()
    assert sum(one.stat().st_size for one in Path(tmp_path, manifests[1].digest).iterdir()) > 5_000_000
    assert growth[1] < 1_000_000
