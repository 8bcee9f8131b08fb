"""The summarised half of the synthetic data folder of :mod:`tests.store.factory`: metrics, layers, costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from store.shards import write_shard

DATASETS = (
    {"dataset": "synthetic-id", "role": "in-distribution"},
    {"dataset": "synthetic-near", "role": "near-ood"},
    {"dataset": "synthetic-far", "role": "far-ood"},
)
VARIANTS = ("deterministic", "fcvr", "fcvr-predictive", "fcvr-untrained", "fcvr-noise")
BINS = 15


def run_id(variant: str, model: str = "synthetic-moe") -> str:
    """The run id the factory gives to one of ``VARIANTS``."""
    method = "deterministic" if variant == "deterministic" else "fcvr"
    estimator = {"deterministic": "none", "fcvr-predictive": "predictive"}.get(variant, "in-router")
    control = {"fcvr-untrained": ".untrained", "fcvr-noise": ".noise"}.get(variant, "")
    return f"{model}.{method}.{estimator}{control}.00000000"


class Variant:
    """One variant; draws that must agree between runs come from ``shared``, the rest from ``own``."""

    def __init__(
        self,
        home: Path,
        variant: str,
        model: str,
        layers: int,
        experts: int,
        top_k: int,
        examples: int,
        seed: int,
        text: bool,
        tokens: tuple[int, int],
    ) -> None:
        self.home, self.variant, self.model, self.text, self.tokens = home, variant, model, text, tokens
        self.layers, self.experts, self.top_k, self.examples = layers, experts, top_k, examples
        self.id = run_id(variant, model)
        self.bayesian = variant != "deterministic"
        self.shared = np.random.default_rng([seed, 0])
        self.own = np.random.default_rng([seed, 1 + VARIANTS.index(variant)])
        # How much a variant's answers sharpen, and how well its scores tell sets apart: chosen for looks, not measured.
        self.sharpness = {"deterministic": 2.6, "fcvr": 1.7, "fcvr-predictive": 1.6}.get(variant, 2.3)
        self.chosen_layers = list(range(layers))[-max(1, layers // 3) :] if self.bayesian else []

    def write_metrics(
        self,
        predictions: dict[str, dict[str, Any]],
        scores: dict[tuple[str, str, str], dict[str, np.ndarray]],
    ) -> None:
        rows: list[dict[str, Any]] = []
        for name, answered in predictions.items():
            n = len(answered["example_id"])
            bins = self._reliability(name, answered)
            gap = [b["n"] / n * abs(b["accuracy"] - b["mean_confidence"]) for b in bins if b["n"]]
            onehot = np.eye(4)[answered["answer_index"]]
            values = {
                "accuracy": float(answered["correct"].mean()),
                "ece": float(sum(gap)),
                "ece_adaptive": float(sum(gap)) * 0.95,
                "mce": None if n < 10 else float(max(gap)),
                "nll": float(answered["nll"].mean()),
                "brier": float(((answered["probs"] - onehot) ** 2).sum(1).mean()),
                "temperature": 1.3,
            }
            values |= {f"{m}_ts": 0.8 * values[m] for m in ("ece", "ece_adaptive", "nll", "brier")}  # type: ignore[operator]
            for metric, value in values.items():
                direction = "higher" if metric == "accuracy" else "none" if metric == "temperature" else "lower"
                rows.append(_metric(name, metric, value, n, direction))
        reference = DATASETS[0]["dataset"]
        for (score, rule, aggregation), by_set in scores.items():
            for name in by_set:
                if name == reference:
                    continue
                auroc = _auroc(by_set[reference], by_set[name])
                n = len(by_set[reference]) + len(by_set[name])
                note = "inverted: below 0.5" if auroc < 0.5 else None
                key = {"score": score, "position_rule": rule, "aggregation": aggregation}
                rows.append(_metric(name, "auroc", auroc, n, "higher", note, **key))
                rows.append(_metric(name, "auprc", min(1.0, auroc + 0.02), n, "higher", None, **key))
                rows.append(_metric(name, "fpr95", 1 - auroc * 0.6, n, "lower", None, **key))
        write_shard(self.home, "metrics", self.id, "all", _columns(rows))
        if self.bayesian:
            self._comparisons(rows)

    def _comparisons(self, metrics: list[dict[str, Any]]) -> None:
        rows = []
        for row in metrics:
            if row["metric"] in ("accuracy", "ece", "nll", "brier", "auroc") and row["position_rule"] in (
                "answer",
                "none",
            ):
                difference = float(self.own.normal(0, 0.03))
                rows.append(
                    {
                        "baseline_run_id": run_id("deterministic", self.model),
                        "dataset": row["dataset"],
                        "metric": row["metric"],
                        "score": row["score"],
                        "difference": difference,
                        "ci_low": difference - 0.03,
                        "ci_high": difference + 0.03,
                        "n": row["n"],
                        "direction": row["direction"],
                    }
                )
        write_shard(self.home, "comparisons", self.id, "all", _columns(rows))

    def _reliability(self, name: str, answered: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for calibration in ("raw", "temperature-scaled"):
            for scheme in ("equal-width", "adaptive"):
                confidence = answered["confidence"] ** (1.0 if calibration == "raw" else 1.2)
                edges = np.linspace(0, 1, BINS + 1)
                if scheme == "adaptive":
                    edges = np.quantile(confidence, edges)
                for number in range(BINS):
                    low, high = float(edges[number]), float(edges[number + 1])
                    inside = (confidence > low) & (confidence <= high)
                    if number == 0:
                        inside |= confidence == low
                    n = int(inside.sum())
                    accuracy = float(answered["correct"][inside].mean()) if n else None
                    half = 1.0 / np.sqrt(n + 4) if n else 0.0
                    rows.append(
                        {
                            "dataset": name,
                            "calibration": calibration,
                            "scheme": scheme,
                            "bin": number,
                            "lower": low,
                            "upper": high,
                            "n": n,
                            "mean_confidence": float(confidence[inside].mean()) if n else None,
                            "accuracy": accuracy,
                            "ci_low": None if accuracy is None else max(0.0, accuracy - half),
                            "ci_high": None if accuracy is None else min(1.0, accuracy + half),
                        }
                    )
        write_shard(self.home, "reliability_bins", self.id, name, _columns(rows))
        return rows[:BINS]

    def write_layers(self) -> None:
        depth = np.linspace(0, 1, self.layers)
        chance = self.top_k / (2 * self.experts - self.top_k)
        threshold = chance + 0.75 * (1 - chance)
        rows = []
        for mode in ("router", "propagated"):
            for gamma in (0.001, 0.01, 0.1, 0.5, 1.0):
                drop = (1 - np.exp(-3 * gamma * (0.3 + depth))) * (1.0 if mode == "router" else 1.2)
                jaccard = np.clip(1 - (1 - chance) * drop, 0, 1) - 0.01 * self.shared.random(self.layers)
                for layer, value in enumerate(jaccard):
                    rows.append(
                        {
                            "mode": mode,
                            "gamma": gamma,
                            "layer": layer,
                            "jaccard": float(value),
                            "ci_low": float(value) - 0.01,
                            "ci_high": min(1.0, float(value) + 0.01),
                            "chance": chance,
                            "threshold": threshold,
                            "susceptible": bool(value < threshold),
                            "n": 1000,
                            "quantiles": np.clip(value + 0.1 * np.linspace(-1, 1, 7), 0, 1).tolist(),
                        }
                    )
        write_shard(self.home, "layer_susceptibility", self.id, "all", _columns(rows))
        rows = [
            {"mode": "router", "gamma": 0.01, "example_id": f"q{number}", "jaccard": 0.6 + 0.01 * number, "n": 20}
            for number in range(12)
        ]
        write_shard(self.home, "stability_examples", self.id, "all", _columns(rows))
        rows = [
            {
                "comparison": comparison,
                "layer": layer,
                "changed": 10 * (layer % 5),
                "share_changed": 0.01 * (layer % 5),
                "ci_low": 0.0,
                "ci_high": 0.01 * (layer % 5) + 0.005,
                "jaccard": 1 - 0.005 * (layer % 5),
                "n": 1000,
            }
            for comparison in ("bfloat16", "grouped_mm")
            for layer in range(len(depth))
        ]
        write_shard(self.home, "noise_floor", self.id, "all", _columns(rows))
        rows = []
        for scope, layer, change in [
            *(("layer", layer, -0.12 * float(np.exp(-8 * (d - 0.4) ** 2))) for layer, d in enumerate(depth)),
            ("chosen", -1, -0.2),
            ("all", -1, -0.3),
        ]:
            for intervention, factor in (("random-routing", 1.0), ("zero-block", 1.6)):
                rows.append(
                    {
                        "intervention": intervention,
                        "scope": scope,
                        "layer": layer,
                        "accuracy": 0.6 + factor * change,
                        "accuracy_change": factor * change,
                        "accuracy_ci_low": factor * change - 0.03,
                        "accuracy_ci_high": factor * change + 0.03,
                        "nll_change": -3 * factor * change,
                        "nll_ci_low": -3 * factor * change - 0.05,
                        "nll_ci_high": -3 * factor * change + 0.05,
                        "draws": 3,
                        "n": self.examples,
                    }
                )
        write_shard(self.home, "layer_leverage", self.id, "all", _columns(rows))

    def write_costs(self) -> None:
        slower = 1.15 if self.bayesian else 1.0
        costs = [
            ("wall_seconds", 20.0 * slower, 20.0, "s"),
            ("tokens_per_second", 900.0 / slower, 900.0, "tokens/s"),
            ("extra_mac_share", slower - 1, None, "fraction"),
        ]
        rows = [{"quantity": q, "value": v, "baseline": b, "unit": u} for q, v, b, u in costs]
        write_shard(self.home, "efficiency", self.id, "all", _columns(rows))
        if self.bayesian and self.variant != "fcvr-untrained":
            steps = np.arange(0, 200, 10)
            rows = []
            for quantity, start, end in (("loss", 1.5, 1.1), ("task_loss", 1.4, 1.05), ("validation_nll", 1.45, 1.2)):
                decay = end + (start - end) * np.exp(-steps / 60)
                rows += [
                    {"step": int(s), "layer": -1, "quantity": quantity, "value": float(v)}
                    for s, v in zip(steps, decay, strict=True)
                ]
            for layer in self.chosen_layers:
                rows += [
                    {"step": int(s), "layer": layer, "quantity": "kl", "value": float(0.1 + s / 1000)} for s in steps
                ]
            write_shard(self.home, "training_log", self.id, "all", _columns(rows))


def _metric(
    dataset: str,
    metric: str,
    value: float | None,
    n: int,
    direction: str,
    note: str | None = None,
    score: str = "",
    position_rule: str = "none",
    aggregation: str = "none",
) -> dict[str, Any]:
    half = None if value is None else 1 / np.sqrt(n) * 0.5
    return {
        "dataset": dataset,
        "metric": metric,
        "score": score,
        "position_rule": position_rule,
        "aggregation": aggregation,
        "value": value,
        "ci_low": None if value is None or half is None else max(0.0, value - half),
        "ci_high": None if value is None or half is None else value + half,
        "n": n,
        "direction": direction,
        "n_bootstrap": 1000,
        "note": note,
    }


def _auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an out-of-distribution value is the larger one, ties counted half."""
    return float((outside[:, None] > inside).mean() + 0.5 * (outside[:, None] == inside).mean())


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
