"""The dashboard's server: who may reach it, what every answer carries, and what it says when asked for nonsense."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.login import admitted
from app.serving.security_headers import ANY_ADDRESS, SecurityHeaders, host_of, refusal, streamlit_page
from pipelines.cli.app import run
from pipelines.errors import JobError, ServeError
from pipelines.serve import dashboard, login
from pipelines.serve.dashboard import check_address, reachable_as, streamlit_command
from pipelines.settings import LOOPBACK, Settings, load_settings

SECRET = "planted-cookie-secret-0123456789abcdef"  # noqa: S105
AUTH = {
    "redirect_uri": "https://lab.example.org/oauth2callback",
    "cookie_secret": SECRET,
    "client_id": "vmoer",
    "client_secret": "planted-client-secret",
    "server_metadata_url": "https://provider.example.org/.well-known/openid-configuration",
}


def headers(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8501", "localhost:8501", "LOCALHOST", "localhost.", "[::1]:8501"]
)
def test_the_names_of_this_machine_are_let_in(host: str) -> None:
    assert refusal(headers(("host", host)), LOOPBACK) is None
    assert refusal(headers(("host", host), ("origin", f"http://{host}")), LOOPBACK) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil.example:8501", "localhost@evil.example", "127.0.0.1/x", "", "a b",
     "127.0.0.1:notaport", "xlocalhost", "2130706433", "[::1", "localhost#"],
)  # fmt: skip
def test_foreign_and_malformed_hosts_are_refused(host: str) -> None:
    assert refusal(headers(("host", host)), LOOPBACK)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "file://", "http://localhost", "http://127.0.0.1:8502", "127.0.0.1:8501",
     "http://127.0.0.1:8501.evil.example", "http://127.0.0.1:8501@evil.example", "https://[", "javascript:alert(1)"],
)  # fmt: skip
def test_foreign_origins_are_refused(origin: str) -> None:
    assert refusal(headers(("host", "127.0.0.1:8501"), ("origin", origin)), LOOPBACK)


def test_duplicate_and_missing_hosts_and_a_second_foreign_origin_are_refused() -> None:
    good = ("host", "127.0.0.1:8501")
    assert refusal(headers(), LOOPBACK)
    assert refusal(headers(good, ("host", "evil.example")), LOOPBACK)
    assert refusal(headers(good, good), LOOPBACK)
    assert refusal(headers(good, ("origin", "http://127.0.0.1:8501"), ("origin", "http://evil.example")), LOOPBACK)


def test_a_bind_to_all_addresses_answers_to_numbers_but_not_to_foreign_names() -> None:
    hosts = reachable_as("0.0.0.0", Settings())  # noqa: S104
    assert refusal(headers(("host", "192.168.1.7:8501")), hosts) is None
    assert refusal(headers(("host", "[fe80::1]:8501")), hosts) is None
    assert refusal(headers(("host", "evil.example:8501")), hosts)
    assert refusal(headers(("host", "192.168.1.7:8501")), reachable_as("127.0.0.1", Settings()))
    named = reachable_as("0.0.0.0", Settings(hosts="lab.example.org, other"))  # noqa: S104
    assert refusal(headers(("host", "lab.example.org")), named) is None
    assert ANY_ADDRESS == dashboard.ANY_ADDRESS


@given(st.lists(st.tuples(st.sampled_from([b"host", b"origin", b"x"]), st.binary(max_size=60)), max_size=4))
def test_any_headers_are_let_in_or_refused_in_a_sentence(pairs: list[tuple[bytes, bytes]]) -> None:
    reason = refusal(pairs, LOOPBACK)
    if reason is None:
        (host,) = [host_of(value.decode("latin-1")) for name, value in pairs if name == b"host"]
        assert host in LOOPBACK


def answer(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """What a guard sends for a request to an application that would say yes."""
    sent: list[dict[str, Any]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Frame-Options", b"ALLOWALL")]})
        await send({"type": "http.response.body", "body": b"secret"})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(SecurityHeaders(inner, LOOPBACK, streamlit_page())(scope, receive, send))
    return sent


def test_a_refused_request_never_reaches_the_application() -> None:
    foreign = headers(("host", "evil.example"))
    start, body = answer({"type": "http", "headers": foreign})
    assert start["status"] == 403
    assert b"secret" not in body["body"]
    assert [m["type"] for m in answer({"type": "websocket", "headers": foreign})] == ["websocket.close"]
    start, body = answer({"type": "http", "headers": headers(("host", "localhost"))})
    assert body["body"] == b"secret"
    assert [value for name, value in start["headers"] if name.lower() == b"x-frame-options"] == [b"DENY"]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Iterator[int]:
    """The port of a running dashboard whose user has hostile Streamlit settings."""
    folder = tmp_path_factory.mktemp("server")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text(
        '[client]\nshowErrorDetails = "full"\n[server]\nenableAgentApi = true\nenableXsrfProtection = false\n'
        'enableStaticServing = true\nmaxUploadSize = 500\naddress = "0.0.0.0"\n'
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    environment = {**os.environ, "VMOER_HOME": str(built), "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            streamlit_command(number), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 120
        while not listening(number) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        assert process.poll() is None, (folder / "log").read_text()
        yield number
        process.terminate()
        process.wait(timeout=20)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, path: str, *more: str, method: str = "GET", host: str | None = None, body: bytes = b"") -> str:
    """The whole raw answer to a request, undecoded paths and all."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", *more, "Connection: close"]
    if "Upgrade: websocket" in more:
        lines.pop()
    request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            if b"101 Switching" in received:
                break
    return received.decode("latin-1")


