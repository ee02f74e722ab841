"""Plans, reports, and what becomes of images that cannot be built."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from osgeo import gdal

import slidesampler.cache.verify
import slidesampler.cache.write
from slidesampler import Sampler, Window
from slidesampler.cache import BuildSpec, SilentProgress, build, make, plan_build
from slidesampler.errors import StaleEntryError, TargetError
from slidesampler.models import LabelSpec
from slidesampler.readers import register_array, spec_for_record, unregister_array


def statuses(report) -> list[str]:
    return [row.status for row in report]


def tree(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
    }


def plan(bundle, backend="npy", *, force=False, only_images=None, **options):
    options.setdefault("labels", bundle.has_labels)
    spec = BuildSpec(backend=backend, **options)
    return plan_build(bundle.manifest, spec, bundle.store, only_images=only_images, force=force)


def test_plan_says_what_and_why(make_bundle):
    bundle = make_bundle(3)
    bundle.annotate(2, [1, 1, 5, 5])
    first = plan(bundle)
    assert [(row.image_id, row.what, row.action, row.reason) for row in first] == [
        (image_id, what, "build", "not in the cache") for image_id in (1, 2, 3) for what in ("image", "labels")
    ]
    # A plan makes nothing, not even the workdir.
    assert not bundle.workdir.exists()
    assert bundle.build().ok
    before = tree(bundle.workdir)
    assert plan(bundle).counts == {"reuse": 6}
    assert plan(bundle).work == ()
    assert plan(bundle, force=True).counts == {"rebuild": 6}
    assert {row.reason for row in plan(bundle, force=True)} == {"forced"}
    bundle.write(2, bundle.pixels[2][::-1])
    Path(bundle.find(1).files["image"]).unlink()
    before = tree(bundle.workdir)
    after_edits = plan(bundle)
    assert [row.action for row in after_edits] == ["rebuild", "reuse", *["rebuild"] * 2, *["reuse"] * 2]
    assert after_edits.rows[0].reason.startswith("corrupt: ")
    assert after_edits.rows[2].reason.startswith("stale: ")
    assert tree(bundle.workdir) == before
    assert json.loads(json.dumps(after_edits.to_dict()))["counts"] == {"rebuild": 3, "reuse": 3}
    assert pickle.loads(pickle.dumps(after_edits)) == after_edits


def test_labels_are_planned_also_where_there_is_nothing_to_label(bundle):
    # A normal slide has tissue, and an index that negatives are chosen from.
    assert [row.what for row in plan(bundle, labels=True)] == ["image", "labels"]
    assert [row.what for row in plan(bundle, labels=False)] == ["image"]
    assert [row.what for row in plan(bundle, labels=False, instances=True)] == ["image", "labels"]


def test_second_build_does_nothing(make_bundle):
    bundle = make_bundle(2)
    bundle.annotate(1, [1, 1, 5, 5])
    assert statuses(bundle.build()) == ["built"] * 4
    before = tree(bundle.workdir)
    report = bundle.build()
    assert statuses(report) == ["reused"] * 4
    assert {row.reason for row in report} == {"up to date"}
    assert tree(bundle.workdir) == before
    assert report.size_bytes == sum(entry.size_bytes for entry in bundle.store.entries())


def test_force_builds_again(bundle, debris):
    bundle.build()
    before = bundle.find()
    report = bundle.build(force=True)
    assert (report.rows[0].status, report.rows[0].reason) == ("built", "forced")
    after = bundle.find()
    assert after.created > before.created
    assert after.key == before.key
    assert not Path(before.files["image"]).exists()
    assert debris(bundle.workdir) == []


def test_only_images(make_bundle):
    bundle = make_bundle(3)
    assert [row.image_id for row in bundle.build(only_images=[3, 1])] == [1, 3]
    with pytest.raises(TargetError, match="99"):
        bundle.build(only_images=[1, 99])
    assert statuses(bundle.build()) == ["reused", "built", "reused"]


def test_no_image_at_all(bundle):
    report = bundle.build(only_images=[])
    assert report.ok
    assert len(report) == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_images_do_not_stop_the_others(make_bundle, debris, jobs):
    bundle = make_bundle(6)
    bundle.path(2).unlink()
    bundle.path(3).write_bytes(b"this is no image")
    bundle.document["images"][3]["width"] = 91
    bundle.write(5, np.zeros((20, 20, 3), np.float64))
    data = bundle.path(6).read_bytes()
    bundle.path(6).write_bytes(data[: len(data) // 2])
    report = bundle.build("cog", jobs=jobs)
    assert [(row.image_id, row.what, row.status) for row in report] == [
        (1, "image", "built"),
        (2, "image", "failed"),
        (3, "image", "failed"),
        (4, "image", "failed"),
        (5, "image", "failed"),
        (6, "image", "failed"),
    ]
    assert not report.ok
    reasons = {row.image_id: row.reason for row in report}
    assert reasons[2].startswith("SourceMissingError: ")
    assert reasons[3].startswith("UnsupportedSourceError: ")
    assert reasons[4].startswith("ManifestError: ")
    assert "width is 91 in the manifest" in reasons[4]
    assert "float64" in reasons[5]
    assert reasons[6].startswith("ReadError: ")
    assert [row.path for row in report.failed] == [str(bundle.path(i)) for i in (2, 3, 4, 5, 6)]
    assert debris(bundle.workdir) == []
    assert bundle.find(1, "cog").shape == (60, 90, 3)
    assert pickle.loads(pickle.dumps(report)) == report
    said = json.loads(report.to_json())
    assert said["counts"] == {"built": 1, "failed": 5}
    assert said["rows"][1]["reason"] == reasons[2]
    assert said["ok"] is False


def test_codec_that_cannot_hold_the_pixels_fails_that_image(make_bundle):
    bundle = make_bundle(2)
    tifffile.imwrite(bundle.path(1), np.zeros((40, 40), np.uint16))
    report = bundle.build("cog", codec="jpeg")
    assert statuses(report) == ["failed", "built"]
    assert report.rows[0].reason.startswith("CodecError: ")
    entry = bundle.find(2, "cog")
    assert (entry.codec, entry.quality, entry.lossless) == ("jpeg", 90, False)
    recorded = json.loads(Path(entry.folder, "entry.json").read_text())
    assert (recorded["codec"], recorded["quality"], recorded["lossless"]) == ("jpeg", 90, False)


def test_source_edited_while_it_is_read_is_not_published(bundle, monkeypatch, debris):
    write_image = slidesampler.cache.write.write_image

    def slow_write(*args, **kwargs):
        written = write_image(*args, **kwargs)
        bundle.write(1, bundle.pixels[1][::-1])
        return written

    monkeypatch.setattr(slidesampler.cache.write, "write_image", slow_write)
    [row] = bundle.build()
    assert row.status == "failed"
    assert "changed while it was read" in row.reason
    assert debris(bundle.workdir) == []


def test_written_pixels_that_differ_are_not_published(bundle, monkeypatch, debris):
    write_image = slidesampler.cache.write.write_image

    def wrong_write(reader, folder, *args, **kwargs):
        written = write_image(reader, folder, *args, **kwargs)
        pixels = np.load(folder / "image.npy", mmap_mode="r+")
        pixels[0, 0, 0] ^= 1
        pixels.flush()
        return written

    monkeypatch.setattr(slidesampler.cache.write, "write_image", wrong_write)
    [row] = bundle.build()
    assert row.status == "failed"
    assert row.reason.startswith("BuildError: ")
    assert debris(bundle.workdir) == []


def test_full_hash_closes_the_gap_between_sampled_blocks(make_bundle, edit_in_secret, new_process):
    bundle = make_bundle(size=(1100, 1000))

    def flip(data):
        data[100_000] ^= 255

    bundle.build()
    [row] = bundle.build(full_hash=True)
    assert (row.status, row.reason) == (
        "built",
        "a hash of the whole source was asked for and the entry has none",
    )
    assert statuses(bundle.build(full_hash=True)) == ["reused"]
    assert statuses(bundle.build()) == ["reused"]
    new_process()
    edit_in_secret(bundle.path(1), flip)
    with pytest.raises(StaleEntryError, match="other content"):
        bundle.find()


# COGs in place ------------------------------------------------------------------------------------------------


@pytest.fixture
def cog_bundle(make_bundle):
    """Two slides, of which the first is a valid COG of another codec and tile than a build would give."""
    bundle = make_bundle(2)
    pixels = np.random.default_rng(5).integers(0, 255, (700, 600, 3), np.uint8)
    bundle.pixels[1] = pixels
    memory = gdal.GetDriverByName("MEM").Create("", 600, 700, 3, gdal.GDT_Byte)
    memory.WriteArray(pixels.transpose(2, 0, 1))
    options = ["COMPRESS=DEFLATE", "BLOCKSIZE=128", "OVERVIEW_RESAMPLING=AVERAGE"]
    gdal.GetDriverByName("COG").CreateCopy(str(bundle.path(1)), memory, options=options)
    return bundle


def test_valid_cog_is_recorded_and_not_copied(cog_bundle, debris):
    assert [row.action for row in plan(cog_bundle, "cog")] == ["in-place", "build"]
    report = cog_bundle.build("cog")
    assert statuses(report) == ["in-place", "built"]
    entry = cog_bundle.find(1, "cog")
    assert entry.in_place
    assert entry.files["image"] == str(cog_bundle.path(1))
    # Besides its record there is at most the table of its tiles.
    own = [path for path in Path(entry.folder).glob("*/*") if path.is_file()]
    assert [str(path) for path in own] == [name for role, name in entry.files.items() if role != "image"]
    assert report.rows[0].size_bytes == entry.size_bytes == sum(path.stat().st_size for path in own) < 10_000
    assert (entry.codec, entry.tile, entry.lossless, entry.shape) == ("deflate", 128, True, (700, 600, 3))
    assert len(entry.levels) >= 3
    assert debris(cog_bundle.workdir) == []
    assert statuses(cog_bundle.build("cog")) == ["reused", "reused"]
    # Found by what it is, and by what was asked for.
    assert cog_bundle.find(1, "cog", codec="deflate", tile=128) == entry
    assert cog_bundle.find(1, "cog", tile=256) == entry


def test_forced_build_copies_a_valid_cog(cog_bundle):
    cog_bundle.build("cog")
    report = cog_bundle.build("cog", force=True, only_images=[1])
    assert statuses(report) == ["built"]
    entry = cog_bundle.find(1, "cog")
    assert not entry.in_place
    assert entry.tile == 256
    assert np.array_equal(
        gdal.Open(entry.files["image"]).ReadAsArray().transpose(1, 2, 0), cog_bundle.pixels[1]
    )
    # The copy stays, also when nothing is forced.
    assert statuses(cog_bundle.build("cog", only_images=[1])) == ["reused"]


def test_npy_is_never_in_place(cog_bundle):
    assert statuses(cog_bundle.build("npy")) == ["built", "built"]


def test_edited_or_lost_cog_in_place_is_stale(cog_bundle):
    cog_bundle.build("cog")
    path = cog_bundle.path(1)
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(StaleEntryError, match="is not there"):
        cog_bundle.find(1, "cog")
    path.write_bytes(data)
    with pytest.raises(StaleEntryError, match="was modified"):
        cog_bundle.find(1, "cog")
    assert statuses(cog_bundle.build("cog")) == ["in-place", "reused"]
    cog_bundle.write(1, cog_bundle.pixels[1])
    # No COG any more: copied now.
    assert statuses(cog_bundle.build("cog")) == ["built", "reused"]
    assert not cog_bundle.find(1, "cog").in_place


# Arrays in memory ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_memory(make_bundle):
    bundle = make_bundle(2)
    bundle.document["images"].append({"id": 3, "file_name": "array://in memory"})
    bundle.pixels[3] = np.random.default_rng(1).integers(0, 255, (50, 40, 3), np.uint8)
    register_array("in memory", bundle.pixels[3])
    yield bundle
    unregister_array("in memory")


def test_arrays_are_built_where_they_are(in_memory):
    report = in_memory.build(jobs=2)
    assert statuses(report) == ["built"] * 3
    np.testing.assert_array_equal(np.load(in_memory.find(3).files["image"]), in_memory.pixels[3])


def test_another_array_of_that_name_is_another_source(in_memory):
    in_memory.build()
    in_memory.pixels[3][...] += 1
    with pytest.raises(StaleEntryError, match="holds other values"):
        in_memory.find(3)
    assert statuses(in_memory.build()) == ["reused", "reused", "built"]
    register_array("in memory", in_memory.pixels[3].astype(np.int16))
    with pytest.raises(StaleEntryError):
        in_memory.find(3)


def test_process_without_the_array_reads_its_entry(in_memory):
    in_memory.build()
    unregister_array("in memory")
    assert in_memory.find(3).shape == (50, 40, 3)
    assert statuses(in_memory.build()) == ["reused"] * 3
    report = in_memory.build("cog")
    assert statuses(report) == ["built", "built", "failed"]
    assert "not registered in this process" in report.rows[2].reason


# Labels -------------------------------------------------------------------------------------------------------


def test_labels_of_slides_in_cold_storage_are_made_from_the_cached_image(bundle):
    with_alpha = np.dstack([bundle.pixels[1], np.full((60, 90), 255, np.uint8)])
    with_alpha[:, 50:, 3] = 0
    tifffile.imwrite(bundle.path(1), with_alpha, photometric="rgb", extrasamples=["unassalpha"])
    bundle.build()
    away = bundle.folder.rename(bundle.folder.with_name("away"))
    bundle.annotate(1, [40, 10, 20, 20])
    report = bundle.build()
    assert statuses(report) == ["reused", "built"]
    manifest = bundle.manifest
    entry = bundle.store.find_labels(manifest, manifest.record(1), (60, 90), LabelSpec())
    expected = np.zeros((60, 90), np.uint8)
    expected[10:30, 40:60] = 1
    expected[:, 50:] = 255
    np.testing.assert_array_equal(gdal.Open(entry.files["labels"]).ReadAsArray(), expected)
    # When the slide is back it is compared with what the image was built from.
    away.rename(bundle.folder)
    assert statuses(bundle.build()) == ["reused", "reused"]
    bundle.write(1, bundle.pixels[1])
    with pytest.raises(StaleEntryError):
        bundle.store.find_labels(manifest, manifest.record(1), (60, 90), LabelSpec())


def test_label_rasters_are_part_of_a_label_layer(bundle):
    raster = np.zeros((60, 90), np.uint8)
    raster[:10] = 2
    tifffile.imwrite(bundle.folder / "labels.tif", raster)
    image = bundle.document["images"][0]
    image["assets"] = [
        {"file_name": image.pop("file_name"), "channels": "r|g|b"},
        {"file_name": "labels.tif", "channels": "labels"},
    ]
    image |= {"width": 90, "height": 60}
    assert statuses(bundle.build()) == ["built", "built"]
    manifest = bundle.manifest
    entry = bundle.store.find_labels(manifest, manifest.record(1), (60, 90), LabelSpec())
    np.testing.assert_array_equal(gdal.Open(entry.files["labels"]).ReadAsArray(), raster)
    raster[:] = 1
    tifffile.imwrite(bundle.folder / "labels.tif", raster)
    assert statuses(bundle.build()) == ["reused", "built"]
    # A raster with a category that the manifest has not got fails its layer, and only that.
    raster[:] = 77
    tifffile.imwrite(bundle.folder / "labels.tif", raster)
    report = bundle.build()
    assert statuses(report) == ["reused", "failed"]
    assert report.rows[1].reason.startswith("ManifestError: ")
    assert "77" in report.rows[1].reason


# Progress -----------------------------------------------------------------------------------------------------


class Recorder(SilentProgress):
    def __init__(self):
        self.events = []

    def planned(self, plan):
        self.events.append(("planned", len(plan)))

    def started(self, row, megapixels):
        self.events.append(("started", row.image_id, row.what, megapixels))

    def advanced(self, row, megapixels):
        self.events.append(("advanced", row.image_id, row.what, megapixels))

    def finished(self, row):
        self.events.append(("finished", row.image_id, row.what, row.status))


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_is_told_of_every_pixel(make_bundle, jobs):
    bundle = make_bundle(3, size=(200, 300))
    bundle.annotate(1, [5, 5, 20, 20])
    bundle.build(only_images=[2], labels=False)
    bundle.path(3).write_bytes(b"no image")
    progress = Recorder()
    report = bundle.build(jobs=jobs, progress=progress)
    assert progress.events[0] == ("planned", 6)
    by_row = {}
    for event, image_id, what, value in progress.events[1:]:
        by_row.setdefault((image_id, what), []).append((event, value))
    for what in ("image", "labels"):
        events = by_row[1, what]
        assert events[0] == ("started", 0.06)
        assert events[-1] == ("finished", "built")
        assert {name for name, _ in events[1:-1]} == {"advanced"}
        assert sum(value for _, value in events[1:-1]) == pytest.approx(0.06)
    assert by_row[2, "image"] == [("finished", "reused")]
    assert by_row[3, "image"][-1] == ("finished", "failed")
    # Two layers of image 1, and the labels of image 2.
    assert report.megapixels == pytest.approx(0.06 * 2 + 0.0603)


def test_jobs_must_be_positive(bundle):
    with pytest.raises(ValueError, match="jobs"):
        bundle.build(jobs=0)


def test_report_is_for_the_whole_plan_in_its_order(make_bundle):
    bundle = make_bundle(4)
    bundle.build(only_images=[2])
    report = build(bundle.manifest, BuildSpec(backend="npy", labels=False), bundle.store, jobs=2)
    assert [(row.image_id, row.status) for row in report] == [
        (1, "built"),
        (2, "reused"),
        (3, "built"),
        (4, "built"),
    ]
    assert report.counts == {"built": 3, "reused": 1}
    assert (report.workdir, report.backend) == (str(bundle.workdir), "npy")


def test_a_missing_file_is_reported_under_its_image_and_field(make_bundle):
    bundle = make_bundle(2)
    bundle.path(1).unlink()
    bundle.document["images"][1]["assets"] = [{"name": "labels", "file_name": "gone.png"}]
    reasons = [(row.image_id, row.what, row.reason) for row in bundle.build().failed]
    assert [reason[:2] for reason in reasons] == [(1, "image"), (1, "labels"), (2, "labels")]
    assert reasons[0][2].startswith(
        f"SourceMissingError: image 1 (s1): file_name: {bundle.path(1)} is not there"
    )
    assert reasons[2][2].startswith(
        f"SourceMissingError: image 2 (s2): labels: {bundle.folder / 'gone.png'} is"
    )


def test_a_size_that_disagrees_is_reported_although_the_entry_is_there(make_bundle):
    bundle = make_bundle(1)
    width = bundle.pixels[1].shape[1]
    assert bundle.build().ok
    bundle.document["images"][0]["width"] = width + 1
    (row,) = plan(bundle)
    assert (row.action, row.reason) == (
        "rebuild",
        f"width is {width + 1} in the manifest, the entry has {width}",
    )
    (row,) = bundle.build()
    assert (row.status, row.reason.split(";")[0]) == (
        "failed",
        f"ManifestError: image 1 (s1): width is {width + 1} in the manifest, but {bundle.path(1)} has {width}",
    )
    bundle.document["images"][0]["width"] = width
    assert [row.status for row in bundle.build()] == ["reused"]


def test_labels_of_a_built_image_do_not_open_the_source_again(bundle, monkeypatch):
    """A slide that OpenSlide reads says which pixels are valid only by decoding them all."""
    opened = []

    def counting(record):
        opened.append(record.image_id)
        return spec_for_record(record)

    monkeypatch.setattr(make, "spec_for_record", counting)
    bundle.annotate(1, [2, 3, 20, 10])
    assert [row.status for row in bundle.build() if row.image_id == 1] == ["built", "built"]
    assert opened.count(1) == 1
    assert [row.status for row in bundle.build(force=True) if row.image_id == 1] == ["built", "built"]
    assert opened.count(1) == 2
    mask = Sampler(bundle.manifest, bundle.workdir, "npy").load_mask(1, Window(0, 0, 20, 30))
    assert mask[3:13, 2:22].all()
    assert mask.sum() == 200
