"""One entry from its task: lock, look again, make, publish; and a row that says what became of it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from slidesampler.cache.entry_json import load_entry
from slidesampler.cache.make import make_entry
from slidesampler.cache.plan import plan_entry
from slidesampler.cache.publish import clean_entry, discard_entry, entry_lock
from slidesampler.cache.report import BuildRow, Status
from slidesampler.cache.task import EntryTask, TaskReport
from slidesampler.errors import CorruptEntryError

__all__ = ["build_entry"]


def build_entry(task: EntryTask, report: TaskReport | None = None) -> BuildRow:
    """Build one entry and say what became of it; an error becomes a row that says ``"failed"``.

    Only what is no error of this image gets out: ``KeyboardInterrupt``, ``SystemExit``, and the loss of the
    parent process (``BrokenPipeError`` from ``report``).
    """
    begin = time.perf_counter()
    row = task.row
    size = _Megapixels(report or TaskReport())
    status: Status
    try:
        status, reason, size_bytes = _build(task, size)
    except BrokenPipeError:
        raise
    except Exception as error:
        status, reason, size_bytes = "failed", _reason(error), 0
    return BuildRow(
        row.image_id,
        row.name,
        row.what,
        status,
        reason,
        row.path,
        row.folder,
        time.perf_counter() - begin,
        size.total,
        size_bytes,
    )


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    cause = error.__cause__
    return text if cause is None or str(cause) in text else f"{text} ({_reason(cause)})"


class _Megapixels:
    """Turns pixels into megapixels for a report, and remembers the total."""

    def __init__(self, report: TaskReport) -> None:
        self._report = report
        self.total = 0.0

    def start(self, pixels: int) -> None:
        self.total = pixels / 1e6
        self._report.started(self.total)

    def advance(self, pixels: int) -> None:
        self._report.advanced(pixels / 1e6)


def _build(task: EntryTask, size: _Megapixels) -> tuple[Status, str, int]:
    folder = Path(task.row.folder)
    with entry_lock(folder):
        try:
            _refuse_newer(folder)
            clean_entry(folder)
            # Another process may have built it while we waited for the lock.
            row = plan_entry(task.record, task.row.what, folder, task.spec, force=task.force)
            if row.action == "reuse":
                return "reused", "built by another process meanwhile", load_entry(folder).size_bytes
            entry = make_entry(task, row.action, size.start, size.advance)
        except BaseException:
            discard_entry(folder)
            raise
    return "in-place" if entry.in_place else "built", row.reason, entry.size_bytes


def _refuse_newer(folder: Path) -> None:
    """Raise CacheError rather than replace what a newer version of the package has written."""
    with suppress(FileNotFoundError, CorruptEntryError):
        load_entry(folder)
