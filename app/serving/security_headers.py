"""What stands before the dashboard's server: foreign names and origins are refused, every answer carries the headers.

A loopback address alone does not keep other web pages out: a page in the reader's browser may send requests here (its
``Origin`` is then foreign) or point a name of its own at this machine (its ``Host`` is then foreign). Both are refused
for HTTP and WebSocket alike, before Streamlit sees them.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

#: stands for every numeric address among the hosts (:data:`pipelines.serve.dashboard.ANY_ADDRESS`)
ANY_ADDRESS = "any-ip-address"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.S)


def host_of(header: str) -> str | None:
    """The host name in a ``Host`` header, lower case and without its port; ``None`` when it is malformed."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").lower().rstrip(".") if match else None


def refusal(headers: Sequence[tuple[bytes, bytes]], hosts: Sequence[str]) -> str | None:
    """Why a request with these headers is refused, or ``None``; ``hosts`` are the names it may be reached by."""
    sent = [value.decode("latin-1") for name, value in headers if name == b"host"]
    if len(sent) != 1:
        return "a request must name one host"
    name = host_of(sent[0])
    if name is None or not (name in hosts or (ANY_ADDRESS in hosts and _is_address(name))):
        return "this host name is not allowed; VMOER_ALLOWED_HOSTS lists further names"
    origins = [value.decode("latin-1") for key, value in headers if key == b"origin"]
    own = (f"http://{sent[0].lower()}", f"https://{sent[0].lower()}")
    if any(origin.lower() not in own for origin in origins):
        return "requests from other origins are not allowed"
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def security_headers(index: str) -> list[tuple[bytes, bytes]]:
    """The headers of every answer; the scripts inside ``index`` (Streamlit's page) are allowed by their hashes.

    Vega compiles its expressions in the browser, which is ``unsafe-eval``; expressions come from this code, never from
    data. Nothing may be fetched from, sent to or framed by another origin.
    """
    inline = [hashlib.sha256(text.encode()).digest() for text in _INLINE_SCRIPT.findall(index)]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in inline)
    policy = {
        "default-src": "'self'",
        "script-src": f"'self' 'unsafe-eval' blob: {hashes}".strip(),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return [
        (b"content-security-policy", "; ".join(f"{name} {value}" for name, value in policy.items()).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ]


def streamlit_files() -> Path:
    """The folder of the page that Streamlit serves and of its scripts."""
    import streamlit

    return Path(streamlit.__file__).parent / "static"


def streamlit_page() -> str:
    """The HTML page that Streamlit serves."""
    return (streamlit_files() / "index.html").read_text(encoding="utf-8")


class SecurityHeaders:
    """ASGI middleware: refuses by :func:`refusal`, adds :func:`security_headers`."""

    def __init__(self, app: Application, hosts: Sequence[str], page: str) -> None:
        self._app = app
        self._hosts = [host.lower().rstrip(".") for host in hosts]
        self._headers = security_headers(page)
        self._own = {name for name, _ in self._headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in self._own]
                message["headers"] = [*kept, *self._headers]
            await send(message)

        reason = refusal(scope["headers"], self._hosts)
        if reason is None:
            await self._app(scope, receive, guarded)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            body = f"Refused: {reason}.\n".encode()
            start = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            await guarded(start)
            await send({"type": "http.response.body", "body": body})
