"""The state of an inspection: place in the queue, progress, cancel, and what to do without a worker."""

from __future__ import annotations

import streamlit as st

from app.shared import states
from app.shared.text import plain, prose, sentence
from pipelines.errors import JobError, PipelineError
from pipelines.jobs import inspections as live
from pipelines.settings import Settings


def draw_progress(inspection_id: str, limits: Settings, seconds: float, *, key: str) -> bool:
    """Draw the state of an inspection until it ends; return whether it has finished."""
    try:
        found = live.get_inspection(inspection_id, limits)
    except JobError as error:
        st.error(prose(sentence(str(error))), title="Not found")
        return False
    if found.status == "finished":
        return True
    if found.ended:
        _ended(found)
        return False

    @st.fragment(run_every=seconds, key=f"{key}.watch")
    def progress() -> None:
        now = live.get_inspection(inspection_id, limits)
        if now.ended:
            st.rerun(scope="app")
        _under_way(now, limits)
        if st.button("Cancel", key=f"{key}.cancel"):
            live.cancel(inspection_id, limits)
            st.rerun(scope="app")

    progress()
    return False


def _ended(found: live.Inspection) -> None:
    if found.status == "cancelled":
        st.info("This inspection was cancelled; nothing of it was kept.", title="Cancelled")
    else:
        st.error(prose(sentence(found.message)), title="The inspection failed")


def _under_way(found: live.Inspection, limits: Settings) -> None:
    served = live.workers(limits)
    if found.status == "queued" and not served:
        states.empty(
            "Waiting for a worker",
            "vmoer worker",
            why="Prompts are inspected by a worker, never by this page, and none is running on this data folder. "
            "`vmoer serve` starts one with the dashboard.",
        )
        return
    if found.status == "lost":
        states.empty("The worker has stopped", "vmoer worker", why=prose(sentence(found.message)))
        return
    if found.status == "queued":
        before = "next" if not found.ahead else f"{found.ahead} before it"
        st.progress(0.0, text=f"Queued: {before}")
        return
    share = found.done / found.total if found.total else 0.0
    counted = f" · {found.done:,} of {found.total:,}" if found.total else ""
    st.progress(min(share, 1.0), text=plain(f"{found.message or 'starting'}{counted}"))


def worker_line(limits: Settings) -> None:
    """One line on who would compute an inspection now."""
    try:
        served = live.workers(limits)
    except PipelineError as error:
        st.error(prose(sentence(str(error))))
        return
    if served:
        st.caption(
            f":green-badge[worker ready] on {plain(', '.join(served))}; inspections come before the next step of jobs"
        )
    else:
        st.caption(":orange-badge[no worker] inspections and jobs wait until `vmoer worker` or `vmoer serve` runs")
