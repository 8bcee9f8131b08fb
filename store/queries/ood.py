# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Out-of-distribution scores per question, and the lengths of the prompts they may only be noticing."""

from __future__ import annotations

import pandas as pd

from store.queries._sql import Store


def ood_score_names(store: Store, run_id: str) -> pd.DataFrame:
    """The scores a run has: score, position_rule, aggregation, n (questions)."""
    return store.query(
        "SELECT score, position_rule, aggregation, count(*) AS n FROM ood_scores WHERE run_id = $run_id "
        "GROUP BY ALL ORDER BY score, position_rule, aggregation",
        {"run_id": run_id},
    )


def example_lengths(store: Store, run_id: str) -> pd.DataFrame:
    """How long the prompts of a traced run were: dataset, example_id, n_tokens (real tokens)."""
    return store.query(
        f"SELECT dataset, example_id, n_tokens FROM {store.facts('examples', run_id)} WHERE run_id = $run_id "
        "ORDER BY dataset, example_id",
        {"run_id": run_id},
    )


def ood_scores(store: Store, run_id: str, score: str, position_rule: str, aggregation: str) -> pd.DataFrame:
    """One score of every question: dataset, example_id, role, value (higher = more out-of-distribution)."""
    return store.query(
        "SELECT dataset, example_id, role, value FROM ood_scores WHERE run_id = $run_id AND score = $score "
        "AND position_rule = $position_rule AND aggregation = $aggregation ORDER BY dataset, example_id",
        {"run_id": run_id, "score": score, "position_rule": position_rule, "aggregation": aggregation},
    )
