from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.errors import SamplingError, SourceMissingError, TargetError, UnknownKeyError
from slidesampler.geometry import Window
from slidesampler.sampling import GridSource, PositiveSource
from slidesampler.sampling.fixed import FixedSource, freeze
from slidesampler.sampling.target_file import TargetFile, write_jsonl
from slidesampler.target import Padding, Target
from slidesampler.testing.source_contract import RectangleSampler, SourceContract


def test_gives_the_targets_in_order():
    given = [{"image_id": 4}, Target(annot_id=9), {"gid": 5, "window": (0, 1, 2, 3)}]
    source = FixedSource(iter(given))
    assert [source.target(7, i) for i in range(len(source))] == [
        Target(image_id=4),
        Target(annot_id=9),
        Target.from_mapping({"image_id": 5, "window": (0, 1, 2, 3)}),
    ]


def test_later_changes_of_the_list_do_not_matter():
    mapping = {"image_id": 4}
    targets = [mapping]
    source = FixedSource(targets)
    mapping["image_id"] = 5
    targets.append({"image_id": 6})
    assert len(source) == 1
    assert source.target(0, 0) == Target(image_id=4)


def test_checks_every_target_at_once():
    with pytest.raises(UnknownKeyError, match=r"targets\[1\].*'hieght'.*'height'"):
        FixedSource([{"image_id": 1}, {"image_id": 1, "hieght": 3}])
    with pytest.raises(TargetError, match=r"targets\[2\].*mapping or a Target, got int"):
        FixedSource([{"image_id": 1}, {"image_id": 1}, 3])


@pytest.mark.parametrize("one", [{"image_id": 1}, Target(image_id=1)])
def test_one_target_is_no_list(one):
    with pytest.raises(TargetError, match=r"put it into \[ \]"):
        FixedSource(one)


def test_no_targets():
    source = FixedSource([])
    assert len(source) == 0
    with pytest.raises(IndexError, match="0 targets"):
        source.target(0, 0)


# Several epochs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [range(2), range(3, 9, 2), range(5, 0, -3)])
@pytest.mark.parametrize("kept", ["memory", "file"])
def test_freezes_epochs(tmp_path, epochs, kept):
    source = PositiveSource(RectangleSampler(50), size=64, n=20, seed=3, jitter_px=9)
    frozen = freeze(source, tmp_path / "targets.jsonl" if kept == "file" else None, epochs=epochs)
    assert len(frozen) == 20
    assert frozen.epochs == epochs
    for epoch in epochs:
        assert [frozen.target(epoch, i) for i in range(20)] == [source.target(epoch, i) for i in range(20)]
    # Outside they come again in turn.
    around = epochs.start + epochs.step * len(epochs)
    assert frozen.target(around, 7) == source.target(epochs.start, 7)
    assert frozen.target(epochs.start - epochs.step, 7) == source.target(epochs[-1], 7)
    assert pickle.loads(pickle.dumps(frozen)).target(epochs[-1], 19) == source.target(epochs[-1], 19)


@pytest.mark.parametrize("epoch", [0, 5])
def test_freezes_one_epoch(epoch):
    source = PositiveSource(RectangleSampler(50), size=64, n=20, seed=3, jitter_px=9)
    frozen = freeze(source, epoch=epoch)
    for asked in (0, 1, 5, 77):
        assert [frozen.target(asked, i) for i in range(20)] == [source.target(epoch, i) for i in range(20)]


def test_epochs_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(SamplingError, match="5 targets are not equally many for each of 2 epochs"):
        FixedSource([{"image_id": 1}] * 5, epochs=range(2))
    with pytest.raises(SamplingError, match="epochs is empty"):
        freeze(FixedSource([{"image_id": 1}]), epochs=range(3, 3))
    path = tmp_path / "targets.jsonl"
    with pytest.raises(SamplingError, match="equally many"):
        write_jsonl([{"image_id": 1}] * 5, path, epochs=range(2))
    assert list(tmp_path.iterdir()) == []


# Files ---------------------------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6)
sizes = st.floats(1e-3, 1e6)
windows = st.builds(
    Window, st.integers(-(10**9), 10**9), st.integers(-5, 5), st.integers(1, 10**9), st.integers(1, 3)
)


def maybe(strategy):
    return st.none() | strategy


