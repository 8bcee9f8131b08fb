"""A page of the dashboard under Streamlit's test harness."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from app import pages
from pipelines.serve.dashboard import MAIN


def app_at(page: str, seconds: float = 60) -> AppTest:
    """Return the app on the page called ``page``, not yet run."""
    app = AppTest.from_file(str(MAIN), default_timeout=seconds)
    assert page in {one.name for one in pages.PAGES}
    return turned_to(app, page)


def turned_to(app: AppTest, page: str) -> AppTest:
    """Return ``app`` on another page, as after a click in the menu."""
    # switch_page looks for a page by its file's name before the first run; here that is view.py for every page
    app._page_hash = calc_hash(page)
    return app
