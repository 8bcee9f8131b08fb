"""``python -m tests.harness.refusals``: what the machine may refuse, and what the user is told.

Each scenario breaks one thing, gives a command, mends the thing and gives the command again. The first attempt must
say one sentence and exit with 2 or 3; nothing half-written may be left; the second must end like an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.harness import forks
from tests.harness.kill import checked, leftovers
from tests.harness.operations import Operation, operations

NOBODY = 65534
#: what the command of a scenario says, beside the scenario's folder
LOG = "log.txt"
# A first attempt that takes longer has not been refused: it hangs.
SECONDS = 300.0


@dataclass(frozen=True)
class Scenario:
    """``broken(folder)`` is the state of the machine during the first attempt, ``inside`` its limits in the process."""

    name: str
    operation: str
    sentence: str
    broken: Callable[[Path], Any]
    inside: Callable[[], None] = lambda: None
    environment: tuple[tuple[str, str], ...] = ()
    codes: tuple[int, ...] = (2, 3)


@dataclass
class Refusal:
    """What came of a scenario; ``skipped`` says why it could not be tried here."""

    name: str
    code: int | None = None
    said: str = ""
    expected: str = ""
    leftovers: tuple[str, ...] = ()
    traceback: bool = False
    retried: int | None = None
    lost_rows: int = 0
    duplicate_rows: int = 0
    verify: str = ""
    skipped: str = ""


@contextmanager
def nothing(_folder: Path) -> Iterator[None]:
    """The machine is as always."""
    yield


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """No one but root may write below the folder."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)


