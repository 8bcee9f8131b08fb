"""Small files that ask for large memory or time: each is one sentence, and what read it goes on."""

from __future__ import annotations

import gzip
import io
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.prompt_files import read_here, read_upload
from pipelines.errors import DataError
from pipelines.settings import Settings
from vmoer.confined import MEMORY, ConfinedError, confined
from vmoer.errors import ModelSourceError
from vmoer.models import chat_template, folder_check, gguf
from vmoer.models.chat_template import check_chat_template

SETTINGS = Settings()
HERE = "tests.adversarial.misbehaving"


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **options)
    return sink.getvalue()


def repeated(n: int) -> bytes:
    """``n`` rows of one long text: a dictionary of one entry and its runs."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), ["x" * 1000])
    return parquet(pa.table({"prompt": long}))


def long_options(n: int) -> bytes:
    options = pa.array(["x" * 1000] * n)
    lists = pa.ListArray.from_arrays([0, n], options)
    return parquet(pa.table({"question": ["q"], "choices": lists, "answer": [0]}))


def nested(n: int) -> bytes:
    inner = pa.ListArray.from_arrays([0, n], pa.array(["x" * 1000] * n))
    return parquet(pa.table({"prompt": ["p"], "choices": pa.ListArray.from_arrays([0, 1], inner)}))


BOMBS = {
    "dictionary": repeated(2_000_000),
    "list": long_options(100_000),
    "nested list": nested(100_000),
    "gzip": gzip.compress(b"a" * 100_000_000, 1),
    "gzip, whole": gzip.compress(b"a line of a prompt\n" * 8_000_000, 6),
    "zstd": pa.compress(b"a line of a prompt\n" * 8_000_000, "zstd", asbytes=True),
    "wide JSON": b"[" + b"[]," * 1_600_000 + b"[]]",
    "deep JSON": b"[" * 4_000_000,
    "wide object": b"{" + b",".join(b'"k%d":[]' % n for n in range(300_000)) + b"}",
    "CSV field": b"prompt\n" + b"x" * 4_000_000 + b"\n",
    "CSV columns": b",".join(b"c%d" % n for n in range(400_000)) + b"\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_a_sentence_and_costs_the_server_little(name: str) -> None:
    before = peak()
    with pytest.raises(DataError) as refusal:
        read_upload(BOMBS[name], SETTINGS, name).accepted()
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert peak() - before < MEMORY


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_twenty_at_once_are_twenty_sentences() -> None:
    def send(number: int) -> str:
        try:
            return f"{len(read_upload(BOMBS['list'] if number % 2 else b'a prompt', SETTINGS).items)} read"
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(send, range(20)))
    assert found[::2] == ["1 read"] * 10
    assert len({*found[1::2]}) == 1
    assert "more" in found[1]


def test_what_the_child_reads_is_what_is_read_here() -> None:
    content = b"id,question,A,B,answer\nx,q\xc3\xa9,u,v,B\ny,r,u,u,A\n"
    assert read_upload(content, SETTINGS) == read_here(content, SETTINGS)
    small = replace(SETTINGS, max_upload_prompts=1, max_prompt_chars=3)
    for content in (b"one\ntwo\n", b"long\n", b"", b"\x80\x04."):
        sentences = []
        for read in (read_upload, read_here):
            try:
                sentences.append(str(read(content, small)))
            except DataError as error:
                sentences.append(str(error))
        assert sentences[0] == sentences[1]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("hog", "needs more than 300 MiB of memory"),
        ("sleep", "takes more than 1 seconds"),
        ("spin", "takes more than 1 seconds"),
        ("crash", "needs more than 300 MiB of memory"),
    ],
)
def test_a_function_that_takes_too_much_is_ended(target: str, why: str) -> None:
    with pytest.raises(ConfinedError, match=why):
        confined(f"{HERE}:{target}", b"", seconds=20 if target in ("hog", "crash") else 1)


def test_a_refusal_comes_back_with_its_sentence_and_another_error_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="its sentence"):
        confined(f"{HERE}:refuse", b"its sentence", {"kind": "ValueError"}, refusals=(ValueError,))
    with pytest.raises(ConfinedError, match=r"cannot be read \(KeyError\)"):
        confined(f"{HERE}:refuse", b"x", {"kind": "KeyError"}, refusals=(ValueError,))
    monkeypatch.setenv("VMOER_SECRET", "s")
    assert "VMOER_SECRET" not in confined(f"{HERE}:environment", b"")


def tokenizer(template: str) -> Any:
    return SimpleNamespace(chat_template=template, special_tokens_map={"bos_token": "<s>"})


def test_a_chat_template_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 2)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ModelSourceError, match="chat template of m takes more than 2 seconds to write one question"):
        check_chat_template(tokenizer(loops), "m")
    with pytest.raises(ModelSourceError, match="chat template of m needs more than 300 MiB of memory to write"):
        check_chat_template(tokenizer("{{ 'x' * 4000000000 }}"), "m")
    check_chat_template(tokenizer("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"), "m")
    check_chat_template(tokenizer("{{ raise_exception('no') }}"), "m")


def test_a_gguf_array_longer_than_any_memory_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 3, no tensors, one field: an array of 2⁴⁰ bytes that are not there."""
    key = b"a"
    header = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    field = len(key).to_bytes(8, "little") + key + (9).to_bytes(4, "little")
    field += (0).to_bytes(4, "little") + (2**40).to_bytes(8, "little")
    path = tmp_path / "bomb.gguf"
    path.write_bytes(header + field + bytes(64))
    monkeypatch.setattr(gguf, "_HEADER", 2**27)
    with pytest.raises(ModelSourceError, match=r"bomb\.gguf is not a readable GGUF file"):
        gguf.read_gguf(path)


