"""What the kill harness interrupts: each operation starts from a prepared folder and is repeated until it ends well."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SPEC: dict[str, Any] = {
    "name": "kills",
    "model": "worldfacts-moe",
    "methods": ["mfvr"],
    "routers": "untrained",
    "estimators": ["predictive"],
    "controls": [],
    "samples": 4,
    "predictive_samples": 2,
    "data": {
        "id": {"name": "worldfacts", "split": "test", "limit": 4},
        "far": [{"name": "worldfacts", "split": "far-ood", "limit": 4}],
    },
    "noise": {"limit": 2, "gammas": [0.02]},
    "leverage": {"limit": 2, "zero_block": False},
    "batch_tokens": 256,
    "bootstrap": 100,
}
TRAIN: dict[str, Any] = {
    **SPEC,
    "routers": {
        "train": {
            "data": {"name": "worldfacts", "split": "train", "limit": 16},
            "validation": {"name": "worldfacts", "split": "validation", "limit": 8},
            "epochs": 2,
            "batch_size": 4,
            "evaluate_every": 2,
        }
    },
}
#: small synthetic runs of tests/store, with a few shards per table
SMALL: dict[str, Any] = {"layers": 3, "experts": 6, "top_k": 2, "examples": 4, "tokens": (2, 5)}


@dataclass(frozen=True)
class Operation:
    """``prepare(folder)`` makes the state to start from; ``work(folder)`` does it and returns an exit code.

    A folder holds ``data`` (the data folder, also ``VMOER_HOME``) and ``out`` (what is written elsewhere). ``share``
    is the part of all kills that this operation gets.
    """

    name: str
    share: float
    prepare: Callable[[Path], None]
    work: Callable[[Path], int]


def operations() -> list[Operation]:
    """Every operation that writes, in the order a user meets them."""
    forms = ("csv", "parquet", "json", "duckdb")
    return [
        Operation("run", 0.2, with_spec(SPEC), lambda at: _vmoer("run", at / "spec.yaml", "--device", "cpu")),
        Operation("queue", 0.04, with_spec(SPEC), _queue),
        Operation("worker", 0.06, _queued, _worker),
        Operation("train", 0.14, with_spec(TRAIN), _train),
        Operation("publish", 0.12, _unpublished, _publish),
        *(Operation(f"export {form}", 0.05, _published, _export(form)) for form in forms),
        Operation("archive", 0.05, _published, lambda at: _vmoer("archive", at / "out" / "runs.zip")),
        Operation("import", 0.06, _archived, lambda at: _vmoer("import", at / "runs.zip")),
        Operation("rm", 0.06, _published, _remove),
        Operation("compact", 0.12, _published, lambda at: _vmoer("compact")),
        Operation("repair", 0.06, _damaged, lambda at: _vmoer("verify", "--repair")),
        Operation("migrate", 0.06, _older, lambda at: _vmoer("verify", "--repair")),
    ]


def _vmoer(*arguments: Any) -> int:
    from pipelines.cli.app import run

    return run([str(argument) for argument in arguments])


def with_spec(spec: dict[str, Any]) -> Callable[[Path], None]:
    """A folder with nothing but ``spec.yaml``."""

    def prepare(folder: Path) -> None:
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec))

    return prepare


def _queue(folder: Path) -> int:
    """Make the job database and queue a job in it, then compute it: a second attempt finds the first one's job."""
    _vmoer("run", folder / "spec.yaml", "--background", "--device", "cpu")  # 3 when the first one's job is lost
    return _worker(folder)


def _queued(folder: Path) -> None:
    with_spec(SPEC)(folder)
    if _vmoer("run", folder / "spec.yaml", "--background", "--device", "cpu"):
        raise RuntimeError("the job could not be queued")


def _worker(folder: Path) -> int:
    """A worker that gets SIGTERM when its job has ended, as a supervisor would send it."""
    from pipelines.jobs.client import list_jobs
    from pipelines.settings import load_settings

    settings = load_settings()

    def ended() -> None:
        # before the worker listens, the signal would end the process as a kill does
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL or not any(job.ended for job in list_jobs(settings)):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ended, daemon=True).start()
    return _vmoer("worker", "--device", "cpu")  # ends the process itself when it is told to stop


def _train(folder: Path) -> int:
    return _vmoer("train", folder / "spec.yaml", "--output", folder / "out" / "routers", "--device", "cpu")


def _published(folder: Path) -> None:
    from tests.store.factory import make_store

    make_store(folder / "data", runs=("deterministic", "fcvr"), **SMALL)


def _unpublished(folder: Path) -> None:
    """One run in the current generation, one more whose rows the next has to read."""
    from tests.store.factory import make_store

    make_store(folder / "data", runs=("deterministic",), **SMALL)
    make_store(folder / "data", runs=("fcvr",), publish_now=False, **SMALL)


def _publish(folder: Path) -> int:
    from store.errors import StoreError
    from store.publish import publish

    try:
        publish(folder / "data")
    except StoreError as error:  # publishing has no command of its own
        print(f"vmoer: {error}")
        return 2
    return 0


def _export(form: str) -> Callable[[Path], int]:
    def export(folder: Path) -> int:
        from tests.store.factory import run_id

        return _vmoer(
            "export", run_id("fcvr"), "routing", "--format", form, "--output", folder / "out" / f"routing.{form}"
        )

    return export


def _archived(folder: Path) -> None:
    """An archive of two runs beside a data folder with one more."""
    from tests.store.factory import make_store

    _published(folder)
    if _vmoer("archive", folder / "runs.zip"):
        raise RuntimeError("the runs could not be archived")
    shutil.rmtree(folder / "data")
    make_store(folder / "data", runs=("deterministic",), **SMALL)


def _remove(folder: Path) -> int:
    """Remove a run; where a first attempt came so far that it is gone, there is nothing left to do."""
    from store.catalog import run_ids
    from store.publish import published_runs
    from tests.store.factory import run_id

    home, gone = folder / "data", run_id("fcvr")
    return _vmoer("runs", "rm", gone) if gone in {*run_ids(home), *published_runs(home)} else 0


def _damaged(folder: Path) -> None:
    """The current generation is garbage, and a killed writer left a file."""
    from store import layout

    _published(folder)
    layout.generation_path(folder / "data", 1).write_bytes(b"garbage" * 1000)
    (folder / "data" / "runs" / ".x.json.0000.tmp").write_text("{")


def _older(folder: Path) -> None:
    """The current generation was published by an earlier version."""
    import duckdb

    from store import layout

    _published(folder)
    with duckdb.connect(str(layout.generation_path(folder / "data", 1))) as connection:
        connection.execute("UPDATE store_meta SET schema_version = 0")
        connection.execute("DROP TABLE comparisons")
