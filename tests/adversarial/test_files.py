"""Files from strangers: safetensors headers, model folders, question files and specs that are not what they say."""

from __future__ import annotations

import base64
import json
import random
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as library_load
from safetensors.torch import save, save_file

from pipelines.errors import DataError, SpecError
from pipelines.questions import load_questions
from pipelines.settings import Settings
from pipelines.spec import DataSource, parse_spec
from pipelines.uploads import parse_prompts
from pipelines.yamlfile import read_file, read_mapping
from store.errors import CorruptShardError, StoreError
from store.shards import check_info, check_pages, write_shard
from vmoer import safefile
from vmoer.errors import ModelSourceError, UnsupportedModelError, VmoerError
from vmoer.modelfolder import INDEX, check_folder
from vmoer.models import available_models, load_model

BUNDLED = next(info.folder for info in available_models() if info.name == "worldfacts-moe")
GOOD = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "empty": torch.zeros(0, 3)}


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def written(folder: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_a_sound_file_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    save_file(GOOD, tmp_path / "x.safetensors", {"format": "pt"})
    assert safefile.check(tmp_path / "x.safetensors") == 10
    ours, theirs = safefile.load_file(tmp_path / "x.safetensors"), library_load(tmp_path / "x.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "overlaps another"),
        ({"a": entry(), "b": entry()}, 8, "overlaps another"),
        ({"a": entry(offsets=(8, 16))}, 16, "leaves a gap"),
        ({"a": entry()}, 16, "take 8 bytes, the file has 16"),
        ({"a": entry(offsets=(0, 80), shape=(20,))}, 8, "take 80 bytes, the file has 8"),
        ({"a": entry(shape=(2**62, 4))}, 8, "other bytes than its shape needs"),
        ({"a": entry(shape=(2**32, 2**32))}, 8, "other bytes than its shape needs"),
        ({"a": entry(shape=(-2,))}, 8, "shape or place"),
        ({"a": entry(shape=(2.0,))}, 8, "shape or place"),
        ({"a": entry(shape=(True, 2))}, 8, "shape or place"),
        ({"a": entry(shape=(1,) * 100)}, 8, "shape or place"),
        ({"a": entry(shape=(2**64, 0))}, 8, "shape or place"),
        ({"a": entry(offsets=(8, 0))}, 8, "other bytes"),
        ({"a": entry(offsets=(0, 8, 8))}, 8, "shape or place"),
        ({"a": entry(dtype="F1024")}, 8, "unknown type"),
        ({"a": {**entry(), "dtype": ["F32"]}}, 8, "unknown type"),
        ({"a": {**entry(), "code": "x"}}, 8, "malformed"),
        ({"a": 3}, 8, "malformed"),
        ({"__metadata__": {"format": 3}}, 0, "metadata is not text"),
        ({"__metadata__": "pt"}, 0, "metadata is not text"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
         1,
         "gives a name twice"),
        (b'{"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,8]}}', 8, "gives a name twice"),
        (b"[]", 0, "not a JSON object"),
        (b"{", 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b"\xff\xfe", 0, "not JSON"),
        (b'{"a": NaN}', 0, "malformed"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, data: int, says: str) -> None:
    with pytest.raises(SafetensorError, match=says):
        safefile.load_file(written(tmp_path, header, b"\0" * data))


def test_a_huge_header_is_refused_without_reading_it(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="cut short"):
        safefile.check(written(tmp_path, {}, length=2**63))
    path = written(tmp_path, {}, length=safefile.MAX_HEADER + 1)
    with path.open("r+b") as file:
        file.truncate(safefile.MAX_HEADER + 100)  # sparse
    with pytest.raises(SafetensorError, match="its header claims"):
        safefile.check(path)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x80\x04\x95", b"PK\x03\x04zip", b"\x80\x02}q\x00.", b"\0" * 64])
def test_what_is_no_safetensors_file_is_refused_by_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(SafetensorError, match="pickle" if content[:2] in (b"\x80\x04", b"PK", b"\x80\x02") else "it"):
        safefile.check(path)


def mutations(content: bytes, count: int, seed: int) -> Any:
    """``count`` damaged copies: bytes flipped, cut, doubled, spliced, and header numbers swapped."""
    generator = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(data))
            match generator.randrange(5):
                case 0:
                    data[at] ^= 1 << generator.randrange(8)
                case 1:
                    del data[at : at + generator.randint(1, 64)]
                case 2:
                    data[at:at] = data[at : at + generator.randint(1, 64)]
                case 3:
                    data[at : at + 4] = generator.choice([b"\0" * 4, b"\xff" * 4, b"9999", b"-1,0", b'"":{'])
                case _:
                    other = generator.randrange(len(data))
                    data[at : at + 8] = data[other : other + 8]
            if not data:
                break
        yield bytes(data) or b"\0"


