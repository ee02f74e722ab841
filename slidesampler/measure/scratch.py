"""The folder that variants are built in: on the disk of the cache, with room for them, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slidesampler.cache.publish import entry_lock
from slidesampler.errors import BuildError

__all__ = ["KEPT_PREFIX", "SCRATCH_PREFIX", "check_room", "existing_parent", "scratch_folder"]

#: Of the names of scratch folders, and of those that are kept.
SCRATCH_PREFIX, KEPT_PREFIX = ".slidesampler-bench-", "slidesampler-bench-"


@contextmanager
def scratch_folder(workdir: Path, *, keep: bool = False) -> Iterator[Path]:
    """Make a new folder inside the workdir; remove it at the end, whatever the end is.

    Folders that had to be made for it go too, unless something else lies in them by then, and so do those that
    were left in the workdir by processes that were killed.

    Parameters
    ----------
    workdir : Path
        Made where it is not there.
    keep : bool
        Leave the folder, after an error as well.

    Raises
    ------
    BuildError
        If nothing can be written there.
    """
    made = []
    try:
        for folder in (workdir, *workdir.parents):
            if folder.exists():
                break
            made.append(folder)
        workdir.mkdir(parents=True, exist_ok=True)
        prefix = KEPT_PREFIX if keep else SCRATCH_PREFIX
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=workdir))
    except OSError as error:
        raise BuildError(
            f"{workdir}: nothing can be written there ({error.strerror or error}); name a folder on the disk "
            "that the cache is meant for with --workdir"
        ) from error
    try:
        _remove_remains(workdir)
        # Held as long as it is used: the system lets go of it when a process dies, however it dies.
        with entry_lock(scratch):
            yield scratch
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()


def _remove_remains(workdir: Path) -> None:
    """Remove scratch folders that no process holds the lock of."""
    for folder in workdir.glob(f"{SCRATCH_PREFIX}*"):
        # One that was made a moment ago is not locked yet, and has nothing in it: no lock, nothing to remove.
        if not any(folder.iterdir()):
            continue
        with entry_lock(folder, wait=False) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)


def existing_parent(workdir: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (workdir, *workdir.parents) if folder.exists())


def check_room(workdir: Path, needed_bytes: float) -> None:
    """Raise BuildError unless the disk of a folder has that much room."""
    free = free_bytes(workdir)
    if free < needed_bytes:
        raise BuildError(
            f"{workdir}: the variants need up to {needed_bytes / 1e9:.2f} GB for as long as they are measured, "
            f"{free / 1e9:.2f} GB are free; take less of the slides (--crop, --images), measure fewer variants "
            "(--backend, --codec, --tile), or make room"
        )


def free_bytes(workdir: str | os.PathLike[str]) -> int:
    """Return the bytes that are free on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing_parent(Path(workdir).absolute())).free
