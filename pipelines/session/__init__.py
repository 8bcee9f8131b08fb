"""A spec, its question sets and a loaded model together: what a stage is given.

Never trains; may import models, data and the spec. Start with `session.py`.
"""
