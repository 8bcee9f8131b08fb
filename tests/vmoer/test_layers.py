"""Layer selections: what each form means, and one clear sentence for everything else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmoer.errors import LayerSelectionError
from vmoer.layers import choose, describe, parse, resolve

MOE = [1, 2, 3, 5, 8]
subsets = st.lists(st.sampled_from(MOE), min_size=1, unique=True)


@given(subsets)
def test_a_list_means_itself_in_order(layers):
    assert resolve(layers, MOE) == sorted(layers)
    assert resolve(np.array(layers), MOE) == sorted(layers)


@given(st.integers(1, 5))
def test_last_means_the_last_moe_layers(count):
    assert resolve(f"last:{count}", MOE) == MOE[-count:]


def sentence_for(text):
    """The refusal of ``text``, or ``None`` when it is understood."""
    try:
        parse(text)
    except LayerSelectionError as error:
        return str(error)
    return None


@given(st.text(max_size=12) | st.from_regex(r"(all|auto|last|leverage)(:[0-9]{0,5})?", fullmatch=True))
def test_any_text_is_understood_or_refused_with_help(text):
    sentence = sentence_for(text)
    if sentence is not None:
        assert "use 'all', a list" in sentence or "1 or more" in sentence
        return
    rule, count, explicit = parse(text)
    assert rule in ("all", "auto", "last", "susceptible", "leverage")
    assert count is None or count >= 1
    assert explicit == []


@given(st.permutations([0.1, 0.2, 0.3, 0.4, 0.5]), st.integers(1, 5))
def test_measured_rules_take_the_extremes(values, count):
    by_value = dict(zip(values, MOE, strict=True))
    ascending = [by_value[value] for value in sorted(values)]
    assert choose(f"susceptible:{count}", MOE, jaccard=values) == sorted(ascending[:count])
    assert choose(f"leverage:{count}", MOE, nll_rise=values) == sorted(ascending[-count:])


def test_ties_go_to_the_lower_layer():
    assert choose("susceptible:2", MOE, jaccard=[0.5] * 5) == [1, 2]
    assert choose("leverage:2", MOE, nll_rise=[0.5] * 5) == [1, 2]


def test_auto_wants_both_unstable_and_worth_it():
    jaccard, rise = [0.1, 0.9, 0.2, 0.5, 0.6], [0.0, 0.1, 0.9, 0.2, 0.3]
    assert choose("auto:1", MOE, jaccard=jaccard, nll_rise=rise) == [3]
    assert len(choose("auto", MOE, jaccard=jaccard, nll_rise=rise)) == 1


def test_all_means_all():
    assert resolve("all", MOE) == MOE
    assert resolve(" all ", MOE) == MOE
    assert choose("all", MOE) == MOE


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ("every", "'every' is not understood; use 'all'"),
        ("susceptible", "'susceptible' is not understood"),
        ("last:-1", "'last:-1' is not understood"),
        ("last:0", "chooses no layer; the count must be 1 or more"),
        ("last:6", "asks for 6 layers; the model has 5"),
        ("susceptible:2", "chosen by measurement: pass calibration batches"),
        ([], "The layer list is empty"),
        ([1, 1], "Layer 1 is listed twice"),
        ([1, 4], "Layer 4 is not an MoE layer of this model; its MoE layers are 1, 2, 3, 5, 8"),
        ([-1], "Layer -1 is not an MoE layer"),
        ([True], "whole numbers, not True"),
        ([1.0], "whole numbers, not 1.0"),
        (["1"], "whole numbers, not '1'"),
        (3, "given as text or as a list such as .3, 4., not 3"),
        (None, "not None"),
    ],
)
def test_every_bad_selection_has_its_sentence(selection, sentence):
    with pytest.raises(LayerSelectionError, match=sentence):
        resolve(selection, MOE)


@pytest.mark.parametrize("selection", ["susceptible:9", "leverage:9", "auto:9"])
def test_more_layers_than_there_are(selection):
    with pytest.raises(LayerSelectionError, match="asks for 9 layers; the model has 5"):
        choose(selection, MOE, jaccard=[0.0] * 5, nll_rise=[0.0] * 5)


@pytest.mark.parametrize("selection", ["susceptible:1", "leverage:1", "auto"])
def test_a_missing_measurement_is_said(selection):
    with pytest.raises(LayerSelectionError, match="needs a measurement that was not made"):
        choose(selection, MOE)


def test_description():
    assert describe([4, 5, 6, 7]) == "4–7"
    assert describe([1, 3]) == "1, 3"
    assert describe([2]) == "2"
