"""Commands that keep running: the demo, the dashboard and the worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from pipelines import console
from pipelines.cli.root import Address, Device, Engine, Insecure, Json, MetricsPort, Port
from pipelines.serve import health
from pipelines.serve import processes as server
from pipelines.serve.dashboard import base_path, check_address
from pipelines.serve.demo import run_demo
from pipelines.settings import load_settings
from pipelines.worker.process import run_worker


def demo(
    serve: Annotated[bool, typer.Option(help="Show the dashboard; --no-serve does everything here and exits.")] = True,
    port: Port = 8501,
    address: Address = "127.0.0.1",
    insecure: Insecure = False,
    json_: Json = False,
) -> None:
    """Evaluate the two bundled models and show the results; a second start reuses what is finished."""
    settings = load_settings()
    code = run_demo(settings, serve_pages=serve, address=address, port=port, insecure=insecure, as_json=json_)
    raise typer.Exit(code)


def serve(
    port: Port = 8501,
    address: Address = "127.0.0.1",
    device: Device = "auto",
    worker_: Annotated[bool, typer.Option("--worker/--no-worker", help="Also start a worker for jobs.")] = True,
    insecure: Insecure = False,
    metrics_port: MetricsPort = 0,
) -> None:
    """Show the dashboard, with a worker beside it, until Ctrl-C."""
    settings = load_settings()
    check_address(address, port, insecure, settings)
    _serve_metrics(metrics_port)
    server.end_on_sigterm()
    worker_process = server.start_worker(settings, device) if worker_ else None
    processes = [worker_process] if worker_process else []
    try:
        processes.append(server.start_dashboard(settings, address, port))
        console.say(f"dashboard on http://{address}:{port}/{base_path(settings)} (Ctrl-C stops it)")
        code = server.wait(processes, console.say)
    finally:
        server.stop(processes)
    raise typer.Exit(code)


def worker(device: Device = "auto", engine: Engine = "local", metrics_port: MetricsPort = 0) -> None:
    """Compute queued jobs on one device, or with engine ray on many, until it is told to stop."""
    _serve_metrics(metrics_port)
    run_worker(replace(load_settings(), device=device, engine=engine), device, console.say)


def _serve_metrics(port: int) -> None:
    """Metrics and health for a scraper on this machine, beside whatever the command does."""
    if port:
        health.serve(load_settings(), "127.0.0.1", port)
        console.say(f"metrics on http://127.0.0.1:{port}/metrics, health on /healthz")
