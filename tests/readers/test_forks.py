"""Forked and spawned processes: they read what their parent reads, and do it no harm."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from raster_files import noise, spec_by_table, write_cog

from slidesampler import _native
from slidesampler.errors import ReadError
from slidesampler.geometry import Window
from slidesampler.readers import ReaderPool, ReaderSpec, open_reader
from slidesampler.readers.forking import FORK_GATE, ForkGate

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()"),
    # Python 3.12 and later warn of forks in processes with threads, which is what is tested here.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

SIZE = 192
PATIENCE_S = 60


@pytest.fixture
def specs(tmp_path):
    """Five COGs, and each of them through four readers, and two npy files."""
    found = []
    for i in range(5):
        path = write_cog(tmp_path / f"{i}.tif", noise(SIZE, SIZE, seed=i))
        found += [(i, ReaderSpec(kind, str(path))) for kind in ("cog", "gdal", "openslide")]
        found.append((i, spec_by_table(path)))
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", noise(SIZE, SIZE, seed=i))
        found.append((i, ReaderSpec("npy", str(tmp_path / f"{i}.npy"))))
    return found


def read_at_random(pool, specs, seed, count=120):
    """Read random windows and return how many are not what they should be."""
    images = {i: noise(SIZE, SIZE, seed=i) for i, _ in specs}
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(count):
        i, spec = specs[int(rng.integers(len(specs)))]
        window = Window(int(rng.integers(SIZE - 40)), int(rng.integers(SIZE - 40)), 40, 40)
        with pool.lease(spec) as reader:
            wrong += not np.array_equal(reader.read(window), images[i][window.as_slices()])
    return wrong


def in_child(pool, specs, seed):
    """What a worker does; the exit code says whether all went well."""
    assert (pool.idle, pool.on_loan, pool.opened) == (0, 0, 0)
    sys.exit(1 if read_at_random(pool, specs, seed) else 0)


def test_four_forked_and_four_spawned_children(specs):
    pool = ReaderPool(open_reader, max_open=6)
    assert read_at_random(pool, specs, 99) == 0
    assert pool.idle == 6
    children = [
        multiprocessing.get_context(method).Process(target=in_child, args=(pool, specs, seed))
        for seed, method in enumerate(["fork"] * 4 + ["spawn"] * 4)
    ]
    for child in children:
        child.start()
    # The parent goes on reading all the while.
    wrong = read_at_random(pool, specs, 100, 300)
    for child in children:
        child.join(PATIENCE_S)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes == [0] * 8
    assert wrong == 0
    pool.close()


def forked(action) -> int:
    """Run ``action()`` in a forked child and return its exit status; it is killed when it takes too long."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return status_of(child)


def status_of(child: int) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -9


@pytest.mark.parametrize("kind", ["cog", "gdal", "openslide"])
def test_a_lease_that_spans_a_fork(specs, kind):
    """The child may not read through its parent's handle, and closing there leaves it alone."""
    i, spec = next(item for item in specs if item[1].kind == kind)
    image = noise(SIZE, SIZE, seed=i)
    pool = ReaderPool(open_reader)

    def holds_file():
        links = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                links.append(str(entry.readlink()))
            except FileNotFoundError:
                continue
        return spec.path in links

    def child():
        with pytest.raises(ReadError, match=r"lease a reader from a ReaderPool"):
            reader.read(Window(0, 0, 2, 2))
        with pytest.raises(ReadError, match=r"survive a fork"):
            reader.read_valid(Window(0, 0, 2, 2))
        reader.close()
        if kind != "openslide":
            # OpenSlide keeps no file open between reads.
            assert holds_file()
        with pool.lease(spec) as own:
            assert own is not reader
            np.testing.assert_array_equal(own.read(Window(3, 4, 5, 6)), image[3:8, 4:10])
        pool.close()

    with pool.lease(spec) as reader:
        reader.read(Window(0, 0, 2, 2))
        assert forked(child) == 0
        np.testing.assert_array_equal(reader.read(Window(0, 0, SIZE, SIZE)), image)
    assert (pool.idle, pool.on_loan) == (1, 0)
    pool.close()


@pytest.mark.parametrize("raises", [False, True])
def test_leaving_a_lease_in_the_child(specs, raises):
    """The reader is neither put into the child's pool nor closed there, whichever way the block is left."""
    _, spec = specs[0]
    pool = ReaderPool(open_reader)
    closes = []

    def child():
        lease = pool.lease(spec)
        reader = lease.__enter__()
        reader.close = lambda: closes.append(1)
        inner = os.fork()
        if inner == 0:
            try:
                error = ValueError("x")
                lease.__exit__(*((ValueError, error, None) if raises else (None, None, None)))
            except ValueError:
                pass
            os._exit(10 * len(closes) + pool.idle + pool.on_loan)
        assert status_of(inner) == 0
        assert (pool.idle, pool.on_loan) == (0, 1)

    assert forked(child) == 0


