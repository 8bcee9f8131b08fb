# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Numbers with intervals, paired differences, reliability diagrams and the predictions behind them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from store.queries._sql import RunIds, Store, chosen, equals, ids


def metrics(
    store: Store, run_ids: RunIds = None, dataset: str | None = None, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Metric values with 95 % intervals, all or those called ``names``: the columns of table ``metrics``."""
    return store.query(
        f"SELECT * FROM metrics WHERE {chosen('run_id', 'runs')} AND {equals('dataset', 'dataset')} "
        f"AND {chosen('metric', 'names')} ORDER BY run_id, dataset, metric, score, position_rule, aggregation",
        {"runs": ids(run_ids), "dataset": dataset, "names": ids(names)},
    )


def comparisons(store: Store, run_id: str | None = None, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Paired differences, run minus baseline, with 95 % intervals: the columns of table ``comparisons``."""
    return store.query(
        f"SELECT * FROM comparisons WHERE {equals('run_id', 'run_id')} AND {chosen('metric', 'names')} "
        "ORDER BY run_id, baseline_run_id, dataset, metric, score",
        {"run_id": run_id, "names": ids(names)},
    )


def reliability(
    store: Store, run_ids: RunIds, dataset: str, calibration: str = "raw", scheme: str = "equal-width"
) -> pd.DataFrame:
    """The bins of reliability diagrams, empty ones included: the columns of table ``reliability_bins``."""
    return store.query(
        f"SELECT * FROM reliability_bins WHERE {chosen('run_id', 'runs')} AND dataset = $dataset "
        "AND calibration = $calibration AND scheme = $scheme ORDER BY run_id, bin",
        {"runs": ids(run_ids), "dataset": dataset, "calibration": calibration, "scheme": scheme},
    )


def predictions(store: Store, run_id: str, dataset: str | None = None) -> pd.DataFrame:
    """One row per answered question: the columns of table ``predictions``; ``probs`` sums to 1."""
    return store.query(
        f"SELECT * FROM predictions WHERE run_id = $run_id AND {equals('dataset', 'dataset')} "
        "ORDER BY dataset, example_id",
        {"run_id": run_id, "dataset": dataset},
    )


def example_ids(store: Store, run_id: str, dataset: str) -> pd.DataFrame:
    """The ids of the questions that a run answered on a data set: column example_id, in order."""
    return store.query(
        "SELECT example_id FROM predictions WHERE run_id = $run_id AND dataset = $dataset ORDER BY example_id",
        {"run_id": run_id, "dataset": dataset},
    )


def paired_predictions(store: Store, run_a: str, run_b: str, dataset: str | None = None) -> pd.DataFrame:
    """The questions that both runs answered, one row each, with ``_a`` and ``_b`` columns.

    Columns: dataset, example_id, role, answer_index; probs, predicted, correct, confidence, nll, predictive_entropy
    with suffix ``_a`` and ``_b``; confidence_change and nll_change (b minus a).
    """
    both = ("probs", "predicted", "correct", "confidence", "nll", "predictive_entropy")
    columns = ", ".join(f"a.{name} AS {name}_a, b.{name} AS {name}_b" for name in both)
    return store.query(
        f"SELECT dataset, example_id, a.role, a.answer_index, {columns}, "
        "b.confidence - a.confidence AS confidence_change, b.nll - a.nll AS nll_change "
        "FROM (SELECT * FROM predictions WHERE run_id = $a) a "
        "JOIN (SELECT * FROM predictions WHERE run_id = $b) b USING (dataset, example_id) "
        f"WHERE {equals('dataset', 'dataset')} AND a.answer_index = b.answer_index ORDER BY dataset, example_id",
        {"a": run_a, "b": run_b, "dataset": dataset},
    )
