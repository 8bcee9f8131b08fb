"""The recipe of `worldfacts-moe`: every choice its weights depend on."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on besides the pretraining split and the library versions."""

    seed: int = 0
    steps: int = 1200
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
    choice_questions: int = 16  # city questions of a batch that also learn to prefer the right option
    choice_loss: float = 1.0
    block_drop: tuple[float, ...] = (0.08, 0.0)  # probability per layer, per sequence, training only
    load_balance: float = 0.01
    learning_rate: float = 4e-3
    final_rate: float = 0.03  # of the learning rate
    warm_up: int = 60
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05  # matrices only; none on routers and norms
    clip: float = 1.0


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine down to `final_rate`."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * cosine)
