"""Who may see the dashboard: everyone who reaches it, or, where a login is set up, the people it lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.shared.text import plain
from pipelines.settings import Settings


def admitted(user: Mapping[str, Any], allowed: Sequence[str]) -> bool:
    """Whether a logged-in person is listed: by address, by ``*@domain``, or ``*`` for all the provider lets in.

    An address that the provider says it has not verified counts for nothing.
    """
    if "*" in allowed:
        return True
    email = user.get("email")
    if not isinstance(email, str) or email.count("@") != 1 or user.get("email_verified") in (False, "false"):
        return False
    domain = email.lower().partition("@")[2]
    return any(entry.lower() in (email.lower(), f"*@{domain}") for entry in allowed)


def require_login(settings: Settings) -> None:
    """Nothing for those who may enter; anyone else sees the way in, and the script run ends."""
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
