"""How the dashboard's own files reach the browser: at once, from memory, and those of every page before a page asks.

Streamlit's page loads about 150 small scripts: the first half with the page, the second when the first element of each
kind arrives. So the first chart waited for two rows of requests, each answered through a thread and a file, and each
held back for up to 40 ms by the kernel (:func:`disable_send_delay`). The preloads stand in the page: as a header they
would be 4 kB, more than a proxy takes by default.
"""

from __future__ import annotations

import gc
import gzip
import ipaddress
import re
import socket
from functools import cached_property
from pathlib import Path

from app.serving.security_headers import Application, Message, Receive, Scope, Send

#: the scripts that draw what every page has, the chart's first, by the part of their names that is no hash
KINDS = (
    "ArrowVegaLiteChart", "loadVegaEmbed", "embed", "vega-interpreter", "BidiComponent", "Selectbox", "PageLink",
    "ButtonGroup", "Button", "DownloadButton",
)  # fmt: skip
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".woff2": "font/woff2"}
_IMPORTED = re.compile(r"""\b(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")


def disable_send_delay() -> None:
    """Set TCP_NODELAY on the listening sockets of this process, so that small answers leave at once.

    ``asyncio`` switches that wait (Nagle's) off only for sockets that were opened with TCP as their protocol; Streamlit
    opens its own with the default one. What is accepted takes the choice over from what listens.
    """
    for one in gc.get_objects():
        # by type, as `isinstance` would ask the object, and other packages' may answer with a warning
        if issubclass(type(one), socket.socket) and one.fileno() >= 0 and _listens(one):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _listens(one: socket.socket) -> bool:
    over_tcp = one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM
    return over_tcp and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def scripts(folder: Path, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """The names of the scripts in ``folder`` that are of these kinds, and of all they import, in order; no other."""
    by_kind = {path.name.split(".")[0]: path.name for path in sorted(folder.glob("*.js"))}
    found: dict[str, None] = {}
    todo = [by_kind[kind] for kind in kinds if kind in by_kind]
    while todo:
        name = todo.pop(0)
        if name not in found and (folder / name).is_file():
            found[name] = None
            todo += _IMPORTED.findall((folder / name).read_text(encoding="utf-8"))
    return list(found)


def preloading(page: str, names: list[str]) -> str:
    """The HTML ``page`` with a preload of every script that it does not name itself."""
    links = [
        f'<link rel="modulepreload" crossorigin href="./static/js/{name}">' for name in names if f"/{name}" not in page
    ]
    return page.replace("</head>", "\n".join(["", *links, "</head>"]), 1)


class StaticFiles:
    """ASGI middleware: answers for the scripts, styles and fonts of Streamlit's ``folder``; its page gets preloads.

    The files' names hold a hash of what is in them, so a browser keeps them for a year. They go out compressed to other
    machines, as they are to this one. Files that are not there, and anything else, are left to ``app``.
    """

    def __init__(self, app: Application, folder: Path) -> None:
        self._app = app
        self._page = (folder / "index.html").read_bytes()
        self._better = preloading(self._page.decode(), scripts(folder / "static" / "js")).encode()
        self._files = {
            f"/{path.relative_to(folder).as_posix()}": File(path)
            for path in (folder / "static").rglob("*")
            if path.suffix in TYPES
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        file = self._files.get(scope["path"])
        if file is not None:
            await file.answer(scope, send)
        else:
            await self._app(scope, receive, Swapped(send, self._page, self._better))


class File:
    """One file, read when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _plain(self) -> bytes:
        return self._path.read_bytes()

    @cached_property
    def _small(self) -> bytes:
        return gzip.compress(self._plain, 6, mtime=0)

    async def answer(self, scope: Scope, send: Send) -> None:
        """Send it."""
        squeeze = self._path.suffix != ".woff2" and is_remote(scope) and takes_gzip(scope)
        body = self._small if squeeze else self._plain
        headers = [
            (b"content-type", TYPES[self._path.suffix].encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"public, immutable, max-age=31536000"),
            (b"vary", b"accept-encoding"),
        ]
        headers += [(b"content-encoding", b"gzip")] if squeeze else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def is_remote(scope: Scope) -> bool:
    """Whether the request comes from another machine (a proxy on this one compresses itself)."""
    client = scope.get("client")
    try:
        return client is not None and not ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def takes_gzip(scope: Scope) -> bool:
    """Whether the browser says that it can read gzip."""
    sent = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    return re.search(rb"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", sent) is not None


class Swapped:
    """A ``send`` that replaces the answer whose whole body is ``old`` by ``new``; other answers pass unchanged."""

    def __init__(self, send: Send, old: bytes, new: bytes) -> None:
        self._send = send
        self._old = old
        self._new = new
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            length = [value for name, value in message.get("headers", []) if name.lower() == b"content-length"]
            if message["status"] == 200 and length == [str(len(self._old)).encode()]:
                self._start = message  # until the body is known
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._decided(self._start)
            return
        await self._send(message)

    async def _decided(self, start: Message) -> None:
        body = self._new if self._body == self._old else self._body
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await self._send({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})
