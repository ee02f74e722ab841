"""Properties that are worked out once, by threads and in forked children."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from slidesampler.lazy import lazy_property

PATIENCE_S = 60


class Slow:
    """A property that waits while it is worked out, if it is told to."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate
        self.begun = threading.Event()
        self.calls = 0

    @lazy_property
    def value(self) -> list[int]:
        """Words on it."""
        self.calls += 1
        if self.gate is not None:
            self.begun.set()
            self.gate.wait(PATIENCE_S)
        return [1]


def test_it_is_worked_out_once_for_each_instance() -> None:
    one, other = Slow(), Slow()
    assert one.value is one.value
    assert one.value is not other.value
    assert (one.calls, other.calls) == (1, 1)
    assert Slow.value.__doc__ == "Words on it."


def test_threads_that_work_it_out_at_once_get_the_same() -> None:
    gate = threading.Event()
    slow = Slow(gate)
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(slow.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    slow.begun.wait(PATIENCE_S)
    gate.set()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(value is found[0] for value in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_is_not_held_up_by_a_thread_of_its_parent() -> None:
    """The lock of ``functools.cached_property`` in Python 3.11 would be: the child then dies of the alarm."""
    gate = threading.Event()
    busy = Slow(gate)
    thread = threading.Thread(target=lambda: busy.value)
    thread.start()
    busy.begun.wait(PATIENCE_S)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(0 if Slow().value == [1] else 1)
    _, status = os.waitpid(child, 0)
    gate.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0, sys.version
