"""What every model family must satisfy: ``check_architecture`` runs it all on a tiny model of the family."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vmoer.architectures import RouterSite, architecture_of, architectures
from vmoer.attach import bayesianize
from vmoer.errors import UnsupportedModelError
from vmoer.forward.decision import Decision
from vmoer.forward.hooks import tap_of
from vmoer.forward.recorder import record
from vmoer.measure.noise_floor import expert_kernels
from vmoer.scoring.options import score_options
from vmoer.testing.caches import check_beam_search, check_drafts, check_packing, check_static_cache
from vmoer.testing.compare import ATOL, assert_same, assert_same_decisions, hooks_of, trace_of
from vmoer.testing.tiny import LENGTHS, tiny_batch, tiny_model


def check_architecture(family: str) -> None:
    """Everything a model family promises."""
    for check in FAMILY_CHECKS:
        check(family)


def check_rule(family: str) -> None:
    """The selection and gate rule give the native router's own indices and weights to the last bit."""
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(family).to(dtype)
        for experts in expert_kernels(model) or (None,):
            if experts is not None:
                model.set_experts_implementation(experts)
            _check_rule(model, f"{family} in {dtype} with {experts or 'native'} experts")


def check_layers(family: str) -> None:
    """Every router is found where it is said to be, under its absolute layer, dense blocks in between or not."""
    model = tiny_model(family)
    architecture = architecture_of(model)
    sites = architecture.sites(model)
    paths = dict(model.named_modules())
    blocks = list(architecture.decoder_layers(model))
    for site in sites:
        assert paths[site.path] is site.router, f"{family}: {site.path} is not the router of layer {site.layer}."
        assert site.block in list(blocks[site.layer].modules()), (
            f"{family}: the MoE block said to be in layer {site.layer} is elsewhere."
        )
    experts = [
        layer
        for layer, block in enumerate(blocks)
        if any(p.dim() == 3 and p.shape[0] == sites[0].n_experts for p in block.parameters())
    ]
    assert [site.layer for site in sites] == experts, f"{family}: routers in {sites}, experts in {experts}."
    assert trace_of(model, tiny_batch()).layers.tolist() == experts, f"{family}: the trace numbers other layers."


def check_generation(family: str) -> None:
    """``generate()`` records each token once, positions go on, and a cached token is routed as in one long pass."""
    model = tiny_model(family)
    batch = {name: value for name, value in tiny_batch((5, 3)).items() if name != "position_ids"}
    new = 4
    with _routers(family, model), torch.no_grad():
        with record(model) as recorder:
            out = model.generate(**batch, max_new_tokens=new, do_sample=False, eos_token_id=-1)
        trace = recorder.trace
        decoded = trace.take(trace.decode)
        assert len(trace) - len(decoded) == 8, f"{family}: prompt tokens were recorded more than once or not at all."
        assert len(decoded) == 2 * (new - 1), f"{family}: decoded tokens were recorded more than once or not at all."
        positions = decoded.position.reshape(2, new - 1).tolist()
        assert positions == [[5, 6, 7], [3, 4, 5]], f"{family}: decoded positions are {positions}."
        for row, length in enumerate((5, 3)):
            text = out[row : row + 1, 5 - length : -1]
            part = trace.take(trace.example == row)
            assert_same_decisions(trace_of(model, {"input_ids": text}), part, f"{family}, decoded against a cache")


def check_router_logits(family: str) -> None:
    """``output_router_logits=True`` reports one entry per sparse layer: the logits that routed."""
    model = tiny_model(family)
    architecture = architecture_of(model)
    seen: list[tuple[Tensor, ...]] = []

    def listen(site: RouterSite, decision: Decision, _frame: Any) -> None:
        seen.append(architecture.pack(site, decision.logits, decision.weight, decision.index))

    with (
        _routers(family, model),
        tap_of(model).listening(listen),
        torch.no_grad(),
    ):
        reported = model(**tiny_batch(), output_router_logits=True).router_logits
    assert reported is not None, f"{family}: no router logits are reported."
    assert len(reported) == len(seen), f"{family}: {len(reported)} router logits for {len(seen)} sparse layers."
    for ours, theirs in zip(seen, reported, strict=True):
        same = [torch.equal(value.to(theirs.dtype).flatten(), theirs.flatten()) for value in ours]
        assert any(same), f"{family}: reported router logits differ from those that routed, to the last bit."


def check_auxiliary_loss(family: str) -> None:
    """The load-balancing loss, where the family has one, is unchanged by a recorder and by deterministic routers."""
    model = tiny_model(family)
    batch = tiny_batch()
    with torch.no_grad():
        native = getattr(model(**batch, output_router_logits=True), "aux_loss", None)
        with bayesianize(model, "deterministic"), record(model):
            wrapped = getattr(model(**batch, output_router_logits=True), "aux_loss", None)
    assert (native is None) == (wrapped is None), f"{family}: the auxiliary loss appears or disappears."
    if native is not None and wrapped is not None:
        assert_same(native, wrapped, f"{family}: auxiliary loss")


