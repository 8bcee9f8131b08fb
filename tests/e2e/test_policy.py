"""The security headers in a real browser: what they forbid does not work (that all pages do: test_dashboard)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_a_script_or_a_picture_from_elsewhere_is_not_loaded(browser: Browser, address: str) -> None:
    """What a page might be tricked into holding: it asks for nothing and runs nothing."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("h1", timeout=90_000)
    page.evaluate("""() => {
        const picture = document.createElement('img');
        picture.src = 'http://evil.example/x.png';
        const script = document.createElement('script');
        script.textContent = 'window.owned = true';
        document.body.append(picture, script);
        return fetch('http://evil.example/y').catch(() => null);
    }""")
    page.wait_for_timeout(300)
    assert page.evaluate("window.owned") is None
    for directive in ("img-src", "script-src", "connect-src"):
        assert any("Content Security Policy" in text and directive in text for text in said), (directive, said)
    page.close()
