"""Queries: each number equals a recount with pandas from the facts; absent things give empty frames, not errors."""

import inspect

import numpy as np
import pandas as pd
import pytest

from store import queries, schema
from store.reader import open_store
from tests.store.conftest import DET, FCVR, SMALL
from tests.store.factory import DATASETS, make_store, run_id

ID = DATASETS[0]["dataset"]
K = SMALL["top_k"]

# One call of each query for a run, as pages make it.
CALLS = {
    "runs": lambda s, a, b: queries.runs(s),
    "models": lambda s, a, b: queries.models(s),
    "datasets": lambda s, a, b: queries.datasets(s),
    "metrics": lambda s, a, b: queries.metrics(s, [a], ID),
    "comparisons": lambda s, a, b: queries.comparisons(s, b),
    "reliability": lambda s, a, b: queries.reliability(s, [a, b], ID),
    "layer_susceptibility": lambda s, a, b: queries.layer_susceptibility(s, [a]),
    "noise_floor": lambda s, a, b: queries.noise_floor(s, [a]),
    "layer_leverage": lambda s, a, b: queries.layer_leverage(s, [a]),
    "layer_stats": lambda s, a, b: queries.layer_stats(s, [a, b]),
    "expert_load": lambda s, a, b: queries.expert_load(s, a),
    "ood_scores": lambda s, a, b: queries.ood_scores(s, b, "gate_entropy", "prompt_mean", "mean_layers"),
    "ood_score_names": lambda s, a, b: queries.ood_score_names(s, b),
    "predictions": lambda s, a, b: queries.predictions(s, a, ID),
    "paired_predictions": lambda s, a, b: queries.paired_predictions(s, a, b),
    "examples": lambda s, a, b: queries.examples(s, a, ID),
    "token_routing": lambda s, a, b: queries.token_routing(s, a, ID, f"{ID}-0000"),
    "paired_token_routing": lambda s, a, b: queries.paired_token_routing(s, a, b, ID, f"{ID}-0000"),
    "layer_overlap": lambda s, a, b: queries.layer_overlap(s, a, b),
    "example_ids": lambda s, a, b: queries.example_ids(s, a, ID),
    "example_lengths": lambda s, a, b: queries.example_lengths(s, b),
    "layer_tokens": lambda s, a, b: queries.layer_tokens(s, b, ID, 1, at_least=1),
    "layer_examples": lambda s, a, b: queries.layer_examples(s, b, ID, 1),
    "expert_choice": lambda s, a, b: queries.expert_choice(s, b, ID, 1),
    "expert_pairs": lambda s, a, b: queries.expert_pairs(s, b, ID, 1),
    "expert_tokens": lambda s, a, b: queries.expert_tokens(s, b, ID, 1, 2),
    "runs_with": lambda s, a, b: queries.runs_with(s, "training_log"),
    "training_log": lambda s, a, b: queries.training_log(s, b),
    "efficiency": lambda s, a, b: queries.efficiency(s, [a, b]),
}


def test_every_query_is_exercised_here():
    assert set(CALLS) == set(queries.__all__) - {"run"}


@pytest.mark.parametrize("name", CALLS)
def test_each_query_finds_rows_and_an_unknown_run_gives_none_with_the_same_columns(store, name):
    found = CALLS[name](store, DET, FCVR)
    assert len(found) > 0
    if name in ("runs", "models", "datasets", "runs_with"):
        return
    nothing = CALLS[name](store, "unknown", "unknown too")
    assert len(nothing) == 0
    assert list(nothing.columns) == list(found.columns)


@pytest.mark.parametrize("name", queries.__all__)
def test_the_columns_that_a_docstring_lists_are_the_columns(store, name):
    text = inspect.getdoc(getattr(queries, name))
    if "Columns:" not in text:
        return
    listed = text.split("Columns:")[1]
    for column in CALLS[name](store, DET, FCVR).columns:
        base = column.removesuffix("_a").removesuffix("_b")
        assert column in listed or base in listed, column


def test_run_gives_one_row_or_none(store):
    assert queries.run(store, FCVR).method == "fcvr"
    assert queries.run(store, "unknown") is None


def _pairs(store, a, b):
    rows = store.query("SELECT * FROM routing")
    keys = ["dataset", "example_id", "position", "layer"]
    return rows[rows.run_id == a].merge(rows[rows.run_id == b], on=keys, suffixes=("_a", "_b"))


