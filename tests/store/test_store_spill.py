"""What a killed process spilled to disk is removed by the next one; what a living one spilled is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from store import engine

SPILLS = """
import os, signal
from store.engine import connect
connection = connect(memory_limit="60MB", threads=1)
connection.execute("CREATE TABLE t AS SELECT md5(i::VARCHAR) AS m, md5((i + 1)::VARCHAR) AS k FROM range(1000000) r(i)")
connection.execute("CREATE TABLE u AS SELECT * FROM t ORDER BY k, m")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_spill_of_a_killed_process_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", SPILLS], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (left,) = tmp_path.glob("vmoer-duckdb-*")
    assert any(left.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine.connect().close()
    assert not left.exists()


def test_the_spill_of_a_living_process_and_of_another_machine_stay(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    beginning = engine._owner()
    kept = [f"{beginning}{os.getppid()}-00", f"{beginning}{2**70}-00", "vmoer-duckdb-elsewhere.example-1-00"]
    for name in [*kept, f"{beginning}{gone.pid}-00"]:
        (tmp_path / name).mkdir()
    engine.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
