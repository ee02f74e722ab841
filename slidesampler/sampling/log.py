"""``SampleLog``: what was actually served, one line a window, one file a process.

A file is JSON lines: the first says who wrote it, every other one is a window::

    {"slidesampler": "sample-log", "version": 1, "pid": 4711, "rank": 0, "worker": 3}
    {"epoch":0,"index":17,"image_id":2,"window":[512,0,256,256],"size":[256,256],"downsample":1.0,
     "kind":"positive","category_id":1,"annot_id":40}

(one line, broken here), with ``counts``, ``tries`` and ``refused`` where they are known.
"""

from __future__ import annotations

import json
import operator
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.models import Sample
from slidesampler.target import Target

__all__ = ["SampleLog", "log_files"]

#: First line of a file, and what its name looks like.
FORMAT, VERSION, PATTERN = "sample-log", 1, "samples-*.jsonl"


class SampleLog:
    """Writes a line for every window served, into a file of this process in a folder.

    The file is made at the first line, so a log can be made before worker processes start, by fork or by spawn,
    and may be used by any number of threads. A line is written by one call of the system, at the end of the
    file: a process that is killed leaves whole lines behind it (a power cut may tear the last one). Nothing is
    flushed to the disk, which would cost a thousand times what the line does.

    Parameters
    ----------
    folder : path
        Made where it does not exist. Every process, rank and run adds files of its own; see
        :func:`~slidesampler.sampling.log_columns.read_log`.
    count_classes : bool
        Also write how many pixels of each class the served mask has: about 0.1 ms for 256 x 256 pixels.
    rank, worker : int, optional
        Written into the file's first line. Where None: the rank of ``torch.distributed`` or of the variable
        ``RANK``, and the number of the ``DataLoader``'s worker, if any.

    Examples
    --------
    >>> import tempfile
    >>> from slidesampler.sampling.log_columns import read_log
    >>> with tempfile.TemporaryDirectory() as folder, SampleLog(folder) as log:
    ...     log.write({"image_id": 2, "window": (512, 0, 256, 256), "kind": "grid"}, epoch=0, index=17)
    ...     columns = read_log(folder)
    >>> columns.image_ids.tolist(), columns.windows.tolist(), columns.kind_names
    ([2], [[512, 0, 256, 256]], ('grid',))
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        count_classes: bool = False,
        rank: int | None = None,
        worker: int | None = None,
    ) -> None:
        # Absolute: a worker may have changed its working folder.
        self.folder = str(Path(folder).absolute())
        self.count_classes = bool(count_classes)
        self.rank = None if rank is None else operator.index(rank)
        self.worker = None if worker is None else operator.index(worker)
        self._files: dict[int, _File] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_files"}
        if state["rank"] is None:
            # A worker that is spawned knows nothing of the process group of its rank.
            state["rank"] = _torch_rank()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._files = {}

    def __repr__(self) -> str:
        return f"SampleLog({self.folder!r})"

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's file. The next line, if any, begins another one."""
        self._files.pop(os.getpid(), None)

    def write(
        self,
        served: Sample | Target | Mapping[str, Any],
        *,
        epoch: int | None = None,
        index: int | None = None,
        counts: Sequence[int] | None = None,
        tries: int | None = None,
        refused: Mapping[str, int] | None = None,
    ) -> None:
        """Write one line (for a sequence, one a frame).

        Parameters
        ----------
        served : Sample, Target or mapping
            What was loaded. A target must have ``image_id`` (or ``image_ids``) and ``window``, as the target of
            every sample and of every source has.
        epoch, index : int, optional
            Where it stands; ``index`` is the target's own where None.
        counts : sequence of int, optional
            Pixels of each class index in the served mask; counted here where the log was made with
            ``count_classes=True`` and a sample with a mask is given.
        tries : int, optional
            Tries that choosing it took, this one included.
        refused : mapping of str to int, optional
            How many were refused, by reason.

        Raises
        ------
        TargetError
            For a target without image or window.
        OSError
            If the disk does not take it.
        """
        if isinstance(served, Sample):
            target = served.target
            if self.count_classes and counts is None and served.mask is not None:
                counts = _class_counts(served.mask)
        else:
            target = Target.coerce(served)
        self._file().append(_lines(target, epoch, index, _extras(counts, tries, refused)))

    def _file(self) -> _File:
        # No lock: one that another thread held during a fork would stay locked in the child for good.
        pid = os.getpid()
        file = self._files.get(pid)
        if file is not None:
            return file
        for other in tuple(self._files):
            if other != pid:
                # Came through a fork; the parent's own descriptor stays open.
                self._files.pop(other, None)
        fresh = _File(self.folder, self._header(pid))
        file = self._files.setdefault(pid, fresh)
        if file is not fresh:
            fresh.discard()
        return file

    def _header(self, pid: int) -> bytes:
        rank = _torch_rank() if self.rank is None else self.rank
        worker = _torch_worker() if self.worker is None else self.worker
        first = {"slidesampler": FORMAT, "version": VERSION, "pid": pid, "rank": rank, "worker": worker}
        return json.dumps(first).encode() + b"\n"


