"""Compare: two runs on the same examples, from the whole data set down to one token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.comparison import paired_answers as pairs
from app.comparison.answers import paired
from app.downloads.files import Section
from app.figures import paired as charts
from app.pages import path_of
from app.shared import runs as run_names
from app.shared import states
from app.shared.after_first_chart import after_first_chart
from app.shared.choice_row import choice_row
from app.shared.figure import Figure, Tile
from app.shared.format import PERCENT, is_percent, number
from app.shared.link import click_layer, go
from app.shared.page import Page, open_page
from app.shared.page_file import add_figure
from app.shared.stepper import stepper
from app.shared.text import counted, plain
from app.views.compare import charts as own_charts
from app.views.compare.prompt import draw_prompt
from vmoer.metrics import definition

PATH = path_of("compare")
TITLES = {"accuracy": "Accuracy", "ece": "ECE", "nll": "NLL (nats)", "brier": "Brier score"}


@st.cache_data(max_entries=64, show_spinner="Computing paired intervals")
def paired_differences(key: tuple[Any, ...], _paired: pd.DataFrame, n_resamples: int) -> pd.DataFrame:
    """Paired differences that no stage has stored; ``key`` names generation, runs and data set for the cache."""
    del key
    return pairs.computed_differences(_paired, n_resamples)


def differences(page: Page, first: str, second: str, rows: pd.DataFrame) -> Figure | None:
    """Paired differences of accuracy, ECE, NLL and Brier score, one small chart each."""
    stored = page.data("comparisons", second)
    stored = stored[(stored["baseline_run_id"] == first) & stored["metric"].isin(pairs.DIFFERENCES)]
    origin = "stored with the run"
    if stored.empty:
        stored = paired_differences(
            (page.data.key, first, second, rows["dataset"].iloc[0], len(rows)), rows, page.settings.bootstrap
        )
        origin = f"computed here from {page.settings.bootstrap:,} resamples"
    stored = pairs.with_verdicts(stored, list(dict.fromkeys(rows["dataset"])))
    tiles = []
    for metric in pairs.DIFFERENCES:
        part = stored[stored["metric"] == metric]
        if part.empty:
            continue
        better = definition(metric).direction
        chart = charts.differences(part, title="second − first", percent=is_percent(metric))
        tiles.append(Tile(f"{TITLES[metric]}, {better} is better", chart, width=290))
    summary = pairs.in_words(stored, {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL", "brier": "Brier score"})
    return Figure(
        "Paired differences, second run − first run",
        tiles,
        stored,
        key="differences",
        note=f"Same questions resampled together, 95 % intervals, {origin}. ▲ better, ▼ worse, ● no clear difference. "
        f"{summary}.",
        alt_text=f"Paired differences with intervals: {summary}",
        card=page.card([first, second], "Paired differences", "comparisons, paired_predictions"),
        explains=pairs.DIFFERENCES,
    )


def flips(page: Page, first: str, second: str, rows: pd.DataFrame) -> Figure | None:
    """What became of the answers, per data set."""
    counts = pairs.flip_counts(rows)
    gained, lost = (int((rows["outcome"] == charts.OUTCOMES[place]).sum()) for place in (1, 2))
    return Figure(
        f"{counted(gained, 'answer')} became right, {lost} wrong",
        charts.flips(counts),
        counts,
        key="flips",
        note=f"{counted(len(rows), 'shared question')}; share per data set.",
        alt_text=f"{gained} answers became right and {lost} became wrong",
        card=page.card([first, second], "Answer flips", "paired_predictions"),
        explains=("accuracy",),
    )


def scatter(page: Page, first: str, second: str, rows: pd.DataFrame) -> Figure | None:
    """Confidence of both runs, question by question."""
    limit = page.settings.max_points
    drawn = rows if len(rows) <= limit else rows.sample(limit, random_state=0)
    sampled = "" if len(rows) <= limit else f" {limit:,} of {len(rows):,} questions drawn, seed 0."
    columns = ["dataset", "example_id", "confidence_a", "confidence_b", "outcome"]

    def chosen(point: dict[str, Any]) -> None:
        go("dataset", str(point["dataset"]))
        go("example", str(point["example_id"]))
        go("part", "question")

    return Figure(
        "Confidence, question by question",
        charts.confidence_scatter(drawn, first="first run", second="second run"),
        drawn[columns],
        key="scatter",
        note=f"n = {len(rows):,}; below the dashed line the second run is less sure than the first.{sampled} "
        "Click a point to see its tokens.",
        alt_text="Scatter of the confidence of the two runs on each shared question",
        card=page.card([first, second], "Paired confidence", "paired_predictions"),
        explains=("confidence",),
        selection="question",
        on_select=chosen,
    )


def overlap(page: Page, first: str, second: str, _: pd.DataFrame) -> Figure | None:
    """How much the two runs' expert sets overlap per layer; nothing where no token was traced in both."""
    dataset = page.link.text("dataset")
    rows = page.data("layer_overlap", first, second, dataset=dataset, limit=page.settings.max_overlap)
    if rows.empty:
        return None
    layers = [int(layer) for layer in sorted(rows["layer"].unique())]
    chosen = [int(one) for one in run_names.as_list(page.run(second)["layers"])]
    lowest = rows.sort_values("mean_jaccard").iloc[0]
    return Figure(
        "Do the two runs choose the same experts?",
        charts.overlap_by_layer(rows, layers, chosen=chosen, layer=page.link.index("layer")),
        rows,
        key="overlap",
        note=f"Mean Jaccard of the expert sets on the same {counted(int(rows['n'].max()), 'token')} of "
        f"{counted(int(rows['n_examples'].max()), 'shared question')} (the first by id, at most "
        f"{page.settings.max_overlap:,}); 1 = the same experts. "
        f"Least in layer {int(lowest['layer'])} ({lowest['mean_jaccard']:.3f}). "
        "Above the first Bayesian layer, inputs differ as well.",
        alt_text="Mean Jaccard of the expert sets of both runs per layer",
        card=page.card([first, second], "Overlap per layer", "layer_overlap"),
        explains=("jaccard", "overlap"),
        selection="layer",
        on_select=click_layer,
    )


