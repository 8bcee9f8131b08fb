"""Checkpoints in fewer bits: unpacked to the right values, kept packed, or refused with the name of what is missing."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vmoer
from vmoer.attach import bayesianize
from vmoer.errors import ModelSourceError, UnsupportedModelError
from vmoer.models.catalog import load_model, model_identity
from vmoer.models.quantised import require_whole_routers
from vmoer.testing import tiny_batch, tiny_model, trace_of

_TOKENIZER = Path(vmoer.__file__).parent / "bundled" / "worldfacts-moe"
#: the sixteen values of four bits: a sign, two bits of exponent, one of fraction
_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def _saved(folder: Path, family: str, **overrides) -> dict[str, torch.Tensor]:
    """Save a tiny model of ``family`` with a tokenizer in ``folder``; return its tensors by name."""
    tiny_model(family, **overrides).save_pretrained(folder)
    for path in _TOKENIZER.glob("*token*"):
        shutil.copy(path, folder)
    return load_file(folder / "model.safetensors")


def _store(folder: Path, tensors: dict[str, torch.Tensor], quantisation: dict) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))


def test_mxfp4_is_unpacked_to_its_values(tmp_path):
    """GPT-OSS: two values of four bits in a byte, a power of two for every 32 of them."""
    tensors = _saved(tmp_path, "GptOssForCausalLM", hidden_size=64, intermediate_size=64, head_dim=16)
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, rows, columns = tensors.pop(name).shape
        shape = (experts, columns, rows // 32)
        blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(118, 123, shape, generator=generator, dtype=torch.uint8)
        halves = torch.stack([_E2M1[(blocks & 15).long()], _E2M1[(blocks >> 4).long()]], dim=-1)
        values = halves.reshape(*shape, 32) * torch.exp2(scales.float() - 127)[..., None]
        expected[name] = values.reshape(experts, columns, rows).transpose(1, 2)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    assert len(expected) == 6
    _store(tmp_path, tensors, {"quant_method": "mxfp4"})
    model, _ = load_model(tmp_path, dtype="float32")
    found = dict(model.named_parameters())
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    assert model.stored_as == "mxfp4, unpacked"
    with torch.no_grad(), bayesianize(model, "mfvr", samples=2):
        assert len(trace_of(model, tiny_batch())) == 15


def test_fp8_is_unpacked_to_its_values(tmp_path):
    """DeepSeek-V3: eight bits per weight, one scale per block of 16 × 16; routers are whole."""
    tensors = _saved(tmp_path, "DeepseekV3ForCausalLM")
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for name in [name for name in tensors if ".mlp." in name and name.endswith("proj.weight")]:
        weight = tensors[name]
        scale = 0.5 + torch.rand(weight.shape[0] // 16, weight.shape[1] // 16, generator=generator)
        spread = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
        tensors[name] = (weight / spread).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
        expected[name] = tensors[name].float() * spread
    _store(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"})
    model, _ = load_model(tmp_path, dtype="float32")
    for layer in (1, 2):
        mlp = model.model.layers[layer].mlp
        for expert in range(8):
            place = f"model.layers.{layer}.mlp.experts.{expert}"
            gate_up = torch.cat([expected[f"{place}.gate_proj.weight"], expected[f"{place}.up_proj.weight"]])
            assert torch.equal(mlp.experts.gate_up_proj[expert], gate_up), place
            assert torch.equal(mlp.experts.down_proj[expert], expected[f"{place}.down_proj.weight"]), place
        assert torch.equal(mlp.gate.weight, tensors[f"model.layers.{layer}.mlp.gate.weight"])
    assert model.stored_as == "fp8, unpacked"
    assert len(trace_of(model, tiny_batch())) == 15


@pytest.mark.parametrize(("bits", "stored"), [(4, "bitsandbytes 4-bit (nf4)"), (8, "bitsandbytes 8-bit")])
def test_bitsandbytes_stays_packed_or_is_named_as_missing(bits, stored, tmp_path):
    quantisation = {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True, "bnb_4bit_quant_type": "nf4"}
    _saved(tmp_path / "whole", "OlmoeForCausalLM", hidden_size=64, intermediate_size=64)
    if importlib.util.find_spec("bitsandbytes") is None:
        _store(tmp_path / "whole", load_file(tmp_path / "whole" / "model.safetensors"), quantisation)
        with pytest.raises(ModelSourceError, match=r"cannot be loaded: .*bitsandbytes"):
            load_model(tmp_path / "whole")
        return
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**{name: value for name, value in quantisation.items() if name != "quant_method"})
    packed = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", quantization_config=config)
    packed.save_pretrained(tmp_path / "packed")
    for path in _TOKENIZER.glob("*token*"):
        shutil.copy(path, tmp_path / "packed")
    whole, _ = load_model(tmp_path / "whole", dtype="float32")
    model, _ = load_model(tmp_path / "packed", dtype="float32")
    assert model.stored_as == stored
    ours, theirs = model_identity(model, tmp_path), model_identity(whole, tmp_path)
    assert ours["n_parameters"] == theirs["n_parameters"]
    assert ours["weights_sha256"] != theirs["weights_sha256"]
    assert torch.equal(model.model.layers[0].mlp.gate.weight, whole.model.layers[0].mlp.gate.weight)
    with torch.no_grad():
        native = model(**tiny_batch()).logits
        with bayesianize(model, "mfvr", samples=2) as handle:
            handle.scale_noise(0.0)
            assert torch.equal(model(**tiny_batch()).logits, native)
    assert len(trace_of(model, tiny_batch())) == 15


def test_a_method_whose_package_is_missing_is_refused_by_its_name(tmp_path):
    tensors = _saved(tmp_path, "OlmoeForCausalLM")
    for method, package in {"gptq": "optimum", "hqq": "hqq", "eetq": "(eetq|kernels)"}.items():
        _store(tmp_path, tensors, {"quant_method": method, "bits": 4})
        with pytest.raises(ModelSourceError, match=f"(?i)cannot be loaded: .*{package}"):
            load_model(tmp_path)


def test_quantised_routers_are_refused():
    model = tiny_model("OlmoeForCausalLM")
    require_whole_routers(model)
    model.model.layers[1].mlp.gate.weight = torch.nn.Parameter(torch.ones(8, 32, dtype=torch.uint8), False)
    with pytest.raises(UnsupportedModelError, match=r"quantised \(model\.layers\.1\.mlp\.gate\.weight is uint8"):
        require_whole_routers(model)