class _File:
    """A file that belongs to one process; closed when it is forgotten."""

    def __init__(self, folder: str, header: bytes) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.path = Path(folder, f"samples-{os.getpid()}-{secrets.token_hex(6)}.jsonl")
        self._descriptor = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        self._torn = False
        self.append(header)

    def append(self, lines: bytes) -> None:
        """Write whole lines."""
        if self._torn:
            # What a full disk cut off must not swallow the line that follows.
            lines = b"\n" + lines
        self._torn = True
        written = os.write(self._descriptor, lines)
        while written < len(lines):
            written += os.write(self._descriptor, lines[written:])
        self._torn = False

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def log_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files that logs wrote into a folder, by name."""
    return sorted(Path(folder).glob(PATTERN))


def _lines(target: Target, epoch: int | None, index: int | None, extras: str) -> bytes:
    window = target.window
    frames = (target.image_id,) if target.image_ids is None else target.image_ids
    if window is None or frames[0] is None:
        raise TargetError(
            f"a log holds what was served, an image and a window; got {target.to_mapping()}: log the sample, "
            "or what sampler.resolve makes of the target"
        )
    height, width = window.height, window.width
    size = target.size
    if size is None:
        scale = target.downsample
        size = (height, width) if scale is None else (round(height / scale), round(width / scale))
    if index is None:
        index = target.index
    # By hand: json.dumps takes three times as long.
    head = f'{{"epoch":{_word(epoch)},"index":{_word(index)},"image_id":'
    tail = (
        f',"window":[{window.y},{window.x},{height},{width}],"size":[{size[0]},{size[1]}],'
        f'"downsample":{height / size[0]!r},"kind":{_quoted(target.kind)},'
        f'"category_id":{_word(target.category_id)},"annot_id":{_word(target.annot_id)}{extras}}}\n'
    )
    return "".join([f"{head}{int(frame)}{tail}" for frame in frames if frame is not None]).encode()


@lru_cache(maxsize=256)
def _quoted(kind: str | None) -> str:
    return json.dumps(kind)


def _class_counts(mask: NDArray[Any]) -> list[int]:
    """Return the pixels of each class index, up to the last one there is; *ignore* is no class."""
    counts = np.bincount(mask.ravel())[: np.iinfo(mask.dtype).max]
    trimmed: list[int] = np.trim_zeros(counts, "b").tolist()
    return trimmed


def _word(number: int | None) -> str:
    return "null" if number is None else str(int(number))


def _extras(counts: Sequence[int] | None, tries: int | None, refused: Mapping[str, int] | None) -> str:
    if counts is None and tries is None and refused is None:
        return ""
    out = "" if counts is None else f',"counts":{json.dumps([int(n) for n in counts])}'
    if tries is not None:
        out += f',"tries":{int(tries)}'
    if refused is not None:
        out += f',"refused":{json.dumps({str(reason): int(n) for reason, n in refused.items()})}'
    return out


def _torch_worker() -> int | None:
    """Return the number of the ``DataLoader`` worker that this is; imports no torch where nobody has."""
    data = sys.modules.get("torch.utils.data")
    found = None if data is None else data.get_worker_info()
    return None if found is None else int(found.id)


def _torch_rank() -> int | None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    # What torchrun and Lightning set; a worker process has no process group, but inherits it.
    word = os.environ.get("RANK", "")
    return int(word) if word.isdecimal() else None
