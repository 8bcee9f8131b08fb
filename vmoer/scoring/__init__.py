"""Score answers: the likelihood of options, letters, routing samples, and how many tokens a forward pass may hold.

May import the handle and what lies below it. Start with `options.py`.
"""

from vmoer.scoring.options import OptionScores, score_letters, score_options

__all__ = ["OptionScores", "score_letters", "score_options"]
