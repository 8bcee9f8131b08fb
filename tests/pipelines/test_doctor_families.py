"""``vmoer doctor`` over a configuration of every family of transformers with experts: a verdict, never a traceback."""

import json
import re
from pathlib import Path

import pytest
from transformers import models
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

from pipelines.cli.app import run
from vmoer.architectures import architectures
from vmoer.errors import VmoerError
from vmoer.measure.model_report import report
from vmoer.models.catalog import load_model

_EXPERTS = re.compile(r"^class \w*(Experts|MoE|Moe|SparseMoeBlock|SparseMLP)\(", flags=re.M)


def _model_types() -> list[str]:
    folders = {
        path.parent.name
        for path in Path(models.__file__).parent.glob("*/modeling_*.py")
        if _EXPERTS.search(path.read_text(encoding="utf-8"))
    }
    return [name for name in CONFIG_MAPPING_NAMES if model_type_to_module_name(name) in folders]


def _folder(path: Path, values: dict[str, object]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(values))
    return path


def test_every_family_gets_a_verdict(tmp_path):
    """With the defaults of its configuration class, each is described or refused in a sentence."""
    described, refused = set(), {}
    for name in _model_types():
        folder = _folder(tmp_path / name, {"model_type": name})
        try:
            described.add(report(str(folder))["family"])
        except VmoerError as error:
            refused[name] = str(error)
    assert described <= set(architectures.names())
    assert len(described) > 35
    assert all("\n" not in sentence and sentence for sentence in refused.values())
    called_dense = {name for name, sentence in refused.items() if "every block is dense" in sentence}
    assert called_dense == {"gemma4", "gemma4_text"}  # whose defaults have no experts
    assert "DogeForCausalLM is dense" in refused["doge"]  # as are Doge's


BROKEN = {
    "an unknown activation": ({"model_type": "qwen3_moe", "hidden_act": "silu_glu"}, "cannot build: KeyError"),
    "a missing field": ({"model_type": "lfm2_moe"}, "cannot build: TypeError"),
    "no number of experts": (
        {"model_type": "deepseek_v2", "num_experts_per_tok": None},
        "gives each token None of its",
    ),
    "a size below nought": ({"model_type": "olmoe", "hidden_size": -16}, "cannot build"),
    "text for a number": ({"model_type": "mixtral", "num_local_experts": "many"}, "no valid configuration of mixtral"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_configuration_that_cannot_be_built_is_refused_in_one_sentence(fault, tmp_path, capsys):
    values, sentence = BROKEN[fault]
    folder = _folder(tmp_path / "model", values)
    assert run(["doctor", str(folder)]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert sentence in shown[0]
    with pytest.raises(VmoerError):
        load_model(folder)
