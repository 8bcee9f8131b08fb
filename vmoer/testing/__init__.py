"""Conformance suite: what every routing method and every model family must satisfy, third parties' own included.

Plain functions that raise ``AssertionError`` with a sentence, for any test runner; models have random weights and run
in milliseconds. Start with ``check_router`` and ``check_architecture``.
"""

from vmoer.testing.caches import check_beam_search, check_drafts, check_packing, check_static_cache
from vmoer.testing.compare import ATOL, assert_same, assert_same_decisions, hooks_of, trace_of
from vmoer.testing.families import (
    FAMILY_CHECKS,
    check_architecture,
    check_auxiliary_loss,
    check_failure,
    check_generation,
    check_layers,
    check_router_logits,
    check_rule,
    check_scoring,
    check_two_models,
)
from vmoer.testing.methods import (
    METHOD_CHECKS,
    check_batching,
    check_identity,
    check_isolation,
    check_memory_chunks,
    check_objective,
    check_padding,
    check_restore,
    check_round_trip,
    check_router,
    check_seeds,
    is_stochastic,
)
from vmoer.testing.tiny import LENGTHS, tiny_batch, tiny_model, tiny_row

__all__ = [
    "ATOL",
    "FAMILY_CHECKS",
    "LENGTHS",
    "METHOD_CHECKS",
    "assert_same",
    "assert_same_decisions",
    "check_architecture",
    "check_auxiliary_loss",
    "check_batching",
    "check_beam_search",
    "check_drafts",
    "check_failure",
    "check_generation",
    "check_identity",
    "check_isolation",
    "check_layers",
    "check_memory_chunks",
    "check_objective",
    "check_packing",
    "check_padding",
    "check_restore",
    "check_round_trip",
    "check_router",
    "check_router_logits",
    "check_rule",
    "check_scoring",
    "check_seeds",
    "check_static_cache",
    "check_two_models",
    "hooks_of",
    "is_stochastic",
    "tiny_batch",
    "tiny_model",
    "tiny_row",
    "trace_of",
]
