"""Train `worldfacts-moe` from scratch: `python -m tools.worldfacts pretrain --output FOLDER`.

A tiny GraniteMoe on the pretraining split: answer tokens only, load balance per layer, and the MoE block of the
first layer dropped now and then, because otherwise that block learns everything and the others idle. About five
minutes on two idle cores. Set OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=0 where other processes run.
"""

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as functional
import transformers
import yaml
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, PreTrainedTokenizerFast

from pipelines.data.worldfacts import split_path
from tools.worldfacts.batches import Batch, Batches, encode, train_tokenizer
from tools.worldfacts.figures import read_questions, report, score_options
from tools.worldfacts.recipe import Recipe, learning_rate

BUNDLED = Path(__file__).parents[2] / "vmoer" / "bundled" / "worldfacts-moe"


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
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the training program."""
    parser.add_argument("--output", type=Path, default=BUNDLED)
    parser.add_argument("--recipe", default="{}", help="JSON with values of the recipe to change")
    parser.add_argument("--threads", type=int, default=2)


def run(options: argparse.Namespace) -> None:
    """Train the model, save it and print its figures."""
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
        "command": "python -m tools.worldfacts pretrain",
        "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()},
        "pretrain_sha256": hashlib.sha256(split_path("pretrain").read_bytes()).hexdigest(),
        "weights_sha256": hashlib.sha256((options.output / "model.safetensors").read_bytes()).hexdigest(),
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
