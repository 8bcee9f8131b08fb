"""A form for an experiment: its answers become the values of a spec, which the pipelines check, never this page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd
import streamlit as st
import yaml

from app.shared import runs as run_names
from app.shared.data import Data, open_data
from app.shared.format import missing
from app.shared.job_strip import duration
from app.shared.text import counted, plain, prose, sentence
from app.worker_requests.layer_input import layers_of
from pipelines.errors import PipelineError
from pipelines.jobs import allowed as web
from pipelines.jobs import client as jobs
from pipelines.jobs import inspections as live
from pipelines.settings import Settings
from pipelines.spec.model import CONTROLS, Estimator, Spec, parse_spec
from pipelines.spec.runs import expand
from pipelines.spec.sections import DataSource
from pipelines.spec.shipped import shipped_methods
from pipelines.spec.stage_table import BY_NAME, LISTED
from store import schema
from store.archive import SUFFIX

_SHIPPED, _UNTRAINED, _TRAIN = "shipped", "untrained heads", "train them first"


def spec_form(limits: Settings) -> dict[str, Any]:
    """Draw the form and return the values of the spec it describes."""
    sets = web.question_sets(limits)
    names = list(sets)
    values: dict[str, Any] = {}
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        with st.container(width=160):
            values["name"] = st.text_input("Name", "experiment", key="job.name")
        with st.container(width=190):
            values["model"] = st.selectbox("Model", web.allowed_models(limits), key="job.model")
        with st.container(width=300):
            known = live.known_methods(limits)
            values["methods"] = st.multiselect(
                "Methods", ["deterministic", *known], default=["deterministic"], key="job.methods"
            ) or ["deterministic"]
        with st.container(width=220):
            values["estimators"] = st.multiselect(
                "Estimators", list(get_args(Estimator)), default=["in-router"], key="job.estimators"
            )
        with st.container(width=180):
            layers = st.text_input("Layers", placeholder="the routers' own, else all", key="job.layers")
        with st.container(width=100):
            values["samples"] = int(st.number_input("Samples", 1, 1000, 35, key="job.samples"))
    values["layers"] = layers_of(layers)
    default = names.index("worldfacts · test") if "worldfacts · test" in names else 0
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        with st.container(width=240):
            inside = st.selectbox("In-distribution set", names, index=default, key="job.id")
        with st.container(width=240):
            near = st.multiselect("Near-OoD sets", names, key="job.near")
        with st.container(width=240):
            far = st.multiselect("Far-OoD sets", names, key="job.far")
        with st.container(width=230):
            validation = st.selectbox("Validation set", ["none", *names], key="job.validation")
        with st.container(width=150):
            limit = int(st.number_input("Questions of each", 1, limits.max_questions, 100, key="job.limit"))
    values["data"] = _data(sets, inside, near, far, validation, limit)
    values["stages"] = st.multiselect(
        "Stages",
        list(LISTED),
        default=["trace", "evaluate"],
        format_func=lambda name: BY_NAME[name].title,
        key="job.stages",
    )
    shipped = shipped_methods(values["model"])
    routers = st.segmented_control(
        "Routers", [_SHIPPED, _UNTRAINED, _TRAIN], default=_SHIPPED if shipped else _UNTRAINED, key="job.routers",
        help=f"Shipped for {values['model']}: {', '.join(shipped) or 'none'}.",
    )  # fmt: skip
    values["routers"] = {_SHIPPED: "shipped", _UNTRAINED: "untrained"}.get(str(routers), "shipped")
    if routers == _TRAIN:
        values["routers"] = _training(sets)
    with st.expander("More"), st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        with st.container(width=300):
            values["controls"] = st.multiselect(
                "Controls", list(CONTROLS), default=Spec.model_fields["controls"].default, key="job.controls"
            )
        with st.container(width=160):
            values["scoring"] = st.selectbox("Scoring", ["likelihood", "letter"], key="job.scoring")
        with st.container(width=160):
            values["batch_tokens"] = int(st.number_input("Batch, tokens", 64, 4_194_304, 2048, key="job.batch"))
        with st.container(width=120):
            values["seed"] = int(st.number_input("Seed", 0, 2**31, 0, key="job.seed"))
        values["store_text"] = st.checkbox("Store prompts and tokens", value=True, key="job.text")
    return values


def _source(source: DataSource, limit: int | None) -> dict[str, Any]:
    found = source.model_dump(exclude_none=True, by_alias=True)
    return found if limit is None else {**found, "limit": limit}


def _data(
    sets: Mapping[str, DataSource], inside: str, near: Sequence[str], far: Sequence[str], validation: str, limit: int
) -> dict[str, Any]:
    data: dict[str, Any] = {"id": _source(sets[inside], limit)}
    for role, chosen in (("near", near), ("far", far)):
        if chosen:
            data[role] = [_source(sets[name], limit) for name in chosen]
    if validation in sets:
        data["validation"] = _source(sets[validation], limit)
    return data


def _training(sets: Mapping[str, DataSource]) -> dict[str, Any]:
    names = list(sets)
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        with st.container(width=260):
            data = st.selectbox("Train on", names, index=_place(names, "train"), key="job.train")
        with st.container(width=260):
            steps = st.selectbox("Choose the best step on", names, index=_place(names, "validation"), key="job.best")
        with st.container(width=120):
            epochs = int(st.number_input("Epochs", 1, 1000, 3, key="job.epochs"))
    return {"train": {"data": _source(sets[data], None), "validation": _source(sets[steps], None), "epochs": epochs}}


def _place(names: Sequence[str], split: str) -> int:
    return next((place for place, name in enumerate(names) if name.endswith(f"· {split}")), 0)


def as_yaml(spec: Spec) -> str:
    """The spec as one would write it: everything that differs from the defaults."""
    values = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def as_command(text: str) -> str:
    """A shell command that runs a spec; the quoted here-document keeps every character of it as it is."""
    return f"cat > spec.yaml <<'VMOER_SPEC'\n{text}VMOER_SPEC\nvmoer run spec.yaml"


def scale_of(spec: Spec, data: Data | None) -> str:
    """How much a spec asks for, and what the newest finished run of its model took, in words."""
    limits = [source.limit for _, source in spec.data.by_role()]
    count = f"up to {sum(one for one in limits if one):,}" if all(limits) else "all"
    asked = f"Each run answers {count} questions"
    runs = pd.DataFrame() if data is None else data("runs")
    if data is None or runs.empty:
        return f"{asked}."
    done = runs[(runs["model"] == spec.model) & (runs["status"] == "finished")]
    done = done[~done["run_id"].str.endswith(SUFFIX) & done["ended_at"].notna()]
    if done.empty:
        return f"{asked}. Nothing is known yet of how long {spec.model} takes here."
    last = done.sort_values("ended_at").iloc[-1]
    stored = data.stored_bytes((str(last["run_id"]),), tuple(schema.TABLES))
    took = duration((last["ended_at"] - last["started_at"]).total_seconds())
    traced = "" if missing(last["n_tokens"]) else f" for {counted(int(last['n_tokens']), 'traced token')}"
    return (
        f"{asked}. For scale: the newest finished run of {spec.model} ({run_names.describe(last)}) took {took}{traced} "
        f"and {stored / 1e6:,.1f} MB."
    )


def start(limits: Settings) -> str | None:
    """The form with the spec it makes, as YAML and as a command; the id of the job once it was started."""
    values = spec_form(limits)
    try:
        spec = parse_spec(values)
        web.check(spec, limits)
    except PipelineError as error:
        st.error(prose(sentence(str(error))), title="Not a valid experiment yet")
        return None
    text = as_yaml(spec)
    runs = expand(spec)
    st.caption(plain(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {', '.join(run.run_id for run in runs)}"))
    st.caption(plain(scale_of(spec, open_data(limits.home))))
    same = jobs.unfinished(spec.experiment, limits)
    if same is not None:
        st.info("The same experiment is queued or running already; starting it again shows that job.")
    with st.container(horizontal=True, gap="small"):
        pressed = st.button("Start", type="primary", key="job.start")
        st.download_button("spec.yaml", text, file_name="spec.yaml", mime="application/yaml", on_click="ignore")
    yaml_tab, command_tab = st.tabs(["Spec (YAML)", "Copy as command"])
    with yaml_tab:
        st.code(text, language="yaml", wrap_lines=True)
    with command_tab:
        st.code(as_command(text), language="bash", wrap_lines=True)
    if not pressed:
        return None
    try:
        return web.submit(spec, limits)
    except PipelineError as error:
        st.error(prose(sentence(str(error))), title="The job could not be queued")
        return None
