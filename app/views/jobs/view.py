"""Jobs: what is computed in the background, how far it is, and a form that starts more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import streamlit as st

from app.pages import path_of
from app.shared import states
from app.shared.data import open_data
from app.shared.job_strip import duration, progress_text, status_badge
from app.shared.link import Link, go
from app.shared.page import head
from app.shared.text import counted, plain, prose, sentence
from app.views.jobs.form import as_yaml, start
from app.worker_requests.progress import worker_line
from pipelines.errors import PipelineError
from pipelines.jobs import client as jobs
from pipelines.settings import Settings, load_settings
from pipelines.spec.model import parse_spec

PATH = path_of("jobs")
SHOWN = 50
LOG_LINES = 30
FEW_LINES = 4
HALTED = ("failed", "lost", "cancelled")


def label(job: jobs.Job) -> str:
    """What the list of choices calls a job; without its status, since an entry keeps the name it was drawn with."""
    return f"{job.name} · {job.job_id}"


def share(job: jobs.Job) -> float:
    """How much of a job is done, from 0 to 1."""
    return min(1.0, job.done / job.total) if job.total else float(job.status == "finished")


def listing(found: list[jobs.Job]) -> pd.DataFrame:
    """The jobs as a table, newest first."""
    return pd.DataFrame(
        [
            {
                "name": job.name,
                "status": job.status,
                "stage": job.stage,
                "done": round(share(job), 2),
                "left": "" if job.eta_seconds is None or job.status != "running" else duration(job.eta_seconds),
                "submitted": job.submitted_at,
                "runs": len(job.run_ids),
                "message": job.message.replace("`", ""),
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
                # wide enough for whatever comes next: a column keeps the width of what was drawn first
                "status": st.column_config.TextColumn(width=86),
                "stage": st.column_config.TextColumn(width=108),
                "left": st.column_config.TextColumn(width=92),
                "message": st.column_config.TextColumn(width=300),
            },
        )

    table()


def draw_job(job_id: str, limits: Settings, poll_seconds: float) -> None:
    """One job: progress, log, what can be done with it, its runs and its spec."""

    @st.fragment(run_every=poll_seconds, key="jobs.one")
    def live_part() -> None:
        job = jobs.get_job(job_id, limits)
        if job.status != shown:  # the list of jobs and the runs below say it too
            st.rerun(scope="app")
        _progress(job)
        _actions(job, limits)
        _log(job, limits)

    job = jobs.get_job(job_id, limits)
    shown = job.status
    live_part()
    _runs(job)
    with st.expander("Spec of this job"):
        try:
            st.code(as_yaml(parse_spec(jobs.job_spec(job_id, limits))), language="yaml", wrap_lines=True)
        except PipelineError as error:
            st.error(prose(sentence(str(error))))


def _progress(job: jobs.Job) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"#### {plain(job.name)}", anchors=False, width="content")
        status_badge(job)
    if job.status == "running" and job.total and job.stage_total:
        st.progress(share(job), text=plain(f"All stages: {progress_text(replace(job, stage='', message=''))}"))
        stage = f"{job.stage[:1].upper()}{job.stage[1:]}{f' of {job.message}' if job.message else ''}"
        done = min(1.0, job.stage_done / job.stage_total)
        st.progress(done, text=prose(f"{stage}: {job.stage_done:,} of {job.stage_total:,}"))
    elif job.status == "running" and job.total:
        st.progress(share(job), text=prose(progress_text(job)))
    elif job.status == "failed":
        st.error(prose(sentence(job.message)), title="This job failed")
    elif job.lost:
        why = "A new worker takes it up behind its last finished step; *Resume* queues it anew, with what is finished."
        states.empty("Its worker has stopped", "vmoer worker", why=why)
    elif job.message:
        st.caption(prose(sentence(job.message)))
    times = [f"submitted {job.submitted_at:%Y-%m-%d %H:%M} UTC"]
    if job.started_at is not None and job.ended_at is not None:
        times.append(f"took {duration((job.ended_at - job.started_at).total_seconds())}")
    if job.status in HALTED and job.stage:
        times.append(f"stopped in {job.stage} with {share(job):.0%} done")
    st.caption(plain(" · ".join([job.job_id, *times])))


def _actions(job: jobs.Job, limits: Settings) -> None:
    with st.container(horizontal=True, gap="small"):
        stop = job.status in ("queued", "running") and st.button("Cancel", key="jobs.cancel")
        again = job.status in HALTED and st.button("Resume", key="jobs.resume")
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
    height: int | Literal["content"] = "content" if len(lines) <= FEW_LINES else 220
    st.code("\n".join(lines), language=None, height=height, wrap_lines=True)


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
    with st.container(gap=None):
        for run_id in job.run_ids:
            if run_id in known:
                st.page_link(path_of("overview"), label=run_id, query_params={"run": run_id})
    absent = [run_id for run_id in job.run_ids if run_id not in known]
    if absent:
        when = "Nothing was published of" if job.ended else "Not published yet"
        st.caption(plain(f"{when}: {', '.join(absent)}"))


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
