"""The bundled `worldfacts-moe`: loads the same way twice, answers held-out questions, and needs its routing."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from pipelines.data.worldfacts import split_path

FOLDER = Path(__file__).parents[2] / "vmoer" / "bundled" / "worldfacts-moe"


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return pq.read_table(split_path("test")).slice(0, 200).to_pylist()


@torch.no_grad()
def option_scores(model: Any, tokenizer: Any, questions: list[dict[str, Any]], side: str = "right") -> torch.Tensor:
    """Mean log-likelihood per option token in nats `[questions, 4]`."""
    sequences, option_lengths = [], []
    for row in questions:
        prompt = tokenizer(likelihood_prompt(row["question"]))["input_ids"]
        for choice in row["choices"]:
            option = tokenizer(likelihood_option(choice))["input_ids"]
            sequences.append(prompt + option)
            option_lengths.append(len(option))
    tokenizer.padding_side = side
    batch = tokenizer.pad({"input_ids": sequences}, return_tensors="pt")
    log_probabilities = model(**batch, use_cache=False).logits.log_softmax(-1)
    scores = []
    for row, (sequence, n) in enumerate(zip(sequences, option_lengths, strict=True)):
        end = len(sequence) if side == "right" else batch["input_ids"].shape[1]
        at = torch.arange(end - n - 1, end - 1)
        scores.append(log_probabilities[row, at, torch.tensor(sequence[-n:])].mean())
    return torch.stack(scores).view(-1, 4)


def accuracy(scores: torch.Tensor, questions: list[dict[str, Any]]) -> float:
    right = torch.tensor([row["answer"] for row in questions])
    return float((scores.argmax(1) == right).float().mean())


def test_two_loads_are_bit_identical_and_complete(model: Any) -> None:
    again, report = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for (name, first), (_, second) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(first, second), name


def test_special_tokens_agree_between_tokenizer_and_config(model: Any, tokenizer: Any) -> None:
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(model.config, name) == getattr(tokenizer, name) is not None
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")


@pytest.mark.parametrize("text", ["", "Zürich 東京 🦆", "\x00\x7f\t\r\n", "<pad> </s>x", "\ud7ff\uffff", "a" * 400])
def test_any_text_survives_tokenisation(model: Any, tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < model.config.vocab_size for i in ids)


def test_held_out_questions_are_answered_well_above_chance(model: Any, tokenizer: Any, questions: list[dict]) -> None:
    assert accuracy(option_scores(model, tokenizer, questions), questions) >= 0.50


def test_padding_side_does_not_change_scores(model: Any, tokenizer: Any, questions: list[dict]) -> None:
    right = option_scores(model, tokenizer, questions[:20], "right")
    left = option_scores(model, tokenizer, questions[:20], "left")
    assert torch.allclose(right, left, atol=1e-4)


def test_random_routing_costs_accuracy(model: Any, tokenizer: Any, questions: list[dict]) -> None:
    """Leverage of all layers together, three draws: without it no Bayesian router could show anything."""
    undisturbed = accuracy(option_scores(model, tokenizer, questions), questions)
    disturbed = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)

        def scatter(module: Any, _args: Any, output: Any, generator: torch.Generator = generator) -> Any:
            logits, weights, index = output
            draws = torch.rand(logits.shape, generator=generator).topk(index.shape[1], dim=-1).indices
            return logits, torch.full_like(weights, 1 / module.top_k), draws

        hooks = [layer.block_sparse_moe.router.register_forward_hook(scatter) for layer in model.model.layers]
        disturbed.append(accuracy(option_scores(model, tokenizer, questions), questions))
        for hook in hooks:
            hook.remove()
    assert undisturbed - sum(disturbed) / 3 >= 0.05


def test_weights_are_those_of_the_recipe_and_card(questions: list[dict]) -> None:
    record = yaml.safe_load((FOLDER / "recipe.yaml").read_text(encoding="utf-8"))
    assert record["pretrain_sha256"] == hashlib.sha256(split_path("pretrain").read_bytes()).hexdigest()
    weights = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert record["weights_sha256"] == weights
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{record['figures']['splits']['test']['normalised']['accuracy']:.3f}" in card
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_000_000
