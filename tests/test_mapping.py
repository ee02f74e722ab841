"""Mapped files: the bytes of the file, no descriptor, and gone when nobody has them any more."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from slidesampler import mapping

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture
def file(tmp_path):
    """A file of some pages and a bit."""
    path = tmp_path / "mapped file"
    path.write_bytes(np.random.default_rng(0).bytes(3 * mmap.PAGESIZE + 5))
    return path


def map_whole(path):
    with path.open("rb") as file:
        return mapping.map_file(file.fileno(), path.stat().st_size)


def is_mapped(path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_it_holds_the_bytes_and_no_descriptor(file):
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = map_whole(file)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert found.dtype == np.uint8
    assert found.tobytes() == file.read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_views_of_views_hold_it_and_nothing_else_does(file):
    found = map_whole(file)
    part = np.frombuffer(found.data[8:4104], np.uint64)[1:]
    del found
    assert is_mapped(file)
    assert part.tobytes() == file.read_bytes()[16:4104]
    del part
    assert not is_mapped(file)


def test_where_the_c_library_cannot_be_called(file, monkeypatch):
    monkeypatch.setattr(mapping, "_CALLS", None)
    assert map_whole(file).tobytes() == file.read_bytes()


def test_what_cannot_be_mapped_is_an_error(file):
    descriptor = os.open(file, os.O_WRONLY)
    try:
        with pytest.raises(PermissionError) as error:
            mapping.map_file(descriptor, 5)
    finally:
        os.close(descriptor)
    assert error.value.errno == errno.EACCES


def test_a_forked_child_has_it_and_lets_it_go_for_itself(file):
    found = map_whole(file)
    child = os.fork()
    if child == 0:
        data = found.tobytes()
        del found
        os._exit(0 if data == file.read_bytes() and not is_mapped(file) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found.tobytes() == file.read_bytes()


@pytest.mark.parametrize("dtype", ["u1", "<i8", "f4"])
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 0, 2), (5, 4)])
def test_an_npy_file_is_the_array_that_was_saved(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    for order in "CF":
        np.save(tmp_path / "a.npy", np.asarray(array, order=order))
        with (tmp_path / "a.npy").open("rb") as opened:
            found = mapping.map_npy(opened)
        np.testing.assert_array_equal(found, array, strict=True)
        assert not found.flags.writeable
        assert not found.flags.owndata


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"x", lambda _: b"II*\0" + bytes(99)]
)
def test_what_is_no_npy_file_is_an_error(tmp_path, damage):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    path.write_bytes(damage(path.read_bytes()))
    with path.open("rb") as opened, pytest.raises(ValueError, match=r"a\.npy has|magic"):
        mapping.map_npy(opened)


def test_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([None]))
    with (tmp_path / "a.npy").open("rb") as opened, pytest.raises(ValueError, match=r"a\.npy has"):
        mapping.map_npy(opened)
