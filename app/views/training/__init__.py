"""Training: how the routers learned, and when they stopped.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
