"""Inspect (live): a prompt of one's own, routed token by token in the worker while one waits."""

from __future__ import annotations

import streamlit as st

from app.pages import path_of
from app.shared import states
from app.shared.link import Link
from app.shared.page import head
from app.shared.text import plain, sentence
from app.views.inspect.attribution import draw_attribution
from app.views.inspect.form import draw_form, kept_spec
from app.views.inspect.result import Inspected, draw
from app.views.inspect.stored_question import start_of
from app.worker_requests.progress import draw_progress, worker_line
from pipelines.data.prompt_files import Prompt
from pipelines.errors import PipelineError
from pipelines.jobs import allowed as web
from pipelines.jobs import inspections as live
from pipelines.settings import Settings, load_settings

PATH = path_of("inspect")


def keep(asked: live.Request, limits: Settings) -> None:
    """The button that turns the inspected prompts into runs that the other pages show."""
    if not st.button(
        "Keep as a run", key="keep", help="Trace these prompts as a job; every other page shows its runs."
    ):
        return
    prompts = [Prompt(f"p{number:05d}", text) for number, text in enumerate(asked.prompts, 1)]
    try:
        job_id = web.submit(kept_spec(prompts, asked.model_dump(), limits), limits)
    except PipelineError as error:
        st.error(plain(sentence(str(error))), title="This cannot be kept as a run")
        return
    st.success("Queued: its runs appear on the other pages when it has finished.", title="Kept")
    st.page_link(path_of("jobs"), label="Watch it on the Jobs page →", query_params={"job": job_id})


def results(inspection_id: str, link: Link, limits: Settings, seconds: float) -> None:
    """What the link's inspection found, or how it stands."""
    link.pick("inspection", [inspection_id], inspection_id)
    why = link.given("why")
    link.pick("why", [] if why is None else [str(why)], None)
    if not draw_progress(inspection_id, limits, seconds, key="inspection"):
        link.commit()
        return
    try:
        asked = live.read_request(inspection_id, limits)
        summary, table = live.read_result(inspection_id, limits)
    except PipelineError as error:
        st.error(plain(sentence(str(error))), title="The result cannot be shown")
        return
    if not summary["methods"] or table.num_rows == 0:
        st.error("The link names an explanation; open the inspection it belongs to.", title="This link does not fit")
        return
    shown = Inspected(inspection_id, summary, table.to_pandas(), link)
    link.commit()
    draw(shown)
    draw_attribution(shown, asked, limits, seconds)
    st.divider()
    keep(asked, limits)


def render() -> None:
    """Draw the page."""
    settings = head(
        "Inspect",
        "Type, paste or upload prompts and see how each token is routed, how sure the router is, and why.",
    )
    try:
        limits = load_settings()
    except PipelineError as error:
        states.broken(str(error))
    link = Link(PATH)
    worker_line(limits)
    inspection_id = link.given("inspection")
    if inspection_id is None:
        draw_form(limits, start_of(link, settings.home, limits))
        return
    with st.expander("Inspect other prompts", expanded=False):
        draw_form(limits)
    results(str(inspection_id), link, limits, settings.live_seconds)


render()
