"""The random numbers behind every estimator: right distribution, independent along every axis, keyed by content."""

import numpy as np
import pytest
import torch
from scipy import stats

from vmoer.forward.hooks import Mode, tap_of
from vmoer.rng import TokenNoise, mix, mix_int, prefix_keys
from vmoer.testing import tiny_batch, tiny_model


def keys(tokens: int = 512, seed: int = 0) -> torch.Tensor:
    return mix(torch.arange(tokens, dtype=torch.int64) * 7919 + seed)


@pytest.mark.parametrize(
    ("draw", "distribution"), [("uniform", stats.uniform), ("normal", stats.norm), ("gumbel", stats.gumbel_r)]
)
def test_draws_follow_their_distribution(draw, distribution):
    values = getattr(TokenNoise(keys()), draw)(16, 8).double().numpy()
    assert values.shape == (16, 512, 8)
    assert stats.kstest(values.ravel(), distribution.cdf).pvalue > 0.01


def test_uniform_stays_inside_the_open_interval():
    """erfinv and the double logarithm are infinite at 0 and 1; the extreme counter values must not reach them."""
    values = TokenNoise(keys(4096)).uniform(64, 16)
    assert values.min() > 0
    assert values.max() < 1
    for draw in ("normal", "gumbel"):
        assert torch.isfinite(getattr(TokenNoise(keys(4096)), draw)(64, 16)).all()


def test_the_extreme_bit_patterns_give_finite_draws():
    ends = (2 * torch.tensor([0, 2**23 - 1]) + 1).float() * 2.0**-24
    assert ends.tolist() == [2.0**-24, 1 - 2.0**-24]
    assert torch.isfinite(torch.erfinv(2 * ends - 1)).all()
    assert torch.isfinite(-torch.log(-torch.log(ends))).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_draws_are_uncorrelated_along_samples_tokens_and_experts(axis):
    values = np.moveaxis(TokenNoise(keys()).normal(32, 8).double().numpy(), axis, 0)
    neighbours = np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(values[1:].size)


def test_seeds_streams_layers_and_samples_are_independent():
    model = tiny_model()
    tap = tap_of(model)
    frame = _frame(tap, tiny_batch((40, 40, 40), seed=5))
    base = {"samples": None, "seed": 0, "sample_ids": torch.zeros(3, dtype=torch.long), "stream": 0}
    first = tap.noise(tap.sites[0], frame, Mode(**base)).normal(1, 64).ravel().numpy()
    others = {
        "seed": tap.noise(tap.sites[0], frame, Mode(**{**base, "seed": 1})),
        "stream": tap.noise(tap.sites[0], frame, Mode(**{**base, "stream": 1})),
        "layer": tap.noise(tap.sites[1], frame, Mode(**base)),
        "sample": tap.noise(tap.sites[0], frame, Mode(**{**base, "sample_ids": torch.ones(3, dtype=torch.long)})),
    }
    for name, noise in others.items():
        second = noise.normal(1, 64).ravel().numpy()
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(first.size), name


def test_one_draw_without_numbers_is_sample_zero():
    model = tiny_model()
    tap = tap_of(model)
    frame = _frame(tap, tiny_batch())
    unnumbered = tap.noise(tap.sites[0], frame, Mode(samples=None, seed=3))
    numbered = tap.noise(tap.sites[0], frame, Mode(samples=None, seed=3, sample_ids=torch.zeros(3, dtype=torch.long)))
    assert torch.equal(unnumbered.keys, numbered.keys)


def test_chunks_are_parts_of_the_whole():
    noise = TokenNoise(keys(20))
    assert torch.equal(noise.chunk(5, 9).normal(3, 4), noise.normal(3, 4)[:, 5:9])


def test_a_key_depends_on_the_prefix_and_on_nothing_after_it():
    ids = torch.randint(3, 90, (1, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    position = torch.arange(12)[None]
    plain = prefix_keys(ids, position, mask)
    changed = ids.clone()
    changed[0, 6] += 1
    other = prefix_keys(changed, position, mask)
    assert torch.equal(plain[:, :6], other[:, :6])
    assert (plain[:, 6:] != other[:, 6:]).all()
    swapped = ids.clone()
    swapped[0, [2, 3]] = ids[0, [3, 2]]
    assert (prefix_keys(swapped, position, mask)[:, 3:] != plain[:, 3:]).all(), "the order of tokens must count"


def test_keys_continue_from_a_running_sum():
    ids = torch.randint(3, 90, (2, 10), generator=torch.Generator().manual_seed(1))
    mask, position = torch.ones_like(ids, dtype=torch.bool), torch.arange(10).expand(2, 10)
    whole = prefix_keys(ids, position, mask)
    head = prefix_keys(ids[:, :6], position[:, :6], mask[:, :6])
    assert torch.equal(whole[:, 6:], prefix_keys(ids[:, 6:], position[:, 6:], mask[:, 6:], head[:, -1]))


def test_hashes_do_not_collide_on_neighbouring_integers():
    assert mix(torch.arange(200_000)).unique().numel() == 200_000
    assert len({mix_int(a, b) for a in range(60) for b in range(60)}) == 3600
    assert all(-(2**63) <= mix_int(value) < 2**63 for value in (0, -1, 2**70))


def _frame(tap, batch):
    frames = []
    with tap.listening(lambda _site, _decision, frame: frames.append(frame)), torch.no_grad():
        tap.model(**batch)
    return frames[0]
