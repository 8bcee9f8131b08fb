"""Files of prompts: the four formats by content, hostile text, and every cap before what it bounds."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.checks import check_prompt
from pipelines.data.prompt_files import parse_prompts
from pipelines.errors import DataError
from pipelines.settings import Settings

SETTINGS = Settings()
#: what people and attackers paste: right-to-left, emoji, combining marks, separators, spreadsheet formulas, markup
HOSTILE = [
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🇫🇷",
    "éa",
    "a\u2028b\u2029c",
    "\u202egnp.exe",
    "=1+1",
    "<b>x</b>",
    "'; DROP TABLE t; --",
]
#: any prompt that is allowed: no NUL, no surrogate, not blank
prompts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=60).filter(
    lambda text: text.strip() != ""
)


def texts(content: bytes, settings: Settings = SETTINGS) -> list[str]:
    return [prompt.text for prompt in parse_prompts(content, settings)]


def as_json(rows: list[str]) -> bytes:
    return "\n".join(json.dumps({"prompt": row}) for row in rows).encode()


def as_csv(rows: list[str]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "prompt"], *([f"r{number}", row] for number, row in enumerate(rows))])
    return out.getvalue().encode()


def as_parquet(rows: list[str], **columns: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": rows, **columns}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("write", [as_json, as_csv, as_parquet])
@given(rows=st.lists(prompts, min_size=1, max_size=5))
def test_every_format_gives_back_every_text(write, rows: list[str]) -> None:
    assert texts(write(rows)) == rows


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("write", [as_json, as_csv, as_parquet, lambda rows: rows[0].encode()])
def test_hostile_text_stays_text(write, text: str) -> None:
    assert texts(write([text])) == [text]


@given(st.binary(max_size=300))
def test_any_bytes_are_prompts_or_one_sentence(content: bytes) -> None:
    try:
        found = parse_prompts(content, SETTINGS)
    except DataError as error:
        found, sentence = [], str(error)
        assert sentence.count("\n") == 0
    assert all(prompt.text.strip() and "\0" not in prompt.text for prompt in found)


@given(st.lists(prompts.filter(lambda text: not set(text) & set("\n\r")), min_size=1, max_size=5), st.booleans())
def test_text_is_one_prompt_a_line_whatever_the_line_end(rows: list[str], windows: bool) -> None:
    if rows[0].lstrip().startswith(("{", '"')) or any(
        word in rows[0].lower() for word in ("prompt", "question", "text")
    ):
        return  # told apart as JSON lines or CSV
    end = "\r\n" if windows else "\n"
    content = b"\xef\xbb\xbf" + (end + end.join(rows) + end).encode()
    assert texts(content) == [row for row in rows if row.strip()]


def test_ids_are_the_files_own_or_numbers() -> None:
    assert [prompt.id for prompt in parse_prompts(as_csv(["a", "b"]), SETTINGS)] == ["r0", "r1"]
    assert [prompt.id for prompt in parse_prompts(b"a\n\nb", SETTINGS)] == ["p00001", "p00002"]
    assert parse_prompts(b'{"id": 7, "text": "x"}', SETTINGS)[0].id == "7"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no prompts"),
        (b"\xef\xbb\xbf\r\n  \r\n", "has no prompts"),
        (b"caf\xe9", "not UTF-8 text"),
        (b"\xff\xfeh\x00i", "not UTF-16 text"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1f\x8b\x08rest", "gzip archive"),
        (b"\x80\x04\x95pickle", "a pickle"),
        (b"PAR1" + b"\x00" * 64, "cannot be read as Parquet"),
        (b"a\x00b", "NUL"),
        (b'{"prompt": "a\\u0000b"}', "NUL"),
        (b'{"prompt": "\\ud800"}', "line 1 holds a lone surrogate"),
        (b'{"prompt": "ok"}\n{"prompt": ""}', "line 2 is empty"),
        (b'{"prompt": 3}', "line 1 is not text"),
        (b'{"prompt": "ok"}\nnot json', "line 2 is not a JSON object"),
        (b'{"answer": "x"}', "no column 'prompt', 'question' or 'text'"),
        (b'{"prompt": "broken', "line 1 is not a JSON object"),
        (b"[" * 5000, None),
        (b'{"a":' * 5000, "line 1 is not a JSON object"),
        (b'{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "id 'x' occurs twice"),
        (b'{"prompt": "a", "id": "x\\u001b[31m"}', "printable"),
        (b"prompt,id\na,1,2\n", "line 2 has 3 fields, the header has 2"),
        (b'prompt,id\n"a,1\n', "not valid CSV"),
        (b"prompt,id\n,1\n", "line 2 is empty"),
        (as_parquet(["a"]).replace(b"prompt", b"pr0mpt"), "no column 'prompt'"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(content: bytes, sentence: str | None) -> None:
    if sentence is None:
        assert texts(content) == [content.decode()], "text that only looks like JSON is a prompt"
        return
    with pytest.raises(DataError, match=sentence):
        parse_prompts(content, SETTINGS)


def test_caps_hold() -> None:
    small = replace(SETTINGS, max_upload_bytes=100, max_upload_prompts=2, max_prompt_chars=10)
    with pytest.raises(DataError, match="101 bytes"):
        parse_prompts(b"x" * 101, small)
    for content in (b"a\nb\nc", as_json(["a", "b", "c"])):
        with pytest.raises(DataError, match="more than 2 prompts"):
            parse_prompts(content, small)
    with pytest.raises(DataError, match="11 characters"):
        parse_prompts(b"x" * 11, small)
    with pytest.raises(DataError, match="3 prompts; at most 2"):
        parse_prompts(as_parquet(["a", "b", "c"]), replace(small, max_upload_bytes=10_000))
    assert texts(b"x" * 1_000_000, replace(SETTINGS, max_prompt_chars=1_000_000)) == ["x" * 1_000_000]


def test_a_parquet_bomb_is_refused_by_its_footer() -> None:
    bomb = as_parquet(["y" * 2_000_000 + str(number) for number in range(52)])
    assert len(bomb) < SETTINGS.max_upload_bytes
    with pytest.raises(DataError, match="would expand to"):
        parse_prompts(bomb, SETTINGS)


def test_many_columns_are_no_csv() -> None:
    header = ",".join(f"c{number}" for number in range(20_000)) + ",prompt"
    with pytest.raises(DataError, match="characters"):
        parse_prompts(f"{header}\n".encode(), replace(SETTINGS, max_prompt_chars=100_000))


@given(st.text())
def test_one_prompt_is_itself_or_a_sentence(text: str) -> None:
    try:
        assert check_prompt(text, SETTINGS) == text
    except DataError as error:
        assert str(error).startswith("the prompt ")  # noqa: PT017  both outcomes are right
