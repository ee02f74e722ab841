"""A worker process and the pipe to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

from slidesampler.cache.task import EntryTask, TaskReport
from slidesampler.cache.work import build_entry
from slidesampler.errors import BuildError

__all__ = ["Worker"]

#: A worker tells of its progress at most this often, seconds.
REPORT_INTERVAL_S = 0.1


class Worker:
    """One worker process, as the parent sees it.

    Attributes
    ----------
    pipe : Connection
        To wait on.
    task : EntryTask or None
        What it was given and has not finished.
    given : float
        When, by ``time.perf_counter``.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name="slidesampler-build", daemon=True)
        self._process.start()
        # This process's copy: with it open, the end of the worker would not be seen.
        theirs.close()
        self.task: EntryTask | None = None
        self.given = 0.0
        self._ready = False

    def give(self, task: EntryTask) -> None:
        """Hand it a task; it must have none."""
        self.task = task
        self.given = time.perf_counter()
        # Where it died at rest the pipe is closed, which receive() finds.
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def receive(self) -> tuple[str, Any]:
        """Take one message, ``(event, value)``.

        ``started`` and ``advanced`` come with megapixels, ``finished`` with a row, ``lost`` with how the
        process ended; ``ready`` with nothing.

        Raises
        ------
        BuildError
            If the process ended before it could take any task: the next one would too.
        """
        try:
            event, value = self.pipe.recv()
        except (EOFError, OSError):
            return "lost", self._how_it_ended()
        if event == "ready":
            self._ready = True
        elif event == "finished":
            self.task = None
        return event, value

    def _how_it_ended(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        if not self._ready:
            raise BuildError(
                f"worker processes cannot be started: one ended with status {code} before it took a task; a "
                "script that builds with several jobs must do so under 'if __name__ == \"__main__\":'"
            )
        if code >= 0:
            return f"the worker process ended with status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = "; it may have run out of memory: try fewer jobs" if -code == signal.SIGKILL else ""
        return f"the worker process was killed by {name}{hint}"

    def stop(self) -> EntryTask | None:
        """End it, at once; return the task it was at, whose entry's folder may hold remains."""
        self.pipe.close()
        # At rest it ends when its pipe does. At work it may be in a codec for minutes before it could listen.
        if self.task is not None:
            self._process.kill()
        self._process.join()
        self._process.close()
        return self.task


class _PipeReport(TaskReport):
    """Sends the events of a task to the parent; small steps are added up."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._unsent = 0.0
        self._sent_at = 0.0

    def started(self, megapixels: float) -> None:
        self._pipe.send(("started", megapixels))

    def advanced(self, megapixels: float) -> None:
        self._unsent += megapixels
        if time.monotonic() - self._sent_at >= REPORT_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        self._pipe.send(("advanced", self._unsent))
        self._unsent = 0.0
        self._sent_at = time.monotonic()


def _serve(pipe: Connection) -> None:
    """Build what comes over the pipe until it is closed; runs in the worker."""
    # Ctrl-C reaches all processes of a terminal. The parent alone acts on it: it ends its workers, and removes
    # what they began.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent is gone, or wants no more: nobody is left to be told.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            report = _PipeReport(pipe)
            row = build_entry(task, report)
            report.flush()
            pipe.send(("finished", row))
