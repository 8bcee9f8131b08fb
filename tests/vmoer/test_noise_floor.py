"""The numeric noise floor: what changes with the number format or the expert kernel alone."""

import numpy as np
import pytest
import torch

from vmoer.attach import bayesianize
from vmoer.errors import VmoerError
from vmoer.measure import noise_floor
from vmoer.metrics import numeric_stability
from vmoer.testing import LENGTHS, hooks_of, tiny_batch, tiny_model


def batches():
    rows = [tiny_batch(seed=0), tiny_batch(seed=1, side="right")]
    return [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]


@pytest.mark.parametrize("family", ["OlmoeForCausalLM", "Llama4ForCausalLM", "DeepseekV3ForCausalLM"])
def test_every_kernel_and_format_is_compared_on_real_tokens(family):
    model = tiny_model(family)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = hooks_of(model)
    floors = noise_floor.measure(model, batches())
    assert [floor.comparison for floor in floors][:1] == ["bfloat16"]
    assert {floor.comparison for floor in floors[1:]} == ({"grouped_mm"} if family[:6] != "Llama4" else set())
    for floor in floors:
        assert floor.token_jaccard.shape == (len(floor.layers), 2 * sum(LENGTHS))
        assert floor.example.tolist() == np.repeat(np.arange(6), LENGTHS * 2).tolist()
    assert hooks_of(model) == hooks
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32


def test_a_near_tie_flips_in_bfloat16_and_a_clear_choice_does_not():
    model = tiny_model("OlmoeForCausalLM", num_hidden_layers=1)
    gate = model.model.layers[0].mlp.gate
    with torch.no_grad():  # experts 2 to 7 differ by far less than bfloat16 resolves, whatever the token
        gate.weight[2:] = gate.weight[2] + 1e-6 * torch.arange(6)[:, None]
    tied = noise_floor.measure(model, batches())[0]
    assert tied.changed[0] > 0
    with torch.no_grad():
        gate.weight.copy_(100 * torch.eye(8, 32))
    clear = noise_floor.measure(model, batches())[0]
    assert clear.changed[0] < tied.changed[0]


def test_only_the_native_model_has_a_noise_floor():
    model = tiny_model()
    with bayesianize(model, "temperature"), pytest.raises(VmoerError, match="measured on the native model"):
        noise_floor.measure(model, batches())
    with pytest.raises(VmoerError, match="at least one batch"):
        noise_floor.measure(model, [])


def test_the_row_of_a_layer_counts_changed_sets():
    row = numeric_stability(np.array([1, 1, 0.5, 0.0]), [0, 0, 1, 1], n_resamples=200)
    assert (row["changed"], row["n"], row["share_changed"], row["jaccard"]) == (2, 4, 0.5, 0.625)
    assert row["ci_low"] <= 0.5 <= row["ci_high"]
