"""The tables behind the verdicts, one section per experiment; what was not run says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from pipelines.reproduce.cells import Section, cell, difference_text, interval_text, run_label, spans
from pipelines.reproduce.results import MAP_PREFIX, Results
from pipelines.reproduce.search import PREFIX
from pipelines.stages.ood import MATCHED

#: metric → heading, in the order of the columns of table E2
CALIBRATION = {
    "accuracy": "accuracy",
    "ece": "ECE",
    "ece_ts": "ECE, scaled",
    "nll": "NLL",
    "nll_ts": "NLL, scaled",
    "brier": "Brier",
}
SCORES = (
    "answer_entropy",
    "one_minus_max_prob",
    "mutual_information",
    "gate_entropy",
    "logit_variance",
    "logit_variance_mc",
    "temperature",
    "prompt_length",
)

#: accuracy of guessing; nearly every question of the suite has four options
CHANCE = 0.25
#: experiments on the questions of ``main``, with more rows
_BESIDE = ("controls", "closed-form", "methods")
_SAME = ("questions", "method", "estimator", "control")


def stability_section(results: Results) -> Section:
    """E1: clean and noisy expert sets, paired by question."""
    rows = []
    for _, run in (pair for part in ("main", "methods", "redraws") for pair in _fresh(results, part)):
        mine = results.stability[results.stability["run_id"] == run["run_id"]]
        for _, level in mine.iterrows():
            base = _base_of(results, run)
            row = None
            if base is not None:
                score = f"{level['mode']} {level['gamma']:g}"
                inside = results.datasets(run, "in-distribution")[0]
                row = results.difference(run["run_id"], base, inside, "jaccard", score)
            rows.append(
                [
                    run["questions"],
                    run_label(run),
                    level["mode"],
                    f"{level['gamma']:g}",
                    cell(level["jaccard"]),
                    difference_text(row),
                    str(level["questions"]),
                ]
            )
    return Section(
        "E1 Stability",
        "Mean Jaccard index of clean and noisy top-k sets over the tokens of the questions and the layers that carry "
        "variational routers. Noise: σ = γ × the RMS norm of each layer's own router input; `router` re-runs that "
        "router alone, `propagated` disturbs all of them in one pass. In these two both sets meet the same routing "
        "draw: where it outweighs the logits (`temperature`, `vtsr`), they agree whatever the input does, and a value "
        "near 1 is no robustness. `redrawn` is `router` with another draw in the disturbed pass; at γ = 0 it is how "
        "far two draws agree on the same input (1 without a posterior), at γ > 0 what a user meets who asks twice.",
        ("questions", "run", "mode", "γ", "Jaccard", "minus pretrained routers", "n"),
        rows,
    )


def calibration_section(results: Results) -> Section:
    """E2: every calibration metric of each run, with paired differences."""
    rows = []
    named = [part for part in sorted(results.runs["part"].unique()) if part.startswith((MAP_PREFIX, PREFIX))]
    for part in ("main", *_BESIDE, "predictive", *named):
        for _, run in _fresh(results, part):
            inside = results.datasets(run, "in-distribution")[0]
            values = {metric: results.value(run["run_id"], inside, metric) for metric in CALIBRATION}
            if values["accuracy"] is None:
                continue
            base = _base_of(results, run)
            pairs = [
                None if base is None else results.difference(run["run_id"], base, inside, metric)
                for metric in ("ece", "nll", "nll_ts")
            ]
            shown = [cell(None if row is None else row["value"]) for row in values.values()]
            chance = [results.chance_ece(run["run_id"], inside, kind) for kind in ("raw", "temperature-scaled")]
            rows.append(
                [
                    run["questions"],
                    run_label(run) + (f", {part}" if part in named else ""),
                    *shown,
                    " / ".join(map(cell, chance)),
                    *map(difference_text, pairs),
                    str(int(values["accuracy"]["n"])),
                ]
            )
    return Section(
        "E2 Calibration, in-distribution",
        "`scaled` is after one temperature fitted on the validation questions, the baseline to beat. Differences are "
        "paired against the deterministic row with pretrained routers; for ECE, NLL and Brier lower is better. `ECE by "
        "chance`, as answered / scaled, is the mean of a perfectly calibrated model with the same confidences on as "
        "many questions: no claim below it can be confirmed here.",
        ("questions", "run", *CALIBRATION.values(), "ECE by chance", "Δ ECE", "Δ NLL", "Δ NLL, scaled", "n"),
        rows,
    )


def letter_section(results: Results) -> Section:
    """Whether the model can answer by the letter of an option at all."""
    rows = []
    for _, run in results.of("letter").iterrows():
        inside = results.datasets(run, "in-distribution")[0]
        accuracy, ece = (results.value(run["run_id"], inside, metric) for metric in ("accuracy", "ece"))
        if accuracy is None:
            continue
        ends = interval_text(accuracy["ci_low"], accuracy["ci_high"])
        can = "yes" if accuracy["ci_low"] > CHANCE else "no"
        shown = [
            cell(accuracy["value"]),
            ends,
            cell(None if ece is None else ece["value"]),
            str(int(accuracy["n"])),
            can,
        ]
        rows.append([run["questions"], run_label(run), *shown])
    return Section(
        "E2 Letter scoring",
        "Options listed in the prompt, their letters scored. A model *can* do it where the interval of its accuracy is "
        f"above {CHANCE}, chance among four options; everything else here scores the options' own words.",
        ("questions", "run", "accuracy", "95 % interval", "ECE", "n", "can"),
        rows,
    )


def ood_section(results: Results) -> Section:
    """E3: every declared score on every pair of sets."""
    rows = []
    for part in ("main", *_BESIDE):
        for _, run in _fresh(results, part):
            for role in ("near-ood", "far-ood"):
                for dataset in results.datasets(run, role):
                    for score in SCORES:
                        found = results.value(run["run_id"], dataset, "auroc", score)
                        if found is None:
                            continue
                        matched = results.value(run["run_id"], dataset, "auroc", score + MATCHED)
                        note = "" if found["note"] is None or pd.isna(found["note"]) else str(found["note"])
                        rows.append(
                            [
                                f"{run['questions']} / {dataset}",
                                role.removesuffix("-ood"),
                                run_label(run),
                                score,
                                cell(found["value"]),
                                interval_text(found["ci_low"], found["ci_high"]),
                                "–" if matched is None else f"{matched['value']:.3f} (n {int(matched['n'])})",
                                str(int(found["n"])),
                                note,
                            ]
                        )
    return Section(
        "E3 Out-of-distribution detection",
        "AUROC; higher score = more OoD, fixed beforehand, never flipped. Answer scores are of the answer; routing "
        "scores are read at the final prompt token and averaged over the variational layers. `prompt_length` is a "
        "control: what the number of tokens alone does. `length-matched`: the same score on equally long prompts.",
        ("in / out", "shift", "run", "score", "AUROC", "95 % interval", "length-matched", "n", "note"),
        rows,
    )


def leverage_section(results: Results) -> Section:
    """What random routing costs, layer by layer."""
    rows = []
    for _, run in results.of("main").iterrows():
        mine = results.leverage[results.leverage["run_id"] == run["run_id"]]
        for _, row in mine.iterrows():
            ends = ("accuracy_change", "accuracy_ci_low", "accuracy_ci_high", "nll_change", "nll_ci_low", "nll_ci_high")
            accuracy, low, high, nll, nll_low, nll_high = (row[name] for name in ends)
            rows.append(
                [
                    run["questions"],
                    run_label(run),
                    row["intervention"],
                    str(row["layer"]) if row["scope"] == "layer" else str(row["scope"]),
                    f"{accuracy:+.3f} ({interval_text(low, high)})",
                    f"{nll:+.3f} ({interval_text(nll_low, nll_high)})",
                    str(row["n"]),
                ]
            )
    return Section(
        "Routing leverage",
        "What it costs to route a layer at random (`random-routing`, equal weights, mean over draws) or to leave its "
        "experts out (`zero-block`): no posterior over routing can matter more than this.",
        ("questions", "run", "intervention", "layer", "Δ accuracy", "Δ NLL", "n"),
        rows,
    )


def temperature_section(results: Results) -> Section:
    """Whether a learned temperature collapses or runs away, seed by seed."""
    rows = []
    parts = [part for part in sorted(results.runs["part"].unique()) if part.startswith("vtsr-seed-")]
    for part in ["main", *parts] if parts else []:
        runs = results.of(part)
        for _, run in runs[(runs["method"] == "vtsr") & (runs["estimator"] == "in-router")].iterrows():
            mine = results.temperatures[results.temperatures["run_id"] == run["run_id"]]
            seed = "0" if part == "main" else part.rpartition("-")[2]
            if mine.empty:
                continue
            values = [mine["first"].mean(), mine["last"].min(), mine["last"].mean(), mine["last"].max()]
            ends = [mine["least"].min(), mine["most"].max()]
            shown = [cell(float(value)) for value in (*values, *ends)]
            rows.append([run["questions"], seed, str(len(mine)), *shown, str(mine["steps"].max())])
    return Section(
        "E6 Temperature of `vtsr` over seeds",
        "Mean over the real tokens of a batch, per layer (T₀ = 1), at the training steps that are stored: a large "
        "archive keeps the first and those with a validation. The router itself bounds T to e⁻⁴ … e⁴; *collapse* would "
        "be a T near 0, *explosion* one that grows to the end.",
        (
            *("questions", "training seed", "layers", "T at the first step, mean", "at the last, lowest layer"),
            *("mean", "highest layer", "least at any step", "most at any step", "steps"),
        ),
        rows,
    )


def variant_sections(results: Results) -> list[Section]:
    """E4 and E6: the same row under other layers and other seeds."""
    made = []
    for title, prefix, text in (
        ("E4 Layer selection", "layers-", "`fcvr` in other layers; `random` in three draws. `main` for comparison."),
        (
            "E6 Seeds",
            "training-seed",
            "`fcvr` trained, or sampled, with other seeds; spread between rows is what no interval covers.",
        ),
    ):
        rows = []
        parts = [part for part in sorted(results.runs["part"].unique()) if _belongs(part, prefix)]
        for part in ["main", *parts] if parts else []:
            for _, run in results.of(part).iterrows():
                if run["method"] != "fcvr" or run["control"] != "none":
                    continue
                inside = results.datasets(run, "in-distribution")[0]
                base = _base_of(results, run)
                values = [results.value(run["run_id"], inside, metric) for metric in ("accuracy", "ece", "nll")]
                pairs = [
                    None if base is None else results.difference(run["run_id"], base, inside, metric)
                    for metric in ("ece", "nll", "nll_ts")
                ]
                if values[0] is None:
                    continue
                layers = spans(run["layers"])
                shown = [cell(None if row is None else row["value"]) for row in values]
                n = str(int(values[0]["n"]))
                rows.append([run["questions"], part, layers, run["estimator"], *shown, *map(difference_text, pairs), n])
        rows.sort(key=lambda row: (row[0], row[1] != "main", row[1]))
        header = (
            "questions",
            "experiment",
            "layers",
            "estimator",
            "accuracy",
            "ECE",
            "NLL",
            "Δ ECE",
            "Δ NLL",
            "Δ NLL, scaled",
            "n",
        )
        made.append(Section(title, text, header, rows))
    return made


def _fresh(results: Results, part: str) -> Iterator[tuple[Any, pd.Series]]:
    """The runs of an experiment; of those that ask the questions of ``main`` only the rows they add.

    A search repeats the deterministic rows under layers and training that do not touch them; another training of MAP
    routers repeats all but its own.
    """
    shown = set()
    if part in _BESIDE:
        shown = {tuple(row) for row in results.of("main")[[*_SAME]].itertuples(index=False)}
    for place, run in results.of(part).iterrows():
        if part.startswith(PREFIX) and run["method"] == "deterministic":
            continue
        if part.startswith(MAP_PREFIX) and run["control"] != "map-routers":
            continue
        if tuple(run[name] for name in _SAME) not in shown:
            yield place, run


def _belongs(part: str, prefix: str) -> bool:
    return part.startswith(prefix) or (prefix == "training-seed" and part.startswith("sampling-seed"))


def cost_section(results: Results) -> Section:
    """E5: what each run costs beside the deterministic one."""
    rows = []
    for _, run in results.runs.iterrows():
        mine = results.efficiency[results.efficiency["run_id"] == run["run_id"]]
        for _, row in mine.iterrows():
            ratio = "–" if pd.isna(row["ratio"]) else f"{row['ratio']:.3f}"
            values = [f"{row['value']:.4g}", f"{row['baseline']:.4g}", ratio]
            rows.append([run["questions"], run_label(run), row["quantity"], *values, row["unit"]])
    return Section(
        "E5 Cost",
        "Beside the deterministic model on the same base. MACs from formulas (of the `predictive` estimator: of "
        "answering a question), FLOPs counted with experts run one by one; seconds and bytes are measured in turn "
        "within one step: read the ratio. Plain `seconds` are by the clock and mean little on a busy machine; "
        "`processor seconds` leave its waiting out. FLOPs and seconds of `predictive` are those of one sampled "
        "pass times the samples, which is too much where layers below the first router run once.",
        ("questions", "run", "quantity", "value", "deterministic", "ratio", "unit"),
        rows,
    )


def _base_of(results: Results, run: pd.Series) -> str | None:
    """The run id of the experiment's deterministic row with pretrained routers; ``None`` for that row itself."""
    runs = results.of(run["part"], run["questions"])
    plain = runs[(runs["method"] == "deterministic") & (runs["experiment"] == run["experiment"])]
    for control in ("none", "pretrained-routers"):
        for _, one in plain[plain["control"] == control].iterrows():
            if one["card"].get("base", {}).get("base", "pretrained") == "pretrained":
                return None if one["run_id"] == run["run_id"] else str(one["run_id"])
    return None
