"""Compute one live inspection of a prompt.

May import sessions and what lies below. Start with `compute.py`.
"""
