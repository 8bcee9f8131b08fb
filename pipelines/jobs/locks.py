"""One worker per device: an operating-system lock on a file, held for the life of the process.

The kernel drops the lock when its holder dies, however it dies, so liveness needs no clock and no heartbeat: a job is
*lost* when it is marked running and the executor that runs it no longer holds its device. Machines that share a data
folder see each other's locks where its file system carries them (NFS 4 does, and drops those of a dead machine when
their lease ends); each machine's name is part of its locks'.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from pipelines.errors import DeviceBusyError


def lock_path(home: Path, device: str, machine: str = "") -> Path:
    """File that stands for a device of a machine in a data folder."""
    parts = [re.sub(r"[^a-z0-9]+", "-", part.lower()) for part in (machine, device) if part]
    return home / "workers" / f"{'.'.join(parts)}.lock"


class DeviceLock:
    """Holds a device until :meth:`release` or the end of the process; a second holder is refused with a sentence."""

    def __init__(self, home: Path, device: str, executor: str, machine: str = "") -> None:
        path = lock_path(home, device, machine)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        for attempt in range(5):  # a client that looks takes the lock for an instant
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 4:
                    owner = _content(path)
                    os.close(self._handle)
                    raise DeviceBusyError(
                        f"device {device} already has a worker (process {owner.get('pid', 'unknown')}) on this data "
                        "folder; stop it first, or use another device or VMOER_HOME"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, json.dumps({"pid": os.getpid(), "executor": executor}).encode())

    def release(self) -> None:
        """Let the device go; safe to call twice."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1


def live_executors(home: Path) -> dict[str, str]:
    """Executor name → stem of its lock file, for every worker process alive now on this data folder."""
    alive = {}
    for path in sorted((home / "workers").glob("*.lock")):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _content(path).get("executor")
            if isinstance(owner, str):
                alive[owner] = path.stem
        finally:
            os.close(handle)
    return alive


def stopped_executors(home: Path) -> dict[str, int]:
    """Executor name → process of every live worker of this machine that is stopped (SIGSTOP, Ctrl-Z).

    It computes nothing. Read from ``/proc``; where there is none, nobody is known to be stopped.
    """
    stopped = {}
    for owner, stem in live_executors(home).items():
        pid = _content(home / "workers" / f"{stem}.lock").get("pid")
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError, IndexError):
            continue
        if state in "Tt" and isinstance(pid, int):
            stopped[owner] = pid
    return stopped


def stopped_sentence(pid: int) -> str:
    """Return what to say of work whose worker is stopped."""
    return f"its worker (process {pid}) is stopped and computes nothing; `kill -CONT {pid}` lets it go on"


def _content(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
