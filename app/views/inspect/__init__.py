"""Inspect: a prompt of the reader's own, routed by a worker and shown token by token.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