def load_change(page: Page, first: str, second: str, _: pd.DataFrame) -> Figure | None:
    """Experts gained and lost: how each expert's share of its layer's load changed; nothing without a trace."""
    dataset = page.link.text("dataset")
    keys = ["layer", "expert_index"]
    one, two = (page.data("expert_load", run_id, dataset=dataset) for run_id in (first, second))
    rows = one[[*keys, "share"]].merge(two[[*keys, "share"]], on=keys, suffixes=("_a", "_b"))
    if rows.empty:
        return None
    rows["change"] = rows["share_b"] - rows["share_a"]
    layers = [int(layer) for layer in sorted(rows["layer"].unique())]
    moved = rows.groupby("layer")["change"].apply(lambda part: part.abs().sum() / 2)
    return Figure(
        "Experts gained and lost",
        own_charts.load_change(rows, layers, layer=page.link.index("layer")),
        rows,
        key="moved",
        note=f"Share of the layer's tokens on {dataset}, second run − first run; orange = gained, blue = lost. Most "
        f"load moved in layer {layers[int(moved.to_numpy().argmax())]}: {number(moved.max(), percent=True)} of its "
        "slots went elsewhere.",
        alt_text="Change of load share per layer and expert between the two runs",
        card=page.card([first, second], "Load change", "expert_load"),
        explains=("load_share",),
        selection="layer",
        on_select=click_layer,
    )


#: what the page can show of two runs: its name, and the functions that make its figures
PARTS: dict[str, tuple[str, tuple[Callable[[Page, str, str, pd.DataFrame], Figure | None], ...]]] = {
    "answers": ("Answers and confidence", (differences, flips, scatter)),
    "experts": ("Experts", (overlap, load_change)),
    "question": ("One question, token by token", ()),
}


def draw_part(page: Page, first: str, second: str, rows: pd.DataFrame, parts: list[str]) -> None:
    """The figures of the chosen part, or what is missing for them; the others go into the page's file as well."""
    part = page.link.text("part")
    for name in parts:
        for make in PARTS[name][1] if name != part else ():
            add_figure(make.__name__, partial(_section, make, page, first, second, rows))
    figures = [figure for make in PARTS[part][1] if (figure := make(page, first, second, rows)) is not None]
    if part == "answers":
        figures[0].draw()
        after_first_chart(PATH, partial(side_by_side, figures[1:]))
        return
    for figure in figures:
        figure.draw()
    if part == "experts" and "overlap" not in [figure.key for figure in figures]:
        page.absent(
            second,
            "No shared tokens were traced",
            "vmoer run SPEC.yaml   # with `trace` among its stages, both methods in one spec",
            why="The overlap of expert sets needs the routing of both runs on the same tokens.",
        )


def side_by_side(figures: list[Figure]) -> None:
    """Two figures in columns."""
    for column, figure in zip(st.columns(2, gap="large"), figures, strict=True):
        with column:
            figure.draw()


def _section(
    make: Callable[[Page, str, str, pd.DataFrame], Figure | None],
    page: Page,
    first: str,
    second: str,
    rows: pd.DataFrame,
) -> Section | None:
    figure = make(page, first, second, rows)
    return None if figure is None else figure.section()


