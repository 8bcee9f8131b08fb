"""Out-of-distribution scores per question."""

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


def ood_scores(store: Store, run_id: str, score: str, position_rule: str, aggregation: str) -> pd.DataFrame:
    """One score of every question: dataset, example_id, role, value (higher = more out-of-distribution)."""
    return store.query(
        "SELECT dataset, example_id, role, value FROM ood_scores WHERE run_id = $run_id AND score = $score "
        "AND position_rule = $position_rule AND aggregation = $aggregation ORDER BY dataset, example_id",
        {"run_id": run_id, "score": score, "position_rule": position_rule, "aggregation": aggregation},
    )
