"""Disk full, read-only, no permission, no handles, a wrong clock: one sentence, nothing half-written, a retry works."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.harness import processes
from tests.harness.refusals import scenarios
from tests.pipelines.support import environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of every scenario, by name: they share one process that has imported everything."""
    unused = tmp_path_factory.mktemp("unused")
    done = processes.run("tests.harness.refusals", environment=environment(unused), timeout=1200)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_the_user_is_told_and_nothing_is_lost(found: dict[str, dict[str, Any]], scenario: Any) -> None:
    row = found[scenario.name]
    if row["skipped"]:
        pytest.skip(f"needs a file system of its own: {row['skipped']}")
    assert not row["traceback"], row["said"]
    if scenario.sentence:
        assert row["code"] in scenario.codes, row
        assert re.search(scenario.sentence, row["said"]), row["said"]
        lines = row["said"].splitlines()
        if scenario.codes != (0,):  # a job that fails in the end may have seen the full disk before
            lines = [line for line in lines if "waiting for room" not in line]
        assert len(lines) == 1, "one sentence"
    else:
        assert row["code"] == 0, row["said"]
    assert row["leftovers"] == []
    assert row["retried"] == 0, row["verify"]
    assert (row["lost_rows"], row["duplicate_rows"]) == (0, 0)
    assert row["verify"] == ""
