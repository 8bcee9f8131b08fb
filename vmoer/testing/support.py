"""``docs/support.md``: which method works on which family, what else is supported, and figures of known checkpoints.

Made from the registries, so that it cannot promise what the conformance tests do not run over the same cells.
"""

from __future__ import annotations

from pathlib import Path

from vmoer.architectures import architectures
from vmoer.architectures.refusals import REFUSED
from vmoer.measure.model_report import report
from vmoer.routers.base import routers

#: configurations of public checkpoints: sizes only, no weights
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def checkpoints() -> dict[str, Path]:
    """Configuration files of public checkpoints by name."""
    return {path.stem: path for path in sorted(CHECKPOINTS.glob("*.json"))}


def supported(method: str, family: str) -> bool:
    """Whether routers of ``method`` are accepted on ``family``."""
    return method == "deterministic" or not architectures.get(family).bayesian_refusal


def markdown() -> str:
    """The text of ``docs/support.md``."""
    methods = routers.names()
    lines = [
        "# What works with what",
        "",
        "Made by `python -m vmoer.testing > docs/support.md`; `pytest tests/vmoer/test_conformance.py` runs every cell",
        "(transformers 5.23). ✓ = without noise the model's outputs are bit-identical to the native ones, in float32",
        "and bfloat16, and taking the routers off leaves no trace; ✗ = refused with a sentence.",
        "",
        f"| family | {' | '.join(f'`{name}`' for name in methods)} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for family in architectures.names():
        cells = ["✓" if supported(name, family) else "✗" for name in methods]
        lines.append(f"| {family.removesuffix('ForCausalLM')} | {' | '.join(cells)} |")
    lines += ["", *_FEATURES, "", "## Refusals", ""]
    for family in architectures.names():
        if refusal := architectures.get(family).bayesian_refusal:
            lines.append(f"- {refusal}")
    lines += [*_REFUSALS, "", "## Families of transformers that are refused", ""]
    lines += ["| class | what is true of it |", "|---|---|"]
    lines += [f"| {name} | {reason} |" for name, reason in sorted(REFUSED.items())]
    lines += ["", "## Known checkpoints", "", *_CHECKPOINTS, ""]
    reports = {name: report(str(path)) for name, path in checkpoints().items()}
    lines += [
        "| checkpoint | parameters | active | MoE layers | experts | weights | "
        + " | ".join(map(_code, methods))
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(methods),
    ]
    for name, found in reports.items():
        costs = [f"{row['extra_percent']:+.2f} %" for row in found["methods"]]
        sizes = f"{found['parameters'] / 1e9:.1f} B | {found['active_parameters'] / 1e9:.2f} B"
        routing = f"{len(found['moe_layers'])} of {found['layers']} | {found['top_k']} of {found['experts']}"
        lines.append(f"| {name} | {sizes} | {routing} | {found['weights_gb']:.1f} GB | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def _code(name: str) -> str:
    return f"`{name}`"


_FEATURES = """## Every family

| | |
|---|---|
| experts `eager` and `grouped_mm`, float32 and bfloat16 | ✓ (Llama-4 has one expert implementation) |
| padding left, right, none; dense blocks in between | ✓ layers keep their absolute number |
| `generate()` with a KV cache | ✓ prefill and decode told apart, no token counted twice |
| beam search, several returned sequences | ✓ each returned sequence is one example; beams that lose are left out |
| assisted and prompt-lookup decoding | ✓ kept tokens only, same greedy text (not offered for linear attention) |
| `cache_implementation="static"` | ✓ same text and decisions as the default cache; refused where all attention slides |
| sequences packed by `position_ids` | ✓ each is an example, routed as if alone; refused where the model mixes them |
| `output_router_logits=True`, auxiliary loss | ✓ the logits that routed; loss unchanged where the family has one |
| option scoring, predictive sampling against a shared cache | ✓ (Jamba feeds options token by token) |
| LoRA (peft) | ✓ wrapped or not; on the routers themselves too: the adapted router is recorded and made Bayesian |
| a decoder without a head, or with a classifier's | ✓ recorded and made Bayesian as within its language model |
| checkpoints in 4 and 8 bits | MXFP4, FP8 unpacked; bitsandbytes packed; others need their package; routers whole |
| `device_map` with CPU offload (accelerate) | ✓ tested on three; Llama-4 fails natively |
| gradient checkpointing | refused while Bayesian routers train; recording works |
| `torch.compile` of the model, its `forward` or a part | refused: compiled code does not call the hooks that route |
| passes that leave layers out (early exit, replaced modules) | refused where a router that is needed did not run |
| checkpoints that lack tensors or have too many | refused by name before anything is loaded |
| estimator `closed-form` | softmax families only |""".splitlines()

_REFUSALS = [
    "- *Closed form on sigmoid families*: The closed form is the expectation of a softmax, but DeepseekV3ForCausalLM "
    "scores each expert by a sigmoid; use in-router or predictive.",
    "- *Hash routers*: DeepseekV4ForCausalLM picks experts by looking the token id up in a table (… is a "
    "DeepseekV4HashRouter): such a choice has no uncertainty to model.",
    "- *Unknown families*: NewMoeForCausalLM has routers (… is a NewMoeTopKGating), but they are of a family this "
    "version does not know; docs/extending.md shows how to add one.",
    "- *Experts without a known router*: NewMoeForCausalLM has experts (… is a NewMoeBlock), but no router class this "
    "version knows; docs/extending.md shows how to add a family.",
    "- *Parallel wrappers*: DataParallel wraps the model for several devices; give its `.module`.",
    "- *Text and images*: Llama4ForConditionalGeneration reads images beside text; load it as Llama4ForCausalLM "
    "(AutoModelForCausalLM does), its text model.",
    "- *Dense models*: GPT2LMHeadModel is dense: none of its modules holds experts (looked for modules called experts "
    "and classes called …Experts, …MoE or …SparseMLP).",
    "- *Dense checkpoints of a sparse class*: GraniteMoeHybridForCausalLM has no MoE layer: every block is dense.",
]

_CHECKPOINTS = """From their configurations alone, as `vmoer doctor MODEL` reports them. The last columns: the
multiply–accumulates that in-router routers with 35 samples in 10 layers add to a token's.""".splitlines()
