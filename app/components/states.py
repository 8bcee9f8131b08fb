"""What a page says when there is nothing (yet) to show: which thing is missing and the command that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import streamlit as st

from app.components.text import plain, prose, sentence
from store.redact import redact


def empty(what: str, command: str | None = None, *, why: str = "") -> None:
    """Say that ``what`` is missing, and which command makes it."""
    with st.container(border=True):
        st.markdown(f"**{what}**" + (f"  \n{why}" if why else ""))
        if command:
            st.markdown("The command for it:")
            st.code(command, language="bash", wrap_lines=True)
            if command.startswith("vmoer run") and "--background" not in command:  # the Jobs page itself says that
                st.page_link("views/jobs.py", label="or start it with the form of the Jobs page →", query_params={})


def no_data(home: str) -> NoReturn:
    """The page of a data folder without results; ends the script run."""
    empty(
        "No results yet",
        "vmoer demo",
        why=f"The data folder {plain(redact(home))} holds no published results. The demo computes some in a few "
        "minutes; `vmoer run SPEC.yaml` evaluates a model of your own. This page shows them once they are published.",
    )
    st.stop()


def wrong_link(message: str, *, page: str) -> NoReturn:
    """Say what the link asked for and did not get, offer the page without it; ends the script run."""
    text = message[0].upper() + message[1:]
    st.error(f"{plain(text)} Nothing else is shown in its place.", title="This link does not fit the results here")
    st.page_link(page, label="Open this page without the link's choices", query_params={})
    st.page_link("views/overview.py", label="All runs", query_params={})
    st.stop()


def broken(message: str) -> NoReturn:
    """Say that the store cannot be read, and what to run; ends the script run."""
    st.error(f"The results cannot be read: {prose(redact(message))}", title="The data folder has a problem")
    st.markdown("This says which file is at fault:")
    st.code("vmoer verify", language="bash")
    st.stop()


def run_state(run: Mapping[str, Any]) -> None:
    """A line above the page where the run is not finished: what it shows is then partial."""
    status = run["status"]
    if status == "failed":
        reason = run.get("error") or "no reason was recorded"
        st.error(
            f"This run failed. {prose(sentence(str(reason)))} What it had written before is shown.", title="Failed run"
        )
    elif status in ("queued", "running"):
        st.info("This run is not finished; what it has published so far is shown.", title=f"Run is {status}")
    elif status == "cancelled":
        st.warning("This run was cancelled; what it had written before is shown.", title="Cancelled run")


def synthetic_banner(names: list[str]) -> None:
    """Say which of the models shown are synthetic, so that nobody quotes their numbers."""
    if names:
        listed = ", ".join(plain(name) for name in names)
        st.warning(
            f"{listed}: random weights or a toy model trained by this project. It shows how things work; "
            "its numbers say nothing about models people use.",
            title="Synthetic model",
        )
