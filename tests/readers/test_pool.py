"""The pool: one borrower at a time, bounded, and nothing shared."""

from __future__ import annotations

import pickle
import random
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from raster_files import noise, spec_by_table, write_cog

from slidesampler.geometry import Window
from slidesampler.readers import ArrayReader, ReaderPool, ReaderSpec, open_reader, usual_max_open


class Probe(ArrayReader):
    """Notices being used by two threads at once, after close, or closed twice."""

    alive = 0
    most_alive = 0
    lock = threading.Lock()

    def __init__(self, spec):
        super().__init__(np.full((4, 4, 1), hash(spec) % 251, np.uint8), str(spec))
        self.spec = spec
        self.busy = threading.Lock()
        with Probe.lock:
            Probe.alive += 1
            Probe.most_alive = max(Probe.alive, Probe.most_alive)

    def read(self, *args, **kwargs):
        assert self.busy.acquire(blocking=False), "two threads at once"
        try:
            return super().read(*args, **kwargs)
        finally:
            self.busy.release()

    def close(self):
        assert self._pixels is not None, "closed twice"
        with Probe.lock:
            Probe.alive -= 1
        super().close()


@pytest.fixture(autouse=True)
def _count():
    Probe.alive = Probe.most_alive = 0


def use(pool, spec):
    with pool.lease(spec) as reader:
        assert reader.spec == spec
        return reader.read(Window(0, 0, 1, 1))


def test_a_reader_is_opened_once_and_used_again():
    pool = ReaderPool(Probe)
    for _ in range(5):
        use(pool, "a")
    assert (pool.opened, pool.idle, pool.on_loan) == (1, 1, 0)


def test_nested_leases_of_one_spec_are_two_readers():
    pool = ReaderPool(Probe)
    with pool.lease("a") as first, pool.lease("a") as second:
        assert first is not second
        assert (pool.idle, pool.on_loan) == (0, 2)
    assert (pool.idle, pool.on_loan) == (2, 0)
    with pool.lease("a") as again:
        assert again in (first, second)


def test_the_longest_unused_is_closed():
    pool = ReaderPool(Probe, max_open=2)
    for spec in ("a", "b", "a", "c"):
        use(pool, spec)
    assert (pool.idle, Probe.alive) == (2, 2)
    opened = pool.opened
    use(pool, "a")
    use(pool, "c")
    assert pool.opened == opened
    use(pool, "b")
    assert pool.opened == opened + 1


def test_a_lease_in_use_cannot_be_entered_again():
    """Or its reader would be given back twice, and lent to two."""
    pool = ReaderPool(Probe)
    lease = pool.lease("a")
    with lease, pytest.raises(RuntimeError, match="in use"), lease:
        pass
    assert (pool.idle, pool.on_loan) == (1, 0)
    with lease:
        assert (pool.idle, pool.on_loan) == (0, 1)


def test_a_reader_that_is_being_closed_is_not_lent():
    """As if a thread were stopped in the middle: it is on the shelf still, and among the idle no more."""
    pool = ReaderPool(Probe)
    use(pool, "a")
    (key,) = pool._idle
    closing, _ = pool._idle.pop(key)
    with pool.lease("a") as other:
        assert other is not closing


def test_a_body_that_raises_closes_its_reader():
    pool = ReaderPool(Probe)
    with pytest.raises(RuntimeError, match="body"), pool.lease("a"):
        raise RuntimeError("body")
    assert (pool.idle, pool.on_loan, Probe.alive) == (0, 0, 0)
    assert not pool._shelves


def test_an_open_that_raises_leaves_nothing():
    def fail(spec):
        raise OSError(spec)

    pool = ReaderPool(fail)
    with pytest.raises(OSError, match="a"), pool.lease("a"):
        pass
    assert (pool.opened, pool.idle, pool.on_loan) == (0, 0, 0)


def test_discard_closes_one_spec_and_leaves_what_is_on_loan():
    pool = ReaderPool(Probe)
    with pool.lease("a") as lent:
        with pool.lease("a"), pool.lease("b"):
            pass
        pool.discard("a")
        assert (pool.idle, pool.on_loan, Probe.alive) == (1, 1, 2)
        lent.read(Window(0, 0, 1, 1))
    assert pool.idle == 2


def test_close_empties_the_pool_which_can_be_used_again():
    pool = ReaderPool(Probe)
    use(pool, "a")
    use(pool, "b")
    pool.close()
    pool.close()
    assert (pool.idle, Probe.alive) == (0, 0)
    use(pool, "a")
    assert pool.idle == 1


def test_max_open_must_be_positive():
    with pytest.raises(ValueError, match="max_open"):
        ReaderPool(Probe, max_open=0)


class Handy(Probe):
    """Can be opened again, unless its file is ``gone``."""

    gone = False

    def reopen(self):
        assert self._pixels is None, "opened twice"
        if Handy.gone:
            return False
        self.__init__(self.spec)
        return True


@pytest.fixture
def handy(monkeypatch):
    monkeypatch.setattr(Handy, "gone", False)
    made = []

    def make(spec):
        made.append(Handy(spec))
        return made[-1]

    return ReaderPool(make, max_open=1), made


