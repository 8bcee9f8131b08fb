"""OoD detection: does a score notice questions from elsewhere? Distributions, ROC curves, AUROC; never flipped."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.figures.auroc import INVERTED, POSITIONS, auroc_forest, auroc_rows, by_role, score_label, score_name
from app.figures.palette import ROLE_LABELS
from app.pages import path_of
from app.shared import runs as run_names
from app.shared import states
from app.shared.after_first_chart import after_first_chart
from app.shared.choice_row import choice_row
from app.shared.figure import figure
from app.shared.page import Page, open_page
from app.views.ood import charts
from app.views.ood.length_control import MATCHED, SUFFIX, length_control, stored_control
from vmoer.metrics import DEFINITIONS

PATH = path_of("ood")
AGGREGATIONS = {"none": "none", "mean_layers": "mean over layers"}
CURVES = {"roc": "ROC", "pr": "precision–recall"}


def draw_score(page: Page, run_id: str, scores: pd.DataFrame, score: str, label: str) -> None:
    """Distribution and ROC of the chosen score."""
    card = page.card([run_id], label, "ood_scores")
    sets = scores[["dataset", "role"]].drop_duplicates().itertuples(index=False, name=None)
    said = ", ".join(
        f"{dataset} ({ROLE_LABELS[role]}): {int((scores['dataset'] == dataset).sum()):,}" for dataset, role in sets
    )
    explains = tuple(name for name in (score,) if name in DEFINITIONS)
    left, right = st.columns(2, gap="large")
    with left:
        bins = charts.histogram(scores)
        figure(
            f"Distribution of {label}",
            charts.distributions(bins),
            bins,
            key="distribution",
            note=f"Share of each set's questions per bin, same bins for all; declared beforehand: "
            f"higher = more OoD. The last bin also holds the values beyond it. {said}.",
            alt_text=f"Distribution of {label} per data set",
            card=card,
            explains=explains,
        )
    with right:
        draw_curve(page, scores, label, card)


def draw_curve(page: Page, scores: pd.DataFrame, label: str, card: dict[str, Any]) -> None:
    """The ROC or precision–recall curve of the chosen score."""
    curve = charts.roc_points(scores)
    if curve.empty:
        states.empty("No ROC curve", why="It needs an in-distribution set and at least one OoD set in the same run.")
        return
    inside = int((scores["role"] == "in-distribution").sum())
    if page.link.values["curve"] == "pr":
        curve = charts.pr_points(scores)
        figure(
            f"Precision over recall of {label}",
            charts.precision_recall(curve),
            curve,
            key="pr",
            note=f"OoD sets (the positives) against {inside:,} in-distribution questions; higher is better; dotted: "
            "what a score that knows nothing reaches, which depends on the sizes of the sets.",
            alt_text=f"Precision over recall of {label}",
            card=card,
            explains=("auprc",),
        )
        return
    figure(
        f"ROC of {label}",
        charts.roc(curve),
        curve,
        key="roc",
        note=f"OoD sets against {inside:,} in-distribution questions; above the diagonal = better than "
        "chance, below it the score is inverted.",
        alt_text=f"ROC curves of {label}",
        card=card,
        explains=("auroc", "fpr95"),
    )


@st.cache_data(max_entries=64, show_spinner="Matching prompt lengths")
def control(key: tuple[Any, ...], _scores: pd.DataFrame, n_resamples: int) -> pd.DataFrame:
    """The length-matched control; ``key`` names generation, run and score for the cache."""
    del key
    return length_control(_scores, n_resamples)


def draw_control(page: Page, run_id: str, auroc: pd.DataFrame, scores: pd.DataFrame, label: str) -> None:
    """Whether the score notices more than prompt length: as the run stored it, else computed here."""
    values = page.link.values
    rows = stored_control(auroc, str(values["score"]), str(values["position"]), str(values["aggregation"]))
    origin = "stored with the run"
    lengths = traced_lengths(page, run_id)
    joined = scores.merge(lengths, on=["dataset", "example_id"])
    if rows.empty and not joined.empty:
        rows = control((page.data.key, run_id, label, len(joined)), joined, page.settings.bootstrap)
        origin = f"{page.settings.bootstrap:,} resamples computed here"
    if rows.empty:
        st.caption("Prompt lengths come from the trace; without one the length-matched control cannot be drawn.")
        return
    means = joined.groupby("dataset", sort=False)["n_tokens"].mean()
    said = (
        f"Mean prompt tokens: {', '.join(f'{name} {one:.1f}' for name, one in means.items())}. " if len(means) else ""
    )
    kept = rows.loc[rows["what"] == MATCHED, "n"]
    counts = " or ".join(f"{count:,}" for count in sorted(set(kept.astype(int)))) or "no"
    figure(
        f"Length-matched control of {label}",
        charts.matched_dots(rows),
        rows,
        key="control",
        note=f"{said}Matched: equally many questions of both sets in each class of length, {counts} questions. "
        f"Where the matched AUROC falls to 0.5, the score only noticed length. Lines: 95 % intervals, {origin}.",
        alt_text=f"AUROC of {label} on all questions, on length-matched ones, and of prompt length itself",
        card=page.card([run_id], f"Length-matched control of {label}", "metrics, ood_scores, example_lengths"),
        explains=("auroc",),
    )


def traced_lengths(page: Page, run_id: str) -> pd.DataFrame:
    """Prompt lengths of the run's questions, from its own trace or that of a run on the same questions."""
    lengths = page.data("example_lengths", run_id)
    for candidate in run_names.siblings(page.runs, run_id)["run_id"]:
        if not lengths.empty:
            break
        lengths = page.data("example_lengths", candidate)
    return lengths


