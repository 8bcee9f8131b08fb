"""The dashboard as a server, with its security headers; ``vmoer serve`` or ``streamlit run app/server.py``."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

APP = Path(__file__).resolve().parent
# Streamlit puts app/ first on the path; the packages (app, store, vmoer, pipelines) lie one folder up.
if str(APP.parent) not in sys.path:
    sys.path.insert(0, str(APP.parent))

from app.serving.security_headers import SecurityHeaders, streamlit_files, streamlit_page  # noqa: E402
from app.serving.static_files import StaticFiles, disable_send_delay  # noqa: E402
from pipelines.settings import LOOPBACK, load_settings  # noqa: E402


@asynccontextmanager
async def started(_: st.App) -> AsyncIterator[None]:
    """Set up the listening sockets once the server has started."""
    disable_send_delay()
    yield


app = st.App(
    APP / "main.py",
    lifespan=started,
    middleware=[
        Middleware(SecurityHeaders, hosts=[*LOOPBACK, *load_settings().allowed_hosts], page=streamlit_page()),
        Middleware(StaticFiles, folder=streamlit_files()),
    ],
)
