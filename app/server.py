"""The dashboard as a server, the pages behind their guard; ``vmoer serve`` or ``streamlit run app/server.py``."""

import sys
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

APP = Path(__file__).resolve().parent
# Streamlit puts app/ first on the path; the packages (app, store, vmoer, pipelines) lie one folder up.
if str(APP.parent) not in sys.path:
    sys.path.insert(0, str(APP.parent))

from app.guard import Guard, streamlit_page  # noqa: E402
from pipelines.settings import LOOPBACK, load_settings  # noqa: E402

app = st.App(
    APP / "main.py",
    middleware=[Middleware(Guard, hosts=[*LOOPBACK, *load_settings().allowed_hosts], page=streamlit_page())],
)
