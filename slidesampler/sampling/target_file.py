"""Targets in a file, a line of JSON each: written all or nothing, read a line at a time.

The first line may be a header: ``{"format": "slidesampler-targets", "version": 1, ...}``, with ``targets`` (how
many follow), ``epochs`` (``[start, stop, step]`` where the file holds several epochs one after the other) and
``about`` (where the targets come from: any JSON object). Every other line is a target, with the keys of
:class:`slidesampler.Target`. Blank lines mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError, SourceMissingError, TargetError
from slidesampler.lazy import lazy_property
from slidesampler.target import Target

__all__ = ["TargetFile", "write_jsonl"]

FORMAT = "slidesampler-targets"
VERSION = 1
#: Files of up to this many targets are parsed whole when they are opened, so that a misspelt key shows at once.
CHECKED_AT_ONCE = 10_000
#: Bytes looked at at once in the search for ends of lines.
CHUNK_BYTES = 1 << 24
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def write_jsonl(
    targets: Iterable[Target | Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    epochs: range | None = None,
    about: Mapping[str, Any] | None = None,
) -> int:
    """Write targets to a file, a line each, below a header; the file appears whole or not at all.

    Parameters
    ----------
    targets : iterable of Target or mapping
        Gone through once, one at a time.
    path : path
        Replaced where it exists.
    epochs : range, optional
        That the targets are those of several epochs, one after the other, equally many each.
    about : mapping, optional
        Kept in the header: where the targets come from. In types that JSON has.

    Returns
    -------
    int
        How many targets were written.

    Raises
    ------
    UnknownKeyError, TargetError
        For a target that cannot be one; the message names its position. The file is left as it was.
    SamplingError
        If the targets are not equally many each epoch.
    """
    target_path = Path(path)
    partial = target_path.with_name(f".{target_path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(_header(0, epochs, about))
            count = 0
            for line in _encoded(targets):
                file.write(line)
                count += 1
            if epochs is not None and (not len(epochs) or count % len(epochs)):
                raise SamplingError(f"{count} targets are not equally many for each of {len(epochs)} epochs")
            # The number of targets takes the same room whatever it is, so the header is written over itself.
            file.seek(0)
            file.write(_header(count, epochs, about))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target_path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return count


def _header(count: int, epochs: range | None, about: Mapping[str, Any] | None) -> str:
    parts = [f'"format": "{FORMAT}"', f'"version": {VERSION}', f'"targets": {count:15d}']
    if epochs is not None:
        parts.append(f'"epochs": {[epochs.start, epochs.stop, epochs.step]}')
    if about is not None:
        parts.append(f'"about": {json.dumps(dict(about))}')
    return f"{{{', '.join(parts)}}}\n"


def _encoded(targets: Iterable[Target | Mapping[str, Any]]) -> Iterator[str]:
    for position, target in enumerate(targets):
        try:
            mapping = Target.coerce(target).to_mapping()
        except TargetError as error:
            raise type(error)(f"targets[{position}]: {error}") from error
        yield json.dumps(mapping, default=_plain) + "\n"


def _plain(value: object) -> int | float:
    """Return a numpy number as Python's: sources may leave one in a field."""
    if isinstance(value, np.floating):
        return float(value)
    return operator.index(value)  # type: ignore[arg-type]  # a TypeError for anything else


class _Lines(NamedTuple):
    """Where the targets of a file are."""

    starts: NDArray[np.int64]  # first byte
    sizes: NDArray[np.int64]  # bytes, without the end of the line
    numbers: NDArray[np.int64]  # line in the file, counted from 1
    header: dict[str, Any]  # empty where the file has none


