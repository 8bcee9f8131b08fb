"""Files from strangers: question files, uploads, shards and specs that are not what they say."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.prompt_files import parse_prompts
from pipelines.data.questions import load_questions
from pipelines.errors import DataError, SpecError
from pipelines.settings import Settings
from pipelines.spec.model import parse_spec
from pipelines.spec.sections import DataSource
from pipelines.spec.yamlfile import read_file, read_mapping
from store.errors import CorruptShardError, StoreError
from store.shards import check_info, check_pages, write_shard
from tests.adversarial.conftest import mutations

SCHEMA = pa.schema(
    [("id", pa.string()), ("question", pa.string()), ("choices", pa.list_(pa.string())), ("answer", pa.int32())]
)


def question(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": f"Which is {number}?", "choices": ["a", "b"], "answer": 1, **changes}


def stored(path: Path, rows: list[dict[str, Any]]) -> DataSource:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return DataSource(path=str(path))


def test_no_damage_to_a_question_file_is_anything_but_refused_or_read(tmp_path: Path) -> None:
    source = stored(tmp_path / "q.parquet", [question(i) for i in range(40)])
    content = (tmp_path / "q.parquet").read_bytes()
    outcomes = set()
    for damaged in mutations(content, 400, seed=2):
        (tmp_path / "q.parquet").write_bytes(damaged)
        try:
            outcomes.add(len(load_questions(source, settings=Settings(max_questions=1000)).questions) > 0)
        except DataError as error:
            outcomes.add("\n" in str(error) and "two lines")
    assert outcomes == {True, False}


def test_a_column_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    """Found by fuzzing: Arrow decodes names late, in an error of its own."""
    path = tmp_path / "q.parquet"
    source = stored(path, [question(0)])
    path.write_bytes(path.read_bytes().replace(b"answer", b"ans\x8aer"))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_questions(source)
    with pytest.raises(DataError, match="Parquet"):
        parse_prompts(path.read_bytes(), Settings())
    with pytest.raises(CorruptShardError, match="is damaged"):
        check_pages(path)


#: zlib, base64: a file of two prompts whose footer says one thing about a column's levels and another one elsewhere
CONTRADICTION = (
    "eNp1Us1OwkAQnjabhhiu23STHnqhp4JAgjEGDrOkVfxB7MWfW8GmckBqQVCfwRfyTXwcZ7f8eNAv2Zmdb76Z2WR2hHGLG9zjXsAZB25xywUA"
    "kw4zDLKJMmPK/C9pKdPmTHQ74FiLyVM6SzgDXq2ZjpUX81m+rMGlqiHqwDGnj5vQZsIVgQ8ur4qaBWKr5pSxIzvyKwOXBgI3oUtaS/jAqOxX"
    "AfXaiYd/iu1Pw2Z+hRwI16liHF/fnpRvdL6NQ4VOhoQbLHGBuEaZYYSYYV+nUErEK3XpIw40sfe4uR7v4uEHNVVhGIWa1K1D3EHpZf5A9n1E"
    "0jdUw4i8R7ku54T790gZaz/Zz9M41eTZ+Wp8J5vbkjLf64Hj5Unx8pou65M8rydFMV97q7RYTOfPXvuo0Wy0REArUFv4ovWN6Bv8AMTGZo8="
)


def test_a_footer_that_contradicts_itself_does_not_end_the_process() -> None:
    """Found by fuzzing: Arrow aborts when it is asked for the metadata of such a column."""
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        parse_prompts(zlib.decompress(base64.b64decode(CONTRADICTION)), Settings())


@pytest.mark.parametrize("content", [b"id,prompt\x0b1,a\n2,b\n", b'id,"prompt\n1",a\n'])
def test_a_header_that_is_another_one_as_csv_is_refused_or_text(content: bytes) -> None:
    """Found by fuzzing: what the first line looks like and what it is as CSV may differ."""
    try:
        assert len(parse_prompts(content, Settings())) == 2
    except DataError as error:
        assert "has no 'prompt'" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a", "id": "1"}\n{"prompt": "b", "id": "2"}\n"c"\n',
        b'id,prompt\n1,a\n2,"b\nc"\n',
    ],
    ids=["jsonl", "csv"],
)
def test_no_damage_to_an_upload_is_anything_but_refused_or_read(content: bytes) -> None:
    outcomes = set()
    for damaged in mutations(content, 1500, seed=4):
        try:
            outcomes.add(len(parse_prompts(damaged, Settings())) > 0)
        except DataError as error:
            outcomes.add("\n" in str(error) and "two lines")
    assert outcomes == {True, False}


def test_no_damage_to_a_shard_is_anything_but_refused_or_read(tmp_path: Path) -> None:
    rows = {"step": [1, 2, 3], "layer": -1, "quantity": "loss", "value": [0.3, 0.2, 0.1]}
    path = write_shard(tmp_path, "training_log", "m.deterministic.none.0", "a", rows)
    outcomes = set()
    for damaged in mutations(path.read_bytes(), 400, seed=5):
        path.write_bytes(damaged)
        for check in (lambda: check_info(path, "training_log", "m.deterministic.none.0"), lambda: check_pages(path)):
            try:
                check()
                outcomes.add(True)
            except StoreError as error:
                outcomes.add("\n" in str(error) and "two lines")
    assert outcomes == {True, False}


SPEC = b"""model: worldfacts-moe
methods: [fcvr]
samples: 3
data:
  id: {name: worldfacts, split: test, limit: 3}
