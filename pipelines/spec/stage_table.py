"""The stages of a run, torch-free: a new stage is a module and one line here (and a table for its results)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageEntry:
    """One stage as everybody but its own module needs to know it."""

    name: str
    module: str
    title: str
    #: whether its questions need a right answer; prompts without answers do for the others
    needs_answers: bool = True
    #: whether it is computed from the shards of the other stages, which must be there before
    after_others: bool = False
    #: whether a spec that does not list its stages has it
    default: bool = True
    #: whether a spec may list it; ``train`` follows from what the spec trains
    listed: bool = True


#: in the order in which a run does them
STAGES = (
    StageEntry("train", "pipelines.stages.train", "train: the routers that a spec trains", default=False, listed=False),
    StageEntry("trace", "pipelines.stages.trace", "trace: every routing decision", needs_answers=False),
    StageEntry(
        "susceptibility",
        "pipelines.stages.susceptibility",
        "susceptibility: which layers noise changes",
        needs_answers=False,
    ),
    StageEntry("leverage", "pipelines.stages.leverage", "leverage: where routing matters"),
    StageEntry("evaluate", "pipelines.stages.evaluate", "evaluate: accuracy and calibration"),
    StageEntry("ood", "pipelines.stages.ood", "ood: which score notices other questions", after_others=True),
    StageEntry("efficiency", "pipelines.stages.efficiency", "efficiency: what a run costs", default=False),
)

BY_NAME = {stage.name: stage for stage in STAGES}
#: what a spec may list, and what it has without a list
LISTED = tuple(stage.name for stage in STAGES if stage.listed)
DEFAULT = tuple(stage.name for stage in STAGES if stage.default)
#: what prompts without answers are good for
UNANSWERED = tuple(stage.name for stage in STAGES if not stage.needs_answers)