class TargetFile:
    """The targets of a JSONL file, parsed when they are asked for.

    Opening goes through the bytes once, to find the lines and to take their digest. A pickle is the path, the
    size and the digest; another process finds the lines again, and notices where the file is not the same.

    Parameters
    ----------
    path : path
    check : bool, optional
        Whether to parse every target now; where None, up to 10,000 of them.

    Attributes
    ----------
    path : str
        Absolute.
    epochs : range or None
        Which epochs the file holds, one after the other, as its header says.
    about : mapping
        Of the header; empty where it says nothing.

    Raises
    ------
    SourceMissingError
        If there is no such file.
    TargetError
        For a line that is no target; the message has the file and the number of the line. Lines that do not
        begin with ``{`` and end with ``}`` are always found here, others where they are parsed.
    SamplingError
        For a header of another format, or one that promises another number of targets: a part is missing.
    """

    def __init__(self, path: str | os.PathLike[str], check: bool | None = None) -> None:
        self.path = str(Path(path).absolute())
        self._size, self._digest = self._identify()
        # Which file was looked at last: size and time of change, a hint that spares taking the digest again.
        self._seen: tuple[int, int] | None = None
        self._count = len(self._lines.starts)
        self.epochs = _epochs_of(self._lines.header, self._count, self.path)
        self.about: Mapping[str, Any] = self._lines.header.get("about", {})
        if check or (check is None and self._count <= CHECKED_AT_ONCE):
            for position in range(self._count):
                self[position]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Target:
        lines = self._lines
        with self._open() as file:
            self._check_same(os.fstat(file.fileno()))
            file.seek(int(lines.starts[position]))
            text = file.read(int(lines.sizes[position]))
        try:
            return Target.from_mapping(json.loads(text))
        except TargetError as error:
            raise type(error)(f"{self._where(position)}: {error}") from error
        except ValueError as error:
            raise TargetError(f"{self._where(position)} is not JSON: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lines", "_seen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _seen=None)

    def _where(self, position: int) -> str:
        return f"line {self._lines.numbers[position]} of {self.path}"

    def _open(self) -> Any:
        try:
            return open(self.path, "rb", buffering=0)
        except FileNotFoundError as error:
            raise SourceMissingError(f"there is no file of targets at {self.path}") from error

    def _identify(self) -> tuple[int, str]:
        with self._open() as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            return os.fstat(file.fileno()).st_size, digest.hexdigest()

    def _check_same(self, found: os.stat_result) -> None:
        """Raise if the file is another than the one that was opened first."""
        seen = found.st_size, found.st_mtime_ns
        if seen == self._seen:
            return
        if self._identify() != (self._size, self._digest):
            raise SamplingError(
                f"{self.path} has changed since this source was made from it: its targets would be others; "
                "make the source again"
            )
        self._seen = seen

    @lazy_property
    def _lines(self) -> _Lines:
        with self._open() as file:
            self._check_same(os.fstat(file.fileno()))
        if not self._size:
            none = np.zeros(0, np.int64)
            return _Lines(none, none, none, {})
        return _find_lines(np.memmap(self.path, np.uint8, mode="r"), self.path)


def _find_lines(data: NDArray[np.uint8], path: str) -> _Lines:
    """Return where the targets of a file are; checks that each line looks like an object."""
    breaks = [
        start + np.flatnonzero(data[start : start + CHUNK_BYTES] == ord("\n"))
        for start in range(0, len(data), CHUNK_BYTES)
    ]
    ends = np.concatenate([*breaks, [len(data)]]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if data[: len(BYTE_ORDER_MARK)].tobytes() == BYTE_ORDER_MARK:
        starts[0] = len(BYTE_ORDER_MARK)
    kept = ends > starts
    first, last = data[np.where(kept, starts, 0)], data[np.where(kept, ends - 1, 0)]
    for line in np.flatnonzero(kept & ((first != ord("{")) | (last != ord("}")))).tolist():
        text = data[starts[line] : ends[line]].tobytes().strip()
        kept[line] = bool(text)
        if text and not (text.startswith(b"{") and text.endswith(b"}")):
            shown = text[:60].decode("utf-8", "replace")
            raise TargetError(
                f"line {line + 1} of {path} is not a JSON object: {shown!r}; "
                "a file of targets has one object a line"
            )
    numbers = np.flatnonzero(kept)
    header: dict[str, Any] = {}
    if len(numbers):
        header = _read_header(data[starts[numbers[0]] : ends[numbers[0]]].tobytes(), path)
    if header:
        numbers = numbers[1:]
    if header.get("targets", len(numbers)) != len(numbers):
        raise SamplingError(
            f"{path} should hold {header['targets']} targets, as its header says, and has {len(numbers)}; "
            "write it again"
        )
    return _Lines(starts[numbers], (ends - starts)[numbers], numbers + 1, header)


def _read_header(text: bytes, path: str) -> dict[str, Any]:
    """Return the header; empty where the line is a target, or nothing (which shows when it is parsed)."""
    try:
        header = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(header, dict) or "format" not in header:
        return {}
    if header["format"] != FORMAT or header.get("version") != VERSION:
        raise SamplingError(
            f"{path} is {header['format']!r}, version {header.get('version')!r}; "
            f"this slidesampler reads {FORMAT!r}, version {VERSION}"
        )
    return header


def _epochs_of(header: Mapping[str, Any], count: int, path: str) -> range | None:
    if "epochs" not in header:
        return None
    try:
        epochs = range(*header["epochs"])
    except (TypeError, ValueError):
        epochs = range(0)
    if not len(epochs) or count % len(epochs):
        raise SamplingError(
            f"{path} holds {count} targets for the epochs {header['epochs']!r} (start, stop, step), "
            "which are not equally many each; write it again"
        )
    return epochs
