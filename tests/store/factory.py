"""A synthetic data folder made through the store's public functions: for tests and page development.

Everything in it is drawn from a seeded generator and marked synthetic; the numbers are plausible, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.catalog import RunManifest, seal, write_manifest
from store.publish import publish
from store.shards import write_shard
from tests.store.factory_results import DATASETS, VARIANTS, Variant, run_id

__all__ = ["DATASETS", "EXPERIMENT", "VARIANTS", "make_store", "run_id"]

EXPERIMENT = "5e5e5e5e5e5e5e5e"
STARTED = "2026-01-01T12:00:00+00:00"


def make_store(
    home: str | Path,
    *,
    runs: Sequence[str] = VARIANTS,
    layers: int = 30,
    experts: int = 16,
    top_k: int = 8,
    examples: int = 20,
    seed: int = 0,
    model: str = "synthetic-moe",
    status: str = "finished",
    text: bool = True,
    tokens: tuple[int, int] = (6, 15),
    publish_now: bool = True,
) -> list[str]:
    """The ids of the runs written below ``home``; every variant sees the same examples."""
    made = []
    for index, variant in enumerate(runs):
        if variant not in VARIANTS:
            raise ValueError(f"{variant!r} is not one of {', '.join(VARIANTS)}")
        made.append(
            _Run(Path(home), variant, model, layers, experts, top_k, examples, seed, text, tokens).write(status, index)
        )
    if publish_now:
        publish(home)
    return made


class _Run(Variant):
    """One run's manifest, facts and answers; what is summarised from them is its base's."""

    def write(self, status: str, index: int) -> str:
        manifest = self._manifest(status, index)
        write_manifest(self.home, manifest)
        scores: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
        predictions: dict[str, dict[str, Any]] = {}
        for dataset in DATASETS:
            name, role = dataset["dataset"], dataset["role"]
            lengths = self.shared.integers(*self.tokens, size=self.examples)
            ids = [f"{name}-{i:04d}" for i in range(self.examples)]
            self._facts(name, role, ids, lengths)
            predictions[name] = self._predictions(name, role, ids)
            self._scores(name, role, ids, predictions[name], scores)
        self.write_metrics(predictions, scores)
        self.write_layers()
        self.write_costs()
        seal(self.home, self.id)
        return self.id

    def _manifest(self, status: str, index: int) -> RunManifest:
        estimator = {"deterministic": "none", "fcvr-predictive": "predictive"}.get(self.variant, "in-router")
        control = {"fcvr-untrained": "untrained", "fcvr-noise": "non-routing-noise"}.get(self.variant, "none")
        return RunManifest(
            run_id=self.id,
            experiment=EXPERIMENT,
            name="synthetic",
            model={
                "model": self.model,
                "architecture": "SyntheticMoe",
                "source": "drawn from a seeded generator",
                "n_layers": self.layers,
                "moe_layers": list(range(self.layers)),
                "n_experts": self.experts,
                "top_k": self.top_k,
                "n_parameters": 1_000_000,
                "weights_sha256": "f00d" * 16,
                "synthetic": True,
            },
            method="fcvr" if self.bayesian else "deterministic",
            estimator=estimator,
            control=control,
            layers=self.chosen_layers,
            samples=35 if self.bayesian else 1,
            seed=0,
            dtype="float32",
            device="cpu",
            scoring="likelihood",
            routers="synthetic" if self.bayesian else None,
            status=status,
            error="the synthetic run was told to fail" if status == "failed" else None,
            n_tokens=None,
            started_at=f"2026-01-01T12:{index:02d}:00+00:00",
            ended_at=f"2026-01-01T13:{index:02d}:00+00:00" if status == "finished" else None,
            datasets=[
                {**dataset, "source": "synthetic", "n": self.examples, "content_sha256": "f00d" * 16}
                for dataset in DATASETS
            ],
            card={"spec": {"model": self.model, "synthetic": True}, "versions": {"vmoer": "0"}, "commit": "f00d" * 10},
        )

    def _facts(self, name: str, role: str, ids: list[str], lengths: np.ndarray) -> None:
        n_tokens, n_layers = int(lengths.sum()), self.layers
        example = np.repeat(np.array(ids, dtype=object), lengths)
        position = np.concatenate([np.arange(length) for length in lengths]).astype(np.uint32)
        token_id = self.shared.integers(0, 32_000, n_tokens).astype(np.uint32)
        choices = [["first", "second", "third", "fourth"]] * len(ids)
        write_shard(
            self.home,
            "examples",
            self.id,
            name,
            {
                "dataset": name,
                "example_id": ids,
                "role": role,
                "text_sha256": "f00d" * 16,
                "prompt": [f"Question: synthetic question {i}?\nAnswer:" for i in ids] if self.text else None,
                "choices": choices if self.text else None,
                "answer_index": np.zeros(len(ids), np.uint8),
                "n_tokens": lengths.astype(np.uint32),
            },
        )
        write_shard(
            self.home,
            "tokens",
            self.id,
            name,
            {
                "dataset": name,
                "example_id": example,
                "position": position,
                "token_id": token_id,
                "token": [f"▁w{i}" for i in token_id] if self.text else None,
                "phase": "prefill",
            },
        )
        base = self.shared.normal(size=(n_tokens, n_layers, self.experts)) + self._popularity()
        depth = np.linspace(0, 1, n_layers)
        noise = 0.6 * (0.3 + depth) if self.bayesian else np.zeros(n_layers)
        noise = np.where(np.isin(np.arange(n_layers), self.chosen_layers), noise, 0.15 * noise)
        logits = base + self.own.normal(size=base.shape) * noise[None, :, None]
        order = np.argsort(-logits, axis=-1)
        index = order[..., : self.top_k]
        base_index = np.argsort(-base, axis=-1)[..., : self.top_k]
        top = np.take_along_axis(logits, index, -1)
        gates = np.exp(top - top.max(-1, keepdims=True))
        gates /= gates.sum(-1, keepdims=True)
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        ranked = np.take_along_axis(probs, order, -1)
        margin = ranked[..., self.top_k - 1] - ranked[..., min(self.top_k, self.experts - 1)]
        overlap = (index[..., :, None] == base_index[..., None, :]).sum((-1, -2))
        shift = {"in-distribution": 0.0, "near-ood": 0.15, "far-ood": 0.35}[role]
        variance = self.own.gamma(4, 0.25 * (1 + shift), (n_tokens, n_layers)) * (0.5 + depth)
        hidden = ~np.isin(np.arange(n_layers), self.chosen_layers)
        masked = np.ma.MaskedArray(variance, np.broadcast_to(hidden, variance.shape))
        write_shard(
            self.home,
            "routing",
            self.id,
            name,
            {
                "dataset": name,
                "example_id": np.repeat(example, n_layers),
                "position": np.repeat(position, n_layers),
                "layer": np.tile(np.arange(n_layers, dtype=np.uint16), n_tokens),
                "expert_index": index.reshape(-1, self.top_k).astype(np.uint16),
                "gate_weight": gates.reshape(-1, self.top_k).astype(np.float32),
                "selection_score": None,
                "base_expert_index": base_index.reshape(-1, self.top_k).astype(np.uint16),
                "overlap": overlap.reshape(-1).astype(np.uint16),
                "top_k_margin": margin.reshape(-1).astype(np.float32),
                "routing_entropy": (-(probs * np.log(probs + 1e-12)).sum(-1)).reshape(-1).astype(np.float32),
                "logit_variance": masked.reshape(-1).astype(np.float32),
                "logit_variance_mc": (masked * 1.02).reshape(-1).astype(np.float32),
                "temperature": None,
            },
        )

    def _popularity(self) -> np.ndarray:
        """Some experts are liked more than others, differently in each layer: ``[layers, experts]``."""
        return np.random.default_rng([7, self.layers, self.experts]).normal(0, 0.5, (self.layers, self.experts))

    def _predictions(self, name: str, role: str, ids: list[str]) -> dict[str, Any]:
        signal = {"in-distribution": 1.1, "near-ood": 0.5, "far-ood": 0.1}[role]
        base = self.shared.normal(size=(len(ids), 4))
        answer = self.shared.integers(0, 4, len(ids))
        base[np.arange(len(ids)), answer] += signal
        scores = self.sharpness * (base + 0.1 * self.own.normal(size=base.shape))
        probs = np.exp(scores - scores.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        rows: dict[str, Any] = {
            "dataset": name,
            "example_id": ids,
            "role": role,
            "probs": probs,
            "answer_index": answer.astype(np.uint8),
            "predicted": probs.argmax(1).astype(np.uint8),
            "correct": probs.argmax(1) == answer,
            "confidence": probs.max(1),
            "nll": -np.log(probs[np.arange(len(ids)), answer]),
            "predictive_entropy": -(probs * np.log(probs)).sum(1),
            "mutual_information": None,
            "variation_ratio": None,
            "option_scores": scores,
            "option_tokens": np.full((len(ids), 4), 2, np.uint16),
        }
        if self.variant == "fcvr-predictive":
            rows["mutual_information"] = 0.1 * rows["predictive_entropy"] * self.own.random(len(ids))
            rows["variation_ratio"] = 0.5 * (1 - rows["confidence"])
        write_shard(self.home, "predictions", self.id, name, rows)
        return rows

    def _scores(
        self,
        name: str,
        role: str,
        ids: list[str],
        predictions: dict[str, Any],
        collected: dict[tuple[str, str, str], dict[str, np.ndarray]],
    ) -> None:
        shift = {"in-distribution": 0.0, "near-ood": 0.6, "far-ood": 1.4}[role]
        values = {
            ("answer_entropy", "answer", "none"): predictions["predictive_entropy"],
            ("one_minus_max_prob", "answer", "none"): 1 - predictions["confidence"],
        }
        for rule in ("final_prompt_token", "prompt_mean"):
            values["gate_entropy", rule, "mean_layers"] = 2 + 0.1 * (0.3 * shift + self.own.normal(size=len(ids)))
            if self.bayesian:
                values["logit_variance", rule, "mean_layers"] = np.exp(0.5 * shift + self.own.normal(size=len(ids)))
        if predictions["mutual_information"] is not None:
            values["mutual_information", "answer", "none"] = predictions["mutual_information"]
        keys = [np.repeat(np.array(column, dtype=object), len(ids)) for column in zip(*values, strict=True)]
        write_shard(
            self.home,
            "ood_scores",
            self.id,
            name,
            {
                "dataset": name,
                "example_id": ids * len(values),
                "role": role,
                "score": keys[0],
                "position_rule": keys[1],
                "aggregation": keys[2],
                "value": np.concatenate(list(values.values())),
            },
        )
        for key, value in values.items():
            collected.setdefault(key, {})[name] = value
