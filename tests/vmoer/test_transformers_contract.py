"""Version probe: fails loudly, and says where to look, when transformers changes what the families rest on."""

import inspect
import re
import tomllib
from importlib.metadata import version

import pytest
import torch
from transformers.utils import output_capturing

from vmoer.architectures import architectures
from vmoer.forward.hooks import tap_of
from vmoer.testing import tiny_batch, tiny_model

#: family → class of its router, what it returns, and parameters and buffers it holds
CONTRACT = {
    "AXK1ForCausalLM": ("AXK1TopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "AXK2ForCausalLM": ("AXK2TopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "AfmoeForCausalLM": ("AfmoeTokenChoiceRouter", "logits weight index", {"gate.weight"}),
    "AriaForConditionalGeneration": ("AriaTextTopKRouter", "logits weight index", {"weight"}),
    "AriaTextForCausalLM": ("AriaTextTopKRouter", "logits weight index", {"weight"}),
    "BailingHybridForCausalLM": (
        "BailingHybridTopkRouter",
        "logits weight index",
        {"weight", "e_score_correction_bias"},
    ),
    "BeamForCausalLM": ("BeamTopKRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Cohere2MoeForCausalLM": ("Cohere2MoeTopKRouter", "logits weight index", {"weight"}),
    "DeepseekV2ForCausalLM": ("DeepseekV2TopkRouter", "logits weight index", {"weight"}),
    "DeepseekV32ForCausalLM": ("DeepseekV32TopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "DeepseekV3ForCausalLM": ("DeepseekV3TopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Dots1ForCausalLM": ("Dots1TopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Dots3NoteForCausalLM": ("Dots3NoteTextTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Ernie4_5_MoeForCausalLM": (
        "Ernie4_5_MoeTopKRouter",
        "logits weight index",
        {"weight", "moe_statics.e_score_correction_bias"},
    ),
    "ExaoneMoeForCausalLM": ("ExaoneMoeTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "FlexOlmoForCausalLM": ("FlexOlmoTopKRouter", "logits weight index", {"weight"}),
    "FlintForCausalLM": ("FlintTopKRouter", "logits weight index", {"weight"}),
    "Gemma4ForCausalLM": (
        "Gemma4TextRouter",
        "probabilities weight index",
        {"scale", "per_expert_scale", "proj.weight"},
    ),
    "Gemma4ForConditionalGeneration": (
        "Gemma4TextRouter",
        "logits weight index",
        {"scale", "per_expert_scale", "proj.weight"},
    ),
    "Glm4MoeForCausalLM": ("Glm4MoeTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Glm4MoeLiteForCausalLM": ("Glm4MoeLiteTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Glm4vMoeForConditionalGeneration": (
        "Glm4vMoeTextTopkRouter",
        "logits weight index",
        {"weight", "e_score_correction_bias"},
    ),
    "GlmMoeDsaForCausalLM": ("GlmMoeDsaTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "GptOssForCausalLM": ("GptOssTopKRouter", "logits weight index", {"weight", "bias"}),
    "GraniteMoeForCausalLM": ("GraniteMoeTopKRouter", "logits weight index", {"weight"}),
    "GraniteMoeHybridForCausalLM": ("GraniteMoeHybridTopKRouter", "logits weight index", {"weight"}),
    "GraniteMoeSWAForCausalLM": ("GraniteMoeSWATopKRouter", "logits weight index", {"weight"}),
    "GraniteMoeSharedForCausalLM": ("GraniteMoeSharedTopKRouter", "logits weight index", {"weight"}),
    "HYV3ForCausalLM": ("HYV3TopKRouter", "logits weight index", {"weight"}),
    "HYV4ForCausalLM": ("HYV4TopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "HunYuanMoEV1ForCausalLM": ("HunYuanMoEV1Gate", "logits weight index", {"wg.weight"}),
    "JambaForCausalLM": ("JambaTopKRouter", "logits weight index", {"weight"}),
    "KimiLinearForCausalLM": ("KimiLinearTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Kolibri1ForCausalLM": ("Kolibri1TopKRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "LagunaForCausalLM": ("LagunaTopKRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "Lfm2MoeForCausalLM": ("Lfm2MoeTopKRouter", "logits weight index", {"weight"}),
    "Llama4ForCausalLM": ("Llama4Router", "scores logits", {"weight"}),
    "MellumForCausalLM": ("MellumTopKRouter", "logits weight index", {"weight"}),
    "MiMoV2FlashForCausalLM": ("MiMoV2FlashTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "MiniMaxM2ForCausalLM": ("MiniMaxM2TopKRouter", "logits weight index", {"weight"}),
    "Mistral4ForCausalLM": ("Mistral4TopkRouter", "logits weight index", {"weight"}),
    "MixtralForCausalLM": ("MixtralTopKRouter", "logits weight index", {"weight"}),
    "NemotronHForCausalLM": ("NemotronHTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
    "OlmoeForCausalLM": ("OlmoeTopKRouter", "logits weight index", {"weight"}),
    "PhimoeForCausalLM": ("PhimoeTopKRouter", "logits weight index", {"weight"}),
    "Qwen2MoeForCausalLM": ("Qwen2MoeTopKRouter", "logits weight index", {"weight"}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeTopKRouter", "logits weight index", {"weight"}),
    "Qwen3NextForCausalLM": ("Qwen3NextTopKRouter", "logits weight index", {"weight"}),
    "Qwen3OmniMoeThinkerForConditionalGeneration": (
        "Qwen3OmniMoeThinkerTextTopKRouter",
        "logits weight index",
        {"weight"},
    ),
    "Qwen3VLMoeForConditionalGeneration": ("Qwen3VLMoeTextTopKRouter", "logits weight index", {"weight"}),
    "Qwen3_5MoeForCausalLM": ("Qwen3_5MoeTopKRouter", "logits weight index", {"weight"}),
    "Qwen4ExpForCausalLM": ("Qwen4ExpTextTopKRouter", "logits weight index", {"weight"}),
    "SolarOpenForCausalLM": ("SolarOpenTopkRouter", "logits weight index", {"weight", "e_score_correction_bias"}),
}
SHAPES = {
    "logits": (15, 8),
    "scores": (15, 8),
    "probabilities": (15, 8),
    "weight": (15, 2),
    "index": (15, 2),
}


def test_every_family_is_probed():
    assert set(CONTRACT) == set(architectures.names())


@pytest.mark.parametrize("family", CONTRACT)
def test_the_router_contract_of_transformers_is_the_one_we_know(family):
    kind, outputs, tensors = CONTRACT[family]
    model = tiny_model(family)
    site = tap_of(model).sites[0]
    where = f"transformers {version('transformers')} changed {family}: see vmoer/architectures and update this probe"
    assert type(site.router).__name__ == kind, where
    assert {name for name, _ in [*site.router.named_parameters(), *site.router.named_buffers()]} == tensors, where
    calls = []
    hook = site.router.register_forward_hook(lambda _module, args, output: calls.append((args, output)))
    with torch.no_grad():
        model(**{name: value[:, -5:] for name, value in tiny_batch((5, 5, 5)).items()})
    hook.remove()
    assert len(calls) == 1, f"{where}: the router is called {len(calls)} times per forward pass"
    args, output = calls[0]
    assert len(args) == (2 if tap_of(model).architecture.argument_name else 1), where
    assert args[0].shape[-1] == site.hidden_size, where
    assert [tuple(value.shape) for value in output] == [SHAPES[name] for name in outputs.split()], where


def test_router_outputs_are_captured_by_hooks_on_the_router_class():
    """``output_router_logits`` sees what routed because the capturing hook runs after ours, on the same module."""
    source = inspect.getsource(output_capturing.install_output_capuring_hook)
    assert "register_forward_hook(output_capturing_hook)" in source


def test_the_oldest_supported_transformers_is_stated_and_is_the_one_tested(repository):
    """Only this release has been tested: CI installs the pinned one, which is also the lower bound."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bound = next(text for text in project["dependencies"] if text.startswith("transformers"))
    pinned = re.search(r"^transformers==(\S+)$", (repository / "constraints.txt").read_text("utf-8"), flags=re.M)
    assert pinned is not None
    assert bound == f"transformers>={'.'.join(pinned[1].split('.')[:2])}"
