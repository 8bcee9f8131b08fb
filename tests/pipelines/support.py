"""A small real experiment for the tests of the engine: worldfacts-moe, few questions, many short steps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.settings import Settings
from pipelines.spec.model import Spec, parse_spec
from store import schema
from store.reader import open_store
from tests.harness import processes

SPEC: dict[str, Any] = {
    "name": "small",
    "model": "worldfacts-moe",
    "methods": ["mfvr"],
    "routers": "untrained",
    "estimators": ["predictive"],
    "controls": ["non-routing-noise"],
    "samples": 4,
    "predictive_samples": 2,
    "data": {
        "id": {"name": "worldfacts", "split": "test", "limit": 12},
        "far": [{"name": "worldfacts", "split": "far-ood", "limit": 12}],
    },
    "noise": {"limit": 6, "gammas": [0.02]},
    "leverage": {"limit": 6, "zero_block": False},
    "batch_tokens": 64,
    "bootstrap": 100,
}


def small_spec(**changes: Any) -> Spec:
    return parse_spec({**SPEC, **changes})


def environment(home: Path) -> dict[str, str]:
    """One thread, so that results do not depend on how busy the machine is."""
    return {**os.environ, "VMOER_HOME": str(home), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def vmoer(home: Path, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return processes.run("pipelines", *arguments, environment=environment(home), timeout=timeout)


def start_worker(home: Path, *arguments: str, **own: str) -> processes.Process:
    """A worker; ``own`` is added to its environment."""
    return processes.Process(
        "pipelines", "worker", "--device", "cpu", *arguments, environment={**environment(home), **own}
    )


def settings(home: Path) -> Settings:
    return Settings(home=home, device="cpu")


def published_tables(home: Path) -> dict[str, pd.DataFrame]:
    """Every table of the current generation, sorted by key; times and manifests (which hold times) left out."""
    tables = {}
    with open_store(home) as store:
        for table in schema.tables():
            rows = store.query(f"SELECT * FROM {table.name}")  # noqa: S608  names from the schema
            rows = rows.drop(columns=[name for name in ("started_at", "ended_at", "manifest") if name in rows])
            tables[table.name] = rows.sort_values(list(table.key)).reset_index(drop=True)
    return tables


def assert_same_tables(first: Path, second: Path) -> None:
    """Row for row, bit for bit."""
    ours, theirs = published_tables(first), published_tables(second)
    for name, rows in ours.items():
        pd.testing.assert_frame_equal(rows, theirs[name], check_exact=True, obj=name)
    assert len(ours["routing"]) > 0
    assert len(ours["metrics"]) > 0
