"""The command ``vmoer``.

Exit codes: 0 done · 1 problems found (``verify``, ``doctor``, a goal missed in ``bench``) · 2 bad input or a missing
thing, named in one sentence · 3 a job failed or was cancelled · 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from pipelines import console
from pipelines.cli.table import app, load_all
from pipelines.errors import JobError, PipelineError
from pipelines.jobs import database as jobdb
from store.errors import StoreError
from vmoer.errors import VmoerError


def main() -> None:
    """Run a command and exit; every known error becomes one sentence and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run ``vmoer`` with these arguments and return its exit code."""
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _usage_error() as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error.format_message(), file=sys.stderr)
            return 2
        console.say(f"vmoer: {error.format_message().rstrip('.')}; see `vmoer --help`")
        return 2
    except (PipelineError, StoreError, VmoerError) as error:
        console.say(f"vmoer: {error}")
        return 3 if isinstance(error, JobError) and "failed" in str(error) else 2
    except (KeyboardInterrupt, typer.Abort):
        console.say("vmoer: interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if os.environ.get("VMOER_DEBUG"):
            raise
        console.say(f"vmoer: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return 2
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy") or os.environ.get("VMOER_DEBUG"):
            raise
        console.say(f"vmoer: cannot use the job database: {jobdb.reason_of(error)}")
        return 2


def _usage_error() -> Any:
    """The base of every error about the arguments themselves (typer carries its own copy of click)."""
    return next(base for base in reversed(typer.BadParameter.__mro__) if base.__name__ == "ClickException")


def command_tree() -> Any:
    """Return the click command with every subcommand imported, for the generated documentation."""
    return load_all(typer.main.get_command(app))
