"""Layouts of question files: each gives the right options and answers, and an answer in doubt is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli.datasets import question_file, question_file_lines
from pipelines.data.files import rows_of
from pipelines.data.questions import load_questions
from pipelines.data.reading import Reading, limits_of_file, read_items
from pipelines.errors import DataError
from pipelines.settings import Settings
from pipelines.spec.sections import DataSource
from tests.conftest import MCQA

SETTINGS = Settings()
ROME = ("Rome is in", ("Italy", "Mali", "Peru"), 0)
OSLO = ("Oslo is in", ("Cuba", "Norway", "Laos"), 1)
LIMA = ("Lima is in", ("Chad", "Iran", "Peru"), 2)
THREE = (ROME, OSLO, LIMA)


def read(content: str | bytes, name: str) -> Reading:
    limits = limits_of_file(SETTINGS)
    content = content.encode() if isinstance(content, str) else content
    return read_items(rows_of(content, limits, name), name, SETTINGS, limits)


def as_jsonl(rows: list[dict[str, Any]]) -> tuple[str, str]:
    return "\n".join(json.dumps(row) for row in rows), "set.jsonl"


def as_parquet(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue(), "set.parquet"


def as_csv(rows: list[dict[str, Any]], mark: str = ",") -> tuple[str, str]:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in row.values())
    return out.getvalue(), "set.csv"


def as_pandas_csv(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """What pandas writes of a file that it has read: lists as NumPy prints them."""
    return pq.read_table(pa.BufferReader(as_parquet(rows)[0])).to_pandas().to_csv(), "set.csv"


def labelled(question: str, choices: tuple[str, ...], answer: int) -> dict[str, Any]:
    labels = ["1", "2", "3"] if answer == 1 else ["A", "B", "C"]  # ARC has both, in one file
    return {"question": question, "choices": {"text": list(choices), "label": labels}, "answerKey": labels[answer]}


def nested(question: str, choices: tuple[str, ...], answer: int) -> dict[str, Any]:
    options = [{"text": text, "label": label} for text, label in zip(choices, "ABC", strict=True)]
    return {"question": {"stem": question, "choices": options}, "answerKey": "ABC"[answer]}


def columns(*names: str) -> Callable[[str, tuple[str, ...], int], dict[str, Any]]:
    """A column for each option; the answer as a letter."""
    return lambda q, c, a: {"question": q, **dict(zip(names, c, strict=True)), "answer": "ABC"[a]}


LISTED: dict[str, Callable[[str, tuple[str, ...], int], dict[str, Any]]] = {
    "own, index": lambda q, c, a: {"question": q, "choices": list(c), "answer": a},
    "own, letter": lambda q, c, a: {"question": q, "choices": list(c), "answer": "ABC"[a]},
    "own, text": lambda q, c, a: {"prompt": q, "options": list(c), "answer": c[a]},
    "own, digits": lambda q, c, a: {"question": q, "choices": list(c), "answer": str(a)},
    "own, digits from 1": lambda q, c, a: {"question": q, "choices": list(c), "answer": str(a + 1)},
    "MMLU of the hub": lambda q, c, a: {"question": q, "subject": "law", "choices": list(c), "answer": a},
    "MMLU-Pro": lambda q, c, a: {"question": q, "options": list(c), "answer": "ABC"[a], "answer_index": a},
    "ARC": labelled,
    "OpenBookQA": lambda q, c, a: {"question_stem" if k == "question" else k: v for k, v in labelled(q, c, a).items()},
    "CommonsenseQA": lambda q, c, a: {**labelled(q, c, a), "question_concept": "city"},
    "ARC as published": nested,
    "HellaSwag": lambda q, c, a: {"ind": 3, "ctx_a": "x", "ctx": q, "endings": list(c), "label": str(a)},
    "TruthfulQA": lambda q, c, a: {
        "question": q,
        "mc1_targets": {"choices": list(c), "labels": [int(a == place) for place in range(3)]},
    },
    "options by letter": lambda q, c, a: {
        "question": q,
        "options": dict(zip("ABC", c, strict=True)),
        "answer": "ABC"[a],
    },
    "columns A to C": columns("A", "B", "C"),
    "columns option_a": columns("option_a", "option_b", "option_c"),
    "columns Choice 1": columns("Choice 1", "Choice 2", "Choice 3"),
    "columns ending0": columns("ending0", "ending1", "ending2"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LISTED)
@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_csv, as_pandas_csv])
def test_every_layout_in_every_kind_of_file_gives_the_same_questions(layout: str, write: Any) -> None:
    rows = [{"id": f"q{n}", **LISTED[layout](*one)} for n, one in enumerate(THREE)]
    found = read(*write(rows)).accepted()
    assert [(one.id, one.question, one.choices, one.answer) for one in found] == [
        (f"q{n}", *one) for n, one in enumerate(THREE)
    ]


def test_sets_with_columns_of_their_own_are_known() -> None:
    medmcqa = {"question": "Q?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "subject_name": "Anatomy"}
    from_zero = read(*as_parquet([{**medmcqa, "cop": cop} for cop in (0, 3)]))
    from_one = read(*as_jsonl([{**medmcqa, "cop": cop} for cop in (1, 4)]))
    assert [one.answer for one in (*from_zero.accepted(), *from_one.accepted())] == [0, 3, 0, 3]
    assert (from_zero.answers, from_one.answers) == ("numbers from 0", "numbers from 1")
    assert from_zero.items[0].subject == "Anatomy"
    with pytest.raises(DataError, match="'cop' can be read as numbers from 0 and as numbers from 1"):
        read(*as_parquet([{**medmcqa, "cop": cop} for cop in (1, 2, 3)]))
    piqa = read(*as_jsonl([{"goal": "Open", "sol1": "push", "sol2": "pull", "label": 1}])).accepted()[0]
    assert (piqa.question, piqa.choices, piqa.answer) == ("Open", ("push", "pull"), 1)
    gap = read(*as_jsonl([{"sentence": "Ann met Bo, as _ came.", "option1": "Ann", "option2": "Bo", "answer": "2"}]))
    assert (gap.accepted()[0].choices, gap.items[0].answer) == (("Ann", "Bo"), 1)
    for answer in (True, "true", 1):
        column = "label" if answer == 1 and answer is not True else "answer"
        yes = read(*as_jsonl([{"passage": "It rains.", "question": "is it wet", column: answer}])).accepted()[0]
        assert (yes.question, yes.choices, yes.answer) == ("It rains.\nis it wet?", ("no", "yes"), 1)
    sciq = {"question": "Q?", "distractor1": "z", "distractor2": "a", "distractor3": "m", "correct_answer": "k"}
    known = read(*as_csv([sciq])).accepted()[0]
    assert (known.choices, known.answer) == (("a", "k", "m", "z"), 1), "in alphabetical order"


def test_mmlu_without_header_is_known_in_every_dialect() -> None:
    rows = [["Which, if any?", "a", "b", "c", "d", "B"], ['He said "x"\nand y', "1", "2", "3", "4", "D"]]
    for mark in (",", ";", "\t"):
        out = io.StringIO()
        csv.writer(out, delimiter=mark).writerows(rows)
        found = read(out.getvalue(), "law_test.csv").accepted()
        assert [(one.question, one.choices, one.answer) for one in found] == [
            (row[0], tuple(row[1:5]), "ABCD".index(row[5])) for row in rows
        ]
    rows[1][5] = "E"
    with pytest.raises(DataError, match="name its columns in the first line"):
        read("\n".join(",".join(row[1:]) for row in rows), "law_test.csv")


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (["0", "1", "3"], [0, 1, 3]),
        (["1", "2", "4"], [0, 1, 3]),
        (["1", "2", "3"], "numbers from 0 and as numbers from 1"),
        (["0", "2", "4"], "set.csv line 4: answer must be a 0-based index below 4 (found '4')"),
        (["a", "B", "(C)"], [0, 1, 2]),
        (["A", "B", "E"], "set.csv line 4: answer must be a letter from A to D (found 'E')"),
        (["A", "", "C"], "set.csv line 3: answer must be a letter from A to D (found '')"),
        (["w0", "x1", "z2"], [0, 1, 3]),
        (["w0", "x1", "y1"], "set.csv line 4: answer must be the text of one option (found 'y1')"),
        (["0.0", "1.0", "2.0"], [0, 1, 2]),
    ],
)
def test_answers_have_the_one_meaning_that_fits_or_are_refused(answers: list[str], outcome: Any) -> None:
    rows = [
        {"question": f"Q{n}", "A": f"w{n}", "B": f"x{n}", "C": f"y{n}", "D": f"z{n}", "answer": answer}
        for n, answer in enumerate(answers)
    ]
    if isinstance(outcome, list):
        assert [one.answer for one in read(*as_csv(rows)).accepted()] == outcome
        return
    with pytest.raises(DataError) as caught:
        read(*as_csv(rows)).accepted()
    assert outcome in str(caught.value)


def test_numbers_whose_options_are_numbers_are_not_guessed() -> None:
    rows = [{"question": "1 + 1 =", "choices": ["1", "2", "3"], "answer": "2"}]
    with pytest.raises(DataError, match="with different answers"):
        read(*as_jsonl(rows))
    assert read(*as_jsonl([{**rows[0], "answer": 1}])).accepted()[0].answer == 1, "a number with a type counts from 0"
    sums = [{"question": f"{n} + 9 =", "choices": ["7", "8", str(n + 9)], "answer": str(n + 9)} for n in range(3)]
    assert [one.answer for one in read(*as_jsonl(sums)).accepted()] == [2, 2, 2]


def test_every_refused_row_is_named_with_its_column(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "Q?", "choices": ["u", "v"], "answer": 0},
        {"id": "b", "question": "", "choices": ["u", "v"], "answer": 0},
        {"id": "a", "question": "Q?", "choices": ["u", "v"], "answer": 1},
        {"id": "c", "question": "Q?", "choices": ["u"], "answer": 0},
        {"id": "d", "question": "Q?", "choices": ["u", "v"], "answer": 2},
        {"id": "e", "question": "Q?", "choices": "u, v", "answer": 1},
        {"id": "f", "question": "Q?", "answer": 1},
        {"id": ["g"], "question": "Q?", "choices": ["u", "v"], "answer": 1},
    ]
    (tmp_path / "set.jsonl").write_text(as_jsonl(rows)[0])
    found = question_file(tmp_path / "set.jsonl")
    assert [(row["row"].split()[-1], row["column"]) for row in found["refused"]] == [
        ("2", "question"), ("3", "id"), ("4", "choices"), ("5", "answer"),
        ("6", "choices"), ("7", "choices"), ("8", "id"),
    ]  # fmt: skip
    assert (found["n"], found["content_sha256"]) == (1, None)
    with pytest.raises(DataError, match=r"line 2: question is empty \(and 6 more"):
        load_questions(DataSource(path=str(tmp_path / "set.jsonl")))


def test_what_a_file_was_recognised_as_is_said(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", **LISTED["own, letter"](*one), "hint": "x"} for n, one in enumerate(THREE)]
    (tmp_path / "set.csv").write_text(as_csv(rows, ";")[0])
    text = "\n".join(question_file_lines(question_file(tmp_path / "set.csv")))
    assert "CSV (semicolon), question, choices, answer: 3 questions of 3 options, answers read as letters" in text
    assert "not used: 'hint'" in text
    assert "    Question: Rome is in\n    Answer:\n  → … Italy\n    … Mali\n    … Peru" in text
    found = load_questions(DataSource(path=str(tmp_path / "set.csv")))
    assert found.recognised[0].endswith("not used: 'hint'")


def test_answers_without_options_are_not_dropped_without_a_word() -> None:
    found = read(*as_jsonl([{"question": "2 + 2 =", "answer": "4"}]))
    assert (found.answered, found.unused) == (False, ("answer",))
    for wrong in ({"choices": ["a", "b"]}, {"A": "a", "B": "b"}, {"endings": ["a", "b"]}, {"sol1": "a", "sol2": "b"}):
        with pytest.raises(DataError, match=r"docs/data\.md has the layouts"):
            read(*as_jsonl([{"question": "Q?", **wrong}]))


def test_a_place_that_is_always_right_is_remarked() -> None:
    rows = [{"question": f"Q{n}", "choices": ["u", "v"], "answer": 0} for n in range(6)]
    assert "the right option is number 1 in every question" in read(*as_jsonl(rows)).notes[0]
    assert not read(*as_jsonl([*rows, {**rows[0], "answer": 1}])).notes


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "Q?", "options": ["a", "b"], "answer": "A", "answer_index": 1}, "do not name the same option"),
        ({"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}, "as many labels"),
        ({"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answerKey": "A"}, "label of one"),
        ({"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": ""}, "the label of one"),
        ({"question": "Q?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "exactly one label 1"),
        ({"goal": "Open", "sol1": "push", "sol2": "pull", "label": -1}, "0-based index below 2"),
        ({"ctx": "She", "endings": ["a", "b", "c", "d"], "label": ""}, "0-based index below 4"),
        ({"question": "Q?", "answerKey": "A"}, "'stem' and 'choices'"),
        ({"question": "Q?", "correct_answer": "a", "distractor1": "a", "distractor2": "b", "distractor3": "c"}, "too"),
        ({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}, "sentence has no gap"),
        ({"question": "q", "choices": ["a", "b"], "answer": "a", "answer_index": 1}, "do not name the same option"),
        ({"question": "q", "choices": [1, 2], "answer": 0}, "an option is a number; write options as text"),
        ({"sentence": "_", "option1": "a", "option2": "b", "answer": "0"}, "a number from 1 to 2"),
        ({"passage": "P", "question": "q", "answer": "maybe"}, "true or false"),
        ({"question": "Q?", "options": {"B": "b", "A": "a"}, "answer": "A"}, "options by letter in order"),
    ],
)  # fmt: skip
def test_rows_that_contradict_their_layout_are_refused(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read(*as_jsonl([row])).accepted()


def hub_layout(stem: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of a real set in the columns that the hub has for it, with its id, which the hub lacks for two sets."""
    letters = "ABCDE"[: len(row["choices"])]
    if stem.startswith(("arc", "obqa")):
        text = "question_stem" if stem.startswith("obqa") else "question"
        choices = {"text": row["choices"], "label": list(letters)}
        return {"id": row["id"], text: row["question"], "choices": choices, "answerKey": letters[row["answer"]]}
    if stem.startswith("medmcqa"):
        options = dict(zip(("opa", "opb", "opc", "opd"), row["choices"], strict=True))
        return {"id": row["id"], "question": row["question"], **options, "cop": row["answer"]}
    if stem.startswith("sciq"):
        wrong = [choice for place, choice in enumerate(row["choices"]) if place != row["answer"]]
        distractors = {f"distractor{place}": choice for place, choice in enumerate(wrong, 1)}
        right = row["choices"][row["answer"]]
        return {"id": row["id"], "question": row["question"], **distractors, "correct_answer": right}
    return {"id": row["id"], **{key: row[key] for key in ("question", "subject", "choices", "answer")}}


