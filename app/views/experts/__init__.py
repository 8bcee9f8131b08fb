"""Experts: which experts carry the load, and for which tokens.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
