"""DeepSeek-V3 and R1: sigmoid scores, a correction bias and expert groups select; the bias never reaches the gates.

The router is called with ``[batch, length, hidden]``; the first ``first_k_dense_replace`` blocks are dense. The
multi-token-prediction block of the released checkpoints is not part of the transformers class.
"""

from __future__ import annotations

from typing import Any

from vmoer.architectures.rules import CorrectedSigmoid
from vmoer.architectures.tiny import latent_attention_values


class DeepseekV3(CorrectedSigmoid):
    """The router sits at ``mlp.gate`` and works in float32; its bias is the buffer ``e_score_correction_bias``."""

    classes = ("DeepseekV3ForCausalLM",)

    def tiny_config(self, class_name: str, **overrides: Any) -> Any:
        from transformers import DeepseekV3Config

        values = {**latent_attention_values(), "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
        return DeepseekV3Config(**{**values, **overrides})
