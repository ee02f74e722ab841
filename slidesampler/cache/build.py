"""Building a cache: plan, make what is missing, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from slidesampler.cache.collect import refresh_catalog
from slidesampler.cache.executors import Executor, ProcessExecutor, SerialExecutor
from slidesampler.cache.plan import BuildPlan, PlanRow, plan_build
from slidesampler.cache.progress import Progress, SilentProgress
from slidesampler.cache.report import BuildReport, BuildRow
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.store import CacheStore
from slidesampler.cache.task import EntryTask, LabelInputs, compact_shapes
from slidesampler.machine import usable_threads
from slidesampler.manifest import Manifest

__all__ = ["build"]


def build(
    manifest: Manifest,
    spec: BuildSpec,
    store: CacheStore,
    *,
    jobs: int = 1,
    only_images: Sequence[int] | None = None,
    force: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build what the cache is missing; a bad image does not stop the others.

    Several processes may build one workdir at once: each entry is built by one of them, the others wait for it
    and use it. What killed builds left behind is removed first.

    Parameters
    ----------
    manifest : Manifest
    spec : BuildSpec
    store : CacheStore
    jobs : int
        Worker processes; 1 builds in this one. The cores are shared out among them for compression.
    only_images : sequence of int, optional
        Image ids; all where None.
    force : bool
        Build again what is there, and copy valid COGs that would be used where they lie. Readers go on with the
        old entry until the new one is complete.
    executor : Executor, optional
        Where to build; follows from ``jobs`` where None. Images in memory are always built in this process.
    progress : Progress, optional

    Returns
    -------
    BuildReport
        A row for every image and label layer. Look at ``failed``.

    Raises
    ------
    TargetError
        If ``only_images`` names an image that the manifest has not got.
    CodecError
        If this GDAL cannot write the codec at all.
    CacheError
        If the workdir is of a newer version of the package.
    BuildError
        If worker processes cannot be started.
    OSError
        If the workdir cannot be made.
    """
    begin = time.perf_counter()
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    progress = progress or SilentProgress()
    store.prepare()
    store.sweep()
    plan = plan_build(manifest, spec, store, only_images=only_images, force=force)
    progress.planned(plan)
    work = plan.work
    jobs = min(jobs, max(len(work), 1))
    if executor is None:
        executor = SerialExecutor() if jobs == 1 else ProcessExecutor(jobs)
    rows = {(row.image_id, row.what): row for row in _reused(plan, store)}
    for row in rows.values():
        progress.finished(row)
    threads = max(1, usable_threads() // jobs)
    # Arrays in memory are here and nowhere else.
    for here in (True, False):
        tasks = (
            task
            for task in _tasks(manifest, plan, store.manifest_path, force, threads)
            if task.in_memory == here
        )
        with closing((SerialExecutor() if here else executor).run(tasks, progress)) as results:
            for row in results:
                rows[row.image_id, row.what] = row
                progress.finished(row)
    if spec.labels or spec.instances:
        refresh_catalog(manifest, store, spec.label_spec)
    ordered = tuple(rows[row.image_id, row.what] for row in plan)
    return BuildReport(ordered, str(store.workdir), plan.spec.backend, time.perf_counter() - begin)


def _reused(plan: BuildPlan, store: CacheStore) -> Iterator[BuildRow]:
    for row in plan:
        if row.action == "reuse":
            size = store.size_bytes(row.folder)
            yield BuildRow(
                row.image_id, row.name, row.what, "reused", row.reason, row.path, row.folder, size_bytes=size
            )


def _tasks(
    manifest: Manifest, plan: BuildPlan, manifest_path: str | None, force: bool, threads: int
) -> Iterator[EntryTask]:
    for row in plan.work:
        yield EntryTask(
            row=row,
            record=manifest.record(row.image_id),
            spec=plan.spec,
            workdir=plan.workdir,
            force=force,
            threads=threads,
            labels=_label_inputs(manifest, row),
            manifest_path=manifest_path,
        )


def _label_inputs(manifest: Manifest, row: PlanRow) -> LabelInputs | None:
    if row.what == "image":
        return None
    shapes = compact_shapes(manifest.shapes_of(row.image_id))
    return LabelInputs(shapes, manifest.class_map, manifest.annots_digest(row.image_id))
