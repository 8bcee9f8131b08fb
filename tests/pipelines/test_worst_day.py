"""A machine's worst day, as ``python -m tests.harness.worst_day`` tells it, ends well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness import processes
from tests.pipelines.support import environment

pytestmark = pytest.mark.slow


def test_killed_full_and_rotten_ends_clean_with_what_was_lost_named(tmp_path: Path) -> None:
    done = processes.run("tests.harness.worst_day", environment=environment(tmp_path), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "verify: clean"
    assert "kill -9" in lines[0]
    assert lines[1].startswith("disk full: vmoer: ")
    assert re.search(r"the disk is full|larger than a file may be", lines[1]), lines[1]
    named = re.findall(r"part-[0-9a-f]{16}\.parquet", done.stdout)
    assert len(named) == 3, "named by verify, by resume, and as written again"
    assert len(set(named)) == 1
    assert "rows lost: 0, rows too many: 0" in lines
