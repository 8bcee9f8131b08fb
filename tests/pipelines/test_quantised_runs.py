"""A run in eight bits beside one of the same model in full: both are stored, told apart and compared."""

import json
import shutil

import torch
import yaml
from safetensors.torch import load_file, save_file

from store import queries
from store.reader import open_store
from tests.pipelines.support import SPEC, vmoer
from vmoer.models.catalog import load_model
from vmoer.models.recipes import random_models


def test_a_quantised_run_is_compared_with_one_in_full(tmp_path, monkeypatch):
    monkeypatch.setenv("VMOER_CACHE", str(tmp_path / "cache"))
    load_model("tiny-random-olmoe")
    whole, packed = tmp_path / "whole", tmp_path / "packed"
    shutil.copytree(random_models.model_folder("tiny-random-olmoe"), whole)
    tensors = load_file(whole / "model.safetensors")
    for name in [name for name in tensors if "down_proj" in name]:
        tensors[name] *= 100  # so that what the experts say is heard in the layers above
    save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(whole, packed)
    for name in [name for name in tensors if ".mlp.experts." in name]:
        scale = tensors[name].abs().amax() / 400
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.full((tensors[name].shape[0] // 16, tensors[name].shape[1] // 16), scale)
    assert len(tensors) > 200
    save_file(tensors, packed / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    stored = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))

    home = tmp_path / "home"
    data = {"id": {"name": "worldfacts", "split": "test", "limit": 4}}
    for name, model in (("whole", str(whole)), ("packed", str(packed))):
        spec = {**SPEC, "name": name, "model": model, "methods": ["deterministic"], "controls": [], "data": data}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**spec, "stages": ["trace", "evaluate"], "batch_tokens": 512}))
        done = vmoer(home, "run", str(file), "--device", "cpu")
        assert done.returncode == 0, done.stderr
    with open_store(home) as store:
        runs = queries.runs(store).set_index("name")
        first, second = runs.loc["whole", "run_id"], runs.loc["packed", "run_id"]
        kernels = {name: json.loads(runs.loc[name, "manifest"])["kernels"] for name in ("whole", "packed")}
        assert kernels["packed"].pop("weights") == "fp8, unpacked"
        assert kernels["packed"] == kernels["whole"]
        models = queries.models(store)
        assert models["weights_sha256"].nunique() == 2
        assert models["n_parameters"].nunique() == 1
        pairs = queries.paired_predictions(store, first, second)
        assert len(pairs) == 4
        overlap = queries.layer_overlap(store, first, second).set_index("layer")
    assert overlap.index.tolist() == [0, 1, 2, 3]
    assert overlap.loc[0, "share_changed"] == 0  # nothing below the first router was quantised
    assert (overlap.loc[1:, "share_changed"] > 0).all(), overlap
    assert (overlap["share_changed"] < 1).all()
