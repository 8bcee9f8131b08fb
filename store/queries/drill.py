# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Drill-down into one layer of one run and data set: its tokens, questions and experts, from a bounded part of facts.

Each reads the layer's first ``limit`` tokens in the order of the shards and stops there, so that the answer takes as
long on a large run as on a small one; the caller says so where there are more.
"""

from __future__ import annotations

import pandas as pd

from store.queries._sql import Store

#: what tokens and questions of a layer may be ranked by, and the SQL of it; higher = less sure
UNCERTAINTIES = {
    "routing_entropy": "avg(routing_entropy)",
    "logit_variance": "avg(logit_variance)",
    "changed": "avg((overlap < len(expert_index))::INTEGER)",
    "top_k_margin": "-avg(top_k_margin)",
}
_READ = (
    "dataset, example_id, position, expert_index, gate_weight, base_expert_index, overlap, routing_entropy, "
    "logit_variance, top_k_margin"
)
_MEANS = """
    avg(routing_entropy) AS mean_entropy, avg(logit_variance) AS mean_variance,
    avg((overlap < len(expert_index))::INTEGER) AS share_changed, avg(top_k_margin) AS mean_margin
"""


def _slice(store: Store, run_id: str) -> str:
    """SQL for the first ``$limit`` routing rows of ``$layer``."""
    return (
        f"SELECT {_READ} FROM {store.facts('routing', run_id)} "
        "WHERE run_id = $run_id AND dataset = $dataset AND layer = $layer LIMIT $limit"
    )


def _named(store: Store, run_id: str) -> str:
    """SQL for ``routed`` (the slice) joined to the text of its tokens."""
    return (
        f"routed r JOIN (SELECT dataset, example_id, position, token_id, token FROM {store.facts('tokens', run_id)} "
        "WHERE run_id = $run_id AND dataset = $dataset AND example_id IN (SELECT example_id FROM routed)) t "
        "USING (dataset, example_id, position)"
    )


def layer_tokens(
    store: Store,
    run_id: str,
    dataset: str,
    layer: int,
    by: str = "routing_entropy",
    at_least: int = 3,
    top: int = 40,
    limit: int = 20_000,
) -> pd.DataFrame:
    """The ``top`` vocabulary entries that the layer routes least surely, among those read ``at_least`` times.

    Columns: token_id, token (None where text is not stored), n, mean_entropy (nats), mean_variance (NULL without a
    logit variance), share_changed (fraction whose experts differ from the native choice), mean_margin.
    """
    return store.query(
        f"""
        WITH routed AS MATERIALIZED ({_slice(store, run_id)})
        SELECT token_id, any_value(token) AS token, count(*) AS n, {_MEANS}
        FROM {_named(store, run_id)}
        GROUP BY token_id HAVING count(*) >= $at_least
        ORDER BY {UNCERTAINTIES[by]} DESC NULLS LAST, token_id LIMIT $top
        """,
        {**_bound(run_id, dataset, layer, limit), "at_least": at_least, "top": top},
    )


def layer_examples(
    store: Store,
    run_id: str,
    dataset: str,
    layer: int,
    by: str = "routing_entropy",
    top: int = 40,
    limit: int = 20_000,
) -> pd.DataFrame:
    """The ``top`` questions that the layer routes least surely: example_id, n (tokens), and the means per token."""
    return store.query(
        f"""
        WITH routed AS MATERIALIZED ({_slice(store, run_id)})
        SELECT example_id, count(*) AS n, {_MEANS} FROM routed
        GROUP BY example_id ORDER BY {UNCERTAINTIES[by]} DESC NULLS LAST, example_id LIMIT $top
        """,
        {**_bound(run_id, dataset, layer, limit), "top": top},
    )


def expert_choice(store: Store, run_id: str, dataset: str, layer: int, limit: int = 20_000) -> pd.DataFrame:
    """What was preferred and what was applied, per expert that occurs: fractions that each sum to 1 over the layer.

    Columns: expert_index, native_share (of the native router's choices for the same inputs), share (of the choices
    applied), gate_share (of the gate weight applied), n_tokens (read).
    """
    return store.query(
        f"""
        WITH routed AS MATERIALIZED ({_slice(store, run_id)}),
        native AS (
            SELECT expert_index, count(*) AS n FROM (SELECT unnest(base_expert_index) AS expert_index FROM routed)
            GROUP BY ALL
        ),
        applied AS (
            SELECT expert_index, count(*) AS n, sum(gate) AS gate FROM (
                SELECT unnest(expert_index) AS expert_index, unnest(gate_weight)::DOUBLE AS gate FROM routed
            ) GROUP BY ALL
        )
        SELECT expert_index, coalesce(native.n, 0) / sum(native.n) OVER () AS native_share,
            coalesce(applied.n, 0) / sum(applied.n) OVER () AS share,
            coalesce(gate, 0) / sum(gate) OVER () AS gate_share, (SELECT count(*) FROM routed) AS n_tokens
        FROM native FULL JOIN applied USING (expert_index) ORDER BY expert_index
        """,
        _bound(run_id, dataset, layer, limit),
    )


def expert_pairs(store: Store, run_id: str, dataset: str, layer: int, limit: int = 20_000) -> pd.DataFrame:
    """How often two experts of the layer serve the same token, one row per ordered pair that occurs, both ways round.

    Columns: expert_a, expert_b, n (tokens with both), n_a, n_b (tokens with each), n_tokens (read), given_a
    (n / n_a: share of a's tokens that b serves too), lift (n × n_tokens / (n_a × n_b); 1 = as if independent).
    """
    return store.query(
        f"""
        WITH routed AS MATERIALIZED ({_slice(store, run_id)}),
        total AS (SELECT count(*) AS n_tokens FROM routed),
        used AS (SELECT expert, count(*) AS n FROM (SELECT unnest(expert_index) AS expert FROM routed) GROUP BY ALL),
        pairs AS (
            SELECT expert_a, expert_b, count(*) AS n FROM (
                SELECT expert_a, unnest(expert_index) AS expert_b
                FROM (SELECT expert_index, unnest(expert_index) AS expert_a FROM routed)
            ) WHERE expert_a <> expert_b GROUP BY ALL
        )
        SELECT expert_a, expert_b, p.n, a.n AS n_a, b.n AS n_b, n_tokens, p.n / a.n AS given_a,
            p.n * n_tokens::DOUBLE / (a.n * b.n) AS lift
        FROM pairs p JOIN used a ON a.expert = expert_a JOIN used b ON b.expert = expert_b, total
        ORDER BY expert_a, expert_b
        """,
        _bound(run_id, dataset, layer, limit),
    )


def expert_tokens(
    store: Store, run_id: str, dataset: str, layer: int, expert: int, top: int = 30, limit: int = 20_000
) -> pd.DataFrame:
    """The ``top`` vocabulary entries an expert serves most often in the layer.

    Columns: token_id, token (None where text is not stored), n (times served), n_read (times read), share (n / n_read),
    mean_gate (its gate weight when it serves), lift (share ÷ the expert's share of all tokens read).
    """
    return store.query(
        f"""
        WITH routed AS MATERIALIZED ({_slice(store, run_id)}),
        named AS (
            SELECT token_id, token, list_position(expert_index, $expert::USMALLINT) AS place, gate_weight
            FROM {_named(store, run_id)}
        ),
        overall AS (SELECT count(place) / count(*) AS rate FROM named)
        SELECT token_id, any_value(token) AS token, count(place) AS n, count(*) AS n_read,
            count(place) / count(*) AS share, avg(gate_weight[place]) AS mean_gate,
            count(place) / count(*) / nullif(any_value(rate), 0) AS lift
        FROM named, overall GROUP BY token_id HAVING count(place) > 0
        ORDER BY n DESC, token_id LIMIT $top
        """,
        {**_bound(run_id, dataset, layer, limit), "expert": expert, "top": top},
    )


def _bound(run_id: str, dataset: str, layer: int, limit: int) -> dict[str, object]:
    return {"run_id": run_id, "dataset": dataset, "layer": layer, "limit": limit}
