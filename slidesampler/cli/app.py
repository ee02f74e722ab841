"""The commands put together, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slidesampler import __version__
from slidesampler.cli import bench, build, check, demo_data, doctor, info, manifest, report, sample, stats
from slidesampler.cli.exits import exit_code_of

__all__ = ["Commands", "app"]


class Commands(TyperGroup):
    """All commands; an error of ours is one clear message on standard error, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code_of(error)
            # An error that nobody foresaw keeps its traceback: it is what a bug report needs. So do the control
            # exceptions of the command-line library, which are not for us.
            if code is None or isinstance(error, BrokenPipeError):
                raise
            if ctx.params.get("debug") or os.environ.get("SLIDESAMPLER_DEBUG", "0") not in ("", "0"):
                traceback.print_exc(file=sys.stderr)
            text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            typer.echo(f"slidesampler: {text}", err=True)
            raise typer.Exit(int(code)) from error


app = typer.Typer(
    cls=Commands,
    name="slidesampler",
    no_args_is_help=True,
    # Help in boxes leaves half of 80 columns for words.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 some images failed, 2 wrong usage, 3 this machine lacks something. "
    "SLIDESAMPLER_DEBUG=1 is the same as --debug.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"slidesampler {__version__}")
        raise typer.Exit


@app.callback()
def slidesampler(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Windows with masks from gigapixel images: a kwcoco manifest in, a COG or npy cache out.

    Start with 'slidesampler manifest' (a folder of slides) or 'slidesampler build' (a kwcoco file);
    'slidesampler doctor' says what this machine lacks.
    """


app.command("build", epilog=build.EXAMPLES)(build.build)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)
app.command("check", epilog=check.EXAMPLES)(check.check)
app.command("info", epilog=info.EXAMPLES)(info.info)
app.command("manifest", epilog=manifest.EXAMPLES)(manifest.manifest)
app.command("stats", epilog=stats.EXAMPLES)(stats.stats)
app.command("sample", epilog=sample.EXAMPLES)(sample.sample)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("demo-data", epilog=demo_data.EXAMPLES)(demo_data.demo_data)
