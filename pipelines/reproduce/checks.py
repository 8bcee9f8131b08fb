"""Two things to look at before a difference is believed: whether training moved anything, and how far the same weights,
answering again, differ by arithmetic alone.
"""

from __future__ import annotations

from pipelines.reproduce.cells import Section, cell, run_label
from pipelines.reproduce.results import MAP_PREFIX, Results, base_name

REPEATED = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}


def training_section(results: Results) -> Section:
    """The step each training of the main experiment kept, and each other training of MAP routers."""
    rows = []
    other = results.runs["part"].str.startswith(MAP_PREFIX)
    runs = results.runs[(results.runs["part"] == "main") | (other & (results.runs["control"] == "map-routers"))]
    for _, run in runs[runs["estimator"].isin(["none", "in-router"])].sort_values(["questions", "part"]).iterrows():
        kept = results.kept_step(run["run_id"])
        if kept is None:
            continue
        trained = run["method"]
        if not run["bayesian"]:
            trained = "MAP routers" if base_name(run).startswith("MAP") else "adapter"
        if run["part"] != "main":
            trained += f", {run['part']}"
        rows.append([run["questions"], trained, str(kept[0]), str(kept[1])])
    return Section(
        "Training: which step was kept",
        "Of the steps at which the validation questions were answered, the one with the lowest NLL. Step 0 is the "
        "start: no step was better, and the row repeats what it stands on.",
        ("questions", "trained", "step kept", "steps taken"),
        rows,
    )


def repeats_section(results: Results) -> Section:
    """Deterministic rows of several experiments that answered the same questions with the same weights."""
    found: dict[tuple[str, ...], list[list[float]]] = {}
    for _, run in results.runs[~results.runs["bayesian"]].iterrows():
        inside = results.datasets(run, "in-distribution")[0]
        stored = [results.value(run["run_id"], inside, metric) for metric in REPEATED]
        values = [row for row in stored if row is not None]
        if len(values) == len(REPEATED):
            base = run["card"].get("base", {})
            weights = f"{base.get('adapter_sha256')} {base.get('routers_sha256')}"
            n = str(int(values[0]["n"]))
            key = (run["questions"], run_label(run), n, weights, run["scoring"], run["dtype"])
            found.setdefault(key, []).append([float(row["value"]) for row in values])
    rows = [
        [
            *key[:2],
            str(len(values)),
            *(f"{cell(min(one))} to {cell(max(one))}" for one in zip(*values, strict=True)),
            key[2],
        ]
        for key, values in found.items()
        if len(values) > 1
    ]
    return Section(
        "Repeats: the same weights, answering again",
        "Each experiment answers with its deterministic rows anew. Where a range is wider than a point, arithmetic did "
        "it: in bfloat16 the numbers depend on how many questions share a pass, and that on the memory that was free. "
        "A difference between rows of two experiments that is smaller says nothing; the paired rows of one experiment "
        "are computed apart as well and share the doubt.",
        ("questions", "run", "answered", *REPEATED.values(), "n"),
        rows,
    )