def small_disk(free: int, read_only: bool = False, cleaned: bool = False) -> Callable[[Path], Any]:
    """The folder on a file system of its own with ``free`` kilobytes left; what is on it afterwards is moved back.

    When ``cleaned``, the disk gets larger once the command has said that it waits for room, as when someone cleans up.
    """

    @contextmanager
    def mounted(folder: Path) -> Iterator[None]:
        mount = folder.with_name(f"{folder.name}-disk")
        mount.mkdir()
        pages = sum(1 + -(-path.stat().st_size // 4096) for path in folder.rglob("*"))
        size = f"size={4 * pages + free}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(mount)], check=True)
        cleaner = None
        if cleaned:
            script = 'until grep -q "waiting for room" "$0"; do sleep 0.1; done; exec "$@"'
            enlarge = ["mount", "-o", "remount,size=50m", str(mount)]
            cleaner = subprocess.Popen(["sh", "-c", script, str(folder.with_name(LOG)), *enlarge])
        try:
            for path in folder.iterdir():
                _move(path, mount / path.name)
            if read_only:
                subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
            folder.rmdir()
            folder.symlink_to(mount)
            yield
        finally:
            if cleaner is not None:
                cleaner.kill()
                cleaner.wait()
            if folder.is_symlink():
                folder.unlink()
                folder.mkdir()
                for path in mount.iterdir():
                    _copy(path, folder / path.name)
            subprocess.run(["umount", str(mount)], check=True)
            mount.rmdir()

    return mounted


def _copy(source: Path, target: Path) -> None:
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


def _move(source: Path, target: Path) -> None:
    _copy(source, target)
    (shutil.rmtree if source.is_dir() else os.unlink)(source)


def as_nobody() -> None:
    """Permissions do not bind root, so the child becomes someone else."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def few_files(more: int) -> Callable[[], None]:
    """At most ``more`` files beyond those that are open."""

    def limit() -> None:
        used = len(os.listdir("/proc/self/fd"))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))

    return limit


def small_files(size: int) -> Callable[[], None]:
    """No file may grow beyond ``size`` bytes: a quota that needs no mount."""

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def no_temporary_folder() -> None:
    """Neither TMPDIR nor any of the usual places can be used."""
    tempfile.tempdir = None
    tempfile._candidate_tempdir_list = lambda: ["/nonexistent"]  # type: ignore[attr-defined]


def clock_back() -> None:
    """A day earlier than it was."""
    real = time.time
    time.time = lambda: real() - 86_400.0


_SMALL = (("VMOER_MIN_FREE_MB", "0.001"),)
IMPATIENT = (*_SMALL, ("VMOER_ROOM_MINUTES", "0.001"))


def scenarios() -> list[Scenario]:
    """Everything that may go wrong with a disk, a folder, a process or a clock."""
    full, denied = "the disk is full|database or disk is full", "ermission|readonly"
    handles = "files open|too many open files|Too many open files|unable to open database file"
    return [
        Scenario("full before the first job", "run", full, small_disk(100), environment=_SMALL),
        Scenario(
            "full until someone cleans up", "run", full, small_disk(296, cleaned=True), environment=_SMALL, codes=(0,)
        ),
        Scenario("full while publishing", "run", full, small_disk(700), environment=IMPATIENT),
        Scenario("too little room left", "run", "VMOER_MIN_FREE_MB", small_disk(20_000)),
        Scenario("full while exporting", "export duckdb", full, small_disk(8)),
        Scenario("full while compacting", "compact", full, small_disk(40)),
        Scenario("file size limit", "publish", "larger than a file may be", nothing, small_files(100_000)),
        Scenario("read-only disk", "run", "read-only|readonly|Read-only", small_disk(20_000, read_only=True)),
        Scenario("read-only disk, export", "export csv", "read-only", small_disk(20_000, read_only=True)),
        Scenario("read-only disk, compact", "compact", "read-only|Read-only", small_disk(20_000, read_only=True)),
        Scenario("no permission", "run", denied, read_only, as_nobody),
        Scenario("no permission, job database there", "worker", denied, read_only, as_nobody),
        Scenario("no permission, export", "export csv", denied, read_only, as_nobody),
        Scenario("no permission, publish", "compact", denied, read_only, as_nobody),
        Scenario("no file handles", "run", handles, nothing, few_files(6)),
        Scenario("no file handles, export", "export duckdb", handles, nothing, few_files(2)),
        Scenario("no file handles, compact", "compact", handles, nothing, few_files(2)),
        Scenario("no temporary folder", "export csv", "temporary", nothing, no_temporary_folder),
        Scenario("temporary folder is gone", "export csv", "", nothing, environment=(("TMPDIR", "/nonexistent"),)),
        Scenario("clock set back", "compact", "", nothing, clock_back),
        Scenario("clock set back in a job", "worker", "", nothing, clock_back),
    ]


class Refusals:
    """Runs scenarios below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._operations = {operation.name: operation for operation in operations()}
        self._references: dict[str, Path] = {}

    def scenario(self, scenario: Scenario) -> Refusal:
        """Break, try, mend, try again, compare."""
        operation = self._operations[scenario.operation]
        result = Refusal(scenario.name, expected=scenario.sentence)
        reference = self._reference(operation)
        attempt = self._folder / scenario.name.replace(" ", "-").replace(",", "")
        shutil.copytree(reference.with_name("start"), attempt)
        log = self._folder / LOG
        for path in (self._folder, attempt, *attempt.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        log.write_text("")
        log.chmod(0o666)
        environment = {"VMOER_HOME": str(attempt / "data"), "VMOER_DEVICE": "cpu"}

        def first() -> int:
            scenario.inside()
            return operation.work(attempt)

        try:
            with scenario.broken(attempt):
                child = forks.Child(first, log, **environment, **dict(scenario.environment))
                outcome = child.wait(SECONDS)
        except (OSError, subprocess.CalledProcessError) as error:
            result.skipped = str(error)
            return result
        result.code = outcome.value if outcome.value is not None else outcome.code
        result.traceback = "Traceback" in outcome.output
        sentences = [line for line in outcome.output.splitlines() if line.startswith(("vmoer: ", "the disk is full"))]
        result.said = "\n".join(sentences) or ("" if result.code == 0 else outcome.output[-2000:])
        result.leftovers = tuple(path.relative_to(attempt).as_posix() for path in leftovers(attempt))
        again = forks.run(lambda: operation.work(attempt), log, **environment)
        result.retried = again.value if again.value is not None else again.code
        if result.retried:
            result.verify = again.output[-2000:]
            return result
        found = forks.run(lambda: checked(reference, attempt), log, **environment)
        if found.code:
            result.verify = found.output[-2000:]
            return result
        result.lost_rows, result.duplicate_rows = found.value["lost"], found.value["extra"]
        result.verify = found.value["said"]
        shutil.rmtree(attempt)
        return result

    def _reference(self, operation: Operation) -> Path:
        """The folder of an undisturbed attempt, beside the ``start`` it came from."""
        if operation.name not in self._references:
            place = self._folder / f"{operation.name.replace(' ', '-')}-reference"
            start, reference = place / "start", place / "reference"
            for folder in (start / "data", start / "out"):
                folder.mkdir(parents=True)
            for folder, work in ((start, lambda: operation.prepare(start)), (reference, None)):
                if work is None:
                    shutil.copytree(start, reference)
                outcome = forks.run(
                    work or (lambda: operation.work(reference)),
                    self._folder / LOG,
                    VMOER_HOME=str(folder / "data"),
                    VMOER_DEVICE="cpu",
                )
                if outcome.code or outcome.value:
                    raise SystemExit(f"undisturbed, {operation.name} failed: {outcome.output}")
            self._references[operation.name] = reference
        return self._references[operation.name]


def main(arguments: list[str] | None = None) -> int:
    """One JSON object a line, a scenario each."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.refusals")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    forks.load()
    with tempfile.TemporaryDirectory(prefix="vmoer-refusals-") as scratch:
        refusals = Refusals(Path(scratch))
        for scenario in scenarios():
            if given.only in scenario.name:
                print(json.dumps(asdict(refusals.scenario(scenario))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
