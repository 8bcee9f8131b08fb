"""What a page says when there is nothing (yet) to show: which thing is missing and the command that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import streamlit as st

from app.pages import path_of
from app.shared.data import generation_key
from app.shared.text import plain, prose, sentence
from store.redact import redact


def empty(what: str, command: str | None = None, *, why: str = "") -> None:
    """Say that ``what`` is missing, and which command makes it."""
    with st.container(border=True):
        st.markdown(f"**{what}**" + (f"  \n{why}" if why else ""))
        if command:
            st.markdown("The command for it:")
            st.code(command, language="bash", wrap_lines=True)
            if command.startswith("vmoer run") and "--background" not in command:  # the Jobs page itself says that
                st.page_link(path_of("jobs"), label="or start it with the form of the Jobs page →", query_params={})


def no_data(home: Path, poll_seconds: float) -> NoReturn:
    """The page of a data folder without results, which is drawn anew when there are some; ends the script run."""
    before = generation_key(home)
    empty(
        "No results yet",
        "vmoer demo",
        why=f"The data folder {plain(redact(str(home)))} holds no published results. The demo computes some in a few "
        "minutes; `vmoer run SPEC.yaml` evaluates a model of your own. Results appear here once they are published.",
    )

    @st.fragment(run_every=poll_seconds, key="no.data")
    def look() -> None:
        if generation_key(home) != before:
            st.rerun(scope="app")

    look()
    st.stop()


def wrong_link(message: str, *, page: str) -> NoReturn:
    """Say what the link asked for and did not get, offer the page without it; ends the script run."""
    text = message[0].upper() + message[1:]
    st.error(f"{plain(text)} Nothing else is shown in its place.", title="This link does not fit the results here")
    st.page_link(page, label="Open this page without the link's choices", query_params={})
    st.page_link(path_of("overview"), label="All runs", query_params={})
    st.stop()


def broken(message: str) -> NoReturn:
    """Say that the store cannot be read, and what to run; ends the script run."""
    st.error(f"The results cannot be read: {prose(redact(message))}", title="The data folder has a problem")
    st.markdown("This says which file is at fault:")
    st.code("vmoer verify", language="bash")
    st.stop()


def run_states(runs: Sequence[Mapping[str, Any]], label: Callable[[str], str]) -> None:
    """A line above the page for the runs shown that are not finished: what it shows of them is then partial.

    Runs in the same state share a line, which names them where the page shows several runs.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        alike.setdefault((str(run["status"]), str(run.get("error") or "")), []).append(label(str(run["run_id"])))
    for (status, error), names in alike.items():
        which = "This run" if len(runs) == 1 else plain("; ".join(names))
        several = len(names) > 1
        if status == "failed":
            reason = sentence(error) if error else "No reason was recorded."
            st.error(
                f"{which} failed. {prose(reason)} What had been written before is shown.",
                title="Failed runs" if several else "Failed run",
            )
        elif status in ("queued", "running"):
            st.info(
                f"{which} {'are' if several else 'is'} not finished; what has been published so far is shown.",
                title=f"Runs are {status}" if several else f"Run is {status}",
            )
        elif status == "cancelled":
            st.warning(
                f"{which} {'were' if several else 'was'} cancelled; what had been written before is shown.",
                title="Cancelled runs" if several else "Cancelled run",
            )


def synthetic_banner(names: list[str]) -> None:
    """Say which of the models shown are synthetic, so that nobody quotes their numbers."""
    if names:
        listed = ", ".join(plain(name) for name in names)
        st.warning(
            f"{listed}: random weights or a toy model trained by this project. It shows how things work; "
            "its numbers say nothing about models people use.",
            title="Synthetic model",
        )
