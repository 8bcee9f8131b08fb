"""The claims of the paper and the rule that turns a paired difference into a verdict. No numbers of ours are here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Word = Literal["reproduced", "not reproduced", "inverted", "cannot judge"]


@dataclass(frozen=True)
class Claim:
    """One published figure: a relative change of ``metric`` (``score``) by ``size``, e.g. −0.94.

    ``best`` is the best value the metric can have.
    """

    name: str
    text: str
    metric: str
    score: str
    size: float
    best: float = 1.0


#: arXiv 2603.09453, abstract; where the paper leaves a condition open, ours is part of the text
CLAIMS = (
    *(
        Claim(
            f"stability, γ = {gamma}",
            f"routing stability +38 % (mean Jaccard index at γ = {gamma}, each router's input disturbed, variational "
            "layers)",
            "jaccard",
            f"router {gamma}",
            0.38,
        )
        for gamma in ("0.05", "0.01")
    ),
    Claim("calibration", "calibration error −94 % (ECE, in-distribution)", "ece", "", -0.94, best=0.0),
    Claim(
        "ood",
        "OoD AUROC +12 % (logit variance at the final prompt token against the baseline's answer entropy)",
        "auroc",
        "logit_variance vs answer_entropy",
        0.12,
    ),
)
#: the paper's own number of variational layers
FLOPS_LAYERS = 10
FLOPS = Claim(
    "flops",
    f"less than 1 % extra FLOPs (multiply–accumulates, in-router, {FLOPS_LAYERS} layers)",
    "macs_per_token",
    "",
    0.01,
)
#: half the width of a 95 % interval, times this, is the effect that as many questions show in four of five repeats
_POWER = (1.96 + 0.84) / 1.96


@dataclass(frozen=True)
class Change:
    """A measured paired change relative to the baseline's value; the interval treats that value as fixed.

    ``most`` is the largest change towards the metric's best value that there can be: an interval is cut to it.
    """

    relative: float
    low: float | None
    high: float | None
    n: int
    most: float

    @property
    def shown(self) -> float | None:
        """The smallest change that this many questions would show in four of five repeats (two-sided, 5 %)."""
        return None if self.low is None or self.high is None else _POWER * (self.high - self.low) / 2


def relative_change(
    claim: Claim, difference: float, low: float | None, high: float | None, baseline: float, n: int
) -> Change | None:
    """A difference and its interval as shares of a positive baseline value; ``None`` without one."""
    if not baseline > 0:
        return None
    most = claim.best / baseline - 1.0
    least, top = (-1.0, most) if claim.size > 0 else (most, float("inf"))
    low, high = (None if end is None else min(max(end / baseline, least), top) for end in (low, high))
    return Change(difference / baseline, low, high, n, most)


def judge(change: Change, claim: Claim, *, learned: bool | None = None, at_chance: bool = False) -> tuple[Word, str]:
    """The verdict on a claim, and why where there can be none.

    ``reproduced``: the 95 % interval leaves out zero on the claimed side and reaches the claimed size. ``inverted``: it
    leaves out zero on the other side. ``not reproduced``: it does not reach the claimed size. ``cannot judge``: the
    posterior has not left its prior (``learned`` is false), no method could do what is claimed from this baseline, or
    the interval holds both zero and the claimed size.
    """
    if learned is False:
        return "cannot judge", "the posterior has not left its prior"
    if at_chance:
        return "cannot judge", "the baseline's own error is no more than chance shows of a calibrated model"
    if abs(change.most) < abs(claim.size):
        return "cannot judge", f"from this baseline no method can do better than {100 * change.most:+.0f} %"
    if change.low is None or change.high is None or change.shown is None:
        return "cannot judge", "no interval"
    low, high = (change.low, change.high) if claim.size > 0 else (-change.high, -change.low)
    if high < 0:
        return "inverted", ""
    if high < abs(claim.size):
        return "not reproduced", ""
    if low > 0:
        return "reproduced", ""
    return "cannot judge", f"n = {change.n:,} would show a change of {100 * change.shown:.0f} % or more"


@dataclass(frozen=True)
class Matched:
    """A score's AUROC and the baseline's on ``n`` questions of equal prompt length, half of them per set."""

    value: float
    before: float
    n: int


def confirmed(word: Word, matched: Matched | None) -> Word:
    """An OoD verdict after the control for length: *reproduced* only if the score is ahead on equally long prompts too.

    A longer prompt moves every routing signal, and question sets differ in length: a ranking that length gives alone
    says nothing about routing. Where too few prompts are equally long to tell, nobody can judge.
    """
    if word == "reproduced" and matched is None:
        return "cannot judge"
    if word == "reproduced" and matched is not None and matched.value <= matched.before:
        return "not reproduced"
    return word


def flops_verdict(share: float) -> Word:
    """A count has no interval: reproduced when the extra share is below the claimed bound."""
    return "reproduced" if share < FLOPS.size else "not reproduced"


def overall(words: Iterable[Word]) -> Word | None:
    """One word over all comparisons that can be judged: the common one, else ``not reproduced``.

    ``None`` when nothing was computed.
    """
    found = set(words)
    judged = found - {"cannot judge"}
    if not judged:
        return "cannot judge" if found else None
    return judged.pop() if len(judged) == 1 else "not reproduced"