def draw_example(page: Page, first: str, second: str, rows: pd.DataFrame, examples: list[str]) -> None:
    """One question: both answers, then its tokens."""
    link = page.link
    dataset, example = str(link.values["dataset"]), str(link.values["example"])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        with st.container(width=340):
            link.select("example", f"Question of {dataset}", examples)
        stepper("example", examples, example, "question")
        st.caption("changed answers first", width="content")
    row = rows[(rows["dataset"] == dataset) & (rows["example_id"] == example)].iloc[0]
    table = page.data("examples", second, dataset)
    stored = table[table["example_id"] == example]
    choices = run_names.as_list(stored.iloc[0]["choices"]) if not stored.empty else []
    shown = []
    for side, run_id in (("a", first), ("b", second)):
        probs = run_names.as_list(row[f"probs_{side}"])
        line: dict[str, Any] = {"run": page.label(run_id), "answer": "right" if row[f"correct_{side}"] else "wrong"}
        for place, prob in enumerate(probs):
            name = str(choices[place]) if place < len(choices) else f"option {place}"
            sign = " ✓" if place == int(row["answer_index"]) else ""
            column = f"{name}{sign}"
            line[f"{column} ({place})" if column in line else column] = 100 * float(prob)
        shown.append(line)
    frame = pd.DataFrame(shown)
    st.dataframe(
        frame,
        hide_index=True,
        key="answers",
        alt="Probability of each option in both runs",
        column_config={
            name: st.column_config.ProgressColumn(name, format=PERCENT, min_value=0, max_value=100)
            for name in frame.columns[2:]
        },
    )
    draw_prompt(
        page, first, second, dataset, example, page.card([first, second], f"Question {example}", "paired_token_routing")
    )


def explain_absence(page: Page, silent: list[str]) -> None:
    """Why two runs cannot be compared: those without any answers, else that they answered different questions."""
    if silent:
        page.absent(
            silent[0],
            f"No answers are stored for {plain(' and '.join(page.label(run_id) for run_id in silent))}",
            "vmoer run SPEC.yaml   # with `evaluate` among its stages, both methods in one spec",
            why="Prompts kept from Inspect are only traced; a run that stopped may not have come that far.",
            archived="Archived as a summary, without an answer per question; a run computed here has them.",
        )
        return
    st.error(
        "These two runs share no question, so nothing can be compared: they were evaluated on different data. "
        "Runs of one spec always share their questions.",
        title="Not comparable",
    )


def render() -> None:
    """Draw the page."""
    page = open_page(
        PATH,
        "Compare",
        "Two runs on the same questions: does the Bayesian router change the experts, the answers, the confidence?",
    )
    link = page.link
    run_ids = page.runs["run_id"].tolist()
    answered = run_names.default_run(page.with_rows("predictions"))
    second = link.pick("run", run_ids, answered or run_names.default_run(page.runs))
    assert second is not None
    others = [run_id for run_id in run_ids if run_id != second]
    default = run_names.deterministic_of(page.runs, second)
    if default in (None, second):
        default = next((one for one in run_names.siblings(page.runs, second)["run_id"] if one != second), None)
    first = link.pick("baseline", run_ids, default or (others[0] if others else None))
    if first is None:
        states.empty(
            "There is only one run", "vmoer run SPEC.yaml   # with several methods", why="A comparison needs two."
        )
        return
    rows = paired(page, first, second)
    sets = list(dict.fromkeys(rows["dataset"]))
    inside = rows.loc[rows["role"] == "in-distribution", "dataset"].tolist()
    dataset = link.pick("dataset", sets, inside[0] if inside else (sets[0] if sets else None))
    # Changed answers first: they are what one comes to look at.
    here = rows[rows["dataset"] == dataset].assign(same=lambda part: part["outcome"].isin(["both right", "both wrong"]))
    examples = here.sort_values(["same", "example_id"], kind="stable")["example_id"].tolist()
    link.pick("example", examples, examples[0] if examples else None)
    traced = run_names.as_list(page.data("models").set_index("model").loc[page.run(second)["model"], "moe_layers"])
    layers = [int(layer) for layer in traced]
    carried = [int(layer) for layer in run_names.as_list(page.run(second)["layers"])]
    link.pick("layer", layers, carried[0] if carried else layers[0])
    link.pick("token", list(range(page.settings.max_tokens)), None)
    # The experts of two models cannot be matched.
    parts = list(PARTS) if page.run(first)["model"] == page.run(second)["model"] else ["answers"]
    link.pick("part", parts, "question" if "question" in parts and link.given("token") is not None else "answers")
    link.commit()
    with choice_row():
        with st.container(width=430):
            link.select("baseline", "First run", run_ids, show=page.option)
        with st.container(width=430):
            link.select("run", "Second run", run_ids, show=page.option)
        if sets:
            with st.container(width=240):
                link.select("dataset", "Data set of experts and questions", sets)
    page.banners(list(dict.fromkeys([first, second])))
    if first == second:
        st.info("Both sides name the same run; choose another first or second run.")
        return
    counts = [len(page.data("predictions", run_id)) for run_id in (first, second)]
    if rows.empty:
        explain_absence(page, [run_id for run_id, count in zip((first, second), counts, strict=True) if not count])
        page.offer(PATH, answered, "answers")
        return
    st.caption(pairs.shared_note(counts[0], counts[1], len(rows)))
    if len(parts) == 1:
        st.warning("The runs are of different models; their experts cannot be matched, so only answers are compared.")
    query = {"run": second, "baseline": first}
    st.page_link(path_of("export"), label="Take this comparison with you as a report →", query_params=query)
    if len(parts) > 1:
        link.select("part", "Show", parts, show=lambda name: PARTS[name][0], kind="buttons")
    draw_part(page, first, second, rows, parts)
    if link.text("part") == "question":
        draw_example(page, first, second, rows, examples)


render()
