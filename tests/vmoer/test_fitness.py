"""What `vmoer doctor MODEL` knows from a configuration alone, on the sizes of public checkpoints."""

import json

import pytest
import torch
from transformers import AutoConfig

from vmoer.architectures import architectures
from vmoer.errors import ModelSourceError, UnsupportedModelError
from vmoer.measure import macs as efficiency
from vmoer.measure.model_report import report
from vmoer.models.skeleton import skeleton_from_config, skeleton_of
from vmoer.testing import tiny_model
from vmoer.testing.support import checkpoints, markdown, supported

#: checkpoint → billions of parameters and of active ones as published, MoE layers, experts, k
PUBLISHED = {
    "deepseek-v2-lite": (15.7, 2.4, 26, 64, 6),
    "deepseek-v3": (671.0, 37.0, 58, 256, 8),
    "gpt-oss-20b": (20.9, 3.6, 24, 32, 4),
    "granite-3.1-1b-a400m": (1.3, 0.4, 24, 32, 8),
    "granite-3.1-3b-a800m": (3.3, 0.8, 32, 40, 8),
    "mixtral-8x7b": (46.7, 12.9, 32, 8, 2),
    "olmoe-1b-7b": (6.9, 1.3, 16, 64, 8),
    "qwen1.5-moe-a2.7b": (14.3, 2.7, 24, 60, 4),
    "qwen3-30b-a3b": (30.5, 3.3, 48, 128, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_public_checkpoints_have_their_published_sizes(name):
    total, active, layers, experts, k = PUBLISHED[name]
    found = report(str(checkpoints()[name]))
    assert found["parameters"] / 1e9 == pytest.approx(total, rel=0.03)
    # papers count embeddings differently; gpt-oss and DeepSeek-V2-Lite leave them out
    assert found["active_parameters"] / 1e9 == pytest.approx(active, rel=0.17)
    assert (len(found["moe_layers"]), found["experts"], found["top_k"]) == (layers, experts, k)
    assert found["weights_gb"] == pytest.approx(2 * found["parameters"] / 1e9, abs=0.01)
    assert all(row["extra_percent_all_layers"] >= row["extra_percent"] >= 0 for row in found["methods"])


def test_every_checkpoint_is_checked_here():
    assert set(PUBLISHED) == set(checkpoints())


def test_low_rank_routers_in_ten_layers_of_granite_3b_add_less_than_half_a_percent():
    found = report(str(checkpoints()["granite-3.1-3b-a800m"]))
    share = {row["method"]: row["extra_percent"] for row in found["methods"]}
    assert 0 < share["fcvr-lowrank"] <= 0.5
    assert share["fcvr"] == pytest.approx(1.11, abs=0.006)


@pytest.mark.parametrize("family", architectures.names())
def test_the_meta_device_gives_what_the_model_gives(family):
    model = tiny_model(family)
    skeleton = skeleton_of(model)
    assert skeleton_from_config(model.config) == skeleton
    assert skeleton.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert len(skeleton.layer_macs) == model.config.get_text_config().num_hidden_layers
    assert efficiency.model_macs(model.config) == sum(skeleton.layer_macs) + skeleton.head_macs


def test_nothing_is_allocated_for_a_large_model():
    config = AutoConfig.for_model("mixtral", num_hidden_layers=2, hidden_size=65536, intermediate_size=1 << 20)
    assert skeleton_from_config(config).n_parameters * 4 > 1 << 40
    assert torch.get_default_device().type != "meta"


def test_a_dense_configuration_and_a_damaged_one_are_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64}))
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM is dense"):
        report(str(tmp_path))
    path.write_text(json.dumps({"model_type": "new_moe"}))
    with pytest.raises(UnsupportedModelError, match="'new_moe', which this version of transformers does not know"):
        report(str(path))
    path.write_text(json.dumps({"model_type": "mixtral", "attn_implementation": "someone/kernel"}))
    with pytest.raises(UnsupportedModelError, match="a kernel from the hub"):
        report(str(path))
    path.write_text("{")
    with pytest.raises(ModelSourceError, match="cannot be read as JSON"):
        report(str(path))
    path.write_text(json.dumps({"model_type": "mixtral", "hidden_size": "wide"}))
    with pytest.raises(ModelSourceError, match="no valid configuration of mixtral"):
        report(str(path))
    with pytest.raises(ModelSourceError, match="Did you mean 'worldfacts-moe'"):
        report("worldfact-moe")


def test_the_support_page_is_in_step(repository):
    text = (repository / "docs" / "support.md").read_text(encoding="utf-8")
    assert text == markdown(), "run `python -m vmoer.testing > docs/support.md`"
    assert not supported("fcvr", "PhimoeForCausalLM")
    assert supported("deterministic", "PhimoeForCausalLM")
