"""Say why a model is refused: what is known about its family, or what was looked for in it and what was found."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from vmoer.errors import UnsupportedModelError

_NOT_DESCRIBED = (
    "has routers that choose experts per token, but no file of this version describes the family yet; "
    "docs/extending.md shows how to add one"
)
_ENCODER_DECODER = (
    "is an encoder and a decoder, and its routers drop tokens that come after an expert is full: routing is recorded "
    "and sampled for decoders that route every token by itself"
)
_LOOKUP = (
    "picks experts by looking the token id up in a table in its first layers: such a choice has no uncertainty to model"
)
_TWO_KINDS = "has two routers per layer, one for text and one for images, each with experts of its own"
_ONE_SOFTMAX = (
    "weighs routed and shared experts by one softmax, so a gate depends on logits of experts that are always on"
)

#: families of transformers with experts that this version refuses: class → what is true of it
REFUSED: dict[str, str] = {
    "DbrxForCausalLM": (
        "chooses its experts outside its router, which returns logits only: there is no place where a choice and its "
        "weights could be set"
    ),
    "DeepseekOcr2ForConditionalGeneration": _NOT_DESCRIBED,
    "DeepseekV4ForCausalLM": _LOOKUP,
    "DiffusionGemmaForBlockDiffusion": "fills in blocks of text in several passes, so a token is routed more than once",
    "DogeForCausalLM": (
        "retrieves its experts by pairs of keys, and a pass over several tokens mixes their router logits: no decision "
        "belongs to one token"
    ),
    "Ernie4_5_VLMoeForConditionalGeneration": _TWO_KINDS,
    "Ernie4_5_VL_MoeForConditionalGeneration": _TWO_KINDS,
    "Glm5NextForConditionalGeneration": _NOT_DESCRIBED,
    "Inkling2ForCausalLM": _NOT_DESCRIBED,
    "Inkling2ForConditionalGeneration": _NOT_DESCRIBED,
    "InklingForCausalLM": _ONE_SOFTMAX,
    "InklingForConditionalGeneration": _ONE_SOFTMAX,
    "JetMoeForCausalLM": (
        "has experts in its attention too, with routers of their own: two decisions per token and layer, where vmoer "
        "records one"
    ),
    "LongcatFlashForCausalLM": (
        "has experts that compute nothing among the others, so the number of experts that run differs between tokens"
    ),
    "MiniMaxForCausalLM": (
        "keeps a cache of its own kind, which neither shares prompts between options nor counts its tokens as others do"
    ),
    "MiniMaxM3SparseForConditionalGeneration": _NOT_DESCRIBED,
    "MiniMaxM3VLForCausalLM": _NOT_DESCRIBED,
    "MistralLarge4ForConditionalGeneration": _NOT_DESCRIBED,
    "MuseSparkForConditionalGeneration": _NOT_DESCRIBED,
    "NllbMoeForConditionalGeneration": _ENCODER_DECODER,
    "OpenAIPrivacyFilterForTokenClassification": "labels tokens and is no language model",
    "Qwen3OmniMoeForConditionalGeneration": "holds several models; pass its text model, `model.thinker`",
    "Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration": (
        "turns sound codes into more of them, without experts"
    ),
    "Qwen3OmniMoeTalkerForConditionalGeneration": "turns text into sound codes and is no language model",
    "Step3p7ForConditionalGeneration": _NOT_DESCRIBED,
    "SwitchTransformersForConditionalGeneration": _ENCODER_DECODER,
    "UnlimitedOcrForConditionalGeneration": _NOT_DESCRIBED,
    "ZayaForCausalLM": (
        "hands its routers' hidden states from layer to layer and may skip a layer's experts: a decision depends on "
        "more than its own input"
    ),
}

#: wrappers that hold the model as ``module``
_PARALLEL = {"DataParallel", "DistributedDataParallel", "DistributedDataParallelCPU", "FullyShardedDataParallel"}
_ROUTER = re.compile(r"(Router|Gate|Gating)$")
_EXPERTS = re.compile(r"(Experts?|MoE|Moe|MoeBlock|MoEBlock|SparseMLP)$")


def unsupported(model: nn.Module, names: Sequence[str]) -> UnsupportedModelError:
    """Return the error for a model of no family in ``names``: wrapped, refused for a reason, unknown, or dense."""
    name = type(model).__name__
    known = f"docs/support.md lists the {len(names)} families that are supported."
    if name in _PARALLEL:
        return UnsupportedModelError(f"{name} wraps the model for several devices; give its `.module`.")
    text = re.sub(r"ForConditionalGeneration$", "ForCausalLM", name)
    if text != name and text in names:
        return UnsupportedModelError(
            f"{name} reads images beside text; load it as {text} (AutoModelForCausalLM does), its text model."
        )
    blocks = [(path, module) for path, module in model.named_modules() if _holds_experts(module)]
    if not blocks:
        return UnsupportedModelError(
            f"{name} is dense: none of its modules holds experts (looked for modules called experts and classes called "
            f"…Experts, …MoE or …SparseMLP). {known}"
        )
    routers = [
        (f"{path}.{inner}", type(module).__name__)
        for path, block in blocks
        for inner, module in block.named_children()
        if _ROUTER.search(type(module).__name__)
    ]
    for path, kind in routers:
        if "Hash" in kind:
            return UnsupportedModelError(
                f"{name} picks experts by looking the token id up in a table ({path} is a {kind}): such a choice has "
                f"no uncertainty to model. {known}"
            )
    if name in REFUSED:
        return UnsupportedModelError(f"{name} {REFUSED[name]}. {known}")
    if routers:
        path, kind = routers[0]
        return UnsupportedModelError(
            f"{name} has routers ({path} is a {kind}), but they are of a family this version does not know; "
            f"docs/extending.md shows how to add one. {known}"
        )
    path, block = blocks[0]
    return UnsupportedModelError(
        f"{name} has experts ({path} is a {type(block).__name__}), but no router class this version knows; "
        f"docs/extending.md shows how to add a family. {known}"
    )


def _holds_experts(module: nn.Module) -> bool:
    """Return whether ``module`` is a block with experts: by its class, or because a part of it is called so."""
    inside = [name for name, _ in module.named_children()]
    return "experts" in inside or bool(_EXPERTS.search(type(module).__name__))
