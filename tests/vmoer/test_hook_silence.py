"""A router whose hook does not run is an error that names the cause, for Bayesian routers and recording alike."""

import copy

import pytest
import torch

import vmoer
from vmoer.errors import UnsupportedModelError, VmoerError
from vmoer.forward.hooks import tap_of
from vmoer.scoring.upper_layers import entering_at, hidden_before
from vmoer.testing import hooks_of, tiny_model, tiny_row

INPUTS = {"input_ids": torch.tensor([[5, 9, 33, 70]])}
COMPILED = "torch.compile leaves out hooks"


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture
def model():
    return tiny_model("OlmoeForCausalLM")


def compile_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")


def compile_stack_forward(model):
    model.model.forward = torch.compile(model.model.forward, backend="eager")


def compile_layers(model):
    for layer in model.model.layers:
        layer.compile(backend="eager")


def compile_stack(model):
    model.model = torch.compile(model.model, backend="eager")


def compile_one_router(model):
    model.model.layers[1].mlp.gate.compile(backend="eager")


WAYS = [compile_forward, compile_stack_forward, compile_layers, compile_stack, compile_one_router]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_model_compiled_in_any_part_is_refused(model, way):
    way(model)  # nothing is compiled before the first pass, which the refusal does not wait for
    with pytest.raises(UnsupportedModelError, match=COMPILED):
        vmoer.bayesianize(model, "temperature")
    with pytest.raises(UnsupportedModelError, match=COMPILED), vmoer.record(model):
        pass


def test_a_part_compiled_between_two_uses_is_refused_too(model):
    with vmoer.record(model):
        model(**INPUTS)
    compile_forward(model)
    with pytest.raises(UnsupportedModelError, match=COMPILED):
        vmoer.bayesianize(model, "temperature")


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.parametrize("use", [vmoer.record, lambda model: vmoer.bayesianize(model, "temperature", samples=1)])
def test_a_compiled_copy_from_before_is_noticed(model, use):
    """The hooks are put on the model itself, of which the copy knows nothing."""
    compiled = torch.compile(model, backend="eager")
    compiled(**INPUTS)
    with use(model), pytest.raises(UnsupportedModelError, match="compiled copy of the model"):
        compiled(**INPUTS)


def test_what_is_compiled_while_the_hooks_are_on_is_noticed_by_its_silence(model):
    gate = model.model.layers[1].mlp.gate
    with vmoer.bayesianize(model, "mfvr", samples=3):
        model(**INPUTS)
        gate._forward_hooks.clear()  # what compiled code does to hooks that came later
        gate.compile(backend="eager")
        with pytest.raises(UnsupportedModelError, match=rf"layers.1.mlp.gate of this model is compiled. {COMPILED}"):
            model(**INPUTS)


@pytest.mark.parametrize("replace", ["router", "block", "layer"])
def test_replaced_modules_are_named(model, replace):
    with vmoer.bayesianize(model, "mfvr", samples=3):
        layer = model.model.layers[1]
        if replace == "router":
            layer.mlp.gate = without_hooks(layer.mlp.gate)
        elif replace == "block":
            layer.mlp = without_hooks(layer.mlp)
        else:
            model.model.layers[1] = without_hooks(layer)
        with pytest.raises(UnsupportedModelError, match=r"layers.1.mlp.gate was replaced .* layers 1 "):
            model(**INPUTS)


def test_a_replaced_decoder_stack_is_noticed(model):
    with vmoer.record(model):
        model.model = without_hooks(model.model)
        with pytest.raises(UnsupportedModelError, match="without running the decoder stack"):
            model(**INPUTS)


def without_hooks(module):
    """A module that does the same, as a user's own would."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        part._forward_hooks_always_called.clear()
        part._forward_pre_hooks_with_kwargs.clear()
    return twin


def test_a_replica_is_refused(model):
    with pytest.raises(UnsupportedModelError, match=r"give its `\.module`"), vmoer.record(torch.nn.DataParallel(model)):
        pass
    replica = model.model._replicate_for_data_parallel()
    with vmoer.record(model), pytest.raises(UnsupportedModelError, match="DataParallel"):
        replica(**INPUTS)


def test_an_early_exit_is_refused_where_the_layers_it_leaves_out_are_needed(model):
    layers = model.config.num_hidden_layers
    with vmoer.record(model):
        model.config.num_hidden_layers = 1  # as transformers' own early-exit drafts do
        with pytest.raises(UnsupportedModelError, match=r"without running the routers of layers 1, 2 \(an early exit"):
            model(**INPUTS)
        model.config.num_hidden_layers = layers
        model(**INPUTS)


def test_an_early_exit_below_which_all_bayesian_routers_lie_is_right(model):
    with vmoer.bayesianize(model, "mfvr", layers=[0], samples=3):
        model.config.num_hidden_layers = 1
        early = model(**INPUTS).logits
    native = model(**INPUTS).logits
    assert not torch.allclose(early, native, atol=1e-4)


def test_drafts_by_early_exit_are_refused_while_recording(model):
    with vmoer.record(model), pytest.raises(UnsupportedModelError, match="an early exit"):
        model.generate(**INPUTS, max_new_tokens=4, do_sample=False, assistant_early_exit=1, pad_token_id=0)


def test_layers_left_out_on_purpose_are_declared(model):
    """Scoring enters the stack at the first Bayesian layer; a pass that skips another one is refused."""
    tap = tap_of(model)
    with vmoer.bayesianize(model, "mfvr", samples=3):
        whole = model(**INPUTS).logits
        hidden = hidden_before(model, 2, **INPUTS)
        with entering_at(model, 2, hidden):
            assert torch.equal(model(**INPUTS).logits, whole)
        model.model.layers[1].forward = lambda hidden_states, **_: hidden_states
        with tap.leaving_out({0}), pytest.raises(UnsupportedModelError, match="routers of layers 1"):
            model(**INPUTS)


def test_a_router_that_runs_twice_is_refused(model):
    with vmoer.record(model):
        model.model.layers[2] = model.model.layers[1]
        with pytest.raises(UnsupportedModelError, match=r"layers.2.mlp.gate was replaced"):
            model(**INPUTS)
    again = tiny_model("OlmoeForCausalLM")
    with vmoer.bayesianize(again, "mfvr", layers=[1], samples=3):
        again.model.layers[2] = again.model.layers[1]
        with pytest.raises(UnsupportedModelError, match="layer 1 ran more than once"):
            again(**INPUTS)


def test_nothing_recorded_says_what_could_have_kept_silent(model):
    with vmoer.record(model) as recorder:
        pass
    with pytest.raises(VmoerError, match="compiled or captured as a CUDA graph"):
        _ = recorder.trace


def test_a_refused_pass_leaves_nothing_behind(model):
    hooks, native = hooks_of(model), model(**tiny_row(0)).logits
    with vmoer.record(model) as recorder:
        model.config.num_hidden_layers = 1
        with pytest.raises(UnsupportedModelError):
            model(**tiny_row(0))
        model.config.num_hidden_layers = 3
        assert tap_of(model).frame is None
        model(**tiny_row(0))
    assert len(recorder.trace) == 7
    assert hooks_of(model) == hooks
    assert torch.equal(native, model(**tiny_row(0)).logits)
