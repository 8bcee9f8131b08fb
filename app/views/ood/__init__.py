"""OoD detection: whether a score notices questions from elsewhere; never flipped.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
