"""Find the family of a model by the name of its class."""

from __future__ import annotations

import re

from torch import nn

from vmoer.architectures.base import Architecture, unwrap
from vmoer.architectures.refusals import unsupported
from vmoer.registry import Registry

architectures: Registry[Architecture] = Registry(
    "model family",
    "vmoer.architectures",
    {
        "AXK1ForCausalLM": "vmoer.architectures.axk1:AxK1",
        "AXK2ForCausalLM": "vmoer.architectures.axk2:AxK2",
        "AfmoeForCausalLM": "vmoer.architectures.afmoe:Afmoe",
        "AriaForConditionalGeneration": "vmoer.architectures.aria:Aria",
        "AriaTextForCausalLM": "vmoer.architectures.aria:Aria",
        "BailingHybridForCausalLM": "vmoer.architectures.bailing_hybrid:BailingHybrid",
        "BeamForCausalLM": "vmoer.architectures.beam:Beam",
        "Cohere2MoeForCausalLM": "vmoer.architectures.cohere2_moe:Cohere2Moe",
        "DeepseekV2ForCausalLM": "vmoer.architectures.deepseek_v2:DeepseekV2",
        "DeepseekV32ForCausalLM": "vmoer.architectures.deepseek_v32:DeepseekV32",
        "DeepseekV3ForCausalLM": "vmoer.architectures.deepseek_v3:DeepseekV3",
        "Dots1ForCausalLM": "vmoer.architectures.dots1:Dots1",
        "Dots3NoteForCausalLM": "vmoer.architectures.dots3_note:Dots3Note",
        "Ernie4_5_MoeForCausalLM": "vmoer.architectures.ernie4_5_moe:Ernie45Moe",
        "ExaoneMoeForCausalLM": "vmoer.architectures.exaone_moe:ExaoneMoe",
        "FlexOlmoForCausalLM": "vmoer.architectures.flex_olmo:FlexOlmo",
        "FlintForCausalLM": "vmoer.architectures.flint:Flint",
        "Gemma4ForCausalLM": "vmoer.architectures.gemma4:Gemma4",
        "Gemma4ForConditionalGeneration": "vmoer.architectures.gemma4:Gemma4",
        "Glm4MoeForCausalLM": "vmoer.architectures.glm4_moe:Glm4Moe",
        "Glm4MoeLiteForCausalLM": "vmoer.architectures.glm4_moe_lite:Glm4MoeLite",
        "Glm4vMoeForConditionalGeneration": "vmoer.architectures.glm4v_moe:Glm4vMoe",
        "GlmMoeDsaForCausalLM": "vmoer.architectures.glm_moe_dsa:GlmMoeDsa",
        "GptOssForCausalLM": "vmoer.architectures.gpt_oss:GptOss",
        "GraniteMoeForCausalLM": "vmoer.architectures.granite_moe:GraniteMoe",
        "GraniteMoeHybridForCausalLM": "vmoer.architectures.granite_moe_hybrid:GraniteMoeHybrid",
        "GraniteMoeSWAForCausalLM": "vmoer.architectures.granite_moe_swa:GraniteMoeSwa",
        "GraniteMoeSharedForCausalLM": "vmoer.architectures.granite_moe:GraniteMoe",
        "HYV3ForCausalLM": "vmoer.architectures.hy_v3:HyV3",
        "HYV4ForCausalLM": "vmoer.architectures.hy_v4:HyV4",
        "HunYuanMoEV1ForCausalLM": "vmoer.architectures.hunyuan:HunYuan",
        "JambaForCausalLM": "vmoer.architectures.jamba:Jamba",
        "KimiLinearForCausalLM": "vmoer.architectures.kimi_linear:KimiLinear",
        "Kolibri1ForCausalLM": "vmoer.architectures.kolibri:Kolibri",
        "LagunaForCausalLM": "vmoer.architectures.laguna:Laguna",
        "Lfm2MoeForCausalLM": "vmoer.architectures.lfm2_moe:Lfm2Moe",
        "Llama4ForCausalLM": "vmoer.architectures.llama4:Llama4",
        "MellumForCausalLM": "vmoer.architectures.mellum:Mellum",
        "MiMoV2FlashForCausalLM": "vmoer.architectures.mimo_v2_flash:MiMoV2Flash",
        "MiniMaxM2ForCausalLM": "vmoer.architectures.minimax_m2:MiniMaxM2",
        "Mistral4ForCausalLM": "vmoer.architectures.mistral4:Mistral4",
        "MixtralForCausalLM": "vmoer.architectures.mixtral:Mixtral",
        "NemotronHForCausalLM": "vmoer.architectures.nemotron_h:NemotronH",
        "OlmoeForCausalLM": "vmoer.architectures.olmoe:Olmoe",
        "PhimoeForCausalLM": "vmoer.architectures.phimoe:Phimoe",
        "Qwen2MoeForCausalLM": "vmoer.architectures.qwen2_moe:Qwen2Moe",
        "Qwen3MoeForCausalLM": "vmoer.architectures.qwen3_moe:Qwen3Moe",
        "Qwen3NextForCausalLM": "vmoer.architectures.qwen3_next:Qwen3Next",
        "Qwen3OmniMoeThinkerForConditionalGeneration": "vmoer.architectures.qwen3_omni_moe:Qwen3OmniMoe",
        "Qwen3VLMoeForConditionalGeneration": "vmoer.architectures.qwen3_vl_moe:Qwen3VlMoe",
        "Qwen3_5MoeForCausalLM": "vmoer.architectures.qwen3_5_moe:Qwen35Moe",
        "Qwen4ExpForCausalLM": "vmoer.architectures.qwen4_exp:Qwen4Exp",
        "SolarOpenForCausalLM": "vmoer.architectures.solar_open:SolarOpen",
    },
)


#: heads other than a language model's: the decoder below them is that of the family's ``…ForCausalLM``
_OTHER_HEADS = re.compile(r"(For(SequenceClassification|TokenClassification|QuestionAnswering)|Model)$")


def architecture_of(model: nn.Module) -> Architecture:
    """Return the family of ``model``; refuse any other model with a sentence that says what was looked for.

    A decoder without a head (``Qwen3MoeModel``), or with the head of a classifier, is of its family too.
    """
    name = type(unwrap(model)).__name__
    known = architectures.names()
    if name not in known:
        name = _OTHER_HEADS.sub("ForCausalLM", name)
    if name not in known:
        raise unsupported(unwrap(model), known)
    return architectures.get(name)()
