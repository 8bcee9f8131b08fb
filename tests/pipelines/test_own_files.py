"""A run on a file as people have them: answers are used, texts are stored, and what was recognised is said and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines.data.prompts import likelihood_prompt
from store.catalog import list_manifests
from tests.pipelines.support import SPEC, published_tables, vmoer

pytestmark = pytest.mark.slow

ROWS = [
    ("Lyon is a city in which country?", ["France", "Japan", "Peru"], 0),
    ("Kyoto is a city in which country?", ["Norway", "Japan", "Chad"], 1),
    ("Cusco is a city in which country?", ["Italy", "Mali", "Peru"], 2),
]


def test_an_evaluate_only_run_of_a_csv_file_stores_answers_and_texts(tmp_path: Path) -> None:
    lines = ["question;A;B;C;answer;note", *(f"{q};{';'.join(c)};{'ABC'[a]};x" for q, c, a in ROWS)]
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-16")
    spec = {**SPEC, "methods": ["deterministic"], "estimators": ["in-router"], "controls": [], "stages": ["evaluate"]}
    spec |= {"data": {"id": {"path": "own.csv"}}, "store_text": True}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    done = vmoer(tmp_path / "home", "run", str(tmp_path / "spec.yaml"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "CSV (semicolon), question, a column for each option, answer: 3 questions of 3 options" in done.stderr
    assert "answers read as letters" in done.stderr
    assert "not used: 'note'" in done.stderr
    tables = published_tables(tmp_path / "home")
    stored = tables["examples"].sort_values("example_id")
    assert stored["example_id"].tolist() == ["q00001", "q00002", "q00003"]
    assert stored["prompt"].tolist() == [likelihood_prompt(question) for question, _, _ in ROWS]
    assert [list(choices) for choices in stored["choices"]] == [choices for _, choices, _ in ROWS]
    assert stored["answer_index"].tolist() == [0, 1, 2]
    assert (stored["n_tokens"] > 5).all()
    answers = tables["predictions"].sort_values("example_id")
    assert answers["example_id"].tolist() == stored["example_id"].tolist()
    assert answers["answer_index"].tolist() == [0, 1, 2]
    card = list_manifests(tmp_path / "home")[0].card
    assert "not used: 'note'" in json.dumps(card["recognised"])


def test_answers_that_are_in_doubt_end_the_run_before_anything_is_computed(tmp_path: Path) -> None:
    lines = ["question,A,B,C,D,answer", *(f"{q},{','.join(c)},Kenya,{a + 1}" for q, c, a in ROWS)]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    spec = {**SPEC, "controls": [], "data": {"id": {"path": "own.csv"}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    done = vmoer(tmp_path / "home", "run", str(tmp_path / "spec.yaml"), "--device", "cpu")
    assert done.returncode == 3, done.stderr
    assert "can be read as numbers from 0 and as numbers from 1" in done.stderr
    assert not list_manifests(tmp_path / "home")
