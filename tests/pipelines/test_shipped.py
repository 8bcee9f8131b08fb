"""The parts that come with the project: found by their name, whole, small, and standing on each other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.shipped import BUNDLED_MODELS, SHIPPED, is_shipped, shipped_part

#: all weights together, so that a checkout stays small
MAX_BYTES = 12 * 2**20
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
