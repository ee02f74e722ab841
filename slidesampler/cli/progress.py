"""The progress bar of a build: images, megapixels a second, time remaining."""

from __future__ import annotations

from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from slidesampler.cache.plan import BuildPlan, PlanRow
from slidesampler.cache.report import BuildRow
from slidesampler.manifest import Manifest

__all__ = ["BuildBar"]


class _SpeedColumn(ProgressColumn):
    """Megapixels a second of the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} MP/s")


class BuildBar:
    """Shows a build while it runs; used as a context manager.

    The bar goes by megapixels, not images: an image of 5 gigapixels among thumbnails is most of the work.
    Images whose size only their file knows are counted from when they are started.

    Parameters
    ----------
    console : rich.console.Console
        A terminal.
    manifest : Manifest
        Knows how large the images are.
    """

    def __init__(self, console: Console, manifest: Manifest) -> None:
        self._manifest = manifest
        self._rows_left: Counter[int] = Counter()
        self._images_done = 0
        #: Megapixels of each row that needs work: all of it, and what is done.
        self._sizes: dict[tuple[int, str], float] = {}
        self._done: dict[tuple[int, str], float] = {}
        self._total = 0.0
        self._completed = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[images]}", markup=False),
            _SpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("planning", total=None, images="")

    def __enter__(self) -> BuildBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def planned(self, plan: BuildPlan) -> None:
        """Set the bar's length."""
        self._rows_left = Counter(row.image_id for row in plan)
        for row in plan.work:
            record = self._manifest.record(row.image_id)
            self._set_size((row.image_id, row.what), (record.height or 0) * (record.width or 0) / 1e6)
        self._show("building")

    def started(self, row: PlanRow, megapixels: float) -> None:
        """Name the image, and learn its true size."""
        self._set_size((row.image_id, row.what), megapixels)
        self._show(f"{row.name} ({row.what})")

    def advanced(self, row: PlanRow, megapixels: float) -> None:
        """Move the bar."""
        key = (row.image_id, row.what)
        self._set_done(key, self._done.get(key, 0.0) + megapixels)
        self._show()

    def finished(self, row: BuildRow) -> None:
        """Count the image; what a failed one left undone is done with."""
        key = (row.image_id, row.what)
        self._set_done(key, self._sizes.get(key, 0.0))
        self._rows_left[row.image_id] -= 1
        self._images_done += self._rows_left[row.image_id] == 0
        self._show()

    def _set_size(self, key: tuple[int, str], megapixels: float) -> None:
        self._total += megapixels - self._sizes.get(key, 0.0)
        self._sizes[key] = megapixels

    def _set_done(self, key: tuple[int, str], megapixels: float) -> None:
        self._completed += megapixels - self._done.get(key, 0.0)
        self._done[key] = megapixels

    def _show(self, description: str | None = None) -> None:
        self._bar.update(
            self._task,
            description=description,
            total=self._total,
            completed=self._completed,
            images=f"{self._images_done}/{len(self._rows_left)} images",
        )
