"""The tables behind the verdicts, one section per experiment; what was not run says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from pipelines.thesis.cells import Section, cell, difference_text, interval_text, run_label
from pipelines.thesis.results import Results

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

#: experiments on the questions of ``main``, with more rows
_BESIDE = ("ladder", "controls")
_SAME = ("questions", "method", "estimator", "control")


def stability_section(results: Results) -> Section:
    """E1: clean and noisy expert sets, paired by question."""
    rows = []
    for _, run in results.of("main").iterrows():
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
        "router alone, `propagated` disturbs all of them in one pass.",
        ("questions", "run", "mode", "γ", "Jaccard", "minus pretrained routers", "n"),
        rows,
    )


def calibration_section(results: Results) -> Section:
    """E2: every calibration metric of each run, with paired differences."""
    rows = []
    for part in ("main", *_BESIDE, "predictive"):
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
            rows.append(
                [
                    run["questions"],
                    run_label(run),
                    *shown,
                    *map(difference_text, pairs),
                    str(int(values["accuracy"]["n"])),
                ]
            )
    return Section(
        "E2 Calibration, in-distribution",
        "`scaled` is after one temperature fitted on the validation questions, the baseline to beat. Differences are "
        "paired against the deterministic row with pretrained routers; for ECE, NLL and Brier lower is better.",
        ("questions", "run", *CALIBRATION.values(), "Δ ECE", "Δ NLL", "Δ NLL, scaled", "n"),
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
                        matched = results.value(run["run_id"], dataset, "auroc", f"{score} (length-matched)")
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
                    for metric in ("ece", "nll")
                ]
                if values[0] is None:
                    continue
                layers = ", ".join(map(str, run["layers"]))
                shown = [cell(None if row is None else row["value"]) for row in values]
                n = str(int(values[0]["n"]))
                rows.append([run["questions"], part, layers, run["estimator"], *shown, *map(difference_text, pairs), n])
        header = ("questions", "experiment", "layers", "estimator", "accuracy", "ECE", "NLL", "Δ ECE", "Δ NLL", "n")
        made.append(Section(title, text, header, rows))
    return made


def search_section(results: Results) -> Section:
    """Trained posteriors against everything they have to beat, one row per opponent."""
    rows = []
    for part in [part for part in sorted(results.runs["part"].unique()) if part.startswith("search-")]:
        for questions in sorted(results.of(part)["questions"].unique()):
            runs = results.of(part, questions)
            for _, run in runs[(runs["method"] != "deterministic") & (runs["control"] == "none")].iterrows():
                others = runs[(runs["run_id"] != run["run_id"]) & runs["method"].isin(["deterministic", run["method"]])]
                for _, other in others.iterrows():
                    inside = results.datasets(run, "in-distribution")[0]
                    pairs = [
                        results.difference(run["run_id"], other["run_id"], inside, metric)
                        for metric in ("ece", "nll", "ece_ts", "nll_ts")
                    ]
                    if pairs[0] is None:
                        continue
                    won = [
                        name
                        for name, place in (("as it comes", 0), ("scaled", 2))
                        if all(map(_better, pairs[place : place + 2]))
                    ]
                    cells = [*map(difference_text, pairs), str(int(pairs[0]["n"])), " and ".join(won) or "no"]
                    rows.append([questions, part.removeprefix("search-"), run_label(other), *cells])
    return Section(
        "Search for a posterior that learns",
        "`fcvr`, answers averaged over routing samples, trained on the choice among the options; σ tuned on validation "
        "NLL. Each row is the paired difference to one opponent, lower is better; *better* means that ECE **and** NLL "
        "improve with intervals that leave out zero, as it comes or both after temperature scaling. A configuration "
        "counts only if it beats pretrained routers (scaled too) and every control.",
        ("questions", "configuration", "against", "Δ ECE", "Δ NLL", "Δ ECE, scaled", "Δ NLL, scaled", "n", "better"),
        rows,
    )


def _better(row: pd.Series | None) -> bool:
    return row is not None and not pd.isna(row["ci_high"]) and float(row["ci_high"]) < 0


def _fresh(results: Results, part: str) -> Iterator[tuple[Any, pd.Series]]:
    """The runs of an experiment; of those that ask the questions of ``main`` only the rows they add."""
    shown = set()
    if part in _BESIDE:
        shown = {tuple(row) for row in results.of("main")[[*_SAME]].itertuples(index=False)}
    for place, run in results.of(part).iterrows():
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
        "Beside the deterministic model on the same base. MACs from formulas, FLOPs counted with experts run one by "
        "one; seconds and bytes are measured in turn within one step, on the machine and under the load of that "
        "moment: read the ratio.",
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
