"""What a suite left in the store, as frames: its runs, their metrics, paired differences and costs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from pipelines.reproduce.claims import (
    CLAIMS,
    FLOPS,
    FLOPS_LAYERS,
    Change,
    Claim,
    Matched,
    Word,
    confirmed,
    flops_verdict,
    judge,
    relative_change,
)
from pipelines.stages.ood import MATCHED
from store import queries
from store.reader import Store
from vmoer.measure.learned import LayerPosterior, has_learned
from vmoer.methods import kept_step
from vmoer.metrics import chance_ece

#: experiments that train the MAP routers in another way than ``main``
MAP_PREFIX = "map-"


@dataclass(frozen=True)
class Finding:
    """One claim on one question set against one baseline."""

    claim: Claim
    questions: str
    outside: str
    baseline: str
    value: float
    before: float
    change: Change
    word: Word
    why: str = ""
    matched: Matched | None = None


class _Lookup:
    """Rows by key: a document asks for thousands, each of which would compare every row of the table."""

    def __init__(self, rows: pd.DataFrame, *key: str) -> None:
        self._rows = rows
        self._places: dict[tuple[str, ...], int] = {}
        for place, values in enumerate(zip(*(rows[name] for name in key), strict=True)):
            self._places.setdefault(values, place)

    def first(self, *key: str) -> pd.Series | None:
        """The first row with these values, ``None`` when there is none."""
        place = self._places.get(key)
        return None if place is None else self._rows.iloc[place]


class Results:
    """The runs of one suite and form on one model; names are ``<suite>-<form>.<experiment>.<set>``.

    Within a set the deterministic rows come first.
    """

    def __init__(self, store: Store, prefix: str, model: str) -> None:
        runs = queries.runs(store)
        mine = runs[
            runs["name"].str.startswith(f"{prefix}.") & (runs["model"] == model) & (runs["status"] == "finished")
        ]
        parts = mine["name"].str.split(" ").str[0].str.split(".", expand=True)
        self.runs = mine.assign(
            part=parts[1] if len(mine) else [],
            questions=parts[2] if len(mine) else [],
            card=[json.loads(text) for text in mine["manifest"]],
            bayesian=mine["method"] != "deterministic",
        ).sort_values(["part", "questions", "bayesian", "run_id"])
        ids = self.runs["run_id"].tolist()
        self._datasets = queries.datasets(store)
        self.metrics = queries.metrics(store, ids)
        declared = self.metrics[self.metrics["position_rule"] != "prompt_mean"]
        self._metrics = _Lookup(declared, "run_id", "dataset", "metric", "score")
        everything = queries.comparisons(store)
        self.comparisons = everything[everything["run_id"].isin(ids)]
        self._comparisons = _Lookup(self.comparisons, "run_id", "baseline_run_id", "dataset", "metric", "score")
        self._bins = store.query("SELECT * FROM reliability_bins WHERE scheme = 'equal-width' ORDER BY bin")
        self.efficiency = queries.efficiency(store, ids)
        self.stability = store.query(
            "SELECT run_id, mode, gamma, sum(jaccard * n) / sum(n) AS jaccard, count(*) AS questions "
            "FROM stability_examples GROUP BY ALL ORDER BY ALL"
        )
        self.temperatures = store.query(
            "SELECT run_id, layer, arg_min(value, step) AS first, arg_max(value, step) AS last, min(value) AS least, "
            "max(value) AS most, count(*) AS steps FROM training_log WHERE quantity = 'temperature' "
            "GROUP BY ALL ORDER BY ALL"
        )
        self._training = store.query(
            "SELECT run_id, step, layer, quantity, value FROM training_log "
            "WHERE quantity IN ('validation_nll', 'kept_step', 'kl') ORDER BY ALL"
        )
        self._models = queries.models(store)
        self.leverage = store.query("SELECT * FROM layer_leverage ORDER BY ALL")

    def of(self, part: str, questions: str | None = None) -> pd.DataFrame:
        """The runs of one experiment, on one question set or on all."""
        chosen = self.runs[self.runs["part"] == part]
        return chosen if questions is None else chosen[chosen["questions"] == questions]

    def sets(self) -> list[str]:
        """The question sets of the main experiment."""
        return sorted(self.of("main")["questions"].unique())

    def datasets(self, run: pd.Series, *roles: str) -> list[str]:
        """A run's data sets in the given roles."""
        rows = self._datasets[self._datasets["experiment"] == run["experiment"]]
        return rows[rows["role"].isin(roles)]["dataset"].tolist()

    def value(self, run_id: str, dataset: str, metric: str, score: str = "") -> pd.Series | None:
        """One row of ``metrics``, at the score's first declared position."""
        row = self._metrics.first(run_id, dataset, metric, score)
        return None if row is None or pd.isna(row["value"]) else row

    def kept_step(self, run_id: str) -> tuple[int, int] | None:
        """``(step, steps)``: whose weights a training kept, of how many; 0 is the start.

        Logs from before they said so are read by the rule of training; ``None`` where that rule does not tell.
        """
        rows = self._training[self._training["run_id"] == run_id]
        checks = rows[rows["quantity"] == "validation_nll"]
        if checks.empty:
            return None
        said, steps = rows.loc[rows["quantity"] == "kept_step", "step"], int(checks["step"].max())
        if len(said):
            return int(said.iloc[0]), steps
        run = self.runs[self.runs["run_id"] == run_id].iloc[0]
        training = run["card"].get("spec", {}).get("routers", {}).get("train") or {}
        if run["bayesian"] and training.get("progressive"):
            return None
        return kept_step(list(zip(checks["step"], checks["value"], strict=True)), run["method"]), steps

    def learned(self, run: pd.Series) -> bool | None:
        """Whether a run's posterior has left its prior: as its card says, else by that rule from its training log."""
        measured = (run["card"].get("routing") or {}).get("posterior")
        if measured is not None:
            return None if measured["learned"] is None else bool(measured["learned"])
        kept = self.kept_step(run["run_id"])
        rows = self._training
        rows = rows[(rows["run_id"] == run["run_id"]) & (rows["quantity"] == "kl")]
        if kept is None:
            return None
        last = rows[rows["step"] == rows.loc[rows["step"] <= kept[0], "step"].max()]
        posteriors = [LayerPosterior(int(row["layer"]), float(row["value"]), None, None) for _, row in last.iterrows()]
        return has_learned(posteriors, kept[0])[0]

    def chance_ece(self, run_id: str, dataset: str, calibration: str) -> float | None:
        """ECE of a calibrated model with a run's confidences, ``raw`` or ``temperature-scaled``."""
        rows = self._bins
        rows = rows[(rows["run_id"] == run_id) & (rows["dataset"] == dataset) & (rows["calibration"] == calibration)]
        return chance_ece((int(n), p) for n, p in zip(rows["n"], rows["mean_confidence"], strict=True))

    def at_chance(self, run_id: str, dataset: str, metric: str = "ece") -> bool:
        """Whether a calibration error cannot be told from that of a calibrated model: its interval reaches 0."""
        row = self.value(run_id, dataset, metric)
        return row is None or _number(row["ci_low"]) is None or float(row["ci_low"]) <= 0.0

    def difference(self, run_id: str, baseline: str, dataset: str, metric: str, score: str = "") -> pd.Series | None:
        """One row of ``comparisons``."""
        return self._comparisons.first(run_id, baseline, dataset, metric, score)

    def findings(self) -> list[Finding]:
        """Every claim for fcvr, in-router, on every set, against every deterministic row there is."""
        found = []
        for questions in self.sets():
            runs = self.of("main", questions)
            ours = _one(runs, "fcvr", "in-router", "none")
            if ours is None:
                continue
            for control in ("none", "map-routers", "pretrained-routers", "unadapted"):
                baseline = _one(runs, "deterministic", "none", control)
                if baseline is not None:
                    found += self._against(ours, baseline, questions)
        return found

    def _against(self, ours: pd.Series, baseline: pd.Series, questions: str) -> list[Finding]:
        found = []
        inside = self.datasets(ours, "in-distribution")
        for claim in CLAIMS:
            outside = self.datasets(ours, "near-ood", "far-ood") if claim.metric == "auroc" else inside
            for dataset in outside:
                row = self.difference(ours["run_id"], baseline["run_id"], dataset, claim.metric, claim.score)
                before = self._before(claim, baseline["run_id"], dataset)
                if row is None or before is None:
                    continue
                interval = (_number(row["ci_low"]), _number(row["ci_high"]))
                change = relative_change(claim, float(row["difference"]), *interval, before, int(row["n"]))
                if change is not None:
                    value = before + float(row["difference"])
                    at_chance = claim.metric == "ece" and self.at_chance(baseline["run_id"], dataset)
                    # the prior has a logit variance too: what it ranks is a finding about noise, not about learning
                    word, why = judge(change, claim, learned=self.learned(ours), at_chance=at_chance)
                    matched = None
                    if claim.metric == "auroc":
                        matched = self._matched(claim, ours["run_id"], baseline["run_id"], dataset)
                        length = confirmed(word, matched)
                        if length != word:
                            why = (
                                "too few prompts are equally long" if matched is None else "not on equally long prompts"
                            )
                        word = length
                    name = base_name(baseline)
                    found.append(Finding(claim, questions, dataset, name, value, before, change, word, why, matched))
        return found

    def _matched(self, claim: Claim, ours: str, baseline: str, dataset: str) -> Matched | None:
        """The claim's two scores on equally long prompts; ``None`` where there were too few."""
        first, _, second = claim.score.partition(" vs ")
        value = self.value(ours, dataset, claim.metric, first + MATCHED)
        before = self.value(baseline, dataset, claim.metric, second + MATCHED)
        if value is None or before is None:
            return None
        return Matched(float(value["value"]), float(before["value"]), int(value["n"]))

    def _before(self, claim: Claim, run_id: str, dataset: str) -> float | None:
        if claim.metric == "jaccard":
            mode, gamma = claim.score.split()
            rows = self.stability[(self.stability["run_id"] == run_id) & (self.stability["mode"] == mode)]
            rows = rows[abs(rows["gamma"] - float(gamma)) < 1e-12]
            return None if rows.empty else float(rows.iloc[0]["jaccard"])
        score = claim.score.rpartition(" vs ")[2]
        row = self.value(run_id, dataset, claim.metric, score)
        return None if row is None else float(row["value"])

    def flops(self) -> list[tuple[pd.Series, float, Word]]:
        """(run, extra share of MACs over the paper's number of layers, verdict) of every in-router run with a count.

        All layers of a model cost the same; a model with fewer layers cannot be judged.
        """
        found = []
        for _, run in self.runs[self.runs["estimator"] == "in-router"].iterrows():
            rows = self.efficiency[
                (self.efficiency["run_id"] == run["run_id"]) & (self.efficiency["quantity"] == FLOPS.metric)
            ]
            if len(rows):
                share = (float(rows.iloc[0]["ratio"]) - 1.0) * FLOPS_LAYERS / len(run["layers"])
                layers = self._models.loc[self._models["model"] == run["model"], "moe_layers"].iloc[0]
                found.append((run, share, flops_verdict(share) if len(layers) >= FLOPS_LAYERS else "cannot judge"))
        return found


def base_name(run: pd.Series) -> str:
    """What a deterministic row stands for."""
    base = run["card"].get("base", {"base": "pretrained", "adapter_sha256": None})
    routers = {"pretrained": "pretrained routers", "map": "MAP routers", "unadapted": "model as loaded"}[base["base"]]
    return routers + (", adapted" if base.get("adapter_sha256") else "")


def _one(runs: pd.DataFrame, method: str, estimator: str, control: str) -> pd.Series | None:
    rows = runs[(runs["method"] == method) & (runs["estimator"] == estimator) & (runs["control"] == control)]
    return None if rows.empty else rows.iloc[0]


def _number(value: object) -> float | None:
    return None if value is None or pd.isna(value) else float(value)  # type: ignore[arg-type, call-overload]
