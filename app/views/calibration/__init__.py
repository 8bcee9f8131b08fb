"""Calibration: whether the confidence of an answer can be believed, and what a run is better than.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
