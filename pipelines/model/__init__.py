"""The model that a process keeps in memory, and what it stands on (adapter, MAP routers).

Knows no spec and no run; may import the library. Start with `resident.py`.
"""
