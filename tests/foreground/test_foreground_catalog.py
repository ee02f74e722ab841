"""The foreground index of a sampler: the same wherever it comes from, never stale, never half."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

import slidesampler.cache.catalog as catalog_module
from slidesampler import Sampler, Window
from slidesampler.cache import CacheStore, audit
from slidesampler.cache.collect import workdir_catalog
from slidesampler.cache.publish import entry_lock
from slidesampler.errors import ManifestError, SamplingError, StaleEntryError
from slidesampler.foreground import ForegroundIndex
from slidesampler.models import LabelSpec
from slidesampler.readers.npy import NpyReader
from slidesampler.testing import make_dataset


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    folder = tmp_path / "user"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def slides(tmp_path):
    """Three small slides, the last without annotations, one with a valid mask and one with a tissue mask."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id, (height, width) in enumerate([(300, 420), (257, 190), (64, 700)], 1):
        pixels = rng.integers(230, 255, (height, width, 3), np.uint8)
        pixels[40:200, 50:160] = (210, 110, 160)
        tifffile.imwrite(tmp_path / f"s{image_id}.tif", pixels, photometric="rgb", metadata=None)
        images.append({"id": 10 * image_id, "file_name": f"s{image_id}.tif"})
    valid = np.ones((257, 190), np.uint8)
    valid[:, 100:] = 0
    tifffile.imwrite(tmp_path / "valid.tif", valid)
    images[1]["assets"] = [{"name": "valid", "file_name": "valid.tif"}]
    tissue = np.zeros((75, 105), np.uint8)
    tissue[10:50, 12:40] = 1
    tifffile.imwrite(tmp_path / "tissue.tif", tissue)
    images[0]["assets"] = [{"name": "tissue", "file_name": "tissue.tif"}]
    for image_id, category, box in [
        (10, 1, [5, 5, 90, 80]),
        (10, 2, [50, 60, 200, 30]),
        (20, 1, [80, 9, 50, 40]),
    ]:
        annotations.append(
            {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "bbox": box}
        )
    annotations.append({"id": 9, "image_id": 10, "category_id": None, "bbox": [300, 200, 60, 60]})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}],
    }
    path = tmp_path / "slides.json"
    path.write_text(json.dumps(document))
    return path


def arrays_of(index: ForegroundIndex):
    return index.columns.to_arrays()


def assert_same(one: ForegroundIndex, other: ForegroundIndex) -> None:
    for name, array in arrays_of(one).items():
        found = arrays_of(other)[name]
        assert found.dtype == array.dtype, name
        np.testing.assert_array_equal(found, array, err_msg=name)


def folder_of(sampler: Sampler) -> Path:
    store = CacheStore(sampler.workdir)
    return workdir_catalog(sampler.manifest, store, sampler.label_spec)


def generation_of(folder: Path) -> Path:
    return folder / json.loads((folder / "catalog.json").read_bytes())["generation"]


@pytest.fixture
def built(slides, tmp_path):
    sampler = Sampler(slides, tmp_path / "cache", "npy")
    assert sampler.build().ok
    return sampler


def masks_and_slots(sampler):
    """Count every class of every image in its mask, with numpy."""
    for image_id in sampler.image_ids:
        height, width, _ = sampler.image_shape(image_id)
        mask = sampler.load_mask(image_id, Window(0, 0, height, width))
        valid = mask != sampler.class_map.ignore
        yield image_id, mask, valid


@pytest.mark.parametrize("tissue", ["auto", "otsu", "none"])
def test_the_same_index_from_masks_and_from_any_cache(slides, tmp_path, tissue):
    spec = LabelSpec(tissue=tissue)
    in_place = Sampler(slides, label_spec=spec)
    made = in_place.foreground
    for backend in ("npy", "cog"):
        sampler = Sampler(slides, tmp_path / backend, backend, label_spec=spec)
        assert sampler.build().ok
        assert_same(sampler.foreground, made)
    # And in the rows that the manifest has.
    for row, (image_id, mask, valid) in enumerate(masks_and_slots(in_place)):
        assert made.row(image_id) == row
        assert made.pixels[row, :3].tolist() == [int(valid.sum()), (mask == 1).sum(), (mask == 2).sum()]
        assert 0 <= made.pixels[row, 3] <= valid.sum()
    assert (made.pixels[0, 3] < made.pixels[0, 0]) == (tissue != "none")
    assert (made.pixels[1, 3] < made.pixels[1, 0]) == (tissue == "otsu")


