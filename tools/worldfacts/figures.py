"""Accuracy, calibration and routing leverage of a small causal MoE model on four-option questions.

Kept apart from the product's evaluation stages on purpose: the figures in the model card must be reproducible from
this folder alone, with nothing but torch, transformers and pyarrow.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from pipelines.data.worldfacts import split_path


def read_questions(split: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a split as dictionaries."""
    table = pq.read_table(split_path(split), columns=["question", "choices", "answer", "subject", "fact"])
    return table.slice(0, limit).to_pylist()


@dataclass(frozen=True)
class OptionScores:
    """Log-likelihoods of the options in nats `[questions, 4]`, their token counts, and the right options."""

    log_likelihood: np.ndarray
    tokens: np.ndarray
    answer: np.ndarray

    def probabilities(self, normalised: bool = True) -> np.ndarray:
        """Softmax over the options of mean (normalised) or summed log-likelihood per option `[questions, 4]`."""
        scores = self.log_likelihood / self.tokens if normalised else self.log_likelihood
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def correct(self, normalised: bool = True) -> np.ndarray:
        """1.0 where the likeliest option is right, else 0.0 `[questions]`."""
        return (self.probabilities(normalised).argmax(axis=1) == self.answer).astype(float)

    def nll(self, normalised: bool = True) -> np.ndarray:
        """Negative log probability of the right option in nats `[questions]`."""
        chosen = self.probabilities(normalised)[np.arange(len(self.answer)), self.answer]
        return -np.log(np.maximum(chosen, 1e-12))

    def ece(self, normalised: bool = True, bins: int = 15) -> float:
        """Expected calibration error over `bins` equal-width bins, a fraction."""
        confidence = self.probabilities(normalised).max(axis=1)
        bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
        gaps = np.bincount(bin_of, confidence - self.correct(normalised), bins)
        return float(np.abs(gaps).sum() / len(confidence))


@torch.no_grad()
def score_options(model: Any, tokenizer: Any, questions: Sequence[dict[str, Any]], batch: int = 256) -> OptionScores:
    """Log-likelihood of every option after its prompt; sequences are batched by length, right padding is ignored."""
    sequences, spans = [], []
    for row in questions:
        prompt = tokenizer(likelihood_prompt(row["question"]), add_special_tokens=False)["input_ids"]
        for choice in row["choices"]:
            option = tokenizer(likelihood_option(choice), add_special_tokens=False)["input_ids"]
            sequences.append(prompt + option)
            spans.append(len(option))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    totals = np.zeros(len(sequences))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = len(sequences[chosen[-1]])
        ids = torch.full((len(chosen), longest), tokenizer.pad_token_id)
        option_mask = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for row_index, i in enumerate(chosen):
            length = len(sequences[i])
            ids[row_index, :length] = torch.tensor(sequences[i])
            option_mask[row_index, length - spans[i] : length] = True
        log_probabilities = model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        token_scores = log_probabilities.gather(-1, ids[:, 1:, None]).squeeze(-1)
        totals[chosen] = token_scores.masked_fill(~option_mask[:, 1:], 0.0).sum(dim=1).numpy()
    answers = np.array([row["answer"] for row in questions])
    return OptionScores(totals.reshape(-1, 4), np.array(spans).reshape(-1, 4), answers)


@contextmanager
def random_routing(model: Any, layers: Sequence[int], generator: torch.Generator) -> Iterator[None]:
    """Inside, each token of the given layers goes to uniformly random distinct experts with equal weights."""

    def scatter(module: Any, _args: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits, weights, index = output
        draws = torch.rand(logits.shape, generator=generator)
        return logits, torch.full_like(weights, 1 / module.top_k), draws.topk(index.shape[1], dim=-1).indices

    handles = [model.model.layers[i].block_sparse_moe.router.register_forward_hook(scatter) for i in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def zeroed_blocks(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Inside, the MoE blocks of the given layers add nothing to the residual stream."""
    handles = [
        model.model.layers[i].block_sparse_moe.register_forward_hook(lambda _m, _a, output: output * 0) for i in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Difference:
    """Paired mean difference to the undisturbed model with its standard error over questions."""

    mean: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the 95 % interval (normal approximation)."""
        return self.mean - 1.96 * self.standard_error, self.mean + 1.96 * self.standard_error


def leverage(
    model: Any,
    tokenizer: Any,
    questions: Sequence[dict[str, Any]],
    layers: Sequence[int],
    draws: int = 3,
    seed: int = 0,
    normalised: bool = True,
) -> tuple[Difference, Difference]:
    """Change of accuracy (a fraction) and of NLL (nats) under random routing in `layers`, mean of `draws`."""
    base = score_options(model, tokenizer, questions)
    correct, nll = [], []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed * 1000 + draw)
        with random_routing(model, layers, generator):
            scores = score_options(model, tokenizer, questions)
        correct.append(scores.correct(normalised))
        nll.append(scores.nll(normalised))

    def paired(disturbed: list[np.ndarray], undisturbed: np.ndarray) -> Difference:
        change = np.mean(disturbed, axis=0) - undisturbed
        return Difference(float(change.mean()), float(change.std(ddof=1) / math.sqrt(len(change))))

    return paired(correct, base.correct(normalised)), paired(nll, base.nll(normalised))


def report(model: Any, tokenizer: Any, draws: int = 3) -> dict[str, Any]:
    """Every figure of the model card: per split and scoring, and leverage per layer on the test questions."""
    figures: dict[str, Any] = {"splits": {}, "leverage": {}}
    for split in ("pretrain", "train", "validation", "test", "near-ood", "far-ood"):
        questions = read_questions(split, 1000)
        scores = score_options(model, tokenizer, questions)
        entry: dict[str, Any] = {"n": len(questions)}
        for normalised, name in ((True, "normalised"), (False, "summed")):
            accuracy = float(scores.correct(normalised).mean())
            entry[name] = {
                "accuracy": round(accuracy, 4),
                "standard_error": round(math.sqrt(accuracy * (1 - accuracy) / len(questions)), 4),
                "nll": round(float(scores.nll(normalised).mean()), 4),
                "ece": round(scores.ece(normalised), 4),
                "confidence": round(float(scores.probabilities(normalised).max(axis=1).mean()), 4),
            }
        figures["splits"][split] = entry
    questions = read_questions("test")
    undisturbed = score_options(model, tokenizer, questions).correct().mean()
    depth = model.config.num_hidden_layers
    for layers in [[i] for i in range(depth)] + [list(range(depth))]:
        accuracy_change, nll_change = leverage(model, tokenizer, questions, layers, draws)
        summed_change, _ = leverage(model, tokenizer, questions, layers, draws, normalised=False)
        with zeroed_blocks(model, layers):
            zeroed = score_options(model, tokenizer, questions).correct().mean()
        figures["leverage"]["all" if len(layers) > 1 else str(layers[0])] = {
            "n": len(questions),
            "draws": draws,
            "accuracy_change": round(accuracy_change.mean, 4),
            "interval": [round(bound, 4) for bound in accuracy_change.interval],
            "accuracy_change_summed": round(summed_change.mean, 4),
            "nll_change": round(nll_change.mean, 4),
            "zeroed_accuracy_change": round(float(zeroed - undisturbed), 4),
        }
    return figures
