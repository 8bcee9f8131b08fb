"""Recording: the right tokens, positions and layers, the decisions that were applied, and nothing left behind."""

import threading
import warnings

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import vmoer
from vmoer.attach import bayesianize
from vmoer.errors import UnsupportedModelError, VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.forward.recorder import record
from vmoer.testing import LENGTHS, tiny_batch, tiny_model, tiny_row

BAYESIAN = {"method": "fcvr", "samples": 4}


@pytest.fixture
def model():
    return tiny_model()


def forward(model, **batch):
    with torch.no_grad():
        return model(**batch)


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_recorded(model, side):
    batch = tiny_batch(side=side, width=11)
    with record(model) as recorder:
        forward(model, **batch)
    trace = recorder.trace
    real = batch["attention_mask"].bool()
    assert trace.token_id.tolist() == batch["input_ids"][real].tolist()
    assert trace.position.tolist() == [p for length in LENGTHS for p in range(length)]
    assert trace.example.tolist() == [row for row, length in enumerate(LENGTHS) for _ in range(length)]
    assert trace.overlap.shape == (sum(LENGTHS), 3)
    assert trace.n_rows == sum(LENGTHS) * 3
    assert not trace.decode.any()


def test_rows_are_numbered_over_all_calls(model):
    with record(model) as recorder:
        forward(model, **tiny_batch())
        forward(model, **tiny_row(1))
    assert np.unique(recorder.trace.example).tolist() == [0, 1, 2, 3]
    assert len(list(recorder.trace.examples())) == 4


def test_missing_mask_and_embeddings_are_recorded_without_token_ids(model):
    ids = tiny_row(0)["input_ids"]
    with record(model) as recorder:
        forward(model, inputs_embeds=model.get_input_embeddings()(ids).detach())
    assert recorder.trace.token_id.tolist() == [-1] * 7
    assert recorder.trace.position.tolist() == list(range(7))


def test_a_deterministic_model_agrees_with_itself(model):
    with record(model) as recorder:
        forward(model, **tiny_batch())
    trace = recorder.trace
    assert np.array_equal(trace.expert_index, trace.base_expert_index)
    assert (trace.overlap == 2).all()
    for name in ("logit_variance", "logit_variance_mc", "temperature"):
        assert np.isnan(getattr(trace, name)).all(), name
        assert trace.decisions()[name].mask.all(), name
    assert (trace.top_k_margin > 0).all()
    assert (trace.routing_entropy <= np.log(8) + 1e-6).all()


@pytest.mark.parametrize("options", [None, BAYESIAN, {"method": "temperature", "temperature": 1.0}])
def test_recorded_gates_reproduce_the_output_of_the_block(options):
    """Experts recombined by hand with the recorded indices and weights give what the block gave."""
    model = tiny_model()
    model.set_experts_implementation("eager")
    seen = {}
    hooks = [
        site.block.register_forward_hook(lambda _m, args, out, layer=site.layer: seen.update({layer: (args[0], out)}))
        for site in tap_of(model).sites
    ]
    handle = bayesianize(model, **options) if options else None
    batch = tiny_batch()
    with record(model) as recorder:
        forward(model, **batch)
    if handle is not None:
        handle.restore()
    for hook in hooks:
        hook.remove()
    real = batch["attention_mask"].bool()
    trace = recorder.trace
    if options:
        assert (trace.overlap < 2).any(), "the routers must have changed something for this test to mean anything"
    for column, site in enumerate(tap_of(model).sites):
        experts = site.block.experts
        hidden, output = (value[real] for value in seen[site.layer])
        expected = torch.zeros_like(hidden)
        for slot in range(site.top_k):
            index = torch.as_tensor(trace.expert_index[:, column, slot].astype(int))
            weight = torch.as_tensor(trace.gate_weight[:, column, slot])
            gate, up = torch.einsum("th,toh->to", hidden, experts.gate_up_proj[index]).chunk(2, dim=-1)
            out = torch.einsum("ti,thi->th", experts.act_fn(gate) * up, experts.down_proj[index])
            expected += weight[:, None] * out
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-5)


