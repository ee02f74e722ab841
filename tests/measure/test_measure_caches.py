"""Measuring from end to end, on slides so small that nothing but the course of events can be tested."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidesampler import Sampler, Window
from slidesampler.errors import BuildError, CodecError, ReadError, TargetError
from slidesampler.machine import memory_bytes, usable_threads
from slidesampler.manifest import Manifest
from slidesampler.measure import BenchOptions, CacheVariant, choose_variants, measure_caches
from slidesampler.measure import caches as module
from slidesampler.measure.page_cache import can_drop
from slidesampler.measure.scratch import KEPT_PREFIX, SCRATCH_PREFIX, check_room, scratch_folder
from slidesampler.measure.specimen import Specimen, choose_part, copy_parts

NPY, RAW = CacheVariant("npy"), CacheVariant("cog", "none", None, 128)
IN_PLACE, AUTO = CacheVariant("in-place"), CacheVariant("auto")
QUICK = BenchOptions(window=32, windows=4, rounds=2, batch=3, threads=2)


def options(**changes: object) -> BenchOptions:
    return replace(QUICK, **changes)  # type: ignore[arg-type]


class TestRun:
    @pytest.mark.parametrize("crop", [4096, 128])
    def test_rows_have_figures_and_nothing_is_left(self, manifest: Manifest, tmp_path: Path, crop: int) -> None:
        workdir = tmp_path / "cache"
        found = measure_caches(
            manifest, workdir, options(crop=crop, with_mask=True), variants=[IN_PLACE, NPY, RAW]
        )
        assert [row.variant for row in found] == [IN_PLACE, NPY, RAW]
        assert [row.status for row in found] == ["measured"] * 3
        for row in found:
            spreads = [row.warm_one, row.warm_all]
            assert all(s is not None and s.count == 2 and 0 < s.low <= s.median <= s.high for s in spreads)
            assert can_drop() or row.cold_all is None
        assert not workdir.exists()
        # What was taken: all, or the part with the noise (level-0 rows 200 to 280 and columns 280 to 380).
        assert len(found.parts) == 2
        assert {part.whole for part in found.parts} == {crop == 4096}
        assert all(part.y + part.height > 200 and part.x + part.width > 280 for part in found.parts)
        assert found.megapixels == pytest.approx(0.24)
        assert found.recommendation.variant in (IN_PLACE, NPY, RAW)

    @pytest.mark.parametrize("crop", [4096, 128])
    def test_sizes_are_those_of_files_and_of_the_whole_manifest(
        self, manifest: Manifest, tmp_path: Path, crop: int
    ) -> None:
        found = measure_caches(
            manifest, tmp_path / "c", options(crop=crop, keep=True), variants=[IN_PLACE, NPY]
        )
        (scratch,) = (tmp_path / "c").glob(f"{KEPT_PREFIX}*")
        in_place, npy = found.rows
        assert npy.size_bytes == sum(path.stat().st_size for path in scratch.rglob("cache/images/**/*.npy"))
        taken = sum(part.height * part.width for part in found.parts)
        assert npy.size_bytes >= 3 * taken
        assert npy.bytes_per_megapixel == pytest.approx(npy.size_bytes / taken * 1e6)
        assert npy.total_bytes == pytest.approx(npy.size_bytes / taken * 2 * 300 * 400)
        assert npy.build_megapixels_per_s is not None
        assert npy.build_megapixels_per_s.count == 2
        assert (in_place.size_bytes, in_place.total_bytes, in_place.build_megapixels_per_s) == (0, 0, None)
        assert str(scratch) in " ".join(found.notes)

    def test_the_time_of_a_build_holds_that_of_reading_the_slide(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow(*arguments: object, **named: object) -> Specimen:
            copy = copy_parts(*arguments, **named)  # type: ignore[arg-type]
            return replace(copy, read_seconds=dict.fromkeys(copy.read_seconds, 1e6))

        monkeypatch.setattr(module, "copy_parts", slow)
        found = measure_caches(manifest, tmp_path / "c", options(crop=128, rounds=1), variants=[NPY])
        speed = found.rows[0].build_megapixels_per_s
        assert speed is not None
        assert speed.median == pytest.approx(128 * 128 / 1e6 / 1e6, rel=1e-3)

    def test_sources_that_are_cogs_are_copied_all_the_same(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        np.save(tmp_path / "a.npy", pixels)
        data = {"images": [{"id": 1, "file_name": str(tmp_path / "a.npy")}]}
        sampler = Sampler(data, tmp_path / "made", "cog")
        assert sampler.build(labels=False, codec="none").ok
        (cog,) = (tmp_path / "made").rglob("image.tif")
        manifest = Manifest.load({"images": [{"id": 1, "file_name": str(cog)}]})
        found = measure_caches(manifest, tmp_path / "c", options(rounds=1), variants=[RAW])
        assert found.rows[0].size_bytes > pixels.nbytes
        assert found.recommendation.command.endswith("--tile 128 --force")

    @pytest.mark.parametrize("crop", [4096, 128])
    def test_images_of_unknown_size_count_as_the_mean_of_the_others(self, tmp_path: Path, crop: int) -> None:
        images = []
        for number, (side, said) in enumerate(((200, {}), (300, {"height": 300, "width": 300}), (999, {}))):
            np.save(tmp_path / f"{number}.npy", np.zeros((side, side), np.uint8))
            images.append({"id": number, "file_name": str(tmp_path / f"{number}.npy"), **said})
        asked = options(crop=crop, rounds=1, only_images=(0,))
        found = measure_caches(Manifest.load({"images": images}), tmp_path / "c", asked, variants=[IN_PLACE])
        # The first was opened, the third was not.
        assert found.megapixels == pytest.approx((0.04 + 0.09) * 1.5)

    def test_windows_are_read_from_the_part_of_the_slide(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str | None, list[np.ndarray]] = {}
        plain = Sampler.load_batch

        def spy(self, targets, *arguments, **named):
            batch = plain(self, targets, *arguments, **named)
            seen.setdefault(self.backend, []).append(batch.image)
            return batch

        monkeypatch.setattr(Sampler, "load_batch", spy)
        monkeypatch.setattr("slidesampler.measure.rounds.drop_files", lambda _: 0.0)
        # A part that does not begin at the corner of its image.
        monkeypatch.setattr("slidesampler.measure.parts._GRID", 1)
        found = measure_caches(
            manifest, tmp_path / "c", options(crop=128, rounds=1, windows=9), variants=[IN_PLACE, NPY, RAW]
        )
        assert any(part.y and part.x for part in found.parts)
        assert {len(images) for images in seen.values()} == {len(seen[None])}
        assert len(seen) == 3
        for ours, theirs in zip(seen["npy"], seen[None], strict=True):
            assert np.array_equal(ours, theirs)
        for ours, theirs in zip(seen["cog"], seen[None], strict=True):
            assert np.array_equal(ours, theirs)

    def test_the_cache_that_is_there_is_left_alone(self, manifest_path: Path, tmp_path: Path) -> None:
        workdir = tmp_path / "cache"
        assert Sampler(manifest_path, workdir, "npy").build(labels=False).ok
        before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
        measure_caches(Manifest.load(manifest_path), workdir, options(rounds=1), variants=[NPY])
        assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before

    def test_variants_take_turns(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        measure_caches(
            manifest,
            tmp_path / "c",
            options(rounds=6),
            variants=[IN_PLACE, NPY],
            progress=lambda what, done, total: told.append(what) if done <= total else told.append("beyond"),
        )
        reads = [what.partition(": reading ")[::2] for what in told if "reading" in what]
        assert sorted(set(reads)) == sorted(
            (f"round {number}", name) for number in range(1, 7) for name in ("in-place", "npy")
        )
        assert [name for name, _ in reads] == sorted(name for name, _ in reads)
        assert len({reads[2 * number][1] for number in range(6)}) == 2
        assert "beyond" not in told

    def test_each_pass_begins_with_files_opened_anew(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        close, load, load_one = Sampler.close, Sampler.load_batch, Sampler.load_sample

        def spy_close(self):
            events.append("close")
            close(self)

        def spy_load(self, targets, *arguments, **named):
            targets = list(targets)
            events.append(f"read {len(targets)}")
            return load(self, targets, *arguments, **named)

        def spy_load_one(self, target, *arguments, **named):
            events.append(f"open {target['image_id']}")
            return load_one(self, target, *arguments, **named)

        monkeypatch.setattr(Sampler, "close", spy_close)
        monkeypatch.setattr(Sampler, "load_batch", spy_load)
        monkeypatch.setattr(Sampler, "load_sample", spy_load_one)
        monkeypatch.setattr("slidesampler.measure.rounds.can_drop", lambda: True)
        monkeypatch.setattr("slidesampler.measure.rounds.drop_files", lambda _: events.append("drop") or 0.0)
        measure_caches(manifest, tmp_path / "c", options(rounds=1, batch=1), variants=[NPY])
        # Two windows, one a call: cold and warm by one thread, cold and warm by two.
        opened, read = ["close", "open 1", "open 2"], ["read 1", "read 1"]
        cold, warm = [*opened, "drop", *read], [*opened, *read]
        rounds = events[events.index("drop") - len(opened) :]
        assert rounds[: 2 * len(cold + warm)] == cold + warm + cold + warm

    def test_cold_is_not_claimed_where_files_stay_in_memory(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries = []
        monkeypatch.setattr("slidesampler.measure.rounds.can_drop", lambda: True)
        monkeypatch.setattr("slidesampler.measure.rounds.drop_files", lambda paths: tries.append(paths) or 0.5)
        found = measure_caches(manifest, tmp_path / "c", options(rounds=9), variants=[NPY])
        (row,) = found.rows
        assert (row.cold_one, row.cold_all, row.left_in_memory) == (None, None, 0.5)
        assert row.warm_all is not None
        assert any(note.startswith("No cold figures for npy: their files stayed") for note in found.notes)
        assert len(tries) == 2

    def test_reads_that_were_not_cold_do_not_count(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = iter((0.02, 0.6, 0.05, 0.0))
        monkeypatch.setattr("slidesampler.measure.rounds.can_drop", lambda: True)
        monkeypatch.setattr("slidesampler.measure.rounds.drop_files", lambda _: next(left))
        found = measure_caches(manifest, tmp_path / "c", options(rounds=2), variants=[NPY])
        (row,) = found.rows
        assert row.cold_one is not None
        assert row.cold_all is not None
        assert (row.cold_one.count, row.cold_all.count, row.left_in_memory) == (2, 1, 0.05)

    def test_cold_is_not_tried_where_the_system_cannot(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for place in ("rounds", "caches"):
            monkeypatch.setattr(f"slidesampler.measure.{place}.can_drop", lambda: False)
        found = measure_caches(manifest, tmp_path / "c", options(rounds=1), variants=[NPY])
        assert found.rows[0].cold_all is None
        assert any("this system cannot" in note for note in found.notes)

    def test_images_in_memory_have_no_files(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        sampler = Sampler(
            {"images": [{"id": 1, "file_name": "array://bench"}]}, arrays={"array://bench": pixels}
        )
        found = measure_caches(sampler.manifest, tmp_path / "c", options(rounds=1), variants=[IN_PLACE, NPY])
        assert [row.status for row in found] == ["measured"] * 2
        assert found.rows[0].cold_all is None


class TestWhatGoesWrong:
    def test_a_variant_that_cannot_be_built_is_a_row(self, tmp_path: Path) -> None:
        np.save(tmp_path / "deep.npy", np.zeros((100, 100, 3), np.uint16))
        manifest = Manifest.load({"images": [{"id": 1, "file_name": str(tmp_path / "deep.npy")}]})
        jpeg = CacheVariant("cog", "jpeg", 90, 128)
        found = measure_caches(manifest, tmp_path / "c", options(rounds=1), variants=[jpeg, AUTO, NPY])
        assert [row.status for row in found] == ["failed", "failed", "measured"]
        assert "uint16" in found.rows[0].reason
        assert "would be converted" in found.rows[1].reason
        assert found.recommendation.variant == NPY

    def test_a_codec_that_this_gdal_lacks_is_a_row(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slidesampler.cache.codecs.cog_codecs", lambda: ("none",))
        zstd = CacheVariant("cog", "zstd", None, 128)
        found = measure_caches(manifest, tmp_path / "c", options(rounds=1), variants=[zstd, RAW])
        assert found.rows[0].status == "failed"
        assert "cannot write it" in found.rows[0].reason
        assert found.rows[1].status == "measured"

    def test_a_variant_that_cannot_be_read_is_a_row(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = Sampler.load_batch

        def spy(self, targets, *arguments, **named):
            if self.backend == "npy":
                raise ReadError("tile (0, 0): gone")
            return plain(self, targets, *arguments, **named)

        monkeypatch.setattr(Sampler, "load_batch", spy)
        found = measure_caches(manifest, tmp_path / "c", options(), variants=[NPY, RAW])
        assert found.rows[0].reason == "cannot be read: ReadError: tile (0, 0): gone"
        assert [row.variant for row in found.measured] == [RAW]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
    @pytest.mark.parametrize("where", ["build_variant", "run_round", "copy_parts"])
    def test_nothing_is_left_after_an_error_or_control_c(
        self,
        manifest: Manifest,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        where: str,
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            assert list((tmp_path / "new").glob(f"cache/{SCRATCH_PREFIX}*"))
            raise error

        monkeypatch.setattr(module, where, fail)
        with pytest.raises(type(error)):
            measure_caches(manifest, tmp_path / "new" / "cache", options(crop=128), variants=[NPY])
        assert not (tmp_path / "new").exists()

    def test_slides_that_cannot_be_read_are_passed_over(self, manifest: Manifest, tmp_path: Path) -> None:
        (tmp_path / "a.npy").write_bytes(b"nonsense")
        found = measure_caches(manifest, tmp_path / "c", options(rounds=1), variants=[NPY])
        assert [part.image_id for part in found.parts] == [2]
        assert any(note.startswith("Image 1 (a) was passed over: ") for note in found.notes)
        (tmp_path / "b.npy").unlink()
        with pytest.raises(ReadError, match=r"nothing to measure: Image .* Image "):
            measure_caches(manifest, tmp_path / "c", options(), variants=[NPY])
        with pytest.raises(ReadError, match="no images"):
            measure_caches(Manifest.load({"images": []}), tmp_path / "c", options(), variants=[NPY])

    def test_slides_smaller_than_a_window_are_passed_over(self, manifest: Manifest, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match="300 x 400 pixels hold no window of 301 x 32"):
            measure_caches(manifest, tmp_path / "c", options(window=(301, 32)), variants=[NPY])
        with pytest.raises(TargetError, match="9"):
            measure_caches(manifest, tmp_path / "c", options(only_images=(9,)), variants=[NPY])

    def test_no_room(self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
        with pytest.raises(BuildError, match=r"0\.00 GB are free; take less .*--crop"):
            measure_caches(manifest, tmp_path / "new" / "c", options(), variants=[NPY])
        assert not (tmp_path / "new").exists()
        # Reading in place needs no room.
        measure_caches(manifest, tmp_path / "new" / "c", options(rounds=1), variants=[IN_PLACE])

    def test_a_workdir_that_cannot_be_written(self, manifest: Manifest, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(BuildError, match=r"nothing can be written there \(.*--workdir"):
            measure_caches(manifest, tmp_path / "file" / "c", options(), variants=[NPY])

    def test_time_that_is_up(self, manifest: Manifest, tmp_path: Path) -> None:
        found = measure_caches(
            manifest, tmp_path / "c", options(seconds=1e-9, rounds=5), variants=[IN_PLACE, NPY, RAW]
        )
        # Something is measured all the same: one cache, one round.
        assert [row.status for row in found] == ["measured", "measured", "skipped"]
        assert "--seconds" in found.rows[2].reason
        assert found.rows[1].warm_all is not None
        assert found.rows[1].warm_all.count == 1
        assert any("after 1 of 5 rounds" in note for note in found.notes)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"window": 0},
            {"window": (32, -1)},
            {"images": 0},
            {"crop": 0},
            {"windows": 0},
            {"rounds": 0},
            {"threads": 0},
            {"batch": -5},
            {"seconds": 0.0},
        ],
        ids=str,
    )
    def test_nonsense(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            options(**wrong)


class TestCopies:
    def test_masks_valid_pixels_and_channels(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        np.save(tmp_path / "a.npy", rng.integers(0, 9, (60, 50, 2), dtype=np.uint16))
        valid = np.ones((60, 50), np.uint8)
        valid[:30, :40] = 0
        np.save(tmp_path / "v.npy", valid)
        image = {
            "id": 5,
            "file_name": "a.npy",
            "channels": "dapi|cd3",
            "assets": [{"file_name": "v.npy", "name": "valid"}],
        }
        source = Manifest.load(
            {
                "images": [image],
                "categories": [{"id": 40, "name": "x"}, {"id": 7, "name": "y"}],
                "annotations": [
                    {"id": 1, "image_id": 5, "category_id": 7, "bbox": [20, 10, 20, 40]},
                    {"id": 2, "image_id": 5, "category_id": 40, "bbox": [35, 45, 30, 30]},
                ],
            },
            bundle_dir=tmp_path,
        )
        part = choose_part(source, 5, 32)
        folder = tmp_path / "parts"
        folder.mkdir()
        copy = copy_parts(source, [part], folder, with_mask=True, advance=lambda _: None)
        ours = Sampler(copy.manifest).load_sample(
            {"image_id": 5, "cy": 16, "cx": 16, "width": 32, "height": 32}
        )
        theirs = Sampler(source).load_sample({"image_id": 5, "window": Window(part.y, part.x, 32, 32)})
        assert np.array_equal(ours.image, theirs.image)
        assert np.array_equal(ours.valid, theirs.valid)
        assert np.array_equal(ours.mask, theirs.mask)
        assert copy.manifest.record(5).channels == ("dapi", "cd3")
        assert copy.read_seconds[5] > 0

    def test_a_full_disk_is_said(self, manifest: Manifest, tmp_path: Path) -> None:
        part = choose_part(manifest, 1, 128)
        with pytest.raises(BuildError, match="could not be written"):
            copy_parts(manifest, [part], tmp_path / "none", with_mask=False, advance=lambda _: None)


def test_slides_that_are_tiled_are_recorded_where_they_lie(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb", compression="deflate")
    manifest = Manifest.load({"images": [{"id": 1, "file_name": str(tmp_path / "a.tif")}]})
    found = measure_caches(manifest, tmp_path / "c", options(crop=128, rounds=1), variants=[AUTO, NPY])
    auto = found.rows[0]
    assert auto.status == "measured", auto.reason
    assert auto.size_bytes < 10_000
    assert auto.build_megapixels_per_s is None


def test_slides_of_different_kinds_are_measured_in_one_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for number, (channels, dtype) in enumerate(((3, np.uint8), (1, np.uint16), (3, np.uint16)), 1):
        np.save(tmp_path / f"{number}.npy", rng.integers(0, 256, (200, 250, channels)).astype(dtype))
        images.append({"id": number, "file_name": str(tmp_path / f"{number}.npy")})
    manifest = Manifest.load({"images": images})
    found = measure_caches(manifest, tmp_path / "c", options(windows=9), variants=[IN_PLACE, NPY, RAW])
    assert [(row.status, row.reason) for row in found] == [("measured", "")] * 3
    assert len(found.parts) == 3


class TestScratch:
    def test_what_others_wrote_stays(self, tmp_path: Path) -> None:
        workdir = tmp_path / "new" / "cache"
        with scratch_folder(workdir) as scratch:
            (scratch / "a").mkdir()
            (workdir / "theirs").touch()
        assert [path.name for path in workdir.iterdir()] == ["theirs"]

    def test_two_at_once_have_their_own(self, tmp_path: Path) -> None:
        with scratch_folder(tmp_path) as one, scratch_folder(tmp_path) as other:
            assert one != other
        assert not list(tmp_path.iterdir())

    def test_what_a_killed_run_left_is_removed_and_what_is_in_use_is_not(self, tmp_path: Path) -> None:
        left = tmp_path / f"{SCRATCH_PREFIX}killed"
        (left / "cache").mkdir(parents=True)
        (left / ".lock").touch()
        (left / "cache" / "image.tif").touch()
        (tmp_path / f"{SCRATCH_PREFIX}new").mkdir()
        with scratch_folder(tmp_path) as one:
            (one / "cache").mkdir()
            assert not left.exists()
            with scratch_folder(tmp_path):
                assert (one / "cache").is_dir()
        assert [path.name for path in tmp_path.iterdir()] == [f"{SCRATCH_PREFIX}new"]

    def test_a_run_that_was_kept_is_kept(self, tmp_path: Path) -> None:
        with scratch_folder(tmp_path, keep=True) as kept:
            (kept / "cache").mkdir()
        with scratch_folder(tmp_path):
            assert (kept / "cache").is_dir()

    def test_room(self, tmp_path: Path) -> None:
        check_room(tmp_path / "not" / "there", 1)
        with pytest.raises(BuildError, match=r"need up to 1000000000\.00 GB"):
            check_room(tmp_path, 1e18)


class TestVariants:
    def test_all_of_them(self) -> None:
        names = [variant.name for variant in choose_variants()]
        assert names[:3] == ["in-place", "auto", "npy"]
        assert len(names) == len(set(names)) == 12
        assert {"cog none 512", "cog jpeg q90 128"} <= set(names)
        assert not any("auto" in name for name in names[3:])
        assert all(variant.lossless for variant in choose_variants(lossy=False))

    def test_the_same_codec_by_two_names_is_one(self) -> None:
        auto = choose_variants(["cog"], ["auto"], [256])
        assert choose_variants(["cog"], ["auto", auto[0].codec], [256]) == auto

    def test_nonsense(self) -> None:
        with pytest.raises(CodecError, match="gzip"):
            choose_variants(codecs=["gzip"])
        with pytest.raises(ValueError, match="tile"):
            choose_variants(tiles=[100])
        with pytest.raises(ValueError, match="zarr"):
            choose_variants(["zarr"])
        with pytest.raises(ValueError, match="lossy"):
            choose_variants(["cog"], ["jpeg"], lossy=False)
        with pytest.raises(ValueError, match="not built"):
            IN_PLACE.build_spec(labels=False)


def test_machine() -> None:
    assert usable_threads() >= 1
    assert memory_bytes() > 2**20


def test_json(manifest: Manifest, tmp_path: Path) -> None:
    found = measure_caches(manifest, tmp_path / "c", options(rounds=1), variants=[IN_PLACE, NPY])
    again = json.loads(json.dumps(found.to_dict()))
    assert set(again) == {
        "rows", "recommendation", "parts", "window", "windows", "rounds", "threads", "batch", "with_mask",
        "images", "megapixels", "workdir", "free_bytes", "memory_bytes", "seconds", "notes",
    }  # fmt: skip
    assert set(again["rows"][0]) == {
        "name", "backend", "codec", "quality", "tile", "lossless", "status", "reason", "size_bytes",
        "bytes_per_megapixel", "total_bytes", "build_megapixels_per_s", "cold_one", "cold_all", "warm_one",
        "warm_all", "left_in_memory",
    }  # fmt: skip
    assert set(again["rows"][0]["warm_all"]) == {"median", "low", "high", "count"}
    assert set(again["recommendation"]) == {
        "variant", "name", "windows_per_s", "reasons", "command", "alternatives",
    }  # fmt: skip
    assert set(again["parts"][0]) == {
        "image_id",
        "name",
        "y",
        "x",
        "height",
        "width",
        "image_height",
        "image_width",
    }
    assert again["recommendation"]["name"] in ("in-place", "npy")