def upgrade(origin: str | None) -> tuple[str, ...]:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    wanted = ("Upgrade: websocket", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13")
    return wanted if origin is None else (*wanted, f"Origin: {origin}")


def test_http_and_websocket_refuse_foreign_names_and_origins(port: int) -> None:
    assert ask(port, "/").startswith("HTTP/1.1 200")
    assert ask(port, "/", host="evil.example").startswith("HTTP/1.1 403")
    assert ask(port, "/", "Origin: http://evil.example").startswith("HTTP/1.1 403")
    assert ask(port, "/", "Host: evil.example").startswith(("HTTP/1.1 403", "HTTP/1.1 400"))
    stream = "/_stcore/stream"
    assert ask(port, stream, *upgrade(f"http://127.0.0.1:{port}")).startswith("HTTP/1.1 101")
    assert ask(port, stream, *upgrade("http://evil.example")).startswith("HTTP/1.1 403")
    assert ask(port, stream, *upgrade("null")).startswith("HTTP/1.1 403")
    assert ask(port, stream, *upgrade(None), host=f"evil.example:{port}").startswith("HTTP/1.1 403")


@pytest.mark.parametrize(
    "path", ["/", "/layers", "/_stcore/health", "/nothing/here", "/static/nothing.js", "/favicon.png"]
)
def test_every_answer_carries_the_headers(port: int, path: str) -> None:
    head = ask(port, path).partition("\r\n\r\n")[0].lower()
    for needed in (
        "content-security-policy: default-src 'self';",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "referrer-policy: no-referrer",
    ):
        assert head.count(needed) == 1, needed
    assert "unsafe-inline" not in re.findall(r"script-src [^;]*", head)[0]
    assert "http:" not in head.partition("content-security-policy")[2].partition("\r\n")[0]


TRAVERSALS = [
    "/../../../../etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/%252e%252e%252fetc/passwd",
    "//etc/passwd", "/static/../../../etc/passwd", "/static/..%5c..%5cetc%5cpasswd", "/%5c%5cserver%5cshare", "/%00",
    "/app/static/../../store/schema.py", "/app/static/..%2f..%2fpyproject.toml", "/media/../../etc/passwd",
    "/component/x/../../../etc/passwd", "/_stcore/../../etc/passwd", "/~root", "/.streamlit/secrets.toml",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_url_path_leads_to_a_file(port: int, path: str) -> None:
    shown = ask(port, path)
    assert "root:" not in shown
    assert "[project]" not in shown
    assert "SCHEMA_VERSION" not in shown
    assert str(dashboard.MAIN.parent.parent) not in shown


def test_uploads_need_a_session_and_the_agent_interface_is_off(port: int) -> None:
    for method in ("PUT", "POST", "DELETE"):
        shown = ask(port, "/_stcore/upload_file/x/y", "Content-Length: 3", method=method, body=b"abc")
        assert re.match(r"HTTP/1.1 (400|403|404|405)", shown), shown[:60]
    shown = ask(port, "/_stcore/agent/interact", "Content-Length: 2", method="POST", body=b"{}")
    assert not shown.startswith("HTTP/1.1 2")
    assert "Traceback" not in shown


def test_what_must_hold_is_in_the_command_and_wins_over_a_users_settings(port: int) -> None:
    command = streamlit_command(8501)
    for flag in ("--client.showErrorDetails=none", "--client.showErrorLinks=false", "--server.maxUploadSize=5",
                 "--server.enableXsrfProtection=true", "--server.address=127.0.0.1",
                 "--server.enableAgentApi=false"):  # fmt: skip
        assert flag in command
    with socket.socket() as probe:
        others = socket.gethostbyname(socket.gethostname())
        if not others.startswith("127."):
            assert probe.connect_ex((others, port)) != 0, "it listens on an address that other machines reach"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.0.2.1", "example.org"])  # noqa: S104
def test_a_public_bind_needs_a_login_or_the_word_insecure(address: str) -> None:
    with pytest.raises(ServeError, match="can be reached from other machines and no login is set up"):
        check_address(address, 8501, insecure=False, settings=Settings())
    assert run(["demo", "--address", address or "::"]) == 2


def auth_file(folder: Path, **changes: str | None) -> Settings:
    rows = [f'{key} = "{value}"' for key, value in {**AUTH, **changes}.items() if value is not None]
    path = folder / "auth.toml"
    path.write_text("\n".join(["[auth]", *rows]))
    return Settings(auth_file=str(path), users="ann@example.org")


def test_a_complete_login_lets_a_public_bind_through_under_its_own_name(tmp_path: Path) -> None:
    settings = auth_file(tmp_path)
    assert login.check_login(settings) == "lab.example.org"
    hosts = reachable_as("0.0.0.0", settings)  # noqa: S104
    assert refusal(headers(("host", "lab.example.org")), hosts) is None
    assert refusal(headers(("host", "192.168.1.7:8501")), hosts)
    assert f"--secrets.files={settings.auth_file}" in streamlit_command(8501, "0.0.0.0", settings.auth_file)  # noqa: S104


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"client_id": None}, r"\[auth\] in auth.toml has no client_id"),
        ({"client_secret": ""}, "has no client_secret"),
        ({"cookie_secret": "short"}, "cookie_secret is shorter than 32 characters"),
        ({"redirect_uri": "http://lab.example.org/oauth2callback"}, "redirect_uri must begin with https://"),
        ({"redirect_uri": "https://lab.example.org/"}, "must end with /oauth2callback"),
        ({"server_metadata_url": "http://provider.example.org"}, "server_metadata_url must begin with https://"),
    ],
)
def test_an_incomplete_login_is_refused_by_key_without_its_secrets(
    tmp_path: Path, changes: dict[str, str | None], says: str
) -> None:
    with pytest.raises(ServeError, match=says) as caught:
        check_address("0.0.0.0", 8501, insecure=False, settings=auth_file(tmp_path, **changes))  # noqa: S104
    assert "planted" not in str(caught.value)


