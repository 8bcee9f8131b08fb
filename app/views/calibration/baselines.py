"""Is a run better than what it has to beat: its stored paired differences from every baseline and control.

In words above the page's first chart, for its first data set; as a table below it, for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.comparison import paired_answers as pairs
from app.figures.verdict import BETTER, SIGNS, UNCLEAR, WORSE
from app.shared import runs as run_names
from app.shared.figure import heading
from app.shared.format import interval, is_percent
from app.shared.page import Page
from app.shared.text import plain

TITLES = {"ece": "ECE", "nll": "NLL, nats", "ece_ts": "ECE, both scaled", "nll_ts": "NLL, both scaled"}
#: how many of the chosen runs are spoken of in words; the table has them all
IN_WORDS = 2
#: how many baselines without a clear difference are named; more are counted
NAMED = 3


def differences(page: Page, run_ids: Sequence[str], datasets: Sequence[str]) -> pd.DataFrame:
    """Rows of ``comparisons`` of these runs with their siblings, with ``against``, ``verdict`` and ``text`` of each."""
    parts = []
    for run_id in run_ids:
        family = run_names.records(run_names.siblings(page.runs, run_id))
        names = dict(zip([str(row["run_id"]) for row in family], run_names.baseline_names(family), strict=True))
        rows = page.data("comparisons", run_id, names=tuple(TITLES))
        rows = rows[rows["baseline_run_id"].isin(names)]
        order = {run_id: place for place, run_id in enumerate(names)}
        rows = rows.assign(against=rows["baseline_run_id"].map(names), order=rows["baseline_run_id"].map(order))
        parts.append(rows.sort_values("order", kind="stable").drop(columns="order"))
    rows = pairs.with_verdicts(pd.concat(parts, ignore_index=True), datasets)
    texts = [
        interval(row["difference"], row["ci_low"], row["ci_high"], percent=is_percent(row["metric"]), signed=True)
        for row in run_names.records(rows)
    ]
    return rows.assign(text=texts)


def in_words(rows: pd.DataFrame) -> str:
    """One line per metric: what the run is better and worse than, with intervals, and what it hardly differs from."""
    lines = []
    for metric, title in TITLES.items():
        here = rows[rows["metric"] == metric]
        said = []
        for word, verdict in (("better", BETTER), ("worse", WORSE)):
            found = run_names.records(here[here["verdict"] == verdict])
            if found:
                names = ", ".join(f"{plain(row['against'])} ({row['text']})" for row in found)
                said.append(f"{SIGNS[verdict]} {word} than {names}")
        unclear = [plain(name) for name in here.loc[here["verdict"] == UNCLEAR, "against"]]
        if unclear:
            many = f"the other {len(unclear)}" if said else f"any of the {len(unclear)}"
            names = ", ".join(unclear) if len(unclear) <= NAMED else many
            said.append(f"{SIGNS[UNCLEAR]} no clear difference from {names}")
        if said:
            lines.append(f"- **{title}** {'; '.join(said)}.")
    return "\n".join(lines)


def answer(page: Page, run_ids: Sequence[str], dataset: str) -> None:
    """Say what the intervals settle on the first data set; nothing where no difference is stored."""
    rows = differences(page, run_ids, [dataset])
    compared = [run_id for run_id in run_ids if (rows["run_id"] == run_id).any()]
    for run_id in compared[:IN_WORDS]:
        here = rows[rows["run_id"] == run_id]
        counts = sorted({f"{int(n):,}" for n in here["n"]})
        st.markdown(
            f"**{plain(run_names.describe(page.run(run_id)))} − baseline** on {plain(dataset)}, lower is better; "
            f"paired on n = {' and '.join(counts)} questions, 95 % intervals, "
            f"stored with the run:\n\n{in_words(here)}"
        )
    if len(compared) > IN_WORDS:
        st.caption("The other runs stand in the table below the diagrams.")


def draw_baselines(page: Page, run_ids: Sequence[str], datasets: Sequence[str]) -> None:
    """Every stored difference as a table: one row per run, data set and baseline."""
    rows = differences(page, run_ids, datasets)
    if rows.empty:
        return
    rows["run"] = [run_names.describe(page.run(run_id)) for run_id in rows["run_id"]]
    cells = [f"{SIGNS[verdict]} {text}" for verdict, text in zip(rows["verdict"], rows["text"], strict=True)]
    # What is the same in every row stands behind the numbers, which a phone then shows first.
    named = ["run", "dataset", "against"]
    same = [name for name in named[:2] if rows[name].nunique() == 1]
    keys = [*named, "baseline_run_id", "n"]
    shown = rows.assign(cell=cells).pivot_table(
        index=keys, columns="metric", values="cell", aggfunc="first", sort=False
    )
    metrics = [name for name in TITLES if name in shown.columns]
    shown = shown.reset_index()[[*(name for name in named if name not in same), *metrics, "n", *same]]
    heading(
        "Against every baseline and control, question by question",
        "Run − baseline, paired on the same questions, 95 % intervals, stored with the run; lower is better for all. "
        "▲ better, ▼ worse, ● no clear difference: the interval holds 0. Both scaled: each with its own temperature.",
        key="baselines",
        card=page.card(list(run_ids), "Differences from baselines", "comparisons"),
        table=rows,
        explains=("ece", "nll", "temperature_scaling"),
    )
    st.dataframe(
        shown,
        hide_index=True,
        key="baselines.frame",
        height=min(38 + 35 * len(shown), 420),
        alt="Paired differences in ECE and NLL from every baseline and control",
        column_config={
            "dataset": st.column_config.TextColumn("data set"),
            **{name: st.column_config.TextColumn(title) for name, title in TITLES.items()},
        },
    )
