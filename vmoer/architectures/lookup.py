"""Find the family of a model by the name of its class."""

from __future__ import annotations

from torch import nn

from vmoer.architectures.base import Architecture, unwrap
from vmoer.architectures.refusals import unsupported
from vmoer.registry import Registry

architectures: Registry[Architecture] = Registry(
    "model family",
    "vmoer.architectures",
    {
        "DeepseekV2ForCausalLM": "vmoer.architectures.deepseek_v2:DeepseekV2",
        "DeepseekV3ForCausalLM": "vmoer.architectures.deepseek_v3:DeepseekV3",
        "Glm4MoeForCausalLM": "vmoer.architectures.glm4_moe:Glm4Moe",
        "GptOssForCausalLM": "vmoer.architectures.gpt_oss:GptOss",
        "GraniteMoeForCausalLM": "vmoer.architectures.granite_moe:GraniteMoe",
        "GraniteMoeHybridForCausalLM": "vmoer.architectures.granite_moe_hybrid:GraniteMoeHybrid",
        "GraniteMoeSharedForCausalLM": "vmoer.architectures.granite_moe:GraniteMoe",
        "JambaForCausalLM": "vmoer.architectures.jamba:Jamba",
        "Llama4ForCausalLM": "vmoer.architectures.llama4:Llama4",
        "MixtralForCausalLM": "vmoer.architectures.mixtral:Mixtral",
        "OlmoeForCausalLM": "vmoer.architectures.olmoe:Olmoe",
        "PhimoeForCausalLM": "vmoer.architectures.phimoe:Phimoe",
        "Qwen2MoeForCausalLM": "vmoer.architectures.qwen2_moe:Qwen2Moe",
        "Qwen3MoeForCausalLM": "vmoer.architectures.qwen3_moe:Qwen3Moe",
        "Qwen3_5MoeForCausalLM": "vmoer.architectures.qwen3_5_moe:Qwen35Moe",
    },
)


def architecture_of(model: nn.Module) -> Architecture:
    """Return the family of ``model``; refuse any other model with a sentence that says what was looked for."""
    name = type(unwrap(model)).__name__
    known = architectures.names()
    if name not in known:
        raise unsupported(unwrap(model), known)
    return architectures.get(name)()
