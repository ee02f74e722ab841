"""``slidesampler doctor``: what this machine has, and how to mend what it lacks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slidesampler.cli.exits import ExitCode
from slidesampler.cli.options import JsonFlag, workdir_option
from slidesampler.cli.output import print_json, print_table, stdout
from slidesampler.doctor import Finding, diagnose, is_fit

__all__ = ["EXAMPLES", "doctor"]

EXAMPLES = "\b\nExamples:\n  slidesampler doctor\n  slidesampler doctor --workdir cache --json"

_STYLES = {"ok": "green", "missing": "yellow", "wrong": "red"}


def doctor(
    workdir: Annotated[
        Path | None,
        workdir_option("A cache folder whose disk is looked at too.", file_okay=True),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say what this machine lacks, and the mend.

    Which libraries are there, which codecs they have, where caches lie. Ends with exit code 3 when something is
    missing that reading and building need. torch and CUDA are not: only slidesampler.torch uses them.
    """
    findings = diagnose(workdir)
    fit = is_fit(findings)
    if json:
        print_json({"ok": fit, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if not fit:
        raise typer.Exit(int(ExitCode.ENVIRONMENT))


def _print(findings: list[Finding]) -> None:
    print_table(
        ("", "status", "found"),
        ((finding.name, finding.status, finding.value) for finding in findings),
        styles=_STYLES,
    )
    mends = [finding for finding in findings if finding.mend and finding.status != "ok"]
    console = stdout()
    for finding in mends:
        optional = "" if finding.needed else " (optional)"
        console.print(f"\n{finding.name}{optional}: to mend it,\n  {finding.mend}")
    if not mends:
        console.print("\nNothing to mend.")