def test_no_damage_to_a_safetensors_file_is_anything_but_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    accepted = 0
    for content in mutations(save(GOOD, {"format": "pt"}), 1500, seed=1):
        path.write_bytes(content)
        try:
            found = safefile.load_file(path)
        except SafetensorError:
            continue
        accepted += 1
        assert sum(tensor.nbytes for tensor in found.values()) <= len(content)
    assert 0 < accepted < 1500


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
    assert sorted(started) == ["manifests.py", "package.py", "serve.py", "sources.py"], (
        "a new place starts a process: review it"
    )


def test_a_parquet_file_that_unpacks_to_far_more_than_it_holds_is_stopped_by_the_limits(tmp_path: Path) -> None:
    bomb = question(0, question="x" * 250_000)
    with pytest.raises(DataError, match="250000 characters"):
        load_questions(stored(tmp_path / "bomb.parquet", [bomb] * 200))
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    many = pa.table({f"c{i}": pa.array([0], pa.int8()) for i in range(20_000)})
    pq.write_table(many, tmp_path / "wide.parquet")
    with pytest.raises(DataError, match="has no column 'id'"):
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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "model"))


def refused(folder: Path, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is refused with ``says``, and torch never reads a pickle for it."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    with pytest.raises(VmoerError, match=says) as caught:
        load_model(folder, device="cpu")
    assert isinstance(caught.value, ModelSourceError | UnsupportedModelError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", 3]
)
def test_an_index_leads_neither_to_a_pickle_nor_out_of_the_folder(
    model: Path, name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = library_load(model / "model.safetensors")
    torch.save(weights, model / "pytorch_model.bin")
    (model / "model.safetensors").rename(model.parent / "model.safetensors")
    save_file({"decoy": torch.zeros(1)}, model / "decoy.safetensors")
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)}))
    refused(model, "only safetensors files of the folder are read", monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@main:run"},
        {"attn_implementation": {"": "evil/kernel"}},
        {"text_config": {"_attn_implementation_internal": "evil/kernel"}},
        {"experts_implementation": "evil/kernel"},
    ],
)
def test_a_kernel_from_the_hub_is_code_and_never_fetched(
    model: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **change}))
    refused(model, "'evil/kernel.*kernel from the hub: that is code", monkeypatch)


def test_an_adapter_in_the_folder_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({}, model / "adapter_model.bin")
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "evil/base"}')
    refused(model, "holds an adapter", monkeypatch)


def test_code_beside_a_known_model_is_not_run(model: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for name, key in (("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer")):
        content = json.loads((model / name).read_text())
        content["auto_map"] = {key: ["theirs.T", None] if "Tok" in key else "theirs.T"}
        (model / name).write_text(json.dumps(content))
    (model / "theirs.py").write_text(f"open({str(witness)!r}, 'w')\n")
    load_model(model, device="cpu")
    assert not witness.exists()


def test_a_sound_file_whose_first_bytes_look_like_a_pickle_is_read(tmp_path: Path) -> None:
    """The length of a header of 1,152 bytes is written ``80 04 00 …``, as a pickle of protocol 4 begins."""
    text = json.dumps({"a": entry(), "__metadata__": {"pad": ""}}).encode()
    path = written(tmp_path, text + b" " * (0x480 - len(text)))
    assert path.read_bytes().startswith(b"\x80\x04")
    assert list(safefile.load_file(path)) == ["a"]


def test_the_parameters_are_counted_from_headers_alone() -> None:
    assert check_folder(BUNDLED) == sum(np.prod(t.shape) for t in library_load(BUNDLED / "model.safetensors").values())