def test_a_tokenizer_of_absurd_size_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_check, "MAX_TEXT", 1000)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text(" " * 1001)
    with pytest.raises(ModelSourceError, match=r"tokenizer\.json of .* has 1,001 bytes; at most 1,000 are read"):
        folder_check.check_folder(tmp_path)


#: Arrow's kinds of values by what a column of them does: read, or refused by name and type
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "NA": (pa.null(), [None]),
    "BOOL": (pa.bool_(), [True]),
    "UINT8": (pa.uint8(), [2**8 - 1]),
    "INT8": (pa.int8(), [-(2**7)]),
    "UINT16": (pa.uint16(), [2**16 - 1]),
    "INT16": (pa.int16(), [-(2**15)]),
    "UINT32": (pa.uint32(), [2**32 - 1]),
    "INT32": (pa.int32(), [-(2**31)]),
    "UINT64": (pa.uint64(), [2**64 - 1]),
    "INT64": (pa.int64(), [-(2**63)]),
    "HALF_FLOAT": (pa.float16(), [float("nan")]),
    "FLOAT": (pa.float32(), [float("inf")]),
    "DOUBLE": (pa.float64(), [1e308]),
    "STRING": (pa.string(), ["é"]),
    "LARGE_STRING": (pa.large_string(), ["x"]),
    "STRING_VIEW": (pa.string_view(), ["x"]),
    "BINARY": (pa.binary(), [b"\xff"]),
    "LARGE_BINARY": (pa.large_binary(), [b"\xff"]),
    "BINARY_VIEW": (pa.binary_view(), [b"\xff"]),
    "FIXED_SIZE_BINARY": (pa.binary(2), [b"\xff\xff"]),
    "DATE32": (pa.date32(), [2**31 - 1]),
    "DATE64": (pa.date64(), [2**62 // 86_400_000 * 86_400_000]),
    "TIMESTAMP": (pa.timestamp("ms"), [2**62]),
    "TIME32": (pa.time32("s"), [86_399]),
    "TIME64": (pa.time64("ns"), [86_399_999_999_999]),
    "DURATION": (pa.duration("s"), [2**62]),
    "DECIMAL32": (pa.decimal32(9), [999_999_999]),
    "DECIMAL64": (pa.decimal64(18), [10**18 - 1]),
    "DECIMAL128": (pa.decimal128(38), [10**37]),
    "DECIMAL256": (pa.decimal256(76), [10**75]),
    "LIST": (pa.list_(pa.duration("ms")), [[2**62]]),
    "LARGE_LIST": (pa.large_list(pa.string()), [["x"]]),
    "FIXED_SIZE_LIST": (pa.list_(pa.int64(), 2), [[2**62, 1]]),
    "STRUCT": (pa.struct({"t": pa.timestamp("ms")}), [{"t": 2**62}]),
    "MAP": (pa.map_(pa.string(), pa.int8()), [[("k", 1)]]),
    "DICTIONARY": (pa.dictionary(pa.int32(), pa.string()), ["x"]),
}
#: kinds of values that Parquet cannot hold
NOT_IN_PARQUET = {
    "INTERVAL_MONTHS", "INTERVAL_DAY_TIME", "INTERVAL_MONTH_DAY_NANO", "SPARSE_UNION", "DENSE_UNION", "RUN_END_ENCODED",
    "LIST_VIEW", "LARGE_LIST_VIEW",
}  # fmt: skip
READ = {
    "NA", "BOOL", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64", "HALF_FLOAT", "FLOAT",
    "DOUBLE", "STRING", "LARGE_STRING", "STRING_VIEW", "LARGE_LIST", "FIXED_SIZE_LIST", "DICTIONARY",
}  # fmt: skip


def test_every_kind_of_arrow_value_is_known_to_this_test() -> None:
    known = {name.removeprefix("Type_") for name in dir(pa.lib) if name.startswith("Type_")}
    assert known == {*VALUES, *NOT_IN_PARQUET}


@pytest.mark.parametrize("column", ["prompt", "id"])
@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_is_read_or_refused_by_name(name: str, column: str) -> None:
    kind, values = VALUES[name]
    array = pa.array(values, pa.int64()).cast(kind) if _counts(kind) else pa.array(values, kind)
    table = pa.table({column: array} | ({"prompt": ["p"]} if column == "id" else {}))
    content = parquet(table)
    stored = pq.read_schema(io.BytesIO(content)).field(column).type
    if name not in READ:
        with pytest.raises(DataError) as refusal:
            read_here(content, SETTINGS)
        assert str(refusal.value) == f"the file: column {column!r} holds {stored}; give text, numbers or lists"
        return
    found = read_here(content, SETTINGS)
    assert len(found.items) + len(found.refused) == 1
    said = {
        f"the file row 0: {column} must be text or a number",
        "the file row 0 is not text",
        "the file row 0 is empty",
    }
    assert {one.sentence for one in found.refused} <= said


def _counts(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_date64(kind)
