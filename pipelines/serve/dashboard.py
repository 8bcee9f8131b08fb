"""How the dashboard's server is started: who may reach it, its command line, is its port free; torch-free."""

from __future__ import annotations

import math
import platform
import re
import socket
import sys
from pathlib import Path

from pipelines.errors import ServeError
from pipelines.resources import DASHBOARD as MAIN
from pipelines.serve.login import check_login
from pipelines.settings import LOOPBACK, Settings

#: found beside this package, never imported: only Streamlit runs the app
SERVER = MAIN.with_name("server.py")

WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104  recognised, not bound
#: stands for every numeric address; a page elsewhere can point a name at this machine, but not a number
ANY_ADDRESS = "any-ip-address"


def check_address(address: str, port: int, insecure: bool, settings: Settings) -> None:
    """Refuse an address that others can reach unless there is a login, or ``--insecure``; and a port that is taken."""
    if settings.auth_file:
        check_login(settings)
    elif address not in LOOPBACK and not insecure:
        raise ServeError(
            f"{address or 'that address'} can be reached from other machines and no login is set up; use 127.0.0.1, "
            "set VMOER_AUTH_FILE (docs/security.md), or give --insecure if the network is trusted"
        )
    check_port_free(port, address)


def reachable_as(address: str, settings: Settings) -> list[str]:
    """The host names under which a dashboard bound to ``address`` answers; all others are refused."""
    names = [*LOOPBACK, *settings.allowed_hosts]
    if settings.auth_file:
        names.append(check_login(settings))
    elif address in WILDCARDS:
        names += [ANY_ADDRESS, platform.node()]
    elif address not in LOOPBACK:
        names.append(address)
    return list(dict.fromkeys(names))


def base_path(settings: Settings) -> str:
    """The path under which the dashboard is served, without slashes around it; refused unless it is a plain one."""
    path = settings.base_path.strip("/")
    if path and not re.fullmatch(r"[\w~-][\w.~-]*(/[\w~-][\w.~-]*)*", path, re.ASCII):
        raise ServeError(f"VMOER_BASE_PATH={settings.base_path!r} is no path such as lab/vmoer")
    return path


def streamlit_command(
    port: int = 8501,
    host: str = "127.0.0.1",
    auth_file: str = "",
    max_upload_bytes: int = Settings().max_upload_bytes,
    path: str = "",
) -> list[str]:
    """The command that serves the dashboard on ``host:port``, below ``path``.

    Everything else (theme, no telemetry, no tracebacks to readers) comes from ``.streamlit/config.toml`` beside
    ``server.py``, which Streamlit reads from any working directory; what must hold even under a user's own
    ``~/.streamlit/config.toml`` or ``STREAMLIT_*`` variables is repeated here, since flags win over both.
    """
    # without a login no file with secrets is read at all
    secrets = Path(auth_file).expanduser().absolute() if auth_file else MAIN.with_name("no-secrets.toml")
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(SERVER),
        f"--server.port={port}",
        f"--server.address={host}",
        "--server.headless=true",
        "--server.enableXsrfProtection=true",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
        "--client.showErrorLinks=false",
        f"--server.maxUploadSize={math.ceil(max_upload_bytes / 2**20)}",
        "--server.enableStaticServing=false",
        "--server.enableAgentApi=false",
        f"--server.baseUrlPath={path}",
        f"--secrets.files={secrets}",
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