def draw_matrix(page: Page, run_id: str, rows: pd.DataFrame) -> None:
    """AUROC of every score on every OoD set: forest plot, and the table with badges."""
    order = rows.groupby("label", sort=False)["value"].mean().sort_values(ascending=False).index.tolist()
    card = page.card([run_id], "AUROC of all scores", "metrics")
    inverted = sorted({row["label"] for row in run_names.records(rows) if row["value"] < 0.5})
    smallest, largest = int(rows["n"].min()), int(rows["n"].max())
    sizes = f"n = {smallest:,}" if smallest == largest else f"n = {smallest:,} to {largest:,}"
    said = f"Below 0.5, never flipped: {', '.join(inverted)}." if inverted else "No score is below 0.5."
    figure(
        "AUROC of every score",
        auroc_forest(rows, order=order),
        rows,
        key="auroc",
        note=f"Per OoD set against the in-distribution set; {sizes} questions; "
        f"lines are 95 % intervals; higher = better. {said}",
        alt_text=f"AUROC with interval per score and OoD set. {said}",
        card=card,
        explains=("auroc", "auprc", "fpr95"),
    )
    figure(
        "AUROC, score × OoD set",
        charts.auroc_matrix(rows, order=order),
        page.data("metrics", run_ids=(run_id,), names=("auroc", "auprc", "fpr95")),
        key="matrix",
        note=f"▼ {INVERTED} marks values below 0.5: the score calls familiar questions foreign. Nothing is flipped; a "
        "score that is right only after flipping was not declared that way. The table also holds AUPRC and FPR@95TPR.",
        alt_text=f"Matrix of AUROC per score and OoD set. {said}",
        width=280 + 210 * rows["dataset"].nunique(),
        card=card,
        explains=("auroc", "auprc", "fpr95"),
    )


def draw_more(page: Page, run_id: str, auroc: pd.DataFrame, scores: pd.DataFrame, label: str) -> None:
    """What lies below the chosen score's distribution and curve: its control, and all scores beside it."""
    draw_control(page, run_id, auroc, scores, label)
    # The matched values have their own figure.
    rows = auroc[~auroc["score"].str.endswith(SUFFIX)].reset_index(drop=True)
    if rows.empty:
        states.empty("No AUROC is stored for this run", why="It needs an in-distribution and an OoD data set.")
        return
    draw_matrix(page, run_id, rows)


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "OoD detection",
        "Can a score tell questions from elsewhere from familiar ones, before one knows whether the answer is right?",
    )
    link = page.link
    run_ids = page.runs["run_id"].tolist()
    scored = run_names.default_run(page.with_rows("ood_scores"))
    run_id = link.pick("run", run_ids, scored or run_names.default_run(page.runs))
    assert run_id is not None
    names = page.data("ood_score_names", run_id)
    scores = list(dict.fromkeys(names["score"]))
    preferred = next((name for name in ("logit_variance", "answer_entropy") if name in scores), None)
    score = link.pick("score", scores, preferred or (scores[0] if scores else None))
    of_score = names[names["score"] == score]
    positions = list(dict.fromkeys(of_score["position_rule"]))
    position = link.pick("position", positions, positions[0] if positions else None)
    at_position = of_score[of_score["position_rule"] == position]
    aggregations = list(dict.fromkeys(at_position["aggregation"]))
    aggregation = link.pick("aggregation", aggregations, aggregations[0] if aggregations else None)
    link.pick("curve", list(CURVES), "roc")
    link.commit()
    with choice_row():
        with st.container(width=440):
            link.select("run", "Run", run_ids, show=page.option)
        if scores:
            with st.container(width=220):
                link.select("score", "Score", scores, show=score_name)
            with st.container(width=220):
                link.select("position", "Read at", positions, show=lambda name: POSITIONS.get(name, name))
            with st.container(width=180):
                link.select("aggregation", "Over layers", aggregations, show=lambda name: AGGREGATIONS.get(name, name))
    page.banners([run_id])
    if score is None or position is None or aggregation is None:
        page.absent(
            run_id,
            "No OoD scores for this run",
            "vmoer run SPEC.yaml   # with `ood` among its stages and near or far data sets",
            why="Its spec asked for no OoD scores.",
            archived="This archived run came without OoD scores.",
        )
        page.offer(PATH, scored, "them")
        return
    values = page.data("ood_scores", run_id, score, position, aggregation)
    values = values[values["role"] != "validation"]
    values = values.sort_values(["role", "dataset"], key=by_role, kind="stable").reset_index(drop=True)
    link.select("curve", "Curve", list(CURVES), show=lambda name: CURVES[name], kind="buttons")
    draw_score(page, run_id, values, score, score_label(score, position, aggregation))
    roles = page.data("datasets", experiment=page.run(run_id)["experiment"]).set_index("dataset")["role"]
    rows = auroc_rows(page.data("metrics", run_ids=(run_id,), names=("auroc",)), roles)
    after_first_chart(PATH, partial(draw_more, page, run_id, rows, values, score_label(score, position, aggregation)))


render()
