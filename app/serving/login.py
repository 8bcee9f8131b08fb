"""The login of the dashboard, where one is set up: only listed users see a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.shared.text import plain
from pipelines.settings import Settings


def admitted(user: Mapping[str, Any], allowed: Sequence[str]) -> bool:
    """Return whether a logged-in user is listed: by address, by ``*@domain``, or by ``*`` for everyone.

    An address that the provider has not verified is never listed.
    """
    if "*" in allowed:
        return True
    email = user.get("email")
    if not isinstance(email, str) or email.count("@") != 1 or user.get("email_verified") in (False, "false"):
        return False
    domain = email.lower().partition("@")[2]
    return any(entry.lower() in (email.lower(), f"*@{domain}") for entry in allowed)


def require_login(settings: Settings) -> None:
    """Stop the page with a login form unless the user is allowed."""
    if not settings.auth_file:
        return
    if not getattr(st.user, "is_logged_in", False):
        st.title("VMoER", anchor=False)
        st.markdown("This dashboard is for the people its owner lists.")
        st.button("Log in", type="primary", on_click=st.login)
        st.stop()
    user = st.user.to_dict()
    who = plain(user.get("email") or user.get("name") or "you")
    if not admitted(user, settings.allowed_users):
        st.error(f"{who} may not see this dashboard; ask its owner to be listed.", title="Not listed")
        st.button("Log out", on_click=st.logout)
        st.stop()
    with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", gap="small"):
        st.caption(who, width="content")
        st.button("Log out", type="tertiary", on_click=st.logout)
