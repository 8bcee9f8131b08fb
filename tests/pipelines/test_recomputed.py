"""What leaves the store is enough to check it: metrics recomputed from exported files by other people's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from tests.pipelines.support import published_tables, vmoer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables(undisturbed: Path) -> dict[str, pd.DataFrame]:
    return published_tables(undisturbed)


def exported(home: Path, run_id: str, table: str, form: str, folder: Path) -> Path:
    output = folder / f"{run_id}.{table}.{form}"
    done = vmoer(home, "export", run_id, table, "--format", form, "--output", str(output))
    assert done.returncode == 0, done.stderr
    return output


def stored(tables: dict[str, pd.DataFrame], run_id: str, dataset: str, metric: str, **key: str) -> float:
    rows = tables["metrics"]
    rows = rows[(rows["run_id"] == run_id) & (rows["dataset"] == dataset) & (rows["metric"] == metric)]
    for name, value in key.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1, rows
    return float(rows["value"].iloc[0])


def test_ece_nll_and_auroc_follow_from_the_exported_predictions(
    undisturbed: Path, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    for run_id in tables["runs"]["run_id"]:
        rows = pd.read_csv(exported(undisturbed, run_id, "predictions", "csv", tmp_path))
        rows["probs"] = rows["probs"].map(json.loads)
        answer_entropy: dict[str, Any] = {}
        for dataset, mine in rows.groupby("dataset"):
            probs, answers = np.array(mine["probs"].tolist()), mine["answer_index"].to_numpy()
            assert stored(tables, run_id, dataset, "accuracy") == (probs.argmax(1) == answers).mean()
            nll = -np.log(probs[np.arange(len(probs)), answers]).mean()
            assert stored(tables, run_id, dataset, "nll") == pytest.approx(nll, rel=1e-9)
            ece = multiclass_calibration_error(torch.tensor(probs), torch.tensor(answers), num_classes=4, n_bins=15)
            assert stored(tables, run_id, dataset, "ece") == pytest.approx(float(ece), abs=1e-6)
            answer_entropy[dataset] = entropy(probs, axis=1)
        scores = np.concatenate([answer_entropy["test"], answer_entropy["far-ood"]])
        outside = np.repeat([0, 1], [len(answer_entropy["test"]), len(answer_entropy["far-ood"])])
        auroc = stored(tables, run_id, "far-ood", "auroc", score="answer_entropy")
        assert auroc == pytest.approx(roc_auc_score(outside, scores), abs=1e-9)


def test_exported_routing_has_one_row_per_real_token_and_moe_layer(
    undisturbed: Path, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    run_id = tables["runs"]["run_id"].iloc[0]
    rows = pq.read_table(exported(undisturbed, run_id, "routing", "parquet", tmp_path)).to_pandas()
    key = ["dataset", "example_id", "position", "layer"]
    assert not rows.duplicated(key).any()
    tokens = tables["tokens"][tables["tokens"]["run_id"] == run_id]
    layers = tables["models"].set_index("model")["moe_layers"].iloc[0]
    wanted = {(*token, layer) for token in tokens[key[:3]].itertuples(index=False) for layer in layers}
    assert set(rows[key].itertuples(index=False, name=None)) == wanted
