"""From an ``altair`` chart to the specification that is drawn or saved, fast and safe between sessions.

Altair keeps the transformer of a chart's data in a process-wide variable; changing it around each chart, as is usual,
lets two sessions take each other's data. Here one transformer is set once, and it hands the frames over by context.
Schema validation costs more than the rest of a page together, so it is left to the tests.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import Any, Literal

import altair as alt
import pandas as pd
import pyarrow as pa
from altair.utils import schemapi

_collected: ContextVar[dict[str, tuple[pd.DataFrame, bytes]] | None] = ContextVar("collected", default=None)


def _collect(data: Any, **_: Any) -> Any:
    frames = _collected.get()
    if frames is None or not isinstance(data, pd.DataFrame):
        return alt.to_values(data)
    arrow = _arrow(data)
    # Named by content: the browser redraws a chart whose specification or data changed, and only that one.
    name = hashlib.sha256(arrow).hexdigest()[:16]
    frames[name] = (data, arrow)
    return {"name": name}


alt.data_transformers.register("vmoer", _collect)
alt.data_transformers.enable("vmoer")
alt.theme.enable("none")
schemapi.disable_debug_mode()


def specification(
    chart: alt.TopLevelMixin, *, validate: bool = False
) -> tuple[dict[str, Any], dict[str, tuple[pd.DataFrame, bytes]]]:
    """The Vega-Lite specification of ``chart`` with its data by name, and each name's frame, also as Arrow stream."""
    token = _collected.set({})
    try:
        spec = chart.to_dict(validate=validate)
        return spec, _collected.get() or {}
    finally:
        _collected.reset(token)


def screen_spec(chart: alt.TopLevelMixin, fit: Literal["width", "none"]) -> dict[str, Any]:
    """The specification for the browser, data as Arrow; ``width`` fits the container, ``none`` keeps its own size."""
    spec, frames = specification(chart)
    # Streamlit's theme shifts the first label of every axis inwards and leaves out every other one; right for numbers,
    # wrong for rows and columns that have a middle.
    spec["config"] = {
        **spec.get("config", {}),
        "axisXBand": {"labelFlush": False, "labelBound": 2},
        "axisYBand": {"labelFlush": False, "labelSeparation": 0},
    }
    spec["autosize"] = {"type": "fit-x" if fit == "width" else "pad", "contains": "padding"}
    spec["datasets"] = {name: arrow for name, (_, arrow) in frames.items()}
    return spec


def _arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
