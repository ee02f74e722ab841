"""Which sources and options are the same, and which are not."""

import gc
import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest

from slidesampler.cache import BuildSpec, fingerprint
from slidesampler.cache.companions import companion_files, local_file
from slidesampler.cache.fingerprint import (
    FileStamp,
    array_digest,
    compare_hashes,
    compare_stamps,
    sampled_digest,
    stamp_sources,
    with_hashes,
)
from slidesampler.cache.key import (
    entry_key,
    image_folder_name,
    label_folder_name,
    variant_folder_name,
)
from slidesampler.models import Asset, ClassMap, ImageRecord, LabelSpec

CLASSES = ClassMap(("background", "tumour"), {1: 1})


def record_of(*paths, valid=None, labels=None):
    return ImageRecord(
        1,
        "a",
        tuple(Asset(str(path)) for path in paths),
        valid=valid and Asset(str(valid)),
        labels=labels and Asset(str(labels)),
    )


def test_folder_follows_from_the_resolved_path_alone(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder / "slide.tif").write_bytes(b"same")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    one = image_folder_name(record_of(tmp_path / "one" / "slide.tif"))
    assert one.startswith("slide-")
    assert image_folder_name(record_of(tmp_path / "link" / "slide.tif")) == one
    assert image_folder_name(record_of(tmp_path / "two" / "slide.tif")) != one
    (tmp_path / "one" / "slide.tif").unlink()
    assert image_folder_name(record_of(tmp_path / "one" / "slide.tif")) == one


def test_folder_depends_on_all_assets_and_their_order():
    names = {
        image_folder_name(record)
        for record in (
            record_of("/d/a.tif"),
            record_of("/d/a.tif", "/d/b.tif"),
            record_of("/d/b.tif", "/d/a.tif"),
            record_of("/d/a.tif", valid="/d/b.tif"),
        )
    }
    assert len(names) == 4
    # A label raster is no part of the image.
    assert image_folder_name(record_of("/d/a.tif", labels="/d/l.png")) == image_folder_name(
        record_of("/d/a.tif")
    )


@pytest.mark.parametrize("path", ["/d/a b/é ü.tif", "/d/...tif", "/d/" + "x" * 300 + ".tif", "array://a/../b"])
def test_folder_names_are_portable(path):
    name = image_folder_name(record_of(path))
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith(".")
    assert len(name) <= 65


def test_variants_differ_by_every_option_that_changes_pixels():
    specs = [
        BuildSpec(codec="zstd"),
        BuildSpec(codec="deflate"),
        BuildSpec(codec="zstd", tile=512),
        BuildSpec(codec="jpeg", quality=80),
        BuildSpec(codec="jpeg", quality=81),
        BuildSpec(backend="npy", codec="none", tile=0),
    ]
    names = [variant_folder_name(spec) for spec in specs]
    assert len(set(names)) == len(specs)
    assert names[3].startswith("cog-jpeg-q80-256-")
    # Labels, and whether the whole file is hashed, are not in the pixels.
    assert variant_folder_name(replace(specs[0], labels=False, full_hash=True)) == names[0]


def test_label_layers_differ_by_everything_they_are_made_of():
    record = record_of("/d/a.tif")
    names = [
        label_folder_name(record, "digest", CLASSES, LabelSpec()),
        label_folder_name(record, "another", CLASSES, LabelSpec()),
        label_folder_name(record, "digest", ClassMap(("background", "x"), {1: 1}), LabelSpec()),
        label_folder_name(record, "digest", ClassMap(CLASSES.names, {1: 0}), LabelSpec()),
        label_folder_name(record, "digest", CLASSES, LabelSpec(overlap="first")),
        label_folder_name(record, "digest", CLASSES, LabelSpec(keypoint_radius_px=2)),
        label_folder_name(record_of("/e/a.tif"), "digest", CLASSES, LabelSpec()),
        label_folder_name(record_of("/d/a.tif", labels="/d/x"), "digest", CLASSES, LabelSpec()),
        label_folder_name(record_of("/d/a.tif", valid="/d/x"), "digest", CLASSES, LabelSpec()),
    ]
    assert len(set(names)) == len(names)


