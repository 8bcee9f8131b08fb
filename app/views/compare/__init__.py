"""Compare: two runs on the same questions, from the whole data set down to one token.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
