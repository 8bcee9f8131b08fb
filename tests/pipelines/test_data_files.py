"""Files of rows: every kind and dialect gives the same rows, and what is structured is never read as lines of text."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.files import rows_of
from pipelines.data.literals import value_in
from pipelines.data.prompt_files import parse_prompts, read_upload
from pipelines.data.questions import load_questions
from pipelines.data.reading import Reading, limits_of_file, limits_of_upload, read_items
from pipelines.errors import DataError
from pipelines.settings import Settings
from pipelines.spec.sections import DataSource

SETTINGS = Settings()
#: texts with every separator, quotes, line breaks and letters of other scripts
TEXTS = ['a, b; c | d\te "f"', "first\nsecond", "Größe, naïve", "مرحبا", "plain", "'quoted'", '""']


def read(content: bytes, name: str = "set.csv", settings: Settings = SETTINGS) -> Reading:
    limits = limits_of_file(settings)
    return read_items(rows_of(content, limits, name), name, settings, limits)


def delimited(rows: list[list[Any]], mark: str, quoting: int = csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=mark, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_every_separator_and_encoding_gives_the_same_prompts(mark: str, encoding: str, suffix: str) -> None:
    rows = [["id", "question", "note"], *([f"r{n}", text, "x"] for n, text in enumerate(TEXTS))]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        found = read(delimited(rows, mark, quoting).encode(encoding), f"set.{suffix}")
        assert [(one.id, one.question) for one in found.accepted()] == [(f"r{n}", t) for n, t in enumerate(TEXTS)]
        assert found.unused == ("note",)


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress, zstd], ids=["plain", "gz", "zst"])
def test_every_kind_of_file_gives_the_same_questions(pack: Any) -> None:
    rows = [
        {"id": f"q{n}", "question": text, "choices": ["u, v", "w;x"], "answer": n % 2} for n, text in enumerate(TEXTS)
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    table = [["id", "question", "choices", "answer"]]
    table += [[row["id"], row["question"], json.dumps(row["choices"]), row["answer"]] for row in rows]
    files = {
        "a.parquet": sink.getvalue(),
        "a.json": json.dumps(rows).encode(),
        "b.json": json.dumps(rows, indent=2).encode(),
        "a.jsonl": "\n".join(json.dumps(row) for row in rows).encode(),
        "a.csv": delimited(table, ",").encode(),
        "b.csv": delimited(table, ";").encode("utf-16"),
        "c.csv": ("sep=;\r\n" + delimited(table, ";")).encode("utf-8-sig"),
    }
    expected = [(row["id"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows]  # type: ignore[arg-type]
    for name, content in files.items():
        items = read(pack(content), name).accepted()
        assert [(one.id, one.question, one.choices, one.answer) for one in items] == expected, name


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.csv", "frage;antwort\nWo?;da\n", "is a table with the columns 'frage', 'antwort'"),
        ("x.txt", "frage\tantwort\nWo?\tda\nWer?\tich\n", "is a table with the columns 'frage', 'antwort'"),
        ("x.txt", "nr;frage;antwort\n1;Wo?;da\n", "has no column 'prompt'"),
        ("x.csv", "Where is Lyon?\nWhere is Oslo?\n", "name its columns in the first line"),
        ("x.json", '[{"frage": "Wo?"}]', "has no column 'prompt', 'question' or 'text'"),
        ("x.json", "[1, 2]", "element 0 is neither a JSON object nor text"),
        ("x.json", '[{"prompt": "a"}, {"prompt": ', r"a JSON array that cannot be read \(line 1\)"),
        ("x.txt", '[{"prompt": "a"}, ', "a JSON array that cannot be read"),
        ("x.jsonl", "hello\n", "is not JSON"),
        ("x.json", '{"data": [{"prompt": "a"}]}', "has no column 'prompt'"),
        ("x.json", '{\n "prompt": "a"\n}\n{\n "prompt": "b"\n}', "line 1 is not a JSON object on one line"),
        ("x.json", '[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' twice"),
        ("x.csv", "prompt,Prompt\na,b\n", "two columns called 'prompt'"),
        ("x.txt", "<?xml version='1.0'?><a/>", "XML or HTML"),
        ("x.csv", "prompt,note\n\"caf\xe9\",x\n", "not UTF-8 text"),
        ("x.csv", 'prompt;id\n"a";1\n"b" c;2\n', "line 3 is not valid CSV"),
    ],
)  # fmt: skip
def test_what_is_structured_and_not_known_is_refused_and_never_lines_of_text(
    name: str, content: str, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read(content.encode("latin-1"), name)


def test_what_excel_leaves_at_the_end_of_rows_and_files_is_nothing() -> None:
    content = "question;Option A;Option B;Correct Answer;;\r\nQ?;u;v;B;;\r\n;;;;;\r\n\r\nR?;u;v;A;;\r\n;;;;;\r\n"
    found = read(content.encode("utf-8-sig"))
    assert [(one.question, one.choices, one.answer) for one in found.accepted()] == [
        ("Q?", ("u", "v"), 1),
        ("R?", ("u", "v"), 0),
    ]
    assert found.unused == ()


@pytest.mark.parametrize(
    "content",
    [
        "Hello, world\nYes, sir\n",
        "one; two\nthree; four",
        "[INST] Hi [/INST]\n[1] note",
        "a | b\nc | d",
        "x\ty z\nlater",
    ],
)
def test_sentences_with_separators_stay_lines_of_text(content: str) -> None:
    found = read(content.encode(), "x.txt")
    assert [one.question for one in found.accepted()] == content.split("\n")[: len(found.items)]
    assert found.layout == "a prompt a line"


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_packed_file_is_unpacked_up_to_the_limit_and_no_further(pack: Any) -> None:
    small = replace(SETTINGS, max_upload_bytes=20_000)
    bomb = pack(b"0123456789" * 1_000_000)
    assert len(bomb) < small.max_upload_bytes
    with pytest.raises(DataError, match="unpacks to more than 160,000 bytes"):
        parse_prompts(bomb, small)
    with pytest.raises(DataError, match="cannot be unpacked"):
        parse_prompts(pack(random.Random(0).randbytes(5000))[:900], small)


def test_a_column_that_nobody_reads_harms_nobody() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a"], "when": pa.array([2**62], pa.timestamp("ms"))}), sink)
    assert read_upload(sink.getvalue(), SETTINGS).unused == ("when",)
    for value in ([["a"]], [1.5], [True]):
        sink = io.BytesIO()
        pq.write_table(pa.table({"prompt": value}), sink)
        with pytest.raises(DataError, match="row 0 is not text"):
            parse_prompts(sink.getvalue(), SETTINGS)


BOMB = """
import io, resource, sys
import pyarrow as pa, pyarrow.parquet as pq
from pipelines.data.prompt_files import parse_prompts
from pipelines.errors import DataError
from pipelines.settings import Settings
from pipelines.spec.sections import DataSource
values = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), pa.array(["y" * int(sys.argv[1])]))
sink = io.BytesIO()
pq.write_table(pa.table({"prompt": values}), sink, compression="zstd")
content = sink.getvalue()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parse_prompts(content, Settings())
except DataError as error:
    print(len(content), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.parametrize("length", [150_000, 4_000_000])
def test_a_file_of_one_repeated_value_takes_no_more_memory_than_its_limit(length: int, repository: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BOMB, str(length)], capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    size, mebibytes, sentence = done.stdout.split(maxsplit=2)
    assert int(size) < 5000
    assert int(mebibytes) < 300
    assert "more than 40,000,000 bytes" in sentence or "4,000,000 characters" in sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("['it''s']".replace("''", "\\'"), ["it's"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        ("""["it's" 'b']""", ["it's", "b"]),
        ("{'text': array(['u', 'v'], dtype=object), 'label': array(['A', 'B'], dtype=object)}",
         {"text": ["u", "v"], "label": ["A", "B"]}),
        ("{'label': ['A'], 'text': ['u']}", {"label": ["A"], "text": ["u"]}),
    ],
)  # fmt: skip
def test_lists_in_a_cell_are_read_as_they_were_written(text: str, value: Any) -> None:
    assert value_in(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "[", "['a' 'b', 'c']", "[x]", "[__import__('os')]", "['\\d']", "[" * 9000, "[1 + 1]", "{[]: 1}", "[f'a']"],
)  # fmt: skip
def test_a_cell_that_is_no_list_or_in_doubt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no list|side by side"):
        value_in(text)


def test_an_upload_keeps_its_limits_in_every_kind_of_file() -> None:
    small = replace(SETTINGS, max_upload_prompts=2)
    rows = [{"prompt": "a"}] * 3
    for content in (json.dumps(rows), "\n".join(map(json.dumps, rows)), "prompt;id\na;1\nb;2\nc;3\n", "a\nb\nc\n"):
        with pytest.raises(DataError, match="more than 2 prompts"):
            parse_prompts(content.encode(), small)
    assert limits_of_upload(small).rows == 2


def test_spaces_around_questions_and_options_are_not_scored(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("question;a;b;c;answer\nWho wrote it?  ; Ann ;Bo; Cy;C\n")
    (question,) = load_questions(DataSource(path=str(path))).questions
    assert (question.question, question.choices, question.answer) == ("Who wrote it?", ("Ann", "Bo", "Cy"), 2)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": " as it stands "}\n')
    assert load_questions(DataSource(path=str(prompts))).questions[0].question == " as it stands "
