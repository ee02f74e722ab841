"""``read_log``: the lines of all files of a log, as columns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError
from slidesampler.geometry import Window
from slidesampler.manifest.source import collector_paused
from slidesampler.models import NO_CATEGORY
from slidesampler.sampling.log import FORMAT, VERSION, log_files
from slidesampler.target import Target

__all__ = ["LogColumns", "TornLine", "read_log"]

#: Bytes of a file that are parsed at once.
CHUNK_BYTES = 1 << 23
#: Stands for an epoch, index, rank or worker that a line does not have.
UNKNOWN = -1

_KEYS = ("epoch", "index", "image_id", "window", "size", "kind", "category_id", "annot_id")
_row = itemgetter(*_KEYS)


@dataclass(frozen=True, slots=True)
class TornLine:
    """A line that is no window: cut off when a machine lost power or a disk was full.

    Parameters
    ----------
    path : str
    line : int
        Counted from 1.
    text : str
        How it begins, at most 80 characters.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.text!r}"


@dataclass(frozen=True, slots=True, eq=False)
class LogColumns:
    """What was served, ``n`` windows in the order of files and lines; what was served twice is there twice.

    Parameters
    ----------
    epochs, indexes : int64 (n,)
        -1 where a line does not say.
    image_ids : int64 (n,)
    windows : int64 (n, 4)
        ``y, x, height, width``, level-0 pixels.
    sizes : int64 (n, 2)
        Output ``(height, width)``.
    kinds : int16 (n,)
        Positions in ``kind_names``.
    kind_names : tuple of str
        Sorted; ``""`` for lines that have none.
    category_ids, annot_ids : int64 (n,)
        ``models.NO_CATEGORY`` where there is none.
    files : int32 (n,)
        Positions in ``paths``.
    paths : tuple of str
    pids, ranks, workers : tuple of int
        One a file; -1 where it does not say.
    counts : int64 (n, classes) or None
        Pixels of each class index in the served mask; -1 in lines that have none, None where no line has any.
    tries : int64 (n,)
        -1 in lines that do not say.
    refused : tuple of (int, mapping of str to int)
        Position and refusals by reason, of the lines that have any.
    torn : tuple of TornLine
        Lines that could not be read.
    """

    epochs: NDArray[np.int64]
    indexes: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    windows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    kinds: NDArray[np.int16]
    kind_names: tuple[str, ...]
    category_ids: NDArray[np.int64]
    annot_ids: NDArray[np.int64]
    files: NDArray[np.int32]
    paths: tuple[str, ...]
    pids: tuple[int, ...]
    ranks: tuple[int, ...]
    workers: tuple[int, ...]
    counts: NDArray[np.int64] | None
    tries: NDArray[np.int64]
    refused: tuple[tuple[int, Mapping[str, int]], ...]
    torn: tuple[TornLine, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def downsamples(self) -> NDArray[np.float64]:
        """Level-0 pixels per output pixel, ``(y, x)``, float64 ``(n, 2)``."""
        return self.windows[:, 2:] / self.sizes

    def rows(self, chosen: NDArray[np.bool_]) -> LogColumns:
        """Return the lines that a mask ``(n,)`` chooses; all files and torn lines stay."""
        where = np.cumsum(chosen) - 1
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                values[name] = value[chosen]
        values["refused"] = tuple((int(where[at]), by) for at, by in self.refused if chosen[at])
        return LogColumns(**values)

    def epoch(self, number: int) -> LogColumns:
        """Return the lines of one epoch."""
        return self.rows(self.epochs == number)

    def targets(self) -> Iterator[Target]:
        """Yield a target a line, which loads the same window again."""
        rows = zip(
            self.image_ids.tolist(),
            self.windows.tolist(),
            self.sizes.tolist(),
            self.kinds.tolist(),
            self.category_ids.tolist(),
            self.annot_ids.tolist(),
            self.indexes.tolist(),
            strict=True,
        )
        for image_id, window, size, kind, category_id, annot_id, index in rows:
            yield Target(
                image_id=image_id,
                window=Window(*window),
                size=None if size == window[2:] else (size[0], size[1]),
                kind=self.kind_names[kind] or None,
                category_id=None if category_id == NO_CATEGORY else category_id,
                annot_id=None if annot_id == NO_CATEGORY else annot_id,
                index=None if index == UNKNOWN else index,
            )


def read_log(log: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> LogColumns:
    """Return all lines of a log.

    Parameters
    ----------
    log : path or iterable of path
        The folder of a :class:`~slidesampler.sampling.SampleLog`, or files of one.

    Raises
    ------
    SamplingError
        If there is no file of a log, or one that is none.

    Notes
    -----
    A line that cannot be read is reported in ``torn`` and skipped, the last one of a file or any other. Files
    that are still being written can be read: what is there is whole lines.
    """
    paths = _paths(log)
    reading = _Reading()
    with collector_paused():
        for path in paths:
            reading.read(path)
        return reading.columns()


def _paths(log: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(log, str | os.PathLike):
        folder = Path(log)
        paths = [folder] if folder.is_file() else log_files(folder)
        if not paths:
            found = "has no samples-*.jsonl" if folder.is_dir() else "is no folder"
            raise SamplingError(
                f"there is no sample log in {folder}: it {found}; give the folder of a SampleLog that has been "
                "written to"
            )
        return paths
    return [Path(path) for path in log]


class _Reading:
    """Columns that grow file by file."""

    def __init__(self) -> None:
        self._parts: list[list[NDArray[Any]]] = []
        self._kinds: dict[str | None, int] = {None: 0, "": 0}
        self._counts: list[tuple[int, list[int]]] = []
        self._tries: list[tuple[int, int]] = []
        self._refused: list[tuple[int, Mapping[str, int]]] = []
        self._torn: list[TornLine] = []
        self._headers: list[tuple[str, int, int, int]] = []
        self._length = 0

    def read(self, path: Path) -> None:
        """Add the lines of a file."""
        with path.open("rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):
                # Killed before the first line was whole.
                self._headers.append((str(path), UNKNOWN, UNKNOWN, UNKNOWN))
                self._torn += [TornLine(str(path), 1, _begin(first))] if first else []
                return
            self._headers.append(_header(path, first))
            line = 2
            while lines := file.readlines(CHUNK_BYTES):
                self._add(path, line, lines)
                line += len(lines)

    def _add(self, path: Path, line: int, lines: list[bytes]) -> None:
        if not lines[-1].endswith(b"\n"):
            self._torn.append(TornLine(str(path), line + len(lines) - 1, _begin(lines.pop())))
        try:
            rows = json.loads(b"[%b]" % b",".join(lines))
            columns = list(zip(*map(_row, rows), strict=True))
            if len(rows) != len(lines) or not columns:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            # Something among them is no line of ours: look at each.
            rows = [row for at, text in enumerate(lines, line) if (row := self._parse(path, at, text))]
            if not rows:
                return
            columns = list(zip(*map(_row, rows), strict=True))
        self._convert(columns)
        for at, row in enumerate(rows, self._length):
            if len(row) > len(_KEYS) + 1:
                self._add_extras(at, row)
        self._length += len(rows)

    def _parse(self, path: Path, line: int, text: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(text)
            y, x, height, width = (int(number) for number in row["window"])
            size = row.get("size") or (height, width)
            return {
                "epoch": None,
                "index": None,
                "kind": None,
                "category_id": None,
                "annot_id": None,
                **row,
                "image_id": int(row["image_id"]),
                "window": [y, x, height, width],
                "size": [int(size[0]), int(size[1])],
                "downsample": None,
            }
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            if text.strip():
                self._torn.append(TornLine(str(path), line, _begin(text)))
            return None

    def _convert(self, columns: Sequence[tuple[Any, ...]]) -> None:
        epochs, indexes, image_ids, windows, sizes, kinds, categories, annots = columns
        codes = self._kinds
        n = len(image_ids)
        self._parts.append(
            [
                _numbers(epochs, UNKNOWN),
                _numbers(indexes, UNKNOWN),
                np.array(image_ids, np.int64),
                np.array(windows, np.int64).reshape(n, 4),
                np.array(sizes, np.int64).reshape(n, 2),
                np.array([codes.setdefault(kind, len(codes) - 1) for kind in kinds], np.int16),
                _numbers(categories, NO_CATEGORY),
                _numbers(annots, NO_CATEGORY),
                np.full(n, len(self._headers) - 1, np.int32),
            ]
        )

    def _add_extras(self, at: int, row: Mapping[str, Any]) -> None:
        if row.get("counts") is not None:
            self._counts.append((at, row["counts"]))
        if row.get("tries") is not None:
            self._tries.append((at, row["tries"]))
        if row.get("refused"):
            self._refused.append((at, row["refused"]))

    def columns(self) -> LogColumns:
        """Return what was read."""
        empty = [np.zeros((0, *shape), np.int64) for shape in ((), (), (), (4,), (2,), (), (), (), ())]
        parts = [np.concatenate(column) for column in zip(*(self._parts or [empty]), strict=True)]
        epochs, indexes, image_ids, windows, sizes, codes, categories, annots, files = parts
        used = sorted({name or "" for name, code in self._kinds.items() if (codes == code).any()})
        place = np.zeros(len(self._kinds), np.int16)
        for position, name in enumerate(used):
            place[self._kinds[name]] = position
        tries = np.full(len(image_ids), UNKNOWN, np.int64)
        for at, number in self._tries:
            tries[at] = number
        return LogColumns(
            epochs=epochs,
            indexes=indexes,
            image_ids=image_ids,
            windows=windows,
            sizes=sizes,
            kinds=place[codes],
            kind_names=tuple(used),
            category_ids=categories,
            annot_ids=annots,
            files=files.astype(np.int32),
            paths=tuple(header[0] for header in self._headers),
            pids=tuple(header[1] for header in self._headers),
            ranks=tuple(header[2] for header in self._headers),
            workers=tuple(header[3] for header in self._headers),
            counts=self._count_table(len(image_ids)),
            tries=tries,
            refused=tuple(self._refused),
            torn=tuple(self._torn),
        )

    def _count_table(self, n: int) -> NDArray[np.int64] | None:
        if not self._counts:
            return None
        table = np.full((n, max(len(counts) for _, counts in self._counts)), UNKNOWN, np.int64)
        for at, counts in self._counts:
            table[at] = 0
            table[at, : len(counts)] = counts
        return table


def _numbers(values: Sequence[int | None], missing: int) -> NDArray[np.int64]:
    try:
        return np.array(values, np.int64)
    except TypeError:
        return np.array([missing if value is None else value for value in values], np.int64)


def _header(path: Path, first: bytes) -> tuple[str, int, int, int]:
    try:
        head = json.loads(first)
        if head["slidesampler"] != FORMAT:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise SamplingError(
            f"{path} is no file of a sample log: its first line is {_begin(first)!r}; give the folder of a "
            "SampleLog"
        ) from None
    if head["version"] > VERSION:
        raise SamplingError(
            f"{path} was written by a newer slidesampler (version {head['version']} of the log; this one reads "
            f"up to {VERSION}): update slidesampler"
        )
    pid, rank, worker = (
        UNKNOWN if head.get(key) is None else int(head[key]) for key in ("pid", "rank", "worker")
    )
    return str(path), pid, rank, worker


def _begin(text: bytes) -> str:
    return text[:80].decode("utf-8", "replace").rstrip("\n")
