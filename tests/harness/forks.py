"""Work in child processes that share this one's imports: a fork takes milliseconds, importing torch takes seconds.

The parent must have no threads of its own, so whatever touches DuckDB, Arrow or the job database is done in a child.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def load() -> None:
    """Import everything a command needs, so that no child has to."""
    import duckdb
    import pandas
    import pyarrow.pandas_compat
    import pyarrow.parquet
    import sklearn.metrics
    import torch
    from transformers import GraniteMoeForCausalLM, GraniteMoeSharedForCausalLM, PreTrainedTokenizerFast

    from pipelines.cli import app as cli
    from pipelines.cli import bundled, datasets, doctor, results, run, runs, serving, suites
    from pipelines.cli import train as train_command
    from pipelines.model import resident as models
    from pipelines.preparation import train
    from pipelines.worker import foreground
    from pipelines.worker import process as worker
    from pipelines.worker import workflow as engine
    from store import compact, export, reader, verify
    from tests.harness import compare

    del duckdb, pandas, pyarrow, sklearn, torch, cli, engine, foreground, models, train, worker
    del compact, export, reader, verify, compare
    # a command's module is imported when the command is called, which a child without rights could not do
    del bundled, datasets, doctor, results, run, runs, serving, suites, train_command
    del GraniteMoeForCausalLM, GraniteMoeSharedForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Outcome:
    """How a child ended: exit code (or None), the signal that ended it (or None), its result and what it printed."""

    code: int | None
    signal: int | None
    value: Any
    output: str


class Child:
    """A child process at work; ``wait`` for its outcome."""

    def __init__(self, work: Callable[[], Any], log: Path, **environment: str) -> None:
        self._log = log
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _work(work, log, writer, environment)
        os.close(writer)

    def wait(self, seconds: float | None = None) -> Outcome:
        """The outcome, once the child has ended; one that takes longer than ``seconds`` is killed."""
        if seconds is not None and not select.select([self._reader], [], [], seconds)[0]:
            self.kill()
        with os.fdopen(self._reader, "rb") as pipe:
            content = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        output = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        value = json.loads(content) if content else None
        return Outcome(code if code >= 0 else None, -code if code < 0 else None, value, output)

    def kill(self) -> None:
        """``kill -9``."""
        os.kill(self.pid, signal.SIGKILL)


def run(work: Callable[[], Any], log: Path, **environment: str) -> Outcome:
    """The outcome of ``work`` in a child: its JSON-ready result, or exit code 70 after an exception."""
    return Child(work, log, **environment).wait()


def _work(work: Callable[[], Any], log: Path, writer: int, environment: dict[str, str]) -> None:
    """In the child: never returns."""
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(environment)
        value = work()
        sys.stdout.flush()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(value).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
