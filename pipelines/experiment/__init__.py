"""The parts of one experiment: run manifests, batches of work, and shards in an object store.

May import stages and what lies below. Start with `batches.py`.
"""