def test_layer_overlap_equals_a_recount(store):
    pairs = _pairs(store, DET, FCVR)
    shared = [len(set(x) & set(y)) for x, y in zip(pairs.expert_index_a, pairs.expert_index_b, strict=True)]
    pairs["shared"] = shared
    got = queries.layer_overlap(store, DET, FCVR).set_index("layer")
    assert got.n.sum() == len(pairs) == store.query("SELECT count(*) AS n FROM routing").n[0] / 2
    for layer, rows in pairs.groupby("layer"):
        assert got.n[layer] == len(rows)
        assert got.n_examples[layer] == 3 * SMALL["examples"]
        assert got.mean_overlap[layer] == pytest.approx(rows.shared.mean())
        assert got.mean_jaccard[layer] == pytest.approx((rows.shared / (2 * K - rows.shared)).mean())
        assert got.share_changed[layer] == pytest.approx((rows.shared < K).mean())
        assert got.mean_changed[layer] == pytest.approx((K - rows.shared).mean())
    one = queries.layer_overlap(store, DET, FCVR, ID)
    assert one.n.sum() == (pairs.dataset == ID).sum()
    few = queries.layer_overlap(store, DET, FCVR, ID, limit=2)
    first = pairs[(pairs.dataset == ID) & pairs.example_id.isin([f"{ID}-0000", f"{ID}-0001"])]
    assert few.n.sum() == len(first)
    assert few.n_examples.tolist() == [2] * SMALL["layers"]
    itself = queries.layer_overlap(store, FCVR, FCVR)
    assert (itself.mean_jaccard == 1).all()
    assert (itself.share_changed == 0).all()


def test_paired_token_routing_equals_a_recount(store):
    pairs = _pairs(store, DET, FCVR)
    pairs = pairs[(pairs.dataset == ID) & (pairs.example_id == f"{ID}-0001")].sort_values(["position", "layer"])
    got = queries.paired_token_routing(store, DET, FCVR, ID, f"{ID}-0001")
    assert got[["position", "layer"]].to_numpy().tolist() == pairs[["position", "layer"]].to_numpy().tolist()
    for mine, theirs in zip(got.itertuples(), pairs.itertuples(), strict=True):
        shared = len(set(theirs.expert_index_a) & set(theirs.expert_index_b))
        assert mine.shared == shared
        assert mine.jaccard == pytest.approx(shared / (2 * K - shared))
        assert mine.changed == (shared < K)
        assert list(mine.gate_weight_b) == list(theirs.gate_weight_b)
        assert mine.token.startswith("▁w")


def test_token_routing_is_one_prompt_in_order_and_one_layer_when_asked(store):
    got = queries.token_routing(store, FCVR, ID, f"{ID}-0002")
    example = queries.examples(store, FCVR, ID).set_index("example_id").loc[f"{ID}-0002"]
    assert len(got) == example.n_tokens * SMALL["layers"]
    assert got[["position", "layer"]].to_numpy().tolist() == sorted(got[["position", "layer"]].to_numpy().tolist())
    one = queries.token_routing(store, FCVR, ID, f"{ID}-0002", layer=1)
    assert one.layer.tolist() == [1] * example.n_tokens
    assert one.token.tolist() == got[got.layer == 1].token.tolist()


@pytest.mark.parametrize("dataset", [None, ID])
def test_layer_stats_are_means_over_tokens(store, dataset):
    facts = store.query("SELECT * FROM routing WHERE run_id = ?", [FCVR])
    facts = facts if dataset is None else facts[facts.dataset == dataset]
    got = queries.layer_stats(store, FCVR, dataset).set_index("layer")
    for layer, rows in facts.groupby("layer"):
        assert got.n[layer] == len(rows)
        assert got.mean_overlap[layer] == pytest.approx(rows.overlap.mean())
        assert got.share_changed[layer] == pytest.approx((rows.overlap < K).mean())
        assert got.mean_entropy[layer] == pytest.approx(rows.routing_entropy.astype(float).mean())
        assert got.sd_entropy[layer] == pytest.approx(rows.routing_entropy.astype(float).std(ddof=0), rel=1e-4)
        variance = rows.logit_variance.astype(float)
        if variance.notna().any():
            assert got.mean_variance[layer] == pytest.approx(variance.mean())
        else:
            assert pd.isna(got.mean_variance[layer])
    apart = queries.layer_stats(store, FCVR, by_dataset=True)
    assert len(apart) == 3 * SMALL["layers"]


def test_expert_shares_sum_to_one_and_unused_experts_are_there(tmp_path):
    make_store(tmp_path, runs=("deterministic",), layers=2, experts=40, top_k=2, examples=2, tokens=(2, 4))
    with open_store(tmp_path) as store:
        for dataset in (None, ID):
            load = queries.expert_load(store, run_id("deterministic"), dataset)
            assert load.groupby("layer").size().tolist() == [40, 40]
            assert (load.n_selected == 0).any()
            assert np.allclose(load.groupby("layer").share.sum(), 1)
            assert np.allclose(load.groupby("layer").gate_share.sum(), 1)


def test_paired_predictions_are_the_shared_questions(store):
    a = queries.predictions(store, DET).set_index(["dataset", "example_id"])
    b = queries.predictions(store, FCVR).set_index(["dataset", "example_id"])
    got = queries.paired_predictions(store, DET, FCVR).set_index(["dataset", "example_id"])
    assert list(got.index) == list(a.index)
    assert (got.nll_change == b.nll - a.nll).all()
    assert (got.confidence_change == b.confidence - a.confidence).all()
    assert (got.answer_index == a.answer_index).all()


def test_docs_tables_is_current(repository):
    from store.tables_doc import markdown

    assert (repository / "docs" / "tables.md").read_text(encoding="utf-8") == markdown(), (
        "run `python -m store.tables_doc`"
    )
    assert set(schema.TABLES) <= set(markdown().replace("`", " ").split())