any_target = st.builds(
    Target,
    image_id=maybe(st.integers(-(2**70), 2**70)),
    annot_id=maybe(st.integers()),
    video_id=maybe(st.integers()),
    image_ids=maybe(st.lists(st.integers(), min_size=1, max_size=3).map(tuple)),
    window=maybe(windows),
    cx=maybe(numbers),
    cy=maybe(numbers),
    width=maybe(sizes),
    height=maybe(sizes),
    window_dims=maybe(st.sampled_from(["extent", "square"]) | st.tuples(sizes, sizes)),
    pad=st.tuples(*[st.integers(-9, 9)] * 4),
    downsample=maybe(st.floats(1, 1e4)),
    mpp=maybe(sizes),
    size=maybe(st.tuples(st.integers(1, 9), st.integers(1, 9))),
    channels=maybe(st.lists(st.text() | st.integers(0, 5), min_size=1, max_size=3).map(tuple)),
    dtype=maybe(st.sampled_from(["uint8", "float32"])),
    nodata=maybe(numbers | st.just(float("inf"))),
    padding=st.builds(
        Padding, st.sampled_from(["constant", "reflect", "edge"]), st.lists(numbers, min_size=1).map(tuple)
    ),
    owned=maybe(windows),
    category_id=maybe(st.integers()),
    kind=maybe(st.text()),
    index=maybe(st.integers()),
)


@given(targets=st.lists(any_target, max_size=4))
def test_any_target_comes_back_from_a_file(targets, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "targets.jsonl"
    assert write_jsonl(targets, path) == len(targets)
    source = FixedSource.from_jsonl(path)
    assert [source.target(0, i) for i in range(len(source))] == targets


def test_numbers_of_numpy_are_written():
    target = Target(image_id=np.int64(3), cx=np.float32(1.5), size=(np.int32(4), 5))
    assert freeze(FixedSource([target])).target(0, 0) == target


def test_numbers_of_numpy_come_back_from_a_file(tmp_path):
    target = Target(image_id=np.int64(3), cx=np.float32(1.5), size=(np.int32(4), 5))
    write_jsonl([target], tmp_path / "t.jsonl")
    assert FixedSource.from_jsonl(tmp_path / "t.jsonl").target(0, 0) == target


@pytest.mark.parametrize(
    "text",
    [
        '{"image_id": 1}\n{"image_id": 2}\n',
        '{"image_id": 1}\n{"image_id": 2}',
        '\n\n  \n{"image_id": 1}\n\t\n{"image_id": 2}\n\n',
        '{"image_id": 1}\r\n\r\n{"image_id": 2}\r\n',
        ' {"image_id": 1} \n\t{"image_id": 2}\t\n',
        '\ufeff{"image_id": 1}\n{"image_id": 2}\n',
        '{"format": "slidesampler-targets", "version": 1}\n{"image_id": 1}\n{"image_id": 2}\n',
    ],
)
def test_reads_files_of_others(tmp_path, text):
    path = tmp_path / "targets.jsonl"
    path.write_bytes(text.encode())
    source = FixedSource.from_jsonl(path)
    assert [source.target(0, i).image_id for i in range(len(source))] == [1, 2]
    again = pickle.loads(pickle.dumps(source))
    assert [again.target(0, i).image_id for i in range(len(again))] == [1, 2]


@pytest.mark.parametrize("text", ["", "\n", " \r\n\n"])
def test_file_of_nothing(tmp_path, text):
    path = tmp_path / "targets.jsonl"
    path.write_bytes(text.encode())
    assert len(FixedSource.from_jsonl(path)) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("hello", "line 4 of .*not a JSON object: 'hello'"),
        ("[1, 2]", "line 4 of .*not a JSON object"),
        ('{"image_id": 3', "line 4 of .*not a JSON object"),
        ('"image_id": 3}', "line 4 of .*not a JSON object"),
        ('{"image_id": }', "line 4 of .*is not JSON"),
        ('{"image_id": 1} {"image_id": 2}', "line 4 of .*is not JSON"),
        ('{"hieght": 3}', "line 4 of .*'hieght'.*'height'"),
        ('{"image_id": 1.5}', "line 4 of .*whole number"),
        (b'{"kind": "\xff"}', "line 4 of .*is not JSON"),
    ],
)
def test_malformed_line_is_named(tmp_path, bad, message):
    path = tmp_path / "targets.jsonl"
    bad = bad if isinstance(bad, bytes) else bad.encode()
    path.write_bytes(b'{"image_id": 1}\n\n{"image_id": 2}\n' + bad + b'\n{"image_id": 4}\n')
    with pytest.raises(TargetError, match=message):
        FixedSource.from_jsonl(path)


