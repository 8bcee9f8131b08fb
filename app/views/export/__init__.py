"""Export: tables, one database, and the report of a comparison.

May import the rooms below ``app/views``, no other page. Start with ``view.py``.
"""
