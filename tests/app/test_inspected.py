"""What an inspection's result becomes: frames that say what they count, charts that draw them, text that stays text."""

from __future__ import annotations

import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures.render import specification
from app.shared.text import sentence
from app.views.inspect import charts
from app.views.inspect import frames as inspected
from app.views.jobs.form import as_command, as_yaml
from app.worker_requests.layer_input import layers_of
from pipelines.spec.model import parse_spec


def decision(position: int, layer: int, chosen: list[int], **changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "prompt": 0,
        "method": "fcvr",
        "position": position,
        "token_id": position,
        "token": " cat",
        "phase": "prefill" if position < 3 else "decode",
        "layer": layer,
        "expert_index": [0, 1],
        "gate_weight": [0.7, 0.3],
        "base_expert_index": [0, 2],
        "overlap": 1,
        "top_k_margin": 0.1 * (position + 1),
        "routing_entropy": 1.0 + layer,
        "logit_variance": float(position) if layer == 1 else None,
        "logit_variance_mc": None,
        "temperature": None,
        "chosen": chosen,
    }
    return {**base, **changes}


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [decision(position, layer, [10, 6, 4, 0]) for position in range(4) for layer in (0, 1)]
    return pd.DataFrame([*rows, decision(0, 0, [1, 0, 1, 0], method="deterministic", prompt=1)])


ENTRY = {
    "position": 2,
    "taken": "\n",
    "native_entropy": 1.0,
    "predictive_entropy": 1.2,
    "expected_entropy": 1.1,
    "mutual_information": 0.1,
    "candidates": [
        {"token_id": 5, "token": "�", "native": 0.6, "mean": 0.5, "low": 0.4, "high": 0.6},
        {"token_id": 9, "token": "�", "native": 0.1, "mean": 0.2, "low": None, "high": None},
    ],
}
WHY = {
    "tokens": ["a", "b"],
    "values": [0.5, -0.2],
    "spread": [0.1, 0.05],
    "value": 2.0,
    "baseline_value": 1.0,
    "delta": -0.7,
    "incomplete": 0.7,
    "complete": False,
    "baseline_token": "<pad>",
}


def test_derived_quantities_are_shares_and_counts(table: pd.DataFrame) -> None:
    rows = inspected.token_rows(table, 0, "fcvr")
    assert len(rows) == 8
    assert (rows["changed"] == 1).all()
    assert np.allclose(rows["unsettled"], 0.2), "4 of 20 choices fell outside the two experts chosen most often"
    names = inspected.quantities(rows, deterministic=False)
    assert {"logit_variance", "unsettled", "routing_entropy", "changed", "top_k_margin"} == set(names)
    assert "unsettled" not in inspected.quantities(rows, deterministic=True)


def test_the_most_uncertain_token_is_the_strongest(table: pd.DataFrame) -> None:
    rows = inspected.token_rows(table, 0, "fcvr")
    variance = inspected.per_token(rows, "logit_variance")
    assert variance["weight"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert variance["made"].tolist() == [False, False, False, True]
    margin = inspected.per_token(rows, "top_k_margin")
    assert margin["weight"].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0]), "a small margin is the uncertain one"
    assert (inspected.per_token(rows, "changed")["weight"] == 0).all(), "equal tokens are equally pale"


def test_the_fan_counts_samples_per_expert(table: pd.DataFrame) -> None:
    frame = inspected.fan(table.iloc[0], 10)
    assert frame["share"].tolist() == [1.0, 0.6, 0.4, 0.0]
    assert frame["choice"].tolist() == [charts.CHOICES[place] for place in (0, 1, 0, 1)]
    assert frame["gate"].tolist()[:2] == [0.7, 0.3]


def test_tokens_of_the_same_text_stay_apart() -> None:
    frame = inspected.candidates(ENTRY)
    assert frame["label"].nunique() == 2
    assert len(frame) == 4
    assert frame.loc[frame["model"] == charts.MODELS[0], "low"].isna().all()
    blank = {**ENTRY["candidates"][0], "token": "  "}  # type: ignore[index]
    assert inspected.candidates({**ENTRY, "candidates": [blank]})["label"].tolist() == ["␣␣", "␣␣"]


def test_an_incomplete_explanation_says_so_with_its_number() -> None:
    text = inspected.verdict(WHY)
    assert text.startswith("NOT COMPLETE")
    assert "70.0 %" in text
    assert "+0.7" in text
    assert inspected.verdict({**WHY, "complete": True, "delta": 0.0}).startswith("Complete")
    assert "NOT" in inspected.verdict({**WHY, "incomplete": None})


@pytest.mark.parametrize("exact", [True, False])
def test_charts_are_valid_and_draw_what_they_are_given(table: pd.DataFrame, exact: bool) -> None:
    parts = inspected.parts({**WHY, "spread": WHY["spread"] if exact else None})
    for chart, rows in (
        (charts.expert_fan(inspected.fan(table.iloc[0], 10)), 4),
        (charts.next_token(inspected.candidates(ENTRY)), 4),
        (charts.entropies(inspected.steps([ENTRY, {**ENTRY, "taken": None}])), 6),
        (charts.attribution(parts, unit="nats", exact=exact), 2),
    ):
        _, frames = specification(chart, validate=True)
        assert rows in [len(frame) for frame, _ in frames.values()]


def test_bars_that_do_not_add_up_are_paler() -> None:
    spec = charts.attribution(inspected.parts(WHY), unit="nats", exact=False).to_dict(validate=False)
    exact = charts.attribution(inspected.parts(WHY), unit="nats", exact=True).to_dict(validate=False)
    assert spec["layer"][0]["mark"]["opacity"] < exact["layer"][0]["mark"]["opacity"] == 1


@pytest.mark.parametrize(
    ("text", "layers"),
    [("", None), (" ", None), ("all", "all"), ("3", [3]), (" 3, 4 ,", [3, 4]), ("last:2", "last:2"), ("3;4", "3;4")],
)
def test_layers_as_people_type_them(text: str, layers: object) -> None:
    assert layers_of(text) == layers


@settings(max_examples=40, deadline=None)
@given(
    st.text(
        st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc")), min_size=1, max_size=40
    )
)
def test_the_yaml_shown_is_the_spec_sent(name: str) -> None:
    spec = parse_spec({"model": name, "data": {"id": {"name": "worldfacts", "split": "test"}}, "stages": ["trace"]})
    text = as_yaml(spec)
    assert parse_spec(yaml.safe_load(text)) == spec
    command = as_command(text)
    done = subprocess.run(
        ["sh", "-c", command.replace("cat > spec.yaml", "cat").removesuffix("vmoer run spec.yaml")],
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == text, "a shell gives back every character"


def test_messages_become_sentences() -> None:
    assert sentence("no such thing") == "No such thing."
    assert sentence("Ends well.") == "Ends well."
