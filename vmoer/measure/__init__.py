"""Measure a model: susceptibility, leverage, noise floor, attribution, noise controls and cost.

Every measurement is a function of a model or a handle; it may import scoring and what lies below it.
Start with `susceptibility.py`.
"""
