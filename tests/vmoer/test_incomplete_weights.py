"""A checkpoint is whole or refused, whichever tensors lack or fit nowhere, before anything is computed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vmoer
from tests.vmoer.resigned import edit_tensors
from vmoer.architectures import architectures
from vmoer.errors import CheckpointError, ModelSourceError, UnsupportedModelError, VmoerError
from vmoer.measure.model_report import report
from vmoer.models.catalog import available_models, load_model
from vmoer.models.skeleton import read_config
from vmoer.models.weights_check import check_loading, check_weights
from vmoer.testing import tiny_model
from vmoer.training.adapter import adapt, load_adapter
from vmoer.training.map_routers import fine_tune, load_map_routers

WORLDFACTS = next(info.folder for info in available_models() if info.name == "worldfacts-moe")
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
ROUTER = "model.layers.2.mlp.gate.weight"
SLICE = "model.layers.2.mlp.experts.{}.{}_proj.weight"


def saved(folder: Path, family: str = "Qwen3MoeForCausalLM", **overrides) -> Path:
    """A whole checkpoint with a tokenizer, as ``save_pretrained`` writes it."""
    tiny_model(family, **overrides).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WORLDFACTS / name, folder / name)
    return folder


def edit(folder: Path, change) -> None:
    tensors = load_file(folder / FILE)
    changed = change(tensors)
    save_file(tensors if changed is None else changed, folder / FILE, metadata={"format": "pt"})


def configure(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def refused(folder: Path) -> str:
    """The one sentence that ``load_model`` and ``doctor`` refuse ``folder`` with."""
    messages = set()
    for ask in (load_model, lambda source: report(str(source))):
        with pytest.raises(ModelSourceError) as caught:
            ask(folder)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    return message


def lacking(folder: Path, whole: Path) -> list[str]:
    """Which tensors of ``whole`` the file of ``folder`` lacks, read from the two files alone."""
    with safe_open(folder / FILE, "pt") as file, safe_open(whole / FILE, "pt") as complete:
        return sorted(set(complete.keys()) - set(file.keys()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def test_a_whole_checkpoint_of_every_family_is_accepted(tmp_path):
    for family in architectures.names():
        assert check_weights(saved(tmp_path / family, family)), family


@pytest.mark.parametrize(
    "names",
    [
        [ROUTER],
        ["lm_head.weight"],
        ["model.embed_tokens.weight", "model.norm.weight"],
        [SLICE.format(3, "down")],
        [SLICE.format(2, part) for part in ("gate", "up", "down")],
    ],
    ids=lambda names: names[0],
)
def test_each_missing_tensor_is_named(folder, whole, names):
    edit(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names})
    assert lacking(folder, whole) == sorted(names)
    message = refused(folder)
    assert all(name in message for name in names), message


def test_many_missing_tensors_are_counted(folder, whole):
    edit(folder, lambda tensors: {name: t for name, t in tensors.items() if ".self_attn." not in name})
    count = len(lacking(folder, whole))
    message = refused(folder)
    assert f"and {count - 3} more" in message
    assert "model.layers.0.self_attn" in message


def test_the_last_expert_of_all_cannot_be_missing(folder):
    edit(folder, lambda tensors: {name: t for name, t in tensors.items() if not re.search(r"experts\.7\.", name)})
    assert "[7, 32, 16] instead of [8, 32, 16]" in refused(folder)


def test_experts_with_a_gap_do_not_move_up(folder):
    """Experts 0–6 and 8 have the number of slices that the model needs, in the wrong places."""
    edit(folder, lambda t: {re.sub(r"experts\.7\.", "experts.8.", name): tensor for name, tensor in t.items()})
    assert "lack the expert slices model.layers.0.mlp.experts.7" in refused(folder)


def test_an_expert_too_many_is_refused(folder):
    def double(tensors):
        extra = {re.sub(r"experts\.7\.", "experts.8.", n): t.clone() for n, t in tensors.items() if "experts.7." in n}
        return {**tensors, **extra}

    edit(folder, double)
    assert "[9, 32, 16] instead of [8, 32, 16]" in refused(folder)


def test_another_prefix_is_refused(folder):
    edit(folder, lambda tensors: {f"backbone.{name}": tensor for name, tensor in tensors.items()})
    message = refused(folder)
    assert "it lacks" in message
    assert "backbone." in message


@pytest.mark.parametrize(("layers", "sentence"), [(4, "it lacks model.layers.3."), (2, "it has model.layers.2.")])
def test_a_configuration_with_another_number_of_layers_is_refused(folder, layers, sentence):
    configure(folder, num_hidden_layers=layers)
    assert sentence in refused(folder)


def test_another_shape_is_refused(folder):
    edit(folder, lambda tensors: tensors.update({ROUTER: torch.zeros(8, 31)}))
    assert f"{ROUTER} ([8, 31] instead of [8, 32])" in refused(folder)


def test_a_missing_shard_is_named_with_its_tensors(tmp_path):
    folder = tmp_path / "sharded"
    tiny_model("Qwen3MoeForCausalLM").save_pretrained(folder, max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WORLDFACTS / name, folder / name)
    assert check_weights(folder)
    listed = json.loads((folder / INDEX).read_text())["weight_map"]
    name = listed[SLICE.format(0, "down")]
    (folder / name).unlink()
    message = refused(folder)
    assert name in message
    assert f"{sum(file == name for file in listed.values())} tensors" in message


def test_a_tied_head_is_not_missing(tmp_path):
    folder = saved(tmp_path / "tied", "Qwen3MoeForCausalLM", tie_word_embeddings=True)
    with safe_open(folder / FILE, "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - a file, not a mapping
    model, _ = load_model(folder, device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_heads_that_predict_further_ahead_are_left_out_and_nothing_else(tmp_path):
    """DeepSeek and GLM store such a head as one layer more, transformers builds none."""
    folder = saved(tmp_path / "mtp", "Glm4MoeForCausalLM")

    def add(tensors):
        behind = {n.replace("layers.2.", "layers.3."): t.clone() for n, t in tensors.items() if "layers.2." in n}
        return {**tensors, **behind, "model.layers.3.eh_proj.weight": torch.zeros(32, 64)}

    edit(folder, add)
    configure(folder, num_nextn_predict_layers=1)
    native = tiny_model("Glm4MoeForCausalLM")
    model, _ = load_model(folder, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(native.parameters(), model.parameters(), strict=True))
    edit(folder, lambda tensors: {name: t for name, t in tensors.items() if "eh_proj" not in name})
    assert "it has model.layers.3." in refused(folder)


def test_what_the_loader_reports_is_refused_without_headers_too():
    info = {"missing_keys": {"a.10", "a.9"}, "unexpected_keys": {"b"}, "mismatched_keys": {("c", (1, 2), (2, 1))}}
    with pytest.raises(ModelSourceError, match=r"lacks a.9, a.10; it has b, .*other shapes have c \(\[1, 2\] instead"):
        check_loading("x", info)


def test_routers_name_every_tensor_that_differs(tmp_path):
    model = tiny_model()
    with vmoer.bayesianize(model, "mfvr") as handle:
        handle.save(tmp_path)
    gone = sorted(load_file(tmp_path / "routers.safetensors"))[:2]
    edit_tensors(tmp_path, lambda tensors: [tensors.pop(name) for name in gone])
    with pytest.raises(CheckpointError) as caught:
        vmoer.load_routers(model, tmp_path)
    assert all(name in str(caught.value) for name in gone)


def test_map_routers_name_the_layer_that_lacks(tmp_path):
    model = tiny_model()
    routers = fine_tune(model)
    routers.save(tmp_path)
    routers.restore()
    edit_tensors(tmp_path, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("1.")])
    with pytest.raises(CheckpointError, match=r"it lacks 1\.weight"):
        load_map_routers(model, tmp_path)


def test_an_adapter_names_the_factor_that_lacks(tmp_path):
    model = tiny_model()
    adapter = adapt(model, rank=2)
    adapter.save(tmp_path)
    adapter.restore()
    gone = min(load_file(tmp_path / "adapter_model.safetensors"))
    edit_tensors(tmp_path, lambda tensors: tensors.pop(gone))
    with pytest.raises(CheckpointError, match=f"it lacks {re.escape(gone)}"):
        load_adapter(model, tmp_path)


def test_weights_that_are_whole_numbers_without_a_quantisation_are_refused(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({ROUTER: tensors[ROUTER].to(torch.int8)}))
    assert f"{ROUTER} (I8), but no quantization_config" in refused(folder)


def test_a_router_that_is_not_finite_is_refused_by_its_layer(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({ROUTER: tensors[ROUTER] * torch.nan}))
    with pytest.raises(ModelSourceError, match="router of layer 2 of model holds values that are not finite"):
        load_model(folder)


@pytest.mark.parametrize("top_k", [0, 99])
def test_more_experts_a_token_than_there_are_are_refused(tmp_path, top_k) -> None:
    folder = saved(tmp_path / "model")
    configure(folder, num_experts_per_tok=top_k)
    for ask in (load_model, lambda source: report(str(source))):
        with pytest.raises(UnsupportedModelError, match=f"gives each token {top_k} of its 8 experts"):
            ask(folder)


def test_a_configuration_with_infinite_numbers_is_read_as_transformers_writes_it(tmp_path) -> None:
    config = transformers.GraniteMoeHybridConfig(architectures=["GraniteMoeHybridForCausalLM"])
    config.save_pretrained(tmp_path)
    assert read_config(tmp_path / "config.json").time_step_limit[1] == float("inf")


def test_router_logits_that_are_not_finite_are_refused_by_record() -> None:
    model = tiny_model("Qwen3MoeForCausalLM")
    with torch.no_grad():
        model.model.layers[2].mlp.gate.weight.mul_(torch.nan)
    with torch.no_grad(), vmoer.record(model) as recorder:
        model(torch.tensor([[7, 8, 9]]))
    with pytest.raises(VmoerError, match="Router logits of layer 2 are not finite"):
        _ = recorder.trace
