"""What Inspect and Jobs share when they ask a worker for something: typed layers, and how a request stands.

May import :mod:`app.shared`. Start with :mod:`app.worker_requests.progress`.
"""
