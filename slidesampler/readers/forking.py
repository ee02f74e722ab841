"""What keeps native libraries whole across fork().

``fork()`` copies the memory of the process but only the thread that called it. A lock of GDAL or OpenSlide
that another thread held at that moment (GDAL's block cache has one for the whole process) stays locked in the
child for good, and the child hangs at its first read, whatever handles it opens. So every call into those
libraries is made inside :data:`FORK_GATE`, and a fork waits until no thread is inside.
"""

from __future__ import annotations

import os
import threading
import time

from slidesampler.errors import ReadError

__all__ = ["FORK_GATE", "ForkGate", "check_process"]

#: A fork goes ahead after this long even if a read (of a network file that hangs, say) is still going on.
FORK_PATIENCE_S = 60.0
#: How often a waiting fork looks whether the threads are out.
POLL_S = 0.0005


class ForkGate:
    """A context that any number of threads may be inside at once, and that a fork waits for.

    The thread that forks may itself be inside; it does not wait for itself.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_in_parent,
                after_in_child=self._reset,
            )

    def _reset(self) -> None:
        # In a child: the threads that were inside are not here, so they must not be waited for. A reentrant
        # lock, since a signal handler may fork in a thread that already waits for a fork.
        self._lock = threading.RLock()
        self._forking = False
        self._depth: dict[int, int] = {}

    def __enter__(self) -> None:
        # No lock: this is on the path of every read. First say "I am inside", then look whether a fork is under
        # way; a fork first says that it is, then looks who is inside. One of the two sees the other.
        me = threading.get_ident()
        depth = self._depth.get(me, 0)
        self._depth[me] = depth + 1
        if self._forking and depth == 0:
            self._wait(me)

    def _wait(self, me: int) -> None:
        while self._forking:
            self._depth.pop(me, None)
            with self._lock:
                # Held by the fork until it is over.
                self._depth[me] = 1

    def __exit__(self, *exc_info: object) -> None:
        me = threading.get_ident()
        depth = self._depth.get(me, 0) - 1
        if depth > 0:
            self._depth[me] = depth
        else:
            # With a default: a fork inside the gate leaves a child whose book is empty.
            self._depth.pop(me, None)

    def _before_fork(self) -> None:
        deadline = time.monotonic() + FORK_PATIENCE_S
        me = threading.get_ident()
        self._lock.acquire()
        self._forking = True
        while self._others(me) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _others(self, me: int) -> bool:
        return any(thread != me for thread in tuple(self._depth))

    def _after_in_parent(self) -> None:
        self._forking = False
        self._lock.release()


#: The gate of this process.
FORK_GATE = ForkGate()


def check_process(name: str, pid: int) -> None:
    """Raise ReadError unless this is the process ``pid``, in which the reader was opened.

    A handle that came through fork shares its file position with the parent's: both would read garbage.
    """
    if os.getpid() != pid:
        raise ReadError(
            f"{name} was opened in process {pid} and is used in process {os.getpid()}; handles do not "
            "survive a fork: lease a reader from a ReaderPool, which opens another one"
        )
