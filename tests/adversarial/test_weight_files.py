"""Weights from strangers: safetensors headers that lie, model folders that would run code or read elsewhere."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as library_load
from safetensors.torch import save, save_file

from tests.adversarial.conftest import mutations
from vmoer.errors import ModelSourceError, UnsupportedModelError, VmoerError
from vmoer.models import safetensors_check as safefile
from vmoer.models.catalog import available_models, load_model
from vmoer.models.folder_check import INDEX, check_folder

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
