"""The dashboard's own files: from memory and compressed for other machines, preloaded, and never held back."""

from __future__ import annotations

import asyncio
import gzip
import socket
from pathlib import Path
from typing import Any

import pytest

from app.serving.security_headers import Message, Receive, Scope, Send, streamlit_files, streamlit_page
from app.serving.static_files import KINDS, StaticFiles, disable_send_delay, preloading, scripts

PAGE = b"<html><head><script src='./static/js/index.1.js'></script></head></html>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A frontend of four scripts; the chart's imports one that the page names, and one that it does not."""
    js = tmp_path / "static" / "js"
    js.mkdir(parents=True)
    (tmp_path / "index.html").write_bytes(PAGE)
    (js / "index.1.js").write_text("export const a = 1")
    (js / "ArrowVegaLiteChart.2.js").write_text('import{a}from"./index.1.js";import"./axes.3.js";')
    (js / "axes.3.js").write_text("import(`./never.4.js`); export const b = 2")
    (js / "never.4.js").write_text("")
    return tmp_path


def asked(
    folder: Path, path: str, *, client: str = "127.0.0.1", body: bytes = PAGE
) -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body of the answer to ``path``; the app behind answers everything with ``body``, in two parts."""

    async def behind(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"Content-Length", str(len(body)).encode()), (b"etag", b'"x"')]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"accept-encoding", b"gzip, br")]
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": path, "headers": headers, "client": (client, 5)
    }  # fmt: skip
    asyncio.run(StaticFiles(behind, folder)(scope, receive, send))
    return dict(sent[0]["headers"]), b"".join(one["body"] for one in sent[1:])


def test_a_chart_brings_what_it_imports_and_nothing_else(folder: Path) -> None:
    names = scripts(folder / "static" / "js")
    assert names == ["ArrowVegaLiteChart.2.js", "index.1.js", "axes.3.js"]
    page = preloading(PAGE.decode(), names)
    assert page.count("modulepreload") == 2  # the page names index.1.js itself
    assert page.index("axes.3.js") < page.index("</head>")


def test_the_installed_frontend_has_every_script_that_is_preloaded() -> None:
    names = scripts(streamlit_files() / "static" / "js")
    assert {name.split(".")[0] for name in names} >= set(KINDS)
    assert preloading(streamlit_page(), names).count("modulepreload") > streamlit_page().count("modulepreload") + 40


def test_the_page_comes_with_preloads_and_other_answers_as_they_are(folder: Path) -> None:
    headers, body = asked(folder, "/layers")
    assert b"axes.3.js" in body
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"etag"] == b'"x"'
    for other in (b"x" * len(PAGE), b"short"):
        headers, body = asked(folder, "/layers", body=other)
        assert body == other
        assert {name.lower(): value for name, value in headers.items()}[b"content-length"] == str(len(other)).encode()


def test_a_script_is_kept_for_a_year_and_compressed_for_other_machines(folder: Path) -> None:
    stored = (folder / "static" / "js" / "axes.3.js").read_bytes()
    headers, body = asked(folder, "/static/js/axes.3.js")
    assert body == stored
    assert b"immutable" in headers[b"cache-control"]
    assert b"content-encoding" not in headers
    headers, body = asked(folder, "/static/js/axes.3.js", client="192.0.2.7")
    assert headers[b"content-encoding"] == b"gzip"
    assert gzip.decompress(body) == stored
    for path in ("/static/js/../../index.html", "/static/js/none.js", "/static/js/"):
        assert b"<html>" in asked(folder, path)[1]  # left to the app behind


def test_what_a_server_accepts_does_not_wait_to_send() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        disable_send_delay()
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
