"""Drill-down into one layer: each number equals a recount from the facts, and a limit reads only the first tokens."""

from collections import Counter

import pytest

from store import queries
from store.queries.drill import UNCERTAINTIES
from tests.store.conftest import DET, FCVR, SMALL
from tests.store.factory import DATASETS

ID = DATASETS[0]["dataset"]
LAYER, EXPERT = 1, 2


@pytest.fixture
def facts(store):
    """The layer's routing with the tokens' text, in stored order."""
    routing = store.query(
        "SELECT * FROM routing WHERE run_id = ? AND dataset = ? AND layer = ? ORDER BY example_id, position",
        [FCVR, ID, LAYER],
    )
    tokens = store.query("SELECT dataset, example_id, position, token_id, token FROM tokens WHERE run_id = ?", [FCVR])
    return routing.merge(tokens, on=["dataset", "example_id", "position"])


def test_tokens_are_means_over_their_occurrences_least_sure_first(store, facts):
    got = queries.layer_tokens(store, FCVR, ID, LAYER, at_least=1, top=1000)
    assert got.token_id.nunique() == len(got) == facts.token_id.nunique()
    assert got.mean_entropy.is_monotonic_decreasing
    means = facts.groupby("token_id").agg(n=("layer", "size"), entropy=("routing_entropy", "mean"))
    for row in got.itertuples():
        assert row.n == means.n[row.token_id]
        assert row.mean_entropy == pytest.approx(means.entropy[row.token_id], rel=1e-6)
        assert row.token == f"▁w{row.token_id}"
    often = means[means.n >= 2]
    assert len(queries.layer_tokens(store, FCVR, ID, LAYER, at_least=2)) == len(often)


def test_questions_are_means_over_their_tokens(store, facts):
    got = queries.layer_examples(store, FCVR, ID, LAYER, by="top_k_margin").set_index("example_id")
    assert got.mean_margin.is_monotonic_increasing
    for example, rows in facts.groupby("example_id"):
        assert got.n[example] == len(rows)
        assert got.mean_margin[example] == pytest.approx(rows.top_k_margin.mean(), rel=1e-6)
        assert got.share_changed[example] == pytest.approx((rows.overlap < SMALL["top_k"]).mean())


@pytest.mark.parametrize("by", UNCERTAINTIES)
def test_every_ranking_answers_also_where_it_has_no_values(store, by):
    assert len(queries.layer_examples(store, DET, ID, LAYER, by=by)) == SMALL["examples"]
    assert len(queries.layer_tokens(store, DET, ID, LAYER, by=by, at_least=1)) > 0


def test_an_unknown_ranking_is_no_sql(store):
    with pytest.raises(KeyError):
        queries.layer_examples(store, FCVR, ID, LAYER, by="1; DROP TABLE runs")


def test_preference_and_application_are_counted_apart_and_sum_to_one(store, facts):
    got = queries.expert_choice(store, FCVR, ID, LAYER).set_index("expert_index")
    assert got[["native_share", "share", "gate_share"]].sum().tolist() == pytest.approx([1, 1, 1])
    native = Counter(int(one) for row in facts.base_expert_index for one in row)
    applied = Counter(int(one) for row in facts.expert_index for one in row)
    slots = len(facts) * SMALL["top_k"]
    for expert in got.index:
        assert got.native_share[expert] == pytest.approx(native[expert] / slots)
        assert got.share[expert] == pytest.approx(applied[expert] / slots)
    assert native != applied


def test_company_is_symmetric_and_counts_tokens_with_both(store, facts):
    got = queries.expert_pairs(store, FCVR, ID, LAYER)
    sets = [set(map(int, row)) for row in facts.expert_index]
    for row in got.itertuples():
        both = sum(row.expert_a in one and row.expert_b in one for one in sets)
        first, second = (sum(expert in one for one in sets) for expert in (row.expert_a, row.expert_b))
        assert (row.n, row.n_a, row.n_b) == (both, first, second)
        assert row.lift == pytest.approx(both * len(sets) / (first * second))
        assert row.given_a == pytest.approx(both / first)
    pairs = {(row.expert_a, row.expert_b) for row in got.itertuples()}
    assert pairs == {(b, a) for a, b in pairs}


def test_tokens_of_an_expert_are_those_it_serves(store, facts):
    got = queries.expert_tokens(store, FCVR, ID, LAYER, EXPERT, top=1000).set_index("token_id")
    served = facts[[EXPERT in row for row in facts.expert_index]]
    assert got.n.sum() == len(served)
    overall = len(served) / len(facts)
    for token_id, rows in served.groupby("token_id"):
        read = (facts.token_id == token_id).sum()
        gates = [g[list(e).index(EXPERT)] for g, e in zip(rows.gate_weight, rows.expert_index, strict=True)]
        assert (got.n[token_id], got.n_read[token_id]) == (len(rows), read)
        assert got.share[token_id] == pytest.approx(len(rows) / read)
        assert got.lift[token_id] == pytest.approx(len(rows) / read / overall)
        assert got.mean_gate[token_id] == pytest.approx(sum(gates) / len(gates), rel=1e-6)


def test_a_limit_reads_the_first_tokens_and_the_same_ones_each_time(store, facts):
    few = queries.expert_choice(store, FCVR, ID, LAYER, limit=5)
    assert set(few.n_tokens) == {5}
    again = queries.expert_choice(store, FCVR, ID, LAYER, limit=5)
    assert few.equals(again)
    expected = Counter(int(one) for row in facts.expert_index[:5] for one in row)
    found = {int(row.expert_index): round(row.share * 5 * SMALL["top_k"]) for row in few.itertuples() if row.share > 0}
    assert found == dict(expected)
