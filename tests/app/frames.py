"""Small frames in the store's shapes, for tests of charts."""

from __future__ import annotations

import pandas as pd

LAYERS = [0, 1, 2, 5]


def stability() -> pd.DataFrame:
    """Two noise levels over four layers, the last layer susceptible at the higher one."""
    rows = [
        {
            "run_id": "r",
            "mode": "router",
            "gamma": gamma,
            "layer": layer,
            "jaccard": 0.95 - gamma * layer,
            "ci_low": 0.94 - gamma * layer,
            "ci_high": 0.96 - gamma * layer,
            "chance": 0.2,
            "threshold": 0.7,
            "susceptible": 0.95 - gamma * layer < 0.7,
            "n": 500,
            "quantiles": [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        }
        for gamma in (0.01, 0.1)
        for layer in LAYERS
    ]
    return pd.DataFrame(rows)


def leverage() -> pd.DataFrame:
    """Random routing costs accuracy in layer 1 only."""
    rows = [
        {
            "run_id": "r",
            "intervention": "random-routing",
            "scope": "layer",
            "layer": layer,
            "accuracy": 0.6,
            "accuracy_change": -0.1 if layer == 1 else -0.01,
            "accuracy_ci_low": -0.15 if layer == 1 else -0.03,
            "accuracy_ci_high": -0.05 if layer == 1 else 0.02,
            "nll_change": 0.3 if layer == 1 else 0.0,
            "nll_ci_low": 0.1 if layer == 1 else -0.1,
            "nll_ci_high": 0.5 if layer == 1 else 0.1,
            "draws": 3,
            "n": 200,
        }
        for layer in LAYERS
    ]
    return pd.DataFrame(rows)


def load() -> pd.DataFrame:
    """Four experts, the first with half of the load."""
    rows = [
        {"layer": layer, "expert_index": expert, "share": share, "gate_share": share, "n_tokens": 100, "dataset": "id"}
        for layer in LAYERS
        for expert, share in enumerate((0.5, 0.25, 0.25, 0.0))
    ]
    return pd.DataFrame(rows)


def bins() -> pd.DataFrame:
    """Five bins: two empty, one with few examples, one under- and one over-confident."""
    rows = [
        (0, 0.0, 0.2, 0, None, None, None, None),
        (1, 0.2, 0.4, 0, None, None, None, None),
        (2, 0.4, 0.6, 5, 0.5, 0.4, 0.1, 0.8),
        (3, 0.6, 0.8, 60, 0.7, 0.8, 0.7, 0.9),
        (4, 0.8, 1.0, 90, 0.95, 0.75, 0.7, 0.8),
    ]
    return pd.DataFrame(
        rows, columns=["bin", "lower", "upper", "n", "mean_confidence", "accuracy", "ci_low", "ci_high"]
    ).astype({"mean_confidence": float, "accuracy": float, "ci_low": float, "ci_high": float})


def scores() -> pd.DataFrame:
    """In-distribution scores below those of the far set, and a near set in between."""
    rows = [("id", "in-distribution", f"i{n}", 0.1 * n) for n in range(10)]
    rows += [("near", "near-ood", f"n{n}", 0.1 * n + 0.25) for n in range(10)]
    rows += [("far", "far-ood", f"f{n}", 0.1 * n + 5.0) for n in range(10)]
    return pd.DataFrame(rows, columns=["dataset", "role", "example_id", "value"])


def overlap() -> pd.DataFrame:
    """Two runs that differ more in deeper layers."""
    return pd.DataFrame(
        {"layer": LAYERS, "mean_jaccard": [1.0, 0.9, 0.8, 0.5], "share_changed": [0.0, 0.1, 0.2, 0.5], "n": [100] * 4}
    )


def token_rows() -> pd.DataFrame:
    """Three tokens in every layer."""
    rows = [(p, f"tok{p}", layer, p) for p in range(3) for layer in LAYERS]
    return pd.DataFrame(rows, columns=["position", "token", "layer", "changed"])


def choice() -> pd.DataFrame:
    """Three of four experts occur; the native router likes the first one more than what was applied."""
    return pd.DataFrame(
        {
            "expert_index": [0, 1, 3],
            "native_share": [0.6, 0.3, 0.1],
            "share": [0.5, 0.3, 0.2],
            "gate_share": [0.55, 0.35, 0.1],
            "n_tokens": 100,
        }
    )


def company() -> pd.DataFrame:
    """Experts 0 and 2 are together twice as often as by chance, 0 and 1 half as often."""
    rows = [(0, 2, 20, 40, 25, 2.0), (2, 0, 20, 25, 40, 2.0), (0, 1, 5, 40, 25, 0.5), (1, 0, 5, 25, 40, 0.5)]
    frame = pd.DataFrame(rows, columns=["expert_a", "expert_b", "n", "n_a", "n_b", "lift"])
    return frame.assign(n_tokens=100, given_a=frame["n"] / frame["n_a"])


def training() -> pd.DataFrame:
    """Three steps; the validation NLL is lowest at the middle one."""
    rows = [(step, -1, "loss", 2.0 - step / 20) for step in (0, 10, 20)]
    rows += [(step, -1, "validation_nll", value) for step, value in ((0, 1.5), (10, 1.2), (20, 1.3))]
    rows += [(step, layer, "kl", 0.1 * step) for step in (0, 10, 20) for layer in LAYERS]
    return pd.DataFrame(rows, columns=["step", "layer", "quantity", "value"])


def answers() -> pd.DataFrame:
    """Ten answers; the unsure ones are wrong."""
    rows = [(0.1 * n, n < 6) for n in range(10)]
    return pd.DataFrame(rows, columns=["predictive_entropy", "correct"])


def lengths() -> pd.DataFrame:
    """Scores that are nothing but prompt length; the far set is longer, yet both sets share some lengths."""
    rows = [("id", "in-distribution", 10 + n % 10) for n in range(100)]
    rows += [("far", "far-ood", 15 + n % 10) for n in range(100)]
    frame = pd.DataFrame(rows, columns=["dataset", "role", "n_tokens"])
    return frame.assign(value=frame["n_tokens"].astype(float))


def moved() -> pd.DataFrame:
    """The first expert loses load to the second in the last layer."""
    frame = load().rename(columns={"share": "share_a"})
    frame["change"] = [(-0.1, 0.1, 0.0, 0.0)[row.expert_index] * (row.layer == 5) for row in frame.itertuples()]
    return frame.assign(share_b=frame["share_a"] + frame["change"])
