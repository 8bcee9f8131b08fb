"""The length-matched control: a score that is nothing but length falls to chance, and stored rows come first."""

from __future__ import annotations

import pandas as pd
import pytest

from app.views.ood.length_control import (
    ALL,
    COLUMNS,
    LENGTH,
    LENGTH_SCORE,
    MATCHED,
    SUFFIX,
    length_control,
    stored_control,
)
from tests.app.frames import lengths


def test_a_score_that_is_only_length_falls_towards_chance_when_matched() -> None:
    found = length_control(lengths(), 200).set_index("what")
    assert found.loc[ALL, "value"] == found.loc[LENGTH, "value"] > 0.8
    assert found.loc[MATCHED, "value"] == pytest.approx(0.5, abs=0.1)
    assert found.loc[MATCHED, "n"] < found.loc[ALL, "n"]


def test_without_an_in_distribution_set_there_is_no_control() -> None:
    scores = lengths()
    assert length_control(scores[scores["role"] != "in-distribution"], 100).empty


def test_sets_without_a_common_length_have_no_matched_row() -> None:
    scores = lengths()
    scores.loc[scores["role"] == "far-ood", "n_tokens"] += 1000
    assert set(length_control(scores, 100)["what"]) == {ALL, LENGTH}


def stored(*names: str) -> pd.DataFrame:
    rows = [(name, "answer", "none", 0.6, 0.5, 0.7, 40) for name in names]
    columns = ["score", "position_rule", "aggregation", "value", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns).assign(dataset="far", role="far-ood")


def test_stored_rows_are_those_of_the_score_its_match_and_length() -> None:
    auroc = stored("answer_entropy", "answer_entropy" + SUFFIX, LENGTH_SCORE, "other", "other" + SUFFIX)
    found = stored_control(auroc, "answer_entropy", "answer", "none")
    assert found["what"].tolist() == [ALL, MATCHED, LENGTH]
    assert list(found.columns) == COLUMNS


def test_without_a_stored_match_nothing_is_taken_from_the_store() -> None:
    assert stored_control(stored("answer_entropy", LENGTH_SCORE), "answer_entropy", "answer", "none").empty