def test_a_login_without_a_file_a_section_people_or_its_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServeError, match=r"cannot read nowhere.toml: No such file"):
        login.check_login(Settings(auth_file=str(tmp_path / "nowhere.toml"), users="*"))
    (tmp_path / "bad.toml").write_text(f"[auth\nx = '{SECRET}'")
    with pytest.raises(ServeError, match=r"bad.toml is not valid TOML") as caught:
        login.check_login(Settings(auth_file=str(tmp_path / "bad.toml"), users="*"))
    assert SECRET not in str(caught.value)
    (tmp_path / "bad.toml").write_text("[other]\n")
    with pytest.raises(ServeError, match=r"has no section \[auth\]"):
        login.check_login(Settings(auth_file=str(tmp_path / "bad.toml"), users="*"))
    with pytest.raises(ServeError, match="VMOER_ALLOWED_USERS"):
        login.check_login(Settings(auth_file=auth_file(tmp_path).auth_file))
    monkeypatch.setattr(login.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ServeError, match="extra `auth`"):
        login.check_login(auth_file(tmp_path))


@pytest.mark.parametrize(
    ("user", "allowed", "enters"),
    [
        ({"email": "ann@example.org"}, ["ann@example.org"], True),
        ({"email": "Ann@Example.org", "email_verified": True}, ["ann@example.org"], True),
        ({"email": "bob@example.org"}, ["*@example.org"], True),
        ({"email": "bob@evil.example"}, ["*@example.org"], False),
        ({"email": "bob@sub.example.org"}, ["*@example.org"], False),
        ({"email": "ann@example.org@evil.example"}, ["*@example.org", "*@evil.example"], False),
        ({"email": "ann@example.org", "email_verified": False}, ["ann@example.org"], False),
        ({"email": ["ann@example.org"]}, ["ann@example.org"], False),
        ({"name": "ann@example.org"}, ["ann@example.org"], False),
        ({}, ["ann@example.org", ""], False),
        ({}, ["*"], True),
        ({"email": "ann@example.org"}, [], False),
    ],
)
def test_only_listed_people_with_a_verified_address_enter(
    user: dict[str, Any], allowed: list[str], enters: bool
) -> None:
    assert admitted(user, allowed) is enters


def test_a_full_queue_is_refused(tmp_path: Path) -> None:
    from pipelines.jobs import client as jobs
    from pipelines.spec.model import parse_spec

    settings = Settings(home=tmp_path, max_queued=2)

    def submit(seed: int) -> str:
        data = {"id": {"name": "worldfacts", "split": "test"}}
        return jobs.submit(parse_spec({"model": "worldfacts-moe", "data": data, "seed": seed}), settings=settings)

    first = submit(0)
    submit(1)
    assert submit(0) == first
    with pytest.raises(JobError, match="VMOER_MAX_QUEUED"):
        submit(2)
    jobs.cancel(first, settings)
    submit(2)


@pytest.mark.parametrize("name", ["VMOER_MAX_QUEUED", "VMOER_MAX_JOB_HOURS", "VMOER_MAX_PROMPT_CHARS"])
def test_limits_are_settings_that_are_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.errors import PipelineError

    for bad in ("0", "-1", "nan", "inf", "many"):
        monkeypatch.setenv(name, bad)
        with pytest.raises(PipelineError, match=name):
            load_settings()
