"""Flip single bits in every file of a data folder: each is found, or proven to change nothing that is read.

``python -m tests.harness.flips [--flips 400] [--seed 0]`` trains, evaluates and publishes a small experiment, then
flips one random bit at a time, checks the folder as ``vmoer verify`` does, and puts the bit back. A flip that nothing
finds is *harmless* when everything a reader gets from the file is equal without it (an unused page, say).
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from safetensors.numpy import load

from pipelines.experiment.check_home import check_home
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.worker.foreground import compute
from store.verify import verify

TRAIN = {
    "data": {"name": "worldfacts", "split": "train", "limit": 12},
    "validation": {"name": "worldfacts", "split": "validation", "limit": 4},
    "epochs": 1,
    "batch_size": 12,
    "evaluate_every": 1,
}
SPEC: dict[str, Any] = {
    "name": "flips",
    "model": "worldfacts-moe",
    "methods": ["mfvr"],
    "layers": [1],
    "controls": [],
    "samples": 2,
    "routers": {"train": TRAIN},
    "data": {"id": {"name": "worldfacts", "split": "test", "limit": 6}},
    "stages": ["trace", "evaluate"],
    "bootstrap": 100,
}
KINDS = {
    "CURRENT": "CURRENT",
    "manifest": "runs/*.json",
    "shard": "facts/**/*.parquet",
    "generation": "generations/*.duckdb",
    "checkpoint": "routers/*/*.json",
    "weights": "routers/*/*.safetensors",
    "jobs": "jobs.sqlite",
}


def make(home: Path) -> Settings:
    """Compute the experiment in ``home``."""
    settings = Settings(home=home, device="cpu")
    compute(parse_spec(SPEC), [], settings, quiet=True)
    return settings


def flips(settings: Settings, count: int, seed: int, kinds: dict[str, str] = KINDS) -> list[tuple[str, str, int, str]]:
    """``(kind, file, bit, outcome)`` of each flip; kinds in turn, files and bits at random."""
    generator = random.Random(seed)
    assert not _problems(settings), "the folder is sound before anything is flipped"
    files = {kind: sorted(settings.home.glob(pattern)) for kind, pattern in kinds.items()}
    found = []
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        path = generator.choice(files[kind])
        before = path.read_bytes()
        bit = generator.randrange(8 * len(before))
        damaged = bytearray(before)
        damaged[bit // 8] ^= 1 << bit % 8
        content = _content(path)
        path.write_bytes(damaged)
        try:
            outcome = "found" if _problems(settings) else "harmless" if _content(path) == content else "missed"
        finally:
            path.write_bytes(before)
        found.append((kind, path.relative_to(settings.home).as_posix(), bit, outcome))
    return found


def _problems(settings: Settings) -> list[str]:
    try:
        return [one.sentence for one in [*verify(settings.home), *check_home(settings)]]
    except Exception as error:
        return [str(error)]


def _content(path: Path) -> Any:
    """Everything a reader gets from a file."""
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            return table.to_pylist(), str(table.schema.metadata)
        if path.suffix == ".duckdb":
            with duckdb.connect(path, read_only=True) as connection:
                names = [row[0] for row in connection.execute("SHOW TABLES").fetchall()]
                return {name: sorted(map(repr, connection.table(name).fetchall())) for name in names}
        if path.suffix == ".sqlite":
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as opened:
                return list(opened.iterdump())
        if path.suffix == ".safetensors":
            return {name: array.tobytes() for name, array in load(path.read_bytes()).items()}
        return json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_text().split()
    except Exception as error:
        return error


def table(found: list[tuple[str, str, int, str]]) -> str:
    """Outcomes per kind of file."""
    counts = Counter((kind, outcome) for kind, _, _, outcome in found)
    lines = [f"{'file':12}{'flips':>7}{'found':>7}{'harmless':>10}{'missed':>8}"]
    for kind in KINDS:
        each = [counts[kind, outcome] for outcome in ("found", "harmless", "missed")]
        lines.append(f"{kind:12}{sum(each):7}{each[0]:7}{each[1]:10}{each[2]:8}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = flips(make(Path(folder)), options.flips, options.seed)
    print(table(outcomes))
    missed = [one for one in outcomes if one[3] == "missed"]
    for kind, name, bit, _ in missed:
        print(f"missed: {kind} {name} bit {bit}")
    sys.exit(1 if missed else 0)
