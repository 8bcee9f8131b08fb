"""The link from a stored question to its live inspection."""

from __future__ import annotations

import streamlit as st

from app.pages import path_of
from app.shared.data import Data
from app.shared.format import missing
from app.shared.page import Page

QUESTION_KEYS = ("run", "dataset", "example")


def stored_prompt(data: Data, run_id: str, dataset: str, example: str) -> str | None:
    """What the model was given for a question; None where its text was not stored."""
    rows = data("examples", run_id, dataset)
    found = rows.loc[rows["example_id"] == example, "prompt"]
    return None if found.empty or missing(found.iloc[0]) else str(found.iloc[0])


def inspect_link(page: Page, run_id: str, dataset: str, example: str) -> None:
    """The link to Inspect with the prompt of a question, or why there is none."""
    if stored_prompt(page.data, run_id, dataset, example) is None:
        st.caption(
            "The text of this question is not stored, so it cannot be inspected from here; `store_text: true` in the "
            "spec keeps it."
        )
        return
    query = dict(zip(QUESTION_KEYS, (run_id, dataset, example), strict=True))
    st.page_link(path_of("inspect"), label="Inspect this prompt →", query_params=query)
