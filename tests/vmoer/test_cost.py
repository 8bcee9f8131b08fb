"""What a pass costs: counted FLOPs against arithmetic, live bytes against a known tensor, clocks that run."""

from __future__ import annotations

import torch
from torch import nn

from vmoer.forward.modes import evaluation, random_tokens
from vmoer.measure.macs import model_macs
from vmoer.measure.measured_cost import counted_flops, decode_seconds, peak_bytes, prefill_seconds
from vmoer.testing import tiny_model


class OneProduct(nn.Module):
    """``[n, 8] @ [8, 16]`` and a copy of the result."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16, 8))
        self.config = type("Config", (), {})()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int) -> torch.Tensor:
        hidden = input_ids.new_zeros(*input_ids.shape, 8, dtype=torch.float32)
        return (hidden @ self.weight.t()).clone()


def test_counted_flops_are_those_of_the_products() -> None:
    batch = {"input_ids": torch.zeros(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    with torch.inference_mode():
        assert counted_flops(OneProduct(), batch) == 2 * 10 * 8 * 16


def test_peak_bytes_count_what_is_alive_at_once() -> None:
    batch = {"input_ids": torch.zeros(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    hidden, product = 10 * 8 * 4, 10 * 16 * 4
    with torch.inference_mode():
        assert peak_bytes(OneProduct(), batch) == hidden + 2 * product


def test_flops_of_a_model_follow_the_formula_and_leave_it_as_it_was() -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    before = model.config._experts_implementation
    batch = random_tokens(model, rows=1, length=32)
    with evaluation(model), torch.inference_mode():
        flops = counted_flops(model, batch)
        assert prefill_seconds(model, batch) > 0
        assert decode_seconds(model, batch, 3) > 0
    assert model.config._experts_implementation == before
    head = model.config.hidden_size * model.config.vocab_size
    macs = 32 * (model_macs(model.config) - head) + head  # logits of the last token only
    assert 1.0 <= flops / (2 * macs) < 1.3  # attention scores are on top
