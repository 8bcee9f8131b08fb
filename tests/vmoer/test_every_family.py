"""Every family of transformers with experts is supported, or refused for a reason that is written down."""

import re
from pathlib import Path

import pytest
import transformers
from transformers import models

from vmoer.architectures import architectures
from vmoer.architectures.lookup import _OTHER_HEADS
from vmoer.architectures.refusals import REFUSED

_EXPERTS = re.compile(r"^class \w*(Experts|MoE|Moe|SparseMoeBlock|SparseMLP)\(", flags=re.M)
_TASKS = re.compile(r"^class (\w+For\w+)\(", flags=re.M)


def _classes() -> list[str]:
    """Return the classes with a task of every modelling file that defines experts."""
    found = []
    for path in sorted(Path(models.__file__).parent.glob("*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if _EXPERTS.search(text):
            found += [name for name in _TASKS.findall(text) if hasattr(transformers, name) and "PreTrained" not in name]
    return found


CLASSES = _classes()


def test_the_scan_finds_the_families_we_know():
    assert set(architectures.names()) <= set(CLASSES)
    assert set(REFUSED) <= set(CLASSES)
    assert not set(REFUSED) & set(architectures.names())


@pytest.mark.parametrize("name", CLASSES)
def test_a_family_with_experts_is_supported_or_refused_with_its_reason(name):
    text = re.sub(r"ForConditionalGeneration$", "ForCausalLM", name)
    decoder = _OTHER_HEADS.sub("ForCausalLM", name)
    assert {name, text, decoder} & set(architectures.names()) or {name, decoder} & set(REFUSED), (
        f"{name} has experts: describe its family in vmoer/architectures, or say in refusals.py why not."
    )
