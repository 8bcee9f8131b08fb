"""docs/extending.md is executed as it stands; entry points make a third party's names known."""

import re
import runpy
from importlib.metadata import EntryPoint

import pytest

from vmoer import registry
from vmoer.architectures import architectures
from vmoer.measure.model_report import report
from vmoer.routers import routers
from vmoer.testing.support import checkpoints


@pytest.fixture
def clean(monkeypatch):
    """What the page registers is forgotten afterwards."""
    for registered in (routers, architectures):
        monkeypatch.setattr(registered, "_loaded", dict(registered._loaded))
        monkeypatch.setattr(registered, "_paths", dict(registered._paths))


def test_the_worked_example_runs(repository, clean, tmp_path):
    text = (repository / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert len(blocks) == 3
    page = tmp_path / "extending.py"
    page.write_text("\n".join(blocks), encoding="utf-8")
    runpy.run_path(str(page))
    assert "entropy-noise" in routers.names()
    assert "Dots1ForCausalLM" in architectures.names()
    methods = {row["method"]: row for row in report(str(checkpoints()["olmoe-1b-7b"]))["methods"]}
    assert methods["entropy-noise"]["supported"]
    assert methods["entropy-noise"]["extra_percent"] is None


def test_entry_points_add_names_and_never_replace_ours(monkeypatch):
    found = [
        EntryPoint("theirs", "vmoer.routers.deterministic:DeterministicRouter", "vmoer.routers"),
        EntryPoint("fcvr", "somebody.else:Router", "vmoer.routers"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "vmoer.routers" else [])
    fresh = registry.Registry("method", "vmoer.routers", {"fcvr": "vmoer.routers.fcvr:FullCovarianceRouter"})
    assert fresh.names() == ["fcvr", "theirs"]
    assert fresh.get("theirs").__name__ == "DeterministicRouter"
    assert fresh.get("fcvr").__name__ == "FullCovarianceRouter"


def test_a_router_that_still_defines_fit_spread_is_refused_by_name(clean):
    class Old(routers.get("mfvr")):
        @classmethod
        def fit_spread(cls, handle, examples, config):
            return []

    with pytest.raises(ValueError, match=r"'old' defines fit_spread.*define finish_training\(self, curvature\)"):
        routers.register("old")(Old)
    assert "old" not in routers.names()
    Renamed = type("Renamed", (routers.get("mfvr"),), {"follows_path": True})
    with pytest.raises(ValueError, match=r"'old' defines follows_path.*define keeps_last_weights instead"):
        routers.register("old")(Renamed)


def test_a_name_of_ours_is_taken_before_its_class_is_loaded():
    fresh = registry.Registry("method", "vmoer.routers", {"fcvr": "vmoer.routers.fcvr:FullCovarianceRouter"})
    with pytest.raises(ValueError, match=r"method 'fcvr' is already registered by vmoer\.routers\.fcvr"):
        fresh.register("fcvr")(routers.get("mfvr"))
    assert fresh.get("fcvr").__name__ == "FullCovarianceRouter"
