"""Ratios that a busy machine does not decide: variants run in turn, each round gives one ratio per variant."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ratio:
    """Time of a variant ÷ time of the baseline of the same round: median and the middle 80 % over rounds."""

    median: float
    low: float
    high: float
    seconds: float

    def row(self, name: str, goal: float, detail: str) -> dict[str, Any]:
        """One line of a benchmark report."""
        spread = f"{self.low:.2f}–{self.high:.2f} in 80 % of rounds, {1e3 * self.seconds:.0f} ms; {detail}"
        value = round(self.median, 3)
        return {"name": name, "value": value, "goal": goal, "met": value <= goal, "detail": spread}


def ratios(
    baseline: Callable[[], Any], variants: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, Ratio]:
    """Ratio of each variant to ``baseline``, which runs before and after all of them in every round."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    quotients: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for number in range(rounds + warm_up):
            before = _seconds(baseline)
            measured = {name: _seconds(work) for name, work in variants.items()}
            plain = (before + _seconds(baseline)) / 2
            if number >= warm_up:
                for name, seconds in measured.items():
                    times[name].append(seconds)
                    quotients[name].append(seconds / plain)
    return {
        name: Ratio(
            statistics.median(values), _quantile(values, 0.1), _quantile(values, 0.9), statistics.median(times[name])
        )
        for name, values in quotients.items()
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text, one per line."""
    lines = []
    for row in rows:
        verdict = "met" if row["met"] else "MISSED"
        lines.append(f"{row['name']:44} {row['value']:8.3f}  goal ≤ {row['goal']:<5} {verdict:6}  {row['detail']}")
    return "\n".join(lines)


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _seconds(work: Callable[[], Any]) -> float:
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - start


def _quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]
