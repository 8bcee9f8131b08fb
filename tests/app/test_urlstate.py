"""Properties of the page state in the link: it round-trips, never crashes, and never shows something else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.shared.url_state import MAX_VALUES, PARAMETERS, LinkError, Value, choose, choose_many, parse, render

RUN_IDS = st.from_regex(r"[a-z0-9._-]{1,60}", fullmatch=True)
TEXTS = st.text(min_size=1, max_size=60).filter(str.isprintable)
BY_READER: dict[str, st.SearchStrategy[Value]] = {
    "_run_id": RUN_IDS,
    "_text": TEXTS,
    "_index": st.integers(0, 999_999_999),
    "_level": st.floats(0, 1e300, allow_nan=False).map(lambda value: value + 0.0),
}


def values() -> st.SearchStrategy[dict[str, Value]]:
    def one(name: str) -> st.SearchStrategy[Value]:
        parameter = PARAMETERS[name]
        single = BY_READER[parameter.read.__name__]
        if not parameter.many:
            return single
        return st.lists(single.map(str), min_size=1, max_size=MAX_VALUES, unique=True).map(tuple)

    return st.fixed_dictionaries({}, optional={name: one(name) for name in PARAMETERS})


@given(values())
def test_a_link_restores_the_state_it_was_made_from(state: dict[str, Value]) -> None:
    assert parse(render(state)) == state


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)) | st.text(), st.lists(st.text(), max_size=4)))
def test_any_query_is_parsed_or_refused_in_a_sentence(query: dict[str, list[str]]) -> None:
    try:
        state = parse(query)
    except LinkError as error:
        message = str(error)
        assert message
        assert message.isprintable()
        assert len(message) < 400
    else:
        assert set(state) <= set(query)
        assert parse(render(state)) == state


@given(TEXTS, st.lists(TEXTS, max_size=5))
def test_a_value_that_is_not_offered_is_never_replaced(value: str, options: list[str]) -> None:
    if value in options:
        assert choose("dataset", value, options, None) == value
    else:
        with pytest.raises(LinkError, match="not found"):
            choose("dataset", value, options, options[0] if options else None)


@given(st.lists(TEXTS, min_size=1, max_size=5, unique=True), st.lists(TEXTS, max_size=5))
def test_one_unknown_value_among_many_refuses_the_link(chosen: list[str], options: list[str]) -> None:
    if set(chosen) <= set(options):
        assert choose_many("runs", chosen, options, ()) == tuple(chosen)
    else:
        with pytest.raises(LinkError, match="not found"):
            choose_many("runs", chosen, options, options)


@pytest.mark.parametrize("text", ["-1", "1.5", "²", "٣", "1e3", "", " 1", "9" * 10])
def test_an_index_is_plain_digits(text: str) -> None:
    with pytest.raises(LinkError):
        parse({"layer": [text]})


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "high", ""])
def test_a_noise_level_is_finite_and_not_negative(text: str) -> None:
    with pytest.raises(LinkError, match="level"):
        parse({"gamma": [text]})


def test_a_level_typed_by_hand_finds_the_stored_one() -> None:
    assert choose("gamma", parse({"gamma": ["0.30"]})["gamma"], [0.1 + 0.2], None) == 0.1 + 0.2


def test_negative_zero_and_zero_make_one_link() -> None:
    assert math.copysign(1, float(str(parse({"gamma": ["-0.0"]})["gamma"]))) == 1


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(LinkError, match="once"):
        parse({"run": ["a", "b"]})


def test_too_many_runs_are_refused_rather_than_cut() -> None:
    with pytest.raises(LinkError, match="at most 2"):
        choose_many("runs", ["a", "b", "c"], ["a", "b", "c"], (), limit=2)


def test_unknown_parameters_are_ignored() -> None:
    assert parse({"utm_source": ["mail"], "run": ["a"]}) == {"run": "a"}
