"""One layer of a run in depth, as the pages on layers and experts show it.

May import :mod:`app.shared` and what stands below it. Start with :mod:`app.drilldown.layer`.
"""
