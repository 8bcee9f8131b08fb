"""The dashboard's navigation behind its login, and nothing else; :mod:`app.server` runs it."""

import sys
from pathlib import Path

import streamlit as st

APP = Path(__file__).resolve().parent
# Streamlit puts app/ first on the path; the packages (app, store, vmoer, pipelines) lie one folder up.
if str(APP.parent) not in sys.path:
    sys.path.insert(0, str(APP.parent))

from app.components.pagefile import offer  # noqa: E402
from app.components.states import broken  # noqa: E402
from app.gate import require_login  # noqa: E402
from pipelines.settings import load_settings  # noqa: E402
from store.errors import StoreError  # noqa: E402

# A local picture: Streamlit would fetch an icon of another kind from a font host.
st.set_page_config(page_title="VMoER", page_icon=str(APP / "static" / "favicon.png"), layout="wide")
require_login(load_settings())

PAGES = [
    st.Page("views/overview.py", title="Overview", default=True),
    st.Page("views/layers.py", title="Layer susceptibility", url_path="layers"),
    st.Page("views/experts.py", title="Experts", url_path="experts"),
    st.Page("views/calibration.py", title="Calibration", url_path="calibration"),
    st.Page("views/ood.py", title="OoD detection", url_path="ood"),
    st.Page("views/compare.py", title="Compare", url_path="compare"),
    st.Page("views/training.py", title="Training", url_path="training"),
    st.Page("views/inspect.py", title="Inspect", url_path="inspect"),
    st.Page("views/jobs.py", title="Jobs", url_path="jobs"),
    st.Page("views/export.py", title="Export", url_path="export"),
]

page = st.navigation(PAGES, position="top")
try:
    page.run()
    offer(page.url_path or "overview")
except StoreError as error:
    broken(str(error))
