"""kill -9 at stage boundaries and inside writes: after a restart nothing is lost, doubled, left behind or unclean.

``python -m tests.harness.kill --kills 100`` is the long form.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import processes
from tests.harness.kill import positions, shares
from tests.harness.operations import operations
from tests.pipelines.support import environment

KILLS = 16

pytestmark = pytest.mark.slow


def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    command = ("tests.harness.kill", "--kills", str(KILLS), "--json")
    done = processes.run(*command, environment=environment(tmp_path), timeout=1200)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    failures = [failure for one in found["operations"] for failure in one["failures"]]
    assert not failures, "\n".join(failures)
    assert done.returncode == 0
    assert found["kills"] >= KILLS
    assert found["restarts"] == found["kills"]
    assert (found["lost_rows"], found["duplicate_rows"]) == (0, 0)
    assert all(one["kills"] >= 1 for one in found["operations"])
    assert all(one["events"] >= 5 for one in found["operations"]), "a writer's events are no longer seen"


def test_kills_are_spread_over_boundaries_and_writes() -> None:
    labels = ["open a", "step plan", "fsync", "rename b", "step begin", "fsync", "remove c", "step seal"]
    assert positions(labels, 100) == list(range(1, 9))
    chosen = positions(labels, 4)
    assert len(chosen) == 4
    assert sum(labels[number - 1].startswith("step") for number in chosen) == 2
    assert {1, 7} <= set(chosen), "the first and the last write"
    assert sum(count for _, count in shares(100, operations())) >= 100
