"""Jobs: what is computed in the background, how far it is, and a form that starts more."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.components import states
from app.components.jobs import duration, progress_text
from app.components.link import Link, go
from app.components.page import head
from app.components.specform import as_yaml, start
from app.components.text import counted, plain, prose, sentence
from app.components.watching import worker_line
from app.data import open_data
from pipelines import jobs
from pipelines.errors import PipelineError
from pipelines.settings import Settings, load_settings
from pipelines.spec import parse_spec

PATH = "views/jobs.py"
COLOURS = {"running": "blue", "finished": "green", "failed": "red", "lost": "red", "cancelled": "orange"}
SHOWN = 50
LOG_LINES = 30


def label(job: jobs.Job) -> str:
    """What the list calls a job."""
    return f"{job.name} · {job.status} · {job.job_id}"


def listing(found: list[jobs.Job]) -> pd.DataFrame:
    """The jobs as a table, newest first."""
    return pd.DataFrame(
        [
            {
                "name": job.name,
                "status": job.status,
                "stage": job.stage,
                "done": job.done / job.total if job.total else (1.0 if job.status == "finished" else 0.0),
                "left": "" if job.eta_seconds is None or job.status != "running" else duration(job.eta_seconds),
                "submitted": job.submitted_at,
                "runs": len(job.run_ids),
                "message": job.message,
                "job": job.job_id,
            }
            for job in found
        ]
    )


def draw_list(found: list[jobs.Job], poll_seconds: float) -> None:
    """The table of jobs, read anew every few seconds."""

    @st.fragment(run_every=poll_seconds, key="jobs.list")
    def table() -> None:
        now = jobs.list_jobs(limit=SHOWN)
        if {job.job_id for job in now} != {job.job_id for job in found}:
            st.rerun(scope="app")
        st.dataframe(
            listing(now),
            hide_index=True,
            key="jobs.frame",
            height=min(38 + 35 * len(now), 300),
            alt="Background jobs with status and progress",
            column_config={
                "done": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
                "submitted": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC"),
            },
        )

    table()


def draw_job(job_id: str, limits: Settings, poll_seconds: float) -> None:
    """One job: progress, log, what can be done with it, its runs and its spec."""

    @st.fragment(run_every=poll_seconds, key="jobs.one")
    def live_part() -> None:
        job = jobs.get_job(job_id, limits)
        _progress(job)
        _actions(job, limits)
        _log(job, limits)

    live_part()
    job = jobs.get_job(job_id, limits)
    _runs(job)
    with st.expander("Spec of this job"):
        try:
            st.code(as_yaml(parse_spec(jobs.job_spec(job_id, limits))), language="yaml")
        except PipelineError as error:
            st.error(prose(sentence(str(error))))


def _progress(job: jobs.Job) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"#### {plain(job.name)}", anchors=False, width="content")
        st.badge(
            "lost: its worker has stopped" if job.lost else job.status,
            color=COLOURS.get(job.status, "gray"),  # type: ignore[arg-type]  # a literal there
        )
    if job.status == "running" and job.total:
        st.progress(min(1.0, job.done / job.total), text=prose(progress_text(job)))
        if job.stage_total:
            share = min(1.0, job.stage_done / job.stage_total)
            st.progress(share, text=plain(f"{job.stage}: {job.stage_done:,} of {job.stage_total:,}"))
    elif job.status == "failed":
        st.error(prose(sentence(job.message)), title="This job failed")
    elif job.message:
        st.caption(prose(sentence(job.message)))
    if job.lost:
        states.empty("Its worker has stopped", "vmoer worker", why="It goes on behind its last finished step.")
    times = [f"submitted {job.submitted_at:%Y-%m-%d %H:%M} UTC"]
    if job.started_at is not None and job.ended_at is not None:
        times.append(f"took {duration((job.ended_at - job.started_at).total_seconds())}")
    st.caption(plain(" · ".join([job.job_id, *times])))


def _actions(job: jobs.Job, limits: Settings) -> None:
    with st.container(horizontal=True, gap="small"):
        stop = job.status in ("queued", "running") and st.button("Cancel", key="jobs.cancel")
        again = job.status in ("cancelled", "lost", "failed") and st.button("Resume", key="jobs.resume")
    try:
        if stop:
            jobs.cancel(job.job_id, limits)
            st.rerun(scope="app")
        if again:
            new = jobs.resume(job.job_id, settings=limits)
            go("job", new)
            st.rerun(scope="app")
    except PipelineError as error:
        st.error(prose(sentence(str(error))))


def _log(job: jobs.Job, limits: Settings) -> None:
    entries = jobs.read_log(job.job_id, limits, last=LOG_LINES)
    if not entries:
        st.caption("No log yet: it begins when a worker takes the job.")
        return
    lines = [_line(entry) for entry in reversed(entries)]
    entries_shown = counted(len(lines), "entry", "entries")
    st.caption(f"The newest first (UTC), {entries_shown}; `vmoer jobs logs` shows all")
    st.code("\n".join(lines), language=None, height=220, wrap_lines=True)


def _line(entry: dict[str, Any]) -> str:
    rest = {
        key: value for key, value in entry.items() if key not in ("timestamp", "level", "event", "job_id", "traceback")
    }
    fields = " ".join(f"{key}={value}" for key, value in rest.items())
    level = "" if entry.get("level") == "info" else f"{str(entry.get('level')).upper()} "
    return f"{str(entry.get('timestamp'))[11:19]} {level}{entry.get('event')} {fields}".rstrip()


def _runs(job: jobs.Job) -> None:
    if not job.run_ids:
        return
    data = open_data(load_settings().home)
    known = set() if data is None else set(data("runs")["run_id"])
    st.markdown("**Its runs**")
    for run_id in job.run_ids:
        if run_id in known:
            st.page_link("views/overview.py", label=run_id, query_params={"run": run_id})
        else:
            st.caption(plain(f"{run_id}: not published yet"))


def render() -> None:
    """Draw the page."""
    settings = head("Jobs", "Experiments computed in the background: start, watch, cancel and resume them.")
    link = Link(PATH)
    try:
        limits = load_settings()
        found = jobs.list_jobs(limits, limit=SHOWN)
    except PipelineError as error:
        states.broken(str(error))
    worker_line(limits)
    ids = [job.job_id for job in found]
    by_id = {job.job_id: job for job in found}
    job_id = link.pick("job", ids, ids[0] if ids else None)
    link.commit()
    with st.expander("Start a job", expanded=not found):
        started = start(limits)
    if started is not None:
        go("job", started)
        st.rerun()
    if job_id is None:
        states.empty("No jobs yet", "vmoer run SPEC.yaml --background", why="The form above starts one as well.")
        return
    draw_list(found, settings.poll_seconds)
    with st.container(width=520):
        link.select("job", "Job", ids, show=lambda one: label(by_id[one]))
    draw_job(job_id, limits, settings.poll_seconds)


render()
