"""A real PostgreSQL server for a test: own data folder, unix socket only, run by an unprivileged user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def programs() -> Path | None:
    """The folder with ``initdb`` and ``pg_ctl``, where a server is installed (Debian keeps them out of the PATH)."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a database on a fresh server, which ends with the block."""
    tools = programs()
    assert tools is not None
    with tempfile.TemporaryDirectory(prefix="pg-") as name:  # a socket's path must be short
        folder = Path(name)
        owner: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to be run by root
            shutil.chown(folder, "postgres", "postgres")
            owner = {"user": "postgres", "group": "postgres", "extra_groups": []}
        data, log = folder / "data", folder / "log"

        def call(program: str, *arguments: str) -> None:
            command = [str(tools / program), "-D", str(data), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60, **owner)

        call("initdb", "--auth=trust", "--username=vmoer", "--no-sync")
        call("pg_ctl", "start", "-w", "-l", str(log), "-o", f"-c listen_addresses='' -c fsync=off -k {folder}")
        try:
            yield f"postgresql://vmoer@/vmoer_jobs?host={folder}"
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
