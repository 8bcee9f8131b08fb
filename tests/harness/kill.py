"""``python -m tests.harness.kill --kills 100``: kill -9 at every kind of write, start again, compare row for row.

For every operation that writes, an undisturbed attempt counts its events (:mod:`tests.harness.faults`). Then fresh
copies of the same start are killed with SIGKILL at chosen events, and the command is started again. Afterwards
``vmoer verify`` must be clean, nothing half-written may lie about, and every table must equal the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import forks
from tests.harness.operations import Operation, operations


@dataclass
class Result:
    """What the kills of one operation came to."""

    operation: str
    events: int = 0
    kills: int = 0
    restarts: int = 0
    lost_rows: int = 0
    duplicate_rows: int = 0
    failures: list[str] = field(default_factory=list)


def positions(labels: list[str], wanted: int) -> list[int]:
    """``wanted`` event numbers (from 1): stage boundaries take half, the others are spread evenly over all writes."""
    boundaries = [number for number, label in enumerate(labels, 1) if label.startswith("step ")]
    others = [number for number in range(1, len(labels) + 1) if number not in boundaries]
    half = min(len(boundaries), wanted // 2)
    return sorted({*_spread(boundaries, half), *_spread(others, wanted - half)})


def _spread(numbers: list[int], count: int) -> list[int]:
    if count >= len(numbers):
        return numbers
    return [numbers[round(place * (len(numbers) - 1) / max(count - 1, 1))] for place in range(count)]


def shares(kills: int, chosen: list[Operation]) -> Iterator[tuple[Operation, int]]:
    """Each operation with its number of kills, at least one; together at least ``kills``."""
    total = sum(operation.share for operation in chosen)
    for operation in chosen:
        yield operation, max(1, -int(-kills * operation.share // total))


class Harness:
    """Kills operations in copies below ``folder`` and collects what was found."""

    def __init__(self, folder: Path, say: Any) -> None:
        self._folder = folder
        self._say = say

    def operation(self, operation: Operation, kills: int) -> Result:
        """Kill one operation ``kills`` times."""
        place = self._folder / operation.name.replace(" ", "-")
        start, reference = place / "start", place / "reference"
        for folder in (start / "data", start / "out"):
            folder.mkdir(parents=True)
        self._must(start, lambda: operation.prepare(start))
        shutil.copytree(start, reference)
        labels: list[str] = self._must(reference, lambda: _counted(operation, reference))
        result = Result(operation.name, events=len(labels))
        for number in positions(labels, kills):
            attempt = place / f"killed-{number}"
            shutil.copytree(start, attempt)
            self._kill(operation, attempt, reference, number, result)
            shutil.rmtree(attempt)
        return result

    def _kill(self, operation: Operation, attempt: Path, reference: Path, number: int, result: Result) -> None:
        killed = _in(attempt, lambda: _killed(operation, attempt, number))
        label = (attempt / "killed-at").read_text() if (attempt / "killed-at").exists() else ""
        where = f"{operation.name}, event {number} ({label})"
        if killed.code == 0 and number > 1:  # other threads wrote less this time: nothing was there to kill
            shutil.rmtree(attempt)
            shutil.copytree(reference.with_name("start"), attempt)
            self._kill(operation, attempt, reference, number * 9 // 10, result)
            return
        if killed.signal != signal.SIGKILL:
            result.failures.append(f"{where}: was not killed: {_last(killed.output)}")
            return
        result.kills += 1
        _age(attempt)
        again = _in(attempt, lambda: operation.work(attempt))
        result.restarts += 1
        if (again.code, again.value) not in ((0, 0), (0, None)):
            result.failures.append(f"{where}: the second attempt failed: {_last(again.output)}")
            return
        left = [path.relative_to(attempt).as_posix() for path in leftovers(attempt)]
        if left:
            result.failures.append(f"{where}: left behind: {', '.join(left)}")
        _age(attempt)
        found = _in(attempt, lambda: checked(reference, attempt))
        if found.code != 0:
            result.failures.append(f"{where}: cannot be checked: {_last(found.output)}")
            return
        result.lost_rows += found.value["lost"]
        result.duplicate_rows += found.value["extra"]
        if found.value["lost"] or found.value["extra"]:
            result.failures.append(f"{where}: {found.value['lost']} rows lost, {found.value['extra']} too many")
        if found.value["verify"]:
            result.failures.append(f"{where}: verify: {found.value['said']}")
        self._say(f"killed {where}")

    def _must(self, folder: Path, work: Any) -> Any:
        outcome = _in(folder, work)
        if outcome.code != 0:
            raise SystemExit(f"undisturbed, it failed: {outcome.output}")
        return outcome.value


def _in(folder: Path, work: Any) -> forks.Outcome:
    return forks.run(work, folder / "log.txt", VMOER_HOME=str(folder / "data"), VMOER_DEVICE="cpu")


def _counted(operation: Operation, folder: Path) -> list[str]:
    """The labels of all events of an undisturbed attempt; a worker ends its process, so they go through a file."""
    from tests.harness.faults import Faults

    faults = Faults(folder).install()
    code = _until_exit(operation, folder)
    if code:
        raise RuntimeError(f"exit code {code}")
    return faults.labels


def _until_exit(operation: Operation, folder: Path) -> int:
    """The exit code of the work, also when it ends with ``os._exit``, as a worker does."""

    class Ended(BaseException):
        pass

    def leave(code: int) -> None:
        raise Ended(code)

    real, os._exit = os._exit, leave
    try:
        return operation.work(folder)
    except Ended as ended:
        return int(ended.args[0])
    finally:
        os._exit = real


def _killed(operation: Operation, folder: Path, number: int) -> int:
    from tests.harness.faults import Faults, kill

    def act(label: str) -> None:
        (folder / "killed-at").write_text(label)
        kill(label)

    Faults(folder, number, act).install()
    return operation.work(folder)


def checked(reference: Path, attempt: Path) -> dict[str, Any]:
    """Rows lost and rows too many against the undisturbed attempt, and what ``vmoer verify`` says."""
    from pipelines.cli.app import run
    from store.verify import verify
    from tests.harness import compare

    lost, extra = compare.folders(reference / "out", attempt / "out")
    code, said = 0, ""
    if (reference / "data" / "CURRENT").exists():
        missing, added = compare.homes(reference / "data", attempt / "data")
        lost, extra = lost + missing, extra + added
        code = run(["verify"])
        said = "; ".join(problem.sentence for problem in verify(attempt / "data")) if code else ""
    return {"lost": lost, "extra": extra, "verify": code, "said": said}


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of whatever writes atomically."""
    return [path for path in folder.rglob(".*") if ".tmp" in path.name or path.name.endswith(".partial")]


