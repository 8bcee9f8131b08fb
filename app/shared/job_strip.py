"""The strip of background jobs: stage, progress, rate and time left, read anew every few seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from app.pages import path_of
from app.shared.text import plain, prose
from pipelines.jobs.client import list_jobs

_ACTIVE = ("queued", "running")
_SHOWN = 4
_COLOURS = {"running": "blue", "finished": "green", "failed": "red", "lost": "red", "cancelled": "orange"}


def duration(seconds: float) -> str:
    """``seconds`` in the two largest units, e.g. ``3 min 20 s``."""
    whole = max(0, round(seconds))
    for size, large, small, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {large} {rest} {name}" if rest else f"{whole // size} {large}"
    return f"{whole} s"


def status_badge(job: Any) -> None:
    """The state of a job in its colour."""
    said = "lost: its worker has stopped" if job.lost else job.status
    st.badge(said, color=_COLOURS.get(job.status, "gray"))  # type: ignore[arg-type]  # a literal there


def progress_text(job: Any) -> str:
    """Stage, done of total, rate and time left of a job, as far as they are known."""
    parts = [str(job.stage)] if job.stage else []
    if job.total:
        parts.append(f"{job.done:,} of {job.total:,}")
    if job.rate:
        parts.append(f"{job.rate:,.0f}/s" if job.rate >= 100 else f"{job.rate:.3g}/s")
    if job.eta_seconds is not None:
        parts.append(f"{duration(job.eta_seconds)} left")
    if job.message:
        parts.append(str(job.message))
    return " · ".join(parts)


# Every open page polls; one look at the job database serves them all.
@st.cache_data(ttl=1.0, max_entries=1, show_spinner=False)
def _jobs() -> list[Any]:
    return list_jobs()


def jobs_strip(poll_seconds: float) -> None:
    """Draw the strip; it refreshes itself without rerunning the page."""

    @st.fragment(run_every=poll_seconds, key="jobs")
    def strip() -> None:
        jobs = _jobs()
        shown = [job for job in jobs if job.status in _ACTIVE][:_SHOWN] or jobs[:1]
        if not shown:
            st.caption("No background jobs. The form of the Jobs page starts one; its progress appears here.")
        for job in shown:
            _job(job)

    strip()


def _job(job: Any) -> None:
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"**{plain(job.name)}**", width="content")
            status_badge(job)
            st.page_link(path_of("jobs"), label="Details →", query_params={"job": job.job_id})
        # what is said of a lost job stands below
        text = prose(progress_text(replace(job, message="") if job.lost else job))
        if job.status == "running" and job.total:
            st.progress(min(1.0, job.done / job.total), text=text)
        elif text:
            st.caption(text)
        if job.lost:
            st.caption("`vmoer worker` takes it up again from its last finished step.")
