"""GDAL as the writers use it: errors become ours, the block cache is bounded, configuration is put back."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slidesampler.cache.write_failure import write_failure
from slidesampler.errors import BuildError, MissingDependencyError
from slidesampler.readers.forking import FORK_GATE

try:
    from osgeo import gdal, gdal_array
except ImportError as error:
    raise MissingDependencyError(
        f"writing a COG needs GDAL's Python binding with numpy support, which cannot be imported ({error}); "
        "run scripts/setup of the slidesampler checkout, or: conda install -c conda-forge gdal"
    ) from error

# As the readers do; without it GDAL from 3.7 on warns at every first use.
gdal.UseExceptions()

__all__ = ["block_cache", "close_dataset", "gdal", "gdal_array", "gdal_config", "gdal_errors"]

#: Bytes of GDAL's block cache while a build writes. It holds the row of tiles being filled at every level of
#: the scratch file, and the source's tiles that straddle two strips.
BUILD_CACHE_BYTES = 256 * 2**20

_cache_lock = threading.Lock()
_cache_users = 0
_cache_before = 0


@contextmanager
def block_cache() -> Iterator[None]:
    """Bound GDAL's block cache while the body runs, then put its size back.

    The block cache belongs to the whole process: by default it takes 5 % of the machine's memory *per process*.
    Nested and concurrent uses count as one.
    """
    global _cache_users, _cache_before
    with _cache_lock:
        if _cache_users == 0:
            _cache_before = gdal.GetCacheMax()
            gdal.SetCacheMax(BUILD_CACHE_BYTES)
        _cache_users += 1
    try:
        yield
    finally:
        with _cache_lock:
            _cache_users -= 1
            if _cache_users == 0:
                gdal.SetCacheMax(_cache_before)


def close_dataset(dataset: Any) -> None:
    """Close a GDAL dataset now, whoever still refers to it, and raise RuntimeError for what goes wrong then.

    Left to the garbage collector an error would be printed and forgotten.
    """
    if dataset is None:
        return
    if hasattr(dataset, "Close"):  # GDAL 3.8
        dataset.Close()
    else:
        gdal.Dataset.__swig_destroy__(dataset)


@contextmanager
def gdal_config(**options: str) -> Iterator[None]:
    """Set GDAL configuration options for this thread while the body runs."""
    before = {name: gdal.GetThreadLocalConfigOption(name) for name in options}
    for name, value in options.items():
        gdal.SetThreadLocalConfigOption(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            gdal.SetThreadLocalConfigOption(name, value)


@contextmanager
def gdal_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Run GDAL calls that write ``path`` and raise whatever went wrong in them.

    GDAL reports a full disk in three ways: a return value, an exception where exceptions are on, and, for
    what is written when a dataset is flushed or closed, a line in its log and nothing else. All three arrive
    here, because every message of this thread is collected while the body runs. Only GDAL calls of the writer
    belong in the body: a reader may try something that fails and go on.

    Raises
    ------
    BuildError
        If GDAL reported a failure; the message has the path, what GDAL said, and the free space of the disk.
    """
    messages: list[str] = []

    def collect(kind: int, _number: int, message: str) -> None:
        if kind >= gdal.CE_Failure:
            messages.append(message)

    gdal.PushErrorHandler(collect)
    try:
        # A fork by another thread waits until this one is out of GDAL.
        with FORK_GATE:
            yield
    except RuntimeError as error:
        if isinstance(error, BuildError):
            raise
        # The frames of GDAL's Python code hold the dataset, and would keep it open as long as the error lives.
        traceback.clear_frames(error.__traceback__)
        raise write_failure(path, "; ".join(dict.fromkeys([*messages, str(error)]))) from error
    finally:
        gdal.PopErrorHandler()
    if messages:
        raise write_failure(path, "; ".join(dict.fromkeys(messages)))
