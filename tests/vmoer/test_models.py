"""Loading models: what may be read, what is refused in one sentence, where it runs, how it is described."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import vmoer.models.catalog as models
from vmoer.devices import pick_device, pick_dtype
from vmoer.errors import ModelSourceError, UnsupportedModelError, VmoerError
from vmoer.models.catalog import available_models, load_model, model_identity
from vmoer.models.recipes import smollm2

WORLDFACTS = next(info.folder for info in available_models() if info.name == "worldfacts-moe")


@pytest.fixture(autouse=True)
def no_hub_and_an_empty_cache(monkeypatch, tmp_path):
    """A proxy that refuses at once stands for a machine without network."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("VMOER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(WORLDFACTS, tmp_path / "copy")


def refused(source, **options):
    with pytest.raises(VmoerError) as caught:
        load_model(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return type(caught.value), message


def test_the_bundled_model_loads_in_float32_with_padding_on_the_left():
    model, tokenizer = load_model("worldfacts-moe", device="cpu")
    assert type(model).__name__ == "GraniteMoeForCausalLM"
    assert model.dtype == torch.float32
    assert not model.training
    assert tokenizer.padding_side == "left"
    assert tokenizer(["a", "a b c"], padding=True)["attention_mask"][0][0] == 0


def test_a_folder_gives_the_same_model_as_the_name(folder):
    named, _ = load_model("worldfacts-moe", device="cpu")
    local, _ = load_model(folder, device="cpu")
    weights = local.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in named.state_dict().items())


def test_dtype_is_overridden_by_name_or_object():
    assert load_model("worldfacts-moe", device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
    assert load_model("worldfacts-moe", device="cpu", dtype=torch.float32)[0].dtype == torch.float32


def test_on_a_cpu_experts_are_never_batched():
    model, _ = load_model("worldfacts-moe", device="cpu")
    assert model.config._experts_implementation == "grouped_mm"


def test_a_missing_pad_token_becomes_the_end_token(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    _, tokenizer = load_model(folder, device="cpu")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def test_a_dense_model_is_loaded(tmp_path, folder):
    with torch.random.fork_rng():
        dense = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=512, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            )
        )
    dense.save_pretrained(tmp_path / "dense")
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "dense")
    assert type(load_model(tmp_path / "dense", device="cpu")[0]).__name__ == "LlamaForCausalLM"


def test_an_unknown_name_gets_the_nearest_one():
    kind, message = refused("worldfact-moe")
    assert kind is ModelSourceError
    assert "Did you mean 'worldfacts-moe'?" in message


def test_a_model_not_built_yet_says_how_to_build_it():
    kind, message = refused("smollm2-moe")
    assert kind is ModelSourceError
    assert "vmoer models get smollm2-moe" in message


def test_build_builds_it(monkeypatch):
    asked = []

    def build(cache_dir=None, progress=None):
        asked.append(progress)
        return WORLDFACTS

    monkeypatch.setattr(smollm2, "build_smollm2_moe", build)
    assert load_model("smollm2-moe", device="cpu", build=True, progress=print)[0] is not None
    assert asked == [print]


def test_a_missing_folder_is_not_looked_up_on_the_hub():
    assert "There is no folder ./nowhere/at/all" in refused("./nowhere/at/all")[1]


def test_a_file_is_not_a_model(folder):
    assert "is a file" in refused(folder / "model.safetensors")[1]


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)[1]


def test_a_config_that_is_not_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    assert "not a JSON object" in refused(folder)[1]


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    kind, message = refused(folder)
    assert kind is ModelSourceError
    assert "only pytorch_model.bin" in message
    assert "safetensors" in message


def test_a_damaged_weight_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "is damaged or not a safetensors file" in refused(folder)[1]


def test_code_of_a_model_repository_is_never_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "their_own",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    witness = tmp_path / "witness"
    (folder / "theirs.py").write_text(f"open({str(witness)!r}, 'w')\n")
    kind, message = refused(folder)
    assert kind is UnsupportedModelError
    assert "code from its own repository" in message
    assert not witness.exists()


def test_an_unknown_model_type_is_named(folder):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "nonesuch"}
    (folder / "config.json").write_text(json.dumps(config))
    kind, message = refused(folder)
    assert kind is UnsupportedModelError
    assert "'nonesuch'" in message


def test_an_unreachable_hub_is_said_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    kind, message = refused("nobody/no-such-model-anywhere")
    assert kind is ModelSourceError
    assert "the hub cannot be reached" in message


@pytest.mark.parametrize(("device", "said"), [("toaster", "is not a device"), ("cuda:99", "not available here")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device, said, monkeypatch):
    monkeypatch.setattr(models, "_load", lambda *_: pytest.fail("loaded"))
    assert said in refused("worldfacts-moe", device=device)[1]


def test_an_unknown_dtype_is_refused():
    assert "float32, bfloat16, float16" in refused("worldfacts-moe", device="cpu", dtype="int8")[1]


def test_bfloat16_is_picked_for_large_models_on_hardware_that_computes_in_it(monkeypatch):
    cpu, large = pick_device("cpu"), 135_000_000
    monkeypatch.setattr("vmoer.devices._cpu_has_bfloat16", lambda: True)
    assert pick_dtype(cpu, large) == torch.bfloat16
    assert pick_dtype(cpu, 750_000) == torch.float32
    assert pick_dtype(cpu, large, "float32") == torch.float32
    monkeypatch.setattr("vmoer.devices._cpu_has_bfloat16", lambda: False)
    assert pick_dtype(cpu, large) == torch.float32
    assert pick_dtype(torch.device("mps"), large) == torch.float32


def test_known_models_say_what_is_there():
    known = {info.name: info for info in available_models()}
    assert list(known) == ["worldfacts-moe", "smollm2-moe", "tiny-random-olmoe", "tiny-random-qwen3-moe"]
    assert all(
        info.synthetic and "random weights" in info.description for name, info in known.items() if "random" in name
    )
    assert known["worldfacts-moe"].present
    assert known["worldfacts-moe"].synthetic
    assert 0 < known["worldfacts-moe"].megabytes < 6
    assert not known["smollm2-moe"].present
    assert not known["smollm2-moe"].synthetic


def test_identity_has_the_columns_of_the_store_and_follows_the_weights(folder):
    model, _ = load_model(folder, device="cpu")
    row = model_identity(model, "worldfacts-moe")
    assert row | {"weights_sha256": ""} == {
        "architecture": "GraniteMoeForCausalLM",
        "source": "bundled",
        "n_layers": 2,
        "moe_layers": [0, 1],
        "n_experts": 16,
        "top_k": 2,
        "n_parameters": 758_400,
        "weights_sha256": "",
        "synthetic": True,
    }
    local = model_identity(model, folder)
    assert (local["source"], local["synthetic"]) == ("folder", False)
    assert model_identity(load_model(folder, device="cpu", dtype="bfloat16")[0], folder) == local
    with torch.no_grad():
        model.model.layers[1].block_sparse_moe.router.weight[0, 0] += 1
    assert model_identity(model, folder)["weights_sha256"] != local["weights_sha256"]
