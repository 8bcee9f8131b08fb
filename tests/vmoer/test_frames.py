"""A trace as a table: every value is the trace's, and the steps of a generation are one example."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vmoer
from vmoer.testing import tiny_batch, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_frame_has_a_row_per_token_and_layer_with_the_traces_values(model) -> None:
    with torch.no_grad(), vmoer.bayesianize(model, "fcvr", layers=[1], samples=3), vmoer.record(model) as recorder:
        model(**tiny_batch((5, 3)))
    trace = recorder.trace
    frame = trace.to_frame()
    assert len(frame) == trace.n_rows
    for token in range(len(trace)):
        for place, layer in enumerate(trace.layers):
            row = frame.iloc[token * len(trace.layers) + place]
            assert (row["example"], row["position"], row["token_id"], row["layer"]) == (
                trace.example[token], trace.position[token], trace.token_id[token], layer,
            )  # fmt: skip
            assert row["experts"].tolist() == trace.expert_index[token, place].tolist()
            assert row["gates"].tolist() == trace.gate_weight[token, place].tolist()
            assert row["native_experts"].tolist() == trace.base_expert_index[token, place].tolist()
            assert (row["entropy"], row["margin"]) == (
                trace.routing_entropy[token, place], trace.top_k_margin[token, place],
            )  # fmt: skip
            assert np.isnan(row["variance"]) == (layer != 1), "the posterior is in layer 1 alone"
    assert frame["phase"].unique().tolist() == ["prefill"]
    assert frame.groupby("example")["position"].nunique().tolist() == [5, 3], "padding is not in it"
    table = trace.to_arrow()
    assert table.column_names == list(frame.columns)
    assert table["gates"].to_pylist() == [row.tolist() for row in frame["gates"]]
    plain = table.drop_columns(["experts", "gates", "native_experts"]).to_pandas()
    for name in plain:
        np.testing.assert_array_equal(plain[name].to_numpy(), frame[name].to_numpy())


def test_the_steps_of_a_generation_are_one_example(model) -> None:
    batch = {name: value for name, value in tiny_batch((5, 3)).items() if name != "position_ids"}
    with torch.no_grad(), vmoer.record(model) as recorder:
        model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=-1)
        model(**batch)
    frame = recorder.trace.to_frame()
    first = frame[frame["layer"] == frame["layer"].min()]
    positions = first.groupby("example")["position"].apply(list).tolist()
    assert positions == [list(range(8)), list(range(6)), list(range(5)), list(range(3))]
    assert first.groupby("example")["phase"].apply(lambda one: (one == "decode").sum()).tolist() == [3, 3, 0, 0]


def test_rows_that_a_cache_did_not_have_before_are_new_examples(model) -> None:
    ids = tiny_batch((4,))["input_ids"]
    with torch.no_grad(), vmoer.record(model) as recorder:
        out = model(input_ids=ids, use_cache=True)
        out.past_key_values.batch_repeat_interleave(2)  # two options of one prompt
        model(input_ids=torch.tensor([[3], [4]]), past_key_values=out.past_key_values)
    trace = recorder.trace
    assert trace.example.tolist() == [0] * 4 + [1, 2]
    assert trace.position.tolist() == [0, 1, 2, 3, 4, 4]


def test_nothing_in_a_notebook_is_taken_for_markup(model) -> None:
    class Tokenizer:
        def decode(self, ids: list[int]) -> str:
            return "<script>alert(1)</script>"

    with torch.no_grad(), vmoer.bayesianize(model, "fcvr", samples=2) as handle, vmoer.record(model) as recorder:
        model(**tiny_batch((5, 3)))
        handle.method = "<b>fcvr</b>"
        shown = handle._repr_html_()
        assert "&lt;b&gt;fcvr&lt;/b&gt;" in shown
        assert "<b>fcvr" not in shown
    page = recorder.trace._repr_html_()
    assert "<td>8</td>" in page, "tokens"
    assert page.count("<tr>") == 6 + 1 + 6
    assert set(recorder.trace.to_frame(Tokenizer())["token"]) == {"<script>alert(1)</script>"}