def test_content_is_checked_late_where_asked(tmp_path):
    path = tmp_path / "targets.jsonl"
    path.write_text('{"image_id": 1}\n{"hieght": 3}\n')
    source = FixedSource.from_jsonl(path, check=False)
    assert source.target(0, 0).image_id == 1
    with pytest.raises(UnknownKeyError, match="line 2 of"):
        source.target(0, 1)


def test_large_file_is_not_parsed_at_once(tmp_path):
    path = tmp_path / "targets.jsonl"
    path.write_text('{"image_id": 1}\n' * 10_001 + '{"hieght": 3}\n')
    assert len(FixedSource.from_jsonl(path)) == 10_002
    with pytest.raises(UnknownKeyError, match="line 10002 of"):
        FixedSource.from_jsonl(path, check=True)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of targets"):
        FixedSource.from_jsonl(tmp_path / "none.jsonl")
    path = tmp_path / "targets.jsonl"
    write_jsonl([{"image_id": 1}], path)
    source = FixedSource.from_jsonl(path)
    path.unlink()
    with pytest.raises(SourceMissingError):
        source.target(0, 0)


def test_changed_file_is_noticed(tmp_path):
    path = tmp_path / "targets.jsonl"
    write_jsonl([{"image_id": 1}, {"image_id": 2}], path)
    source = FixedSource.from_jsonl(path)
    state = pickle.dumps(source)
    # The same bytes written again are no change.
    write_jsonl([{"image_id": 1}, {"image_id": 2}], path)
    assert source.target(0, 0).image_id == 1
    write_jsonl([{"image_id": 1}, {"image_id": 3}], path)
    with pytest.raises(SamplingError, match="has changed"):
        source.target(0, 0)
    with pytest.raises(SamplingError, match="has changed"):
        pickle.loads(state).target(0, 0)


def test_cut_file_is_noticed(tmp_path):
    path = tmp_path / "targets.jsonl"
    write_jsonl([{"image_id": i} for i in range(9)], path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(SamplingError, match=r"should hold 9 targets.*has 8"):
        FixedSource.from_jsonl(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "slidesampler-targets", "version": 2}, "version 2; this slidesampler reads"),
        ({"format": "parquet"}, "is 'parquet'"),
        ({"format": "slidesampler-targets", "version": 1, "epochs": [0, 0, 1]}, "not equally many"),
        ({"format": "slidesampler-targets", "version": 1, "epochs": 3}, "not equally many"),
    ],
)
def test_header_of_another_kind(tmp_path, header, message):
    path = tmp_path / "targets.jsonl"
    path.write_text(json.dumps(header) + '\n{"image_id": 1}\n')
    with pytest.raises(SamplingError, match=message):
        FixedSource.from_jsonl(path)


def test_nothing_is_left_of_a_failed_write(tmp_path):
    path = tmp_path / "targets.jsonl"
    path.write_text("before")
    with pytest.raises(UnknownKeyError, match=r"targets\[1\]"):
        write_jsonl([{"image_id": 1}, {"hieght": 1}], path)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("targets.jsonl", "before")]


def test_header_says_where_targets_come_from(tmp_path):
    source = GridSource(RectangleSampler(3), size=256)
    path = tmp_path / "grid.jsonl"
    frozen = freeze(source, path, about={"manifest": "slides.kwcoco.json"})
    header = json.loads(path.read_text().splitlines()[0])
    assert header["targets"] == len(source) == len(frozen)
    assert TargetFile(path).about == {"source": "GridSource", "epoch": 0, "manifest": "slides.kwcoco.json"}


def test_pickle_is_the_path_however_many_targets(tmp_path):
    path = tmp_path / "targets.jsonl"
    write_jsonl(({"image_id": i} for i in range(20_000)), path)
    source = FixedSource.from_jsonl(path)
    source.target(0, 19_999)
    assert len(pickle.dumps(source)) < 1000


class TestFrozenSource(SourceContract):
    random = False

    def make_sampler(self):
        return RectangleSampler(300)

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make_source(self, sampler):
        source = PositiveSource(sampler, size=64, n=100, seed=7, jitter_px=20)
        return freeze(source, self.folder / "frozen.jsonl", epoch=4)


class TestFrozenEpochs(SourceContract):
    def make_sampler(self):
        return RectangleSampler(300)

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make_source(self, sampler):
        source = PositiveSource(sampler, size=64, n=50, seed=7, jitter_px=20)
        return freeze(source, self.folder / "frozen.jsonl", epochs=range(7))
