"""Adapters, MAP routers, Bayesian routers: they learn, go on after a kill, come off bit-exactly, refuse strangers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vmoer
from vmoer import checkpoint
from vmoer.errors import CheckpointError, UnsupportedModelError, VmoerError
from vmoer.forward.modes import random_tokens
from vmoer.testing import tiny_model
from vmoer.training.adapter import adapt, load_adapter
from vmoer.training.config import Example, TrainingConfig
from vmoer.training.learner import Learner, learner_of
from vmoer.training.loop import train
from vmoer.training.map_routers import fine_tune, load_map_routers

CONFIG = TrainingConfig(epochs=3, batch_size=4, micro_batch=2, learning_rate=0.02, evaluate_every=2, patience=99)


def questions(first: int, count: int) -> list[Example]:
    """Prompts of distinct tokens; the right answer is always the same token, so that what is learnt carries over."""
    made = []
    for number in range(first, first + count):
        prompt = [3 + (number * k) % 89 for k in range(1, 6)]
        made.append(Example(prompt, [7], ([4 + number % 50], [9 + number % 40, 5])))
    return made


TRAIN, VALIDATION = questions(1, 12), questions(40, 4)


def output(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**random_tokens(model, rows=2, length=9)).logits.clone()


def start(kind: str, model: Any) -> tuple[Learner, Callable[[], None]]:
    """A fresh learner of a stage and what takes it off."""
    if kind == "adapter":
        adapter = adapt(model, rank=4)
        return adapter.learner(), adapter.restore
    if kind == "map":
        routers = fine_tune(model)
        return routers.learner(), routers.restore
    handle = vmoer.bayesianize(model, method="fcvr", samples=4)
    return learner_of(handle), handle.restore


@pytest.mark.parametrize("kind", ["adapter", "map", "fcvr"])
def test_stage_learns_and_comes_off_bit_exactly(kind: str) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    before, weights = output(model), {name: value.clone() for name, value in model.state_dict().items()}
    learner, restore = start(kind, model)
    result = train(learner, TRAIN, VALIDATION, CONFIG)
    losses = [value for _, layer, quantity, value in result.log if (layer, quantity) == (-1, "task_loss")]
    assert sum(losses[-3:]) < sum(losses[:3]), "the last epoch answers the same questions better than the first"
    assert result.steps == 9
    restore()
    after = model.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert torch.equal(output(model), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["adapter", "map", "fcvr"])
def test_interrupted_stage_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    model = tiny_model("GraniteMoeForCausalLM")

    def run(folder: Path, kill_at: int | None) -> dict[str, torch.Tensor]:
        learner, restore = start(kind, model)

        def progress(step: int, total: int, message: str) -> None:
            if step == kill_at:
                raise Killed

        try:
            train(learner, TRAIN, VALIDATION, CONFIG, folder=folder, progress=progress)
            return learner.snapshot()
        finally:
            restore()

    undisturbed = run(tmp_path / "calm", None)
    for step in (3, 7):  # one step behind an evaluation: the step after it is done again
        with pytest.raises(Killed):
            run(tmp_path / "killed", step)
    resumed = run(tmp_path / "killed", None)
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], value) for name, value in undisturbed.items())


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    learner, restore = start("map", model)
    train(learner, TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    with pytest.raises(CheckpointError, match="made with other settings"):
        train(learner, TRAIN, VALIDATION, TrainingConfig(epochs=9), folder=tmp_path)
    restore()


def test_state_that_lacks_tensors_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    learner, restore = start("map", model)
    train(learner, TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    (path,) = tmp_path.glob("*-state.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("best."))
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(CheckpointError, match=f"it lacks {name.removeprefix('best.')}; delete it to start again"):
        train(learner, TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    restore()


def test_shared_questions_are_refused() -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    learner, restore = start("map", model)
    with pytest.raises(VmoerError, match="1 validation questions are also in the training set"):
        train(learner, TRAIN, [*VALIDATION, TRAIN[3]], CONFIG)
    restore()


def perturb(learner: Learner) -> None:
    """Random weights in place of trained ones."""
    generator = torch.Generator().manual_seed(1)
    learner.load({name: torch.randn(value.shape, generator=generator) for name, value in learner.tensors.items()})


def test_saved_adapter_and_map_routers_answer_as_trained(tmp_path: Path) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    native = output(model)
    adapter = adapt(model, rank=4)
    perturb(adapter.learner())
    adapter.save(tmp_path / "adapter")
    adapted = output(model)
    assert not torch.equal(adapted, native)
    routers = fine_tune(model)
    assert torch.equal(output(model), adapted), "a correction of zero changes nothing"
    perturb(routers.learner())
    routers.save(tmp_path / "map")
    tuned = output(model)
    assert not torch.equal(tuned, adapted)
    routers.restore()
    assert torch.equal(output(model), adapted)
    adapter.restore()
    assert torch.equal(output(model), native)
    adapter = load_adapter(model, tmp_path / "adapter")
    assert torch.equal(output(model), adapted)
    routers = load_map_routers(model, tmp_path / "map")
    assert torch.equal(output(model), tuned)
    routers.restore()
    adapter.restore()


def test_adapter_folder_is_readable_by_peft(tmp_path: Path) -> None:
    from peft import LoraConfig
    from safetensors.torch import load_file

    model = tiny_model("GraniteMoeForCausalLM")
    adapter = adapt(model, rank=4)
    adapter.save(tmp_path)
    adapter.restore()
    config = LoraConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.bias, config.target_modules) == (4, "none", {"q_proj", "k_proj", "v_proj"})
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in load_file(
        tmp_path / "adapter_model.safetensors"
    )


def test_routers_refuse_another_base_by_name(tmp_path: Path) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    adapter = adapt(model, rank=4)
    adapter.save(tmp_path / "adapter")
    routers = fine_tune(model)
    perturb(routers.learner())
    routers.save(tmp_path / "map")
    with vmoer.bayesianize(model, method="mfvr", samples=2) as handle:
        handle.save(tmp_path / "mfvr")
    vmoer.load_routers(model, tmp_path / "mfvr").restore()
    routers.restore()
    with pytest.raises(CheckpointError, match="native router of layer 0 is not the one"):
        vmoer.load_routers(model, tmp_path / "mfvr")
    adapter.restore()
    with pytest.raises(CheckpointError, match=r"trained beside adapter [0-9a-f]{12}; this model carries no adapter"):
        load_map_routers(model, tmp_path / "map")
    other = tiny_model("GraniteMoeForCausalLM", seed=5)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_adapter(other, tmp_path / "adapter")


def test_changed_adapter_weights_are_refused(tmp_path: Path) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    adapter = adapt(model, rank=4)
    adapter.save(tmp_path)
    adapter.restore()
    config = json.loads((tmp_path / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps(checkpoint.signed({**config, "weights_sha256": "0" * 64})))
    with pytest.raises(CheckpointError, match="its SHA-256 differs"):
        load_adapter(model, tmp_path)
    with pytest.raises(CheckpointError, match="is missing"):
        load_adapter(model, tmp_path / "nowhere")
    with pytest.raises(UnsupportedModelError, match="no module 'w_pack' to adapt"):
        adapt(model, targets=["w_pack"])


@pytest.mark.parametrize("objective", ["expected", "averaged"])
@pytest.mark.parametrize("loss", ["answer", "choice"])
def test_objectives_train_with_several_draws(objective: Any, loss: Any) -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    config = TrainingConfig(
        epochs=2, batch_size=6, micro_batch=6, draws=3, objective=objective, loss=loss, kl_warmup=0.5, beta=0.1
    )
    with vmoer.bayesianize(model, method="mfvr", samples=3) as handle:
        result = train(handle, TRAIN, VALIDATION, config)
    betas = [value for _, layer, quantity, value in result.log if quantity == "beta" and layer == 0]
    assert betas == [0.05, 0.1, 0.1, 0.1]
    assert {quantity for _, _, quantity, _ in result.log} >= {"kl", "posterior_std", "logit_std", "validation_nll"}


@pytest.mark.parametrize(("micro_batch", "largest"), [(24, 24), (12, 12), (1, 8)])
def test_a_pass_holds_no_more_texts_than_asked_for_but_one_question(micro_batch: int, largest: int) -> None:
    """Four options under two draws are eight texts of one question."""
    model = tiny_model("GraniteMoeForCausalLM")
    rows: list[int] = []
    model.register_forward_pre_hook(lambda _m, _a, given: rows.append(len(given["input_ids"])), with_kwargs=True)
    config = TrainingConfig(epochs=1, batch_size=6, micro_batch=micro_batch, draws=2, loss="choice")
    four = [Example(one.prompt, one.answer, tuple([k] for k in range(3))) for one in (*TRAIN, *VALIDATION)]
    with vmoer.bayesianize(model, method="mfvr", samples=3) as handle:
        rows.clear()
        train(handle, four[: len(TRAIN)], four[len(TRAIN) :], config)
    assert max(rows) <= largest
    assert 8 in rows or micro_batch >= 16


@pytest.mark.parametrize("loss", ["answer", "choice"])
def test_the_kl_is_a_mean_over_the_tokens_of_the_batch_however_it_is_split(loss: Any) -> None:
    """Texts of very different lengths in parts of 64, 2 and 1: one KL, one gradient, so the same weights."""
    model = tiny_model("GraniteMoeForCausalLM")
    texts = [Example(list(range(3, 4 + 5 * n)), [7], ([9], [11, 5])) for n in range(1, 9)]
    kls, weights = [], []
    for micro_batch in (64, 2, 1):
        config = TrainingConfig(
            epochs=2, batch_size=8, micro_batch=micro_batch, learning_rate=0.02, loss=loss, beta=1.0, clip=1e9
        )
        with vmoer.bayesianize(model, method="mfvr", samples=3) as handle:
            torch.nn.init.normal_(handle.head(0).mean_head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
            if not kls:  # layer 0 reads the same however the layers above route
                total, count = 0.0, 0

                def add(site: Any, decision: Any, frame: Any) -> None:
                    nonlocal total, count
                    if site.layer == 0:
                        total += float(decision.posterior.kl().sum())
                        count += frame.mask.numel()

                with handle.tap.listening(add), torch.no_grad():
                    for text in texts:
                        for prompt, answer in text.rows(loss == "choice"):
                            model(input_ids=torch.tensor([prompt + answer]))
                kls.append(total / count)
            result = train(handle, texts, VALIDATION, config)
            weights.append(torch.cat([value.flatten() for value in handle.routers.state_dict().values()]))
        kls += [value for step, layer, quantity, value in result.log if (step, layer, quantity) == (1, 0, "kl")]
    assert kls == pytest.approx([kls[0]] * 4, rel=1e-5)
    assert torch.allclose(weights[1], weights[0], atol=2e-4)
    assert torch.allclose(weights[2], weights[0], atol=2e-4)


def test_averaged_objective_is_never_above_the_expected_one() -> None:
    """−log of a mean of likelihoods is at most the mean of −log likelihoods (Jensen), on the same draws."""
    from vmoer.training.loop import _losses

    model = tiny_model("GraniteMoeForCausalLM")
    losses = {}
    with vmoer.bayesianize(model, method="temperature", samples=4, temperature=2.0) as handle:
        learner = Learner(handle.tap, {}, {}, handle)
        for objective in ("expected", "averaged"):
            config = TrainingConfig(objective=objective, draws=6)  # type: ignore[arg-type]
            with torch.inference_mode():
                losses[objective] = _losses(learner, TRAIN, config, 0)
    assert (losses["averaged"] <= losses["expected"] + 1e-6).all()
    assert (losses["averaged"] < losses["expected"] - 1e-4).any()


def test_progressive_training_trains_the_deepest_layer_first() -> None:
    model = tiny_model("GraniteMoeForCausalLM")
    config = TrainingConfig(epochs=2, batch_size=2, micro_batch=2, evaluate_every=3, progressive=True, patience=99)
    with vmoer.bayesianize(model, method="mfvr", samples=2) as handle:
        result = train(handle, TRAIN, VALIDATION, config)
    layers: dict[int, set[int]] = {}
    for step, layer, quantity, _ in result.log:
        if quantity == "kl":
            layers.setdefault(step, set()).add(layer)
    assert layers[1] == {2}
    assert layers[5] == {1, 2}
    assert layers[12] == {0, 1, 2}
    assert result.best_step > 8, "no step before the last layer's is a candidate"
