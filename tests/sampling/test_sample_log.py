"""A sample log holds exactly what was served, whoever wrote it and however it ended."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from slidesampler import Sampler
from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.models import NO_CATEGORY
from slidesampler.sampling import FixedSource, GridSource
from slidesampler.sampling.log import SampleLog, log_files
from slidesampler.sampling.log_columns import UNKNOWN, read_log
from slidesampler.target import Target


def target(number: int, **fields: object) -> Target:
    return Target(
        image_id=number % 5 - 2,
        window=Window(number * 7 - 20, number * 3, 32 + number % 3, 48),
        index=number,
        **fields,
    )


@pytest.fixture
def sampler():
    manifest = {
        "images": [{"id": 1, "file_name": "array://logged"}, {"id": 4, "file_name": "array://logged"}],
        "categories": [{"id": 9, "name": "tumour"}, {"id": 3, "name": "stroma"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 9, "bbox": [10, 20, 30, 12]},
            {"id": 2, "image_id": 4, "category_id": 3, "bbox": [0, 0, 80, 64]},
        ],
    }
    return Sampler(manifest, arrays={"logged": np.zeros((64, 96, 3), np.uint8)})


class TestLines:
    def test_every_field_comes_back(self, tmp_path):
        with SampleLog(tmp_path, rank=2, worker=5) as log:
            log.write(target(3, kind="positive", category_id=9, annot_id=-7), epoch=4)
            log.write(target(4, size=(16, 24)), epoch=0, index=77, tries=3, refused={"foreground": 2})
            log.write(target(5, kind='a "word", ü', downsample=2.0), counts=[5, 0, 11])
        columns = read_log(tmp_path)
        assert columns.epochs.tolist() == [4, 0, UNKNOWN]
        assert columns.indexes.tolist() == [3, 77, 5]
        assert columns.image_ids.tolist() == [1, 2, -2]
        assert columns.windows.tolist() == [[1, 9, 32, 48], [8, 12, 33, 48], [15, 15, 34, 48]]
        assert columns.sizes.tolist() == [[32, 48], [16, 24], [17, 24]]
        assert columns.downsamples.tolist() == [[1, 1], [33 / 16, 2], [2, 2]]
        assert [columns.kind_names[code] for code in columns.kinds] == ["positive", "", 'a "word", ü']
        assert columns.category_ids.tolist() == [9, NO_CATEGORY, NO_CATEGORY]
        assert columns.annot_ids.tolist() == [-7, NO_CATEGORY, NO_CATEGORY]
        assert columns.tries.tolist() == [UNKNOWN, 3, UNKNOWN]
        assert columns.refused == ((1, {"foreground": 2}),)
        assert columns.counts.tolist() == [[-1, -1, -1], [-1, -1, -1], [5, 0, 11]]
        assert (columns.pids, columns.ranks, columns.workers) == ((os.getpid(),), (2,), (5,))
        assert columns.torn == ()

    def test_a_line_is_json_of_one_window(self, tmp_path):
        with SampleLog(tmp_path) as log:
            log.write(target(3, kind="grid"), epoch=1)
        (path,) = log_files(tmp_path)
        head, line = map(json.loads, path.read_text().splitlines())
        assert head["slidesampler"] == "sample-log"
        assert line == {
            "epoch": 1,
            "index": 3,
            "image_id": 1,
            "window": [1, 9, 32, 48],
            "size": [32, 48],
            "downsample": 1.0,
            "kind": "grid",
            "category_id": None,
            "annot_id": None,
        }

    def test_numpy_numbers_are_numbers(self, tmp_path):
        with SampleLog(tmp_path) as log:
            log.write(
                {"image_id": np.int64(3), "window": np.array([1, 2, 3, 4])},
                epoch=np.int64(1),
                index=np.uint8(2),
                counts=np.array([3, 9]),
                tries=np.int32(1),
            )
        columns = read_log(tmp_path)
        assert (columns.epochs[0], columns.indexes[0], columns.tries[0]) == (1, 2, 1)
        assert columns.counts.tolist() == [[3, 9]]

    def test_targets_load_the_same_windows_again(self, sampler, tmp_path):
        source = GridSource(sampler, size=(24, 20), downsample=1.6)
        with SampleLog(tmp_path) as log:
            samples = [sampler.load_sample(source.target(0, index)) for index in range(len(source))]
            for index, sample in enumerate(samples):
                log.write(sample, epoch=0, index=index)
        replay = FixedSource(read_log(tmp_path).targets())
        assert len(replay) == len(samples)
        for index, sample in enumerate(samples):
            again = sampler.load_sample(replay.target(0, index))
            assert again.window == sample.window
            assert again.mask.shape == sample.mask.shape == (24, 20)
            assert (again.mask == sample.mask).all()

    def test_a_sequence_is_a_line_a_frame(self, tmp_path):
        with SampleLog(tmp_path) as log:
            log.write(Target(image_ids=(4, 1), window=Window(0, 0, 8, 8), index=2))
        columns = read_log(tmp_path)
        assert columns.image_ids.tolist() == [4, 1]
        assert columns.indexes.tolist() == [2, 2]

    @pytest.mark.parametrize("bad", [Target(image_id=1), Target(window=Window(0, 0, 1, 1)), {}])
    def test_what_was_not_resolved_is_refused(self, tmp_path, bad):
        log = SampleLog(tmp_path)
        with pytest.raises(TargetError, match="resolve"):
            log.write(bad)

    def test_class_counts_are_those_of_the_mask(self, sampler, tmp_path):
        with SampleLog(tmp_path, count_classes=True) as log:
            for window in ((0, 0, 40, 40), (50, 60, 40, 40)):
                log.write(sampler.load_sample({"image_id": 1, "window": window}))
        counts = read_log(tmp_path).counts
        # tumour: rows 20 to 32, columns 10 to 40; of the second window 14 rows and 36 columns are there.
        assert counts.tolist() == [[1600 - 360, 360], [14 * 36, 0]]

    def test_rows_and_epochs_are_chosen(self, tmp_path):
        with SampleLog(tmp_path) as log:
            for number in range(10):
                log.write(target(number), epoch=number % 3, tries=1, refused={"a": number})
        columns = read_log(tmp_path).epoch(1)
        assert columns.indexes.tolist() == [1, 4, 7]
        assert columns.refused == ((0, {"a": 1}), (1, {"a": 4}), (2, {"a": 7}))


class TestFiles:
    def test_nothing_is_made_before_the_first_line(self, tmp_path):
        folder = tmp_path / "a" / "b"
        log = SampleLog(folder)
        assert not folder.exists()
        log.write(target(0))
        assert len(log_files(folder)) == 1

    def test_files_are_merged_and_nothing_is_left_out(self, tmp_path):
        for _ in range(3):
            with SampleLog(tmp_path) as log:
                log.write(target(1))
                log.write(target(1))
        columns = read_log(tmp_path)
        assert len(columns) == 6
        assert columns.files.tolist() == [0, 0, 1, 1, 2, 2]
        assert len(set(columns.paths)) == 3

    def test_a_closed_log_begins_another_file(self, tmp_path):
        log = SampleLog(tmp_path)
        log.write(target(0))
        log.close()
        log.close()
        log.write(target(1))
        assert len(log_files(tmp_path)) == 2
        assert len(read_log(tmp_path)) == 2

    def test_a_log_that_is_being_written_can_be_read(self, tmp_path):
        log = SampleLog(tmp_path)
        for number in range(5):
            log.write(target(number))
            assert len(read_log(tmp_path)) == number + 1

    def test_a_torn_last_line_is_reported(self, tmp_path):
        with SampleLog(tmp_path) as log:
            for number in range(4):
                log.write(target(number), epoch=0)
        (path,) = log_files(tmp_path)
        whole = path.read_bytes()
        # Wherever it was cut: the whole lines before are all there.
        for cut in range(whole.index(b"\n") + 1, len(whole)):
            path.write_bytes(whole[:cut])
            columns = read_log(tmp_path)
            lines = whole[:cut].count(b"\n") - 1
            assert columns.indexes.tolist() == list(range(lines))
            torn = whole[:cut].rpartition(b"\n")[2].decode()
            assert [line.text for line in columns.torn] == ([torn[:80]] if torn else [])
            assert [line.line for line in columns.torn] == ([lines + 2] if torn else [])

    def test_a_file_cut_in_its_first_line_holds_nothing(self, tmp_path):
        with SampleLog(tmp_path) as log:
            log.write(target(0))
        (path,) = log_files(tmp_path)
        path.write_bytes(path.read_bytes()[:20])
        columns = read_log(tmp_path)
        assert len(columns) == 0
        assert len(columns.torn) == 1

    @pytest.mark.parametrize("bad", [b"\0\0\0", b'{"epoch":1', b"[1,2]", b'{"epoch":1}', b"\xff\xfe{"])
    def test_a_bad_line_among_others_costs_only_itself(self, tmp_path, bad):
        with SampleLog(tmp_path) as log:
            for number in range(6):
                log.write(target(number), epoch=number, tries=number)
        (path,) = log_files(tmp_path)
        lines = path.read_bytes().splitlines(keepends=True)
        lines.insert(4, bad + b"\n")
        path.write_bytes(b"".join(lines))
        columns = read_log(tmp_path)
        assert columns.indexes.tolist() == columns.tries.tolist() == [0, 1, 2, 3, 4, 5]
        assert [line.line for line in columns.torn] == [5]
        assert columns.torn[0].path == str(path)

    def test_lines_by_hand_need_only_image_and_window(self, tmp_path):
        path = tmp_path / "samples-by-hand.jsonl"
        path.write_text(
            '{"slidesampler": "sample-log", "version": 1}\n{"image_id": 3, "window": [0, 1, 2, 3]}\n\n'
        )
        columns = read_log(path)
        assert columns.windows.tolist() == [[0, 1, 2, 3]]
        assert columns.sizes.tolist() == [[2, 3]]
        assert columns.torn == ()
        assert columns.workers == (UNKNOWN,)

    def test_what_a_full_disk_cut_off_does_not_swallow_the_next_line(self, tmp_path, monkeypatch):
        log = SampleLog(tmp_path)
        log.write(target(0))
        write = os.write

        def half(descriptor, data):
            if half.calls:
                raise OSError(28, "No space left on device")
            half.calls += 1
            return write(descriptor, data[:20])

        half.calls = 0
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            log.write(target(1))
        monkeypatch.setattr(os, "write", write)
        log.write(target(2))
        columns = read_log(tmp_path)
        assert columns.indexes.tolist() == [0, 2]
        assert len(columns.torn) == 1

    @pytest.mark.parametrize("what", ["missing", "empty"])
    def test_no_log_is_said_to_be_none(self, tmp_path, what):
        folder = tmp_path if what == "empty" else tmp_path / "nowhere"
        with pytest.raises(SamplingError, match=str(folder)):
            read_log(folder)

    @pytest.mark.parametrize(
        ("first", "words"),
        [
            ('{"image_id": 1}', "no file of a sample log"),
            ("words", "no file of a sample log"),
            ('{"slidesampler": "sample-log", "version": 99}', "newer"),
        ],
    )
    def test_another_file_is_refused(self, tmp_path, first, words):
        (tmp_path / "samples-x.jsonl").write_text(first + "\n")
        with pytest.raises(SamplingError, match=words):
            read_log(tmp_path)


def write_some(log: SampleLog, first: int, count: int) -> None:
    for number in range(first, first + count):
        log.write(target(number))


def write_for_ever(log: SampleLog) -> None:
    number = 0
    while True:
        log.write(target(number))
        number += 1


class TestProcesses:
    def test_threads_share_a_file_of_whole_lines(self, tmp_path):
        log = SampleLog(tmp_path)
        barrier = threading.Barrier(8)

        def run(first):
            barrier.wait()
            write_some(log, first, 300)

        threads = [threading.Thread(target=run, args=(1000 * k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        columns = read_log(tmp_path)
        assert len(columns.paths) == 1
        assert columns.torn == ()
        assert sorted(columns.indexes.tolist()) == sorted(1000 * k + i for k in range(8) for i in range(300))

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_processes_have_files_of_their_own(self, tmp_path, method):
        context = multiprocessing.get_context(method)
        log = SampleLog(tmp_path)
        write_some(log, 0, 3)
        children = [context.Process(target=write_some, args=(log, 100 * k, 5)) for k in (1, 2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        write_some(log, 3, 2)
        columns = read_log(tmp_path)
        assert sorted(columns.indexes.tolist()) == [0, 1, 2, 3, 4, *range(100, 105), *range(200, 205)]
        by_pid = dict(zip(columns.pids, [set(), set(), set()], strict=True))
        for row, number in zip(columns.files.tolist(), columns.indexes.tolist(), strict=True):
            by_pid[columns.pids[row]].add(number // 100)
        assert by_pid == {os.getpid(): {0}, children[0].pid: {1}, children[1].pid: {2}}

    def test_a_fork_of_a_fork(self, tmp_path):
        log = SampleLog(tmp_path)
        log.write(target(0))
        child = os.fork()
        if not child:
            log.write(target(1))
            grandchild = os.fork()
            if not grandchild:
                log.write(target(2))
                os._exit(0)
            os.waitpid(grandchild, 0)
            log.write(target(3))
            os._exit(0)
        os.waitpid(child, 0)
        columns = read_log(tmp_path)
        assert sorted(columns.indexes.tolist()) == [0, 1, 2, 3]
        assert len(set(columns.pids)) == 3

    def test_a_fork_gives_back_the_descriptor_that_it_inherited(self, tmp_path):
        log = SampleLog(tmp_path)
        log.write(target(0))
        child = os.fork()
        if not child:
            before = len(list(Path("/proc/self/fd").iterdir()))
            log.write(target(1))
            os._exit(0 if len(list(Path("/proc/self/fd").iterdir())) == before else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        log.write(target(2))
        assert len(read_log(tmp_path)) == 3

    def test_lines_go_to_the_end_whatever_becomes_of_the_file(self, tmp_path):
        log = SampleLog(tmp_path)
        for number in range(3):
            log.write(target(number))
        (path,) = log_files(tmp_path)
        # What rotates logs in place does this.
        os.truncate(path, path.read_bytes().index(b"\n") + 1)
        log.write(target(7))
        columns = read_log(tmp_path)
        assert (columns.indexes.tolist(), columns.torn) == ([7], ())

    def test_a_killed_process_leaves_whole_lines(self, tmp_path):
        child = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(SampleLog(tmp_path),))
        child.start()
        while not log_files(tmp_path) or log_files(tmp_path)[0].stat().st_size < 20_000:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        columns = read_log(tmp_path)
        assert columns.torn == ()
        assert columns.indexes.tolist() == list(range(len(columns)))
        assert len(columns) > 50

    def test_a_pickle_is_small_and_opens_nothing(self, tmp_path):
        log = SampleLog(tmp_path / "log", count_classes=True, worker=3)
        log.write(target(0))
        state = pickle.dumps(log)
        assert len(state) < 400
        copy = pickle.loads(state)
        assert (copy.folder, copy.count_classes, copy.worker) == (log.folder, True, 3)
        copy.write(target(1))
        assert len(log_files(tmp_path / "log")) == 2

    def test_a_rank_from_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RANK", "3")
        with SampleLog(tmp_path) as log:
            log.write(target(0))
        assert read_log(tmp_path).ranks == (3,)
        # A worker that is spawned inherits the log, whatever its environment says.
        state = pickle.dumps(SampleLog(tmp_path))
        monkeypatch.delenv("RANK")
        assert pickle.loads(state).rank == 3