def test_layers_are_absolute_in_a_stack_with_dense_blocks():
    """Block 1 made dense: the layers recorded are 0 and 2, and a router can only be put there."""
    model = tiny_model()
    block = model.model.layers[1]
    del block.block_sparse_moe
    block.forward = lambda hidden_states, **_: hidden_states
    with record(model) as recorder:
        forward(model, **tiny_batch())
    assert recorder.trace.layers.tolist() == [0, 2]
    with bayesianize(model, "fcvr", samples=2) as handle, record(model) as recorder:
        assert handle.layers == [0, 2]
        forward(model, **tiny_batch())
    assert np.isfinite(recorder.trace.logit_variance).all()
    with pytest.raises(VmoerError, match="Layer 1 is not an MoE layer of this model; its MoE layers are 0, 2"):
        bayesianize(model, "fcvr", layers=[1])


def test_variance_only_where_a_router_is(model):
    with bayesianize(model, layers=[1], **BAYESIAN), record(model) as recorder:
        forward(model, **tiny_batch())
    finite = np.isfinite(recorder.trace.logit_variance)
    assert finite[:, 1].all()
    assert not finite[:, [0, 2]].any()
    assert (recorder.trace.overlap[:, 0] == 2).all()


@pytest.mark.parametrize("options", [None, BAYESIAN])
def test_generation_records_every_token_once(options):
    """With a KV cache positions go on, new tokens are marked as decoded, and no prompt token comes twice."""
    model = tiny_model()
    batch = {name: value for name, value in tiny_batch((5, 3)).items() if name != "position_ids"}
    handle = bayesianize(model, **options) if options else None
    with record(model) as recorder, torch.no_grad():
        out = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=-1)
    trace = recorder.trace
    prompt, decoded = trace.take(~trace.decode), trace.take(trace.decode)
    assert len(prompt) == 8
    assert len(decoded) == 2 * 3  # the last new token is never fed back
    assert sorted(decoded.position.tolist()) == [3, 4, 5, 5, 6, 7]
    fed_back = out[:, batch["input_ids"].shape[1] : -1]
    assert decoded.token_id.reshape(2, 3).tolist() == fed_back.tolist()
    if handle is not None:
        handle.restore()


def test_cached_decoding_meets_the_noise_of_a_full_pass():
    """A token decoded against the cache is routed as it would be inside one long forward pass."""
    model = tiny_model()
    ids = tiny_row(0)["input_ids"]
    with bayesianize(model, **BAYESIAN):
        with record(model) as whole:
            forward(model, input_ids=ids)
        with record(model) as parts:
            cache = DynamicCache(config=model.config)
            for piece in (ids[:, :4], ids[:, 4:5], ids[:, 5:]):
                forward(model, input_ids=piece, past_key_values=cache)
    a, b = whole.trace, parts.trace
    assert a.position.tolist() == b.position.tolist()
    assert np.array_equal(a.expert_index, b.expert_index)
    np.testing.assert_allclose(a.logit_variance_mc, b.logit_variance_mc, rtol=1e-3)


def test_beam_search_runs_with_routers(model):
    with bayesianize(model, **BAYESIAN), record(model) as recorder, torch.no_grad():
        out = model.generate(input_ids=tiny_row(0)["input_ids"], max_new_tokens=3, num_beams=2, do_sample=False)
    assert out.shape[0] == 1
    assert recorder.trace.decode.any()


def test_a_failing_forward_pass_leaves_nothing(model):
    before = hooks_of(model)
    bomb = model.model.layers[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("boom")))
    with pytest.raises(RuntimeError, match="boom"), record(model) as recorder:
        forward(model, **tiny_batch())
    bomb.remove()
    assert hooks_of(model) == before
    with pytest.raises(VmoerError, match="Nothing was recorded"):
        _ = recorder.trace
    with record(model) as recorder:
        forward(model, **tiny_batch())
    assert len(recorder.trace) == sum(LENGTHS)