def test_key_changes_with_content_and_not_with_the_change_time():
    stamp = FileStamp("/d/a.tif", True, "/d/a.tif", 5, 6, 7, "16-blake2b:00")
    key = entry_key("images/a/b", [stamp])
    assert entry_key("images/a/b", [replace(stamp, ctime_ns=8)]) == key
    for change in ({"size_bytes": 6}, {"mtime_ns": 7}, {"sampled": "x"}, {"full": "x"}, {"name": "y"}):
        assert entry_key("images/a/b", [replace(stamp, **change)]) != key
    assert entry_key("images/a/c", [stamp]) != key


def test_sampled_hash_is_that_of_the_documented_blocks(tmp_path):
    data = np.random.default_rng(0).bytes(3_000_001)
    path = tmp_path / "file"
    path.write_bytes(data)
    starts = [number * (len(data) - 65536) // 15 for number in range(16)]
    expected = hashlib.blake2b(b"3000001;", digest_size=16)
    for start in starts:
        expected.update(data[start : start + 65536])
    assert starts[0] == 0
    assert starts[-1] == len(data) - 65536
    assert sampled_digest(path) == f"16-blake2b:{expected.hexdigest()}"


def test_small_files_are_hashed_whole(tmp_path):
    data = np.random.default_rng(0).bytes(1_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = hashlib.blake2b(b"1000000;" + data, digest_size=16).hexdigest()
    assert sampled_digest(path) == f"16-blake2b:{expected}"


@pytest.mark.parametrize(("place", "sampled_sees_it"), [(0, True), (2_999_999, True), (150_000, False)])
def test_edits_that_keep_size_and_time(tmp_path, edit_in_secret, place, sampled_sees_it):
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(0).bytes(3_000_000))
    asset = [Asset(str(path))]
    sampled = with_hashes(stamp_sources(asset))
    full = with_hashes(stamp_sources(asset), full=True)

    def flip(data):
        data[place] ^= 1

    edit_in_secret(path, flip)
    now = stamp_sources(asset)
    assert compare_stamps(sampled, now).status == "same"
    # Between the blocks only the hash of the whole file finds it.
    assert compare_hashes(sampled, now).status == ("changed" if sampled_sees_it else "same")
    assert compare_hashes(full, now).status == "changed"


@pytest.mark.parametrize(
    ("age_s", "touched", "full", "hashed"),
    [(10, False, False, 0), (1, False, False, 1), (10, True, False, 1), (10, False, True, 1)],
    ids=["as it was", "young when recorded", "touched since", "audit"],
)
def test_content_is_compared_where_somebody_may_have_written(
    tmp_path, monkeypatch, age_s, touched, full, hashed
):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    [stamp] = with_hashes(stamp_sources([Asset(str(path))]))
    stamp = replace(stamp, seen_ns=stamp.ctime_ns + age_s * 10**9)
    if touched:
        while path.stat().st_ctime_ns == stamp.ctime_ns:
            path.chmod(0o600)
    calls = []
    real = fingerprint.sampled_digest
    monkeypatch.setattr(fingerprint, "sampled_digest", lambda *args: calls.append(args) or real(*args))
    assert compare_hashes([stamp], stamp_sources([Asset(str(path))]), full=full).status == "same"
    assert len(calls) == hashed


def test_an_edit_in_secret_of_a_file_that_was_old_when_recorded(tmp_path, edit_in_secret):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    [stamp] = with_hashes(stamp_sources([Asset(str(path))]))
    stamp = replace(stamp, seen_ns=stamp.ctime_ns + 10**10)
    while path.stat().st_ctime_ns == stamp.ctime_ns:
        edit_in_secret(path, lambda data: data.__setitem__(0, 0))
    now = stamp_sources([Asset(str(path))])
    assert compare_stamps([stamp], now).status == "same"
    assert compare_hashes([stamp], now).status == "changed"


def test_records_of_before_times_were_taken_are_read_and_not_trusted():
    values = FileStamp("/d/a.tif", True, "/d/a.tif", 5, 6, 7, "16-blake2b:00", seen_ns=10**10).to_dict()
    assert FileStamp.from_dict(values).surely_is(FileStamp("/d/a.tif", ctime_ns=7))
    del values["seen_ns"]
    assert not FileStamp.from_dict(values).surely_is(FileStamp("/d/a.tif", ctime_ns=7))
    del values["size_bytes"]
    with pytest.raises(KeyError):
        FileStamp.from_dict(values)


def test_a_file_that_cannot_be_read_is_as_good_as_gone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    stamps = with_hashes(stamp_sources([Asset(str(path))]))
    now = stamp_sources([Asset(str(path))])
    path.unlink()
    assert compare_hashes(stamps, now).status == "gone"


def test_stamps_say_what_changed(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(b"1234")
    assets = [Asset(str(path)) for path in paths]
    before = stamp_sources(assets)
    assert compare_stamps(before, stamp_sources(assets)).status == "same"
    paths[0].write_bytes(b"12345")
    state = compare_stamps(before, stamp_sources(assets))
    assert state.status == "changed"
    assert f"{paths[0]} has 5 bytes, had 4" in state.detail
    paths[0].write_bytes(b"1234")
    os.utime(paths[0], ns=(0, before[0].mtime_ns))
    os.utime(paths[1], ns=(0, 86_400_000_000_000))
    state = compare_stamps(before, stamp_sources(assets))
    assert state.status == "changed"
    assert f"{paths[1]} was modified 1970-01-02T00:00:00" in state.detail
    paths[1].unlink()
    assert compare_stamps(before, stamp_sources(assets)).status == "gone"
    # One that is gone does not hide that the other was edited.
    paths[0].write_bytes(b"")
    assert compare_stamps(before, stamp_sources(assets)).status == "changed"


def test_mirax_slides_are_their_folder_too(tmp_path):
    slide = tmp_path / "s.mrxs"
    slide.write_bytes(b"x")
    data = tmp_path / "s" / "Data0001.dat"
    data.parent.mkdir()
    data.write_bytes(b"pixels")
    (tmp_path / "s" / "sub").mkdir()
    (tmp_path / "s" / "sub" / "Slidedat.ini").write_text("[GENERAL]")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "Data0001.dat").write_bytes(b"no")
    found = companion_files(slide)
    assert found == (data, tmp_path / "s" / "sub" / "Slidedat.ini")
    before = stamp_sources([Asset(str(slide))])
    assert [stamp.main for stamp in before] == [True, False, False]
    data.write_bytes(b"pixel5!")
    assert compare_stamps(before, stamp_sources([Asset(str(slide))])).status == "changed"
    data.write_bytes(b"pixels")
    os.utime(data, ns=(0, before[1].mtime_ns))
    assert compare_stamps(before, stamp_sources([Asset(str(slide))])).status == "same"
    (tmp_path / "s" / "Data0002.dat").write_bytes(b"")
    assert "Data0002.dat is new" in compare_stamps(before, stamp_sources([Asset(str(slide))])).detail
    (tmp_path / "s" / "Data0002.dat").unlink()
    data.unlink()
    assert "not there any more" in compare_stamps(before, stamp_sources([Asset(str(slide))])).detail
    # All of it in cold storage is no edit.
    slide.unlink()
    assert compare_stamps(before, stamp_sources([Asset(str(slide))])).status == "gone"


def dicom_file(path, series: bytes):
    tag = b"\x20\x00\x0e\x00UI" + len(series).to_bytes(2, "little") + series
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\x08\x00\x18\x00UI\x02\x001\0" + tag + b"pixels")


def test_companions_of_other_formats(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "unrelated.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "h.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nX=../c.jpg\n"
    )
    assert companion_files(tmp_path / "h.vms") == (tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "m.vrt").write_text(
        '<VRTDataset><SourceFilename relativeToVRT="1">a.jpg</SourceFilename>'
        f"<SourceFilename>{tmp_path}/c.jpg</SourceFilename></VRTDataset>"
    )
    assert companion_files(tmp_path / "m.vrt") == (tmp_path / "a.jpg", tmp_path / "c.jpg")
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "p.png.msk").write_bytes(b"")
    (tmp_path / "p.png.aux.xml").write_bytes(b"")
    assert companion_files(tmp_path / "p.png") == (tmp_path / "p.png.aux.xml", tmp_path / "p.png.msk")
    dicom_file(tmp_path / "1.dcm", b"1.2.3\0")
    dicom_file(tmp_path / "2.dcm", b"1.2.3")
    dicom_file(tmp_path / "3.dcm", b"1.2.4")
    assert companion_files(tmp_path / "1.dcm") == (tmp_path / "2.dcm",)


