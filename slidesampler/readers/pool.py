"""A bounded pool of open readers that no two threads and no two processes ever share.

A reader is *leased*: taken out of the pool for one read, put back after it. While it is out nobody else can
have it, so a handle is never used by two threads at once, which is what GDAL asks for. Handles are not tied to
threads for good: a training job that makes and ends threads would otherwise keep the handles of the dead ones.
Idle handles beyond ``max_open`` are closed, longest unused first.

A forked child starts with an empty pool. The readers that its copy of the pool held are set aside: not used,
not closed, not even freed, because freeing runs code of libraries on state that belongs to the parent.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from slidesampler.readers.base import Reader

__all__ = ["ReaderPool", "usual_max_open"]

#: Readers that a forked child inherited, kept so that nothing frees them.
_INHERITED: list[Any] = []

_POOLS: weakref.WeakSet[ReaderPool] = weakref.WeakSet()


def usual_max_open() -> int:
    """Return how many readers a process may well keep open: a quarter of its files, at most 256."""
    try:
        import resource

        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (ImportError, OSError, ValueError):
        files = 256
    if files < 0:
        # No limit.
        return 256
    return max(1, min(files // 4, 256))


class ReaderPool:
    """Lends open readers, one borrower at a time.

    Parameters
    ----------
    open_reader : callable
        Takes a hashable spec and returns an open :class:`Reader`. Must be picklable if the pool is.
    max_open : int
        How many idle readers are kept. Readers on loan come on top: at most one a thread.

    Attributes
    ----------
    opened : int
        How many readers this pool has opened in this process.

    Examples
    --------
    >>> from slidesampler.readers.array import ArrayReader
    >>> import numpy as np
    >>> pool = ReaderPool(lambda spec: ArrayReader(np.zeros((4, 4, 3), np.uint8)), max_open=2)
    >>> with pool.lease("a") as reader:
    ...     reader.shape
    (4, 4, 3)
    """

    def __init__(self, open_reader: Callable[[Any], Reader], max_open: int = 32) -> None:
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1, got {max_open}")
        self._open_reader = open_reader
        self.max_open = max_open
        self._reset()
        _POOLS.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        # Serial number -> reader and its spec, oldest first; and the serial numbers of each spec's readers, of
        # which there may be several. Specs are hashed as rarely as can be: that is the dearest part of a lease.
        self._idle: OrderedDict[int, tuple[Reader, Hashable]] = OrderedDict()
        self._by_spec: dict[Hashable, list[int]] = {}
        # Held here too: a child has to find the readers that the other threads of its parent had on loan.
        self._on_loan: dict[int, Reader] = {}
        self._serial = 0
        self.opened = 0

    @contextmanager
    def lease(self, spec: Hashable) -> Iterator[Reader]:
        """Lend a reader of ``spec`` for the body of a ``with`` block.

        A body that raises gets its reader closed rather than put back, since a failed read may have left it
        in a bad state. A body that forks keeps the reader in the parent; in the child it raises ReadError
        when read.
        """
        self._check_process()
        reader = self._take(spec)
        if reader is None:
            reader = self._open_reader(spec)
            with self._lock:
                self.opened += 1
                self._on_loan[id(reader)] = reader
        pid = self._pid
        try:
            yield reader
        except BaseException:
            if pid == os.getpid():
                self._strike(spec, reader)
                reader.close()
            raise
        if pid == os.getpid():
            self._give_back(spec, reader)

    @property
    def idle(self) -> int:
        """How many readers are open and not on loan."""
        self._check_process()
        return len(self._idle)

    @property
    def on_loan(self) -> int:
        """How many readers are on loan."""
        self._check_process()
        return len(self._on_loan)

    def discard(self, spec: Hashable) -> None:
        """Close the idle readers of one spec; those on loan stay with their borrowers."""
        self._check_process()
        while (reader := self._take(spec)) is not None:
            self._strike(spec, reader)
            reader.close()

    def close(self) -> None:
        """Close every idle reader. The pool can still be used: readers are opened again at need."""
        self._check_process()
        with self._lock:
            readers = [reader for reader, _ in self._idle.values()]
            self._idle.clear()
            self._by_spec.clear()
        for reader in readers:
            reader.close()

    def _take(self, spec: Hashable) -> Reader | None:
        with self._lock:
            serials = self._by_spec.get(spec)
            if not serials:
                return None
            # The youngest of its idle readers, whose caches are warmest.
            reader, _ = self._idle.pop(serials.pop())
            self._on_loan[id(reader)] = reader
            return reader

    def _give_back(self, spec: Hashable, reader: Reader) -> None:
        surplus = []
        with self._lock:
            self._on_loan.pop(id(reader), None)
            self._serial += 1
            self._idle[self._serial] = reader, spec
            self._by_spec.setdefault(spec, []).append(self._serial)
            while len(self._idle) > self.max_open:
                serial, (old, old_spec) = self._idle.popitem(last=False)
                serials = self._by_spec[old_spec]
                serials.remove(serial)
                if not serials:
                    del self._by_spec[old_spec]
                surplus.append(old)
        # Outside the lock: closing may take long, and others want to read.
        for old in surplus:
            old.close()

    def _strike(self, spec: Hashable, reader: Reader) -> None:
        """Forget a reader that was on loan and will not come back."""
        with self._lock:
            self._on_loan.pop(id(reader), None)
            if not self._by_spec.get(spec):
                self._by_spec.pop(spec, None)

    def _check_process(self) -> None:
        # The hook below has done this already wherever Python knows of the fork; a library that forks by itself
        # does not tell.
        if self._pid != os.getpid():
            self._abandon()

    def _abandon(self) -> None:
        # Without the lock: another thread of the parent may have held it when it forked.
        _INHERITED.append((self._idle, self._on_loan))
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {"open_reader": self._open_reader, "max_open": self.max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open_reader = state["open_reader"]
        self.max_open = state["max_open"]
        self._reset()
        _POOLS.add(self)


def _abandon_all() -> None:
    for pool in list(_POOLS):
        pool._abandon()  # noqa: SLF001 - the hook of the same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