def test_a_failure_inside_a_recording_does_not_spoil_it(model):
    with record(model) as recorder:
        forward(model, **tiny_batch())
        bomb = model.model.layers[1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("boom")))
        with pytest.raises(RuntimeError, match="boom"):
            forward(model, **tiny_batch())
        bomb.remove()
        assert tap_of(model).frame is None
        forward(model, **tiny_batch())
    assert len(recorder.trace) == 2 * sum(LENGTHS)
    assert np.unique(recorder.trace.example).tolist() == list(range(6))


def test_nested_recordings_see_the_same(model):
    with record(model) as outer:
        forward(model, **tiny_batch())
        with record(model) as inner:
            forward(model, **tiny_batch())
    assert len(outer.trace) == 2 * len(inner.trace)
    assert np.array_equal(outer.trace.expert_index[len(inner.trace) :], inner.trace.expert_index)


def test_nothing_recorded_is_said():
    with record(tiny_model()) as recorder:
        pass
    with pytest.raises(VmoerError, match="Nothing was recorded"):
        _ = recorder.trace


def test_recording_does_not_change_the_output(model):
    plain = forward(model, **tiny_batch()).logits
    with record(model):
        assert torch.equal(forward(model, **tiny_batch()).logits, plain)


def test_two_models_do_not_disturb_each_other():
    first, second = tiny_model(seed=0), tiny_model(seed=1)
    with torch.no_grad():
        plain = second(**tiny_batch()).logits
    with bayesianize(first, **BAYESIAN), record(first) as recorder:
        assert torch.equal(forward(second, **tiny_batch()).logits, plain)
        with bayesianize(second, **BAYESIAN) as other:
            forward(second, **tiny_batch())
            forward(first, **tiny_batch())
        assert not other.active
        forward(first, **tiny_batch())
    assert len(recorder.trace) == 2 * sum(LENGTHS)


def test_a_model_takes_one_set_of_routers_at_a_time(model, tmp_path):
    handle = bayesianize(model, **BAYESIAN)
    handle.save(tmp_path)
    for again in (lambda: bayesianize(model, "mfvr"), lambda: vmoer.load_routers(model, tmp_path), handle.enable):
        with pytest.raises(UnsupportedModelError, match="already carries Bayesian routers; call restore"):
            again()
    handle.restore()
    other = bayesianize(model, **BAYESIAN)
    with pytest.raises(UnsupportedModelError, match="already carries"):
        handle.enable()
    other.restore()
    handle.enable()
    assert handle.active
    handle.restore()


def test_a_tap_taken_early_sees_routers_put_on_later(model):
    """Two holders of one model must share one set of hooks, whoever came first."""
    early = tap_of(model)
    with bayesianize(model, **BAYESIAN) as handle:
        assert handle.tap is early
        before = hooks_of(model)
        with early.listening(lambda *_: None):
            assert hooks_of(model) == before


def test_a_second_thread_is_refused_and_the_first_unharmed(model):
    inside, proceed = threading.Event(), threading.Event()

    def wait(*_):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert proceed.wait(10)

    result = {}

    def work():
        with torch.no_grad():
            result["logits"] = model(**tiny_batch()).logits

    with bayesianize(model, **BAYESIAN), record(model) as recorder:
        expected = forward(model, **tiny_batch()).logits
        hook = model.model.layers[1].register_forward_pre_hook(wait)
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        with pytest.raises(UnsupportedModelError, match="one thread at a time"):
            forward(model, **tiny_batch())
        proceed.set()
        thread.join(10)
        hook.remove()
        forward(model, **tiny_batch())
    assert torch.equal(result["logits"], expected)
    assert len(recorder.trace) == 3 * sum(LENGTHS)


@pytest.mark.parametrize("family", ["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"])
@pytest.mark.parametrize("options", [BAYESIAN, {"method": "temperature", "temperature": 2.0}])
def test_router_logits_of_transformers_are_those_that_routed(family, options):
    model = tiny_model(family)
    seen = []

    def remember(_site, decision, _frame):
        seen.append(decision)

    with bayesianize(model, **options) as handle, handle.tap.listening(remember), torch.no_grad():
        out = model(**tiny_batch(), output_router_logits=True, labels=tiny_batch()["input_ids"])
    assert len(out.router_logits) == 3
    for logits, decision in zip(out.router_logits, seen, strict=True):
        assert torch.equal(logits, decision.logits)
    assert torch.isfinite(out.aux_loss)
    assert torch.isfinite(out.loss)


