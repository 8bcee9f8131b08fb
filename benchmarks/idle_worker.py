"""What a worker costs that has nothing to do, and how soon it begins an inspection all the same.

::

    python -m benchmarks.idle_worker [--seconds 60] [--tries 20]

Processor time is the worker's own. A begin is seen from outside: from before the call that asks until the job database
says that the inspection runs.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from pipelines.jobs import inspections as live
from pipelines.serve import processes as serve
from pipelines.settings import Settings
from pipelines.worker.process import is_served

#: DBOS looks for schedules every second at first
_SETTLED_SECONDS = 65.0


def processor_seconds(process: int) -> float:
    """What a process has taken so far (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_share(process: int, seconds: float) -> float:
    """The share of one core that a process takes."""
    before, started = processor_seconds(process), time.monotonic()
    time.sleep(seconds)
    return (processor_seconds(process) - before) / (time.monotonic() - started)


def begins(settings: Settings, tries: int) -> list[float]:
    """Seconds from asking for an inspection to its begin, each asked at another moment of the worker's looking."""
    request = live.parse_request({"model": "worldfacts-moe", "prompts": ["Water"], "routers": "untrained"}, settings)
    chance = random.Random(0)
    taken = []
    for _ in range(tries):
        time.sleep(2 * chance.random())
        started = time.monotonic()
        asked = live.submit(request, settings)
        while live.get_inspection(asked, settings).status == "queued":
            time.sleep(0.005)
        taken.append(time.monotonic() - started)
        while not live.get_inspection(asked, settings).ended:
            time.sleep(0.05)
    return taken


def main() -> None:
    """Print both figures, and the load of the machine beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tries", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(home=Path(name), device="cpu")
        process = serve.start_worker(settings, "cpu")
        assert process is not None
        try:
            while not is_served(settings, "cpu"):
                time.sleep(0.1)
            time.sleep(_SETTLED_SECONDS)
            share = idle_share(process.pid, asked.seconds)
            taken = sorted(begins(settings, asked.tries))
        finally:
            serve.stop([process])
    print(f"idle for {asked.seconds:g} s: {100 * share:.2f} % of a core  goal ≤ 1 %")
    print(
        f"begin of {asked.tries} inspections: median {statistics.median(taken):.3f} s, longest {taken[-1]:.3f} s  "
        f"goal ≤ 0.3 s; load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
