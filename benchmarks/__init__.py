"""Benchmarks run from a checkout; figures over time are in LOG.md."""
