"""The form of the Inspect page: prompts typed, pasted or uploaded, and how to route them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.pages import path_of
from app.shared.link import go
from app.shared.text import plain, prose, sentence
from app.worker_requests.layer_input import layers_of
from pipelines.data.files import SUFFIXES
from pipelines.data.prompt_files import Prompt, prompts_of, read_upload
from pipelines.data.reading import Item, Reading
from pipelines.data.shown import first_rows, refused_rows, row_lines, what_it_is
from pipelines.errors import PipelineError, SpecError
from pipelines.jobs import allowed as web
from pipelines.jobs import inspections as live
from pipelines.settings import Settings
from pipelines.spec.model import Spec, parse_spec
from pipelines.spec.shipped import shipped_methods

_EXAMPLES = "Question: What is the capital of France?\nAnswer:"
_REFUSALS_SHOWN = 50
_NO_LAYERS = "the routers' own, else all"


@dataclass(frozen=True)
class Start:
    """What the form holds when it is opened; ``note`` says where that comes from.

    A ``model`` that is not offered, and ``methods`` of None, leave the form's own choice.
    """

    text: str = _EXAMPLES
    model: str = ""
    methods: list[str] | None = None
    layers: str = ""
    note: str = ""


OWN = Start()


@dataclass(frozen=True)
class Asked:
    """What the form says: the prompts, and the values of a request without them."""

    prompts: list[Prompt]
    values: dict[str, Any]


def draw_form(limits: Settings, start: Start = OWN) -> None:
    """Draw the form; when it is sent, the inspection or job is queued and its link opened."""
    models = web.allowed_models(limits)
    methods = list(live.known_methods(limits))
    if start.note:
        st.caption(start.note)
    upload = st.file_uploader(
        "A file of prompts or questions",
        type=list(SUFFIXES),
        max_upload_size=max(1, limits.max_upload_bytes // 1_000_000),
        key="ask.file",
        help="Text with a prompt a line; CSV, JSON, JSON lines or Parquet with a column prompt, question or text, or "
        "questions with options and answers. The content decides, not the name. A file takes the place of the prompt.",
    )
    reading = recognised(upload, limits)
    with st.form("ask", border=True):
        text = st.text_area(
            "Prompt",
            value=start.text,
            max_chars=limits.live_chars,
            height=110,
            help="One prompt, given to the model as it is. Ctrl+Enter sends the form.",
            key="ask.text",
        )
        with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
            with st.container(width=230):
                at = models.index(start.model) if start.model in models else 0
                model = st.selectbox("Model", models, at, key="ask.model")
            with st.container(width=330):
                chosen = st.multiselect(
                    "Methods beside deterministic",
                    methods,
                    default=[name for name in start.methods or ("fcvr",) if name in methods],
                    max_selections=4,
                    key="ask.methods",
                )
            with st.container(width=200):
                layers = st.text_input(
                    "Layers", start.layers, placeholder=_NO_LAYERS, key="ask.layers", help="all, last:4 or 3, 4"
                )
            with st.container(width=130):
                samples = st.number_input("Samples", 1, limits.live_samples, min(20, limits.live_samples), key="ask.n")
            with st.container(width=130):
                new = st.number_input(
                    "New tokens", 0, limits.live_new_tokens, min(8, limits.live_new_tokens), key="ask.new"
                )
            with st.container(width=110):
                seed = st.number_input("Seed", 0, 2**31, 0, key="ask.seed")
            untrained = st.checkbox("Untrained heads", key="ask.untrained", help="also where trained ones are shipped")
        unusable = upload is not None and reading is None
        sent = st.form_submit_button("Inspect", type="primary", disabled=unusable)
    st.caption(limits_text(limits))
    if sent:
        values = {
            "model": model,
            "methods": chosen,
            "layers": layers_of(layers),
            "samples": int(samples),
            "new_tokens": int(new),
            "seed": int(seed),
            "routers": "untrained" if untrained else "shipped",
        }
        _send(values, text, reading, limits)


def limits_text(limits: Settings) -> str:
    """The limits of the form, in words."""
    return plain(
        f"Live: up to {limits.live_prompts} prompts of {limits.live_tokens} tokens, {limits.live_samples} samples, "
        f"{limits.live_new_tokens} new tokens, {limits.live_seconds:g} s. Files: up to "
        f"{limits.max_upload_bytes / 1e6:g} MB and {limits.max_upload_prompts:,} prompts; a file with more than "
        f"{limits.live_prompts} prompts becomes a job. Prompts stay in the data folder, for {limits.live_keep_days:g} "
        "days unless kept."
    )


def recognised(upload: Any, limits: Settings) -> Reading | None:
    """Say what an uploaded file was recognised as, how its first rows read, and which rows cannot be used.

    Returns what it holds; None without a file or when it cannot be used.
    """
    if upload is None:
        return None
    try:
        reading = read_upload(upload.getvalue(), limits, "the file", upload.name)
    except PipelineError as error:
        st.error(prose(sentence(str(error))), title="This file cannot be used")
        return None
    st.caption(plain(sentence(what_it_is(reading))))
    with st.expander("The first rows as the model reads them"):
        for row in first_rows(reading.items):
            st.code("\n".join(row_lines(row)), language=None)
    if reading.refused:
        st.error("These rows cannot be used; mend or remove them.", title=f"Rows refused: {len(reading.refused):,}")
        st.dataframe(refused_rows([reading])[:_REFUSALS_SHOWN], hide_index=True)
        return None
    return reading


def _send(values: dict[str, Any], text: str, reading: Reading | None, limits: Settings) -> None:
    try:
        items = reading.accepted() if reading is not None else [Item("the prompt", "p00001", text, (), -1)]
        prompts = prompts_of(items)
        if len(prompts) > limits.live_prompts:
            job_id = web.submit(kept_spec(items, values, limits), limits)
            st.success(
                f"{len(prompts):,} prompts are more than the {limits.live_prompts} that are inspected live, so they "
                "are traced as a job; its runs appear on the other pages.",
                title="Queued as a job",
            )
            st.page_link(path_of("jobs"), label="Watch it on the Jobs page →", query_params={"job": job_id})
            return
        request = live.parse_request({**values, "prompts": [prompt.text for prompt in prompts]}, limits)
        inspection_id = live.submit(request, limits)
    except PipelineError as error:
        st.error(prose(sentence(str(error))), title="This cannot be inspected")
        return
    for name in ("prompt", "token", "layer", "why"):
        if name in st.query_params:
            del st.query_params[name]
    go("inspection", inspection_id)
    st.rerun()


def kept_spec(items: Sequence[Item | Prompt], values: dict[str, Any], limits: Settings) -> Spec:
    """The experiment that traces these prompts as the form would inspect them, prompts and tokens stored.

    Questions with answers are evaluated too.
    """
    source = web.keep_prompts(items, limits)
    answered = any(isinstance(item, Item) and item.choices for item in items)
    trainable = [name for name in values["methods"] if live.known_methods(limits).get(name, True)]
    shipped = [name for name in trainable if name in shipped_methods(values["model"])]
    if values["routers"] == "untrained":
        shipped = []
    if shipped and shipped != trainable:
        missing = next(name for name in trainable if name not in shipped)
        raise SpecError(
            f"trained routers are shipped for {shipped[0]} and not for {missing}, and a run has either; "
            "choose one of them, or untrained heads for both"
        )
    return parse_spec(
        {
            "name": "inspected",
            "model": values["model"],
            "methods": values["methods"] or ["deterministic"],
            "layers": values["layers"],
            "samples": values["samples"],
            "routers": "shipped" if shipped else "untrained",
            "controls": [],
            "stages": ["trace", "evaluate"] if answered else ["trace"],
            "store_text": True,
            "seed": values["seed"],
            "data": {"id": source.model_dump(exclude_none=True, by_alias=True)},
        }
    )
