"""“Why is this token uncertain?”: asks the worker for attributions of one routing decision and draws the answer."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.shared.figure import figure
from app.shared.link import go
from app.shared.text import plain, prose, sentence
from app.views.inspect import frames as inspected
from app.views.inspect.charts import attribution
from app.views.inspect.result import NATIVE, Inspected
from app.worker_requests.progress import draw_progress
from pipelines.errors import PipelineError
from pipelines.jobs import inspections as live
from pipelines.settings import Settings

_QUANTITIES = {
    "logit_variance": "logit variance",
    "routing_entropy": "routing entropy",
    "expert_logit": "logit of the first expert",
}
_UNITS = {"logit_variance": "logits²", "routing_entropy": "nats", "expert_logit": "logits"}
_ALGORITHMS = {"ablation": "ablation (fast)", "shapley": "Shapley values (adds up)"}


def draw_attribution(shown: Inspected, asked: live.Request, limits: Settings, seconds: float) -> None:
    """Draw the question for the chosen token and layer, and the answer the link names."""
    st.markdown("#### Why is this token uncertain?", anchors=False)
    token = str(shown.tokens.loc[shown.tokens["position"] == shown.position, "token"].iloc[0]).strip()
    inside = shown.position < int(shown.summary["prompts"][shown.prompt]["n_tokens"])
    st.caption(
        plain(
            f"Which tokens make a routing decision what it is: the token at position {shown.position}, “{token}”, at "
            f"layer {shown.layer} under {shown.method}. Tokens are replaced and the router is asked again."
        )
    )
    if not inside:
        st.info("This token was generated; choose one of the prompt, or inspect the longer text as a prompt.")
    _question(shown, asked, limits, inside)
    why_id = shown.link.values.get("why")
    if why_id is not None:
        _answer(str(why_id), limits, seconds)


def _question(shown: Inspected, asked: live.Request, limits: Settings, inside: bool) -> None:
    carried = shown.layer in shown.summary["methods"][shown.method]["layers"]
    analytic = carried and shown.rows.loc[shown.rows["layer"] == shown.layer, "logit_variance"].notna().any()
    names = [name for name in _QUANTITIES if name != "logit_variance" or (analytic and shown.method != NATIVE)]
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        with st.container(width=230):
            quantity = st.selectbox("Explain", names, format_func=_QUANTITIES.__getitem__, key="why.quantity")
        with st.container(width=260):
            algorithm = st.selectbox("By", list(_ALGORITHMS), format_func=_ALGORITHMS.__getitem__, key="why.algorithm")
        if not st.button("Explain", key="why.ask", disabled=not inside, icon=None):
            return
    values: dict[str, Any] = {
        **asked.model_dump(exclude={"why"}),
        "prompts": [asked.prompts[shown.prompt]],
        "methods": [],
        "new_tokens": 0,
        "why": {
            "method": shown.method,
            "layer": shown.layer,
            "position": shown.position,
            "quantity": quantity,
            "algorithm": algorithm,
        },
    }
    try:
        go("why", live.submit(live.parse_request(values, limits), limits))
    except PipelineError as error:
        st.error(prose(sentence(str(error))), title="This cannot be explained")
        return
    st.rerun()


def _answer(why_id: str, limits: Settings, seconds: float) -> None:
    if not draw_progress(why_id, limits, seconds, key="why"):
        return
    try:
        summary, _ = live.read_result(why_id, limits)
    except PipelineError as error:
        st.error(prose(sentence(str(error))), title="The explanation cannot be shown")
        return
    why = summary["why"]
    if why is None:
        st.error("The link names an inspection that explains nothing.", title="This link does not fit")
        return
    frame = inspected.parts(why)
    name = _QUANTITIES[why["quantity"]]
    token = frame["token"].iloc[-1].strip()
    partial = "" if why["complete"] else " — not complete"
    orders = f", {why['permutations']} orders, lines are one standard error" if why["spread"] else ""
    run = {
        "run_id": why_id,
        "model": summary["model"],
        "method": why["method"],
        "layers": summary["methods"][why["method"]]["layers"],
        "samples": summary["samples"],
        "seed": summary["seed"],
        "dtype": summary["dtype"],
        "device": summary["device"],
        "routers": summary["methods"][why["method"]]["heads"],
    }
    figure(
        f"{name[:1].upper() + name[1:]} of “{token}” at layer {why['layer']}, by token{partial}",
        attribution(frame, unit=f"{name} ({_UNITS[why['quantity']]})", exact=bool(why["complete"])),
        frame.drop(columns="label"),
        key="why.figure",
        note=f"{why['algorithm'].capitalize()} under {why['method']}, {why['prompts_asked']:,} prompts asked{orders}. "
        f"{inspected.verdict(why)}",
        alt_text=f"What each token adds to the {name}",
        explains=("attribution",),
        card={"figure": "attribution", "query": "inspection", "generation": "live", "runs": [run]},
    )
