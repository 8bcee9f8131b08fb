"""One log file per job: a JSON object a line, written by structlog, without secrets and the home folder's path."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from store.redact import redacted


class JobLog:
    """Appends to ``<logs>/<job id>.jsonl``; each entry has ``timestamp`` (UTC), ``level``, ``event`` and its fields.

    An entry that cannot be written (full disk) is left out: a job does not end because of its log.
    """

    def __init__(self, folder: Path, job_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{job_id}.jsonl").open("a", encoding="utf-8")
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(self._file),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                lambda _logger, _method, event: redacted(dict(event)),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.BoundLogger,
        ).bind(job_id=job_id)

    def info(self, event: str, **fields: Any) -> None:
        """Write one entry of what happened."""
        self._write(self._log.info, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write one entry of what was mended."""
        self._write(self._log.warning, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write one entry of what ended the job."""
        self._write(self._log.error, event, fields)

    @staticmethod
    def _write(write: Callable[..., Any], event: str, fields: dict[str, Any]) -> None:
        with suppress(OSError):
            write(event, **fields)

    def __enter__(self) -> JobLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(OSError):
            self._file.close()
