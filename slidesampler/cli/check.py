"""``slidesampler check``: open every entry of a cache, verify it, and mend what is wrong where asked."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from slidesampler.cli.exits import ExitCode
from slidesampler.cli.options import CacheFolder, JsonFlag
from slidesampler.cli.output import format_bytes, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from slidesampler.cache import AuditRow

__all__ = ["EXAMPLES", "check"]

EXAMPLES = (
    "\b\nExamples:\n"
    "  slidesampler check cache\n"
    "  slidesampler check cache --repair\n"
    "  slidesampler check cache --repair --remove-orphans"
)

_STYLES = {"ok": "green", "stale": "yellow", "corrupt": "red", "orphan": "yellow", "newer": "yellow"}


def check(
    workdir: CacheFolder,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Rebuild corrupt entries, remove stale ones and what killed builds left."
        ),
    ] = False,
    remove_orphans: Annotated[
        bool, typer.Option("--remove-orphans", help="With --repair: remove entries whose source is gone, too.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Verify every entry of a cache.

    Its record, the checksums of its files, and its source are looked at. Each is ok, stale (the source or the
    annotations were edited since), corrupt (files are damaged), orphan (intact, but its source is gone; or
    remains of a killed build), or newer (written by a newer slidesampler). Every byte is read. The exit code is
    1 while something stale, corrupt or newer is left; orphans can still be read, and may be the only copy there
    is.
    """
    from slidesampler.cache import audit

    if remove_orphans and not repair:
        raise typer.BadParameter("it belongs to --repair", param_hint="--remove-orphans")
    console = stderr()
    if console.is_terminal:
        with console.status("checking") as status:
            rows = audit(
                workdir,
                repair=repair,
                remove_orphans=remove_orphans,
                progress=lambda row: status.update(f"checked {row.name or row.path}"),
            )
    else:
        rows = audit(workdir, repair=repair, remove_orphans=remove_orphans)
    left = [row for row in rows if _is_left(row)]
    if json:
        counts = dict(Counter(row.status for row in rows))
        print_json({"ok": not left, "counts": counts, "rows": [row.to_dict() for row in rows]})
    else:
        _print(rows, left, repair)
    if left:
        raise typer.Exit(int(ExitCode.FAILED))


def _is_left(row: AuditRow) -> bool:
    return row.status in ("stale", "corrupt", "newer") and row.done not in ("rebuilt", "removed")


def _print(rows: list[AuditRow], left: list[AuditRow], repair: bool) -> None:
    shown = [
        (
            row.status,
            row.done,
            row.kind,
            row.name or "-",
            format_bytes(row.size_bytes),
            "; ".join(filter(None, (row.reason, row.done_reason))),
            "" if row.status == "ok" else row.path,
        )
        for row in rows
    ]
    print_table(
        ("status", "done", "kind", "name", "size", "reason", "path"), shown, right=("size",), styles=_STYLES
    )
    counts = ", ".join(
        f"{count} {status}" for status, count in sorted(Counter(row.status for row in rows).items())
    )
    console = stdout()
    console.print(f"\n{counts or 'nothing in this cache'}")
    if left and not repair:
        console.print("--repair rebuilds what is corrupt and removes what is stale.")
