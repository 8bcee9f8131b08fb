"""Health of the service: jobs, queue, workers, results and disk, also as Prometheus metrics."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from pipelines.errors import JobError, ServeError
from pipelines.jobs import client as jobs
from pipelines.jobs.disk import folder_bytes, free_bytes
from pipelines.jobs.locks import live_executors
from pipelines.settings import Settings
from store.catalog import run_ids
from store.errors import StoreError
from store.layout import generation_path
from store.publish import current_number

_STATUSES = ("queued", "running", "lost", "finished", "failed", "cancelled")
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Health:
    """The state of a data folder; ``problem`` is the sentence that makes it unhealthy, empty when all is well.

    ``published_at`` is in seconds since 1970 (UTC); ``generation`` and it are None before the first publishing.
    """

    jobs: dict[str, int]
    workers: tuple[str, ...]
    runs: int
    generation: int | None
    published_at: float | None
    store_bytes: int
    free_bytes: int
    problem: str


def look(settings: Settings) -> Health:
    """Return the state now; a database that cannot be read is a problem, not an error."""
    problems = []
    counted: Counter[str] = Counter()
    try:
        counted = jobs.count_jobs(settings)
    except JobError as error:
        problems.append(str(error))
    number, published = None, None
    try:
        number = current_number(settings.home)
        if number is not None:
            published = generation_path(settings.home, number).stat().st_mtime
    except (StoreError, OSError) as error:
        problems.append(str(error) if isinstance(error, StoreError) else f"generation {number} is missing")
    workers = tuple(sorted(live_executors(settings.home)))
    if counted["lost"]:
        problems.append(f"{counted['lost']} jobs are lost: start `vmoer worker`")
    free = free_bytes(settings) if settings.home.is_dir() else 0
    if settings.home.is_dir() and free < settings.min_free_mb * 1e6:
        problems.append(f"only {free / 1e6:.0f} MB are free on the disk of the data folder")
    return Health(
        jobs={status: counted[status] for status in _STATUSES},
        workers=workers,
        runs=len(run_ids(settings.home)),
        generation=number,
        published_at=published,
        store_bytes=folder_bytes(settings),
        free_bytes=free,
        problem="; ".join(problems),
    )


def prometheus(health: Health) -> bytes:
    """Return the numbers in Prometheus' text format; what is unknown is left out."""
    registry = CollectorRegistry()
    jobs_by_status = Gauge("vmoer_jobs", "jobs by status", ["status"], registry=registry)
    for status, count in health.jobs.items():
        jobs_by_status.labels(status).set(count)
    worker_up = Gauge("vmoer_worker_up", "1 for each live worker", ["worker"], registry=registry)
    for worker in health.workers:
        worker_up.labels(worker).set(1)
    single: list[tuple[str, str, float | None]] = [
        ("queue_length", "jobs that wait for a worker", health.jobs["queued"]),
        ("workers", "live worker processes", len(health.workers)),
        ("runs", "runs in the data folder", health.runs),
        ("generation", "number of the published generation", health.generation),
        ("last_publish_timestamp_seconds", "when it was published", health.published_at),
        ("store_bytes", "size of the data folder", health.store_bytes),
        ("disk_free_bytes", "free on its disk", health.free_bytes),
        ("healthy", "1 when nothing needs attention", int(not health.problem)),
    ]
    for name, meaning, value in single:
        if value is not None:
            Gauge(f"vmoer_{name}", meaning, registry=registry).set(value)
    return generate_latest(registry)


def serve(settings: Settings, address: str, port: int) -> ThreadingHTTPServer:
    """Start a server of ``/metrics``, ``/healthz`` (200 or 503) and ``/health.json`` in threads of its own."""
    names = {address, "localhost", "127.0.0.1", "[::1]"}

    class Handler(BaseHTTPRequestHandler):
        server_version = "vmoer"
        sys_version = ""
        timeout = 10

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host") or ""
            if host not in names:  # a name of someone else's that leads here
                self._answer(403, _TEXT, b"this host name is not served here\n")
                return
            health = look(settings)
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_PLAIN_0_0_4, prometheus(health))
            elif self.path == "/healthz":
                self._answer(503 if health.problem else 200, _TEXT, f"{health.problem or 'ok'}\n".encode())
            elif self.path == "/health.json":
                self._answer(200, "application/json; charset=utf-8", json.dumps(asdict(health)).encode() + b"\n")
            else:
                self._answer(404, _TEXT, b"there are /metrics, /healthz and /health.json\n")

        def _answer(self, code: int, kind: str, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            return  # a scrape every few seconds is no news

    try:
        server = ThreadingHTTPServer((address, port), Handler)
    except OSError as error:
        raise ServeError(f"port {port} on {address} cannot be used for metrics: {error.strerror or error}") from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