@pytest.mark.mcqa
@pytest.mark.parametrize(
    "stem",
    ["arc_easy_test", "arc_challenge_test", "obqa_test", "sciq_test", "medmcqa_validation", "mmlu_validation"],
)
def test_a_real_set_is_the_same_in_every_file(stem: str) -> None:
    table = pq.read_table(MCQA / f"{stem}.parquet")
    rows = table.drop_columns(["support", "source"]).to_pylist()
    expected = [(row["id"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows]
    as_hub = [hub_layout(stem, row) for row in rows]
    files = {
        "Parquet": ((MCQA / f"{stem}.parquet").read_bytes(), "set.parquet"),
        "JSON lines": as_jsonl(rows),
        "JSON array": (json.dumps(rows), "set.json"),
        "comma": as_csv(rows),
        "semicolon": as_csv(rows, ";"),
        "pandas": as_pandas_csv(rows),
        "hub": as_parquet(as_hub),
        "hub, JSON lines": as_jsonl(as_hub),
    }
    for kind, (content, name) in files.items():
        found = [(one.id, one.question, one.choices, one.answer) for one in read(content, name).accepted()]
        if stem.startswith("sciq") and kind.startswith("hub"):  # the hub has no order of options
            assert [(i, q, sorted(c), c[a]) for i, q, c, a in found] == [
                (i, q, sorted(c), c[a]) for i, q, c, a in expected
            ]
        else:
            assert found == expected, kind
