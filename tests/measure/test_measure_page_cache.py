"""Files are dropped from the page cache, where the system does that; what cannot be told is not claimed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slidesampler.measure import page_cache
from slidesampler.measure.page_cache import can_drop, drop_files, share_in_memory

needs_linux = pytest.mark.skipif(not can_drop(), reason="this system cannot drop files")


@needs_linux
def test_dropped_files_are_gone_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(8 << 20))
    path.read_bytes()
    if share_in_memory(str(path)) is None:
        pytest.skip("this file system does not tell")
    assert share_in_memory(str(path)) == 1.0
    assert drop_files([str(path)]) == pytest.approx(0.0, abs=0.1)
    # To look for pages fetches these alone.
    for look in range(3):
        assert share_in_memory(str(path), (look + 0.5) / 3) == pytest.approx(0.0, abs=0.1)
    path.read_bytes()
    assert share_in_memory(str(path)) == 1.0


@needs_linux
def test_files_are_written_before_they_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pages that are not on the disk yet cannot be dropped.
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: calls.append("fsync"))
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: calls.append("drop"))
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(page_cache, "share_in_memory", lambda *_: 0.0)
    assert drop_files([str(tmp_path / "a")]) == 0.0
    assert calls == ["fsync", "drop"] * 2


@needs_linux
def test_pages_that_stay_are_dropped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(page_cache, "_PAUSE_S", 0.0)
    left = iter([0.9, 0.5, 0.01])
    monkeypatch.setattr(page_cache, "share_in_memory", lambda *_: next(left))
    assert drop_files([str(tmp_path / "a")]) == 0.01
    monkeypatch.setattr(page_cache, "share_in_memory", lambda *_: 0.7)
    assert drop_files([str(tmp_path / "a")]) == 0.7


@needs_linux
def test_large_files_count_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("large", 9000), ("small", 1000)):
        (tmp_path / name).write_bytes(bytes(size))
    paths = [str(tmp_path / "large"), str(tmp_path / "small")]
    monkeypatch.setattr(page_cache, "_PAUSE_S", 0.0)
    found = {paths[0]: 0.0, paths[1]: 1.0}
    monkeypatch.setattr(page_cache, "share_in_memory", lambda path, _: found[path])
    assert drop_files(paths) == 0.1
    found[paths[0]] = None  # type: ignore[assignment]
    assert drop_files(paths) is None


def test_an_empty_file_is_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert share_in_memory(str(tmp_path / "a")) in (0.0, None)


def test_a_file_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(os, "preadv", refuse, raising=False)
    assert share_in_memory(str(tmp_path / "a")) is None
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    assert share_in_memory(str(tmp_path / "a")) is None


@needs_linux
def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        drop_files([str(tmp_path / "none")])
