"""Two runs on the same questions: what became of the answers, and which differences are clear.

May import :mod:`app.shared` and what stands below it. Start with :mod:`app.comparison.paired_answers`.
"""
