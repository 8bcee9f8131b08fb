"""A synthetic data folder with millions of routing rows, for the benchmarks of the dashboard and its queries.

Results and summaries come from the tests' factory; the bulk of the facts are random expert sets. Everything in it is
labelled synthetic: it measures how long things take, never what a model does.

    python -m benchmarks.large_store FOLDER [--rows 32000000]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from store.catalog import seal
from store.publish import publish
from store.shards import write_shard
from tests.store.factory import make_store, run_id

LAYERS, EXPERTS, TOP_K, TOKENS = 32, 64, 4, 125
RUNS = ("deterministic", "fcvr")
QUESTIONS = 250  # per shard: 250 × 125 tokens × 32 layers = one million rows
_SETS = 4096


def build(home: Path, rows: int) -> int:
    """The number of routing rows of the data folder that now lies in ``home``, published; half of them per run."""
    make_store(
        home, runs=RUNS, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, examples=200, tokens=(60, 125), publish_now=False
    )
    generator = np.random.default_rng(0)
    sets = np.argsort(generator.random((_SETS, EXPERTS)), axis=1)[:, :TOP_K].astype(np.uint16)
    gates = generator.dirichlet(np.ones(TOP_K), _SETS).astype(np.float32)
    shards = max(1, rows // len(RUNS) // (QUESTIONS * TOKENS * LAYERS))
    for variant in RUNS:
        for number in range(shards):
            _bulk(home, run_id(variant), number, generator, sets, gates, variant != "deterministic")
        seal(home, run_id(variant))
    publish(home)
    return len(RUNS) * shards * QUESTIONS * TOKENS * LAYERS


def _bulk(
    home: Path,
    run: str,
    number: int,
    generator: np.random.Generator,
    sets: np.ndarray,
    gates: np.ndarray,
    bayesian: bool,
) -> None:
    """One shard each of ``examples``, ``tokens`` and ``routing``: the same questions in every run."""
    ids = np.array([f"bulk-{number * QUESTIONS + place:06d}" for place in range(QUESTIONS)], dtype=object)
    positions = np.tile(np.arange(TOKENS, dtype=np.uint32), QUESTIONS)
    words = np.random.default_rng([1, number]).integers(0, 5000, QUESTIONS * TOKENS).astype(np.uint32)
    name = f"bulk-{number}"
    common = {"dataset": "synthetic-id"}
    write_shard(
        home,
        "examples",
        run,
        name,
        {
            **common,
            "example_id": ids,
            "role": "in-distribution",
            "text_sha256": "f00d" * 16,
            "prompt": None,
            "choices": None,
            "answer_index": np.zeros(QUESTIONS, np.uint8),
            "n_tokens": np.full(QUESTIONS, TOKENS, np.uint32),
        },
    )
    write_shard(
        home,
        "tokens",
        run,
        name,
        {
            **common,
            "example_id": np.repeat(ids, TOKENS),
            "position": positions,
            "token_id": words,
            "token": [f"▁w{word}" for word in words],
            "phase": "prefill",
        },
    )
    rows = QUESTIONS * TOKENS * LAYERS
    index = generator.integers(0, _SETS, rows)
    base = index if not bayesian else np.where(generator.random(rows) < 0.2, generator.integers(0, _SETS, rows), index)
    overlap = (sets[index][:, :, None] == sets[base][:, None, :]).sum((1, 2))
    variance = generator.gamma(4, 0.25, rows).astype(np.float32) if bayesian else None
    write_shard(
        home,
        "routing",
        run,
        name,
        {
            **common,
            "example_id": np.repeat(ids, TOKENS * LAYERS),
            "position": np.repeat(positions, LAYERS),
            "layer": np.tile(np.arange(LAYERS, dtype=np.uint16), QUESTIONS * TOKENS),
            "expert_index": sets[index],
            "gate_weight": gates[index],
            "base_expert_index": sets[base],
            "overlap": overlap.astype(np.uint16),
            "top_k_margin": generator.random(rows, dtype=np.float32),
            "routing_entropy": (1 + generator.random(rows, dtype=np.float32)),
            "logit_variance": variance,
            "logit_variance_mc": variance,
            "temperature": None,
            "selection_score": None,
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build a large synthetic data folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=32_000_000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    print(f"{build(arguments.folder, arguments.rows):,} routing rows in {time.perf_counter() - start:.0f} s")