def test_readers_on_loan_to_other_threads_are_kept_in_the_child(specs):
    """Their threads are not there, and nothing may free the parent's handles."""
    _, spec = specs[0]
    pool = ReaderPool(open_reader)
    leased, release = threading.Event(), threading.Event()
    borrowed = []

    def borrow():
        with pool.lease(spec) as reader:
            borrowed.append(reader)
            leased.set()
            release.wait(PATIENCE_S)

    thread = threading.Thread(target=borrow)
    thread.start()
    leased.wait(PATIENCE_S)

    def child():
        from slidesampler.readers import pool as module

        # Pools of other tests may be there too.
        assert any(borrowed[0] in inherited.values() for inherited in module._INHERITED)
        assert pool.on_loan == 0

    status = forked(child)
    release.set()
    thread.join()
    assert status == 0
    pool.close()


def test_a_lock_that_is_held_at_the_fork(specs):
    _, spec = specs[0]
    pool = ReaderPool(open_reader)

    def child():
        with pool.lease(spec) as reader:
            reader.read(Window(0, 0, 2, 2))

    with pool._lock:
        # As if another thread held it: the child must not wait for it.
        assert forked(child) == 0


def test_forks_in_the_middle_of_other_threads_reads(specs):
    """Locks of the libraries that a reading thread holds at the fork would hang the child."""
    pool = ReaderPool(open_reader, max_open=3)
    stop = threading.Event()
    wrong = []

    def work(seed):
        while not stop.is_set():
            wrong.append(read_at_random(pool, specs, seed, 20))

    def child():
        assert read_at_random(pool, specs, 5, 10) == 0

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    codes = [forked(child) for _ in range(12)]
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 12
    assert sum(wrong) == 0
    pool.close()


@pytest.mark.parametrize("kind", ["cog", "gdal", "openslide"])
def test_libraries_are_called_inside_the_gate(specs, monkeypatch, kind):
    """Opening, reading pixels and masks, and closing."""
    import openslide
    from osgeo import gdal, gdal_array

    # Without GDAL there is nothing to guard.
    monkeypatch.setattr(_native, "tiles", None)
    seen = []

    def watched(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            seen.append((name, threading.get_ident() in FORK_GATE._depth))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    watched(gdal, "OpenEx")
    watched(gdal_array, "DatasetIONumPy")
    watched(gdal_array, "BandRasterIONumPy")
    watched(openslide.OpenSlide, "__init__")
    watched(openslide.OpenSlide, "read_region")
    watched(openslide.OpenSlide, "close")
    path = next(spec.path for _, spec in specs if spec.kind == kind)
    if kind != "openslide":
        path = str(write_cog(Path(path).with_name("m.tif"), noise(64, 64), mask=noise(64, 64, 1)[..., 0] > 9))
        seen.clear()
    reader = open_reader(ReaderSpec(kind, path))
    reader.read(Window(0, 0, 9, 9))
    reader.read_valid(Window(0, 0, 8, 8))
    reader.close()
    assert len({name for name, _ in seen}) == 3
    assert all(inside for _, inside in seen), seen
    assert not FORK_GATE._depth


def test_threads_of_gdals_own_are_not_waited_for_in_a_child(specs):
    """With GDAL_NUM_THREADS set, GDAL decodes in threads that a child has not got."""
    _, spec = next(item for item in specs if item[1].kind == "cog")
    script = f"""
import os, signal
from slidesampler.geometry import Window
from slidesampler.readers import ReaderPool, ReaderSpec, open_reader
pool = ReaderPool(open_reader)
whole = Window(0, 0, {SIZE}, {SIZE})
def read():
    for kind in ("cog", "gdal"):
        with pool.lease(ReaderSpec(kind, {spec.path!r})) as reader:
            reader.read(whole)
read()
child = os.fork()
if child == 0:
    signal.alarm(10)
    read()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "GDAL_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_fork_that_python_does_not_know_of(specs):
    """A library that forks by itself runs none of Python's hooks; the process number tells."""
    _, spec = specs[0]
    pool = ReaderPool(open_reader)
    with pool.lease(spec) as reader:
        reader.read(Window(0, 0, 2, 2))
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        try:
            with pool.lease(spec) as own:
                own.read(Window(0, 0, 2, 2))
            os._exit(0 if own is not reader and pool.opened == 1 else 2)
        finally:
            os._exit(1)
    assert status_of(child) == 0
    pool.close()


def test_a_fork_waits_until_threads_are_out_of_the_gate():
    gate = ForkGate()
    inside = threading.Event()
    left = []

    def work():
        with gate, gate:
            inside.set()
            time.sleep(0.2)
            left.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(PATIENCE_S)

    def child():
        assert left == [True]
        assert not gate._depth
        with gate:
            pass

    # The thread that forks does not wait for itself.
    with gate:
        assert forked(child) == 0
    thread.join()
    assert not gate._depth


def test_nobody_enters_the_gate_during_a_fork():
    gate = ForkGate()
    entered = threading.Event()

    def work():
        with gate:
            entered.set()

    gate._before_fork()
    thread = threading.Thread(target=work)
    thread.start()
    assert not entered.wait(0.2)
    gate._after_in_parent()
    assert entered.wait(PATIENCE_S)
    thread.join()
    assert not gate._depth


def test_a_fork_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr("slidesampler.readers.forking.FORK_PATIENCE_S", 0.05)
    gate = ForkGate()
    inside, release = threading.Event(), threading.Event()

    def work():
        with gate:
            inside.set()
            release.wait(PATIENCE_S)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(PATIENCE_S)
    assert forked(lambda: gate.__enter__()) == 0
    release.set()
    thread.join()
