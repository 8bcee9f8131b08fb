"""What an experiment costs as it grows: unit costs of facts, one and two workers, memory, publishing.

::

    python -m benchmarks.scale [unit] [workers] [memory] [publish] [--quick]

The machine may be busy with other things, so costs are given in seconds of processor time where a wall clock would
measure the others; wall-clock figures say so and stand beside the load average.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

#: the bundled model: 2 MoE layers, so two facts (token × layer) a token; forward passes cost next to nothing
MODEL = "worldfacts-moe"
Row = dict[str, Any]

RUN = "scale.deterministic.none.0"


def question_file(folder: Path, n: int) -> Path:
    """``n`` questions of about thirty tokens with four options, as a Parquet file."""
    path = folder / f"questions-{n}.parquet"
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ["".join(letters[(number // 26**place) % 26] for place in range(4)) for number in range(n)]
    table = pa.table(
        {
            "id": [f"q{number}" for number in range(n)],
            "question": [f"Which city is the capital of the country called {name}, and who says so?" for name in names],
            "choices": [[f"city {name}", f"town {name}", f"port {name}", f"fort {name}"] for name in names],
            "answer": pa.array(np.arange(n) % 4),
        }
    )
    pq.write_table(table, path)
    return path


def experiment(path: Path, seed: int = 0) -> dict[str, Any]:
    """Trace, answers and scores of the native model and of in-router fcvr on one file."""
    return {
        "name": "scale",
        "model": MODEL,
        "methods": ["deterministic", "fcvr"],
        "routers": "untrained",
        "controls": [],
        "samples": 8,
        "data": {"id": {"path": str(path)}},
        "stages": ["trace", "evaluate", "ood"],
        "bootstrap": 100,
        "seed": seed,
    }


def unit(quick: bool) -> list[Row]:
    """Processor seconds per million facts of computing, of recording and of writing them, and bytes per fact."""
    import torch

    from pipelines.experiment.batches import Work
    from pipelines.preparation.setup import prepare_experiment, prepare_run
    from pipelines.session.batching import by_size, padded
    from pipelines.session.inputs import Inputs
    from pipelines.session.model_input import tokens_of
    from pipelines.session.scoring import token_budget
    from pipelines.session.session import Session
    from pipelines.settings import Settings
    from pipelines.spec.model import parse_spec
    from pipelines.spec.runs import expand
    from pipelines.stages import trace
    from store.shards import list_shards
    from vmoer.forward.modes import evaluation

    n = 1_000 if quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        spec = parse_spec(experiment(question_file(home, n)))
        session = Session(Inputs(spec, [], Settings(home=home / "data", device="cpu")))
        prepare_experiment(session)
        run = expand(spec)[0]
        work = Work(session, lambda event, **fields: None)
        work.begin(run, prepare_run(session, run))
        resident, budget = session.resident, token_budget(session)
        computed = forward = written = 0.0
        facts = 0
        for batch in trace.plan(session, run):
            questions = session.inputs.sets[0].questions[batch.payload["first"] : batch.payload["last"]]
            rows = [tokens_of(spec, resident, one).prompt for one in questions]
            inputs = [padded([rows[place] for place in part], "cpu") for part in by_size(rows, budget)]
            with evaluation(resident.model), torch.inference_mode(), clock() as took:
                for one in inputs:
                    resident.model(**one, logits_to_keep=1)
            forward += took[0]
            with clock() as took:
                tables = trace.compute(session, run, batch)
            computed += took[0]
            with clock() as took:
                work.write(run, f"trace/{batch.key}", tables)
            written += took[0]
            facts += len(tables["routing"]["position"])
        paths = list_shards(session.home, "routing", run.run_id)
        size = sum(path.stat().st_size for path in paths)
    millions = facts / 1e6
    what = f"{MODEL}, {facts:,} facts in {len(paths)} shards, processor time"
    return [
        figure(
            "record, s per 1 M facts", (computed - forward) / millions, f"stage trace without forward passes; {what}"
        ),
        figure("write, s per 1 M facts", written / millions, f"examples, tokens and routing as Parquet; {what}"),
        figure("forward, s per 1 M facts", forward / millions, f"the forward passes alone; {what}"),
        figure("bytes per fact", size / facts, f"table routing on disk, top-{resident.sites[0].top_k}, zstd; {what}"),
    ]


def workers(quick: bool) -> list[Row]:
    """The same experiment with one and with two Ray actors, from when each of them has done its first batch.

    The first batch of an actor is left out: it loads the model, which takes longer than many batches of this tiny one.
    """
    n = 1_600 if quick else 6_000
    rows = []
    later: dict[int, dict[tuple[str, ...], float]] = {}
    speed: dict[int, float] = {}
    for actors in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            spec = _spec_file(home, n)
            _run(home / "data", spec, "--engine", "ray", VMOER_ACTORS=str(actors))
            batches = [row for row in _log(home / "data") if row["event"] == "batch" and row["stage"] != "ood"]
            facts = _facts(home / "data")
        batches.sort(key=_moment)
        first = {row["actor"]: row for row in reversed(batches)}
        started = max(map(_moment, first.values()))
        rest = [row for row in batches if _moment(row) > started] or batches[-1:]
        # run ids end with a hash of the spec, in which the two folders differ
        later[actors] = {
            (row["run_id"].rpartition(".")[0], row["stage"], row["batch"]): row["cpu_seconds"] for row in rest
        }
        wall = max(_moment(batches[-1]) - started, 1e-3)
        speed[actors] = facts * len(rest) / len(batches) / wall
        what = f"{len(rest)} of {len(batches)} batches on {len(first)} actors, {facts:,} facts and their answers in all"
        load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        rows += [
            figure(f"{actors} actors: facts per second of wall clock", speed[actors], f"{what}; {load}"),
            figure(
                f"{actors} actors: share of time at work",
                sum(row["seconds"] for row in rest) / (len(first) * wall),
                f"the rest is waiting for a batch; {what}",
            ),
        ]
    both = later[1].keys() & later[2].keys()
    if not both:
        raise SystemExit("the two runs have no batch in common: one actor had done everything before the other began")
    cost = {actors: sum(later[actors][batch] for batch in both) for actors in later}
    return [
        *rows,
        figure("efficiency 1 → 2 by wall clock", speed[2] / (2 * speed[1]), "twice as fast is 1"),
        figure("efficiency 1 → 2 by processor time", cost[1] / cost[2], f"cost of the same {len(both)} batches"),
    ]


def memory(quick: bool) -> list[Row]:
    """Peak resident memory of a run with n and with ten times the questions."""
    small = 200 if quick else 1_000
    rows, peaks = [], {}
    for n in (small, 10 * small):
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            peaks[n] = _run(home / "data", _spec_file(home, n)) / 1024
            facts = _facts(home / "data")
        rows.append(
            figure(f"peak memory at {n:,} questions, MiB", peaks[n], f"{facts:,} facts, engine local, all its steps")
        )
    growth = (peaks[10 * small] - peaks[small]) / (9 * small) * 1000
    rows.append(figure("growth, MiB per 1,000 questions", growth, "the questions themselves, their scores and answers"))
    return rows


def publish(quick: bool) -> list[Row]:
    """Processor seconds of publishing a new run, of publishing beside it unchanged, of checking and of compacting."""
    from store import files
    from store.compact import compact
    from store.publish import publish as publish_store
    from store.shards import check_info, check_pages, list_shards

    rows = []
    sizes = ((0.1, 1), (1, 4), (1, 100)) if quick else ((0.1, 1), (1, 4), (10, 10), (10, 100), (10, 1000))
    for millions, shards in sizes:
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            written, writing = synthetic(home, int(millions * 1e6), shards)
            with clock() as first:
                publish_store(home)
            with clock() as again:
                publish_store(home)
            what = f"{written:,} facts, 32 layers, top-8 of 64, in {shards} shards; processor time of one thread"
            rows += [
                figure(f"write {millions:g} M facts in {shards} shards, s", writing, what),
                figure(f"publish a new run of {millions:g} M facts in {shards} shards, s", first[0], what),
                figure(f"publish again, nothing new, {millions:g} M in {shards} shards, s", again[0], what),
            ]
            paths = list_shards(home, "routing", RUN)
            with clock() as checked:
                for path in paths:
                    check_info(path, "routing", RUN)
                    check_pages(path)
            with clock() as hashed:
                for path in paths:
                    files.sha256(path)
            size = sum(path.stat().st_size for path in paths) / written
            rows += [
                figure(f"check every page of {millions:g} M facts in {shards} shards, s", checked[0], what),
                figure(
                    f"hash {millions:g} M facts in {shards} shards, s", hashed[0], f"{size:.1f} bytes a fact; {what}"
                ),
            ]
            if (millions, shards) == sizes[-1]:
                with clock() as took:
                    done = compact(home, grace=0)
                what = f"{done.merged} shards become {done.written}, published and the old ones removed"
                rows.append(figure(f"compact {millions:g} M facts, s", took[0], what))
    return rows


@contextmanager
def clock() -> Iterator[list[float]]:
    """Processor seconds of this process inside the block, as the list's only item afterwards."""
    took: list[float] = []
    before = time.process_time()
    yield took
    took.append(time.process_time() - before)