seed: 0
"""


def test_no_damage_to_a_spec_is_anything_but_refused_or_read(tmp_path: Path) -> None:
    outcomes = set()
    for damaged in mutations(SPEC, 1500, seed=3):
        try:
            outcomes.add(parse_spec(read_mapping(damaged)).experiment != "")
        except SpecError as error:
            outcomes.add("\n" in str(error) and "two lines")
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "model: !!python/object/apply:os.system ['id']", "<<: {a: 1}",
        "model: !!python/name:os.system", "model: !<tag:yaml.org,2002:python/module:os> x",
        "%TAG ! tag:example,2000:\n---\n!x y",
    ],
)  # fmt: skip
def test_yaml_that_wants_more_than_text_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(read_mapping(text))


def test_a_spec_larger_than_the_limit_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(SpecError, match="larger than 262144 bytes"):
        read_file(tmp_path / "s.yaml", Settings().max_spec_bytes)


def test_no_value_of_a_spec_reaches_a_shell() -> None:
    import ast

    from tests.contract.source import python_files, tree

    started = []
    for path in python_files("vmoer", "pipelines", "store", "app"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen"):
                started.append(path.name)
                assert not any(word.arg == "shell" for word in node.keywords)
                assert isinstance(node.args[0], ast.List | ast.Call | ast.Name), "a list of arguments"
    known = ["confined.py", "manifests.py", "package.py", "processes.py"]
    assert sorted(started) == known, "a new place starts a process: review it"


def test_a_parquet_file_that_unpacks_to_far_more_than_it_holds_is_stopped_by_the_limits(tmp_path: Path) -> None:
    bomb = question(0, question="x" * 250_000)
    with pytest.raises(DataError, match="250,000 characters"):
        load_questions(stored(tmp_path / "bomb.parquet", [bomb] * 200))
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    many = pa.table({f"c{i}": pa.array([0], pa.int8()) for i in range(20_000)})
    pq.write_table(many, tmp_path / "wide.parquet")
    with pytest.raises(DataError, match="more than 1,000 columns"):
        load_questions(DataSource(path=str(tmp_path / "wide.parquet")))


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.txt", "x.duckdb", "x.pkl", "x.jsonl"])
@pytest.mark.parametrize("content", [bytes(8) + b"DUCK", b"\x80\x04pickle", b"PK\x03\x04zip", b"PAR1", b""])
def test_a_question_file_is_judged_by_its_content_not_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    says = r"not a Parquet file|cannot be read|cannot read|give prompts as UTF-8 text|has no prompts|a NUL character"
    with pytest.raises(DataError, match=says) as caught:
        load_questions(DataSource(path=str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_text_is_read_as_prompts_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"Where is Lyon?\nWhere is Paris?\n")
    found = load_questions(DataSource(path=str(tmp_path / "x.pkl"))).questions
    assert [(one.question, one.choices) for one in found] == [("Where is Lyon?", ()), ("Where is Paris?", ())]
