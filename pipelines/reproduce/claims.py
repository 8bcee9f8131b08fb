"""The claims of the paper and the rule that turns a paired difference into a verdict. No numbers of ours are here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Word = Literal["reproduced", "not reproduced", "inverted"]


@dataclass(frozen=True)
class Claim:
    """One published figure: a relative change of ``metric`` (``score``) by ``size``, e.g. −0.94."""

    name: str
    text: str
    metric: str
    score: str
    size: float


#: arXiv 2603.09453, abstract; where the paper leaves a condition open, ours is part of the text
CLAIMS = (
    Claim(
        "stability",
        "routing stability +38 % (mean Jaccard index at γ = 0.01, each router's input disturbed, variational layers)",
        "jaccard",
        "router 0.01",
        0.38,
    ),
    Claim("calibration", "calibration error −94 % (ECE, in-distribution)", "ece", "", -0.94),
    Claim(
        "ood",
        "OoD AUROC +12 % (logit variance at the final prompt token against the baseline's answer entropy)",
        "auroc",
        "logit_variance vs answer_entropy",
        0.12,
    ),
)
FLOPS = Claim("flops", "less than 1 % extra FLOPs (multiply–accumulates, in-router)", "macs_per_token", "", 0.01)


@dataclass(frozen=True)
class Change:
    """A measured paired change relative to the baseline's value; the interval treats that value as fixed."""

    relative: float
    low: float | None
    high: float | None
    n: int


def relative_change(difference: float, low: float | None, high: float | None, baseline: float, n: int) -> Change | None:
    """A difference and its interval as shares of a positive baseline value; ``None`` without one."""
    if not baseline > 0:
        return None
    low, high = (None if end is None else end / baseline for end in (low, high))
    return Change(difference / baseline, low, high, n)


def verdict(change: Change, size: float) -> Word:
    """``reproduced``: the 95 % interval leaves out zero on the claimed side and reaches the claimed size. ``inverted``:
    it leaves out zero on the other side. Anything else, an absent interval too, is ``not reproduced``.
    """
    if change.low is None or change.high is None:
        return "not reproduced"
    low, high = (change.low, change.high) if size > 0 else (-change.high, -change.low)
    if low > 0 and high >= abs(size):
        return "reproduced"
    return "inverted" if high < 0 else "not reproduced"


@dataclass(frozen=True)
class Matched:
    """A score's AUROC and the baseline's on ``n`` questions of equal prompt length, half of them per set."""

    value: float
    before: float
    n: int


def confirmed(word: Word, matched: Matched | None) -> Word:
    """An OoD verdict after the control for length: *reproduced* only if the score is ahead on equally long prompts too.

    A longer prompt moves every routing signal, and question sets differ in length: a ranking that length gives alone
    says nothing about routing. Where too few prompts are equally long to tell, nothing is reproduced either.
    """
    if word == "reproduced" and (matched is None or matched.value <= matched.before):
        return "not reproduced"
    return word


def flops_verdict(share: float) -> Word:
    """A count has no interval: reproduced when the extra share is below the claimed bound."""
    return "reproduced" if share < FLOPS.size else "not reproduced"


def overall(words: Iterable[Word]) -> Word | None:
    """One word over all sets: the common one, else ``not reproduced``; ``None`` when nothing was computed."""
    found = set(words)
    if not found:
        return None
    return found.pop() if len(found) == 1 else "not reproduced"
