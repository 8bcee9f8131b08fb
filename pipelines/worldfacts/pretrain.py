"""Train `worldfacts-moe` from scratch: `python -m pipelines.worldfacts.pretrain --output FOLDER`.

A tiny GraniteMoe on the pretraining split: answer tokens only, load balance per layer, and the MoE block of the
first layer dropped now and then, because otherwise that block learns everything and the others idle. About five
minutes on two idle cores. Set OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=0 where other processes run.
"""

import argparse
import hashlib
import itertools
import json
import math
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as functional
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, PreTrainedTokenizerFast

from pipelines.prompts import likelihood_option, likelihood_prompt
from pipelines.worldfacts import split_path
from pipelines.worldfacts.figures import read_questions, report, score_options
from pipelines.worldfacts.questions import CITY_TEMPLATES

BUNDLED = Path(__file__).parents[2] / "vmoer" / "bundled" / "worldfacts-moe"


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on besides the pretraining split and the library versions."""

    seed: int = 0
    steps: int = 1610
    batch: int = 128
    vocabulary: int = 512
    tokenizer_texts: int = 20_000
    hidden: int = 128
    expert_width: int = 48
    layers: int = 2
    experts: int = 16
    top_k: int = 2
    heads: int = 4
    key_value_heads: int = 2
    city_share: float = 0.70
    country_share: float = 0.18
    bpe_dropout: float = 0.1
    tokenisations: int = 3  # of a city's name: one plain, the rest with dropout
    init: float = 0.03
    router_init: float = 0.1
    choice_questions: int = 0  # city questions of a batch that also learn to prefer the right option
    choice_loss: float = 1.0
    block_drop: tuple[float, ...] = (0.15, 0.0)  # probability per layer, per sequence, training only
    load_balance: float = 0.01
    learning_rate: float = 4e-3
    final_rate: float = 0.03  # of the learning rate
    warm_up: int = 60
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05  # matrices only; none on routers and norms
    clip: float = 1.0


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


def make_model(recipe: Recipe, generator: torch.Generator) -> GraniteMoeForCausalLM:
    """A GraniteMoe with the recipe's sizes, every weight drawn from `generator`."""
    config = GraniteMoeConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.expert_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        num_local_experts=recipe.experts,
        num_experts_per_tok=recipe.top_k,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        embedding_multiplier=1.0,
        attention_multiplier=(recipe.hidden / recipe.heads) ** -0.5,
        residual_multiplier=1.0,
        logits_scaling=1.0,
        initializer_range=recipe.init,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():  # the constructor draws from the global generator; its weights are replaced
        model = GraniteMoeForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue  # norms stay 1
            scale = recipe.init
            if name.endswith("o_proj.weight"):
                scale /= math.sqrt(2 * recipe.layers)
            elif name.endswith("router.weight"):
                scale = recipe.router_init
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        model.model.embed_tokens.weight[0] = 0
    return model


