"""The command `leanly`: lists the commands, and turns errors into one paragraph and an exit code."""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from typing import Annotated, Any

import typer

import leanly
from leanly.cli import demo, doctor, measure, optimize, profile, report, run, verify
from leanly.errors import LeanlyError, LeanlyWarning

USER_MISTAKE = 2
STOPPED = 130

app = typer.Typer(
    name="leanly",
    help="From a trained PyTorch model to the fastest artifact inside a budget, with the measurements that prove it.",
    epilog="Exit codes: 0 all is well, 1 nothing met the budget, 2 a mistake in what was asked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", short_help="Make a model, find its fastest artifact, show before and after.")(demo.demo)
app.command("optimize", short_help="Find the fastest artifact of a model inside the budget.")(optimize.optimize)
app.command("measure", short_help="Measure an artifact here, or two against each other.")(measure.measure)
app.command("profile", short_help="List each node as the runtime runs it here.")(profile.profile)
app.command("run", short_help="Verify a bundle and run it on the rows of a file.")(run.run)
app.command("report", short_help="Write the report of a run again.")(report.report)
app.command("verify", short_help="Check a bundle against its hashes and its key.")(verify.verify)
app.command("doctor", short_help="Say what this machine is good at and what is missing.")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"leanly {leanly.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run what was typed."""
    _show_warnings_in_one_paragraph()
    try:
        app()
    except LeanlyError as error:
        _say(f"leanly: {error}")
        sys.exit(USER_MISTAKE)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "leanly"):
            raise
        _say(f"leanly: {leanly.missing_extra(package, ' '.join(sys.argv[1:2]))}")
        sys.exit(USER_MISTAKE)
    except (KeyboardInterrupt, SystemExit) as error:
        # typer makes this exit of a Ctrl-C inside a command
        if isinstance(error, SystemExit) and error.code != STOPPED:
            raise
        _say("leanly: stopped. A run that had begun is kept: optimize goes on with it by --resume.")
        sys.exit(STOPPED)


def _say(text: str) -> None:
    width = 100 if not sys.stderr.isatty() else min(os.get_terminal_size(sys.stderr.fileno()).columns, 100)
    print(textwrap.fill(text, max(width, 40), break_long_words=False, break_on_hyphens=False), file=sys.stderr)


def _show_warnings_in_one_paragraph() -> None:
    """Show ours as they are meant to be read, and those of libraries only to who asks for them (`python -W`)."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", LeanlyWarning)
    show = warnings.showwarning

    def shown(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if issubclass(category, LeanlyWarning):
            _say(f"note: {message}")
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = shown
