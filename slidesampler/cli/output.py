"""What commands print: tables for people, JSON for programs, and numbers in units that people read."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["format_bytes", "format_seconds", "print_json", "print_table", "status", "stderr", "stdout"]

#: A file or pipe has no width; cells must not be cut there.
_UNLIMITED = 10_000


def stdout() -> Console:
    """Return a console on standard output, as it is now (tests and callers may have replaced it)."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return a console on standard error, as it is now."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    # Paths hold brackets and colons that would be taken for markup and emoji.
    terminal = bool(stream.isatty())
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
        width=None if terminal else _UNLIMITED,
    )


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Say on a terminal what is being done, for the body of a ``with`` block."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def print_json(value: Any) -> None:
    """Print a JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    styles: dict[str, str] | None = None,
) -> None:
    """Print a table on standard output.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : iterable of sequence
        Cells; shown by ``str``.
    right : sequence of str
        Headings of the columns that are set flush right: numbers.
    styles : dict of str to str, optional
        rich style of a cell whose whole text is the key: ``{"failed": "red"}``.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        cells = [str(cell) for cell in row]
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in cells))
    console = stdout()
    with console.capture() as capture:
        console.print(table)
    # Lines end where their text does: what is piped on has no padding.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def format_bytes(size_bytes: float) -> str:
    """Return a size in binary units: ``1.5 GiB``.

    Examples
    --------
    >>> format_bytes(999), format_bytes(1536), format_bytes(3 * 2**30)
    ('999 B', '1.5 KiB', '3.0 GiB')
    """
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= 1024
        if size_bytes < 1023.95:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Return a duration as a person says it: ``0.4 s``, ``12 s``, ``3:05``, ``2:00:00``.

    Examples
    --------
    >>> [format_seconds(s) for s in (0.42, 12.3, 185, 7200)]
    ['0.4 s', '12 s', '3:05', '2:00:00']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