class TrainingHooks:
    """Load-balance terms of each layer and the dropping of whole MoE blocks, while training only."""

    def __init__(self, recipe: Recipe, model: GraniteMoeForCausalLM, generator: torch.Generator) -> None:
        self._generator = generator
        self._terms: list[torch.Tensor] = []
        self.is_real = torch.ones(0, dtype=torch.bool)
        for layer, probability in zip(model.model.layers, recipe.block_drop, strict=True):
            block = layer.block_sparse_moe
            block.router.register_forward_hook(self._balance)
            if probability:
                block.register_forward_hook(self._dropper(probability))

    def _balance(self, module: Any, _args: Any, output: tuple[torch.Tensor, ...]) -> None:
        """Switch Transformer's `E * sum_e f_e P_e` (Fedus et al. 2021, eq. 4) over real tokens."""
        if module.training:
            logits, _, index = output
            real = self.is_real.reshape(-1)
            load = torch.bincount(index[real].reshape(-1), minlength=module.num_experts)
            load = load / load.sum()
            probability = logits[real].softmax(-1).mean(0)
            self._terms.append(module.num_experts * (load * probability).sum())

    def _dropper(self, probability: float) -> Callable[[Any, Any, torch.Tensor], torch.Tensor | None]:
        def drop(module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
            if not module.training:
                return None
            keep = torch.rand(output.shape[0], 1, 1, generator=self._generator) >= probability
            return output * keep

        return drop

    def load_balance(self) -> torch.Tensor:
        """Mean over layers of the terms gathered since the last call."""
        mean = torch.stack(self._terms).mean()
        self._terms.clear()
        return mean


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine down to `final_rate`."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * cosine)


def choice_loss(token_loss: torch.Tensor, batch: Batch, questions: int) -> torch.Tensor:
    """Cross-entropy in nats of choosing the right of four options by mean log-likelihood per token.

    Without it that score favours long names: their last tokens follow almost surely from their first.
    """
    option = batch.option[:, 1:]
    score = -(token_loss * option).sum(1) / option.sum(1)
    right = score[:questions, None]
    wrong = score[batch.questions :].view(questions, 3)
    return functional.cross_entropy(torch.cat([right, wrong], 1), torch.zeros(questions, dtype=torch.long))


def train(recipe: Recipe) -> tuple[GraniteMoeForCausalLM, PreTrainedTokenizerFast]:
    """The trained fp32 model and its tokenizer; prints loss and validation accuracy on the way."""
    rows = read_questions("pretrain")
    tokenizer = train_tokenizer(recipe, rows)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = make_model(recipe, generator)
    hooks = TrainingHooks(recipe, model, generator)
    batches = Batches(recipe, encode(recipe, tokenizer, rows), tokenizer.eos_token_id, generator)
    matrices = [p for n, p in model.named_parameters() if p.dim() > 1 and not n.endswith("router.weight")]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or n.endswith("router.weight")]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=recipe.betas,
    )
    validation, seen = read_questions("validation"), rows[:500]
    started, model_tokens, recent = time.monotonic(), 0, 0.0
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {recipe}", flush=True)
    for step in range(recipe.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        batch = batches.next()
        hooks.is_real = batch.real
        logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
        token_loss = functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
        token_loss = token_loss.view(len(batch.ids), -1)
        answer_loss = (token_loss * batch.target[:, 1:]).sum() / batch.questions
        loss = answer_loss + recipe.load_balance * hooks.load_balance()
        if recipe.choice_questions:
            loss = loss + recipe.choice_loss * choice_loss(token_loss, batch, recipe.choice_questions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        model_tokens += int(batch.real.sum())
        recent += answer_loss.item()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            line = f"step {step + 1}/{recipe.steps}  {time.monotonic() - started:.0f} s  {model_tokens} tokens"
            line += f"  loss {recent / ((step % 100) + 1):.3f}"
            recent = 0.0
            if (step + 1) % 400 == 0 or step + 1 == recipe.steps:
                model.eval()
                for name, questions in (("validation", validation), ("seen", seen)):
                    scores = score_options(model, tokenizer, questions)
                    line += f"  {name} {scores.correct().mean():.3f} (summed {scores.correct(False).mean():.3f})"
            print(line, flush=True)
    return model.eval(), tokenizer


def save(folder: Path, model: GraniteMoeForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a bf16 `from_pretrained` folder; routing stays well-defined because it is loaded as fp32."""
    half = GraniteMoeForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=BUNDLED)
    parser.add_argument("--recipe", default="{}", help="JSON with values of the recipe to change")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    changes: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(options.recipe).items()}
    recipe = replace(Recipe(), **changes)
    started = time.monotonic()
    model, tokenizer = train(recipe)
    wall_time = time.monotonic() - started
    options.output.mkdir(parents=True, exist_ok=True)
    save(options.output, model, tokenizer)
    shipped = GraniteMoeForCausalLM.from_pretrained(options.output, dtype=torch.float32).eval()
    figures = report(shipped, tokenizer)
    print(json.dumps(figures, indent=1), flush=True)
    record = {
        "command": "python -m pipelines.worldfacts.pretrain",
        "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()},
        "pretrain_sha256": hashlib.sha256(split_path("pretrain").read_bytes()).hexdigest(),
        "wall_time_s": round(wall_time),
        "threads": options.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "figures": figures,
    }
    (options.output / "recipe.yaml").write_text(yaml.safe_dump(record, sort_keys=False))


if __name__ == "__main__":
    main()
