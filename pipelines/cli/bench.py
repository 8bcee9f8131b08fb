"""The command `vmoer bench`: benchmarks a user can run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import vmoer
from pipelines.cli.root import Json
from pipelines.console import print_rows
from pipelines.errors import PipelineError
from pipelines.model.resident import load
from store import queries
from store.catalog import RunManifest, now, seal, write_manifest
from store.publish import publish
from store.reader import open_store
from store.shards import write_shard
from vmoer.forward.modes import evaluation, random_tokens

#: name → (goal, what the value is); lower is better for all of them
GOALS = {
    "router": (3.0, "fcvr (S=35, in-router) ÷ deterministic, time of a forward pass of worldfacts-moe"),
    "record": (2.0, "recorded ÷ plain, time of a forward pass of worldfacts-moe"),
    "publish": (5.0, "seconds to write and publish 100,000 routing rows"),
    "query": (0.25, "seconds for the layer statistics of a run with 100,000 routing rows"),
}
_ROUNDS = 15


def bench(
    name: Annotated[str, typer.Argument(help="router, record, publish, query or all.")] = "all",
    json_: Json = False,
) -> None:
    """Measure ratios and times on this machine, each beside its goal; exit code 1 when a goal is missed."""
    rows = run_benchmarks(name)
    print_rows(rows, json_, "no benchmarks")
    raise typer.Exit(0 if all(row["met"] for row in rows) else 1)


def run_benchmarks(name: str) -> list[dict[str, Any]]:
    """One row per benchmark: ``name, value, goal, met`` and what the value means."""
    known = {"router": _router, "record": _record, "publish": _publish, "query": _query}
    if name != "all" and name not in known:
        raise PipelineError(f"no benchmark {name!r}; there are {', '.join(known)} and all")
    rows = []
    for key, measure in known.items():
        if name in ("all", key):
            goal, meaning = GOALS[key]
            value = measure()
            rows.append({"name": key, "value": round(value, 4), "goal": goal, "met": value <= goal, "what": meaning})
    return rows


def _router() -> float:
    model, _ = load("worldfacts-moe")
    batch = random_tokens(model, rows=16, length=64)
    handle = vmoer.bayesianize(model, method="fcvr", samples=35)

    def plain() -> None:
        with handle.deterministic():
            model(**batch)

    return _ratio(model, lambda: model(**batch), plain)


def _record() -> float:
    model, _ = load("worldfacts-moe")
    batch = random_tokens(model, rows=16, length=64)

    def recorded() -> None:
        with vmoer.record(model):
            model(**batch)

    return _ratio(model, recorded, lambda: model(**batch))


def _ratio(model: Any, first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """Return the median over rounds of the time of ``first`` ÷ ``second``."""
    # both are measured in turn, so that a busy machine slows both
    ratios = []
    with evaluation(model), torch.inference_mode():
        for number in range(_ROUNDS + 2):
            one, other = _seconds(first), _seconds(second)
            if number >= 2:  # the first rounds warm caches up
                ratios.append(one / other)
    return statistics.median(ratios)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _publish() -> float:
    with tempfile.TemporaryDirectory() as folder:
        return _seconds(lambda: _write(Path(folder)))


def _query() -> float:
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        with open_store(folder) as store:
            times = [
                _seconds(lambda: queries.layer_stats(store, ["bench.deterministic.none.0"])) for _ in range(_ROUNDS)
            ]
            return statistics.median(times)


def _write(home: Path, examples: int = 250, tokens: int = 20, layers: int = 20, k: int = 4) -> None:
    """A sealed run with random routing rows, published."""
    run_id = "bench.deterministic.none.0"
    rows = examples * tokens * layers
    random = np.random.default_rng(0)
    index = random.permuted(np.tile(np.arange(16, dtype=np.uint16), (rows, 1)), axis=1)[:, :k]
    write_shard(
        home,
        "routing",
        run_id,
        "bench",
        {
            "dataset": "bench",
            "example_id": np.repeat(np.array([f"q{i}" for i in range(examples)], dtype=object), tokens * layers),
            "position": np.tile(np.repeat(np.arange(tokens), layers), examples),
            "layer": np.tile(np.arange(layers), examples * tokens),
            "expert_index": index,
            "gate_weight": random.dirichlet(np.ones(k), rows).astype(np.float32),
            "selection_score": None,
            "base_expert_index": index,
            "overlap": np.full(rows, k),
            "top_k_margin": random.random(rows, dtype=np.float32),
            "routing_entropy": random.random(rows, dtype=np.float32),
            "logit_variance": None,
            "logit_variance_mc": None,
            "temperature": None,
        },
    )
    write_manifest(home, manifest(run_id, layers, n_experts=16, top_k=k))
    seal(home, run_id, status="finished", ended_at=now())
    publish(home)


def manifest(run_id: str, layers: int, n_experts: int, top_k: int) -> RunManifest:
    """The manifest of a run of random numbers that is being written."""
    model = {
        "model": "bench",
        "architecture": "none",
        "source": "random numbers",
        "n_layers": layers,
        "moe_layers": list(range(layers)),
        "n_experts": n_experts,
        "top_k": top_k,
        "n_parameters": 0,
        "weights_sha256": "",
        "synthetic": True,
    }
    return RunManifest(
        run_id=run_id,
        experiment="0" * 16,
        name="bench",
        model=model,
        method="deterministic",
        estimator="none",
        scoring="likelihood",
        dtype="float32",
        device="cpu",
        started_at=now(),
        status="running",
    )
