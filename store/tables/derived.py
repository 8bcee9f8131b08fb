"""Additive summaries that the publisher computes from facts."""

from __future__ import annotations

from store.tables.table import DATASET, LAYER, RUN, Table, columns

DERIVED: tuple[Table, ...] = (
    Table(
        "layer_stats",
        "derived",
        "routing statistics of one layer on one data set; sums, so that shards merge",
        ("run_id", "dataset", "layer"),
        columns(
            RUN,
            DATASET,
            LAYER,
            ("n", "UBIGINT", "real tokens"),
            ("top_k", "USMALLINT", "experts per token"),
            ("sum_overlap", "UBIGINT", "experts shared with the native choice"),
            ("n_changed", "UBIGINT", "tokens whose expert set differs from the native one"),
            ("sum_jaccard", "DOUBLE", "Jaccard index with the native choice"),
            ("sum_margin", "DOUBLE", "top_k_margin"),
            ("sum_entropy", "DOUBLE", "routing_entropy"),
            ("sum_entropy_sq", "DOUBLE", "routing_entropy²"),
            ("n_variance", "UBIGINT", "tokens with a logit variance"),
            ("sum_variance", "DOUBLE", "logit_variance"),
            ("sum_variance_sq", "DOUBLE", "logit_variance²"),
        ),
    ),
    Table(
        "expert_load",
        "derived",
        "how often one expert was applied in one layer",
        ("run_id", "dataset", "layer", "expert_index"),
        columns(
            RUN,
            DATASET,
            LAYER,
            ("expert_index", "USMALLINT", "0-based expert"),
            ("n_selected", "UBIGINT", "tokens that used it"),
            ("n_tokens", "UBIGINT", "real tokens; share = n_selected / (n_tokens × top_k), balanced = 1/E"),
            ("gate_mass", "DOUBLE", "sum of its gate weights"),
        ),
    ),
)
