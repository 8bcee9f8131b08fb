"""Many dashboard sessions at once beside a worker that writes: errors, and how long a page takes to be complete.

Sessions speak the browser's protocol (one WebSocket each, every page run by the server as for a browser) without
drawing anything. Everything stays on the loopback address and is bounded in count and time::

    python -m benchmarks.sessions --sessions 50 --seconds 600
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import websockets
from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.typing import Origin, Subprotocol

from pipelines.jobs import client as jobs
from pipelines.serve import processes as serve
from pipelines.serve.dashboard import check_port_free
from pipelines.settings import Settings
from pipelines.spec.model import Spec, parse_spec, places
from pipelines.worker.foreground import compute
from store.publish import current_number

PAGES = ("", "layers", "experts", "calibration", "ood", "compare")
MAX_SESSIONS, MAX_SECONDS = 200, 3600
_PATIENCE = 120.0

#: what the worker computes over and over, each time with another seed and so as new runs
WRITING: dict[str, Any] = {
    "name": "written-meanwhile",
    "model": "worldfacts-moe",
    "methods": ["deterministic", "fcvr"],
    "routers": "untrained",
    "controls": [],
    "samples": 4,
    "data": {
        "id": {"name": "worldfacts", "split": "test", "limit": 60},
        "far": [{"name": "worldfacts", "split": "far-ood", "limit": 60}],
    },
    "noise": {"limit": 16, "gammas": [0.01]},
    "leverage": {"limit": 16, "zero_block": False},
    "bootstrap": 100,
}


@dataclass
class Seen:
    """What all sessions met: seconds of each read, and errors by kind."""

    reads: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


async def session(number: int, port: int, until: float, think: float, seen: Seen) -> None:
    """One visitor: opens page after page, waits for each to be complete, looks at it for about ``think`` seconds."""
    chance = random.Random(number)
    await asyncio.sleep(chance.random() * think)
    address = f"ws://127.0.0.1:{port}/_stcore/stream"
    while time.monotonic() < until:
        try:
            async with websockets.connect(
                address,
                origin=Origin(f"http://127.0.0.1:{port}"),
                subprotocols=[Subprotocol("streamlit")],
                max_size=2**27,
                ping_interval=None,  # a slow page is counted as one, not as a broken connection
            ) as socket:
                while time.monotonic() < until:
                    started = time.monotonic()
                    problem = await asyncio.wait_for(_read(socket, chance.choice(PAGES)), _PATIENCE)
                    seen.reads.append(time.monotonic() - started)
                    if problem:
                        seen.errors[problem] += 1
                    await asyncio.sleep(think * (0.5 + chance.random()))
        except TimeoutError:
            seen.errors[f"no complete page within {_PATIENCE:g} s"] += 1
        except (OSError, websockets.WebSocketException) as error:
            seen.errors[type(error).__name__] += 1
            await asyncio.sleep(1)


async def _read(socket: Any, page: str) -> str:
    """Ask for a page and take everything up to its end; what was wrong with it, or an empty text."""
    ask = BackMsg()
    ask.rerun_script.page_name = page
    ask.rerun_script.query_string = ""
    await socket.send(ask.SerializeToString())
    problem = ""
    while True:
        message = ForwardMsg()
        message.ParseFromString(await socket.recv())
        kind = message.WhichOneof("type")
        if kind == "delta":
            element = message.delta.new_element
            shown = element.WhichOneof("type")
            if shown == "exception" or (shown == "alert" and element.alert.format == Alert.ERROR):
                problem = f"{shown} on page {page or 'overview'}"
        elif kind == "page_not_found":
            problem = f"page {page} not found"
        elif kind == "script_finished" and message.script_finished in (
            ForwardMsg.FINISHED_SUCCESSFULLY,
            ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
        ):
            wrong = message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR
            return "script does not compile" if wrong else problem


@contextmanager
def service(settings: Settings, port: int) -> Iterator[None]:
    """Dashboard and worker as `vmoer serve` starts them."""
    check_port_free(port)
    processes = [serve.start_worker(settings, "cpu"), serve.start_dashboard(settings, "127.0.0.1", port)]
    try:
        yield
    finally:
        serve.stop([process for process in processes if process is not None])


async def keep_writing(settings: Settings, until: float) -> int:
    """Give the worker one experiment after the other; how many it finished."""
    finished = 0
    for seed in itertools.count(1):
        job_id = await asyncio.to_thread(jobs.submit, writing(seed), folders=places(), device="cpu", settings=settings)
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            job = await asyncio.to_thread(jobs.get_job, job_id, settings)
            if job.ended:
                finished += job.status == "finished"
                break
        if time.monotonic() >= until:
            return finished
    return finished


def writing(seed: int) -> Spec:
    """The experiment with a seed of its own."""
    return parse_spec({**WRITING, "seed": seed})


async def _all(arguments: argparse.Namespace, settings: Settings, seen: Seen) -> int:
    until = time.monotonic() + arguments.seconds
    visitors = [session(number, arguments.port, until, arguments.think, seen) for number in range(arguments.sessions)]
    async with asyncio.TaskGroup() as group:
        written = group.create_task(keep_writing(settings, until))
        for visitor in visitors:
            group.create_task(visitor)
    return written.result()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one load test in a fresh data folder."""
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(Settings(), home=Path(folder) / "data", cache=Path("~/.cache/vmoer").expanduser())
        compute(writing(0), places(), replace(settings, device="cpu"), quiet=True)
        seen = Seen()
        first = current_number(settings.home) or 0
        with service(settings, arguments.port):
            written = asyncio.run(_all(arguments, settings, seen))
        last = current_number(settings.home) or 0
    reads = sorted(seen.reads)
    return {
        "sessions": arguments.sessions,
        "seconds": arguments.seconds,
        "think_seconds": arguments.think,
        "reads": len(reads),
        "errors": sum(seen.errors.values()),
        "kinds": dict(seen.errors),
        "p50_s": round(statistics.median(reads), 3) if reads else None,
        "p95_s": round(reads[min(int(0.95 * len(reads)), len(reads) - 1)], 3) if reads else None,
        "max_s": round(reads[-1], 3) if reads else None,
        "experiments_written": written,
        "generations_published": last - first,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "processors": os.cpu_count(),
    }


def main() -> None:
    """Read the arguments, refuse unbounded ones, print the figures as JSON; exit code 1 when there were errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--think", type=float, default=30.0, help="mean seconds between a page and the next")
    parser.add_argument("--port", type=int, default=8599)
    arguments = parser.parse_args()
    if not (0 < arguments.sessions <= MAX_SESSIONS and 0 < arguments.seconds <= MAX_SECONDS and arguments.think >= 0):
        parser.error(f"at most {MAX_SESSIONS} sessions for at most {MAX_SECONDS} seconds")
    found = measure(arguments)
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["errors"] else 0)


if __name__ == "__main__":
    main()
