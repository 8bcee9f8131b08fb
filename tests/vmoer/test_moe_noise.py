"""Noise on the output of MoE blocks: only there, nothing at scale 0, the same whatever the batching."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vmoer.test_scoring import OPTIONS, PROMPTS, Words
from vmoer.errors import VmoerError
from vmoer.forward.modes import random_tokens
from vmoer.measure.noise_controls import MoeNoise
from vmoer.scoring.options import score_options
from vmoer.testing import tiny_model


def test_scale_zero_is_the_model_and_more_is_more() -> None:
    model = tiny_model(num_hidden_layers=4)
    plain = score_options(model, Words(), PROMPTS, OPTIONS)

    def spread(scale: float) -> float:
        noisy = score_options(model, Words(), PROMPTS, OPTIONS, handle=MoeNoise(model, [2], scale), samples=4)
        return float(
            np.mean(
                [
                    np.abs(one.log_likelihood - other.log_likelihood).mean()
                    for one, other in zip(noisy, plain, strict=True)
                ]
            )
        )

    assert spread(0.0) < 1e-4
    assert 1e-3 < spread(0.2) < spread(1.0)
    again = score_options(model, Words(), PROMPTS, OPTIONS)
    for one, other in zip(again, plain, strict=True):
        assert (one.log_likelihood == other.log_likelihood).all(), "the hooks are gone"


def test_samples_differ_and_do_not_depend_on_batching() -> None:
    model = tiny_model(num_hidden_layers=4)
    noise = MoeNoise(model, [1, 3], 0.5, seed=3)
    whole = score_options(model, Words(), PROMPTS, OPTIONS, handle=noise, samples=3)
    parts = score_options(model, Words(), PROMPTS, OPTIONS, handle=noise, samples=3, batch_tokens=16)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, atol=1e-4)
    assert np.ptp(whole[1].log_likelihood, axis=0).min() > 0


def test_only_the_chosen_block_is_disturbed() -> None:
    model = tiny_model(num_hidden_layers=4)
    batch = random_tokens(model, rows=2, length=6)
    seen: dict[str, list[torch.Tensor]] = {"plain": [], "noisy": []}
    key = "plain"
    hooks = [
        layer.register_forward_hook(
            lambda _module, _args, output: seen[key].append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in model.model.layers
    ]
    with torch.inference_mode():
        model(**batch)
        key = "noisy"
        with MoeNoise(model, [2], 0.5).one_draw():
            model(**batch)
    for hook in hooks:
        hook.remove()
    same = [torch.equal(one, other) for one, other in zip(seen["plain"], seen["noisy"], strict=True)]
    assert same == [True, True, False, False]
    with pytest.raises(VmoerError, match="0 or more"):
        MoeNoise(model, [2], -1.0)
