"""A model folder that lacks a router is refused by every command, before a run exists."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from pipelines.cli.app import run
from tests.pipelines.support import vmoer
from vmoer.models.catalog import available_models
from vmoer.testing import tiny_model

ROUTER = "model.layers.2.mlp.gate.weight"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VMOER_HOME", str(tmp_path / "home"))
    model = tmp_path / "model"
    tiny_model("Qwen3MoeForCausalLM").save_pretrained(model)
    bundled = next(info.folder for info in available_models() if info.name == "worldfacts-moe")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled / name, model / name)
    tensors = load_file(model / "model.safetensors")
    del tensors[ROUTER]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("command", [["doctor"], ["inspect", "Lyon is a city in", "--model"], ["noise-floor"]])
def test_commands_that_read_the_model_name_the_missing_router(folder, capsys, command):
    assert run([*command, str(folder)]) == 2
    assert f"it lacks {ROUTER}" in capsys.readouterr().err


def test_a_run_of_it_fails_with_that_sentence_and_leaves_no_finished_run(folder, tmp_path):
    home, spec = tmp_path / "home", tmp_path / "spec.yaml"
    spec.write_text(
        f"name: case\nmodel: {folder}\nmethods: [deterministic]\n"
        "data: {id: {name: worldfacts, split: test, limit: 4}}\nstages: [trace]\n"
    )
    done = vmoer(home, "run", str(spec))  # a process of its own: the job database's log would keep our captured stderr
    assert done.returncode in (2, 3)
    assert ROUTER in done.stderr
    listed = vmoer(home, "runs", "--json")
    assert [row["status"] for row in json.loads(listed.stdout)] in ([], ["failed"])
