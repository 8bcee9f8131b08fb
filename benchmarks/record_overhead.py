"""Forward pass with every routing decision recorded ÷ the same forward pass without recording."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.models import batch, build
from benchmarks.timing import ratios, report
from vmoer import bayesianize, record

GOAL = 1.5


def run(quick: bool) -> list[dict[str, Any]]:
    """Rows ``name, value, goal, met, detail``; ``quick`` leaves the larger model out."""
    rows = []
    rows += _measure("small", rounds=9 if quick else 25)
    if not quick:
        rows += _measure("granite-1b-shape", rounds=9)
    return rows


def _measure(size: str, rounds: int) -> list[dict[str, Any]]:
    model, description = build(size)
    inputs = batch(model, rows=4, length=64)

    def plain() -> None:
        model(**inputs)

    def recorded() -> None:
        with record(model) as recorder:
            model(**inputs)
        assert len(recorder.trace) == inputs["input_ids"].numel()

    rows = []
    detail = f"all layers, trace read as NumPy, 4 × 64 tokens; {description}"
    deterministic = ratios(plain, {"recorded": recorded}, rounds)["recorded"]
    rows.append(deterministic.row(f"record/{size}/deterministic", GOAL, detail))
    with bayesianize(model, "fcvr", samples=35):
        under_fcvr = ratios(plain, {"recorded": recorded}, rounds)["recorded"]
    rows.append(under_fcvr.row(f"record/{size}/fcvr", GOAL, f"both under fcvr, S=35; {detail}"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small model only, fewer rounds")
    print(report(run(parser.parse_args().quick)))
