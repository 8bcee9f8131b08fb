"""Other families through the pipeline and the command line, on models with random weights."""

import json

import pytest
import yaml

from pipelines.cli.app import run
from store import queries
from store.reader import open_store
from tests.pipelines.support import SPEC, vmoer
from vmoer.models.catalog import available_models, load_model
from vmoer.models.recipes import random_models
from vmoer.testing.support import checkpoints


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VMOER_CACHE", str(tmp_path / "cache"))


def test_random_models_are_labelled_and_the_same_bits_from_the_same_seed(tmp_path, monkeypatch):
    info = {info.name: info for info in available_models()}["tiny-random-olmoe"]
    assert info.synthetic
    assert not info.present
    assert "random weights" in info.description
    model, tokenizer = load_model("tiny-random-olmoe")
    assert type(model).__name__ == "OlmoeForCausalLM"
    assert model.config.vocab_size == len(tokenizer)
    first = (random_models.model_folder("tiny-random-olmoe") / "model.safetensors").read_bytes()
    monkeypatch.setenv("VMOER_CACHE", str(tmp_path / "other"))
    load_model("tiny-random-olmoe")
    assert (random_models.model_folder("tiny-random-olmoe") / "model.safetensors").read_bytes() == first


def test_an_experiment_on_random_weights_says_so_and_holds_the_noise_floor(tmp_path):
    """OLMoE through the whole pipeline: every stage, published, labelled, with the numeric noise floor."""
    spec = {**SPEC, "model": "tiny-random-olmoe", "controls": [], "batch_tokens": 512}
    spec["data"] = {"id": {"name": "worldfacts", "split": "test", "limit": 4}}
    spec["stages"] = ["trace", "susceptibility", "evaluate"]
    file = tmp_path / "olmoe.yaml"
    file.write_text(yaml.safe_dump(spec))
    home = tmp_path / "home"
    done = vmoer(home, "run", str(file), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    with open_store(home) as store:
        models = queries.models(store)
        assert models["architecture"].tolist() == ["OlmoeForCausalLM"]
        assert models["source"].tolist() == ["random"]
        assert models["synthetic"].all()
        runs = queries.runs(store)
        assert set(runs["method"]) == {"deterministic", "mfvr"}
        assert runs["synthetic"].all()
        native = runs.loc[runs["method"] == "deterministic", "run_id"].item()
        floor = queries.noise_floor(store)
        assert set(floor["run_id"]) == {native}
        assert set(floor["comparison"]) == {"bfloat16", "grouped_mm"}
        assert sorted(set(floor["layer"])) == [0, 1, 2, 3]
        assert (floor["changed"] <= floor["n"]).all()
        routing = store.query("SELECT max(list_max(expert_index)) AS top, count(*) AS n FROM routing")
        assert routing["top"].item() == 7
        assert routing["n"].item() > 0


def test_noise_floor_prints_a_row_per_comparison_and_layer(capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The capital of France is\nWater boils at\n")
    assert run(["noise-floor", "tiny-random-qwen3-moe", "--prompts", str(prompts), "--device", "cpu", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["comparison"], row["layer"]) for row in rows} == {
        (comparison, layer) for comparison in ("bfloat16", "grouped_mm") for layer in (0, 2, 3)
    }
    assert all(0 <= row["changed"] <= row["n"] for row in rows)


def test_doctor_looks_at_a_model_of_any_size(capsys):
    path = checkpoints()["deepseek-v3"]
    assert run(["doctor", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "DeepseekV3ForCausalLM"
    assert found["parameters"] == pytest.approx(671e9, rel=0.001)
    assert run(["doctor", str(path)]) == 0
    text = capsys.readouterr().out
    assert "58 of 61 layers are MoE, 256 experts, top-8" in text
    assert "fcvr-lowrank" in text
    assert run(["doctor", "no/../such"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
