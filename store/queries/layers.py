# ruff: noqa: S608 — identifiers come from store.schema, paths from store.layout; values are bound.
"""Per-layer summaries: susceptibility, leverage, routing statistics, expert load."""

from __future__ import annotations

import pandas as pd

from store.queries._sql import RunIds, Store, chosen, equals, ids


def layer_susceptibility(store: Store, run_ids: RunIds = None, mode: str = "router") -> pd.DataFrame:
    """Mean Jaccard index of clean and noisy expert sets per layer and noise level: table ``layer_susceptibility``."""
    return store.query(
        f"SELECT * FROM layer_susceptibility WHERE {chosen('run_id', 'runs')} AND mode = $mode "
        "ORDER BY run_id, gamma, layer",
        {"runs": ids(run_ids), "mode": mode},
    )


def noise_floor(store: Store, run_ids: RunIds = None) -> pd.DataFrame:
    """How often number format or expert kernel alone change a layer's expert sets: the columns of ``noise_floor``.

    Only native (deterministic) runs carry it; the interval is of ``share_changed``.
    """
    return store.query(
        f"SELECT * FROM noise_floor WHERE {chosen('run_id', 'runs')} ORDER BY run_id, comparison, layer",
        {"runs": ids(run_ids)},
    )


def layer_leverage(store: Store, run_ids: RunIds = None) -> pd.DataFrame:
    """What random routing costs, per layer and for layer groups (layer −1): the columns of table ``layer_leverage``."""
    return store.query(
        f"SELECT * FROM layer_leverage WHERE {chosen('run_id', 'runs')} ORDER BY run_id, intervention, scope, layer",
        {"runs": ids(run_ids)},
    )


def layer_stats(
    store: Store, run_ids: RunIds = None, dataset: str | None = None, by_dataset: bool = False
) -> pd.DataFrame:
    """Means over real tokens per run and layer: over one data set, all together, or each apart (``by_dataset``).

    Columns: run_id, [dataset,] layer, n, top_k, mean_overlap (experts shared with the native choice), mean_jaccard,
    share_changed (fraction of tokens), mean_margin, mean_entropy and sd_entropy (nats), mean_variance and sd_variance
    (NULL without a logit variance).
    """
    split = "dataset, " if by_dataset else ""
    return store.query(
        f"""
        SELECT run_id, {split}layer, sum(n)::BIGINT AS n, max(top_k) AS top_k,
            sum(sum_overlap) / sum(n) AS mean_overlap,
            sum(sum_jaccard) / sum(n) AS mean_jaccard,
            sum(n_changed) / sum(n) AS share_changed,
            sum(sum_margin) / sum(n) AS mean_margin,
            sum(sum_entropy) / sum(n) AS mean_entropy,
            sqrt(greatest(0, sum(sum_entropy_sq) / sum(n) - (sum(sum_entropy) / sum(n)) ** 2)) AS sd_entropy,
            sum(sum_variance) / nullif(sum(n_variance), 0) AS mean_variance,
            sqrt(greatest(0, sum(sum_variance_sq) / nullif(sum(n_variance), 0)
                - (sum(sum_variance) / nullif(sum(n_variance), 0)) ** 2)) AS sd_variance
        FROM layer_stats WHERE {chosen("run_id", "runs")} AND {equals("dataset", "dataset")}
        GROUP BY run_id, {split}layer ORDER BY run_id, {split}layer
        """,
        {"runs": ids(run_ids), "dataset": dataset},
    )


def expert_load(store: Store, run_id: str, dataset: str | None = None) -> pd.DataFrame:
    """How often each expert was applied in each layer, unused experts included; over one data set or all together.

    Columns: layer, expert_index, n_selected, n_tokens, share (of all selections; sums to 1 per layer, balanced = 1/E),
    gate_mass, gate_share (of the layer's gate mass).
    """
    return store.query(
        f"""
        SELECT layer, expert_index, sum(n_selected)::BIGINT AS n_selected, sum(n_tokens)::BIGINT AS n_tokens,
            sum(n_selected) / nullif(sum(sum(n_selected)) OVER (PARTITION BY layer), 0) AS share,
            sum(gate_mass) AS gate_mass,
            sum(gate_mass) / nullif(sum(sum(gate_mass)) OVER (PARTITION BY layer), 0) AS gate_share
        FROM expert_load WHERE run_id = $run_id AND {equals("dataset", "dataset")}
        GROUP BY layer, expert_index ORDER BY layer, expert_index
        """,
        {"run_id": run_id, "dataset": dataset},
    )
