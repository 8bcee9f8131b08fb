"""Train adapters, native routers and Bayesian routers, resumable to the bit.

May import scoring and what lies below it. Start with `loop.py`; its options are in `config.py`.
"""
