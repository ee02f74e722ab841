"""Where entries are built: in this process, in worker processes, or by a dask cluster.

An executor takes tasks and yields a row for each, in whatever order they end. A task never raises for an
error of its image, so what an executor must handle itself is the loss of a worker.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Generator, Iterable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from slidesampler.cache.plan import PlanRow
from slidesampler.cache.progress import Progress
from slidesampler.cache.publish import discard_entry, entry_lock
from slidesampler.cache.report import BuildRow
from slidesampler.cache.task import EntryTask, TaskReport
from slidesampler.cache.work import build_entry
from slidesampler.cache.workers import Worker
from slidesampler.errors import MissingDependencyError

__all__ = ["DaskExecutor", "Executor", "ProcessExecutor", "SerialExecutor"]


class Executor(Protocol):
    """Builds entries somewhere."""

    def run(self, tasks: Iterable[EntryTask], progress: Progress) -> Generator[BuildRow, None, None]:
        """Yield one row a task, in any order; closing the generator early ends what is still running.

        ``progress`` is told of what is started and done, by the caller's thread; not of what is finished, which
        the caller does. Tasks are taken from the iterable as they are needed.
        """
        ...


class _DirectReport(TaskReport):
    """Passes the events of one task on to a progress."""

    def __init__(self, progress: Progress, row: PlanRow) -> None:
        self._progress = progress
        self._row = row

    def started(self, megapixels: float) -> None:
        self._progress.started(self._row, megapixels)

    def advanced(self, megapixels: float) -> None:
        self._progress.advanced(self._row, megapixels)


class SerialExecutor:
    """Builds one entry after the other, in this process."""

    def run(self, tasks: Iterable[EntryTask], progress: Progress) -> Generator[BuildRow, None, None]:
        """Yield one row a task, in order."""
        for task in tasks:
            yield build_entry(task, _DirectReport(progress, task.row))


class ProcessExecutor:
    """Builds in worker processes of its own.

    Workers are spawned, not forked: a fork copies the locks of GDAL's threads, held or not. As with everything
    that spawns, a script that builds with several jobs must do so under ``if __name__ == "__main__":``.

    Each worker is given one task at a time over a pipe of its own, so that when one dies (killed for want of
    memory, a crash inside a codec) it is known which image it was at; that one fails, and the others go on in
    the workers that are left and in a new one.

    Parameters
    ----------
    jobs : int
        Worker processes, at least 1.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        self.jobs = jobs

    def run(self, tasks: Iterable[EntryTask], progress: Progress) -> Generator[BuildRow, None, None]:
        """Yield one row a task, as they end.

        Raises
        ------
        BuildError
            If workers cannot be started at all.
        """
        waiting = iter(tasks)
        workers: list[Worker] = []
        try:
            while True:
                for worker in workers:
                    if worker.task is None and (task := next(waiting, None)) is not None:
                        worker.give(task)
                # A worker costs half a second to start: none is started before there is work for it.
                while len(workers) < self.jobs and (task := next(waiting, None)) is not None:
                    workers.append(Worker())
                    workers[-1].give(task)
                busy = {worker.pipe: worker for worker in workers if worker.task is not None}
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    yield from self._receive(busy[pipe], workers, progress)  # type: ignore[index]
        finally:
            # After an error or Ctrl-C some are at work.
            for task in [worker.stop() for worker in workers]:
                _discard_remains(task)

    def _receive(
        self, worker: Worker, workers: list[Worker], progress: Progress
    ) -> Generator[BuildRow, None, None]:
        assert worker.task is not None
        task = worker.task
        event, value = worker.receive()
        if event == "started":
            progress.started(task.row, value)
        elif event == "advanced":
            progress.advanced(task.row, value)
        elif event == "finished":
            yield value
        elif event == "lost":
            workers.remove(worker)
            _discard_remains(worker.stop())
            yield _failed_row(task, value, time.perf_counter() - worker.given)


def _discard_remains(task: EntryTask | None) -> None:
    """Remove what a worker that was killed left in the folder of the entry it was at."""
    if task is None or not Path(task.row.folder).is_dir():
        return
    with entry_lock(Path(task.row.folder), wait=False) as held:
        if held:
            discard_entry(Path(task.row.folder))


def _failed_row(task: EntryTask, reason: str, seconds: float) -> BuildRow:
    row = task.row
    return BuildRow(row.image_id, row.name, row.what, "failed", reason, row.path, row.folder, seconds)


class DaskExecutor:
    """Builds on the workers of a dask cluster, which must see the same files under the same paths.

    Progress is told image by image. A worker that dies is dask's to replace; what it built is tried again
    elsewhere, and fails for good after as many deaths as the scheduler's ``allowed-failures``.

    Parameters
    ----------
    client : distributed.Client

    Raises
    ------
    MissingDependencyError
        If distributed is not installed.
    """

    def __init__(self, client: Any) -> None:
        try:
            self._distributed = importlib.import_module("distributed")
        except ImportError as error:
            raise MissingDependencyError(
                f"DaskExecutor needs distributed, which cannot be imported ({error}); install it:\n"
                "pip install 'slidesampler[dask]'"
            ) from error
        self._client = client

    def run(self, tasks: Iterable[EntryTask], progress: Progress) -> Generator[BuildRow, None, None]:
        """Yield one row a task, as they end; all tasks are handed to the scheduler at once."""
        futures = {}
        try:
            for task in tasks:
                # Not pure: the same task builds again when its entry is gone.
                future = self._client.submit(build_entry, task, pure=False)
                futures[future] = task
            for future in self._distributed.as_completed(list(futures)):
                task = futures.pop(future)
                error = future.exception() if future.status == "error" else None
                if error is None and future.status == "finished":
                    row: BuildRow = future.result()
                    progress.started(task.row, row.megapixels)
                    progress.advanced(task.row, row.megapixels)
                    yield row
                else:
                    reason = f"{type(error).__name__}: {error}" if error else f"the task was {future.status}"
                    yield _failed_row(task, reason, 0.0)
        finally:
            self._client.cancel(list(futures))
