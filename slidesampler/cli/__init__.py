"""The command line: ``slidesampler COMMAND``.

One file a command. Results go to standard output, everything else (progress, warnings, errors) to standard
error; ``--json`` puts one JSON document on standard output and nothing besides.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments ask for, and end the process with its exit code."""
    # Imported here: whoever imports a module of this room need not have the whole command line.
    from slidesampler.cli.app import app

    app()
