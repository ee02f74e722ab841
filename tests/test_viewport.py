"""What a view computes late, it computes without a lock."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from slidesampler import Window, viewport
from slidesampler.viewport import View


def make_view():
    return View(Window(-2, 4, 8, 8), (4, 4), (64, 64))


def test_what_was_computed_is_kept():
    view = make_view()
    assert view.ys is view.ys
    # Output row 0 is centred on -1, outside; then 1, 3, 5.
    np.testing.assert_array_equal(view.ys, [1, 3, 5])
    np.testing.assert_array_equal(make_view().xs, [5, 7, 9, 11])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_computes_does_not_wait_for_it(monkeypatch):
    inside, done = threading.Event(), threading.Event()
    real = viewport.lattice_indices

    def lattice_indices(*arguments):
        if threading.current_thread() is thread:
            inside.set()
            done.wait(60)
        return real(*arguments)

    views = [make_view(), make_view()]
    thread = threading.Thread(target=lambda: views[0].ys)
    monkeypatch.setattr(viewport, "lattice_indices", lattice_indices)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if views[1].ys.tolist() == [1, 3, 5] else 2)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