def test_gradient_checkpointing_is_refused_with_routers(model):
    model.activation_checkpointing_enable()
    model.train()
    with bayesianize(model, **BAYESIAN):
        with pytest.raises(UnsupportedModelError, match="checkpointing_disable"):
            model(**tiny_batch())
        model.eval()
        forward(model, **tiny_batch())


def test_bayesianize_leaves_every_module_in_its_mode(model):
    model.train()
    model.model.layers[0].eval()
    bayesianize(model, **BAYESIAN).restore()
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 7, 7), torch.zeros(1, 1, 7, 7, dtype=torch.bool)])
def test_other_than_two_dimensional_masks_are_refused(model, mask):
    with record(model), pytest.raises(UnsupportedModelError, match="2-D attention_mask"):
        forward(model, input_ids=tiny_row(0)["input_ids"], attention_mask=mask)
    forward(model, input_ids=tiny_row(0)["input_ids"])


def test_state_dict_is_untouched_while_active(model):
    keys = list(model.state_dict())
    with bayesianize(model, **BAYESIAN), record(model):
        forward(model, **tiny_batch())
        assert list(model.state_dict()) == keys
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_handle_switches(model):
    with torch.no_grad():
        native = model(**tiny_batch()).logits
        with bayesianize(model, seed=2, **BAYESIAN) as handle:
            bayesian = model(**tiny_batch()).logits
            with handle.deterministic():
                assert torch.equal(model(**tiny_batch()).logits, native)
            assert torch.equal(model(**tiny_batch()).logits, bayesian)
            with handle.one_draw(torch.tensor([0, 1, 2])):
                numbered = model(**tiny_batch()).logits
            with handle.one_draw(torch.tensor([5, 1, 2])):
                other = model(**tiny_batch()).logits
            assert not torch.equal(numbered[0], other[0])
            real = tiny_batch()["attention_mask"][1:].bool()
            torch.testing.assert_close(numbered[1:][real], other[1:][real], rtol=1e-4, atol=1e-4)
            with pytest.raises(VmoerError, match="noise scale must be 0 or more"):
                handle.scale_noise(-1)
        assert not torch.equal(native, bayesian)
        assert "restored" in repr(handle)


def test_recording_in_bfloat16():
    model = tiny_model().to(torch.bfloat16)
    with bayesianize(model, **BAYESIAN), record(model) as recorder:
        forward(model, **tiny_batch())
    trace = recorder.trace
    assert trace.gate_weight.dtype == np.float32
    assert trace.expert_index.dtype == np.uint16
    np.testing.assert_allclose(trace.gate_weight.sum(-1), 1.0, atol=0.01)


def test_decisions_are_token_major_columns(model):
    with record(model) as recorder:
        forward(model, **tiny_row(0))
    columns = recorder.trace.decisions()
    assert columns["token"].tolist() == [t for t in range(7) for _ in range(3)]
    assert columns["layer"].tolist() == [0, 1, 2] * 7
    assert columns["expert_index"].shape == (21, 2)
    assert np.array_equal(columns["gate_weight"][4], recorder.trace.gate_weight[1, 1])


def test_a_peft_wrapper_is_seen_through(model):
    peft = pytest.importorskip("peft", reason="peft is an optional companion")
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)  # peft asks transformers so
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    wrapped.eval()
    with torch.no_grad():
        native = wrapped(**tiny_batch()).logits
        with bayesianize(wrapped, **BAYESIAN) as handle, record(wrapped) as recorder:
            bayesian = wrapped(**tiny_batch()).logits
        assert not torch.equal(native, bayesian)
        assert torch.equal(wrapped(**tiny_batch()).logits, native)
    assert handle.layers == [0, 1, 2]
    assert len(recorder.trace) == sum(LENGTHS)
