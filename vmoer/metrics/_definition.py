"""What a definition of a shown quantity holds."""

from __future__ import annotations

from dataclasses import dataclass

DIRECTIONS = ("higher", "lower", "none")


@dataclass(frozen=True)
class Definition:
    """One quantity: what it is called, how it is computed, which way is better, and how it misleads."""

    name: str
    title: str
    formula: str
    """LaTeX, without delimiters."""
    direction: str
    """``higher`` or ``lower`` (is better), or ``none``."""
    unit: str
    help: str
    pitfalls: str
    reference: str
    """Where it comes from; empty when it is defined here."""
    group: str
