"""A whole experiment on the real question sets beside the checkout, near and far from home, with the small model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import MCQA
from tests.pipelines.support import SPEC, published_tables, vmoer

pytestmark = [pytest.mark.mcqa, pytest.mark.slow]

SETS = {
    "sciq_test": "in-distribution",
    "arc_easy_test": "near-ood",
    "medmcqa_validation": "far-ood",
    "mmlu_test-professional_law": "far-ood",
}


def test_real_sets_go_through_every_stage(tmp_path: Path) -> None:
    def source(stem: str, **more: object) -> dict[str, object]:
        return {"path": str(MCQA / f"{stem}.parquet"), "limit": 3, **more}

    data = {
        "id": source("sciq_test"),
        "near": [source("arc_easy_test")],
        "far": [
            source("medmcqa_validation"),
            source("mmlu_test", where={"subject": "professional_law"}, **{"as": "mmlu_test-professional_law"}),
        ],
    }
    file = tmp_path / "real.yaml"
    # the model can read 512 tokens; some questions of the law exam have more
    spec = {**SPEC, "name": "real", "methods": ["deterministic"], "data": data, "truncate": "left"}
    file.write_text(yaml.safe_dump(spec))
    done = vmoer(tmp_path / "home", "run", str(file), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    tables = published_tables(tmp_path / "home")
    assert dict(zip(tables["datasets"]["dataset"], tables["datasets"]["role"], strict=True)) == SETS
    answered = tables["predictions"].groupby("dataset").size()
    assert answered.to_dict() == dict.fromkeys(SETS, 3)
    law = tables["examples"][tables["examples"]["dataset"] == "mmlu_test-professional_law"]
    assert (law["n_tokens"] > 50).all(), "the long questions of the law exam, not some other subject"
    assert 400 < law["n_tokens"].max() <= 512
    assert {"auroc"} <= set(tables["metrics"][tables["metrics"]["dataset"] == "arc_easy_test"]["metric"])
