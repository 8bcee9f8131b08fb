"""What was recorded: immutable Parquet shards, seen through views."""

from __future__ import annotations

from store.tables.table import DATASET, EXAMPLE, LAYER, RUN, Table, columns

FACTS: tuple[Table, ...] = (
    Table(
        "examples",
        "fact",
        "one question in a run",
        ("run_id", "dataset", "example_id"),
        columns(
            RUN,
            DATASET,
            EXAMPLE,
            ("role", "VARCHAR", "role of the data set in this experiment"),
            ("text_sha256", "VARCHAR", "hash of the prompt"),
            ("prompt", "VARCHAR", "the prompt, only if the spec stores text", True),
            ("choices", "VARCHAR[]", "the options, only if the spec stores text", True),
            ("answer_index", "UTINYINT", "0-based index of the right option; NULL for prompts without answers", True),
            ("n_tokens", "UINTEGER", "real prompt tokens"),
        ),
    ),
    Table(
        "tokens",
        "fact",
        "one real prompt token",
        ("run_id", "dataset", "example_id", "position"),
        columns(
            RUN,
            DATASET,
            EXAMPLE,
            ("position", "UINTEGER", "token index without padding"),
            ("token_id", "UINTEGER", "vocabulary index"),
            ("token", "VARCHAR", "token text, only if the spec stores text", True),
            ("phase", "VARCHAR", "prefill or decode"),
        ),
    ),
    Table(
        "routing",
        "fact",
        "one real token at one MoE layer",
        ("run_id", "dataset", "example_id", "position", "layer"),
        columns(
            RUN,
            DATASET,
            EXAMPLE,
            ("position", "UINTEGER", "token index without padding"),
            LAYER,
            ("expert_index", "USMALLINT[]", "experts applied, by falling selection score"),
            ("gate_weight", "FLOAT[]", "what multiplies each expert's output, same order"),
            (
                "selection_score",
                "FLOAT[]",
                "what ranked the chosen experts, same order; only where gates are no normalisation of it",
                True,
            ),
            ("base_expert_index", "USMALLINT[]", "what the native router chooses for the same input"),
            ("overlap", "USMALLINT", "experts shared by the two sets"),
            ("top_k_margin", "FLOAT", "selection score of the last expert in minus the first one out"),
            ("routing_entropy", "FLOAT", "entropy of the routing distribution over all experts, nats"),
            ("logit_variance", "FLOAT", "trace of the posterior covariance of the logits", True),
            ("logit_variance_mc", "FLOAT", "the same from the samples", True),
            ("temperature", "FLOAT", "selection temperature", True),
        ),
    ),
)
