"""The length-matched control: equal counts per length, the same draw for the same seed, and a score that is length."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.matching import ALL, LENGTH, MATCHED, length_control, matched
from tests.app.frames import lengths

TOKENS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def frame(tokens: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"n_tokens": tokens, "value": 0.0})


@settings(deadline=None)  # pandas on a busy machine
@given(TOKENS, TOKENS)
def test_both_sets_have_equally_many_questions_in_every_class(first: list[int], second: list[int]) -> None:
    one, other, width = matched(frame(first), frame(second))
    counts = [part["n_tokens"].floordiv(width).value_counts().to_dict() for part in (one, other)]
    assert counts[0] == counts[1]
    assert set(one.index) <= set(range(len(first)))
    assert one.index.is_unique
    if width < 128:
        assert 2 * len(one) >= min(len(first), len(second))


@settings(deadline=None)  # pandas on a busy machine
@given(TOKENS, TOKENS)
def test_the_draw_is_the_same_for_the_same_seed(first: list[int], second: list[int]) -> None:
    pair = [matched(frame(first), frame(second), seed=3) for _ in range(2)]
    assert pair[0][0].index.tolist() == pair[1][0].index.tolist()
    assert pair[0][1].index.tolist() == pair[1][1].index.tolist()


def test_a_score_that_is_only_length_falls_to_chance_when_matched() -> None:
    found = length_control(lengths(), 200).set_index("what")
    assert found.loc[ALL, "value"] == found.loc[LENGTH, "value"] > 0.8
    assert found.loc[MATCHED, "value"] == pytest.approx(0.5, abs=0.01)
    assert found.loc[MATCHED, "ci_low"] < 0.5 < found.loc[MATCHED, "ci_high"]


def test_without_an_in_distribution_set_there_is_no_control() -> None:
    scores = lengths()
    assert length_control(scores[scores["role"] != "in-distribution"], 100).empty


def test_sets_without_a_common_length_have_no_matched_row() -> None:
    scores = lengths()
    scores.loc[scores["role"] == "far-ood", "n_tokens"] += 1000
    assert set(length_control(scores, 100)["what"]) == {ALL, LENGTH}