def _age(folder: Path) -> None:
    """An hour passes: no grace period hides what was left behind."""
    for path in leftovers(folder):
        os.utime(path, (time.time() - 3600,) * 2)


def _last(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return " | ".join(line.strip() for line in lines[-4:]) if lines else "(it said nothing)"


def main(arguments: list[str] | None = None) -> int:
    """Run the harness; exit code 1 when anything was lost, doubled, left behind or not clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.kill", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill, at least")
    parser.add_argument("--only", action="append", default=[], help="an operation by name; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verbose", action="store_true", help="say where each kill was")
    given = parser.parse_args(arguments)
    chosen = [one for one in operations() if not given.only or one.name.split()[0] in given.only]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # results do not depend on how busy the machine is
    started = time.monotonic()
    forks.load()
    with tempfile.TemporaryDirectory(prefix="vmoer-kill-") as scratch:
        harness = Harness(Path(scratch), print if given.verbose else lambda text: None)
        results = [harness.operation(operation, count) for operation, count in shares(given.kills, chosen)]
    report(results, time.monotonic() - started, given.json)
    return int(any(result.failures for result in results))


def report(results: list[Result], seconds: float, as_json: bool) -> None:
    """The table a person reads, or one JSON object."""
    names = ("kills", "restarts", "lost_rows", "duplicate_rows")
    totals = {name: sum(getattr(result, name) for result in results) for name in names}
    if as_json:
        print(json.dumps({**totals, "seconds": round(seconds, 1), "operations": [asdict(one) for one in results]}))
        return
    row = "{:<16}{:>8}{:>7}{:>10}{:>11}{:>16}"
    print(row.format("operation", "events", "kills", "restarts", "lost rows", "duplicate rows"))
    for one in results:
        print(row.format(one.operation, one.events, *(getattr(one, name) for name in names)))
    print(row.format("all", sum(one.events for one in results), *totals.values()))
    print(f"{seconds:.0f} s")
    for result in results:
        for failure in result.failures:
            print(failure, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
