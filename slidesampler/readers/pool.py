"""A bounded pool of open readers that no two threads and no two processes ever share.

A reader is *leased*: taken out of the pool for one read, put back after it. While it is out nobody else can
have it, so a handle is never used by two threads at once, which is what GDAL asks for. Handles are not tied to
threads for good: a training job that makes and ends threads would otherwise keep the handles of the dead ones.
Idle handles beyond ``max_open`` are closed, longest unused first. Random windows of thousands of slides open
files all the time, so of those some are kept that can be opened again for little: readers with a method
``reopen() -> bool``, which is False where the file is another one now.

A forked child starts with an empty pool. The readers that its copy of the pool held are set aside: not used,
not closed, not even freed, because freeing runs code of libraries on state that belongs to the parent.
"""

# A lease and its pool are one piece.
# ruff: noqa: SLF001

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from slidesampler.readers.base import Reader

__all__ = ["ReaderPool", "usual_max_open"]

#: How many closed readers are kept that can be opened again; a few kilobytes each.
MAX_CLOSED = 2048

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


class _Shelf:
    """The readers of one spec. A lease holds on to it: hashing the spec is the dearest part of a lease."""

    __slots__ = ("idle", "open", "spec")

    def __init__(self, spec: Hashable) -> None:
        self.spec = spec
        #: Longest unused first.
        self.idle: list[Reader] = []
        #: How many are open, idle or on loan; the pool forgets a shelf that has none.
        self.open = 0


class _Lease:
    """The context of :meth:`ReaderPool.lease`; a generator's would take longer than all that is done in it."""

    __slots__ = ("_pid", "_pool", "_reader", "_shelf", "_spec")

    _pid: int
    _shelf: _Shelf

    def __init__(self, pool: ReaderPool, spec: Hashable) -> None:
        self._pool = pool
        self._spec = spec
        self._reader: Reader | None = None

    def __enter__(self) -> Reader:
        if self._reader is not None:
            raise RuntimeError("this lease is in use; ask the pool for another one")
        pool = self._pool
        reader, self._shelf = pool._take(self._spec)
        self._reader = reader
        self._pid = pool._pid
        return reader

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        reader, pool = self._reader, self._pool
        self._reader = None
        # In a child of the process that borrowed it, it is not the child's: the pool has set it aside.
        if reader is None or self._pid != pool._pid:
            return
        if kind is None:
            pool._give_back(reader, self._shelf)
        elif self._pid == os.getpid():
            pool._close(reader, self._shelf)


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
        self._pid = os.getpid()
        # For opening and closing. Lending takes no lock: each step of it is one operation of a list or a dict,
        # and a reader belongs to whoever has removed it from the idle ones.
        self._lock = threading.Lock()
        self._shelves: dict[Hashable, _Shelf] = {}
        # By id, longest unused first.
        self._idle: OrderedDict[int, tuple[Reader, _Shelf]] = OrderedDict()
        # Those on loan too, by id: a child has to find what other threads of its parent had.
        self._open: dict[int, Reader] = {}
        # By spec, longest closed first.
        self._closed: OrderedDict[Hashable, Any] = OrderedDict()
        self.opened = 0

    def lease(self, spec: Hashable) -> _Lease:
        """Lend a reader of ``spec`` for the body of a ``with`` block.

        A body that raises gets its reader closed rather than put back, since a failed read may have left it
        in a bad state. A body that forks keeps the reader in the parent; in the child it raises ReadError
        when read.
        """
        return _Lease(self, spec)

    @property
    def idle(self) -> int:
        """How many readers are open and not on loan."""
        self._check_process()
        return len(self._idle)

    @property
    def on_loan(self) -> int:
        """How many readers are on loan."""
        self._check_process()
        return len(self._open) - len(self._idle)

    def discard(self, spec: Hashable) -> None:
        """Close the idle readers of one spec for good; those on loan stay with their borrowers."""
        self._check_process()
        self._closed.pop(spec, None)
        shelf = self._shelves.get(spec)
        while shelf is not None and (reader := self._claim(shelf)) is not None:
            self._close(reader, shelf)

    def close(self) -> None:
        """Close every idle reader. The pool can still be used: readers are opened again at need."""
        self._check_process()
        self._close_down_to(0)
        self._closed.clear()

    def _take(self, spec: Hashable) -> tuple[Reader, _Shelf]:
        self._check_process()
        shelf = self._shelves.get(spec)
        if shelf is not None and (reader := self._claim(shelf)) is not None:
            return reader, shelf
        return self._open_new(spec)

    def _claim(self, shelf: _Shelf) -> Reader | None:
        """Take an idle reader off a shelf: the youngest, whose caches are warmest; None where there is none."""
        while shelf.idle:
            try:
                reader = shelf.idle.pop()
            except IndexError:
                break
            # Another thread may be closing it.
            if self._idle.pop(id(reader), None) is not None:
                return reader
        return None

    def _open_new(self, spec: Hashable) -> tuple[Reader, _Shelf]:
        # Who removes it is the only one to open it.
        kept = self._closed.pop(spec, None)
        reader = kept if kept is not None and kept.reopen() else self._open_reader(spec)
        with self._lock:
            shelf = self._shelves.get(spec)
            if shelf is None:
                shelf = self._shelves[spec] = _Shelf(spec)
            shelf.open += 1
            self._open[id(reader)] = reader
            self.opened += 1
        return reader, shelf

    def _give_back(self, reader: Reader, shelf: _Shelf) -> None:
        # In this order: one that is on the shelf and not among the idle ones is passed over.
        self._idle[id(reader)] = reader, shelf
        shelf.idle.append(reader)
        if len(self._idle) > self.max_open:
            self._close_down_to(self.max_open)

    def _close_down_to(self, count: int) -> None:
        """Close idle readers, longest unused first, until ``count`` are left."""
        self._check_process()
        while len(self._idle) > count:
            try:
                _, (reader, shelf) = self._idle.popitem(last=False)
            except KeyError:
                # Other threads were faster.
                return
            with suppress(ValueError):
                shelf.idle.remove(reader)
            self._close(reader, shelf)
            if hasattr(reader, "reopen"):
                self._closed[shelf.spec] = reader
        while len(self._closed) > MAX_CLOSED:
            with suppress(KeyError):
                self._closed.popitem(last=False)

    def _close(self, reader: Reader, shelf: _Shelf) -> None:
        """Close a reader that nobody else has or can get."""
        with self._lock:
            del self._open[id(reader)]
            shelf.open -= 1
            if not shelf.open:
                del self._shelves[shelf.spec]
        # Outside the lock: closing may take long, and others want to read.
        reader.close()

    def _check_process(self) -> None:
        # The hook below has done this already wherever Python knows of the fork; a library that forks by itself
        # does not tell.
        if self._pid != os.getpid():
            self._abandon()

    def _abandon(self) -> None:
        # Without the lock: another thread of the parent may have held it when it forked.
        _INHERITED.append(self._open)
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
        pool._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
