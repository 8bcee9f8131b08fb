"""The parts that come with the project: found by their name, whole, small, and standing on each other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.preparation.setup import prepare_experiment
from pipelines.session.inputs import Inputs
from pipelines.session.session import Session
from pipelines.spec.model import parse_spec
from pipelines.spec.runs import expand
from pipelines.spec.shipped import BUNDLED_MODELS, SHIPPED, is_shipped, shipped_part
from tests.pipelines.support import settings

#: all weights together, so that a checkout stays small
MAX_BYTES = 12_000_000
SETS = sorted(path.parent.parent for path in SHIPPED.glob("*/*/adapter/adapter.json"))


def test_sources_name_what_is_shipped() -> None:
    assert shipped_part("worldfacts-moe", "shipped", "fcvr") == SHIPPED / "worldfacts-moe" / "fcvr"
    assert shipped_part("worldfacts-moe", "shipped", "adapter") is None
    assert shipped_part("worldfacts-moe", "shipped:no-such-set", "adapter") is None
    assert shipped_part("somebody/else", "shipped", "fcvr") is None
    assert [is_shipped(text) for text in ("shipped", "shipped:sciq", "shipped:", "shipped:../x", "folder")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_weights_are_few() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= MAX_BYTES
    assert SETS


@pytest.mark.parametrize("folder", SETS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_parts_of_a_set_stand_on_each_other(folder: Path) -> None:
    model, name = folder.parent.name, folder.name
    assert model in BUNDLED_MODELS
    adapter = shipped_part(model, f"shipped:{name}", "adapter")
    assert adapter is not None
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert json.loads((adapter / "adapter.json").read_text())["weights_sha256"] == digest
    cards = [*folder.glob("*/routers.json"), folder / "map" / "map.json"]
    assert len(cards) > 1
    for card in cards:
        assert json.loads(card.read_text())["adapter_sha256"] == digest
        assert list(card.parent.glob("*.safetensors"))
    assert (SHIPPED / "specs" / f"{model}-{name}.yaml").is_file()


def test_a_spec_stands_on_shipped_parts(tmp_path: Path) -> None:
    source = "shipped:worldfacts"
    spec = parse_spec(
        {
            "model": "worldfacts-moe",
            "methods": ["fcvr"],
            "controls": [],
            "adapter": source,
            "map_routers": source,
            "routers": source,
            "data": {"id": {"name": "worldfacts", "split": "test", "limit": 2}},
        }
    )
    session = Session(Inputs(spec, [], settings(tmp_path)))
    resident = session.resident
    prepare_experiment(session)
    try:
        identities = []
        for run in expand(spec):
            applied = session.apply(run)
            identities.append((run.control, run.method, resident.base.identity()["adapter_sha256"] is not None))
        assert identities == [
            ("none", "deterministic", True),
            ("unadapted", "deterministic", False),
            ("map-routers", "deterministic", True),
            ("none", "fcvr", True),
        ]
        assert applied.handle is not None
        assert applied.handle.layers == [0, 1]
    finally:
        resident.put(None, None)
