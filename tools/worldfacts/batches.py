"""Training batches of `worldfacts-moe`: tokenizer, tokenised questions, and the mix of domains in a batch."""

import itertools
import json
import random
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from tools.worldfacts.questions import CITY_TEMPLATES
from tools.worldfacts.recipe import Recipe


def train_tokenizer(recipe: Recipe, questions: list[dict[str, Any]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text is encodable. Trained on training questions in the proportions of the batches."""
    rng = random.Random(recipe.seed)
    pools = by_domain(questions)
    shares = domain_shares(recipe)
    texts = [
        likelihood_prompt(row["question"]) + likelihood_option(row["choices"][row["answer"]])
        for name, pool in pools.items()
        for row in rng.choices(pool, k=round(recipe.tokenizer_texts * shares[name]))
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106 - a token of text
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def by_domain(questions: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The questions of each of the three domains the batches mix."""
    pools: dict[str, list[dict[str, Any]]] = {"city": [], "country": [], "element": []}
    for row in questions:
        pools[row["subject"].split("-")[0]].append(row)
    return pools


def domain_shares(recipe: Recipe) -> dict[str, float]:
    """Share of each domain in a batch."""
    rest = 1 - recipe.city_share - recipe.country_share
    return {"city": recipe.city_share, "country": recipe.country_share, "element": rest}


class NameDropout:
    """Encodes prompts with BPE dropout on the city's name (Provilkov et al. 2020), reproducibly.

    The tokenizers library has it too, but draws from a generator that cannot be seeded.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, probability: float, rng: random.Random) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._vocabulary = tokenizer.get_vocab()
        merges = json.loads(self._backend.to_str())["model"]["merges"]
        self._rank = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self._probability = probability
        self._rng = rng

    def __call__(self, question: str) -> list[int]:
        """Token ids of the prompt of `question`."""
        prompt = likelihood_prompt(question)
        start, end = self._name_span(prompt)
        ids: list[int] = []
        for piece, (piece_start, piece_end) in self._backend.pre_tokenizer.pre_tokenize_str(prompt):
            in_name = piece_start < end and piece_end > start
            ids += self._encode(piece, self._probability if in_name else 0.0)
        return ids

    @staticmethod
    def _name_span(prompt: str) -> tuple[int, int]:
        for template in CITY_TEMPLATES:
            before, after = likelihood_prompt(template).split("{}")
            if prompt.startswith(before) and prompt.endswith(after):
                return len(before), len(prompt) - len(after)
        raise ValueError(f"{prompt!r} is in none of the wordings of city questions")

    def _encode(self, piece: str, probability: float) -> list[int]:
        symbols = list(piece)
        while len(symbols) > 1:
            ranked = [
                (self._rank[pair], i)
                for i, pair in enumerate(itertools.pairwise(symbols))
                if pair in self._rank and self._rng.random() >= probability
            ]
            if not ranked:
                break
            _, i = min(ranked)
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        return [self._vocabulary[symbol] for symbol in symbols]


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its options, the right one first; no end token yet."""

    prompt: list[int]
    options: list[list[int]]


@dataclass(frozen=True)
class Batch:
    """Right answers in the first `questions` rows, then three wrong options for each of the first few of them."""

    ids: torch.Tensor  # [rows, length]
    option: torch.Tensor  # tokens of the option
    target: torch.Tensor  # tokens of the answer loss: the right option and the end token
    real: torch.Tensor  # not padding
    questions: int


def encode(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]]) -> dict[str, list[Example]]:
    """Tokenised questions by domain, city questions `tokenisations` times."""
    drop = NameDropout(tokenizer, recipe.bpe_dropout, random.Random(recipe.seed + 1))
    examples: dict[str, list[Example]] = {}
    for domain, pool in by_domain(rows).items():
        examples[domain] = []
        for row in pool:
            right, *wrong = [row["choices"][(row["answer"] + shift) % 4] for shift in range(4)]
            choices = [tokenizer(likelihood_option(choice))["input_ids"] for choice in (right, *wrong)]
            examples[domain].append(Example(tokenizer(likelihood_prompt(row["question"]))["input_ids"], choices))
            if domain == "city":
                for _ in range(recipe.tokenisations - 1):
                    examples[domain].append(Example(drop(row["question"]), choices))
    return examples


class Batches:
    """Endless batches in the recipe's proportions; each domain is walked in random order, then shuffled again."""

    def __init__(
        self, recipe: Recipe, examples: dict[str, list[Example]], end: int, generator: torch.Generator
    ) -> None:
        self._examples = examples
        self._generator = generator
        shares = domain_shares(recipe)
        counts = {name: round(recipe.batch * shares[name]) for name in examples}
        counts["city"] = recipe.batch - counts["country"] - counts["element"]
        self._counts = counts
        self._choices = recipe.choice_questions
        self._end = end
        self._waiting: dict[str, list[int]] = {name: [] for name in examples}

    def next(self) -> Batch:
        """The next batch; cities come first, so the questions with wrong options are about cities."""
        chosen: list[Example] = []
        for domain, count in self._counts.items():
            waiting = self._waiting[domain]
            while len(waiting) < count:
                waiting += torch.randperm(len(self._examples[domain]), generator=self._generator).tolist()
            chosen += [self._examples[domain][i] for i in waiting[:count]]
            del waiting[:count]
        rows = [(e.prompt, e.options[0], [self._end]) for e in chosen]
        rows += [(e.prompt, wrong, []) for e in chosen[: self._choices] for wrong in e.options[1:]]
        length = max(len(prompt) + len(option) + len(end) for prompt, option, end in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        option_mask, target, real = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(3))
        for i, (prompt, option, end) in enumerate(rows):
            sequence = prompt + option + end
            ids[i, : len(sequence)] = torch.tensor(sequence)
            real[i, : len(sequence)] = True
            option_mask[i, len(prompt) : len(prompt) + len(option)] = True
            target[i, len(prompt) : len(sequence)] = i < len(chosen)
        return Batch(ids, option_mask, target, real, len(chosen))