def test_tissue_of_a_mask_is_what_of_it_is_valid(slides):
    index = Sampler(slides).foreground
    _, _, valid = next(iter(masks_and_slots(Sampler(slides))))
    tissue = np.zeros((300, 420), bool)
    tissue[40:200, 48:160] = True
    assert index.pixels[0, 3] == (tissue & valid).sum()


def test_a_tissue_mask_that_is_asked_for_must_be_there(slides, tmp_path):
    sampler = Sampler(slides, tmp_path / "cache", "npy", label_spec=LabelSpec(tissue="mask"))
    with pytest.raises(ManifestError, match=r"image 20 \(s2\).*names no mask for this image"):
        Sampler(slides, label_spec=LabelSpec(tissue="mask")).foreground.row(20)
    report = sampler.build()
    assert [(row.image_id, row.what) for row in report.failed] == [(20, "labels"), (30, "labels")]
    assert "image 20 (s2)" in report.failed[0].reason
    assert "tissue='otsu'" in report.failed[0].reason
    # The layer that was built is that of this tissue, and commands say so.
    assert not (tmp_path / "cache" / "index").exists()
    assert "--tissue mask" in CacheStore(tmp_path, label_spec=sampler.label_spec).build_command(
        sampler.image_record(10), "npy"
    )


def test_some_images_without_a_label_layer(slides, tmp_path):
    sampler = Sampler(slides, tmp_path / "cache", "npy")
    assert sampler.build(only_images=[10]).ok
    partial = Sampler(slides, tmp_path / "cache")
    assert_same(partial.foreground, Sampler(slides).foreground)
    # The workdir has no catalog of what it does not have.
    assert not (tmp_path / "cache" / "index").exists()


def test_it_is_made_once_and_dropped_by_refresh(built):
    first = built.foreground
    assert built.foreground is first
    assert "foreground" not in built.__getstate__()
    built.refresh()
    assert built.foreground is not first
    assert_same(built.foreground, first)


def test_a_manifest_without_images():
    with pytest.raises(SamplingError, match="no images"):
        _ = Sampler({"images": []}).foreground


# Opening ------------------------------------------------------------------------------------------------------


