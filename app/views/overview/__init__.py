"""Overview: every run with its main numbers, the ladder of baselines and controls, and links to the other pages.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
