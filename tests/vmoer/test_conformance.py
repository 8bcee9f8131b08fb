"""Every method and every family must pass the public conformance suite; and the suite must be able to fail."""

import pytest

from vmoer import testing
from vmoer.architectures import architectures
from vmoer.routers import routers

CHECKS = [
    testing.check_identity,
    testing.check_padding,
    testing.check_batching,
    testing.check_seeds,
    testing.check_isolation,
    testing.check_memory_chunks,
    testing.check_round_trip,
    testing.check_restore,
    testing.check_objective,
]


@pytest.mark.parametrize("family", architectures.names())
def test_family_rule_equals_native_router(family):
    testing.check_architecture(family)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", routers.names())
@pytest.mark.parametrize("family", architectures.names())
def test_method_conforms(check, method, family):
    check(method, family)