def forbid_making(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("it was there")

    monkeypatch.setattr("slidesampler.foregrounds.ForegroundFinder._make", fail)


def test_opening_reads_no_pixels_and_parses_no_entry(built, slides, monkeypatch):
    forbid_making(monkeypatch)
    for name in ("read", "read_valid"):
        monkeypatch.setattr(NpyReader, name, lambda *arguments, **options: pytest.fail("pixels were read"))
    monkeypatch.setattr(
        "slidesampler.cache.store.load_entry", lambda folder: pytest.fail("an entry was parsed")
    )
    assert len(Sampler(slides, built.workdir).foreground) == 3


def test_a_build_leaves_the_catalog_and_finds_it_again(built, slides, monkeypatch):
    folder = folder_of(built)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {row.status for row in built.build()} == {"reused"}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    forbid_making(monkeypatch)
    assert len(Sampler(slides, built.workdir).foreground) == 3


def test_a_workdir_that_has_moved(built, slides, tmp_path, monkeypatch):
    Path(built.workdir).rename(tmp_path / "moved")
    forbid_making(monkeypatch)
    assert len(Sampler(slides, tmp_path / "moved").foreground) == 3


def test_large_columns_are_mapped(built, slides, monkeypatch):
    monkeypatch.setattr("slidesampler.foreground.mapped._MAP_FROM_BYTES", 0)
    index = Sampler(slides, built.workdir).foreground
    assert_same(index, Sampler(slides).foreground)
    assert not index.columns.rects.flags.writeable


# Staleness ----------------------------------------------------------------------------------------------------


def test_edited_annotations_are_seen(built, slides):
    before = built.foreground.pixels.copy()
    document = json.loads(slides.read_text())
    document["annotations"][0]["bbox"] = [0, 0, 10, 10]
    slides.write_text(json.dumps(document))
    now = Sampler(slides, built.workdir).foreground.pixels
    assert now[0, 1] != before[0, 1]
    assert (now[1:] == before[1:]).all()


def test_a_rebuilt_entry_makes_the_catalog_stale(built, slides):
    folder = folder_of(built)
    assert not catalog_module.catalog_state(folder, Path(built.workdir))
    first = generation_of(folder)
    assert built.build(only_images=[20], force=True, labels=True).ok
    # The build has made it again.
    assert generation_of(folder) != first
    assert not first.exists()
    assert not catalog_module.catalog_state(folder, Path(built.workdir))


def test_a_catalog_that_is_out_of_date_is_made_again_on_demand(built, slides):
    folder = folder_of(built)
    labels = sorted((Path(built.workdir) / "labels").glob("*/entry.json"))
    os.utime(labels[0], ns=(1, 1))
    assert catalog_module.open_catalog(folder, Path(built.workdir)) is None
    assert_same(Sampler(slides, built.workdir).foreground, built.foreground)
    assert catalog_module.open_catalog(folder, Path(built.workdir)) is not None


def test_an_edited_source_is_said_to_be_stale(built, slides, tmp_path):
    for path in sorted((Path(built.workdir) / "labels").glob("*/entry.json"))[:1]:
        os.utime(path, ns=(1, 1))
    pixels = tifffile.imread(tmp_path / "s1.tif")
    tifffile.imwrite(tmp_path / "s1.tif", pixels[::-1], photometric="rgb", metadata=None)
    index = Sampler(slides, built.workdir).foreground
    (image_id,) = index.missing
    with pytest.raises(StaleEntryError, match="slidesampler build"):
        index.row(image_id)
    # What the others are is not kept: the next one looks again.
    assert catalog_module.open_catalog(folder_of(built), Path(built.workdir)) is None


def test_sources_without_a_cache_are_watched(slides, tmp_path, monkeypatch):
    first = Sampler(slides).foreground
    with monkeypatch.context() as patched:
        forbid_making(patched)
        assert_same(Sampler(slides).foreground, first)
    tissue = np.zeros((75, 105), np.uint8)
    tifffile.imwrite(tmp_path / "tissue.tif", tissue)
    assert Sampler(slides).foreground.pixels[0, 3] == 0


def test_arrays_in_memory_leave_no_trace(user_cache):
    pixels = np.zeros((50, 60, 3), np.uint8)
    manifest = {
        "images": [{"id": 1, "file_name": "array://a"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    index = Sampler(manifest, arrays={"a": pixels}).foreground
    assert index.pixels.tolist() == [[3000, 12, 3000]]
    assert not user_cache.exists()


# Damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    ["garbage", "empty", "list", "nested", "foreign", "cut", "missing", "shape", "generation", "names"],
)
def test_damage_is_mended(built, slides, damage):
    expected = Sampler(slides).foreground
    folder = folder_of(built)
    record, data = folder / "catalog.json", generation_of(folder)
    values = json.loads(record.read_bytes())
    if damage == "garbage":
        record.write_bytes(b"\xff{")
    elif damage == "empty":
        record.write_bytes(b"")
    elif damage == "list":
        record.write_text("[1]")
    elif damage == "nested":
        record.write_text("[" * 100_000)
    elif damage == "foreign":
        record.write_text(json.dumps({**values, "generation": "../../images"}))
    elif damage == "cut":
        path = data / "rects.npy"
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "missing":
        (data / "keys.npy").unlink()
    elif damage == "shape":
        np.save(data / "pixels.npy", np.zeros((2, 2), np.int64))
    elif damage == "generation":
        record.write_text(json.dumps({**values, "generation": "0badf00d"}))
    else:
        np.save(data / "witness_names.npy", np.zeros(5, np.uint8))
    assert catalog_module.open_catalog(folder, Path(built.workdir)) is None
    assert_same(Sampler(slides, built.workdir).foreground, expected)
    assert not catalog_module.catalog_state(folder, Path(built.workdir), full=True)
    assert not catalog_module.catalog_debris(folder)


def test_a_damaged_index_of_an_entry_is_built_again(built, slides):
    store = CacheStore(built.workdir)
    manifest = built.manifest
    entry = store.find_labels(manifest, manifest.record(10), None, LabelSpec())
    Path(entry.files["index"]).write_bytes(b"PK")
    assert {row.status for row in audit(built.workdir) if row.kind == "labels"} == {"ok", "corrupt"}
    report = built.build()
    assert [row.status for row in report].count("built") == 1
    assert_same(built.foreground, Sampler(slides).foreground)


def test_layers_without_an_index_are_built_again(built, slides):
    store = CacheStore(built.workdir)
    entry = store.find_labels(built.manifest, built.manifest.record(20), None, LabelSpec())
    path = Path(entry.folder) / "entry.json"
    values = json.loads(path.read_bytes())
    for name in ("files", "sizes_bytes", "checksums"):
        del values[name]["index"]
    # As an older version wrote it: nothing of tissue either.
    del values["spec"]["label_spec"]["tissue"], values["source"]["record"]["tissue"]
    path.write_text(json.dumps(values))
    # It still serves masks, and the index is made on the spot.
    assert_same(Sampler(slides, built.workdir).foreground, Sampler(slides).foreground)
    rows = [row for row in built.plan() if row.action != "reuse"]
    assert [(row.image_id, row.reason) for row in rows] == [
        (20, "a foreground index was asked for and the entry has none")
    ]
    assert built.build().ok
    assert_same(built.foreground, Sampler(slides).foreground)


def test_check_knows_catalogs(built, slides):
    def kinds():
        return [(row.kind, row.status) for row in audit(built.workdir) if row.kind in ("index", "debris")]

    folder = folder_of(built)
    assert kinds() == [("index", "ok")]
    (folder / "0badf00d.partial").mkdir()
    assert kinds() == [("debris", "orphan")]
    with entry_lock(folder):
        assert kinds() == []
    data = generation_of(folder) / "counts.npy"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(bytes(content))
    assert kinds() == [("index", "corrupt")]
    assert [row.done for row in audit(built.workdir, repair=True) if row.kind == "index"] == ["removed"]
    assert not folder.exists()
    assert {row.status for row in audit(built.workdir)} == {"ok"}
    assert_same(Sampler(slides, built.workdir).foreground, Sampler(slides).foreground)
    assert kinds() == [("index", "ok")]
    os.utime(next((Path(built.workdir) / "labels").glob("*/entry.json")), ns=(1, 1))
    assert kinds() == [("index", "orphan")]
    # The next build removes what does not hold, and makes it again.
    assert built.build().ok
    assert kinds() == [("index", "ok")]


# Several at once ----------------------------------------------------------------------------------------------


def find_in_process(path, workdir, queue, barrier):
    barrier.wait()
    index = Sampler(path, workdir).foreground
    queue.put({name: array.tobytes() for name, array in arrays_of(index).items()})


def test_processes_that_make_it_at_once(built, slides):
    expected = {name: array.tobytes() for name, array in arrays_of(Sampler(slides).foreground).items()}
    folder = folder_of(built)
    (folder / "catalog.json").write_bytes(b"{")
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(3)
    processes = [
        context.Process(target=find_in_process, args=(str(slides), built.workdir, queue, barrier))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found == [expected] * 3
    assert not catalog_module.catalog_debris(folder)


def test_readers_never_see_half(built, slides):
    """Who opens it while it is replaced gets a whole one, or none."""
    folder, base = folder_of(built), Path(built.workdir)
    expected = Sampler(slides).foreground
    script = f"""
import sys
from pathlib import Path
from slidesampler.cache.catalog import Witnesses, open_catalog, publish_catalog
from slidesampler.cache.publish import entry_lock
folder, base = Path({str(folder)!r}), Path({str(base)!r})
columns = open_catalog(folder, base)
entries = [path.parent for path in sorted((base / "labels").glob("*/entry.json"))]
for _ in range(30):
    with entry_lock(folder):
        publish_catalog(folder, columns, Witnesses.of_entries(base, entries))
"""
    writer = subprocess.Popen([sys.executable, "-c", script])
    opened = 0
    while writer.poll() is None:
        columns = catalog_module.open_catalog(folder, base)
        if columns is not None:
            assert_same(ForegroundIndex(columns), expected)
            opened += 1
    assert writer.returncode == 0
    assert opened > 3


def test_a_killed_writer_leaves_what_was_there(built, slides):
    folder, base = folder_of(built), Path(built.workdir)
    expected = Sampler(slides).foreground
    script = f"""
import time
from pathlib import Path
import slidesampler.cache.catalog as catalog
from slidesampler.cache.publish import entry_lock
folder, base = Path({str(folder)!r}), Path({str(base)!r})
columns = catalog.open_catalog(folder, base)
def wait(*arguments):
    print("here", flush=True)
    time.sleep(60)
catalog.write_atomically = wait
with entry_lock(folder):
    catalog.publish_catalog(folder, columns, catalog.Witnesses.none())
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "here\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert_same(Sampler(slides, built.workdir).foreground, expected)
    assert len(catalog_module.catalog_debris(folder)) == 1
    assert built.build().ok
    assert not catalog_module.catalog_debris(folder)


def test_a_failed_writer_leaves_what_was_there(built, monkeypatch):
    folder, base = folder_of(built), Path(built.workdir)
    columns = catalog_module.open_catalog(folder, base)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catalog_module, "write_atomically", full)
    with entry_lock(folder), pytest.raises(OSError, match="No space"):
        catalog_module.publish_catalog(folder, columns, catalog_module.Witnesses.none())
    assert catalog_module.open_catalog(folder, base) is not None
    assert not catalog_module.catalog_debris(folder)


def test_a_workdir_that_cannot_be_written(built, slides, user_cache, monkeypatch):
    folder = folder_of(built)
    expected = built.foreground
    for item in sorted(folder.parent.rglob("*"), reverse=True):
        item.rmdir() if item.is_dir() else item.unlink()
    folder.parent.rmdir()
    # In place of the folder: not even root can make another.
    folder.parent.write_bytes(b"")
    assert_same(Sampler(slides, built.workdir).foreground, expected)
    assert len(list(user_cache.rglob("catalog.json"))) == 1
    with monkeypatch.context() as patched:
        forbid_making(patched)
        assert_same(Sampler(slides, built.workdir).foreground, expected)
    # It belongs to that workdir: nothing says that a sampler without it may use it.
    for path in (Path(built.workdir) / "labels").glob("*/entry.json"):
        os.utime(path, ns=(1, 1))
    assert_same(Sampler(slides, built.workdir).foreground, expected)
    # And where nothing at all can be written it is made in memory.
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    assert_same(Sampler(slides, built.workdir).foreground, expected)


def test_threads_get_the_same(built, slides):
    sampler = Sampler(slides, built.workdir)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: sampler.foreground.place(0, 1, 5), range(32)))
    assert found == [sampler.foreground.place(0, 1, 5)] * 32


def test_the_same_on_synthetic_slides(tmp_path):
    """Real outlines with holes, and noise of compression: every mask against every count."""
    path = make_dataset(tmp_path / "data", n_slides=1, height=600, width=500)
    sampler = Sampler(path, tmp_path / "cache", "cog", label_spec=LabelSpec(tissue="otsu"))
    assert sampler.build().ok
    assert_same(sampler.foreground, Sampler(path, label_spec=LabelSpec(tissue="otsu")).foreground)
    ((_, mask, valid),) = masks_and_slots(sampler)
    counts = [int(valid.sum()), *(int((mask == one).sum()) for one in range(1, len(sampler.class_map.names)))]
    assert sampler.foreground.pixels[0, :-1].tolist() == counts
    assert min(counts[:2]) > 0
    share = sampler.foreground.pixels[0, -1] / valid.sum()
    assert 0.3 < share < 0.7