def check_scoring(family: str) -> None:
    """Options scored against a shared cache, sample by sample, get the scores of full passes under that sample."""
    model = tiny_model(family)
    prompts, options = ["a b c d", "e f"], [[" x y", " z"], [" u v w", " y"]]
    last = tap_of(model).sites[-1].layer
    with _routers(family, model, estimator="predictive", layers=[last]) as handle:
        samples = 1 if handle is None else 2
        scored = score_options(model, Letters(), prompts, options, handle=handle, samples=samples)
        for question, (prompt, texts) in enumerate(zip(prompts, options, strict=True)):
            for option, text in enumerate(texts):
                for sample in range(samples):
                    draw = handle.one_draw(torch.tensor([sample])) if handle is not None else nullcontext()
                    with draw, torch.no_grad():
                        expected = _log_likelihood(model, prompt, text)
                    found = scored[question].log_likelihood[sample, option]
                    assert abs(found - expected) < 10 * ATOL, (
                        f"{family}: option {option} of prompt {question} scores {found:.5f} in sample {sample}, "
                        f"{expected:.5f} in a full pass."
                    )


def check_failure(family: str) -> None:
    """An exception in the middle of a forward pass leaves no hook and no state; the next pass is as before."""
    model = tiny_model(family)
    batch = tiny_batch()
    hooks = hooks_of(model)
    with torch.no_grad():
        before = model(**batch).logits
        with _routers(family, model), record(model):
            bomb = tap_of(model).sites[-1].block.register_forward_pre_hook(_explode)
            try:
                model(**batch)
            except ZeroDivisionError:
                assert tap_of(model).frame is None, f"{family}: the frame of a failed pass stays."
            else:
                raise AssertionError(f"{family}: the MoE block of the last site is never called.")
            finally:
                bomb.remove()
        assert hooks_of(model) == hooks, f"{family}: a failed pass leaves hooks behind."
        assert_same(before, model(**batch).logits, f"{family}: outputs after a failed pass")


def check_two_models(family: str) -> None:
    """Routers on one model leave another of the same family alone, and one model carries one set at a time."""
    first, second = tiny_model(family, seed=0), tiny_model(family, seed=1)
    batch = tiny_batch()
    with torch.no_grad():
        native = second(**batch).logits
        with bayesianize(first, _method(family)), record(first) as recorder:
            assert_same(native, second(**batch).logits, f"{family}: outputs of another model")
            with bayesianize(second, "deterministic"):
                first(**batch)
            try:
                bayesianize(first, "deterministic")
            except UnsupportedModelError:
                pass
            else:
                raise AssertionError(f"{family}: a second set of routers is accepted.")
    assert len(recorder.trace) == sum(LENGTHS), f"{family}: another model's tokens were recorded."


class Letters:
    """A tokenizer for tiny models: one token per character."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % 90 for letter in text]}


def _method(family: str) -> str:
    return "deterministic" if architectures.get(family).bayesian_refusal else "mfvr"


def _routers(family: str, model: nn.Module, **options: Any) -> Any:
    """A context with Bayesian routers on ``model``, or ``None`` in it where the family refuses them."""
    if _method(family) == "deterministic":
        return nullcontext()
    return bayesianize(model, "mfvr", samples=3, **options)


def _log_likelihood(model: Any, prompt: str, text: str) -> float:
    tokenizer = Letters()
    first, rest = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
    ids = torch.tensor([first + rest])
    log_p = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().log_softmax(-1)
    places = torch.arange(len(first) - 1, len(first) + len(rest) - 1)
    return float(log_p[0, places, torch.tensor(rest)].sum())


def _explode(*_: Any) -> None:
    raise ZeroDivisionError


def _check_rule(model: nn.Module, what: str) -> None:
    architecture = architecture_of(model)
    sites = architecture.sites(model)
    seen: dict[int, Any] = {}
    hooks = [
        site.router.register_forward_hook(
            lambda _m, given, out, layer=site.layer: seen.update({layer: (given[0], out)})
        )
        for site in sites
    ]
    try:
        with torch.no_grad():
            model(**tiny_batch())
    finally:
        for hook in hooks:
            hook.remove()
    assert sites, f"{what}: no router was found."
    for site in sites:
        hidden, output = seen[site.layer]
        logits, weight, index = architecture.read(site, hidden, output)
        assert logits.shape[-1] == site.n_experts, f"{what}: {logits.shape[-1]} logits, said to be {site.n_experts}."
        assert index.shape[-1] == site.top_k, f"{what}: {index.shape[-1]} experts chosen, said to be {site.top_k}."
        chosen = architecture.select(site, logits)
        assert_same(index, chosen, f"{what}, layer {site.layer}: chosen experts")
        assert_same(weight, architecture.gates(site, logits, chosen).to(weight.dtype), f"{what}: gate weights")
        for packed, native in zip(architecture.pack(site, logits, weight, index), output, strict=True):
            assert_same(native, packed, f"{what}, layer {site.layer}: what pack() makes of unpack()'s")
        asked = architecture.selection_scores(site, logits)
        best = asked.topk(site.top_k, dim=-1).values
        scores = asked.gather(-1, index).sort(-1, descending=True).values
        assert_same(best, scores, f"{what}, layer {site.layer}: selection scores of the chosen")


#: every promise of a model family, in the order they are checked
FAMILY_CHECKS = (
    check_rule,
    check_layers,
    check_generation,
    check_beam_search,
    check_drafts,
    check_static_cache,
    check_packing,
    check_router_logits,
    check_auxiliary_loss,
    check_scoring,
    check_failure,
    check_two_models,
)
