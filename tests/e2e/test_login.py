"""The login in a real browser, against an OpenID provider on this machine: listed people enter, nobody else does."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from pipelines.serve.dashboard import streamlit_command
from tests.e2e.conftest import wait

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LISTED, STRANGER = "ann@example.org", "mallory@example.org"
CLIENT, CLIENT_SECRET = "vmoer", "a-secret-of-the-client"


@dataclass
class Provider:
    """An OpenID provider for one person at a time, who needs no password; tokens are signed with RS256."""

    person: str = LISTED
    key: Any = None
    nonces: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    url: str = ""

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def authorize(self, query: dict[str, list[str]]) -> str:
        """Where the browser goes next: back, with a code."""
        assert query["response_type"] == ["code"]
        assert query["code_challenge_method"] == ["S256"]
        code = f"code-{len(self.nonces)}"
        self.nonces[code] = query["nonce"][0]
        return query["redirect_uri"][0] + "?" + urlencode({"code": code, "state": query["state"][0]})

    def token(self, form: dict[str, list[str]], authorization: str) -> dict[str, Any] | None:
        """Tokens for a code, once, for the client that knows its secret."""
        from joserfc import jwt

        expected = "Basic " + base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        nonce = self.nonces.pop(form.get("code", [""])[0], None)
        if authorization != expected or nonce is None or "code_verifier" not in form:
            self.refused.append(str(form))
            return None
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": self.person, "email": self.person, "email_verified": True,
            "nonce": nonce, "iat": now, "exp": now + 300,
        }  # fmt: skip
        signed = jwt.encode({"alg": "RS256", "kid": "k"}, claims, self.key)
        return {"access_token": "x", "token_type": "Bearer", "expires_in": 300, "id_token": signed}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    from joserfc.jwk import RSAKey

    state = Provider(key=RSAKey.generate_key(2048, {"kid": "k"}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", state.authorize(parse_qs(parts.query)))
                self.end_headers()
            else:
                public = {"keys": [state.key.as_dict(private=False)]}
                self._json(public if parts.path == "/jwks" else state.configuration())

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            tokens = state.token(form, self.headers.get("Authorization", ""))
            self._json(tokens or {"error": "invalid_grant"}, 200 if tokens else 400)

        def _json(self, content: Any, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def guarded(provider: Provider, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard that only ``LISTED`` may see."""
    folder = tmp_path_factory.mktemp("guarded")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    auth = folder / "auth.toml"
    auth.write_text(
        f'[auth]\nredirect_uri = "{address}/oauth2callback"\ncookie_secret = "{"0123456789abcdef" * 3}"\n'
        f'client_id = "{CLIENT}"\nclient_secret = "{CLIENT_SECRET}"\n'
        f'server_metadata_url = "{provider.url}/.well-known/openid-configuration"\n'
    )
    environment = {
        **os.environ,
        "VMOER_HOME": str(home),
        "VMOER_AUTH_FILE": str(auth),
        "VMOER_ALLOWED_USERS": LISTED,
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            streamlit_command(port, auth_file=str(auth)), cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            wait(f"{address}/_stcore/health", process, folder / "log")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)
    assert CLIENT_SECRET not in (folder / "log").read_text()


def log_out(page: Page) -> None:
    """Press *Log out* once, on a page that stands still and is connected: the browser drops what is pressed before."""
    from playwright.sync_api import TimeoutError as NothingHappened

    page.locator('[data-test-script-state="notRunning"][data-test-connection-state="CONNECTED"]').wait_for(
        state="attached"
    )
    page.get_by_role("button", name="Log out").click()
    try:
        page.get_by_role("button", name="Log in").wait_for()
    except NothingHappened:
        pytest.fail(f"'Log out' did not lead to the way in; {page.url} shows:\n{page.locator('body').inner_text()}")


@pytest.mark.parametrize("path", ["", "layers", "compare"])
def test_without_a_login_no_page_shows_anything(path: str, guarded: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{guarded}/{path}")
    page.get_by_role("button", name="Log in").wait_for(timeout=90_000)
    assert page.get_by_text("fcvr").count() == 0
    assert page.get_by_text("synthetic").count() == 0
    page.close()


def test_a_listed_person_enters_and_leaves(provider: Provider, guarded: str, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(90_000)
    provider.person = LISTED
    page.goto(guarded)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    assert page.get_by_text(LISTED).count() == 1
    cookies = {cookie["name"]: cookie for cookie in context.cookies()}
    assert cookies["_streamlit_user"]["httpOnly"]
    log_out(page)
    deadline = time.monotonic() + 30  # the way in is shown before the browser has been sent to drop its cookie
    while "_streamlit_user" in {cookie["name"] for cookie in context.cookies()}:
        assert time.monotonic() < deadline, "the cookie outlived the logout"
        page.wait_for_timeout(100)
    assert not provider.refused
    context.close()


def test_a_person_who_is_not_listed_is_told_so_and_sees_nothing(
    provider: Provider, guarded: str, browser: Browser
) -> None:
    page = browser.new_page()
    page.set_default_timeout(90_000)
    provider.person = STRANGER
    page.goto(guarded)
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("may not see this dashboard").wait_for()
    assert page.get_by_role("heading", name="Overview").count() == 0
    assert page.get_by_text("fcvr").count() == 0
    page.close()


def test_a_forged_cookie_opens_nothing(guarded: str, browser: Browser) -> None:
    context = browser.new_context()
    forged = json.dumps({"email": LISTED, "is_logged_in": True, "origin": guarded})
    context.add_cookies(
        [{"name": "_streamlit_user", "value": base64.b64encode(forged.encode()).decode(), "url": guarded}]
    )
    page = context.new_page()
    page.goto(guarded)
    page.get_by_role("button", name="Log in").wait_for(timeout=90_000)
    assert page.get_by_role("heading", name="Overview").count() == 0
    context.close()
