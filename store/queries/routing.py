# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Drill-down into facts: one prompt's routing, or two runs' routing of the same tokens."""

from __future__ import annotations

import pandas as pd

from store.queries._sql import Store, equals

_ALL = 2**62
_ONE = "run_id = $run_id AND dataset = $dataset AND example_id = $example_id"


def examples(store: Store, run_id: str, dataset: str | None = None) -> pd.DataFrame:
    """The questions of a run: the columns of table ``examples`` (``prompt``, ``choices``: None unless stored)."""
    return store.query(
        f"SELECT * FROM {store.facts('examples', run_id)} "
        f"WHERE run_id = $run_id AND {equals('dataset', 'dataset')} ORDER BY dataset, example_id",
        {"run_id": run_id, "dataset": dataset},
    )


def token_routing(store: Store, run_id: str, dataset: str, example_id: str, layer: int | None = None) -> pd.DataFrame:
    """The routing of one prompt, one row per token and MoE layer (or of one layer), in token order.

    Columns: position, token_id, token (None where text is not stored), phase, layer, expert_index, gate_weight,
    selection_score, base_expert_index, overlap, top_k_margin, routing_entropy, logit_variance, logit_variance_mc,
    temperature.
    """
    return store.query(
        f"""
        SELECT r.position, t.token_id, t.token, t.phase, r.* EXCLUDE (run_id, dataset, example_id, position)
        FROM (SELECT * FROM {store.facts("routing", run_id)} WHERE {_ONE}
            AND ($layer::INTEGER IS NULL OR layer = $layer::INTEGER)) r
        LEFT JOIN (SELECT * FROM {store.facts("tokens", run_id)} WHERE {_ONE}) t USING (position)
        ORDER BY r.position, r.layer
        """,
        {"run_id": run_id, "dataset": dataset, "example_id": example_id, "layer": layer},
    )


def paired_token_routing(store: Store, run_a: str, run_b: str, dataset: str, example_id: str) -> pd.DataFrame:
    """How two runs routed the same prompt, one row per token and layer that both have.

    Columns: position, token_id, token, layer, expert_index_a, expert_index_b, gate_weight_a, gate_weight_b, shared
    (experts in both), jaccard, changed (any expert differs), routing_entropy_a, routing_entropy_b, logit_variance_b.
    """
    where = "dataset = $dataset AND example_id = $example_id"
    return store.query(
        f"""
        SELECT position, t.token_id, t.token, layer,
            a.expert_index AS expert_index_a, b.expert_index AS expert_index_b,
            a.gate_weight AS gate_weight_a, b.gate_weight AS gate_weight_b,
            len(list_intersect(a.expert_index, b.expert_index)) AS shared,
            shared / (len(a.expert_index) + len(b.expert_index) - shared) AS jaccard,
            shared < greatest(len(a.expert_index), len(b.expert_index)) AS changed,
            a.routing_entropy AS routing_entropy_a, b.routing_entropy AS routing_entropy_b,
            b.logit_variance AS logit_variance_b
        FROM (SELECT * FROM {store.facts("routing", run_a)} WHERE run_id = $a AND {where}) a
        JOIN (SELECT * FROM {store.facts("routing", run_b)} WHERE run_id = $b AND {where}) b USING (position, layer)
        LEFT JOIN (SELECT * FROM {store.facts("tokens", run_a)} WHERE run_id = $a AND {where}) t USING (position)
        ORDER BY position, layer
        """,
        {"a": run_a, "b": run_b, "dataset": dataset, "example_id": example_id},
    )


def layer_overlap(
    store: Store, run_a: str, run_b: str, dataset: str | None = None, limit: int | None = None
) -> pd.DataFrame:
    """Per layer, how far two runs chose the same experts for the same tokens.

    ``limit`` reads only the first so many shared questions, by id; ``n_examples`` says how many it were.

    Columns: layer, n (tokens both routed), n_examples, top_k, mean_overlap (experts shared), mean_jaccard,
    share_changed (fraction of tokens with another set), mean_changed (experts of run a that b replaced, per token).
    """
    keys = "dataset, example_id, position, layer"
    questions = [
        f"SELECT dataset, example_id FROM {store.facts('examples', run)} "
        f"WHERE run_id = ${name} AND {equals('dataset', 'dataset')}"
        for run, name in ((run_a, "a"), (run_b, "b"))
    ]
    return store.query(
        f"""
        WITH chosen AS (
            SELECT * FROM ({questions[0]} INTERSECT {questions[1]}) ORDER BY dataset, example_id LIMIT $limit
        )
        SELECT layer, count(*) AS n, count(DISTINCT (dataset, example_id)) AS n_examples, max(k) AS top_k,
            avg(shared) AS mean_overlap, avg(shared / (2.0 * k - shared)) AS mean_jaccard,
            avg((shared < k)::INTEGER) AS share_changed, avg(k - shared) AS mean_changed
        FROM (
            SELECT {keys}, len(a.expert_index) AS k, len(list_intersect(a.expert_index, b.expert_index)) AS shared
            FROM (SELECT {keys}, expert_index FROM {store.facts("routing", run_a)}
                WHERE run_id = $a AND (dataset, example_id) IN (FROM chosen)) a
            JOIN (SELECT {keys}, expert_index FROM {store.facts("routing", run_b)}
                WHERE run_id = $b AND (dataset, example_id) IN (FROM chosen)) b USING ({keys})
            WHERE len(a.expert_index) = len(b.expert_index)
        )
        GROUP BY layer ORDER BY layer
        """,
        {"a": run_a, "b": run_b, "dataset": dataset, "limit": _ALL if limit is None else limit},
    )
