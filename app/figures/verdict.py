"""The one rule for better, worse and unclear: what the interval of a paired difference says."""

from __future__ import annotations

import numpy as np

BETTER, WORSE, UNCLEAR = "second run better", "second run worse", "no clear difference"
SIGNS = {BETTER: "▲", WORSE: "▼", UNCLEAR: "●"}


def verdict(low: float | None, high: float | None, direction: str) -> str:
    """Return what a 95 % interval of second − first says; ``direction`` is ``higher``, ``lower`` or ``none``.

    An interval that is missing or holds zero settles nothing.
    """
    if low is None or high is None or np.isnan(low) or np.isnan(high) or low <= 0 <= high or direction == "none":
        return UNCLEAR
    return BETTER if (low > 0) == (direction == "higher") else WORSE
