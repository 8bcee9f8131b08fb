"""``python -m tests.harness.worst_day``: a worker is killed, the disk fills up, a shard rots; nothing stays lost.

Prints what happens as it happens. Ends with ``verify: clean`` and exit code 0 only if every table equals an
undisturbed run's, row for row, and only the rotten shard was written again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.harness import forks
from tests.harness.kill import checked
from tests.harness.operations import SPEC, with_spec
from tests.harness.refusals import IMPATIENT, small_disk, small_files


class Day:
    """One machine below ``folder``; commands run as child processes and print what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.undisturbed = folder / "undisturbed"
        self.machine = folder / "machine"
        for place in (self.undisturbed, self.machine):
            (place / "data").mkdir(parents=True)
            (place / "out").mkdir()
            with_spec(SPEC)(place)

    def vmoer(self, place: Path, *arguments: str, before: Any = None, **environment: str) -> forks.Outcome:
        """The outcome of a command on a machine."""

        def work() -> int:
            from pipelines.cli.app import run

            if before is not None:
                before()
            return run(list(arguments))

        log = self.folder / "log.txt"
        return forks.run(work, log, VMOER_HOME=str(place / "data"), VMOER_DEVICE="cpu", **environment)

    def live(self) -> None:
        """The whole day; raises ``AssertionError`` at the first thing that is not as it should be."""
        compute = ("run", str(self.machine / "spec.yaml"), "--device", "cpu")
        done = self.vmoer(self.undisturbed, *compute)
        assert done.value == 0, done.output

        def before() -> None:
            from tests.harness.faults import Faults, kill

            seen = iter(range(1_000_000))
            faults = Faults(self.machine)
            faults.event = lambda label: kill(label) if label == "parquet footer" and next(seen) == 6 else None  # type: ignore[method-assign]
            faults.install()

        killed = self.vmoer(self.machine, *compute, before=before)
        assert killed.signal == signal.SIGKILL, killed.output
        tell(f"kill -9 while a shard is written: {self._shards()} shards are finished")

        try:
            with small_disk(400)(self.machine):
                refused = self.vmoer(self.machine, *compute, **dict(IMPATIENT))
        except (OSError, subprocess.CalledProcessError):  # no file system of its own to be had: a quota does as well
            refused = self.vmoer(self.machine, *compute, before=small_files(100_000))
        assert refused.value in (2, 3), refused.output
        tell(f"disk full: {_sentence(refused)}")

        done = self.vmoer(self.machine, *compute)
        assert done.value == 0, done.output
        tell(f"room again: the run is finished, {self._shards()} shards")

        rotten = sorted((self.machine / "data" / "facts").glob("table=routing/*/part-*.parquet"))[-1]
        _flip(rotten)
        found = self.vmoer(self.machine, "verify")
        assert found.value == 1, found.output
        assert rotten.name in found.output, found.output
        tell("a bit flips in a shard:")
        tell(found.output.strip())

        before_resume = self._stamps()
        done = self.vmoer(self.machine, *compute, "--resume")
        assert done.value == 0, done.output
        tell(f"vmoer run --resume: {next(line for line in done.output.splitlines() if rotten.name in line)}")
        again = [path.name for path, stamp in self._stamps().items() if before_resume.get(path) != stamp]
        assert again == [rotten.name], again
        tell(f"written again: {rotten.name}, 1 of {len(before_resume)} shards")

        end = forks.run(
            lambda: checked(self.undisturbed, self.machine),
            self.folder / "log.txt",
            VMOER_HOME=str(self.machine / "data"),
        )
        assert end.value is not None, end.output
        tell(f"rows lost: {end.value['lost']}, rows too many: {end.value['extra']}")
        assert (end.value["lost"], end.value["extra"], end.value["said"]) == (0, 0, ""), end.value
        tell("verify: clean")

    def _shards(self) -> int:
        return len(self._stamps())

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        """Each finished fact shard with what changes when it is written; summaries are made anew at every seal."""
        shards = (self.machine / "data" / "facts").glob("table=*/run_id=*/part-*.parquet")
        facts = [path for path in shards if path.parts[-3] in ("table=examples", "table=tokens", "table=routing")]
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(facts)}


def tell(text: str) -> None:
    """A line of the day's story."""
    print(text, flush=True)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _sentence(outcome: forks.Outcome) -> str:
    return next(line for line in outcome.output.splitlines() if line.startswith("vmoer: "))


def main() -> int:
    """Exit code 0 when the day ended well."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    forks.load()
    with tempfile.TemporaryDirectory(prefix="vmoer-day-") as scratch:
        Day(Path(scratch)).live()
    return 0


if __name__ == "__main__":
    sys.exit(main())
