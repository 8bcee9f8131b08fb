"""Question sets: which questions are used, in which order, and the sentence for every file that is not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.questions import load_all, load_questions
from pipelines.data.reading import limits_of_file, read_items
from pipelines.data.rows import Rows
from pipelines.errors import DataError
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.sections import DataSource

MCQA = Path("../shared/data/mcqa")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.int32()),
        ("subject", pa.string()),
    ]
)


def row(number: int, **changes: Any) -> dict[str, Any]:
    base = {"id": f"q{number}", "question": f"Which is {number}?", "choices": ["a", "b"], "answer": 1, "subject": "x"}
    return {**base, **changes}


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> DataSource:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return DataSource(path=str(path))


def test_larger_limit_contains_the_smaller_in_the_same_order(tmp_path: Path) -> None:
    write(tmp_path / "set.parquet", [row(i) for i in range(50)])
    ten, twenty = (
        [q.id for q in load_questions(DataSource(path=str(tmp_path / "set.parquet"), limit=n)).questions]
        for n in (10, 20)
    )
    assert twenty[:10] == ten
    assert ten != sorted(ten)


def test_limit_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [row(i) for i in range(30)])
    write(tmp_path / "b.parquet", [row(i) for i in reversed(range(30))])
    one, other = (load_questions(DataSource(path=str(tmp_path / f"{n}.parquet"), limit=9)) for n in "ab")
    assert one.content_sha256 == other.content_sha256


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"answer": 2}, "set.parquet row 1: answer must be a 0-based index below 2 (found 2)"),
        ({"answer": -1}, "found -1"),
        ({"answer": None}, "found None"),
        ({"choices": ["a"]}, "choices must be a list of 2 to 100 options"),
        ({"choices": [str(n) for n in range(101)]}, "choices must be a list of 2 to 100 options"),
        ({"choices": ["a", " "]}, "an option is empty"),
        ({"choices": None}, "choices must be a list"),
        ({"question": ""}, "question is empty"),
        ({"question": None}, "question is empty"),
        ({"id": ""}, "id must be text"),
        ({"id": "q0"}, "id 'q0' occurs twice"),
        ({"question": "x" * 300_000}, "has 300,000 characters"),
    ],
)
def test_bad_row_is_refused_by_file_and_row(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    source = write(tmp_path / "set.parquet", [row(0), row(1, **changes)])
    with pytest.raises(DataError) as caught:
        load_questions(source)
    assert sentence in str(caught.value)
    assert "set.parquet row 1" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a Parquet file"),
        (b"\x80\x04pickle", "not a Parquet file"),
        (b"PAR1" + b"\x00" * 64, "cannot be read"),
    ],
)
def test_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        load_questions(DataSource(path=str(tmp_path / "x.parquet")))


def test_missing_file_column_and_empty_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question set at nowhere"):
        load_questions(DataSource(path="nowhere"))
    with pytest.raises(DataError, match=r"has no .parquet file"):
        load_questions(DataSource(path=str(tmp_path)))
    pq.write_table(pa.table({"id": ["a"], "question": ["b"]}), tmp_path / "x.parquet")
    assert not load_questions(DataSource(path=str(tmp_path / "x.parquet"))).questions[0].answered
    with pytest.raises(DataError, match="holds prompts without answers"):
        load_all(parse_spec({"model": "m", "data": {"id": {"path": str(tmp_path / "x.parquet")}}}))
    pq.write_table(pa.table({"id": ["a"], "question": ["b"], "choices": [["c", "d"]]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="found 'id', 'question', 'choices'"):
        load_questions(DataSource(path=str(tmp_path / "x.parquet")))
    with pytest.raises(DataError, match="it has no questions"):
        load_questions(write(tmp_path / "x.parquet", []))
    source = write(tmp_path / "x.parquet", [row(0)])
    with pytest.raises(DataError, match="no question matches"):
        load_questions(source.model_copy(update={"where": {"subject": "law"}}))


def test_filter_names_the_set_after_what_it_keeps(tmp_path: Path) -> None:
    source = write(tmp_path / "mmlu.parquet", [row(0, subject="law"), row(1), row(2, subject="law")])
    kept = load_questions(source.model_copy(update={"where": {"subject": "law"}}))
    assert (kept.name, [q.id for q in kept.questions]) == ("mmlu.law", ["q0", "q2"])


def test_folder_is_one_set_and_an_id_may_not_occur_in_two_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    write(folder / "a.parquet", [row(0)])
    write(folder / "b.parquet", [row(1)])
    assert len(load_questions(DataSource(path=str(folder))).questions) == 2
    write(folder / "b.parquet", [row(0)])
    with pytest.raises(DataError, match=r"b.parquet row 0: id 'q0' occurs twice"):
        load_questions(DataSource(path=str(folder)))


def test_content_hash_changes_with_every_part_of_a_question(tmp_path: Path) -> None:
    variants = [{}, {"question": "other"}, {"answer": 0}, {"choices": ["a", "c"]}, {"id": "z"}]
    hashes = {load_questions(write(tmp_path / "s.parquet", [row(0, **v)])).content_sha256 for v in variants}
    assert len(hashes) == len(variants)


def test_two_sets_of_one_name_need_a_label(tmp_path: Path) -> None:
    path = str(tmp_path / "s.parquet")
    write(tmp_path / "s.parquet", [row(0)])
    data = {"id": {"path": path}, "far": [{"path": path}]}
    with pytest.raises(DataError, match="two question sets are called 's'"):
        load_all(parse_spec({"model": "m", "data": data}))
    data["far"][0]["as"] = "t"  # type: ignore[index]
    assert [s.name for s in load_all(parse_spec({"model": "m", "data": data}))] == ["s", "t"]


def test_question_limit_is_a_setting(tmp_path: Path) -> None:
    source = write(tmp_path / "s.parquet", [row(i) for i in range(5)])
    with pytest.raises(DataError, match="5 questions are more than 4"):
        load_questions(source, settings=Settings(max_questions=4))


def test_unknown_built_in_set_and_split_are_refused() -> None:
    with pytest.raises(DataError, match="no built-in question set 'wordfacts'"):
        load_questions(DataSource(name="wordfacts", split="test"))
    with pytest.raises(DataError, match="worldfacts has no split 'tset'"):
        load_questions(DataSource(name="worldfacts", split="tset"))


def test_rows_of_the_hub_are_read_like_those_of_a_file() -> None:
    rows = [
        {"id": "x", "question_stem": "Q?", "choices": {"text": ["u", "v"], "label": ["A", "B"]}, "answerkey": "B"},
        {"id": "", "question_stem": "R?", "choices": {"text": ["u", "v"], "label": ["1", "2"]}, "answerkey": "1"},
    ]
    table = Rows("hub", tuple(rows[0]), lambda wanted: iter([(f"set row {n}", row) for n, row in enumerate(rows)]))
    settings = Settings()
    found = read_items(table, "set", settings, limits_of_file(settings), lambda number: f"set-test-{number}").accepted()
    assert [(one.id, one.choices, one.answer) for one in found] == [("x", ("u", "v"), 1), ("set-test-1", ("u", "v"), 0)]


@pytest.mark.mcqa
def test_every_real_question_set_loads() -> None:
    counts = {file.stem: len(load_questions(DataSource(path=str(file))).questions) for file in MCQA.glob("*.parquet")}
    assert counts["sciq_test"] == 991  # of 998; 7 have an option twice
    assert counts["mmlu_test"] == 13_927  # of 13 932
    assert len(counts) == 16
