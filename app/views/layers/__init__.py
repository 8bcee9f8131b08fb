"""Layer susceptibility: where routing is unstable under noise, and where it matters.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
