"""What a large data folder costs its readers: exporting millions of facts, listing hundreds of runs.

::

    python -m benchmarks.stored [export] [runs] [--quick]

Everything in it is random numbers. Processor time and peak resident memory are those of whole commands, imports
included; wall-clock figures say so and stand beside the load average.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from benchmarks.scale import RUN, Row, clock, figure, synthetic


def export(quick: bool) -> list[Row]:
    """Peak memory and time of writing all facts of a run to one file, at a number of facts and at ten times it."""
    rows: list[Row] = []
    small = 0.1 if quick else 1.0
    for form in ("csv", "parquet"):
        peaks = []
        for millions in (small, 10 * small):
            with tempfile.TemporaryDirectory() as name:
                home = Path(name) / "data"
                home.mkdir()
                # a command starts with the peak memory of the process it was forked from, so that one must stay small
                with get_context("spawn").Pool(1) as other:
                    facts = other.apply(_build, (home, int(millions * 1e6), max(int(millions), 1)))
                output = Path(name) / f"routing.{form}"
                spent, wall, peak = _vmoer(home, "export", RUN, "routing", "--format", form, "--output", str(output))
                size = output.stat().st_size / 1e6
            what = f"{facts:,} facts, 32 layers, top-8 of 64, one {form} file of {size:,.0f} MB"
            rows += [
                figure(f"export {millions:g} M facts as {form}, s of processor time", spent, what),
                figure(f"export {millions:g} M facts as {form}, s of wall clock", wall, f"{what}; {_load()}"),
                figure(f"export {millions:g} M facts as {form}, peak MiB", peak, what),
            ]
            peaks.append(peak)
        rows.append(figure(f"export as {form}: memory at ten times the facts", peaks[1] / peaks[0], "1 is flat"))
    return rows


def runs(quick: bool) -> list[Row]:
    """The list of runs on the command line, and the queries of the dashboard's first page, with hundreds of runs."""
    from store import queries
    from store.publish import publish
    from store.reader import open_store
    from tests.store.factory import make_store

    models = 25 if quick else 250
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for number in range(models):
            make_store(
                home,
                runs=("deterministic", "fcvr"),
                model=f"synthetic-{number:03d}",
                layers=3,
                experts=6,
                top_k=2,
                examples=4,
                tokens=(2, 5),
                publish_now=False,
            )
        with clock() as first:
            publish(home)
        with clock() as again:
            publish(home)
        _vmoer(home, "runs", "--json")
        spent, wall, _ = _vmoer(home, "runs", "--json")
        started = time.perf_counter()
        with clock() as asked, open_store(home) as store:
            listed = len(queries.runs(store))
            queries.metrics(store, names=("accuracy", "ece", "nll", "auroc"))
            queries.comparisons(store, names=("accuracy", "ece", "nll"))
            queries.datasets(store)
        waited = time.perf_counter() - started
    what = f"{listed} runs of {models} models, synthetic"
    return [
        figure(f"publish {listed} new runs, s of processor time", first[0], what),
        figure(f"publish again with nothing new, {listed} runs, s of processor time", again[0], what),
        figure(f"`vmoer runs` with {listed} runs, s of processor time", spent, f"imports included; {what}"),
        figure(f"`vmoer runs` with {listed} runs, s of wall clock", wall, f"imports included; {what}; {_load()}"),
        figure(f"queries of the overview with {listed} runs, s of processor time", asked[0], f"store opened; {what}"),
        figure(f"queries of the overview with {listed} runs, s of wall clock", waited, f"{what}; {_load()}"),
    ]


def _build(home: Path, facts: int, shards: int) -> int:
    from store.publish import publish

    written, _ = synthetic(home, facts, shards)
    publish(home)
    return written


def _vmoer(home: Path, *arguments: str) -> tuple[float, float, float]:
    """A command in a process of its own: its processor seconds, wall-clock seconds and peak resident memory in MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VMOER_HOME": str(home)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"vmoer {arguments[0]} ended with status {status}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024


def _load() -> str:
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"


PARTS: dict[str, Callable[[bool], list[Row]]] = {"export": export, "runs": runs}


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
