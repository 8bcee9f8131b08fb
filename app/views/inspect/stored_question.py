"""A stored question on its way to live inspection: the link that names it, and what the form of Inspect starts with.

The link names run, data set and question and never holds the text: it stays short, and no text of a question gets into
histories and logs.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.shared import runs as run_names
from app.shared.data import open_data
from app.shared.inspect_link import QUESTION_KEYS, stored_prompt
from app.shared.link import Link
from app.shared.text import plain
from app.views.inspect.form import OWN, Start
from pipelines.jobs import allowed as web
from pipelines.jobs import inspections as live
from pipelines.settings import Settings


def start_of(link: Link, home: Path, limits: Settings) -> Start:
    """What the form starts with: the stored question that the address names, else its own example.

    What a reader chose on the page before counts only where the address says so. An unknown name ends the page.
    """
    if not all(name in st.query_params for name in QUESTION_KEYS):
        return OWN
    data = open_data(home)
    runs = [] if data is None else run_names.records(data("runs"))
    run_id = link.pick("run", [str(row["run_id"]) for row in runs], None)
    assert data is not None  # the page has ended without
    run = next(row for row in runs if row["run_id"] == run_id)
    dataset = link.pick("dataset", [str(one) for one in run_names.as_list(run["datasets"])], None)
    assert dataset is not None
    questions = data("examples", run_id, dataset)["example_id"].tolist()
    example = link.pick("example", questions, None)
    assert example is not None
    text = stored_prompt(data, str(run_id), dataset, example)
    name = plain(f"{example} of {dataset}")
    if text is None:
        st.info(f"The text of question {name} is not stored; type or paste it to inspect it.")
        return OWN
    if len(text) > limits.live_chars:
        st.info(f"Question {name} has {len(text):,} characters; at most {limits.live_chars:,} are inspected live.")
        return OWN
    model = str(run["model"])
    note = f"Question {name}, as it was given to {plain(model)}."
    if model not in web.allowed_models(limits):
        note += " That model is not among those offered here: choose another, or have it added to `VMOER_MODELS`."
    methods = [str(run["method"])] if run["method"] in live.known_methods(limits) else None
    return Start(text, model, methods, ", ".join(str(one) for one in run_names.as_list(run["layers"])), note)