def _spec_file(home: Path, n: int) -> Path:
    spec = home / "scale.yaml"
    spec.write_text(yaml.safe_dump(experiment(question_file(home, n))))
    return spec


def _run(home: Path, spec: Path, *arguments: str, **own: str) -> int:
    """Run an experiment in a process of its own; its peak resident memory in KiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VMOER_HOME": str(home), **own}
    command = [sys.executable, "-m", "pipelines", "run", str(spec), "--device", "cpu", "--json", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"the experiment ended with status {status}")
    return used.ru_maxrss


def _log(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in (home / "logs").glob("*.jsonl") for line in file.read_text().splitlines()]


def _moment(row: dict[str, Any]) -> float:
    from datetime import datetime

    return datetime.fromisoformat(row["timestamp"]).timestamp()


def _facts(home: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in home.glob("facts/table=routing/*/*.parquet"))


def synthetic(home: Path, rows: int, shards: int) -> tuple[int, float]:
    """A sealed run with random routing facts of a 32-layer model; how many, and the processor seconds of writing."""
    from pipelines.cli.bench import manifest
    from store.catalog import now, seal, write_manifest
    from store.shards import write_shard

    layers, k, tokens = 32, 8, 40
    questions = max(rows // shards // (layers * tokens), 1)
    each = questions * tokens * layers
    random = np.random.default_rng(0)
    index = random.permuted(np.tile(np.arange(64, dtype=np.uint16), (10_000, 1)), axis=1)[:, :k]
    gates = random.dirichlet(np.ones(k), 10_000).astype(np.float32)
    run = manifest(RUN, layers, n_experts=64, top_k=k)
    write_manifest(home, run)
    writing = 0.0
    for shard in range(shards):
        place = random.integers(0, 10_000, each)
        names = np.array([f"q{shard}-{number}" for number in range(questions)], dtype=object)
        facts = {
            "dataset": "scale",
            "example_id": np.repeat(names, tokens * layers),
            "position": np.tile(np.repeat(np.arange(tokens), layers), questions),
            "layer": np.tile(np.arange(layers), questions * tokens),
            "expert_index": index[place],
            "gate_weight": gates[place],
            "selection_score": None,
            "base_expert_index": index[place],
            "overlap": np.full(each, k),
            "top_k_margin": random.random(each, dtype=np.float32),
            "routing_entropy": random.random(each, dtype=np.float32),
            "logit_variance": random.random(each, dtype=np.float32),
            "logit_variance_mc": None,
            "temperature": None,
        }
        with clock() as took:
            write_shard(home, "routing", run.run_id, str(shard), facts)
        writing += took[0]
    seal(home, run.run_id, status="finished", ended_at=now())
    return shards * each, writing


def figure(name: str, value: float, what: str) -> Row:
    return {"name": name, "value": float(f"{value:.4g}"), "what": what}


PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "unit": unit,
    "workers": workers,
    "memory": memory,
    "publish": publish,
}


def main() -> None:
    """Measure the parts asked for and print one figure a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them if left out")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        for row in PARTS[part](arguments.quick):
            print(f"{row['name']:62} {row['value']:>10}  {row['what']}", flush=True)


if __name__ == "__main__":
    main()
