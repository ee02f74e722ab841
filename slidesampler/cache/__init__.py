"""The cache room: images and label layers, built once, found again, never half-written and never stale.

:func:`build` makes what is missing, :func:`plan_build` says what that would be, :class:`CacheStore` finds
entries, :func:`audit` checks them all. Nothing here imports GDAL before an image is built.
"""

from __future__ import annotations

from slidesampler.cache.audit import AuditRow, audit
from slidesampler.cache.build import build
from slidesampler.cache.executors import DaskExecutor, Executor, ProcessExecutor, SerialExecutor
from slidesampler.cache.plan import BuildPlan, PlanRow, plan_build
from slidesampler.cache.progress import Progress, SilentProgress
from slidesampler.cache.report import BuildReport, BuildRow
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.store import CacheStore

__all__ = [
    "AuditRow",
    "BuildPlan",
    "BuildReport",
    "BuildRow",
    "BuildSpec",
    "CacheStore",
    "DaskExecutor",
    "Executor",
    "PlanRow",
    "ProcessExecutor",
    "Progress",
    "SerialExecutor",
    "SilentProgress",
    "audit",
    "build",
    "plan_build",
]
