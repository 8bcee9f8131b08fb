"""The dashboard and a worker as child processes of one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from types import FrameType

from pipelines.errors import ServeError
from pipelines.resources import ROOT
from pipelines.serve.dashboard import WILDCARDS, base_path, reachable_as, streamlit_command
from pipelines.settings import Settings
from pipelines.worker.process import detect_device, is_served


def end_on_sigterm() -> None:
    """Treat SIGTERM like Ctrl-C, so that the child processes are ended in order."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def start_dashboard(settings: Settings, address: str, port: int) -> subprocess.Popen[bytes]:
    """The dashboard's process; it is answering requests when this returns."""
    hosts = ",".join(reachable_as(address, settings))
    path = base_path(settings)
    command = streamlit_command(port, address, settings.auth_file, settings.max_upload_bytes, path)
    process = _start(command, settings, VMOER_ALLOWED_HOSTS=hosts)
    local = "127.0.0.1" if address in WILDCARDS else address
    host = f"[{local}]" if ":" in local else local
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServeError("the dashboard stopped while starting; run `vmoer doctor` to see what is missing")
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/{f'{path}/' if path else ''}_stcore/health", timeout=2):
                return process
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    stop([process])
    raise ServeError("the dashboard did not answer within 60 seconds")


def start_worker(settings: Settings, device: str) -> subprocess.Popen[bytes] | None:
    """A worker process for a device; ``None`` when one is running already."""
    if is_served(settings, detect_device(device)):
        return None
    return _start([sys.executable, "-m", "pipelines", "worker", "--device", device], settings)


def wait(processes: Sequence[subprocess.Popen[bytes]], say: Callable[[str], None]) -> int:
    """Until Ctrl-C or until one of the processes ends; then end them all. Returns the exit code."""
    try:
        while True:
            for process in processes:
                code = process.poll()
                if code is not None:
                    say(f"a process ended with code {code}; stopping")
                    return 0 if code == 0 else 3
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("stopping; a job in progress goes on at the next start")
        return 0
    finally:
        stop(processes)


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the processes to end, and end those that do not."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=35)
        except subprocess.TimeoutExpired:
            process.kill()


def _start(command: Sequence[str], settings: Settings, **more: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "VMOER_HOME": str(settings.home), "VMOER_CACHE": str(settings.cache), **more}
    # a package `app` or `pipelines` of the user's, in this folder or installed, does not take the place of ours
    path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
    # its own session: Ctrl-C reaches this process only, which then ends the others in order
    return subprocess.Popen(list(command), env=environment, start_new_session=True)  # noqa: S603  our own command line
