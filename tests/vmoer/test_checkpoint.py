"""Router checkpoints: what is saved comes back; what does not fit is refused by name, and changes nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file

import vmoer
from tests.vmoer.resigned import edit, edit_tensors
from vmoer import checkpoint
from vmoer.attach import bayesianize
from vmoer.errors import CheckpointError, UnknownNameError, VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.forward.recorder import record
from vmoer.testing import tiny_batch, tiny_model

TENSOR = "0.trunk.weight"


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def folder(model, tmp_path):
    with bayesianize(model, "fcvr", layers=[0, 2], samples=3, prior_std=0.8) as handle:
        return handle.save(tmp_path / "new" / "routers")


def test_a_checkpoint_is_known_to_be_as_it_was_written(model, folder):
    """What was changed after it was written is refused; one from before checksums loads."""
    checkpoint.check(folder)
    path = folder / "routers.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "samples": 5}))
    for read in (checkpoint.check, lambda folder: vmoer.load_routers(model, folder)):
        with pytest.raises(CheckpointError, match=r"routers\.json is not as it was written: its SHA-256 differs"):
            read(folder)
    earlier = {key: value for key, value in config.items() if key not in ("sha256", "weights_sha256")} | {"format": 1}
    path.write_text(json.dumps(earlier))
    checkpoint.check(folder)
    with vmoer.load_routers(model, folder) as handle:
        assert handle.samples == 3
    path.write_text(json.dumps(config))
    weights = folder / "routers.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not the file that routers\.json was written for"):
        checkpoint.check(folder)
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        checkpoint.check(folder.parent)


def test_only_two_files_are_written_and_they_explain_themselves(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["routers.json", "routers.safetensors"]
    config = json.loads((folder / "routers.json").read_text())
    assert config["options"] == {"prior_std": 0.8, "trunk_width": 8, "trunk": "shared"}
    assert config["layers"] == [0, 2]


def test_saving_twice_writes_the_same_bytes(model, tmp_path):
    with bayesianize(model, "mfvr", samples=2) as handle:
        first = {path.name: path.read_bytes() for path in handle.save(tmp_path / "a").iterdir()}
        second = {path.name: path.read_bytes() for path in handle.save(tmp_path / "b").iterdir()}
    assert first == second


@pytest.mark.parametrize("method", ["fcvr", "mfvr"])
def test_a_checkpoint_from_before_the_choice_of_trunk_loads_as_it_was(model, method, tmp_path):
    with bayesianize(model, method, samples=2) as handle:
        folder = handle.save(tmp_path)
        expected = {name: tensor.clone() for name, tensor in handle.routers.state_dict().items()}
    edit(folder, lambda config: config["options"].pop("trunk"))
    with vmoer.load_routers(model, folder) as handle:
        found = handle.routers.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_overrides_win_over_what_was_saved(model, folder):
    with vmoer.load_routers(model, folder, samples=9, estimator="predictive", seed=5) as handle:
        assert (handle.samples, handle.estimator, handle.seed) == (9, "predictive", 5)
        assert handle.head(2).options()["prior_std"] == 0.8


@pytest.mark.parametrize(
    ("override", "error", "sentence"),
    [
        ({"samples": 0}, VmoerError, "samples must be a whole number of 1 or more"),
        ({"estimator": "in-routr"}, UnknownNameError, "Did you mean 'in-router'"),
    ],
)
def test_bad_overrides_are_refused(model, folder, override, error, sentence):
    with pytest.raises(error, match=sentence):
        vmoer.load_routers(model, folder, **override)
    assert not tap_of(model).heads


def test_half_precision_on_disk_is_read_back_as_float32(model, tmp_path):
    batch = tiny_batch()
    with bayesianize(model, "fcvr", samples=3) as handle:
        with torch.no_grad():
            for parameter in handle.parameters():
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
            before = model(**batch).logits
        handle.save(tmp_path / "full")
        handle.save(tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "half" / "routers.safetensors")
    assert stored[TENSOR].dtype == torch.bfloat16
    assert stored["0.logit_scale"].dtype == torch.float32, "scales keep full precision"
    sizes = {name: (tmp_path / name / "routers.safetensors").stat().st_size for name in ("full", "half")}
    assert sizes["half"] < 0.75 * sizes["full"]
    with vmoer.load_routers(model, tmp_path / "half") as handle, torch.no_grad():
        assert all(parameter.dtype == torch.float32 for parameter in handle.parameters())
        real = batch["attention_mask"].bool()
        assert (model(**batch).logits - before)[real].abs().median() < 0.05


def test_routers_of_a_float32_model_fit_it_in_bfloat16(folder):
    """The prior mean is the same router; only its storage differs."""
    model = tiny_model().to(torch.bfloat16)
    with vmoer.load_routers(model, folder), record(model) as recorder, torch.no_grad():
        model(**tiny_batch())
    assert len(recorder.trace) == 15


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop(TENSOR), f"lacks {TENSOR}"),
        (
            lambda t: t.update({"7.trunk.weight": torch.zeros(2)}),
            "it has 7.trunk.weight, which",
        ),
        (lambda t: t.update({TENSOR: torch.zeros(3, 3)}), rf"{TENSOR} \(\[3, 3\] instead of \[8, 32\]\)"),
        (lambda t: t[TENSOR].fill_(float("nan")), f"{TENSOR} holds values that are not finite"),
        (lambda t: t[TENSOR].fill_(float("inf")), f"{TENSOR} holds values that are not finite"),
    ],
)
def test_wrong_tensors_are_refused_by_name(model, folder, change, sentence):
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=sentence):
        vmoer.load_routers(model, folder)
    assert not tap_of(model).heads


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.update(format=99), "written by a newer version .format 99, known 2."),
        (lambda c: c.update(format="1"), "is not a router checkpoint"),
        (lambda c: c.pop("samples"), "lacks samples"),
        (lambda c: c.update(architecture="OlmoeForCausalLM"), "belong to a OlmoeForCausalLM"),
        (lambda c: c.update(layers=[0, "2"]), "layers must be a list of whole numbers"),
        (lambda c: c.update(layers=[]), "layers must be a list of whole numbers"),
        (lambda c: c.update(layers=[0]), "does not speak of exactly the layers"),
        (lambda c: c["shapes"].pop("2"), "shapes does not speak of exactly the layers"),
        (lambda c: c["shapes"]["2"].pop("top_k"), "the shape of layer 2 is malformed"),
        (lambda c: c["shapes"]["2"].update(top_k=3), "Layer 2 of the checkpoint is for 8 experts, top-3"),
        (lambda c: c["native_routers_sha256"].update({"2": "0"}), "layer 2 is not the one these routers were trained"),
        (lambda c: c.update(options={"colour": 1}), "not fcvr options .*colour"),
        (lambda c: c["options"].update(trunk_width=9), r"other shapes have 0\.\w+\.weight \("),
        (lambda c: c.update(samples=0), "samples must be a whole number"),
    ],
)
def test_wrong_settings_are_refused_by_name(model, folder, change, sentence):
    edit(folder, change)
    with pytest.raises(VmoerError, match=sentence):
        vmoer.load_routers(model, folder)
    assert not tap_of(model).heads


def test_unknown_method_in_a_checkpoint(model, folder):
    edit(folder, lambda c: c.update(method="fcrv"))
    with pytest.raises(UnknownNameError, match=r"Unknown method 'fcrv'. Did you mean 'fcvr'"):
        vmoer.load_routers(model, folder)


def test_another_model_is_refused(folder):
    shorter = tiny_model()
    del shorter.model.layers[2].block_sparse_moe
    with pytest.raises(CheckpointError, match="belongs to another model or revision"):
        vmoer.load_routers(tiny_model(seed=1), folder)
    with pytest.raises(CheckpointError, match="belong to a GraniteMoeForCausalLM, not to this GraniteMoeShared"):
        vmoer.load_routers(tiny_model("GraniteMoeSharedForCausalLM"), folder)
    with pytest.raises(CheckpointError, match="is for 8 experts, top-2, hidden 32; this model has 6, top-2, 32"):
        vmoer.load_routers(tiny_model(num_local_experts=6), folder)
    with pytest.raises(CheckpointError, match="need an MoE layer 2; this model has none there"):
        vmoer.load_routers(shorter, folder)


@pytest.mark.parametrize("keep", [0, 4, 9, 0.5, 0.99])
def test_a_truncated_file_is_damaged(model, folder, keep):
    path = folder / "routers.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=r"routers\.safetensors is damaged"):
        vmoer.load_routers(model, folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "cannot be read"), ("[]", "is not a router checkpoint"), ("\x00\xff", "cannot be read")],
)
def test_unreadable_settings(model, folder, content, sentence):
    (folder / "routers.json").write_text(content)
    with pytest.raises(CheckpointError, match=sentence):
        vmoer.load_routers(model, folder)


def test_missing_files_are_named(model, folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"routers\.json is missing"):
        vmoer.load_routers(model, tmp_path / "nowhere")
    (folder / "routers.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"routers\.safetensors is missing"):
        vmoer.load_routers(model, folder)


def test_a_failed_save_keeps_the_old_checkpoint(model, folder, monkeypatch):
    old = (folder / "routers.safetensors").read_bytes()
    monkeypatch.setattr("vmoer.checkpoint.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with bayesianize(model, "mfvr", samples=2) as handle, pytest.raises(OSError, match="disk full"):
        handle.save(folder)
    assert (folder / "routers.safetensors").read_bytes() == old
