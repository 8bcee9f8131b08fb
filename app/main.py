"""The dashboard's navigation behind its login, and nothing else; :mod:`app.server` runs it."""

import sys
from pathlib import Path

import streamlit as st

APP = Path(__file__).resolve().parent
# Streamlit puts app/ first on the path; the packages (app, store, vmoer, pipelines) lie one folder up.
if str(APP.parent) not in sys.path:
    sys.path.insert(0, str(APP.parent))

from app.pages import PAGES  # noqa: E402
from app.serving.login import require_login  # noqa: E402
from app.shared.page_file import draw_download  # noqa: E402
from app.shared.states import broken  # noqa: E402
from pipelines.settings import load_settings  # noqa: E402
from store.errors import StoreError  # noqa: E402

# A local picture: Streamlit would fetch an icon of another kind from a font host.
st.set_page_config(page_title="VMoER", page_icon=str(APP / "static" / "favicon.png"), layout="wide")
require_login(load_settings())

page = st.navigation(
    [st.Page(one.path, title=one.title, url_path=one.name, default=not one.address) for one in PAGES],
    position="top",
)
try:
    page.run()
    draw_download(page.url_path or "overview")
except StoreError as error:
    broken(str(error))
