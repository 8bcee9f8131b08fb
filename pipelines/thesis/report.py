"""The document of a suite: verdicts first, then the tables behind them, as Markdown and LaTeX, from the store alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipelines.thesis.claims import CLAIMS, FLOPS, overall
from pipelines.thesis.results import Finding, Results, base_name
from store.export import latex_text

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


@dataclass
class Section:
    """A heading, what to know before reading, and a table of text cells (none when ``rows`` is empty)."""

    title: str
    text: str
    header: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)


def sections(results: Results) -> list[Section]:
    """Everything the document says, in order; an experiment that was not run says so."""
    findings = results.findings()
    return [
        _headlines(results, findings),
        _verdicts(findings),
        _stability(results),
        _calibration(results),
        _ood(results),
        *_variants(results),
        _search(results),
        _cost(results),
    ]


def markdown(results: Results, title: str) -> str:
    """The document as Markdown."""
    lines = [f"# {title}", "", *_preamble(results)]
    for section in sections(results):
        lines += ["", f"## {section.title}", "", section.text]
        if section.rows:
            lines += ["", "| " + " | ".join(section.header) + " |", "|" + " --- |" * len(section.header)]
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in section.rows]
        elif section.header:
            lines += ["", "*Not run in this form.*"]
    return "\n".join(lines) + "\n"


def latex(results: Results) -> str:
    """The tables alone, for a paper (needs ``booktabs``)."""
    lines = ["% made by `vmoer reproduce`; needs \\usepackage{booktabs}"]
    for section in sections(results):
        if not section.rows:
            continue
        lines += ["", f"% {section.title}", f"\\begin{{tabular}}{{{'l' * len(section.header)}}}", "\\toprule"]
        lines += [" & ".join(map(latex_text, section.header)) + " \\\\", "\\midrule"]
        lines += [" & ".join(map(latex_text, row)) + " \\\\" for row in section.rows]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _preamble(results: Results) -> Iterator[str]:
    runs = results.runs
    if runs.empty:
        yield "No run of this suite is stored."
        return
    cards = runs["card"].tolist()
    commits = sorted({str(card.get("commit") or "unknown")[:12] for card in cards})
    started = pd.to_datetime(runs["started_at"]).min()
    ended = pd.to_datetime(runs["ended_at"]).max()
    yield (
        f"Made by `vmoer reproduce` from {len(runs)} stored runs of `{runs['model'].iloc[0]}`; nothing here is typed. "
        f"Computed {started:%Y-%m-%d} to {ended:%Y-%m-%d} (UTC), commit {', '.join(commits)}, "
        f"on {', '.join(sorted(runs['device'].unique()))} in {', '.join(sorted(runs['dtype'].unique()))}."
    )
    if bool(runs["synthetic"].any()):
        yield ""
        yield "**The model is a toy trained by this project: these are mechanisms, not findings about large models.**"
    yield ""
    yield (
        "Intervals are 95 % bootstrap intervals over questions, paired where two rows are compared on the same "
        "questions. They do not cover training, except where seeds are listed one by one. A relative change takes the "
        "baseline's value as fixed."
    )


def _headlines(results: Results, findings: list[Finding]) -> Section:
    rows = []
    for claim in CLAIMS:
        mine = [finding for finding in findings if finding.claim is claim]
        fair = [finding for finding in mine if finding.baseline.startswith("pretrained routers")]
        chosen = fair or mine
        word = overall(finding.word for finding in chosen)
        counts = {
            name: sum(one.word == name for one in chosen) for name in ("reproduced", "not reproduced", "inverted")
        }
        detail = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        rows.append([claim.text, word or "not computed", detail or "no comparison in this form"])
    shares = [
        (share, word) for run, share, word in results.flops() if run["method"] == "fcvr" and run["control"] == "none"
    ]
    shown = ", ".join(sorted({f"{100 * share:.2f} %" for share, _ in shares}))
    rows.append([FLOPS.text, overall(word for _, word in shares) or "not computed", shown or "no count in this form"])
    return Section(
        "Verdicts",
        "For `fcvr` with the in-router estimator against the same model with pretrained routers. *Reproduced*: the "
        "paired interval leaves out zero on the claimed side and reaches the claimed size, on every comparison; "
        "*inverted*: it leaves out zero on the other side, on every comparison; anything else is *not reproduced*.",
        ("claim", "verdict", "comparisons"),
        rows,
    )


def _verdicts(findings: list[Finding]) -> Section:
    rows = [
        [
            one.claim.name,
            one.questions if one.claim.metric != "auroc" else f"{one.questions} / {one.outside}",
            one.baseline,
            _value(one.before),
            _value(one.value),
            f"{100 * one.change.relative:+.1f} %",
            _percent(one.change.low, one.change.high),
            f"{100 * one.claim.size:+.0f} %",
            str(one.change.n),
            one.word,
        ]
        for one in findings
    ]
    header = (
        "claim",
        "questions",
        "baseline",
        "baseline value",
        "fcvr",
        "change",
        "95 % interval",
        "claimed",
        "n",
        "verdict",
    )
    return Section("Every comparison", "`n` counts paired questions (for OoD: both sets).", header, rows)


def _stability(results: Results) -> Section:
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
                    _label(run),
                    level["mode"],
                    f"{level['gamma']:g}",
                    _value(level["jaccard"]),
                    _difference(row),
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


def _calibration(results: Results) -> Section:
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
            shown = [_value(None if row is None else row["value"]) for row in values.values()]
            rows.append(
                [run["questions"], _label(run), *shown, *map(_difference, pairs), str(int(values["accuracy"]["n"]))]
            )
    return Section(
        "E2 Calibration, in-distribution",
        "`scaled` is after one temperature fitted on the validation questions, the baseline to beat. Differences are "
        "paired against the deterministic row with pretrained routers; for ECE, NLL and Brier lower is better.",
        ("questions", "run", *CALIBRATION.values(), "Δ ECE", "Δ NLL", "Δ NLL, scaled", "n"),
        rows,
    )


def _ood(results: Results) -> Section:
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
                                _label(run),
                                score,
                                _value(found["value"]),
                                _interval(found["ci_low"], found["ci_high"]),
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


def _variants(results: Results) -> list[Section]:
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
                shown = [_value(None if row is None else row["value"]) for row in values]
                n = str(int(values[0]["n"]))
                rows.append([run["questions"], part, layers, run["estimator"], *shown, *map(_difference, pairs), n])
        header = ("questions", "experiment", "layers", "estimator", "accuracy", "ECE", "NLL", "Δ ECE", "Δ NLL", "n")
        made.append(Section(title, text, header, rows))
    return made


def _search(results: Results) -> Section:
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
                    cells = [*map(_difference, pairs), str(int(pairs[0]["n"])), " and ".join(won) or "no"]
                    rows.append([questions, part.removeprefix("search-"), _label(other), *cells])
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


def _cost(results: Results) -> Section:
    rows = []
    for _, run in results.runs.iterrows():
        mine = results.efficiency[results.efficiency["run_id"] == run["run_id"]]
        for _, row in mine.iterrows():
            ratio = "–" if pd.isna(row["ratio"]) else f"{row['ratio']:.3f}"
            values = [f"{row['value']:.4g}", f"{row['baseline']:.4g}", ratio]
            rows.append([run["questions"], _label(run), row["quantity"], *values, row["unit"]])
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


def _label(run: pd.Series) -> str:
    if run["method"] == "deterministic":
        return f"deterministic, {base_name(run)}"
    control = "" if run["control"] == "none" else f" ({run['control']})"
    return f"{run['method']} {run['estimator']}{control}"


def _value(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.3f}"


def _interval(low: Any, high: Any) -> str:
    return "–" if low is None or pd.isna(low) or pd.isna(high) else f"{low:.3f} to {high:.3f}"


def _percent(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f} %"


def _difference(row: pd.Series | None) -> str:
    if row is None:
        return "–"
    ends = "" if pd.isna(row["ci_low"]) else f" ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"
    return f"{row['difference']:+.3f}{ends}"