def test_local_files_behind_other_names(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"")
    assert local_file(f"/vsizip/{archive}/in/x.tif") == archive
    assert local_file(f"/vsizip/{{{archive}}}/in/x.tif") == archive
    assert local_file(f"/vsigzip//vsizip/{archive}") == archive
    assert local_file(f'NETCDF:"{archive}":band') == archive
    assert local_file(f"GTIFF_DIR:2:{archive}") == archive
    assert local_file("/vsicurl/https://example.org/x.tif") is None
    assert local_file("array://a") is None
    assert stamp_sources([Asset("/vsicurl/https://example.org/x.tif")]) == (
        FileStamp("/vsicurl/https://example.org/x.tif"),
    )


def test_remote_sources_are_never_gone():
    stamps = stamp_sources([Asset("/vsicurl/https://example.org/x.tif")])
    assert compare_stamps(stamps, stamps).status == "same"


def test_array_digest_is_of_values_shape_and_dtype():
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    expected = hashlib.blake2b(b"|u1,(4, 6);" + array.tobytes(), digest_size=16).hexdigest()
    assert array_digest(array) == f"blake2b:{expected}"
    assert array_digest(np.asfortranarray(array)) == array_digest(array)
    others = [array.reshape(6, 4), array.astype(np.uint16), array[::-1], array[..., None]]
    assert len({array_digest(other) for other in [array, *others]}) == 5


def test_array_digest_notices_a_refill_and_forgets_the_dead(monkeypatch):
    from slidesampler.cache import fingerprint

    array = np.zeros((2000, 8), np.uint8)
    before = array_digest(array)
    hashed = []
    whole = fingerprint._hash_rows
    monkeypatch.setattr(fingerprint, "_hash_rows", lambda a, rows: hashed.append(len(rows)) or whole(a, rows))
    assert array_digest(array) == before
    # The second time only a sample of the rows was looked at.
    assert hashed == [16]
    array += 1
    assert array_digest(array) != before
    known = len(fingerprint._ARRAY_DIGESTS)
    del array
    gc.collect()
    assert len(fingerprint._ARRAY_DIGESTS) == known - 1


@pytest.mark.parametrize(
    "change",
    [{"name": 1}, {"main": 1}, {"size_bytes": "1"}, {"mtime_ns": True}, {"sampled": 3}, {"path": None}],
)
def test_hostile_stamps_are_refused(change):
    values = FileStamp("a").to_dict()
    assert FileStamp.from_dict(values) == FileStamp("a")
    with pytest.raises(ValueError, match=next(iter(change))):
        FileStamp.from_dict({**values, **change})
