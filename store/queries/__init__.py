"""Every query the dashboard and the command line ask, each a function from a ``Store`` to a DataFrame."""

from store.queries.drill import expert_choice, expert_pairs, expert_tokens, layer_examples, layer_tokens
from store.queries.layers import expert_load, layer_leverage, layer_stats, layer_susceptibility, noise_floor
from store.queries.metrics import comparisons, example_ids, metrics, paired_predictions, predictions, reliability
from store.queries.ood import example_lengths, ood_score_names, ood_scores
from store.queries.routing import examples, layer_overlap, paired_token_routing, token_routing
from store.queries.runs import datasets, efficiency, models, run, runs, runs_with, training_log

__all__ = [
    "comparisons",
    "datasets",
    "efficiency",
    "example_ids",
    "example_lengths",
    "examples",
    "expert_choice",
    "expert_load",
    "expert_pairs",
    "expert_tokens",
    "layer_examples",
    "layer_leverage",
    "layer_overlap",
    "layer_stats",
    "layer_susceptibility",
    "layer_tokens",
    "metrics",
    "models",
    "noise_floor",
    "ood_score_names",
    "ood_scores",
    "paired_predictions",
    "paired_token_routing",
    "predictions",
    "reliability",
    "run",
    "runs",
    "runs_with",
    "token_routing",
    "training_log",
]
