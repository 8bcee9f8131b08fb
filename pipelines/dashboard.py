"""How the dashboard's server is started: its command line and the check that its port is free; torch-free."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from pipelines.errors import ServeError

#: found beside this package, never imported: only Streamlit runs the app
MAIN = Path(__file__).resolve().parents[1] / "app" / "main.py"


def streamlit_command(port: int = 8501, host: str = "127.0.0.1") -> list[str]:
    """The command that serves the dashboard on ``host:port``.

    Everything else (theme, no telemetry, no tracebacks to readers) comes from ``.streamlit/config.toml`` beside
    ``main.py``, which Streamlit reads from any working directory; what must hold even under a user's own
    ``~/.streamlit/config.toml`` or ``STREAMLIT_*`` variables is repeated here, since flags win over both.
    """
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(MAIN),
        f"--server.port={port}",
        f"--server.address={host}",
        "--server.headless=true",
        "--server.enableXsrfProtection=true",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
    ]


def check_port_free(port: int = 8501, host: str = "127.0.0.1") -> None:
    """Raise :class:`ServeError` with one sentence if nothing can listen on ``host:port``."""
    if not 0 < port < 65536:
        raise ServeError(f"Port {port} does not exist; a port is a number from 1 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server itself does: without it, connections in TIME_WAIT make a free port look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ServeError(
            f"Port {port} on {host} cannot be used ({error.strerror or error}): another program may be listening "
            f"there; choose another with --port."
        ) from None