def test_what_was_closed_for_another_is_opened_again(handy):
    pool, made = handy
    for _ in range(3):
        use(pool, "a")
        use(pool, "b")
    assert [reader.spec for reader in made] == ["a", "b"]
    assert (pool.opened, pool.idle, Probe.alive) == (6, 1, 1)


def test_what_cannot_be_opened_again_is_opened_anew(handy, monkeypatch):
    pool, made = handy
    use(pool, "a")
    use(pool, "b")
    monkeypatch.setattr(Handy, "gone", True)
    use(pool, "a")
    assert [reader.spec for reader in made] == ["a", "b", "a"]
    assert Probe.alive == 1


@pytest.mark.parametrize("way", ["discard", "close", "raise"])
def test_what_was_closed_for_good_is_opened_anew(handy, way):
    pool, made = handy
    use(pool, "a")
    if way == "raise":
        with pytest.raises(KeyError), pool.lease("a"):
            raise KeyError
    else:
        use(pool, "b")
        pool.discard("a") if way == "discard" else pool.close()
    use(pool, "a")
    assert [reader.spec for reader in made if reader.spec == "a"] == ["a", "a"]


def test_one_that_was_closed_is_opened_again_by_one_borrower(handy):
    pool, made = handy
    use(pool, "a")
    use(pool, "b")
    with pool.lease("a") as first, pool.lease("a") as second:
        assert first is made[0]
        assert second is not first


def test_the_closed_ones_that_are_kept_are_bounded(handy, monkeypatch):
    pool, made = handy
    monkeypatch.setattr("slidesampler.readers.pool.MAX_CLOSED", 2)
    for spec in "abcde":
        use(pool, spec)
    assert list(pool._closed) == ["c", "d"]
    use(pool, "c")
    use(pool, "b")
    assert [reader.spec for reader in made] == [*"abcde", "b"]


def test_a_pool_pickles_empty(tmp_path):
    path = str(write_cog(tmp_path / "a.tif", noise(64, 64)))
    pool = ReaderPool(open_reader, max_open=7)
    with pool.lease(ReaderSpec("cog", path)):
        data = pickle.dumps(pool)
    assert len(data) < 500
    again = pickle.loads(data)
    assert (again.max_open, again.idle, again.opened) == (7, 0, 0)
    with again.lease(ReaderSpec("cog", path)) as reader:
        assert reader.shape == (64, 64, 3)
    again.close()


def test_threads_never_share_a_reader():
    """8 threads, 12 specs, 3 idle readers: eviction, reuse, failures and discards all at once."""
    pool = ReaderPool(Probe, max_open=3)
    errors = []

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(400):
                spec = rng.choice("abcdefghijkl")
                dice = rng.random()
                if dice < 0.03:
                    pool.discard(spec)
                elif dice < 0.05:
                    pool.close()
                elif dice < 0.10:
                    with pytest.raises(KeyError), pool.lease(spec):
                        raise KeyError
                else:
                    pixels = use(pool, spec)
                    assert pixels[0, 0, 0] == hash(spec) % 251
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pool.on_loan == 0
    assert pool.idle <= 3
    assert Probe.alive == pool.idle
    # One a thread, and the idle ones, and at most one a thread that is being closed.
    assert Probe.most_alive <= 3 + 2 * 8
    assert sum(len(shelf.idle) for shelf in pool._shelves.values()) == pool.idle
    assert sum(shelf.open for shelf in pool._shelves.values()) == pool.idle


@pytest.mark.parametrize("kind", ["cog", "gdal", "openslide", "tiled"])
def test_eight_threads_read_what_one_reads(tmp_path, kind):
    """8 threads x 500 random windows over 5 COGs, byte for byte."""
    paths = [str(write_cog(tmp_path / f"{i}.tif", noise(256, 256, seed=i), factors=(2,))) for i in range(5)]
    specs = [spec_by_table(Path(path)) if kind == "tiled" else ReaderSpec(kind, path) for path in paths]
    images = [noise(256, 256, seed=i) for i in range(5)]
    count = 500 if kind in ("cog", "tiled") else 60
    pool = ReaderPool(open_reader, max_open=2 if kind == "tiled" else 4)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(count):
                which, y, x = int(rng.integers(5)), int(rng.integers(224)), int(rng.integers(224))
                with pool.lease(specs[which]) as reader:
                    pixels = reader.read(Window(y, x, 32, 32))
                    reduced = reader.read(Window(y // 2, x // 2, 16, 16), 1)
                if not np.array_equal(pixels, images[which][y : y + 32, x : x + 32]):
                    wrong.append((seed, which, y, x))
                half = images[which][::2, ::2]
                if not np.array_equal(reduced, half[y // 2 : y // 2 + 16, x // 2 : x // 2 + 16]):
                    wrong.append((seed, which, y, x, "level 1"))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool.idle <= 4
    pool.close()


def test_what_is_kept_open_leaves_most_files_to_others():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for files, expected in ((1024, 256), (400, 100), (4096, 256)):
            if hard == resource.RLIM_INFINITY or files <= hard:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
                assert usual_max_open() == expected
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
